import copy
import warnings
from functools import partial

import pytest
import torch
from helpers import tiny
from lightning.pytorch.callbacks import BatchSizeFinder, Callback, LearningRateFinder, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from thirdparty.acorl import Weighted
from torch import nn
from torch.nn import functional as F

from lightning_fusion import ACoRLModule, Expert, ExpertModule
from lightning_fusion.acorl.arguments import PAPER
from lightning_fusion.acorl.dissimilarity import Dissimilarity, MeanSquaredError, StandardizedResidualMSE
from lightning_fusion.acorl.diversity import ErrorDiversity, ErrorReweighting
from lightning_fusion.data.tensors import TensorDataModule
from lightning_fusion.encoders import SmallConvNet
from lightning_fusion.errors import InputError
from lightning_fusion.experts.pool import scatter
from lightning_fusion.schedules import Constant, DANNRamp, Linear, Schedule

SGD = partial(torch.optim.SGD, lr=0.5)
EXPERTS = tiny.experts(features="body")
INNER = {"adversary_steps": 2}
JOINT = PAPER | {"dissimilarity": MeanSquaredError}


def module(experts=None, **arguments) -> ACoRLModule:
    experts = copy.deepcopy(EXPERTS) if experts is None else experts
    torch.manual_seed(0)
    given = {"network": tiny.Net, "features": "body", "classes": tiny.CLASSES, "optimizer": SGD} | arguments
    return ACoRLModule(experts=experts, **given)


def plain(**arguments) -> ExpertModule:
    torch.manual_seed(0)
    given = {"network": tiny.Net, "classes": tiny.CLASSES, "features": "body", "optimizer": SGD} | arguments
    return ExpertModule(**given)


def fit(made, epochs: int = 2, data=None, **arguments):
    torch.manual_seed(3)
    trainer = tiny.trainer(epochs, **arguments)
    trainer.fit(made, datamodule=data or tiny.data(batch_size=6))
    return trainer


