import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import TESTS, sealed, tiny
from helpers.command_line import prepare, write_yaml
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn

from lightning_fusion import Expert, ExpertOutputs, ExpertPool, FrugalFoE, FrugalFoEModule, OutputsDataModule, collect
from lightning_fusion.callbacks import PredictionWriter
from lightning_fusion.cli.main import main
from lightning_fusion.data.tensors import TensorDataModule
from lightning_fusion.errors import InputError

pytestmark = [
    pytest.mark.filterwarnings("ignore:neighbors is"),
    pytest.mark.filterwarnings("ignore:the fuser of all experts"),
    pytest.mark.filterwarnings("ignore:.*samples queried every expert"),
    pytest.mark.filterwarnings("ignore:.*samples are out-of-distribution"),
]
ROWS = {"train": 120, "val": 50, "test": 70}
COSTS = {"a": 1.0, "b": 2.0, "c": 0.5, "d": 1.5}
CLASSES = ["cat", "dog", "owl", "elk"]
EXPERT_CLASSES = {"a": ["cat", "dog"], "b": CLASSES, "c": ["owl", "elk", "cat"], "d": ["dog", "elk"]}
OTHERS = ("queried", "cost", "risk", "abstained", "ood")


def stored(seed: int = 0, rows: dict = ROWS, costs: dict | None = COSTS, order: bool = True) -> ExpertOutputs:
    """Four experts of unequal costs whose outputs help one another; rows are numbered out of order."""
    generator = np.random.default_rng(seed)
    splits = {}
    for split, count in rows.items():
        target = generator.integers(4, size=count)
        said = {}
        for name, classes in EXPERT_CLASSES.items():
            truth = np.array([CLASSES.index(c) for c in classes]) == target[:, None]
            logits = 1.5 * truth + generator.normal(size=(count, len(classes)))
            logits[: 8 if split != "train" else 0] *= 60  # rows unlike those of the fit
            said[name] = tiny.softmax(logits / 3)
        splits[split] = {"probabilities": said, "target": target}
        if order:
            splits[split]["index"] = generator.permutation(3 * count)[:count]
    return ExpertOutputs.from_arrays(splits, EXPERT_CLASSES, CLASSES, costs=costs)


def policy(**arguments) -> FrugalFoE:
    return FrugalFoE(**({"trade_off": 0.05, "abstain_above": 0.16} | arguments))


def module(outputs: ExpertOutputs, given: FrugalFoE | None = None, **arguments) -> FrugalFoEModule:
    facts = {"classes": outputs.classes, "expert_classes": outputs.expert_classes}
    return FrugalFoEModule(given if given is not None else policy(), **(facts | arguments))


def fit(fitted: FrugalFoEModule, outputs: ExpertOutputs, **arguments):
    trainer = tiny.trainer(1, **arguments)
    trainer.fit(fitted, datamodule=OutputsDataModule(outputs, batch_size=16))
    return trainer


def said(outputs: ExpertOutputs, split: str) -> dict[str, torch.Tensor]:
    """(N, C) by expert, rows ordered by their index."""
    order = np.argsort(outputs[split].index)
    scattered = outputs.scattered(split)[order]
    return {name: torch.from_numpy(scattered[:, k].copy()) for k, name in enumerate(outputs.names)}


def by_hand(outputs: ExpertOutputs, split: str = "test", given: FrugalFoE | None = None, costs: dict | None = COSTS):
    """The answers of a policy that was fitted without any Trainer, in the order of the index."""
    chosen = given if given is not None else policy(costs=costs)
    order = np.argsort(outputs["train"].index)
    chosen.fit(said(outputs, "train"), outputs["train"].target[order])
    return chosen.predict(said(outputs, split))


def predicted(served: FrugalFoEModule, data, **arguments) -> dict[str, torch.Tensor]:
    """What predict gives, ordered by index."""
    parts = tiny.trainer(**arguments).predict(served, datamodule=data)
    joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    order = joined["index"].argsort()
    return {name: values[order] for name, values in joined.items()}


