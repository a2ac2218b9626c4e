from functools import partial

import numpy as np
import pytest
import torch
from helpers import tiny
from lightning import LightningModule
from torch import nn
from torch.nn import functional as F

from lightning_fusion import Expert, ExpertOutputs, ExpertPool, FoEFuserModule, OutputsDataModule, collect
from lightning_fusion.errors import InputError
from lightning_fusion.foe.fusers import MLPFuser, RepresentationFuser
from lightning_fusion.foe.targets import best_expert_target, draw_expert_target

SMALL = partial(MLPFuser, hidden=(6,))


def fuser(outputs: ExpertOutputs | None = None, **arguments) -> FoEFuserModule:
    """A small fuser for stored outputs."""
    torch.manual_seed(0)
    facts = (outputs or tiny.outputs()).fuser_arguments()
    return FoEFuserModule(**({"network": SMALL} | facts | arguments))


def fit(module: FoEFuserModule, outputs: ExpertOutputs | None = None, epochs: int = 2, **arguments):
    data = OutputsDataModule(outputs or tiny.outputs(), batch_size=8)
    trainer = tiny.trainer(epochs, **arguments)
    trainer.fit(module, datamodule=data)
    return trainer


def batches(outputs: ExpertOutputs, epochs: int) -> list:
    found = []
    for epoch in range(epochs):
        loader = OutputsDataModule(outputs, batch_size=8).train_dataloader()
        loader.sampler.set_epoch(epoch)
        found += list(loader)
    return found


def close(ours: nn.Module, theirs: nn.Module, **how) -> None:
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, **({"rtol": 1e-6, "atol": 1e-7} | how))


class TestTrainingStep:
    @pytest.mark.parametrize(
        "arguments",
        [{}, {"target": "expert"}, {"target": "expert", "expert_target": "best"}],
        ids=["label", "random", "best"],
    )
    @pytest.mark.parametrize("optimizer", [None, partial(torch.optim.SGD, lr=0.5)], ids=["AdamW", "SGD"])
    def test_equals_hand_written_steps(self, arguments, optimizer):
        outputs = tiny.outputs()
        module, network = fuser(optimizer=optimizer, **arguments), fuser(**arguments).network
        assert network(torch.zeros(1, 4)).shape == (1, 3 if not arguments else 2)
        trainer = fit(module, outputs)
        seen = batches(outputs, 2)
        adam = partial(torch.optim.AdamW, lr=1e-3, weight_decay=1e-4)
        optimizer = (optimizer or adam)(network.parameters())
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=len(seen))
        spread, val = outputs.scattered("val"), outputs["val"]
        right = torch.from_numpy(spread.argmax(2) == val.target[:, None])
        accuracy = torch.stack([right[val.domain[:, d]].float().mean(0) for d in range(2)])
        for batch in seen:
            expert_targets = torch.stack(
                [batch.target != 2, batch.target != 0], 1
            )  # cats are a's, owls b's, dogs both's
            goal = {
                "random": draw_expert_target(expert_targets, batch.index),
                "best": best_expert_target(expert_targets, batch.domain, accuracy),
                None: batch.target,
            }[arguments.get("expert_target", "random" if arguments else None)]
            optimizer.zero_grad()
            F.cross_entropy(network(batch.outputs), goal).backward()
            optimizer.step()
            schedule.step()
        assert trainer.global_step == len(seen) == 6
        if arguments.get("expert_target") == "best":
            torch.testing.assert_close(module.goal.accuracy, accuracy)
        close(module.network, network)

    def test_rows_without_owner_are_left_out_of_the_mean(self):
        outputs = tiny.outputs()
        outputs["train"].domain[::2] = False
        sgd = partial(torch.optim.SGD, lr=0.5)  # AdamW's first step would not depend on the scale of the loss
        module, network = fuser(target="expert", optimizer=sgd), fuser(target="expert").network
        fit(module, outputs, epochs=1, max_steps=1)
        batch = batches(outputs, 1)[0]
        expert_targets = batch.domain.clone()
        goal = draw_expert_target(expert_targets, batch.index)
        kept = goal >= 0
        assert 0 < kept.sum() < 8
        optimizer = sgd(network.parameters())
        F.cross_entropy(network(batch.outputs[kept]), goal[kept]).backward()
        optimizer.step()
        close(module.network, network)

    def test_a_batch_without_any_owner_changes_nothing_but_decay(self):
        outputs = tiny.outputs()
        outputs["train"].domain[:] = False
        module = fuser(target="expert", optimizer=partial(torch.optim.SGD, lr=1.0))
        before = {name: value.clone() for name, value in module.network.state_dict().items()}
        fit(module, outputs, epochs=1)
        assert all(torch.equal(before[name], value) for name, value in module.network.state_dict().items())

    def test_optimizer_and_schedule_are_the_users(self):
        module = fuser(
            optimizer=partial(torch.optim.SGD, lr=0.5),
            scheduler=partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5),
            scheduler_interval="step",
        )
        trainer = fit(module, epochs=1)
        assert isinstance(trainer.optimizers[0], torch.optim.SGD)
        assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.5**4)

    def test_bfloat16_is_finite_and_close(self):
        full, half = fuser(), fuser()
        fit(full)
        fit(half, precision="bf16-mixed")
        close(half.network, full.network, atol=0.02, rtol=0)
        assert not tiny.same(full.network, half.network)

    @pytest.mark.slow
    def test_more_training_fits_the_training_rows(self):
        outputs = tiny.outputs()
        module = fuser(optimizer=partial(torch.optim.Adam, lr=0.05))
        fit(module, outputs, epochs=60)
        fused = module.fuse(torch.from_numpy(outputs.concatenated("train"))).argmax(1).numpy()
        single = (outputs.scattered("train").argmax(2) == outputs["train"].target[:, None]).mean(0).max()
        assert (fused == outputs["train"].target).mean() > single


