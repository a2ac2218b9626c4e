import copy
import warnings
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from helpers import tiny
from lightning import Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.tuner import Tuner
from reference import hat as reference
from thirdparty import plain
from torch import nn
from torch.nn import functional as F

from lightning_fusion import Expert, ExpertModule, ExpertPool, HaTJointModule
from lightning_fusion.data.image.synthetic import SyntheticImageDataModule
from lightning_fusion.data.tensors import TensorDataModule
from lightning_fusion.data.views.target import TargetDataModule
from lightning_fusion.encoders import SmallConvNet
from lightning_fusion.errors import InputError
from lightning_fusion.hat.arguments import PAPER
from lightning_fusion.hat.fitted.base import evidence_of
from lightning_fusion.hat.fitted.choice import cross_fit, make_teacher, sharpen
from lightning_fusion.hat.mixup import Pairs
from lightning_fusion.hat.sources import run_sources
from lightning_fusion.hat.teacher import FixedTeacher

SGD = partial(torch.optim.SGD, lr=0.3)
ROWS = {"train": 60, "val": 30, "test": 40}


def sources() -> dict[str, Expert]:
    """Two sources of other classes and widths, trained a little on rows of their own."""
    torch.manual_seed(0)
    made = {}
    input, target, _ = tiny.tensors(5, {"train": 300})["train"]
    for (name, classes), hidden in zip(tiny.EXPERT_CLASSES.items(), (5, 7), strict=True):
        network = tiny.Net(2, hidden=hidden, norm=True)
        labels = torch.tensor([classes.index(c) if c in classes else -100 for c in tiny.CLASSES])[target]
        optimizer = torch.optim.Adam(network.parameters(), lr=0.05)
        for _ in range(40):
            optimizer.zero_grad()
            F.cross_entropy(network(input), labels).backward()
            optimizer.step()
        made[name] = Expert(network, classes=classes, features="body")
    return made


SOURCES = sources()


def target(batch_size=20, rows=ROWS, share=0.3, min_labeled=4, **tensors) -> TargetDataModule:
    parts = {split: part[:2] for split, part in tiny.tensors(rows=rows).items()}
    data = TensorDataModule(
        {split: (*part, torch.ones(len(part[1]), 1, dtype=torch.bool)) for split, part in parts.items()},
        tiny.CLASSES,
        ["home"],
        batch_size=batch_size,
        **tensors,
    )
    return TargetDataModule(data, "home", labeled_fraction=share, min_labeled=min_labeled)


def module(experts=None, seed=0, **arguments) -> HaTJointModule:
    torch.manual_seed(seed)
    given = {"network": tiny.Net, "features": "body", "classes": tiny.CLASSES}
    given |= PAPER | {"optimizer": SGD, "mixer_optimizer": SGD}
    return HaTJointModule(experts=experts or copy.deepcopy(SOURCES), **(given | arguments))


def fit(made, epochs=2, data=None, seed=3, **arguments):
    torch.manual_seed(seed)
    trainer = tiny.trainer(epochs, **arguments)
    trainer.fit(made, datamodule=data or target())
    return trainer


def batches(data, epochs):
    for epoch in range(epochs):
        loader = data.train_dataloader()
        loader.sampler.set_epoch(epoch)
        yield list(loader)


def begun(**arguments) -> HaTJointModule:
    """A module with its mixer made, before the first step."""
    made = module(**arguments)
    made.threshold = made.threshold if made.threshold is not None else 0.3
    input, index, labels = (target().rows("train")[torch.arange(60)][place] for place in (0, 3, 1))
    made._make_teacher(made._measure(input))
    made.teacher.note_rows(index, labels)
    return made


def stored(made: HaTJointModule) -> dict[str, Any]:
    """What Lightning stores of a module in a training."""
    checkpoint = {"state_dict": made.state_dict(), "hyper_parameters": dict(made.hparams), "optimizer_states": []}
    made.on_save_checkpoint(checkpoint)
    return checkpoint


def remembers(made, data) -> bool:
    """Whether the answers of the sources are remembered in a training."""
    seen = []
    made.on_train_batch_end = lambda *_: seen.append(bool(made._outputs.tables))
    fit(made, 1, data)
    (found,) = set(seen)
    return found