def check_same(found: dict, expected) -> None:
    assert expected.queried.sum(1).unique().numel() > 1  # decisions that differ between samples
    for name in ("queried", "abstained", "ood", "cost", "risk"):
        torch.testing.assert_close(found[name], getattr(expected, name), rtol=0, atol=0)
    torch.testing.assert_close(found["probabilities"], expected.probabilities, rtol=0, atol=1e-7)


class TestFit:
    @pytest.mark.slow
    def test_decisions_are_those_of_a_fit_without_trainer(self):
        outputs = stored()
        fitted = module(outputs)
        trainer = fit(fitted, outputs)
        assert trainer.global_step == 8
        expected = by_hand(outputs)
        check_same(predicted(fitted, OutputsDataModule(outputs, batch_size=16)), expected)
        assert fitted.policy.costs_ == list(COSTS.values()) and fitted.policy.costs is None
        assert fitted.policy.classes == CLASSES and fitted.policy.experts == outputs.experts
        order = torch.from_numpy(np.sort(outputs["train"].index))
        assert len(fitted.policy.targets) == len(order) == 120

    def test_costs_of_the_policy_go_before_those_of_the_store(self):
        outputs = stored()
        fitted = module(outputs, policy(costs={"a": 3.0, "b": 1.0, "c": 1.0, "d": 1.0}))
        fit(fitted, outputs)
        assert fitted.policy.costs_ == [3.0, 1.0, 1.0, 1.0]
        assert fitted.policy.costs == {"a": 3.0, "b": 1.0, "c": 1.0, "d": 1.0}

    @pytest.mark.slow
    def test_a_second_fit_or_epoch_forgets_the_first(self):
        outputs, other = stored(), stored(seed=5)
        fitted = module(outputs)
        fit(fitted, other)
        tiny.trainer(2).fit(fitted, datamodule=OutputsDataModule(outputs, batch_size=16))  # two epochs
        assert len(fitted.policy.targets) == 120
        check_same(predicted(fitted, OutputsDataModule(outputs, batch_size=64)), by_hand(outputs))

    def test_it_is_fitted_where_there_is_no_validation(self):
        outputs = stored()
        del outputs.splits["val"]
        fitted = module(outputs)
        fit(fitted, outputs, limit_val_batches=0)
        check_same(predicted(fitted, OutputsDataModule(outputs)), by_hand(outputs))

    @pytest.mark.slow
    def test_a_validation_within_the_epoch_loses_no_row(self):
        outputs = stored()
        fitted = module(outputs)
        fit(fitted, outputs, val_check_interval=0.5)
        check_same(predicted(fitted, OutputsDataModule(outputs)), by_hand(outputs))

    def test_a_sanity_check_before_the_fit_does_no_harm(self):
        outputs = stored()
        fitted = module(outputs)
        trainer = fit(fitted, outputs, num_sanity_val_steps=2)
        answer = by_hand(outputs, "val")
        assert float(trainer.callback_metrics["val_cost"]) == pytest.approx(float(answer.cost.mean()))

    @pytest.mark.slow
    def test_bfloat16_changes_no_decision(self):
        outputs = stored()
        fitted = module(outputs)
        fit(fitted, outputs, precision="bf16-mixed")
        found = predicted(fitted, OutputsDataModule(outputs, batch_size=16), precision="bf16-mixed")
        check_same(found, by_hand(outputs))

    def test_too_few_rows_are_named(self):
        outputs = stored(rows={"train": 8, "val": 4, "test": 4})
        with pytest.raises(InputError, match="fuser_neighbors is 9 for 8 calibration samples"):
            fit(module(outputs), outputs)