class TestAnswers:
    def test_label_fuser_gives_its_networks_logits(self):
        module, given = fuser(), torch.from_numpy(tiny.outputs().concatenated("test"))
        assert torch.equal(module.fuse(given), module.network(given))

    def test_the_average_of_experts_has_its_share_of_the_answer(self):
        outputs = tiny.outputs()
        module, alone = fuser(outputs, mean_weight=0.25), fuser(outputs)
        given = torch.from_numpy(outputs.concatenated("test"))
        average = torch.from_numpy(outputs.scattered("test")).mean(1)
        expected = 0.75 * alone.fuse(given).softmax(1) + 0.25 * average
        torch.testing.assert_close(module.fuse(given).softmax(1), expected)
        fit(module, outputs), fit(alone, outputs)
        close(module.network, alone.network)  # trained as if alone
        assert module.hparams.mean_weight == 0.25

    @pytest.mark.parametrize("arguments", [{"mean_weight": 1.0}, {"mean_weight": 0.5, "target": "expert"}])
    def test_shares_that_make_no_sense(self, arguments):
        with pytest.raises(InputError, match="mean_weight is"):
            fuser(**arguments)

    def test_expert_fuser_gives_the_chosen_experts_prediction(self):
        outputs = tiny.outputs()
        module, given = fuser(target="expert"), torch.from_numpy(outputs.concatenated("test"))
        chosen = module.network(given).argmax(1).tolist()
        for row, expert in enumerate(chosen):
            expected = outputs.scattered("test")[row, expert]
            np.testing.assert_allclose(module.fuse(given)[row].exp().detach(), expected, atol=1e-6)

    @pytest.mark.parametrize("target", ["label", "expert"])
    def test_metrics_are_those_of_all_rows(self, target):
        outputs = tiny.outputs()
        module, data = fuser(target=target), OutputsDataModule(outputs, batch_size=4)
        given, truth = torch.from_numpy(outputs.concatenated("val")), torch.from_numpy(outputs["val"].target)
        (found,) = tiny.trainer().validate(module, datamodule=data, verbose=False)
        logits = module.network(given)
        assert found["val_accuracy"] == pytest.approx((module.fuse(given).argmax(1) == truth).float().mean().item())
        singles = (outputs.scattered("val").argmax(2) == outputs["val"].target[:, None]).mean(0)
        assert found["val_best_expert_accuracy"] == pytest.approx(singles.max())
        if target == "label":
            assert found["val_loss"] == pytest.approx(F.cross_entropy(logits, truth).item(), rel=1e-5)
        else:
            chosen = logits.argmax(1).numpy()
            owned = outputs.expert_targets("val")[np.arange(9), chosen]
            assert found["val_choice_accuracy"] == pytest.approx(owned.mean())
        (tested,) = tiny.trainer().test(module, datamodule=data, verbose=False)
        assert {"test_loss", "test_accuracy"} <= set(tested)

    @pytest.mark.parametrize("target", ["label", "expert"])
    def test_predictions_carry_their_index(self, target):
        outputs = tiny.outputs()
        module = fuser(target=target)
        parts = tiny.trainer().predict(module, datamodule=OutputsDataModule(outputs, batch_size=4))
        assert torch.cat([part["index"] for part in parts]).tolist() == list(range(11))
        given = torch.from_numpy(outputs.concatenated("test"))
        expected = module.fuse(given).softmax(1)
        torch.testing.assert_close(torch.cat([part["probabilities"] for part in parts]), expected, atol=1e-6, rtol=1e-5)
        if target == "expert":
            chosen = torch.cat([part["expert"] for part in parts])
            assert torch.equal(chosen, module.network(given).argmax(1))

    def test_a_failed_fuser_says_so(self):
        with pytest.warns(UserWarning, match="below the best single expert"):
            fit(fuser(optimizer=partial(torch.optim.SGD, lr=0.0)), epochs=1)