class TestStep:
    @pytest.mark.parametrize("strength", [0.4, 1.0])
    def test_equals_a_hand_written_loop(self, strength):
        """With autograd's gradients of each part on detached copies, put together by the formulas."""
        made = module(schedule=Constant(strength), **JOINT)
        torch.manual_seed(3)
        trainer = tiny.trainer(1, max_steps=0)
        trainer.fit(made, datamodule=tiny.data(batch_size=6))  # makes the projections, takes no step
        body, head, projections = (
            copy.deepcopy(part) for part in (made.network.body, made.network.head, made.adversary.projections)
        )
        start = copy.deepcopy(made.state_dict())
        again = module(schedule=Constant(strength), **JOINT)
        again._build(made.adversary.num_features, made.adversary.sizes)
        again.load_state_dict(start)
        fit(again, 2)
        optimizer = torch.optim.SGD([*body.parameters(), *head.parameters(), *projections.parameters()], lr=0.5)
        data = tiny.data(batch_size=6)
        batches = []
        for epoch in range(2):
            loader = data.train_dataloader()
            loader.sampler.set_epoch(epoch)
            batches += list(loader)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=len(batches))
        for batch in batches:
            optimizer.zero_grad()
            z = body(batch.input)
            task_z, own_z = z.detach().requires_grad_(), z.detach().requires_grad_()
            F.cross_entropy(head(task_z), batch.target).backward()
            unlike = []
            for name, expert in EXPERTS.items():
                with torch.no_grad():
                    v = expert.network.body(batch.input)
                unlike.append((projections[name](own_z) - v).square().mean())
            (sum(unlike) / len(unlike)).backward()
            z.backward(task_z.grad - strength * own_z.grad)
            optimizer.step()
            schedule.step()
        for ours, theirs in (
            (again.network.body, body),
            (again.network.head, head),
            (again.adversary.projections, projections),
        ):
            for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
                torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)

    @pytest.mark.slow
    @pytest.mark.parametrize("clip", [None, 0.05])
    def test_a_strength_of_nothing_is_the_plain_training_bit_for_bit(self, clip):
        network = partial(tiny.Net, norm=True, dropout=0.3)
        ordinary = plain(network=network)
        fit(ordinary, 3, gradient_clip_val=clip)
        for training in (PAPER, INNER):
            control = module(network=network, schedule=Constant(0.0), **training)
            fit(control, 3, gradient_clip_val=clip)
            assert tiny.same(control.network, ordinary.network)
        pushed = module(network=network)
        fit(pushed, 3, gradient_clip_val=clip)
        assert not tiny.same(pushed.network, ordinary.network)

    def test_experts_stay_as_they_are(self):
        experts = copy.deepcopy(EXPERTS)
        made = module(experts)
        fit(made)
        for name, expert in experts.items():
            assert tiny.same(expert, EXPERTS[name])
            assert not expert.network.training
            assert all(weight.grad is None for weight in expert.parameters())

    @pytest.mark.slow
    def test_reversal_makes_the_representation_harder_to_predict(self):
        """What ACoRL is for: a projection fitted afterwards explains less of v than for the control arm."""
        left = {}
        for strength in (0.0, 3.0):
            rows = {"train": 300, "val": 30, "test": 300}
            made = module(schedule=Constant(strength), optimizer=partial(torch.optim.Adam, lr=0.01))
            fit(made, 25, tiny.data(rows=rows, batch_size=75))
            inputs = tiny.tensors(rows=rows)["test"][0]
            z = made.eval().forward_with_representations(inputs)[1].detach().double()
            z = torch.cat([z, torch.ones(len(z), 1)], 1)
            errors = 0.0
            for v in made.pool.representations(inputs).values():
                v = v.double()
                residual = v - z @ torch.linalg.lstsq(z, v).solution
                errors += float(residual.square().sum() / (v - v.mean(0)).square().sum())
            left[strength] = errors
        assert left[3.0] > 1.2 * left[0.0]

    def test_two_groups_are_clipped_by_themselves(self):
        norms = []

        class Spy(torch.optim.SGD):
            def step(self, closure=None):
                closure()
                norms.append([torch.stack([w.grad.norm() for w in g["params"]]).norm() for g in self.param_groups])

        made = module(schedule=Constant(1.0), optimizer=partial(Spy, lr=0.1), **PAPER)
        fit(made, 1, gradient_clip_val=1e-3)
        found = torch.tensor(norms)
        assert found.shape == (4, 2)
        torch.testing.assert_close(found, torch.full_like(found, 1e-3), rtol=1e-3, atol=1e-7)

    def test_inner_steps_equal_a_hand_written_loop(self):
        """Two steps of Adam on detached z, then a step of the network against the bounded, reversed error."""
        made = module(schedule=Constant(0.7), **INNER)
        fit(made, 1, max_steps=0)  # makes the projections, takes no step
        made.adversary.load_state_dict(
            {name: value.zero_() if "dissim" in name else value for name, value in made.adversary.state_dict().items()}
        )
        start, ours = copy.deepcopy(made.network), module(schedule=Constant(0.7), **INNER)
        ours._build(made.adversary.num_features, made.adversary.sizes)
        ours.load_state_dict(copy.deepcopy(made.state_dict()))
        data = tiny.data(rows={"train": 24, "val": 3, "test": 3}, batch_size=24)
        fit(ours, 1, data)

        input, target, _ = tiny.tensors(rows={"train": 24, "val": 3, "test": 3})["train"]
        classes, residuals = F.one_hot(target, 3).float(), {}
        for name, expert in EXPERTS.items():
            with torch.no_grad():
                v = expert.network.body(input).double()
            means = torch.stack([v[target == c].mean(0) for c in range(3)])
            centered = v - means[target]
            deviation = centered.square().mean(0).sqrt()
            residuals[name] = torch.where(deviation > 1e-4, centered / deviation, 0).float(), (deviation > 1e-4).float()

        def errors(z):
            rows = torch.cat([F.layer_norm(z, (z.shape[1],)), classes], 1)
            return {
                name: ((made.adversary.projections[name](rows) - r).square() @ varies / varies.sum())
                for name, (r, varies) in residuals.items()
            }

        z = start.body(input)
        weights = list(made.adversary.projections.parameters())
        for weight in weights:
            weight.requires_grad_(True)
        optimizer = torch.optim.Adam(weights, lr=3e-3)
        for _ in range(2):
            optimizer.zero_grad()
            sum(error.mean() for error in errors(z.detach()).values()).backward()
            optimizer.step()
        own = z.detach().requires_grad_()
        bounds = {name: r.square() @ varies / varies.sum() for name, (r, varies) in residuals.items()}
        bounded = sum(torch.minimum(error, bounds[name]).mean() for name, error in errors(own).items()) / 2
        (reversed_gradient,) = torch.autograd.grad(bounded, own)
        task_z = z.detach().requires_grad_()
        F.cross_entropy(start.head(task_z), target).backward()
        z.backward(task_z.grad - 0.7 * reversed_gradient)
        for one, other in zip(ours.adversary.projections.parameters(), weights, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
        before = dict(made.network.named_parameters())
        for name, weight in start.named_parameters():
            found, expected = dict(ours.network.named_parameters())[name], before[name] - 0.5 * weight.grad
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)

    @pytest.mark.slow
    def test_projections_steps_are_none_of_the_trainers(self):
        """Steps, clipping and accumulation concern the network; the projections learn what z tells."""
        made = module(schedule=Constant(0.0), **INNER)
        rows = {"train": 240, "val": 3, "test": 3}
        trainer = fit(
            made, 12, tiny.data(rows=rows, batch_size=24), accumulate_grad_batches=2, gradient_clip_val=1e-9,
            log_every_n_steps=1,
        )  # fmt: skip
        assert trainer.global_step == 60
        steps = {int(entry["step"]) for entry in made._inner.optimizer.state.values()}
        assert steps == {12 * 10 * 2}
        assert 0.2 < float(trainer.callback_metrics["train_expert_a_r2"]) < 1
        assert not any(weight.requires_grad for weight in made.adversary.parameters())

    @pytest.mark.slow
    def test_accumulated_and_in_bfloat16(self):
        full, half = (module(schedule=Constant(0.5), **INNER) for _ in range(2))
        fit(full, 2, accumulate_grad_batches=2)
        fit(half, 2, accumulate_grad_batches=2, precision="bf16-mixed")
        for ours, theirs in zip(half.network.parameters(), full.network.parameters(), strict=True):
            assert ours.dtype == torch.float32
            torch.testing.assert_close(ours, theirs, atol=0.05, rtol=0)
        assert all(weight.dtype == torch.float32 for weight in half.adversary.parameters())

    @pytest.mark.slow
    @pytest.mark.parametrize("precision", ["16-true", "bf16-true", "64-true"])
    def test_in_another_precision_throughout(self, precision):
        made = module(schedule=Constant(0.5), **INNER)
        fit(made, 12, precision=precision)
        weights = made.network.head.weight
        kinds = {"16-true": torch.float16, "bf16-true": torch.bfloat16, "64-true": torch.float64}
        assert weights.dtype == kinds[precision]
        assert all(weight.isfinite().all() for weight in made.network.parameters())
        assert float(made.adversary.dissimilarities["a"].count.sum()) == 12 * tiny.ROWS["train"]

    @pytest.mark.slow
    def test_compiled_networks_train_as_others(self):
        def compiled(num_classes):
            return torch.compile(tiny.Net(num_classes), backend="eager")

        experts = copy.deepcopy(EXPERTS)
        experts["a"].network = torch.compile(experts["a"].network, backend="eager")
        experts["b"].network.compile(backend="eager")
        made, plainly = module(experts, network=compiled, schedule=Constant(0.5)), module(schedule=Constant(0.5))
        fit(made)
        fit(plainly)
        for ours, theirs in zip(made.network.parameters(), plainly.network.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs)

    def test_mixed_images_are_what_the_experts_see(self):
        images = {split: (torch.rand(24, 1, 8, 8), torch.arange(24) % 3) for split in ("train", "val")}
        asked = []

        class Spy(SmallConvNet):
            def forward(self, images):
                asked.append(images.detach().clone())
                return super().forward(images)

        network = partial(SmallConvNet, width=2, in_channels=1)
        expert = Expert(Spy(3, width=2, in_channels=1), classes=tiny.CLASSES, features="pool")
        made = module({"a": expert}, network=network, features="pool", mixup=0.8)
        fit(made, 1, TensorDataModule(images, tiny.CLASSES, batch_size=24), limit_val_batches=0)
        assert not any((asked[-1][0] == image).all() for image in images["train"][0])