class TestFigures:
    @pytest.mark.parametrize("batch_size", [7, 64])
    @pytest.mark.parametrize("split", ["val", "test"])
    def test_equal_those_worked_out_by_hand(self, split, batch_size):
        outputs = stored()
        fitted = module(outputs)
        trainer = fit(fitted, outputs)
        found = dict(trainer.callback_metrics)
        if split == "test":
            tiny.trainer().test(fitted, datamodule=OutputsDataModule(outputs, batch_size=batch_size), verbose=False)
            found = fitted.trainer.callback_metrics
        answer = by_hand(outputs, split)
        truth = outputs[split].target[np.argsort(outputs[split].index)]
        right = answer.probabilities.argmax(1).numpy() == truth
        kept = ~answer.abstained.numpy()
        assert 0 < kept.sum() < len(kept) and 0 < answer.ood.sum() < len(kept) and right[kept].mean() != right.mean()
        expected = {
            "accuracy": right.mean(),
            "cost": (answer.queried.numpy() * list(COSTS.values())).sum(1).mean(),
            "num_queries": answer.queried.numpy().sum(1).mean(),
            "risk": answer.risk.mean(),
            "abstained": 1 - kept.mean(),
            "ood": answer.ood.numpy().mean(),
            "selective_accuracy": right[kept].mean(),
        }
        assert {name for name in found if name.startswith(split)} == {f"{split}_{name}" for name in expected}
        for name, value in expected.items():
            assert float(found[f"{split}_{name}"]) == pytest.approx(float(value), abs=1e-6), name

    def test_accuracy_of_answered_samples_is_logged_only_where_some_may_abstain(self):
        outputs = stored()
        fitted = module(outputs, policy(abstain_above=None))
        trainer = fit(fitted, outputs)
        assert "val_selective_accuracy" not in trainer.callback_metrics
        assert float(trainer.callback_metrics["val_abstained"]) == 0

    def test_validate_serves_a_fitted_policy(self):
        outputs = stored()
        fitted = module(outputs)
        logged = fit(fitted, outputs).callback_metrics
        (found,) = tiny.trainer().validate(fitted, datamodule=OutputsDataModule(outputs), verbose=False)
        assert found == pytest.approx({name: float(value) for name, value in logged.items()})