class TestFrozenExperts:
    def fitted(self, **arguments) -> tuple[FoEFuserModule, dict]:
        module = FoEFuserModule(tiny.experts(), domains=tiny.DOMAINS, network=SMALL, **arguments)
        before = {name: value.clone() for name, value in module.pool.state_dict().items()}
        assert any("running_mean" in name for name in before)
        tiny.trainer(2).fit(module.train(), datamodule=tiny.data())
        return module, before

    @pytest.mark.parametrize("target", ["label", "expert"])
    def test_weights_and_statistics_do_not_move(self, target):
        module, before = self.fitted(target=target)
        module.train()
        module.pool(torch.randn(9, 4) + 3)
        after = module.pool.state_dict()
        assert all(torch.equal(before[name], value) for name, value in after.items())
        assert not any(part.training for part in module.pool.modules())

    def test_no_gradient_and_no_optimizer_reach_them(self):
        module = FoEFuserModule(tiny.experts(), network=SMALL)
        trainer = tiny.trainer()
        trainer.fit(module, datamodule=tiny.data())
        optimized = {id(p) for group in trainer.optimizers[0].param_groups for p in group["params"]}
        assert optimized == {id(p) for p in module.network.parameters()}
        assert all(p.grad is None and not p.requires_grad for p in module.pool.parameters())
        module(torch.randn(3, 4)).sum().backward()
        assert all(p.grad is None for p in module.pool.parameters())

    def test_no_tensor_is_shared_with_the_trained_network(self):
        module, _ = self.fitted()
        theirs = {value.data_ptr() for value in module.pool.state_dict().values() if value.numel()}
        ours = {value.data_ptr() for value in module.network.state_dict().values()}
        assert not theirs & ours

    def test_dropout_in_an_expert_stays_off_in_training(self):
        expert = Expert(tiny.Net(3, dropout=0.9), classes=tiny.CLASSES)
        module = FoEFuserModule({"a": expert}, network=SMALL).train()
        x = torch.randn(8, 4)
        assert torch.equal(module._query(x), module._query(x))


