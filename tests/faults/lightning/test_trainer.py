"""What users do with a Trainer works with every module: runs in any order, callbacks, tuners."""

import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import generation_script, modules, tiny
from lightning.pytorch.callbacks import (
    EarlyStopping,
    EMAWeightAveraging,
    GradientAccumulationScheduler,
    ModelCheckpoint,
    ModelPruning,
    ModelSummary,
    StochasticWeightAveraging,
)
from lightning.pytorch.tuner import Tuner

from lightning_fusion import ExpertModule
from lightning_fusion.callbacks import EpochSeed
from lightning_fusion.data.tensors import TensorDataModule
from lightning_fusion.errors import InputError

NAMES = [
    "ExpertModule",
    "VerificationModule",
    "FoEFuserModule",
    "FrugalFoEModule",
    "ACoRLModule",
    "ACoRLVerificationModule",
    "HaTJointModule",
    "GenerativeExpertModule",
    "GenerativeFoE",
]
TRAINED = [name for name in NAMES if name != "FrugalFoEModule"]
every = pytest.mark.parametrize("name", NAMES)
trained = pytest.mark.parametrize("name", TRAINED)


@pytest.mark.slow
@every
def test_a_validated_module_trains_again(name, tmp_path):
    module, data = modules.made(name, tmp_path)
    tiny.trainer().fit(module, datamodule=data)
    trainer = tiny.trainer()
    trainer.validate(module, datamodule=data, verbose=False)
    trainer.test(module, datamodule=data, verbose=False)
    trainer.fit(module, datamodule=data)
    assert trainer.callback_metrics


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ExpertModule", "FoEFuserModule", "ACoRLModule", "HaTJointModule"])
def test_a_new_module_is_validated_and_then_trained(name, tmp_path):
    module, data = modules.made(name, tmp_path)
    trainer = tiny.trainer()
    trainer.validate(module, datamodule=data, verbose=False)
    trainer.fit(module, datamodule=data)
    assert trainer.global_step > 0


@pytest.mark.parametrize("name", ["ACoRLModule", "FoEFuserModule", "HaTJointModule"])
def test_frozen_experts_in_eval_mode_are_no_warning_and_other_parts_are(name, tmp_path):
    module, data = modules.made(name, tmp_path)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".* in eval mode")
        tiny.trainer().fit(module, datamodule=data)
    with pytest.warns(UserWarning, match="in eval mode at the start"):
        tiny.trainer(2).fit(module.eval(), datamodule=data)


@pytest.mark.slow
@trained
def test_averaged_weights_are_those_of_the_module(name, tmp_path):
    module, data = modules.made(name, tmp_path)
    averaging = EMAWeightAveraging(decay=0.5, update_starting_at_step=0)
    trainer = tiny.trainer(2, callbacks=[averaging])
    trainer.fit(module, datamodule=data)
    kept = dict(averaging._average_model.module.named_parameters())
    assert kept.keys() == dict(module.named_parameters()).keys()
    assert all(torch.equal(kept[name], weight) for name, weight in module.named_parameters())  # Lightning swaps them in
    trainer.test(module, datamodule=data, verbose=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in TRAINED if name != "HaTJointModule"])
def test_stochastic_weight_averaging_and_a_summary(name, tmp_path):
    module, data = modules.made(name, tmp_path)
    callbacks = [StochasticWeightAveraging(1e-3, swa_epoch_start=1), ModelSummary(max_depth=2)]
    trainer = tiny.trainer(3, callbacks=callbacks)
    trainer.fit(module, datamodule=data)
    assert trainer.current_epoch >= 3  # one more to update batch norm


@pytest.mark.parametrize("callback", [StochasticWeightAveraging(1e-3), GradientAccumulationScheduler({0: 2})])
def test_callbacks_of_automatic_optimization_are_rejected_by_two_optimizers(callback, tmp_path):
    module, data = modules.made("HaTJointModule", tmp_path)
    with pytest.raises(InputError, match=rf"trainer.callbacks: {type(callback).__name__} needs the Trainer's steps"):
        tiny.trainer(callbacks=[callback]).fit(module, datamodule=data)


def optimizers_of(kind, *parts):
    """A subclass with optimizers of its own, without schedules."""

    def configure_optimizers(self):
        return [torch.optim.SGD(part(self), lr=0.1) for part in parts]

    return type("Mine", (kind,), {"configure_optimizers": configure_optimizers})