class TestStep:
    @pytest.mark.parametrize("mixing", ["attention", "static"])
    def test_equals_a_hand_written_loop(self, mixing):
        """Two optimizers and two backward passes; losses, dictionary and alpha by the reference's formulas."""
        epochs = 4
        made = module(teacher=mixing, threshold=0.3, clip_norm=0.7)
        start = begun(teacher=mixing)
        made._make_teacher(start.teacher.sizes)
        made.load_state_dict(start.state_dict(), strict=False)
        student, mixer = copy.deepcopy(made.network), copy.deepcopy(made.teacher.mixers[0])
        fit(made, epochs)

        players = [torch.optim.SGD(part.parameters(), lr=0.3) for part in (student, mixer)]
        total = sum(len(part) for part in batches(target(), epochs))
        cosines = [torch.optim.lr_scheduler.CosineAnnealingLR(player, T_max=total) for player in players]
        labels = target().rows("train")[torch.arange(60)].target
        dictionary, best, alpha = np.zeros((60, 3)), 0.0, 0.0
        for epoch in batches(target(), epochs):
            said = {}
            for batch in epoch:
                z = student.body(batch.input)
                features = {name: source.network.body(batch.input) for name, source in SOURCES.items()}
                log_mix = mixer(z.detach(), {name: value.detach() for name, value in features.items()})[1]
                mine = batch.target >= 0
                players[1].zero_grad()
                F.nll_loss(log_mix[mine], batch.target[mine]).backward()
                logits = student.head(z)
                knowledge = torch.tensor(dictionary[batch.index], dtype=torch.float32)
                known = knowledge.sum(1) > 0
                loss = F.cross_entropy(logits[mine], batch.target[mine])
                if known.any():
                    q = logits.log_softmax(1)[known]
                    p = knowledge[known]
                    loss = loss + alpha * (torch.special.xlogy(p, p) - p * q).sum(1).mean()
                players[0].zero_grad()
                loss.backward()
                for player, part in zip(players, (student, mixer), strict=True):
                    nn.utils.clip_grad_norm_(part.parameters(), 0.7)
                    player.step()
                for cosine in cosines:
                    cosine.step()
                said |= dict(zip(batch.index.tolist(), log_mix.detach().exp().numpy(), strict=True))
            right = [said[row].argmax() == labels[row] for row in said if labels[row] >= 0]
            accuracy = float(np.mean(right))
            if accuracy > best:
                best = accuracy
                for row, p in said.items():
                    dictionary[row] = p
            alpha = accuracy if accuracy >= 0.3 else 0.0
        assert best > 0.3 and alpha > 0, "the problem must exercise the dictionary"
        for ours, theirs in ((made.network, student), (made.teacher.mixers[0], mixer)):
            for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
                torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(made.teacher.knowledge.probabilities, dictionary, atol=1e-5)
        assert float(made.teacher.knowledge.best) == pytest.approx(best)
        assert float(made.strength()) == pytest.approx(alpha)

    def test_losses_are_the_formulas(self):
        made = begun(heads="frozen", alpha="fixed", alpha_0=0.6)
        rows = target().rows("train")
        batch = rows[torch.arange(30)]
        said = F.one_hot(batch.target[:20].clamp_min(0), 3) + torch.rand(20, 3)
        made.teacher.knowledge.keep(torch.arange(20), said / said.sum(1, keepdim=True))
        assert made.teacher.knowledge.update()
        logits, z = made.forward_with_representations(batch.input)
        answer = run_sources(made.pool, batch.input, with_scores=True)
        mixed, rows = made.teacher(z.detach(), answer), torch.arange(30)
        fused, student = mixed.mean().detach().numpy(), logits.detach().softmax(1).numpy()
        wanted = reference.cross_entropy(fused, batch.target.numpy())
        assert made.teacher.loss(rows, batch.target, mixed).item() == pytest.approx(wanted, rel=1e-5)
        knowledge, filled = made.teacher.knowledge(rows)
        wanted = reference.cross_entropy(student, batch.target.numpy())
        wanted += 0.6 * reference.divergence(knowledge.numpy(), student)
        found = made.student_losses(logits, batch.target, knowledge, filled)
        assert (found[0] + made.strength() * found[1]).item() == pytest.approx(wanted, rel=1e-5)

    def test_no_gradient_crosses_over(self):
        """The mixer's loss does not reach the student, nor the student's the mixer; the sources get none."""
        made = begun(alpha="fixed", dictionary=False)
        batch = target().rows("train")[torch.arange(30)]
        for player in ("mixer", "student"):
            made.zero_grad()
            logits, z = made.forward_with_representations(batch.input)
            mixed, rows = (
                made.teacher(z.detach(), run_sources(made.pool, batch.input, with_scores=False)),
                torch.arange(30),
            )
            if player == "mixer":
                made.teacher.loss(rows, batch.target, mixed).backward()
            else:
                made.student_losses(logits, batch.target, made.teacher.fused(rows, mixed), True).sum().backward()
            reached = {
                part
                for part in ("network", "teacher", "pool")
                for weight in getattr(made, part).parameters()
                if weight.grad is not None
            }
            assert reached == ({"teacher"} if player == "mixer" else {"network"})

    @pytest.mark.slow
    def test_the_training_detaches(self):
        """Of a run whose mixer may not move the student is that of a run with another mixer's rate, without alpha."""
        results = []
        for rate in (0.0, 0.5):
            made = module(mixer_optimizer=partial(torch.optim.SGD, lr=rate), alpha="fixed", alpha_0=0.0)
            fit(made, 3)
            results.append(made)
        assert tiny.same(results[0].network, results[1].network)
        assert not tiny.same(results[0].teacher, results[1].teacher)

    @pytest.mark.parametrize("heads", ["trained", "frozen"])
    @pytest.mark.parametrize("cache", [True, False])
    def test_sources_stay_as_they_are(self, heads, cache):
        experts = copy.deepcopy(SOURCES)
        made = module(experts, heads=heads, cache=cache)
        before = [copy.deepcopy(head) for head in (made.pool.members["a"].network.head,)]
        fit(made)
        made.train()
        for name, expert in experts.items():
            assert tiny.same(expert, SOURCES[name])
            assert not any(part.training for part in expert.modules())
            assert all(weight.grad is None for weight in expert.parameters())
        if heads == "trained":
            assert not tiny.same(made.teacher.mixers[0].heads["a"], before[0])
            own = {weight.data_ptr() for weight in made.teacher.mixers.parameters()}
            assert not own & {weight.data_ptr() for weight in made.pool.parameters()}
        else:
            assert made.teacher.mixers[0].heads is None

    def test_uncovered_labels_are_left_to_the_student(self):
        experts = {"a": copy.deepcopy(SOURCES["a"])}  # cat and dog alone
        made = module(experts)
        with pytest.warns(UserWarning, match=r"no source has the class\(es\) owl of the target"):
            fit(made, 3)
        assert made.uncovered == ["owl"]
        owls = target().rows("train")[torch.arange(60)].target == 2
        assert owls.any() and not (made.teacher.knowledge.target[owls] >= 0).any()
        assert not made.teacher.knowledge.probabilities[:, 2].any()
        batch = target().rows("train")[torch.arange(60)]
        logits = made(batch.input)
        knowledge, filled = made.teacher.knowledge(torch.arange(60))
        covered = knowledge.numpy() * (~owls).numpy()[:, None]
        wanted = reference.divergence(covered, logits.detach().softmax(1).numpy())
        found = made.student_losses(logits, batch.target, knowledge, filled)[1]
        assert found.item() == pytest.approx(wanted, rel=1e-4)
        weights = made.teacher.mixers[0].heads["a"].weight
        assert weights.isfinite().all()

    def test_classes_that_only_a_source_knows_are_left_out(self):
        torch.manual_seed(0)
        experts = {"wide": Expert(tiny.Net(3), classes=["eel", "dog", "cat"], features="body")}
        made = module(experts, heads="frozen")
        fit(made, 1)
        batch = target().rows("train")[torch.arange(9)]
        raw = experts["wide"].network(batch.input)[:, [2, 1]].softmax(1)
        mixed = made.teacher(
            made.forward_with_representations(batch.input)[1], run_sources(made.pool, batch.input, True)
        )
        torch.testing.assert_close(mixed.mean()[:, :2], raw)


class TestCache:
    @pytest.mark.slow
    def test_with_and_without_it_the_training_is_the_same(self):
        for heads in ("trained", "frozen"):
            kept, asked = module(cache=True, heads=heads), module(cache=False, heads=heads)
            for made in (kept, asked):
                fit(made, 3)
            assert (
                kept.trainer.callback_metrics["val_teacher_accuracy"]
                == asked.trainer.callback_metrics["val_teacher_accuracy"]
            )
            for ours, theirs in zip(kept.parameters(), asked.parameters(), strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)

    @pytest.mark.slow
    def test_every_row_is_asked_about_once(self):
        def counted(cache, epochs):
            experts = {"a": Expert(tiny.CountingNet(2), classes=["cat", "dog"], features="net.body")}
            made = module(experts, cache=cache)
            fit(made, epochs)
            return experts["a"].network.rows

        assert counted(True, 1) == counted(True, 4) < counted(False, 1) + 60
        assert counted(False, 4) > 4 * 60

    @pytest.mark.parametrize("augmentation", [nn.Dropout(0.3), None])
    def test_augmented_batches_are_asked_about_anew(self, augmentation):
        data = SyntheticImageDataModule(role="fuser", fuser_fraction=0.2, batch_size=32, augmentation=augmentation)
        networks = [SmallConvNet(4, width=2)]
        experts = {"a": Expert(networks[0], classes=data.classes, features="pool")}
        made = module(experts, network=partial(SmallConvNet, width=2), features="pool", classes=data.classes)
        assert remembers(made, TargetDataModule(data, "style_2")) == (augmentation is None)
        assert not made._outputs.tables

    def test_noise_without_a_name_is_found_by_the_values(self):
        class Noisy(TensorDataModule):
            def on_after_batch_transfer(self, batch, dataloader_idx):
                noise = 0.1 * torch.randn_like(batch.input) if self.trainer.training else 0
                return batch._replace(input=batch.input + noise)

        data = target()
        data.data.__class__ = Noisy
        assert remembers(module(), target())
        assert not remembers(module(), data)

    def test_bare_loaders_do(self):
        made, data = module(), target()
        tiny.trainer(1).fit(made, data.train_dataloader(), data.val_dataloader())
        assert len(made.teacher.knowledge.index) == 60

    def test_foreign_data_modules_do(self):
        expert = Expert(plain.Encoder(2, 16), classes=["a", "b"], features="head")
        made = module(
            {"x": expert},
            network=partial(plain.Encoder, pixels=16),
            features="head",
            classes=["a", "b"],
            heads="frozen",
        )
        fit(made, 1, plain.Data())
        assert made.teacher.knowledge.filled.all()