class TestRawInput:
    @pytest.mark.slow
    @pytest.mark.parametrize("target", ["label", "expert"])
    def test_gives_the_fuser_of_stored_outputs(self, target):
        pool, data = tiny.pool(), tiny.data(batch_size=8)
        outputs = collect(pool, data, trainer=tiny.trainer())
        stored = fuser(outputs, target=target)
        raw = FoEFuserModule(dict(pool.experts), tiny.CLASSES, domains=tiny.DOMAINS, target=target, network=SMALL)
        raw.network.load_state_dict(stored.network.state_dict())
        fit(stored, outputs, epochs=3)
        tiny.trainer(3).fit(raw, datamodule=data)
        close(raw.network, stored.network, atol=1e-5, rtol=1e-5)
        answer = raw(data.rows("test").inputs)
        torch.testing.assert_close(
            answer, stored.fuse(torch.from_numpy(outputs.concatenated("test"))), atol=1e-5, rtol=1e-4
        )

    def test_owner_best_needs_stored_outputs(self):
        module = FoEFuserModule(
            tiny.experts(), domains=tiny.DOMAINS, target="expert", expert_target="best", network=SMALL
        )
        with pytest.raises(InputError, match="expert_target: best needs stored outputs; use OutputsDataModule as data"):
            tiny.trainer().fit(module, datamodule=tiny.data())

    def test_owner_best_may_predict_from_raw_input(self):
        module = FoEFuserModule(
            tiny.experts(), domains=tiny.DOMAINS, target="expert", expert_target="best", network=SMALL
        )
        parts = tiny.trainer().predict(module, datamodule=tiny.data())
        assert sum(len(part["index"]) for part in parts) == 11

    def test_needs_experts(self):
        with pytest.raises(
            InputError, match="experts: this fuser has none, so it reads stored outputs only; give experts"
        ):
            fuser()(torch.zeros(1, 4))