class TestFiles:
    @pytest.fixture
    def outputs(self) -> ExpertOutputs:
        return stored()

    @pytest.mark.slow
    def test_the_folder_serves(self, outputs, tmp_path):
        fit(module(outputs, folder=str(tmp_path / "policy")), outputs)
        served = module(outputs, FrugalFoE(), folder=str(tmp_path / "policy"))
        check_same(predicted(served, OutputsDataModule(outputs)), by_hand(outputs))
        (found,) = tiny.trainer().test(served, datamodule=OutputsDataModule(outputs), verbose=False)
        assert found["test_cost"] == pytest.approx(float(by_hand(outputs).cost.mean()))
        assert FrugalFoE.load(tmp_path / "policy").trade_off_ == 0.05

    def test_fast_dev_run_writes_nothing(self, outputs, tmp_path):
        fit(module(outputs, folder=str(tmp_path / "policy")), outputs, fast_dev_run=True)
        assert not (tmp_path / "policy").exists()

    @pytest.mark.slow
    def test_a_checkpoint_serves_in_python_and_by_path(self, outputs, tmp_path):
        keeper = ModelCheckpoint(tmp_path, filename="kept")
        fit(module(outputs), outputs, enable_checkpointing=True, callbacks=[keeper])
        path, data = str(tmp_path / "kept.ckpt"), OutputsDataModule(outputs)
        saved = torch.load(path, weights_only=True)
        assert not [name for name in saved["state_dict"] if name.startswith(("policy.", "pool."))]
        loaded = FrugalFoEModule.load_from_checkpoint(path)
        assert loaded.policy.trade_off == 0.05 and loaded.policy.abstain_above == 0.16
        check_same(predicted(loaded, data), by_hand(outputs))
        fresh = module(outputs, FrugalFoE())
        parts = tiny.trainer().predict(fresh, datamodule=data, ckpt_path=path)
        index = torch.cat([part["index"] for part in parts])
        asked = torch.cat([part["queried"] for part in parts])
        assert torch.equal(asked[index.argsort()], by_hand(outputs).queried)

    def test_a_checkpoint_goes_before_the_folder(self, outputs, tmp_path):
        keeper = ModelCheckpoint(tmp_path, filename="kept")
        fit(module(outputs), outputs, enable_checkpointing=True, callbacks=[keeper])
        cheap = policy(trade_off=1.0)
        by_hand(outputs, given=cheap)
        cheap.save(tmp_path / "policy")
        served = module(outputs, FrugalFoE(), folder=str(tmp_path / "policy"))
        tiny.trainer().test(
            served, datamodule=OutputsDataModule(outputs), ckpt_path=str(tmp_path / "kept.ckpt"), verbose=False
        )
        assert served.policy.trade_off_ == 0.05

    @pytest.mark.slow
    def test_the_folder_serves_after_a_checkpoint_of_another_run(self, outputs, tmp_path):
        keeper = ModelCheckpoint(tmp_path, filename="kept")
        fit(module(outputs, folder=str(tmp_path / "policy")), outputs, enable_checkpointing=True, callbacks=[keeper])
        trainer, data = tiny.trainer(), OutputsDataModule(outputs)
        given = {"datamodule": data, "verbose": False}
        (found,) = trainer.test(module(outputs, FrugalFoE()), ckpt_path=str(tmp_path / "kept.ckpt"), **given)
        served = module(outputs, FrugalFoE(), folder=str(tmp_path / "policy"))
        assert trainer.test(served, **given) == [found] and served.policy.trade_off_ == 0.05

    def test_a_policy_fitted_in_python_is_served_at_once(self, outputs):
        known = policy(costs=COSTS)
        expected = by_hand(outputs, given=known)
        served = module(outputs, known)
        check_same(predicted(served, OutputsDataModule(outputs)), expected)
        rows = said(outputs, "test")
        assert torch.equal(known.predict(rows).queried, expected.queried)  # the user's own object is as it was

    def test_nothing_fitted_is_rejected(self, outputs):
        with pytest.raises(InputError, match="this FrugalFoE is not fitted"):
            tiny.trainer().test(module(outputs), datamodule=OutputsDataModule(outputs), verbose=False)

    @pytest.mark.parametrize(
        ("damage", "message"),
        [
            (lambda f: (f / "manifest.json").unlink(), r"policy: found no manifest.json in .*policy"),
            (lambda f: (f / "manifest.json").write_text("{"), r"policy: .* is damaged"),
            (lambda f: (f / "manifest.json").write_text("{}"), r"policy: .* has format None"),
            (lambda f: next(f.glob("data-*/0.bin")).unlink(), r"policy: .*0.bin is damaged .the file is missing"),
            (lambda f: next(f.glob("data-*/0.bin")).write_bytes(b"junk"), r"policy: .* is damaged .* has 4 bytes"),
        ],
        ids=["no_facts", "half_json", "empty_json", "no_arrays", "junk"],
    )
    def test_a_damaged_folder_is_rejected(self, outputs, tmp_path, damage, message):
        folder = tmp_path / "policy"
        fit(module(outputs, folder=str(folder)), outputs)
        damage(folder)
        served = module(outputs, FrugalFoE(), folder=str(folder))
        with pytest.raises(InputError, match=message):
            tiny.trainer().test(served, datamodule=OutputsDataModule(outputs), verbose=False)

    @pytest.mark.slow
    def test_arrays_of_another_policy_are_rejected(self, outputs, tmp_path):
        for seed in (0, 1):
            fit(module(outputs, folder=str(tmp_path / str(seed))), stored(seed))
        other = json.loads((tmp_path / "0/manifest.json").read_text())["metadata"]
        sealed.edit(tmp_path / "1/manifest.json", lambda manifest: manifest | {"metadata": other})
        served = module(outputs, FrugalFoE(), folder=str(tmp_path / "1"))
        with pytest.raises(InputError, match="are not those that its metadata describes"):
            tiny.trainer().test(served, datamodule=OutputsDataModule(outputs), verbose=False)