class TestOptimization:
    def test_both_optimizers_step_with_every_batch(self):
        made = module()
        trainer = fit(made, 3)
        batches_of_epoch = trainer.num_training_batches
        assert int(made.batches_done) == 3 * batches_of_epoch and made.progress == 1
        assert trainer.global_step == 2 * 3 * batches_of_epoch
        for optimizer in trainer.optimizers:
            assert optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-9)  # the cosine came to its end

    @pytest.mark.parametrize("interval", ["step", "epoch"])
    def test_schedules_step_each_batch_or_each_epoch(self, interval):
        halve = partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5)
        hold = partial(torch.optim.lr_scheduler.ConstantLR, factor=1.0)
        made = module(scheduler=halve, mixer_scheduler=hold, scheduler_interval=interval)
        trainer = fit(made, 2)
        steps = int(made.batches_done) if interval == "step" else 2
        rates = [optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers]
        assert rates == pytest.approx([0.3 * 0.5**steps, 0.3])

    @pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
    def test_clipping_is_exact_for_each_optimizer(self, precision):
        norms = []

        class Spy(torch.optim.SGD):
            def step(self, closure=None):
                if closure is not None:
                    closure()
                weights = [weight.grad for group in self.param_groups for weight in group["params"]]
                norms.append(float(torch.stack([grad.norm() for grad in weights]).norm()))

        made = module(optimizer=partial(Spy, lr=0.1), mixer_optimizer=partial(Spy, lr=0.1), clip_norm=1e-3)
        plugins = {
            "fp16": MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=256.0)),
            "bf16": MixedPrecision("bf16-mixed", "cpu"),
        }
        how = {"plugins": [plugins[precision]]} if precision in plugins else {}
        fit(made, 2, **how)
        assert len(norms) == 2 * int(made.batches_done)
        np.testing.assert_allclose(norms, 1e-3, rtol=1e-3)

    def test_all_gradients_carry_the_scale_of_the_one_backward_pass(self):
        """The scaler changes its scale after each optimizer's step: the next one must not be unscaled by that."""
        norms: dict[str, list[float]] = {"fp32": [], "fp16": []}
        scaler = torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=1, growth_factor=4.0)
        for precision, plugins in (("fp32", []), ("fp16", [MixedPrecision("16-mixed", "cpu", scaler)])):

            class Spy(torch.optim.SGD):
                found = norms[precision]

                def step(self, closure=None):
                    if closure is not None:
                        closure()
                    self.found += [float(weight.grad.norm()) for g in self.param_groups for weight in g["params"]]

            made = module(optimizer=partial(Spy, lr=0.3), mixer_optimizer=partial(Spy, lr=0.3))
            fit(made, 1, plugins=plugins, limit_train_batches=1)
        assert len(norms["fp32"]) == len(list(made.network.parameters())) + len(list(made.teacher.mixers.parameters()))
        np.testing.assert_allclose(norms["fp16"], norms["fp32"], rtol=0.03, atol=1e-4)
        assert scaler.get_scale() == 256.0

    def test_an_overflow_of_one_lowers_the_scale_for_both(self):
        scaler = torch.amp.GradScaler("cpu", init_scale=64.0)

        class Broken(tiny.Net):
            def forward(self, input):
                logits = super().forward(input)
                if logits.requires_grad:
                    logits.register_hook(lambda gradient: gradient * float("inf"))
                return logits

        made = module(network=Broken)
        before = copy.deepcopy(made.network)
        fit(made, 1, plugins=[MixedPrecision("16-mixed", "cpu", scaler)], limit_train_batches=1)
        assert tiny.same(made.network, before)  # its step was left out
        assert scaler.get_scale() == 32.0

    @pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
    def test_other_precisions(self, precision):
        made = module()
        trainer = fit(made, 3, precision=precision)
        assert made.teacher.knowledge.probabilities.dtype == torch.float32
        assert all(weight.isfinite().all() for weight in made.parameters())
        assert float(trainer.callback_metrics["train_teacher_accuracy"]) > 0.5

    def test_two_steps_train_the_one_and_then_the_other(self):
        after = {}
        made = module(training="two_step", network=partial(tiny.Net, norm=True))
        made.on_train_epoch_start = lambda: after.update({made.current_epoch: copy.deepcopy(made)})
        trainer = fit(made, 4)
        begin, half = after[0], after[2]
        assert tiny.same(half.network, begin.network) and not tiny.same(half.teacher.mixers, begin.teacher.mixers)
        assert tiny.same(half.teacher.mixers, made.teacher.mixers) and not tiny.same(half.network, made.network)
        assert tiny.same(half.teacher.knowledge, made.teacher.knowledge) and half.teacher.knowledge.filled.all()
        assert trainer.global_step == int(made.batches_done)
        for optimizer in trainer.optimizers:
            assert optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-9)
        with pytest.raises(InputError, match=r"two_step needs an epoch for each step; trainer.max_epochs is 1"):
            fit(module(training="two_step"), 1)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"gradient_clip_val": 1.0}, "gradient_clip_val is 1.0.*set its clip_norm instead"),
            ({"accumulate_grad_batches": 2}, "accumulate_grad_batches 2.*clip_norm instead, and a larger batch_size"),
            ({"max_steps": 10}, "max_steps is 10: .* steps its optimizers by itself.*limit the run by max_epochs"),
        ],
    )
    def test_what_the_trainer_cannot_do_is_rejected(self, arguments, message):
        with pytest.raises(InputError, match=message):
            fit(module(), **arguments)

    def test_schedules_that_wait_for_a_metric_are_rejected(self):
        with pytest.raises(InputError, match="ReduceLROnPlateau needs a metric"):
            fit(module(scheduler=torch.optim.lr_scheduler.ReduceLROnPlateau))
        with pytest.raises(InputError, match="LBFGS evaluates the loss several times"):
            fit(module(mixer_optimizer=torch.optim.LBFGS))

    @pytest.mark.filterwarnings("ignore:.*LightningModule.log:UserWarning")
    def test_bare_trainers_log_nothing(self):
        made = module()
        torch.manual_seed(3)
        Trainer(accelerator="cpu", devices=1, max_epochs=2, barebones=True).fit(made, datamodule=target())
        assert int(made.batches_done) == 6

    @pytest.mark.slow
    def test_a_run_without_end_needs_schedules(self):
        hold = partial(torch.optim.lr_scheduler.ConstantLR, factor=1.0)
        with pytest.raises(InputError, match="the cosine schedule needs an end"):
            fit(module(scheduler=hold), -1, max_time="00:00:00:01")
        made = module(scheduler=hold, mixer_scheduler=hold)
        fit(made, -1, max_time="00:00:00:01")
        assert int(made.batches_done) > 3