def test_own_optimizers_of_a_subclass_need_no_schedule(tmp_path):
    module, data = modules.made("HaTJointModule", tmp_path)
    module.__class__ = optimizers_of(
        type(module), lambda own: own.network.parameters(), lambda own: own.teacher.parameters()
    )
    before = [weight.clone() for weight in module.network.parameters()]
    tiny.trainer().fit(module, datamodule=data)
    assert not all(torch.equal(*pair) for pair in zip(before, module.network.parameters(), strict=True))


def test_another_number_of_optimizers_is_named(tmp_path):
    module, data = modules.made("HaTJointModule", tmp_path)
    module.__class__ = optimizers_of(type(module), lambda own: own.parameters())
    with pytest.raises(
        InputError, match=r"Mine has 1 optimizer\(s\); expected 2, in this order: of network, of teacher"
    ):
        tiny.trainer().fit(module, datamodule=data)


def test_stored_embeddings_need_no_experts_in_several_processes():
    module = generation_script.fuser()
    module._trainer = SimpleNamespace(world_size=2)
    module.on_predict_epoch_end()
    assert module.summary == {}


def test_a_policy_that_other_processes_would_keep_is_not_fitted(tmp_path):
    module, _ = modules.made("FrugalFoEModule", tmp_path)
    module.trainer = tiny.trainer(strategy="ddp_spawn")
    with pytest.raises(InputError, match=r"trainer.strategy: the processes that spawn starts fit the policy and end"):
        module.setup("fit")
    module.setup("test")


def test_a_policy_has_no_weights_to_average(tmp_path):
    module, data = modules.made("FrugalFoEModule", tmp_path)
    with pytest.raises(InputError, match="EMAWeightAveraging averages weights, and a query policy has none; remove it"):
        tiny.trainer(callbacks=[EMAWeightAveraging()]).fit(module, datamodule=data)
    with pytest.raises(InputError, match="ModelPruning prunes weights, and a query policy has none; remove it"):
        tiny.trainer(callbacks=[ModelPruning("l1_unstructured")]).fit(module, datamodule=data)


@pytest.mark.parametrize(
    "name",
    [
        "ExpertModule",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("FoEFuserModule", "ACoRLModule", "GenerativeFoE")),
    ],
)
def test_the_learning_rate_finder_sets_the_rate_of_the_next_run(name, tmp_path):
    module, data = modules.made(name, tmp_path)
    assert module.lr == 1e-3
    Tuner(tiny.trainer()).lr_find(module, datamodule=data, num_training=4, update_attr=False)
    module.lr = 0.25
    trainer = tiny.trainer(limit_train_batches=1)
    trainer.fit(module, datamodule=data)
    assert [config.scheduler.base_lrs[0] for config in trainer.lr_scheduler_configs] == [0.25]


def test_the_rate_of_an_optimizer_is_found():
    assert ExpertModule(tiny.Net, tiny.CLASSES, optimizer=lambda weights: torch.optim.SGD(weights, lr=0.3)).lr == 0.3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ExpertModule", "FoEFuserModule"])
def test_the_batch_size_finder_sets_the_batch_size_of_the_data(name, tmp_path):
    module, data = modules.made(name, tmp_path)
    before = data.batch_size
    Tuner(tiny.trainer()).scale_batch_size(module, datamodule=data, init_val=before, max_trials=2, steps_per_trial=1)
    assert data.batch_size == 2 * before


@pytest.mark.parametrize("callback", [EarlyStopping("val_los"), ModelCheckpoint(monitor="val_los")])
def test_a_misspelt_monitor_is_named_with_those_that_exist(callback, tmp_path):
    module, data = modules.made("ExpertModule", tmp_path)
    trainer = tiny.trainer(callbacks=[callback], default_root_dir=tmp_path, enable_checkpointing=None)
    with pytest.raises(Exception, match=r"val_los.*val_loss"):
        trainer.fit(module, datamodule=data)


@pytest.mark.parametrize("name", ["ExpertModule", "HaTJointModule"])
def test_a_fast_development_run_trains_on_as_many_batches(name, tmp_path):
    module, data = modules.made(name, tmp_path)
    trainer = tiny.trainer(fast_dev_run=2)
    trainer.fit(module, datamodule=data)
    assert trainer.fit_loop.epoch_loop.batch_progress.current.completed == 2


@pytest.mark.parametrize("name", ["ExpertModule", "FoEFuserModule"])
def test_the_seed_of_a_users_callback_is_kept(name, tmp_path):
    module, data = modules.made(name, tmp_path)
    given = EpochSeed(seed=3)
    trainer = tiny.trainer(callbacks=[given])
    for _ in range(2):
        trainer.fit(module, datamodule=data)
    assert [callback for callback in trainer.callbacks if isinstance(callback, EpochSeed)] == [given]
    assert given.seed == 3