class TestRefused:
    def test_a_module_without_metadata(self):
        with pytest.raises(InputError, match="expert_classes: found none; give experts"):
            FrugalFoEModule()

    def test_expert_classes_that_differ_from_the_experts(self):
        with pytest.raises(InputError, match="leave them out beside experts"):
            FrugalFoEModule(experts=tiny.experts(), expert_classes={"a": ["cat"]})

    def test_a_policy_of_other_experts_or_classes(self, tmp_path):
        outputs = tiny.outputs(rows=ROWS)
        known = FrugalFoE()
        known.fit(outputs["train"])
        other = ExpertOutputs.from_arrays(
            {"test": {"probabilities": {"a": np.full((9, 2), 0.5), "z": np.full((9, 2), 0.5)}, "target": [0] * 9}},
            {"a": ["cat", "dog"], "z": ["owl", "dog"]},
            tiny.CLASSES,
        )
        with pytest.raises(
            InputError, match=r"policy: it was fitted with the experts \['a', 'b'\]; found \['a', 'z'\]"
        ):
            tiny.trainer().test(module(other, known), datamodule=OutputsDataModule(other), verbose=False)
        turned = ExpertOutputs.from_arrays(
            {"test": {"probabilities": {"a": np.full((9, 2), 0.5), "b": np.full((9, 2), 0.5)}, "target": [0] * 9}},
            tiny.EXPERT_CLASSES,
            tiny.CLASSES[::-1],
        )
        with pytest.raises(InputError, match="policy: it was fitted on the classes"):
            tiny.trainer().test(module(turned, known), datamodule=OutputsDataModule(turned), verbose=False)

    def test_data_of_other_experts_than_the_module_was_built_for(self):
        outputs = stored()
        with pytest.raises(InputError, match=r"the policy was built for \['a', 'b'\]"):
            fit(module(tiny.outputs()), outputs)

    @pytest.mark.slow
    def test_experts_of_other_weights(self):
        data, ours, theirs = tiny.data(rows=ROWS), tiny.pool(), tiny.pool(seed=1)
        outputs = collect(ours, data, None, trainer=tiny.trainer())
        fitted = module(outputs)
        fit(fitted, outputs)
        tiny.trainer().test(
            FrugalFoEModule(fitted.policy, ours, outputs.classes), datamodule=tiny.data(rows=ROWS), verbose=False
        )
        with pytest.raises(InputError, match="experts: the model was trained with expert a of fingerprint"):
            tiny.trainer().test(FrugalFoEModule(fitted.policy, theirs), datamodule=tiny.data(rows=ROWS), verbose=False)

    @pytest.mark.slow
    def test_a_checkpoint_for_other_experts(self, tmp_path):
        data, ours, theirs = tiny.data(rows=ROWS), tiny.pool(), tiny.pool(seed=1)
        outputs = collect(ours, data, None, trainer=tiny.trainer())
        keeper = ModelCheckpoint(tmp_path, filename="kept")
        fit(module(outputs), outputs, enable_checkpointing=True, callbacks=[keeper])
        path = tmp_path / "kept.ckpt"
        served = FrugalFoEModule(FrugalFoE(), ours)
        assert predicted_asked(served, path) is not None
        with pytest.raises(InputError, match="expert a of fingerprint"):
            predicted_asked(FrugalFoEModule(FrugalFoE(), theirs), path)

    def test_another_store(self):
        """The experts of the module are those of the store, or nobody is asked."""
        outputs = collect(tiny.pool(), tiny.data(rows=ROWS), None, trainer=tiny.trainer())
        served = FrugalFoEModule(policy(), tiny.pool(seed=1), outputs.classes)
        with pytest.raises(InputError, match="fingerprint"):
            fit(served, outputs)

    def test_raw_input_without_experts(self):
        outputs = tiny.outputs(rows=ROWS)
        with pytest.raises(InputError, match="raw input needs experts to query"):
            tiny.trainer().fit(module(outputs), datamodule=tiny.data())
        with pytest.raises(InputError, match="this policy reads stored outputs and has no experts"):
            module(outputs)(torch.zeros(3, 4))

    def test_a_foreign_checkpoint(self, tmp_path):
        (tmp_path / "junk.ckpt").write_text("junk")
        with pytest.raises(InputError, match="cannot be read as a checkpoint"):
            FrugalFoEModule.load_from_checkpoint(tmp_path / "junk.ckpt")