class TestSwitches:
    def test_without_a_dictionary_the_student_follows_the_mixer_of_the_moment(self):
        made = module(dictionary=False, alpha="fixed", optimizer=partial(torch.optim.SGD, lr=0.0))
        trainer = fit(made, 1, log_every_n_steps=1)
        assert float(trainer.callback_metrics["train_injection_loss"]) > 0
        kept = module(alpha="fixed", optimizer=partial(torch.optim.SGD, lr=0.0))
        trainer = fit(kept, 1, log_every_n_steps=1)
        injected = float(trainer.callback_metrics["train_injection_loss"])
        assert injected == 0  # the dictionary is empty in the first epoch

    def test_uniform_distillation_has_one_optimizer(self):
        made = module(teacher="uniform", mixer_optimizer=None, sharpness=1.0)
        trainer = fit(made, 2)
        assert len(trainer.optimizers) == 1 and trainer.global_step == int(made.batches_done)
        with pytest.raises(InputError, match="its teacher is fitted; set teacher: attention or static"):
            made.source_weights  # noqa: B018
        batch = target().rows("test")[torch.arange(40)]
        spread = torch.zeros(2, 40, 3)
        for number, (name, expert) in enumerate(SOURCES.items()):
            spread[number][:, [tiny.CLASSES.index(c) for c in tiny.EXPERT_CLASSES[name]]] = expert(batch.input)
        accuracy = (spread.mean(0).argmax(1) == batch.target).float().mean()
        found = trainer.test(made, target(), verbose=False)[0]
        assert found["test_teacher_accuracy"] == pytest.approx(float(accuracy))
        torch.testing.assert_close(made.teacher_probabilities(batch.input), spread.mean(0))

    @pytest.mark.parametrize("accuracy_source", ["holdout", "crossfit"])
    def test_accuracy_of_rows_that_were_not_trained_on(self, accuracy_source):
        made = module(accuracy_source=accuracy_source)
        data = target(share=0.5)
        trainer = fit(made, 3, data)
        assert len(made.teacher.mixers) == (3 if accuracy_source == "crossfit" else 1)
        assert 0 < float(trainer.callback_metrics["train_teacher_accuracy"]) <= 1
        held = made.teacher.knowledge.fold == 0
        batch = data.rows("train")[torch.arange(60)]
        rows = made.teacher.knowledge.rows(batch.index)
        assert not (made.teacher.knowledge.taught(rows, batch.target)[held] >= 0).any()

    def test_a_fixed_alpha_is_alpha_0_from_the_start(self):
        made = module(alpha="fixed", alpha_0=0.4)
        trainer = fit(made, 1, log_every_n_steps=1)
        assert float(trainer.callback_metrics["train_alpha"]) == pytest.approx(0.4)

    @pytest.mark.parametrize("accuracy_source", ["train", "crossfit"])
    def test_weights_of_samples_are_those_of_the_mixers(self, accuracy_source):
        made = module(accuracy_source=accuracy_source, network=partial(tiny.Net, norm=True, dropout=0.5))
        with pytest.raises(InputError, match="the module has no teacher"):
            made.sample_weights(torch.zeros(2, 4))
        with pytest.raises(InputError, match="the module has no teacher"):
            made.source_weights  # noqa: B018
        fit(made, 2)
        input = torch.randn(7, 4)
        found = made.train().sample_weights(input)
        assert made.training and found.shape == (7, len(made.pool.names)) and not found.requires_grad
        torch.testing.assert_close(found.sum(1), torch.ones(7))
        torch.testing.assert_close(made.sample_weights(input), found)  # no dropout
        torch.testing.assert_close(made.sample_weights(input[:1]), found[:1])  # no batch statistics

    @pytest.mark.slow
    @pytest.mark.parametrize("heads", ["frozen", "trained"])
    def test_a_poisoned_source_gets_a_small_weight(self, heads):
        """Two sources of one training; the second one's labels are permuted."""
        generator = torch.Generator().manual_seed(0)
        splits = {}
        for split, count in {"train": 120, "val": 60}.items():
            labels = torch.randint(3, (count,), generator=generator)
            place = 3 * torch.eye(4)[labels] + torch.randn(count, 4, generator=generator) / 2
            splits[split] = (place, labels, torch.ones(count, 1, dtype=torch.bool))
        network, adam = tiny.Net(3), partial(torch.optim.Adam, lr=0.05)
        optimizer = adam(network.parameters())
        for _ in range(60):
            optimizer.zero_grad()
            F.cross_entropy(network(splits["val"][0]), splits["val"][1]).backward()
            optimizer.step()
        order = {"sound": tiny.CLASSES, "poisoned": [tiny.CLASSES[place] for place in (1, 2, 0)]}
        experts = {name: Expert(copy.deepcopy(network), classes=own, features="body") for name, own in order.items()}
        made = module(experts, heads=heads, optimizer=adam, mixer_optimizer=adam)
        data = TargetDataModule(TensorDataModule(splits, tiny.CLASSES, ["home"], batch_size=60), "home")
        trainer = fit(made, 20, data)
        weight = made.source_weights["poisoned"]
        assert float(trainer.callback_metrics["train_expert_poisoned_weight"]) == pytest.approx(weight)
        assert sum(made.source_weights.values()) == pytest.approx(1)
        assert weight < 0.1
        assert float(trainer.callback_metrics["val_teacher_accuracy"]) > 0.95

    @pytest.mark.slow
    def test_the_student_gains_over_the_labels_alone(self):
        """Few labels, many rows, sources that know: what HaT is for."""
        rows = {"train": 300, "val": 30, "test": 600}
        adam = partial(torch.optim.Adam, lr=0.02)
        data = target(100, rows=rows, share=0.03)
        made = module(optimizer=adam, mixer_optimizer=adam)
        fit(made, 25, data)
        torch.manual_seed(0)
        alone = ExpertModule(tiny.Net, classes=tiny.CLASSES, optimizer=adam)
        fit(alone, 25, data)
        own, plainly = (tiny.trainer().test(m, data, verbose=False)[0]["test_accuracy"] for m in (made, alone))
        assert own > plainly + 0.02