class TestFeatures:
    """A fuser that reads the experts' representations beside their outputs."""

    @pytest.fixture
    def asked(self):
        pool, data = tiny.pool(features="body"), tiny.data(batch_size=8)
        return pool, data, collect(pool, data, keep_representations=True, trainer=tiny.trainer())

    @pytest.mark.slow
    @pytest.mark.parametrize("target", ["label", "expert"])
    def test_from_raw_input_as_from_the_store(self, asked, target):
        pool, raw_data, outputs = asked
        data = OutputsDataModule(outputs, batch_size=8, representations=True)
        assert data.representation_dims == {"a": 5, "b": 5}
        how = {"target": target, "network": SMALL, "representation_dims": data.representation_dims}
        stored = fuser(outputs, **how)
        raw = FoEFuserModule(dict(pool.experts), tiny.CLASSES, domains=tiny.DOMAINS, **how)
        raw.network.load_state_dict(stored.network.state_dict())
        tiny.trainer(3).fit(stored, datamodule=data)
        tiny.trainer(3).fit(raw, datamodule=raw_data)
        close(raw.network, stored.network, atol=1e-5, rtol=1e-5)
        given = torch.from_numpy(outputs.concatenated("test", representations=True))
        assert given.shape[1] == 4 + 10
        torch.testing.assert_close(given[:, 4:9], torch.from_numpy(np.array(outputs["test"].representations["a"])))
        answer = raw(raw_data.rows("test").inputs)
        torch.testing.assert_close(answer, stored.fuse(given), atol=1e-5, rtol=1e-4)
        (metrics,) = tiny.trainer().test(stored, datamodule=data, verbose=False)
        right = stored.fuse(given).argmax(1).numpy() == outputs["test"].target
        assert metrics["test_accuracy"] == pytest.approx(right.mean())

    @pytest.mark.slow
    def test_what_only_features_tell_is_learned(self):
        """Experts that say nothing, and representations that hold the class."""
        outputs = tiny.outputs(rows={"train": 90, "val": 30, "test": 60})
        for name in ("train", "val", "test"):
            split = outputs[name]
            for expert, values in split.probabilities.items():
                values[:] = 0.5
                noise = 0.1 * np.random.default_rng(len(expert)).normal(size=(len(split), 3))
                split.representations[expert] = (1000 * (np.eye(3)[split.target] + noise)).astype(np.float32)
        data = OutputsDataModule(outputs, batch_size=8, representations=True)
        torch.manual_seed(0)
        module = FoEFuserModule(**outputs.fuser_arguments(), representation_dims=data.representation_dims)
        assert isinstance(module.network, RepresentationFuser)
        tiny.trainer(10).fit(module, datamodule=data)
        (metrics,) = tiny.trainer().test(module, datamodule=data, verbose=False)
        assert metrics["test_accuracy"] > 0.95

    def test_a_checkpoint_knows_them(self, asked, tmp_path):
        pool, _, outputs = asked
        data = OutputsDataModule(outputs, batch_size=8, representations=True)
        module = fuser(outputs, representation_dims=data.representation_dims, network=None)
        trainer = tiny.trainer(1)
        trainer.fit(module, datamodule=data)
        trainer.save_checkpoint(tmp_path / "a.ckpt")
        again = FoEFuserModule.load_from_checkpoint(tmp_path / "a.ckpt", experts=pool).eval()
        given = torch.from_numpy(outputs.concatenated("test", representations=True))
        assert again.representation_dims == data.representation_dims
        torch.testing.assert_close(again.fuse(given), module.eval().fuse(given))

    def test_what_does_not_fit_is_rejected(self, asked):
        pool, raw_data, outputs = asked
        dims = {"a": 5, "b": 5}
        with pytest.raises(
            InputError, match="representation_dims are of b, a; expected a width for each of the experts a, b"
        ):
            fuser(representation_dims=dict(reversed(dims.items())))
        with pytest.raises(InputError, match="the data give representations of widths none, the fuser reads"):
            fit(fuser(outputs, representation_dims=dims), outputs)
        with pytest.raises(
            InputError, match="fuser reads none; set representations of OutputsDataModule, or representation_dims"
        ):
            data = OutputsDataModule(outputs, representations=True)
            tiny.trainer(1).fit(fuser(outputs), datamodule=data)
        with pytest.raises(InputError, match="the store has none of a, b; set the experts' features, and collect"):
            _ = OutputsDataModule(tiny.outputs(), representations=True).representation_dims
        with pytest.raises(InputError, match=r"the experts give representations of widths .*5.*, not .*6"):
            module = FoEFuserModule(
                dict(pool.experts), tiny.CLASSES, representation_dims={"a": 5, "b": 6}, network=SMALL
            )
            module(raw_data.rows("test").inputs)