def predicted_asked(served: FrugalFoEModule, path: Path) -> torch.Tensor:
    parts = tiny.trainer().predict(served, datamodule=tiny.data(rows=ROWS), ckpt_path=str(path))
    return torch.cat([part["queried"] for part in parts])


class RowWise(nn.Module):
    """Its rounding does not depend on how many rows stand in a batch; takes numbers, or a dict of them."""

    def __init__(self, num_classes: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(num_classes, 4, generator=generator))

    def forward(self, input):
        numbers = input["left"] + input["more"]["right"] if isinstance(input, dict) else input
        return (numbers[:, None] * self.weight).sum(2)


class Dicts:
    """Rows as nested dicts."""

    def __init__(self, numbers: torch.Tensor) -> None:
        self.numbers = numbers

    def __getitem__(self, rows):
        some = self.numbers[rows]
        return {"left": some / 4, "more": {"right": 3 * some / 4}}


class TestRawInput:
    """Experts on raw input: whoever is not needed is not run."""

    @pytest.fixture
    def experts(self) -> dict[str, Expert]:
        return {
            name: Expert(RowWise(len(classes), seed), classes=classes, cost=COSTS[name])
            for seed, (name, classes) in enumerate(EXPERT_CLASSES.items())
        }

    @pytest.fixture
    def data(self) -> TensorDataModule:
        generator = torch.Generator().manual_seed(0)
        centres = 1.5 * torch.randn(4, 4, generator=generator)
        parts = {}
        for split, count in ROWS.items():
            target = torch.randint(4, (count,), generator=generator)
            numbers = centres[target] + torch.randn(count, 4, generator=generator)
            parts[split] = (numbers, target, torch.ones(count, 1, dtype=torch.bool))
        return TensorDataModule(parts, CLASSES, ["x"], batch_size=16)

    @pytest.mark.slow
    def test_each_expert_sees_only_the_rows_that_need_it(self, experts, data):
        pool = ExpertPool(experts, CLASSES)
        outputs = collect(pool, data, None, trainer=tiny.trainer())
        given = policy(costs=COSTS, neighbors=20)
        expected = by_hand(outputs, given=given)
        seen = {name: [] for name in experts}
        for name, expert in experts.items():
            expert.network.register_forward_hook(lambda _, args, __, name=name: seen[name].append(args[0].clone()))
        served = FrugalFoEModule(policy(neighbors=20), pool)
        tiny.trainer().fit(served, datamodule=data)
        assert served.policy.costs_ == list(COSTS.values())
        assert {name: sum(map(len, parts)) for name, parts in seen.items()} == {
            name: 120 + int(by_hand(outputs, "val", given).queried[:, k].sum()) for k, name in enumerate(seen)
        }
        for parts in seen.values():
            parts.clear()
        check_same(predicted(served, data), expected)
        numbers = data.rows("test")[torch.arange(70)].input
        counts = {}
        for k, (name, parts) in enumerate(seen.items()):
            needed = numbers[expected.queried[:, k]]
            received = torch.cat(parts) if parts else numbers[:0]
            assert sorted(received.tolist()) == sorted(needed.tolist()), name
            counts[name] = len(received)
        assert min(counts.values()) < 70 and sum(counts.values()) == int(expected.queried.sum()) < 4 * 70

    @pytest.mark.slow
    def test_decisions_are_those_on_stored_outputs(self, experts, data, tmp_path):
        pool = ExpertPool(experts, CLASSES)
        outputs = collect(pool, data, tmp_path / "store", trainer=tiny.trainer())
        fit(module(outputs, policy(neighbors=20), folder=str(tmp_path / "policy")), outputs)
        served = FrugalFoEModule(experts=experts, classes=CLASSES, folder=str(tmp_path / "policy"))
        check_same(predicted(served, data), by_hand(outputs, given=policy(costs=COSTS, neighbors=20)))
        (one,) = tiny.trainer().test(served, datamodule=data, verbose=False)
        (other,) = tiny.trainer().test(served, datamodule=OutputsDataModule(outputs), verbose=False)
        assert one == pytest.approx(other, abs=1e-6)

    @pytest.mark.slow
    def test_a_saved_policy_gives_its_order_of_classes_to_experts_that_answer_new_samples(
        self, experts, data, tmp_path
    ):
        outputs = collect(ExpertPool(experts, CLASSES), data, tmp_path / "store", trainer=tiny.trainer())
        fit(module(outputs, policy(neighbors=20), folder=str(tmp_path / "policy")), outputs)
        turned = FrugalFoEModule(experts=experts, classes=CLASSES[::-1], folder=str(tmp_path / "policy"))
        data.setup("test")
        batches = tiny.trainer().predict(turned, dataloaders=data.test_dataloader())
        wanted = by_hand(outputs, given=policy(costs=COSTS, neighbors=20)).probabilities
        assert turned.classes == CLASSES
        torch.testing.assert_close(torch.cat([batch["probabilities"] for batch in batches]), wanted)

    @pytest.mark.slow
    def test_forward_answers_a_batch(self, experts, data):
        served = FrugalFoEModule(policy(neighbors=20), experts, CLASSES)
        tiny.trainer().fit(served, datamodule=data)
        numbers = data.rows("test")[torch.arange(70)].input
        answer = served(numbers)
        check_same(predicted(served, data), answer)
        single = [served(row[None]) for row in numbers[:10]]
        assert torch.equal(torch.cat([each.queried for each in single]), answer.queried[:10])

    def test_dicts_are_taken_apart_by_rows(self, experts, data):
        served = FrugalFoEModule(policy(neighbors=20), experts, CLASSES)
        tiny.trainer().fit(served, datamodule=data)
        numbers = data.rows("test")[torch.arange(70)].input
        numbers = (numbers * 64).round() / 64  # so that the two parts of the dict add up exactly
        from_dict, from_tensor = served(Dicts(numbers)[:]), served(numbers)
        assert torch.equal(from_dict.queried, from_tensor.queried)
        torch.testing.assert_close(from_dict.probabilities, from_tensor.probabilities, rtol=0, atol=0)

    def test_an_expert_that_fails_is_skipped_where_that_is_wanted(self, experts, data):
        served = FrugalFoEModule(policy(neighbors=20, on_failure="skip"), experts, CLASSES)
        tiny.trainer().fit(served, datamodule=data)
        first = int(served(data.rows("test")[torch.arange(70)].input).queried.all(0).int().argmax())
        name = list(EXPERT_CLASSES)[first]
        experts[name].network.weight.data.fill_(torch.nan)
        with pytest.warns(UserWarning, match=f"expert {name} failed on"):
            answer = served(data.rows("test")[torch.arange(70)].input)
        assert not answer.queried[:, first].any() and answer.queried.any(1).all()