class TestFigures:
    def test_are_logged(self, tmp_path):
        made = module()
        logger = CSVLogger(tmp_path)
        trainer = fit(made, 2, logger=logger, log_every_n_steps=1)
        names = {
            "train_loss",
            "train_supervised_loss",
            "train_injection_loss",
            "train_mixer_loss",
            "train_alpha",
            "train_teacher_accuracy",
            "train_dictionary_updates",
            "train_expert_a_weight",
            "train_expert_b_weight",
            "val_loss",
            "val_accuracy",
            "val_teacher_accuracy",
        }
        assert names <= set(trainer.callback_metrics)
        logger.save()
        header = (tmp_path / "lightning_logs/version_0/metrics.csv").read_text().splitlines()[0]
        assert names <= set(header.split(","))
        tested = tiny.trainer().test(made, target(), verbose=False)[0]
        assert set(tested) == {"test_loss", "test_accuracy", "test_teacher_accuracy"}

    def test_the_mixers_accuracy_is_that_of_the_fused_prediction(self):
        made = module()
        fit(made, 3)
        found = tiny.trainer().validate(made, target(), verbose=False)[0]
        batch = target().rows("val")[torch.arange(30)]
        made.eval()
        _, z = made.forward_with_representations(batch.input)
        mixed = made.teacher(z, run_sources(made.pool, batch.input, with_scores=False))
        wanted = (mixed.mean().argmax(1) == batch.target).float().mean()
        assert found["val_teacher_accuracy"] == pytest.approx(float(wanted))

    def test_nothing_learned_from_the_sources_is_said(self):
        with pytest.warns(
            UserWarning, match=r"is below the threshold .*: the student learns from the labels alone; .*"
        ):
            fit(module(threshold=1.0, mixer_optimizer=partial(torch.optim.SGD, lr=0.0)), 1)
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*the labels alone.*")
            fit(module(threshold=0.0), 1)


class TestCheckpoints:
    def test_is_an_ordinary_expert_without_the_sources(self, tmp_path):
        made = module(preprocessing={"scale": 1})
        trainer = fit(made, 2)
        batch = target().rows("test")[torch.arange(40)]
        for weights_only in (False, True):
            path = tmp_path / f"{weights_only}.ckpt"
            trainer.save_checkpoint(path, weights_only=weights_only)
            state = torch.load(path, weights_only=True)["state_dict"]
            parts = {name.partition(".")[0] for name in state}
            whole = {"network", "teacher", "batches_done"}
            assert parts == ({"network"} if weights_only else whole)
            expert = Expert(checkpoint=str(path))
            torch.testing.assert_close(expert(batch.input), made.eval()(batch.input).softmax(1))
            assert expert.features == "body" and expert.classes == tiny.CLASSES
            assert expert.preprocessing == {"scale": 1}

    def test_is_loaded_with_its_mixer_and_dictionary(self, tmp_path):
        made = module()
        trainer = fit(made, 3)
        trainer.save_checkpoint(tmp_path / "m.ckpt")
        loaded = HaTJointModule.load_from_checkpoint(
            tmp_path / "m.ckpt", weights_only=True, experts=copy.deepcopy(SOURCES)
        )
        assert tiny.same(loaded, made) and loaded.source_weights == made.source_weights
        tested = [tiny.trainer().test(m, target(), verbose=False)[0] for m in (made, loaded)]
        assert tested[0] == tested[1]

    @pytest.mark.slow
    def test_a_student_alone_is_loaded_and_tested_without_a_mixer(self, tmp_path):
        made = module()
        fit(made).save_checkpoint(tmp_path / "m.ckpt", weights_only=True)
        loaded = HaTJointModule.load_from_checkpoint(
            tmp_path / "m.ckpt", weights_only=True, experts=copy.deepcopy(SOURCES)
        )
        assert loaded.teacher is None and tiny.same(loaded.network, made.network)
        assert set(tiny.trainer().test(loaded, target(), verbose=False)[0]) == {"test_loss", "test_accuracy"}
        other = module(seed=9)
        fit(other)
        teacher = copy.deepcopy(other.teacher)
        tiny.trainer().test(other, target(), ckpt_path=tmp_path / "m.ckpt", weights_only=True, verbose=False)
        assert tiny.same(other.network, made.network) and tiny.same(other.teacher, teacher)

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "arguments",
        [
            {"training": "joint"},
            {"training": "two_step", "representation_weight": 1.0},
            {"teacher": "all", "init": "auto", "mixup": 1.0, "representation_weight": 1.0},
        ],
    )
    def test_a_resumed_run_equals_an_uninterrupted_one(self, arguments, tmp_path):
        how = arguments | {"network": partial(tiny.Net, norm=True, dropout=0.2)}
        how |= {"optimizer": None, "mixer_optimizer": None}
        whole = module(**how)
        keep = ModelCheckpoint(tmp_path, save_top_k=-1, filename="{epoch}")
        fit(whole, 6, callbacks=[keep], enable_checkpointing=True)
        for epoch in (0, 3):
            resumed = module(seed=9, **how)
            trainer = tiny.trainer(6)
            path = tmp_path / f"epoch={epoch}.ckpt"
            trainer.fit(resumed, datamodule=target(), ckpt_path=path, weights_only=True)
            assert tiny.same(resumed, whole)
            assert trainer.global_step == whole.trainer.global_step
            found = trainer.callback_metrics
            assert found == {name: whole.trainer.callback_metrics[name] for name in found} and "val_accuracy" in found

    def test_a_trainer_that_loaded_a_checkpoint_before_begins_a_new_run(self, tmp_path):
        """``trainer.ckpt_path`` keeps the file of an earlier run, and is set after ``setup``."""
        expert, path = ExpertModule(tiny.Net, classes=tiny.CLASSES), tmp_path / "expert.ckpt"
        trainer = tiny.trainer()
        trainer.fit(expert, TensorDataModule(tiny.tensors(), tiny.CLASSES))
        trainer.save_checkpoint(path)
        trainer = tiny.trainer()
        trainer.test(expert, target(), ckpt_path=path, weights_only=True, verbose=False)
        made = module(teacher="stacking", mixer_optimizer=None)
        trainer.fit(made, target())
        assert made.teacher.is_fitted and float(made.teacher.knowledge.accuracy) > 0

    @pytest.mark.slow
    def test_a_resumed_run_neither_fits_the_teacher_nor_sets_the_first_weights(self, tmp_path, monkeypatch):
        """Not even where callbacks hold a copy of the module, which must have the parts of the teacher."""
        how = {"teacher": "auto", "mixer_optimizer": None, "init": "auto", "mixup": 1.0}
        experts = {name: Expert(tiny.Net(3), classes=tiny.CLASSES, features="body") for name in "ab"}
        whole, path = module(experts, **how), tmp_path / "epoch=0.ckpt"
        keep, averages = (
            ModelCheckpoint(tmp_path, save_top_k=-1, filename="{epoch}"),
            partial(EMAWeightAveraging, decay=0.5),
        )
        averaged = averages()
        fit(whole, 2, callbacks=[keep, averaged], enable_checkpointing=True)
        assert dict(averaged._average_model.module.named_buffers()).keys() == dict(whole.named_buffers()).keys()
        monkeypatch.setattr(FixedTeacher, "fit", None)
        monkeypatch.setattr("lightning_fusion.hat.preparation.first_weights", None)
        resumed = module(experts, seed=9, **how)
        again = tiny.trainer(2, callbacks=[averages()])
        again.fit(resumed, datamodule=target(), ckpt_path=path, weights_only=True)
        assert tiny.same(resumed, whole)

    def test_other_data_fit_the_teacher_again(self):
        made = module(teacher="stacking", mixer_optimizer=None, init="auto")
        fit(made, 1)
        student, first, threshold = copy.deepcopy(made.network), made.teacher.model.weight.clone(), made.threshold
        trainer = tiny.trainer(1)
        seen = []
        made.on_train_start = lambda: seen.append(tiny.same(made.network, student))
        trainer.fit(made, target(rows=ROWS | {"train": 50}, share=0.5))
        assert seen == [True] and made.teacher.is_fitted and len(made.teacher.knowledge.index) == 50
        assert not torch.equal(made.teacher.model.weight, first) and made.threshold != threshold

    def test_a_loaded_student_is_kept(self, tmp_path, caplog):
        experts = {"a": Expert(tiny.Net(3), classes=tiny.CLASSES, features="body")}
        how = {"teacher": "uniform", "mixer_optimizer": None, "threshold": 0.0}
        fit(module(experts, **how), 1).save_checkpoint(tmp_path / "m.ckpt", weights_only=True)
        for init, kept in (("auto", True), ("best_source", False)):
            loaded = HaTJointModule.load_from_checkpoint(tmp_path / "m.ckpt", experts=experts, **how | {"init": init})
            student, seen = copy.deepcopy(loaded.network), []
            loaded.on_train_start = partial(lambda m, s, n: n.append(tiny.same(m.network, s)), loaded, student, seen)
            with caplog.at_level("INFO"):
                fit(loaded, 1)
            assert seen == [kept] and ("init: loaded weights, which init: auto keeps" in caplog.text) == kept
            caplog.clear()

    @pytest.mark.slow
    def test_other_sources_or_rows_are_rejected(self, tmp_path):
        trainer = fit(module())
        trainer.save_checkpoint(tmp_path / "m.ckpt")

        def again(data=None, **arguments):
            made = module(**arguments)
            tiny.trainer(3).fit(made, data or target(), ckpt_path=tmp_path / "m.ckpt", weights_only=True)

        with pytest.raises(InputError, match="the model was trained from a, b; found a"):
            again(experts={"a": copy.deepcopy(SOURCES["a"])})
        changed = copy.deepcopy(SOURCES)
        changed["b"].network.head.bias.data += 1
        with pytest.raises(InputError, match="trained with expert b of fingerprint"):
            again(experts=changed)
        with pytest.raises(InputError, match=r"had 60 training samples, .* labeled; found 50 and"):
            again(data=target(rows=ROWS | {"train": 50}))
        with pytest.raises(InputError, match=r"network: body.0.weight is \[9, 4\], and \[\d, 4\] in the checkpoint"):
            again(network=partial(tiny.Net, hidden=9))

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"teacher": "static"}, "teacher is static, and .* teacher: attention"),
            ({"teacher": "all", "mixer_optimizer": None}, "teacher is all, and .* teacher: attention"),
            ({"representation_weight": 1.0}, "representation_weight is 1.0, .* representation_weight: 0.0"),
            ({"dim": 8}, "dim is 8, .* dim: 32"),
            ({"heads": "frozen"}, "heads is frozen, .* heads: trained"),
            ({"accuracy_source": "crossfit"}, "accuracy_source is crossfit, .* accuracy_source: train"),
        ],
    )
    def test_arguments_that_make_another_state_are_named(self, arguments, message):
        checkpoint = stored(begun())
        with pytest.raises(InputError, match=message):
            module(**arguments).on_load_checkpoint(checkpoint)

    @pytest.mark.parametrize("part", ["sources", "state_dict"])
    def test_a_damaged_checkpoint_is_named(self, part):
        for content in (None, {"sources": {"a": 3, "b": 3}}):
            with pytest.raises(InputError, match="ckpt_path: the checkpoint is damaged"):
                module().on_load_checkpoint(stored(begun()) | {part: content})