class TestSchedule:
    def test_follows_the_trainers_steps(self, tmp_path):
        made = module(schedule=Linear(0.0, 8.0))
        logger = CSVLogger(tmp_path)
        fit(made, 2, logger=logger, log_every_n_steps=1)  # 4 steps an epoch
        logger.save()
        lines = (tmp_path / "lightning_logs/version_0/metrics.csv").read_text().splitlines()
        place = lines[0].split(",").index("train_lambda")
        assert [float(line.split(",")[place]) for line in lines[1:] if line.split(",")[place]] == list(range(8))

    @pytest.mark.slow
    @pytest.mark.parametrize("training", [PAPER, INNER], ids=["joint", "inner"])
    def test_a_resumed_run_continues_it_bit_for_bit(self, training, tmp_path):
        network = partial(tiny.Net, norm=True, dropout=0.2)
        whole = module(network=network, **training)
        fit(whole, 4)
        keep = ModelCheckpoint(tmp_path, save_top_k=-1, filename="{epoch}")
        first = module(network=network, **training)
        fit(first, 4, callbacks=[keep], enable_checkpointing=True)
        resumed = module(network=network, **training)
        torch.manual_seed(99)
        trainer = tiny.trainer(4)
        trainer.fit(resumed, datamodule=tiny.data(batch_size=6), ckpt_path=tmp_path / "epoch=1.ckpt", weights_only=True)
        assert tiny.same(resumed, whole)
        assert trainer.global_step == 16

    @pytest.mark.slow
    def test_a_run_that_stops_before_the_ramp_is_up_says_so(self):
        class Stop(Callback):
            def on_train_epoch_end(self, trainer, pl_module):
                trainer.should_stop = trainer.current_epoch == 1

        with pytest.warns(UserWarning, match=r"after 10% of its steps, when the strength .* was 0.8 of 8;"):
            fit(module(schedule=Linear(0.0, 8.0)), 20, callbacks=[Stop()])
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*the strength of the reversal was.*")
            fit(module(schedule=Linear(0.0, 8.0)), 2)

    def test_a_run_without_end_needs_its_length(self):
        made = module(scheduler=partial(torch.optim.lr_scheduler.ConstantLR, factor=1.0))
        with pytest.raises(InputError, match="a run without an end has no progress; set ramp_steps"):
            fit(made, -1, max_time="00:00:00:02")
        made = module(
            schedule=Linear(0, 1), ramp_steps=2, scheduler=partial(torch.optim.lr_scheduler.ConstantLR, factor=1.0)
        )
        trainer = fit(made, -1, max_steps=5, log_every_n_steps=1)
        assert float(trainer.callback_metrics["train_lambda"]) == 1.0

    @pytest.mark.parametrize(
        ("value", "message"),
        [
            (torch.tensor(1.0), r"Odd gave tensor\(1.\) at progress 0; expected a finite float"),
            (float("nan"), "Odd gave nan at progress 0"),
            (float("inf"), "Odd gave inf"),
            (-0.1, "a negative strength makes the models similar; set allow_imitation"),
            (None, "Odd gave None"),
            (True, "Odd gave True"),
        ],
    )
    def test_values_that_are_no_strength_are_rejected(self, value, message):
        class Odd(Schedule):
            def __call__(self, progress):
                return value

        with pytest.raises(InputError, match=message):
            module(schedule=Odd())

    def test_imitation_on_request(self):
        made = module(schedule=Constant(-0.5), allow_imitation=True)
        assert float(fit(made).callback_metrics["train_lambda"]) == -0.5