class TestPredictions:
    @pytest.mark.slow
    def test_columns(self, tmp_path):
        outputs = stored()
        fitted = module(outputs)
        fit(fitted, outputs)
        path = tmp_path / "new" / "table.csv"
        data = OutputsDataModule(outputs, batch_size=16)
        tiny.trainer(callbacks=[PredictionWriter(str(path))]).predict(fitted, datamodule=data)
        with open(path, newline="") as file:
            rows = list(csv.DictReader(file))
        assert list(rows[0]) == ["index", "prediction", "confidence", *OTHERS, *CLASSES]
        answer = by_hand(outputs)
        assert [int(row["index"]) for row in rows] == sorted(outputs["test"].index)
        for place, row in enumerate(rows):
            asked = [name for name, flag in zip(COSTS, answer.queried[place].tolist(), strict=True) if flag]
            assert row["queried"] == "+".join(asked)
            assert float(row["cost"]) == pytest.approx(sum(COSTS[name] for name in asked))
            assert float(row["risk"]) == pytest.approx(float(answer.risk[place]), rel=1e-5)
            assert (row["abstained"], row["ood"]) == (
                str(int(answer.abstained[place])),
                str(int(answer.ood[place])),
            )
            assert row["prediction"] == CLASSES[int(answer.probabilities[place].argmax())]
            assert float(row[CLASSES[0]]) == pytest.approx(float(answer.probabilities[place, 0]), abs=1e-6)
        assert any("+" in row["queried"] for row in rows) and all(
            len({row[name] for row in rows}) == 2 for name in OTHERS[3:]
        )