class TestBadInput:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (
                {"experts": {"x": Expert(tiny.Net(2), classes=["eel", "cow"], features="body")}},
                r"experts: x has the classes eel, cow, none of the target's \(cat, dog, owl\): it is not eligible",
            ),
            ({"experts": {"x": Expert(tiny.Net(2), classes=["cat", "cow"])}}, "expert x has no layer None"),
            ({"features": "neck"}, "the network has no layer 'neck'; its layers: body"),
            ({"network": SOURCES["a"].network, "experts": SOURCES}, "give it a copy.deepcopy"),
            ({"heads": "cut"}, "heads is 'cut'; expected trained, frozen"),
            ({"training": "one"}, "training is 'one'; expected joint, two_step"),
            ({"alpha": "high"}, "alpha is 'high'; expected gated, adaptive, fixed"),
            ({"teacher": "best"}, "teacher is 'best'"),
            ({"update_rule": "lt"}, "update_rule is 'lt'"),
            ({"accuracy_source": "test"}, "accuracy_source is 'test'"),
            ({"alpha_0": -1.0}, "alpha_0 is -1.0, threshold None"),
            ({"alpha_0": float("inf")}, "alpha_0 is inf, threshold None"),
            ({"threshold": 1.5}, "threshold 1.5; expected at least 0, and 0 to 1"),
            ({"clip_norm": 0.0}, "clip_norm is 0.0; expected a number above 0"),
            (
                {"teacher": "all", "mixer_optimizer": None, "dim": 8},
                "all is fitted before the training and does not use dim",
            ),
            ({"teacher": "all", "mixer_optimizer": None, "cache": False}, "use cache; .* or a representation_weight"),
            ({"init": "warm"}, "init is 'warm'"),
            ({"alpha_0": "1"}, "alpha_0 is '1', a str; expected a number$"),
            ({"mixup": True}, "mixup is True, a bool; expected a number, or null"),
            ({"dim": 2.5}, "dim is 2.5, a float; expected a whole number"),
            ({"dim": 0}, "dim is 0; expected a whole number from 1"),
            ({"cache": "no"}, "cache is 'no', a str; expected true or false"),
            ({"temperature": 0.0}, "temperature is 0.0; expected a number above 0"),
            ({"sharpness": 2.0}, "sharpness is 2.0; expected a number above 0, and a fitted teacher, not attention"),
            ({"mixup": -1.0}, "mixup is -1.0; expected a number of 0 or more"),
            ({"representation_weight": -1.0}, "representation_weight is -1.0; expected a number of 0 or more"),
        ],
    )
    def test_of_the_constructor(self, arguments, message):
        with pytest.raises(InputError, match=message):
            module(**arguments)

    def test_of_a_seed(self):
        with pytest.raises(InputError, match="seed is -1; expected a whole number from 0"):
            HaTJointModule(tiny.Net, SOURCES, "body", classes=tiny.CLASSES, seed=-1)

    @pytest.mark.parametrize(
        ("labels", "message"),
        [([-100] * 8, "without any label"), ([1] * 8, r"of one class only \(dog\)"), ([], "no samples")],
    )
    def test_of_the_labels(self, labels, message):
        parts = (torch.rand(len(labels), 4), torch.tensor(labels, dtype=torch.int64))
        with pytest.raises(InputError, match=message):
            fit(module(), data=TensorDataModule({"train": parts, "val": parts}, tiny.CLASSES))

    def test_of_labels_that_no_source_knows(self):
        experts = {"x": Expert(tiny.Net(2), classes=["cat", "cow"], features="body")}
        parts = (torch.rand(8, 4), torch.tensor([1, 2] * 4))
        with pytest.raises(InputError, match="no source has a class of the labeled training samples"):
            fit(module(experts), data=TensorDataModule({"train": parts, "val": parts}, tiny.CLASSES))

    def test_of_sources_without_a_head(self):
        experts = {"x": Expert(tiny.Net(3), classes=tiny.CLASSES, features="head")}
        with pytest.raises(InputError, match=r"expert x: no layer of the expert's network .* set heads: frozen"):
            fit(module(experts))
        fit(module(experts, heads="frozen"), 1)

    def test_of_sources_and_networks_that_do_not_fit(self):
        wide = Expert(nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 3)), classes=tiny.CLASSES, features="0")
        with pytest.raises(InputError, match=r"experts: c does not run on the training input \(mat1 and mat2 shapes"):
            fit(module(copy.deepcopy(SOURCES) | {"c": wide}))
        with pytest.raises(
            InputError, match=r"found outputs of shape \(B, 4\); expected \(B, 3\), one for each of classes"
        ):
            fit(module(network=lambda num_classes: tiny.Net(num_classes + 1)))
        with pytest.raises(InputError, match="none of its weights requires a gradient"):
            fit(module(network=lambda num_classes: tiny.Net(num_classes).requires_grad_(False)))

    @pytest.mark.parametrize(("what", "argument"), [("student", "optimizer"), ("mixer", "mixer_optimizer")])
    def test_of_a_training_that_diverges(self, what, argument, tmp_path):
        keep = ModelCheckpoint(tmp_path)
        with pytest.raises(InputError, match=f"training of the {what} diverged in epoch .*lower the learning rate"):
            fit(
                module(**{argument: partial(torch.optim.SGD, lr=1e30)}),
                6,
                callbacks=[keep],
                enable_checkpointing=True,
            )
        for path in tmp_path.glob("*.ckpt"):
            state = torch.load(path, weights_only=True)["state_dict"]
            assert all(value.isfinite().all() for value in state.values())

    def test_of_doubled_numbers(self):
        data = target()
        data.data.rows("train").index[1] = 0
        with pytest.raises(InputError, match="the number 0 stands for several samples"):
            fit(module(), data=data)