class TestEvaluation:
    @pytest.mark.slow
    def test_accuracies_of_all_and_of_the_mean_of_probabilities(self):
        made, data = module(), tiny.data()
        fit(made)
        rows = data.rows("val")
        found = tiny.trainer().validate(made, datamodule=data, verbose=False)[0]
        own = made.eval()(rows.inputs).softmax(1)
        spread = torch.zeros(2, len(own), 3)
        for number, (name, expert) in enumerate(made.pool.members.items()):
            spread[number][:, [tiny.CLASSES.index(c) for c in tiny.EXPERT_CLASSES[name]]] = expert(rows.inputs)
        for key, answer in {
            "val_accuracy": own,
            "val_fused_accuracy": (own + spread.sum(0)) / 3,
            "val_pool_accuracy": spread.mean(0),
            "val_expert_a_accuracy": spread[0],
            "val_expert_b_accuracy": spread[1],
        }.items():
            assert found[key] == pytest.approx((answer.argmax(1) == rows.targets).float().mean().item()), key
        tested = tiny.trainer().test(made, datamodule=data, verbose=False)[0]
        assert {key.replace("test_", "val_") for key in tested} == set(found) - {"val_majority_accuracy"}

    def test_norms_are_those_of_the_two_gradients(self):
        made = module(
            schedule=Constant(2.0),
            optimizer=partial(torch.optim.SGD, lr=0.0),
            **JOINT,
        )
        rows = {"train": 6, "val": 3, "test": 3}
        trainer = fit(made, 1, tiny.data(rows=rows, batch_size=6), log_every_n_steps=1)
        input, target, _ = tiny.tensors(rows=rows)["train"]
        made.train()
        z = made.network.body(input).detach().requires_grad_()
        task = torch.autograd.grad(F.cross_entropy(made.network.head(z), target), z)[0].norm()
        v = made.pool.representations(input)
        unlike = sum((made.adversary.projections[name](z) - v[name]).square().mean() for name in v) / 2
        turned = 2 * torch.autograd.grad(unlike, z)[0].norm()
        assert float(trainer.callback_metrics["train_task_gradient_norm"]) == pytest.approx(float(task), rel=1e-4)
        assert float(trainer.callback_metrics["train_reversed_gradient_norm"]) == pytest.approx(float(turned), rel=1e-4)


class Dead(nn.Linear):
    """A projection that nothing reaches after a ReLU: its output does not depend on its weights."""

    def forward(self, z):
        return super().forward(z).clamp(1e6, 1e6 + 1)