class TestFacts:
    def test_experts_bring_their_metadata(self):
        module = FoEFuserModule(tiny.experts(), domains=tiny.DOMAINS)
        assert module.classes == tiny.CLASSES
        assert module.expert_classes == tiny.EXPERT_CLASSES
        assert module.goal.trained_on.tolist() == [[True, False], [False, True]]
        assert [p.shape[0] for p in module.network.parameters()][::2] == [512, 512, 3]
        again = FoEFuserModule(ExpertPool(tiny.experts(), ["owl", "dog", "cat"]))
        assert again.classes == ["owl", "dog", "cat"]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({}, "expert_classes: found none"),
            ({"expert_classes": {}}, "expert_classes: found none"),
            (
                {"expert_classes": tiny.EXPERT_CLASSES, "classes": ["cat"]},
                "expert a has dog, which the task's classes",
            ),
            ({"expert_classes": tiny.EXPERT_CLASSES, "target": "domain"}, "target is 'domain'"),
            ({"expert_classes": tiny.EXPERT_CLASSES, "expert_target": "first"}, "expert_target is 'first'"),
            ({"expert_classes": tiny.EXPERT_CLASSES, "target": "expert"}, "requires the domains of the experts"),
            (
                {
                    "expert_classes": tiny.EXPERT_CLASSES,
                    "target": "expert",
                    "domains": ["z"],
                    "expert_domains": {"a": ["x"], "b": []},
                },
                r"no expert's domains are among the data's domains \(\['z'\]\)",
            ),
        ],
    )
    def test_rejected(self, arguments, message):
        with pytest.raises(InputError, match=message):
            FoEFuserModule(**arguments)

    def test_metadata_that_contradict_the_experts_are_rejected(self):
        with pytest.raises(InputError, match="expert_classes differ from the classes of experts"):
            FoEFuserModule(tiny.experts(), expert_classes={"a": ["cat", "dog"], "b": ["dog", "owl"]})

    def test_the_order_of_the_experts_is_a_fact(self):
        backwards = dict(reversed(tiny.EXPERT_CLASSES.items()))
        with pytest.raises(InputError, match="expert_classes differ from the classes of experts"):
            FoEFuserModule(tiny.experts(), expert_classes=backwards)
        with pytest.raises(InputError, match="was built for"):
            fit(fuser(expert_classes=backwards))

    def test_a_store_of_other_experts_is_rejected(self):
        other = ExpertOutputs.from_arrays({"train": {"probabilities": {"z": [[1.0]]}, "target": [0]}}, {"z": ["cat"]})
        with pytest.raises(InputError, match=r"the store None has the experts \['z'\] .* was built for \['a', 'b'\]"):
            fit(fuser(), other)

    def test_a_store_of_the_same_names_but_other_weights_is_rejected(self):
        outputs = collect(tiny.pool(0), tiny.data(), trainer=tiny.trainer())
        module = FoEFuserModule(tiny.experts(1), network=SMALL)
        with pytest.raises(InputError, match="another expert a: its fingerprint is"):
            fit(module, outputs)

    @pytest.mark.slow
    def test_a_fuser_is_not_tested_on_answers_of_other_experts(self, tmp_path):
        one, other = (collect(tiny.pool(seed), tiny.data(), trainer=tiny.trainer()) for seed in (0, 1))
        trainer, module = tiny.trainer(), FoEFuserModule(**one.fuser_arguments(), network=SMALL)
        trainer.fit(module, datamodule=OutputsDataModule(one))
        trainer.save_checkpoint(path := tmp_path / "fuser.ckpt")
        with pytest.raises(InputError, match="was trained with expert a of fingerprint"):
            tiny.trainer().test(module, datamodule=OutputsDataModule(other), verbose=False)
        again = FoEFuserModule(**one.fuser_arguments(), network=SMALL)
        with pytest.raises(InputError, match="was trained with expert a of fingerprint"):
            tiny.trainer().test(again, datamodule=OutputsDataModule(other), ckpt_path=path, verbose=False)
        assert tiny.trainer().test(again, datamodule=OutputsDataModule(one), ckpt_path=path, verbose=False)
        loaded = FoEFuserModule.load_from_checkpoint(path, network=SMALL)
        with pytest.warns(UserWarning, match="was trained with expert a of fingerprint .*; training continues on"):
            tiny.trainer().fit(loaded, datamodule=OutputsDataModule(other))