class TestFittedTeachers:
    def test_labels_alone_and_held_out_predictions_fill_the_dictionary(self):
        made = module(teacher="stacking", mixer_optimizer=None)
        fit(made, 1)
        rows = target().rows("train")[torch.arange(60)]
        known = rows.target >= 0
        evidence = evidence_of(made.pool, made.columns, rows.input, 60)
        wanted = made.teacher(evidence)
        held = cross_fit(
            lambda: make_teacher("stacking", made.pool, made.columns, {"a": 5, "b": 7}, 3),
            evidence.take(known.nonzero().flatten()),
            rows.target[known],
            0,
        )
        wanted[known] = sharpen(held, float(made.teacher.sharpness))
        knowledge = made.teacher.knowledge
        torch.testing.assert_close(knowledge.probabilities[knowledge.rows(rows.index)], wanted)
        accuracy = float((held.argmax(1) == rows.target[known]).double().mean())
        assert float(knowledge.accuracy) == pytest.approx(accuracy) and made.trainer.global_step == 3

    @pytest.mark.slow
    def test_all_of_them_train_a_student_and_are_restored(self, tmp_path):
        for name in ("auto", "all"):
            how = {"teacher": name, "mixer_optimizer": None, "init": "auto", "mixup": 1.0}
            made = module(network=partial(tiny.Net, norm=True), **how)
            trainer = fit(made, 4)
            trainer.save_checkpoint(tmp_path / "m.ckpt")
            tested = trainer.test(made, target(), verbose=False)[0]
            loaded = HaTJointModule.load_from_checkpoint(
                tmp_path / "m.ckpt", weights_only=True, experts=copy.deepcopy(SOURCES)
            )
            assert tiny.same(loaded, made) and loaded.teacher.chosen == made.teacher.chosen
            assert tiny.trainer().test(loaded, target(), verbose=False)[0] == tested
            assert "test_teacher_accuracy" in tested
        assert made.teacher.chosen == "all"
        with pytest.raises(InputError, match="teacher: the model was trained with all; found foe"):
            HaTJointModule.load_from_checkpoint(
                tmp_path / "m.ckpt", weights_only=True, experts=copy.deepcopy(SOURCES), teacher="foe"
            )

    def test_augmentation_does_not_reach_the_teacher(self):
        data = SyntheticImageDataModule(role="fuser", fuser_fraction=0.2, batch_size=32, augmentation=nn.Dropout(0.9))
        experts = {"a": Expert(SmallConvNet(4, width=2), classes=data.classes, features="pool")}
        how = {"network": partial(SmallConvNet, width=2), "features": "pool", "classes": data.classes}
        made = module(experts, teacher="uniform", mixer_optimizer=None, **how)
        target_data = TargetDataModule(data, "style_2")
        fit(made, 1, target_data)
        rows = target_data.rows("train")
        plainly = data.preprocess(rows[torch.arange(len(rows))].input)
        found = made.teacher.knowledge(made.teacher.knowledge.rows(rows[torch.arange(len(rows))].index))[0]
        torch.testing.assert_close(found, sharpen(experts["a"](plainly), float(made.teacher.sharpness)))

    def test_bare_loaders_do(self):
        made, data = module(teacher="stacking", mixer_optimizer=None), target()
        tiny.trainer(1).fit(made, data.train_dataloader(), data.val_dataloader())
        other = module(teacher="stacking", mixer_optimizer=None)
        fit(other, 1)
        torch.testing.assert_close(
            made.teacher.knowledge.probabilities, other.teacher.knowledge.probabilities, rtol=1e-3, atol=1e-4
        )

    @pytest.mark.slow
    @pytest.mark.parametrize("precision", ["16-true", "bf16-true", "64-true"])
    def test_a_run_in_true_precision(self, precision):
        """What was fitted in float32 stays in it, and reads the outputs of converted sources."""
        made = module(teacher="auto", mixer_optimizer=None, optimizer=None)
        trainer = fit(made, 1, precision=precision)
        assert all(weight.itemsize >= 4 for weight in made.teacher.model.state_dict().values())
        found = trainer.test(made, target(), verbose=False)[0]
        assert found["test_teacher_accuracy"] > 0.4

    def test_the_plan_is_said_before_the_training(self, caplog):
        """Also that alpha is 0, which longer training does not change; and no module is in eval mode by mistake."""
        experts = {"a": Expert(tiny.Net(3), classes=tiny.CLASSES, features="body")}
        made = module(
            experts, teacher="uniform", mixer_optimizer=None, init="best_source", alpha="gated", threshold=1.0
        )
        with warnings.catch_warnings(record=True) as caught, caplog.at_level("INFO"):
            warnings.simplefilter("always")
            fit(made, 1)
        said = [str(each.message) for each in caught]
        accuracy = float(made.teacher.knowledge.accuracy)
        wanted = f"the teacher's accuracy ({accuracy:.3f}) is below the threshold (1.000): the student learns from the "
        wanted += (
            "labels alone, after it started from source a; lower threshold, choose other sources, or label more samples"
        )
        assert said.count(wanted) == 1 and not any("in eval mode" in each for each in said)
        line = f"training: teacher uniform, cross-validated accuracy {accuracy:.3f} on 18 labeled samples, sharpness"
        assert line in caplog.text
        assert "start source a; mixup 0; alpha 0 (gated: the teacher is below the threshold 1.000)" in caplog.text
        caplog.clear()
        with caplog.at_level("INFO"):
            fit(module(), 1)
        assert (
            "training: teacher attention, trained with the student; start scratch; mixup 0; alpha 1 times"
            in caplog.text
        )

    def test_a_learning_rate_is_found_with_the_fitted_teacher(self, tmp_path):
        """Lightning's tuners train the module before its ``on_fit_start``, and restore a checkpoint afterwards."""
        made, seen = module(teacher="stacking", mixer_optimizer=None, alpha="fixed"), []
        made.on_train_start = lambda: seen.append(made.teacher.is_fitted)
        Tuner(tiny.trainer(default_root_dir=tmp_path)).lr_find(made, datamodule=target(), num_training=3)
        assert seen == [True] and made.teacher.is_fitted and not int(made.batches_done)

    def test_an_accuracy_at_the_threshold_is_no_warning(self):
        made = module(teacher="uniform", mixer_optimizer=None, alpha="gated")
        fit(made, 1)
        again = module(
            teacher="uniform",
            mixer_optimizer=None,
            alpha="gated",
            threshold=made.teacher.figures["uniform"]["accuracy"],
        )
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*below the threshold.*")
            fit(again, 1)
        assert float(again.strength()) == 1