@pytest.mark.parametrize("name", ["ACoRLModule", "HaTJointModule"])
def test_hooks_of_a_subclass_that_build_nothing_raise(name, tmp_path):
    module, data = modules.made(name, tmp_path)
    hooks = {"setup": lambda self, stage: None, "configure_callbacks": lambda self: []}
    module.__class__ = type("Mine", (type(module),), hooks)
    with pytest.raises(InputError, match=r"Mine: setup\(\) does not call super\(\).setup\(stage\); add it"):
        tiny.trainer().fit(module, datamodule=data)


@pytest.mark.slow
def test_a_generative_expert_predicts_texts(tmp_path):
    module, data = modules.made("GenerativeExpertModule", tmp_path)
    found = tiny.trainer().predict(module, datamodule=data)
    assert torch.cat([part["index"] for part in found]).tolist() == _indices(data)
    assert all(part["generated"].shape == (len(part["index"]), module.max_new_tokens) for part in found)


def _indices(data):
    return torch.cat([batch.index for batch in data.predict_dataloader()]).tolist()


class Wider(ExpertModule):
    """A user's subclass that records its own arguments, as Lightning's documentation shows."""

    def __init__(self, width: int = 3, **expert: Any) -> None:
        super().__init__(**expert)
        self.save_hyperparameters()


def test_a_subclass_records_its_own_arguments(tmp_path):
    module, trainer = Wider(7, network=tiny.Net, classes=tiny.CLASSES), tiny.trainer()
    trainer.fit(module, datamodule=tiny.data())
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    again = Wider.load_from_checkpoint(tmp_path / "x.ckpt")
    assert again.hparams.width == 7 and tiny.same(again.network, module.network)


@pytest.mark.parametrize("classes", [["x", "y", "z"], ["cat", "dog"], [*tiny.CLASSES, "yak"]])
def test_data_with_other_classes_raise_in_a_fit(classes):
    module = ExpertModule(tiny.Net, classes)
    with pytest.raises(InputError, match=r"classes: the model has .*, the data module .*; give the model the classes"):
        tiny.trainer().fit(module, datamodule=tiny.data())


@pytest.mark.parametrize("stage", ["validate", "test"])
@pytest.mark.parametrize(
    "name",
    [
        "ExpertModule",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("FoEFuserModule", "FrugalFoEModule", "HaTJointModule")
        ),
    ],
)
def test_data_with_as_many_other_classes_raise_in_an_evaluation(name, stage, tmp_path):
    module, trainer = modules.made(name, tmp_path)[0], tiny.trainer()
    data = TensorDataModule(tiny.tensors(), ["cat", "dog", "yak"], tiny.DOMAINS)
    with pytest.raises(InputError, match=r"classes: the .* has cat, dog, owl, the data .*cat, dog, yak; give the"):
        getattr(trainer, stage)(module, datamodule=data)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["VerificationModule", "ACoRLVerificationModule"])
def test_speakers_of_other_data_are_those_of_trials_alone(name, tmp_path):
    module, data = modules.made(name, tmp_path)
    trainer = tiny.trainer(limit_train_batches=1)
    trainer.fit(module, datamodule=data)
    assert "test_loss" in trainer.test(module, datamodule=data, verbose=False)[0]
    type(data).classes = property(lambda self: [f"other {number}" for number in range(len(module.classes))])
    try:
        (found,) = trainer.test(module, datamodule=data, verbose=False)
    finally:
        del type(data).classes
    assert found.keys() >= {"test_eer"} and not found.keys() & {"test_loss", "test_accuracy"}


def test_a_trainer_fits_a_module_without_such_parts_after_one_with_them(tmp_path):
    trainer = tiny.trainer()
    for name in ("ACoRLModule", "ExpertModule"):
        module, data = modules.made(name, tmp_path)
        trainer.fit(module, datamodule=data)
    assert trainer.lightning_module is module


@pytest.mark.parametrize("name", ["ACoRLModule", "HaTJointModule"])
def test_experts_are_connected_with_the_data_before_they_run_on_them(name, tmp_path, monkeypatch):
    module, data = modules.made(name, tmp_path)
    order = []
    convert = type(module.pool).convert_from
    monkeypatch.setattr(
        type(module.pool), "convert_from", lambda pool, found: (order.append("connected"), convert(pool, found))[1]
    )
    for expert in module.pool.members.values():
        expert.network.register_forward_hook(lambda *_: order.append("run"))
    tiny.trainer(limit_train_batches=1).fit(module, datamodule=data)
    assert order[0] == "connected" and order.count("connected") == 2 and order[-1] == "connected"  # and released