class Odd(nn.Module):
    """Layers that cannot be tapped."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.spare, self.pair, self.single = (
            nn.Linear(4, 4),
            nn.LSTM(4, 5),
            nn.Sequential(nn.Linear(4, 1), nn.Flatten(0)),
        )
        self.dead, self.head = nn.Threshold(1e6, 0.0), nn.Linear(5, num_classes)

    def forward(self, input):
        return self.head(self.pair(input)[0] + self.single(input)[:, None] + self.dead(input)[:, :1])


def odd_expert(layer: str) -> dict[str, Expert]:
    return {"a": Expert(Odd(3), classes=tiny.CLASSES, features=layer)}


class Unreduced(Dissimilarity):
    def measure(self, projected, representation, target):
        return (projected - representation).abs().mean(1)


class Own(nn.Module):
    """A loss that returns a mean alone."""

    def forward(self, logits, target):
        return F.cross_entropy(logits, target)


class NoNumber(Dissimilarity):
    def measure(self, projected, representation, target):
        return (projected * 0 / 0).mean()


class TestChecks:
    @pytest.mark.slow
    def test_the_check_at_the_start_leaves_no_trace(self, monkeypatch):
        network = partial(tiny.Net, norm=True, dropout=0.3)
        checked, unchecked = module(network=network, **INNER), module(network=network, **INNER)
        fit(checked)
        monkeypatch.setattr(ACoRLModule, "_check_reversal", lambda self, batch: None)
        fit(unchecked)
        assert tiny.same(checked, unchecked)

    def test_a_detached_layer_is_rejected(self):
        class Cut(nn.Module):
            def __init__(self, num_classes):
                super().__init__()
                self.body, self.head = nn.Flatten(), nn.Linear(4, num_classes)

            def forward(self, input):
                return self.head(self.body(input))

        for network in (Cut,):
            with pytest.raises(
                (InputError, RuntimeError), match=r"no gradient of the projections reaches|require grad"
            ):
                fit(module(network=network))

    def test_a_projection_with_dropout_passes(self):
        made = module(projection=lambda a, b: nn.Sequential(nn.Dropout(0.4), nn.Linear(a, b)))
        assert fit(made).global_step == 8

    @pytest.mark.slow
    def test_a_resumed_run_whose_first_rows_are_of_one_class_passes(self, tmp_path):
        """The mean of all rows so far is not that of the rows that are looked at."""
        split = {name: list(parts) for name, parts in tiny.tensors(rows={"train": 200, "val": 9}).items()}
        order = split["train"][1].argsort()
        split["train"] = [part[order] for part in split["train"]]
        data = TensorDataModule(split, tiny.CLASSES, tiny.DOMAINS, batch_size=20)
        fit(module(), 2, data).save_checkpoint(tmp_path / "m.ckpt")
        trainer = tiny.trainer(3)
        trainer.fit(module(), data, ckpt_path=tmp_path / "m.ckpt", weights_only=True)
        assert trainer.global_step == 30

    def test_a_branch_that_does_not_reverse_is_rejected(self):
        class Forward(ACoRLModule):
            def complementarity(self, z, representations, target, strength):
                return super().complementarity(z, representations, target, -abs(strength))

        torch.manual_seed(0)
        made = Forward(tiny.Net, copy.deepcopy(EXPERTS), "body", classes=tiny.CLASSES)
        with pytest.raises(InputError, match="the gradient at the representation is not reversed"):
            fit(made)

    @pytest.mark.slow
    def test_a_dead_projection_is_named_once(self):
        live = {"projection": lambda a, b: nn.Linear(a, b)}
        made = module(schedule=Constant(0.0), projection=Dead)
        with pytest.warns(UserWarning, match="the projection onto expert a gets no gradient"):
            fit(made, 2, log_every_n_steps=1)
        assert made._warned == {"a", "b"}
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*gets no gradient.*")
            fit(module(**live), 2, log_every_n_steps=1)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"features": "bod"}, r"the network has no layer 'bod'; its layers: body.*head"),
            ({"ramp_steps": 0}, "ramp_steps is 0"),
            ({"adversary_steps": True}, "adversary_steps is True; expected a number of at least 0"),
            ({"adversary_steps": 2.5}, "adversary_steps is 2.5; expected a number of at least 0"),
            ({"layer_norm": "false"}, "layer_norm is 'false'; expected true or false"),
            ({"adversary_steps": -1}, "adversary_steps is -1; expected a number of at least 0"),
            (
                PAPER | {"adversary_optimizer": SGD},
                "adversary_optimizer: with adversary_steps 0 .*; set adversary_optimizer to null",
            ),
            ({"diversity": ["ErrorDiversity"]}, "diversity: found 'ErrorDiversity'; expected terms such as"),
            (
                {"diversity": [ErrorReweighting()], "loss": Own()},
                "ErrorReweighting weighs samples, and Own has no redu",
            ),
            ({"experts": {}}, "the pool is empty"),
            ({"experts": tiny.experts()}, r"expert a has no layer None; its layers: body"),
            ({"classes": ["cat", "dog"]}, "expert b has owl, which the task's classes"),
            ({"schedule": 0.5}, r"schedule is 0.5; expected a schedule such as schedules.Constant\(1.0\)"),
            ({"network": EXPERTS["a"].network, "experts": EXPERTS}, "all of its weights are those of frozen experts"),
        ],
    )
    def test_rejected(self, arguments, message):
        with pytest.raises(InputError, match=message):
            module(**arguments)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"network": Odd, "features": "spare"}, "the network does not call its layer 'spare'"),
            (
                {"network": Odd, "features": "pair"},
                "the layer 'pair' returns a tuple; set it to one that returns a tensor",
            ),
            ({"network": Odd, "features": "single"}, r"the layer 'single' returns \(24,\)"),
            (
                {"experts": odd_expert("spare")},
                "does not call its layer 'spare'",
            ),
            (
                {"experts": odd_expert("pair")},
                "the layer 'pair' returns a tuple",
            ),
            (
                {"experts": odd_expert("dead")},
                "the representation of a is the same for all of the first 24 training samples",
            ),
            (
                {"dissimilarity": MeanSquaredError(5, 3)},
                "found an instance of MeanSquaredError; give its class",
            ),
            ({"dissimilarity": "CenteredCosine"}, "dissimilarity: found an instance of str; give its class"),
            ({"projection": lambda a, b: nn.Identity()}, "projection: found no weights, so that steps of their own"),
            ({"network": partial(tiny.Net, hidden=1)}, "layer_norm: normalizing a representation of size 1 leaves"),
            ({"network": partial(tiny.Net, hidden=2)}, "size 2 leaves its sign at most; set layer_norm to false"),
            ({"adversary_optimizer": "adam"}, "adversary_optimizer: found an instance of str; give its class, such as"),
            ({"adversary_optimizer": partial(torch.optim.Adam, lr=-1.0)}, "adversary_optimizer: Invalid learning rate"),
            ({"adversary_optimizer": torch.optim.LBFGS}, "adversary_optimizer: LBFGS computes its loss several times"),
            ({"adversary_optimizer": lambda weights: None}, "adversary_optimizer: it returned a NoneType; expected"),
            ({"optimizer": "adam"}, "optimizer: found an instance of str; give its class"),
            ({"projection": nn.Linear(5, 5)}, "projection: found an instance of Linear; give its class"),
            ({"dissimilarity": lambda a, b: nn.MSELoss()}, "dissimilarity: MSELoss is no acorl.dissimilarity"),
            ({"dissimilarity": Unreduced}, r"dissimilarity: Unreduced gave shape \(24,\); expected one number"),
            ({"dissimilarity": NoNumber}, "dissimilarity: its gradient at the representation is NaN"),
            (
                {"projection": lambda a, b: nn.Linear(a, b + 1)},
                r"found an output of shape \(24, 6\); expected \(24, 5\)",
            ),
        ],
    )
    def test_rejected_on_the_first_rows(self, arguments, message):
        with pytest.raises(InputError, match=message):
            fit(module(**arguments))

    @pytest.mark.parametrize(
        ("settings", "weights", "message"),
        [
            ({}, lambda made: made.parameters(), "configure_optimizers: the projections have 5 steps of their own"),
            (
                PAPER,
                lambda made: made.network.parameters(),
                "adversary_steps 0 the projections are trained jointly: give",
            ),
        ],
    )
    def test_optimizers_of_a_subclass_train_the_projections_once(self, settings, weights, message):
        class Plain(ACoRLModule):
            def configure_optimizers(self):
                return [torch.optim.SGD(weights(self), lr=0.1)]

        with pytest.raises(InputError, match=message):
            fit(Plain(tiny.Net, copy.deepcopy(EXPERTS), "body", classes=tiny.CLASSES, **settings))

    def test_a_single_sample_of_each_class_is_said(self):
        """Nothing is left beyond the class: the reversal has no effect, which R2 alone does not tell."""
        classes = [f"c{number}" for number in range(24)]
        experts = {"a": Expert(tiny.Net(24), classes=classes, features="body")}
        data = TensorDataModule(
            {"train": (torch.randn(24, 4), torch.arange(24)), "val": (torch.randn(3, 4), torch.arange(3))}, classes
        )
        with pytest.warns(UserWarning, match="representation of expert a does not vary within the classes"):
            fit(module(experts, classes=classes), 1, data)
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*does not vary within.*")
            whole = partial(StandardizedResidualMSE, conditional=False)
            fit(module(experts, classes=classes, dissimilarity=whole), 1, data)

    @pytest.mark.slow
    @pytest.mark.parametrize("tuner", [partial(LearningRateFinder, num_training_steps=3), BatchSizeFinder])
    def test_callbacks_that_try_settings_leave_no_trace(self, tuner, tmp_path):
        """They train the module, projections included, and restore it."""
        data = [tiny.data(batch_size=4) for _ in range(2)]
        tried, ordinary = (module(optimizer=partial(torch.optim.SGD, lr=0.1)) for _ in range(2))
        callback = tuner() if tuner is not BatchSizeFinder else tuner(max_trials=1, init_val=4)
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*gets no gradient.*")
            fit(tried, 2, data[0], callbacks=[callback], default_root_dir=tmp_path, log_every_n_steps=1)
        found = tried._lr
        if found is not None:
            ordinary.lr = found
        ordinary_data = data[1] if tuner is not BatchSizeFinder else tiny.data(batch_size=data[0].batch_size)
        fit(ordinary, 2, ordinary_data)
        assert tiny.same(tried, ordinary)

    def test_an_empty_training_split_is_rejected(self):
        with pytest.raises(InputError, match="data: the training split has no samples"):
            fit(module(), data=tiny.data(rows={"train": 0, "val": 3}))

    def test_a_representation_that_is_no_number_is_named(self):
        experts = copy.deepcopy(EXPERTS)
        with torch.no_grad():
            experts["b"].network.body[0].bias.fill_(float("nan"))
        with pytest.raises(InputError, match="the representation of expert b is NaN or infinite in row"):
            fit(module(experts))


class TestCheckpoint:
    def test_is_an_expert_and_leaves_the_others_out(self, tmp_path):
        made = module()
        trainer = fit(made)
        trainer.save_checkpoint(tmp_path / "m.ckpt")
        content = torch.load(tmp_path / "m.ckpt", weights_only=True)
        assert not any(name.startswith("pool.") for name in content["state_dict"])
        assert {name: fact["fingerprint"] for name, fact in content["experts"].items()} == {
            name: expert.fingerprint for name, expert in EXPERTS.items()
        }
        expert = Expert(checkpoint=str(tmp_path / "m.ckpt"))
        input = torch.randn(5, 4)
        torch.testing.assert_close(expert(input), made.eval()(input).softmax(1))
        torch.testing.assert_close(
            expert.forward_with_representations(input)[1], made.forward_with_representations(input)[1]
        )

    @pytest.mark.slow
    def test_is_loaded_with_the_same_experts_alone(self, tmp_path):
        made = module()
        fit(made).save_checkpoint(tmp_path / "m.ckpt")
        loaded = ACoRLModule.load_from_checkpoint(
            tmp_path / "m.ckpt", weights_only=True, experts=copy.deepcopy(EXPERTS)
        )
        assert tiny.same(loaded, made)
        others = tiny.experts(seed=5, features="body")
        with pytest.raises(InputError, match="the model was trained with expert a of fingerprint"):
            ACoRLModule.load_from_checkpoint(tmp_path / "m.ckpt", weights_only=True, experts=others)

    @pytest.mark.slow
    def test_of_a_subclass_that_passes_everything_on_holds_no_expert(self, tmp_path):
        made = Weighted(
            {"a": 2.0}, network=tiny.Net, experts=copy.deepcopy(EXPERTS), features="body", classes=tiny.CLASSES
        )
        assert made.hparams["experts"] is None
        fit(made).save_checkpoint(tmp_path / "m.ckpt")
        loaded = Weighted.load_from_checkpoint(tmp_path / "m.ckpt", weights_only=True, experts=copy.deepcopy(EXPERTS))
        assert tiny.same(loaded, made) and loaded.weights == {"a": 2.0}

    def test_of_a_run_against_other_experts_is_rejected(self, tmp_path):
        fit(module({"a": copy.deepcopy(EXPERTS["a"])})).save_checkpoint(tmp_path / "m.ckpt")
        with pytest.raises(InputError, match="experts: the model was trained against a; found a, b"):
            tiny.trainer(4).fit(module(), tiny.data(), ckpt_path=tmp_path / "m.ckpt", weights_only=True)

    @pytest.mark.slow
    def test_of_the_other_kind_of_training_is_rejected(self, tmp_path):
        fit(module(**PAPER)).save_checkpoint(tmp_path / "joint.ckpt")
        fit(module()).save_checkpoint(tmp_path / "inner.ckpt")
        for made, path in ((module(), "joint"), (module(**PAPER), "inner")):
            with pytest.raises(InputError, match=r"adversary_steps is \d; the checkpoint is of a run with"):
                tiny.trainer(4).fit(made, tiny.data(), ckpt_path=tmp_path / f"{path}.ckpt", weights_only=True)

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"layer_norm": False}, "layer_norm is False; the checkpoint is of a run with True"),
            ({"dissimilarity": MeanSquaredError}, "projection, dissimilarity: the checkpoint has projections of other"),
            ({"projection": nn.Linear}, "projection, dissimilarity: the checkpoint has projections of other sizes"),
            ({"adversary_optimizer": SGD}, "adversary_optimizer is SGD; the checkpoint is of a run with Adam"),
        ],
    )
    def test_of_other_settings_is_rejected(self, settings, message, tmp_path):
        fit(module()).save_checkpoint(tmp_path / "m.ckpt")
        with pytest.raises(InputError, match=message):
            tiny.trainer(4).fit(module(**settings), tiny.data(), ckpt_path=tmp_path / "m.ckpt", weights_only=True)

    @pytest.mark.slow
    @pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
    def test_a_run_in_another_precision_is_resumed(self, precision, tmp_path):
        """The experts are those that were given, not as they were converted; float64 is restored as float32."""
        kept = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
        whole, resumed = module(), module()
        fit(whole, 3, precision=precision, callbacks=[kept], enable_checkpointing=True)
        trainer = tiny.trainer(3, precision=precision)
        trainer.fit(resumed, tiny.data(batch_size=6), ckpt_path=tmp_path / "epoch=0.ckpt", weights_only=True)
        for one, other in zip(whole.network.parameters(), resumed.network.parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0 if precision == "bf16-true" else 1e-4)

    @pytest.mark.slow
    def test_validated_it_stays_resumable(self, tmp_path):
        fit(module()).save_checkpoint(tmp_path / "m.ckpt")
        loaded = ACoRLModule.load_from_checkpoint(
            tmp_path / "m.ckpt", weights_only=True, experts=copy.deepcopy(EXPERTS)
        )
        trainer = tiny.trainer()
        trainer.validate(loaded, tiny.data(), verbose=False)
        trainer.save_checkpoint(tmp_path / "again.ckpt")
        ACoRLModule.load_from_checkpoint(tmp_path / "again.ckpt", weights_only=True, experts=copy.deepcopy(EXPERTS))

    @pytest.mark.slow
    def test_schedule_and_parts_come_back(self, tmp_path):
        made = module(schedule=DANNRamp(0.3, steepness=5.0), dissimilarity=MeanSquaredError)
        fit(made).save_checkpoint(tmp_path / "m.ckpt")
        loaded = ACoRLModule.load_from_checkpoint(
            tmp_path / "m.ckpt", weights_only=True, experts=copy.deepcopy(EXPERTS)
        )
        assert loaded.schedule == DANNRamp(0.3, steepness=5.0)
        assert all(isinstance(part, MeanSquaredError) for part in loaded.adversary.dissimilarities.values())

    @pytest.mark.slow
    def test_a_chain_costs_as_much_for_each_member(self, tmp_path):
        sizes, experts = [], {}
        for number in range(4):
            if experts:
                made = module(copy.deepcopy(experts), network=partial(tiny.Net, hidden=64))
            else:
                made = plain(network=partial(tiny.Net, hidden=64))
            fit(made, 1).save_checkpoint(tmp_path / f"{number}.ckpt", weights_only=True)
            sizes.append((tmp_path / f"{number}.ckpt").stat().st_size)
            experts[f"m{number}"] = Expert(checkpoint=str(tmp_path / f"{number}.ckpt"))
        one_projection = 2 * 4 * (64 * 64 + 64)  # two float32 layers
        assert sizes[3] - sizes[1] < one_projection / 10

    @pytest.mark.slow
    def test_weights_alone_are_loaded_with_and_without_projections_at_hand(self, tmp_path):
        made = module()
        fit(made).save_checkpoint(tmp_path / "m.ckpt", weights_only=True)
        fresh = ACoRLModule.load_from_checkpoint(tmp_path / "m.ckpt", weights_only=True, experts=copy.deepcopy(EXPERTS))
        assert fresh.adversary is None and tiny.same(fresh.network, made.network)
        other = module(network=partial(tiny.Net, hidden=5, dropout=0.1))
        fit(other)
        projections = copy.deepcopy(other.adversary)
        tiny.trainer().test(other, tiny.data(), ckpt_path=tmp_path / "m.ckpt", weights_only=True, verbose=False)
        assert tiny.same(other.network, made.network) and tiny.same(other.adversary, projections)


class Halved(Dissimilarity):
    """A user's own."""

    def measure(self, projected, representation, target):
        return (projected - representation).abs().mean() / 2