class TestStart:
    @pytest.mark.parametrize(("init", "source"), [("best_source", "a"), ("scratch", None), ("average", "mean")])
    def test_weights_before_the_first_step(self, init, source):
        experts = {
            name: Expert(tiny.Net(3, norm=True), classes=list(tiny.CLASSES), features="body") for name in ("a", "b")
        }
        network, seen = partial(tiny.Net, norm=True), []
        data = target()
        rows = data.labeled()[torch.arange(len(data.labeled()))]
        optimizer = torch.optim.Adam(experts["a"].network.parameters(), lr=0.05)
        experts["a"].network.requires_grad_(True)
        for _ in range(30):  # a is the better one
            optimizer.zero_grad()
            F.cross_entropy(experts["a"].network(rows.input), rows.target).backward()
            optimizer.step()
        experts["a"].network.requires_grad_(False)
        made = module(experts, network=network, init=init, teacher="uniform", mixer_optimizer=None)
        before = copy.deepcopy(made.network.state_dict())
        made.on_train_start = lambda: seen.append(copy.deepcopy(made.network.state_dict()))
        fit(made, 1, data)
        states = {name: expert.network.state_dict() for name, expert in experts.items()}
        mean = {name: (states["a"][name] + states["b"][name]) / 2 for name in before}
        wanted = {"a": states["a"], None: before, "mean": mean}[source]
        for name, value in seen[0].items():
            if value.is_floating_point():
                torch.testing.assert_close(value, wanted[name])

    def test_without_a_source_of_the_same_architecture(self):
        how = {"teacher": "uniform", "mixer_optimizer": None}
        with pytest.raises(InputError, match=r"best_source, but no source has the student's architecture \(a: it has"):
            fit(module(init="best_source", **how), 1)
        made = module(init="auto", **how)
        before = copy.deepcopy(made.network)
        seen = []
        made.on_train_start = lambda: seen.append(tiny.same(made.network, before))
        fit(made, 1)
        assert seen == [True]


class TestMixup:
    @pytest.mark.parametrize("teacher", ["stacking", "attention"])
    def test_losses_are_those_of_both_samples_of_a_pair(self, teacher, monkeypatch):
        made = module(teacher=teacher, mixup=0.5, mixer_optimizer=None, alpha="fixed", alpha_0=0.7)
        pairs = Pairs(0.75, torch.arange(20).flip(0))
        monkeypatch.setattr(Pairs, "draw", lambda alpha, input: pairs)
        losses = []

        def noted(logits, target, knowledge, filled):
            found = HaTJointModule.student_losses(made, logits, target, knowledge, filled)
            losses.append((logits.detach(), target, knowledge, found.detach()))
            return found

        made.student_losses = noted
        start = copy.deepcopy(made.network)
        fit(made, 1)
        first = next(batches(target(), 1))[0]
        wanted = start(0.75 * first.input + 0.25 * first.input.flip(0))
        torch.testing.assert_close(losses[0][0], wanted.detach())
        assert torch.equal(losses[1][0], losses[0][0]) and torch.equal(losses[1][1], first.target.flip(0))
        torch.testing.assert_close(losses[1][2], losses[0][2].flip(0))


def test_the_defaults_are_all_teachers_mixup_and_a_gate_at_the_threshold():
    made = HaTJointModule(tiny.Net, copy.deepcopy(SOURCES), "body", classes=tiny.CLASSES, alpha_0=0.7)
    mixed = []
    made.student_losses = lambda *given: mixed.append(given[1]) or HaTJointModule.student_losses(made, *given)
    fit(made, 1)
    assert made.teacher.chosen == "all" and not torch.equal(mixed[0], mixed[1])  # targets of both samples of a pair
    accuracy = float(made.teacher.knowledge.accuracy)
    assert 0 < accuracy < 1
    for alpha, strength in (("gated", 0.7), ("adaptive", 0.7 * accuracy), ("fixed", 0.7)):
        made.alpha, made.threshold = alpha, accuracy
        assert float(made.strength()) == pytest.approx(strength)
        made.threshold = accuracy + 0.01
        assert float(made.strength()) == pytest.approx(0.7 if alpha == "fixed" else 0)


def test_a_pool_is_taken_as_experts_are():
    made = module(ExpertPool(copy.deepcopy(SOURCES)))
    fit(made, 1)
    assert made.pool.names == ["a", "b"]