@pytest.mark.slow
class TestSomebodyElses:
    def test_module_fuser_and_risk_from_a_yaml(self, tmp_path, tmp_path_factory, monkeypatch):
        """Fitted, saved and served, from the folder and from a checkpoint."""
        prepare(tmp_path_factory, tmp_path, monkeypatch)
        file = str(TESTS / "conf/frugal_thirdparty.yaml")
        trained = main(["fit", "-c", file])
        facts = json.loads(Path("policy/manifest.json").read_text())["metadata"]
        assert facts["fuser"] == {"class_path": "thirdparty.frugal.Average", "init_args": {"last": 2.0}}
        assert facts["risk"] == {"class_path": "thirdparty.frugal.Wary", "init_args": {"factor": 1.25}}
        path = trained.trainer.checkpoint_callback.best_model_path
        outputs = ExpertOutputs.open("runs/digits/outputs")
        expected = trained.model.policy.predict(outputs["test"])
        for more in ([], ["--ckpt_path", path]):
            served = main(["test", "-c", file, *more])
            assert type(served.model).__name__ == "Counting"
            assert (served.model.policy.fuser.last, served.model.policy.risk.factor) == (2.0, 1.25)
            metrics = served.trainer.callback_metrics
            assert float(metrics["test_rows"]) == 2 * len(outputs["test"])
            assert float(metrics["test_cost"]) == pytest.approx(float(expected.cost.mean()))
            assert torch.equal(served.model.policy.predict(outputs["test"]).queried, expected.queried)
        loaded = type(trained.model).load_from_checkpoint(path)
        assert torch.equal(loaded.policy.predict(outputs["test"]).queried, expected.queried)

    def test_their_arguments_matter(self, tmp_path, tmp_path_factory, monkeypatch):
        prepare(tmp_path_factory, tmp_path, monkeypatch)
        file = str(TESTS / "conf/frugal_thirdparty.yaml")
        changed = {"init_args": {"policy": {"init_args": {"risk": {"init_args": {"factor": 0.0}}}}}}
        trained = main(["fit", "-c", file, "-c", write_yaml(Path("override.yaml"), {"model": changed})])
        assert float(trained.trainer.callback_metrics["val_num_queries"]) == 1  # nothing to gain: nobody else is asked