class TestCheckpoints:
    def saved(self, tmp_path, module, data=None) -> str:
        trainer = tiny.trainer()
        trainer.fit(module, datamodule=data or tiny.data())
        trainer.save_checkpoint(tmp_path / "fuser.ckpt")
        return str(tmp_path / "fuser.ckpt")

    @pytest.mark.parametrize("save", [False, True])
    def test_experts_weights_are_kept_only_if_asked(self, tmp_path, save):
        module = FoEFuserModule(tiny.experts(), network=SMALL, save_experts=save)
        content = torch.load(self.saved(tmp_path, module), weights_only=True)
        theirs = [name for name in content["state_dict"] if name.startswith("pool.")]
        assert len(theirs) == (len(module.pool.state_dict()) if save else 0)
        assert {name for name in content["state_dict"] if name.startswith("network.")} == {
            f"network.{name}" for name in module.network.state_dict()
        }
        assert content["experts"] == module.pool.metadata()

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("factories", "kind"),
        [
            ({}, FoEFuserModule),
            ({"network": partial(tiny.LinearFuser, scale=2.0)}, FoEFuserModule),
            ({"network": partial(tiny.LinearFuser, scale=2.0)}, LightningModule),
            ({"optimizer": partial(torch.optim.SGD, lr=0.1)}, FoEFuserModule),
            ({"optimizer": partial(torch.optim.SGD, lr=0.1)}, LightningModule),
            (
                {
                    "network": tiny.LinearFuser,
                    "optimizer": torch.optim.Adam,
                    "scheduler": partial(torch.optim.lr_scheduler.StepLR, step_size=1),
                },
                FoEFuserModule,
            ),
        ],
    )
    def test_loads_weights_only_without_and_with_experts(self, tmp_path, factories, kind):
        made = FoEFuserModule(tiny.experts(), domains=tiny.DOMAINS, target="expert", **factories)
        path = self.saved(tmp_path, made)
        x = torch.randn(5, 4)
        alone = FoEFuserModule.load_from_checkpoint(path, weights_only=True)
        assert alone.pool is None
        assert tiny.same(alone.network, made.network)
        assert (alone.target, alone.classes, alone.expert_classes) == ("expert", made.classes, made.expert_classes)
        assert torch.equal(alone.goal.trained_on, made.goal.trained_on)
        again = kind.load_from_checkpoint(path, weights_only=True, experts=tiny.experts())
        assert type(again) is FoEFuserModule
        assert torch.equal(again(x), made(x))
        assert tiny.same(again.pool, made.pool)
        assert getattr(again.network, "scale", 1.0) == getattr(made.network, "scale", 1.0)

    @pytest.mark.parametrize("network", [None, tiny.LinearFuser])
    def test_other_experts_are_rejected_with_both_fingerprints(self, tmp_path, network):
        made = FoEFuserModule(tiny.experts(0), network=network)
        path = self.saved(tmp_path, made)
        theirs, ours = (ExpertPool(tiny.experts(seed)).metadata()["a"]["fingerprint"] for seed in (0, 1))
        with pytest.raises(
            InputError, match=f"trained with expert a of fingerprint {theirs} .* the one given has {ours}"
        ):
            FoEFuserModule.load_from_checkpoint(path, weights_only=True, experts=tiny.experts(1))

    def test_one_trained_on_stored_outputs_takes_the_experts_that_were_asked(self, tmp_path):
        outputs = collect(tiny.pool(), tiny.data(), trainer=tiny.trainer())
        made = fuser(outputs)
        path = self.saved(tmp_path, made, OutputsDataModule(outputs))
        loaded = FoEFuserModule.load_from_checkpoint(path, weights_only=True, experts=tiny.experts())
        inputs = tiny.data().rows("test").inputs
        expected = made.fuse(torch.from_numpy(outputs.concatenated("test")))
        torch.testing.assert_close(loaded(inputs), expected, rtol=1e-4, atol=1e-5)
        with pytest.raises(InputError, match="the model was trained with expert a of fingerprint"):
            FoEFuserModule.load_from_checkpoint(path, weights_only=True, experts=tiny.experts(1))

    def test_saved_experts_come_back(self, tmp_path):
        made = FoEFuserModule(tiny.experts(0), network=SMALL, save_experts=True)
        path = self.saved(tmp_path, made)
        loaded = FoEFuserModule.load_from_checkpoint(path, weights_only=True, experts=tiny.experts(1))
        assert tiny.same(loaded.pool, made.pool)
        alone = FoEFuserModule.load_from_checkpoint(path, weights_only=True)
        assert tiny.same(alone.network, made.network)

    @pytest.mark.slow
    def test_what_was_trained_goes_on_training(self, tmp_path):
        made = FoEFuserModule(tiny.experts(), network=SMALL)
        path = self.saved(tmp_path, made)
        trainer = tiny.trainer(3)
        other = FoEFuserModule(tiny.experts(), network=SMALL)
        trainer.fit(other, datamodule=tiny.data(), ckpt_path=path, weights_only=True)
        assert trainer.current_epoch == 3
        assert not tiny.same(other.network, made.network)
        assert tiny.same(other.pool, made.pool)