class TestDiversity:
    def test_equals_plain_training_with_weights_and_penalty(self):
        """With strength 0: the gradient of the weighted loss and the penalty, on one batch of all rows."""
        terms = [ErrorReweighting(5.0), ErrorDiversity(3.0)]
        made = module(schedule=Constant(0.0), diversity=terms)
        start = copy.deepcopy(made.network)
        rows = {"train": 24, "val": 3, "test": 3}
        trainer = fit(made, 1, tiny.data(rows=rows, batch_size=24), log_every_n_steps=1)
        input, target, _ = tiny.tensors(rows=rows)["train"]
        answers = made.pool(input)
        spread = torch.stack(
            [
                scatter(answers[name], [[tiny.CLASSES.index(c) for c in tiny.EXPERT_CLASSES[name]]], 3)[:, 0]
                for name in "ab"
            ]
        ).mean(0)
        logits = start(input)
        weights = torch.where(spread.argmax(1) == target, 1.0, 5.0)
        assert 0 < (weights == 5).sum() < 24
        task = (weights * F.cross_entropy(logits, target, reduction="none")).sum() / weights.sum()
        wrong = 1 - F.one_hot(target, 3)
        penalty = 3 * (wrong * spread * logits.softmax(1)).sum(1).mean()
        (task + penalty).backward()
        expected = {name: weight - 0.5 * weight.grad for name, weight in start.named_parameters()}
        for name, weight in made.network.named_parameters():
            torch.testing.assert_close(weight, expected[name], rtol=1e-4, atol=1e-6)
        assert float(trainer.callback_metrics["train_diversity_loss"]) == pytest.approx(float(penalty), rel=1e-4)

    @pytest.mark.slow
    def test_combines_with_the_reversal_mixing_and_missing_labels(self):
        images = {split: (torch.rand(24, 1, 8, 8), torch.arange(24) % 3) for split in ("train", "val")}
        network = partial(SmallConvNet, width=2, in_channels=1)
        expert = Expert(network(3), classes=tiny.CLASSES, features="pool")
        given = {"network": network, "features": "pool", "diversity": [ErrorDiversity(), ErrorReweighting()], **INNER}
        mixed = module({"a": expert}, mixup=0.8, **given)
        fit(mixed, 2, TensorDataModule(images, tiny.CLASSES, batch_size=12))
        input, target = images["train"]
        some = TensorDataModule({"train": (input, target.where(target > 0, -100)), "val": images["val"]}, tiny.CLASSES)
        fit(module({"a": expert}, **given), 2, some)

    @pytest.mark.parametrize("term", [ErrorDiversity, ErrorReweighting])
    @pytest.mark.parametrize("weight", [-1.0, float("inf"), True, "3"])
    def test_weights_that_are_none_are_rejected(self, term, weight):
        with pytest.raises(InputError, match=f"{term.__name__}: weight is .*; expected a number of at least"):
            term(weight)


@pytest.mark.slow
def test_a_users_dissimilarity():
    made = module(dissimilarity=Halved, schedule=Constant(0.5))
    assert float(fit(made, log_every_n_steps=1).callback_metrics["train_expert_a_dissimilarity"]) > 0


def test_bare_loaders_do():
    made, data = module(), tiny.data(batch_size=6)
    tiny.trainer(1).fit(made, data.train_dataloader(), data.val_dataloader())
    assert made.adversary.sizes == {"a": 5, "b": 5}
