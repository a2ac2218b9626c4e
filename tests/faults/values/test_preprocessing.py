"""A model gets the input that it was trained with, whoever prepares it and whatever files are present."""

import json
import logging
import re
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from helpers import tiny
from safetensors.torch import load
from torch import Tensor, nn
from torchvision.transforms import v2

from lightning_fusion import (
    Expert,
    ExpertModule,
    ExpertPool,
    FoEFuserModule,
    FrugalFoEModule,
    OutputsDataModule,
    SensorDataModule,
    collect,
)
from lightning_fusion.data.audio.synthetic import SyntheticLabeledAudioDataModule
from lightning_fusion.data.image.synthetic import SyntheticImageDataModule
from lightning_fusion.data.sensor.synthetic import SyntheticSensorDataModule
from lightning_fusion.data.sensor.table import FeatureTableDataModule
from lightning_fusion.data.views.role import RoleDataModule
from lightning_fusion.encoders import SmallConvNet
from lightning_fusion.errors import InputError
from lightning_fusion.export import export_checkpoint
from lightning_fusion.export.network import ExportedNetwork
from lightning_fusion.export.rules import FuserRule
from lightning_fusion.registry.publish import describe_source


class Flat(nn.Sequential):
    """A network of any input."""

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__(nn.Flatten(), nn.Linear(width, num_classes))


class Narrow(ExpertModule):
    """A subclass with its own constructor."""

    def __init__(self, labels: list[str]) -> None:
        super().__init__(partial(Flat, width=20), classes=labels)


def trained(data, network, path):
    """A checkpoint of a model that saw two batches."""
    torch.manual_seed(0)
    module = ExpertModule(network, classes=data.classes, optimizer=partial(torch.optim.SGD, lr=0.1))
    trainer = tiny.trainer(limit_train_batches=2, limit_val_batches=0)
    trainer.fit(module, datamodule=data)
    trainer.save_checkpoint(path)
    return path


def recordings(root, people):
    """Ten takes of each person, who moves at a level of their own."""
    root.mkdir()
    for number, person in enumerate(people):
        noise = np.random.default_rng(number)
        for take in range(10):
            values = noise.normal(8 * number, 1 + number, (40, 2)) + np.arange(40)[:, None] // 20
            lines = [f"{x},{y},{'ab'[row // 20]}" for row, (x, y) in enumerate(values.round(4).tolist())]
            (root / f"{person}_{take}.csv").write_text("\n".join(["x,y,label", *lines]))
    return root


def sensors(root, **arguments):
    return SensorDataModule(
        str(root),
        "{person}_{take}.csv",
        ["x", "y"],
        sample_rate_hz=10,
        window_s=1.0,
        **({"batch_size": 16} | arguments),
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    base = tmp_path_factory.mktemp("folders")
    everyone, one = recordings(base / "everyone", ["ann", "bob", "eve"]), recordings(base / "one", ["ann"])
    path = trained(sensors(everyone), partial(Flat, width=20), str(base / "everyone.ckpt"))
    return everyone, one, path


class TestRawInput:
    """The preprocessing of a checkpoint is applied or what lacks it is rejected."""

    CASES = {
        "images": (
            partial(SyntheticImageDataModule, fuser_fraction=0.0, image_size=8),
            partial(Flat, width=3 * 8 * 8),
            r"input: found torch.uint8, and the expert was trained on preprocessed values; apply preprocess of",
        ),
        "sound": (
            partial(SyntheticLabeledAudioDataModule, sample_rate_hz=8000, crop_s=0.5, eval_crop_s=0.5, num_mels=20),
            partial(Flat, width=20 * 51),
            r"input: waveforms \(.*, 4000\) in place of log-mel features, and the expert",
        ),
        "sensors": (
            SyntheticSensorDataModule,
            partial(Flat, width=6 * 100),
            "input: the values have mean and deviation of the raw training data, and the expert",
        ),
    }

    @pytest.fixture(scope="class", params=list(CASES))
    def case(self, request, tmp_path_factory):
        make, network, message = self.CASES[request.param]
        data = make()
        data.setup()
        path = str(tmp_path_factory.mktemp("raw") / "one.ckpt")
        raw = data.rows("test")[torch.arange(min(64, len(data.rows("test"))))].input
        return data, trained(data, network, path), network, raw, message

    @pytest.mark.slow
    def test_is_rejected(self, case):
        _, path, network, raw, message = case
        with pytest.raises(InputError, match=message):
            Expert(network, path)(raw)

    def test_is_prepared_where_it_is_declared(self, case):
        data, path, network, raw, _ = case
        ready = data.preprocess(raw)
        expected = Expert(network, path)(ready)
        assert torch.equal(Expert(network, path, raw_input=True)(raw), expected)
        assert Expert(network, path, raw_input=True).fingerprint != Expert(network, path).fingerprint

    def test_has_no_effect_behind_the_data_module(self, case):
        data, path, network, *_ = case
        pools = [ExpertPool({"a": Expert(network, path, raw_input=raw)}) for raw in (False, True)]
        probabilities = [collect(pool, data, splits=["test"])["test"].probabilities["a"] for pool in pools]
        np.testing.assert_array_equal(*probabilities)

    def test_preprocessed_input_is_silent(self, case):
        data, path, network, raw, _ = case
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            Expert(network, path)(data.preprocess(raw))

    def test_floats_from_0_to_255_or_to_1(self, tmp_path):
        make, network, _ = self.CASES["images"]
        data = make()
        path = trained(data, network, str(tmp_path / "a.ckpt"))
        raw = data.rows("test")[torch.arange(8)].input.float()
        with pytest.raises(InputError, match=r"input: found values from 41 to 209, and the expert"):
            Expert(network, path)(raw)
        with pytest.warns(UserWarning, match=r"input: all values are from 0.16.*, and the expert was trained on"):
            Expert(network, path)(raw / 255)


class Lookup:
    """A classifier of raw values, trained without the library: whether the sum of a sample is at least 10."""

    def __init__(self) -> None:
        self.seen = []

    def __call__(self, input):
        self.seen.append(input)
        right = (input.flatten(1).sum(1) >= 10).float()
        return torch.stack([1 - right, right], 1)


class TestTrainedElsewhere:
    """An expert whose training input is not known, behind a data module that normalizes."""

    DATA = {
        "sensors": lambda folder: sensors(folder),
        "images": lambda folder: SyntheticImageDataModule(image_size=8),
    }
    UNKNOWN = (
        r"preprocessing: 2 expert\(s\) \(a, b\) record no preprocessing, and the data module normalizes their input "
        r"with mean \[.*\] and std \[.*\]; set raw_input of those that were trained on raw values, and the attribute "
        r"preprocessing of those"
    )

    def pool(self, data, **arguments):
        experts = {
            name: Expert(Lookup(), classes=data.classes[:2], output="probabilities", **arguments) for name in "ab"
        }
        return ExpertPool(experts, data.classes)

    @staticmethod
    def said(call):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            call()
        return [str(each.message) for each in caught if str(each.message).startswith("preprocessing:")]

    @pytest.mark.slow
    @pytest.mark.parametrize("kind", list(DATA))
    def test_collect_reports_it_once(self, kind, folders):
        data = self.DATA[kind](folders[0])
        pool = self.pool(data)
        said = self.said(lambda: collect(pool, data, splits=["test"]))
        assert len(said) == 1 and re.match(self.UNKNOWN, said[0])

    @pytest.mark.parametrize("fuser", [FoEFuserModule, FrugalFoEModule])
    def test_fusers_report_it(self, fuser, folders):
        data = self.DATA["sensors"](folders[0])
        module = fuser(experts=self.pool(data), classes=data.classes)
        module.trainer = tiny.trainer()
        module.trainer.datamodule = data
        said = self.said(lambda: module.setup("predict"))
        assert len(said) == 1 and re.match(self.UNKNOWN, said[0])

    @pytest.mark.parametrize("kind", list(DATA))
    def test_raw_input_gives_raw_values(self, kind, folders):
        data = self.DATA[kind](folders[0])
        pool = self.pool(data, raw_input=True)
        assert not self.said(lambda: collect(pool, data, splits=["test"]))
        raw = data.rows("test")[torch.arange(len(data.rows("test")))].input
        seen = torch.cat(pool.members["a"].network.seen)
        torch.testing.assert_close(seen, raw.to(torch.float32), atol=1e-4, rtol=1e-5)
        assert torch.equal(pool.members["a"](raw), pool.members["a"].network(raw))  # without a data module

    def test_raw_input_needs_values_that_can_be_restored(self):
        expert = Expert(tiny.Net(2), classes=["a", "b"], raw_input=True)
        sound = SyntheticLabeledAudioDataModule(sample_rate_hz=8000)
        with pytest.raises(InputError, match="data module gives log-mel features; set frontend: waveform"):
            expert.convert_from(sound.preprocessing)
        with pytest.raises(InputError, match="data module gives token ids; remove raw_input"):
            expert.convert_from({"tokenizer": "x", "pad_id": 0})

    def test_a_recorded_preprocessing_ends_it(self, folders):
        data = self.DATA["sensors"](folders[0])
        pool = self.pool(data)
        for expert in pool.members.values():
            expert.preprocessing = data.preprocessing
        assert not self.said(lambda: pool.convert_from(data.preprocessing))

    @pytest.mark.parametrize("card", ["pretrained_cfg", "default_cfg"])
    def test_a_model_of_timm_is_compared(self, card):
        network = SmallConvNet(2)
        setattr(network, card, {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)})
        pool = ExpertPool({"a": Expert(network, classes=["a", "b"])})
        same, other = SyntheticImageDataModule(), SyntheticImageDataModule(mean=[0.4] * 3, std=[0.2] * 3)
        assert not self.said(lambda: pool.convert_from(same.preprocessing))
        (said,) = self.said(lambda: pool.convert_from(other.preprocessing))
        assert "expert a was trained with a preprocessing that differs from the data's (mean [0.5, 0.5, 0.5]" in said


class TestExport:
    """Exported programs contain the preprocessing."""

    @pytest.mark.parametrize("case", list(TestRawInput.CASES))
    @pytest.mark.slow
    @pytest.mark.parametrize("onnx", [False, True])
    def test_of_experts(self, case, onnx, tmp_path):
        make, network, _ = TestRawInput.CASES[case]
        data = make()
        data.setup()
        path = trained(data, network, str(tmp_path / "one.ckpt"))
        experts = {"a": Expert(network, path), "b": Expert(network, path, raw_input=True)}
        experts["b"].preprocessing = other(experts["b"].preprocessing)
        outputs = collect(ExpertPool(experts), data, splits=["val"])
        module, trainer = FoEFuserModule(**outputs.fuser_arguments()), tiny.trainer()
        trainer.fit(module, datamodule=OutputsDataModule(outputs, train_split="val"))
        trainer.save_checkpoint(tmp_path / "fuser.ckpt")
        raw = data.rows("val")[torch.arange(5)].input
        manifest = export_checkpoint(
            str(tmp_path / "fuser.ckpt"), str(tmp_path / "out"), experts, list(raw.shape[1:]), onnx=onnx
        )
        assert manifest["input"] == "raw"
        program = torch.export.load(tmp_path / "out" / "model.pt2").module()
        with torch.no_grad():
            wanted = module.eval().fuse(
                torch.cat([torch.from_numpy(x[:5]) for x in outputs["val"].probabilities.values()], 1)
            )
            torch.testing.assert_close(program(raw.float()), wanted.softmax(1), atol=1e-4, rtol=0)
        with pytest.raises(InputError, match="the expert was trained on preprocessed values"):
            experts["a"](raw)  # as before

    def test_its_network_prepares_raw_input_as_the_data_module_does(self, tmp_path):
        make, network, _ = TestRawInput.CASES["images"]
        data = make()
        path = trained(data, network, str(tmp_path / "one.ckpt"))
        pool = ExpertPool({"a": Expert(network, path)})
        fused = ExportedNetwork(pool, FuserRule(FoEFuserModule(pool, classes=data.classes).eval()))
        raw = data.rows("val")[torch.arange(5)].input
        expected = fused.rule.network(pool(data.preprocess(raw))["a"]).softmax(-1)
        torch.testing.assert_close(fused(raw), expected)
        assert fused.takes_raw_input


def other(preprocessing):
    """Another normalization, where there is one."""
    changed = dict(preprocessing)
    if "mean" in changed:
        changed |= {"mean": [value + 0.1 for value in changed["mean"]], "std": [2 * value for value in changed["std"]]}
    return changed


class TestStatistics:
    """Those of the training, not of the files that are present."""

    def test_are_recorded_in_python_as_well(self, folders):
        everyone, _, path = folders
        assert Expert(partial(Flat, width=20), path).preprocessing == sensors(everyone).preprocessing

    @pytest.mark.slow
    def test_are_recorded_by_a_subclass_without_that_argument(self, folders, tmp_path):
        everyone, *_ = folders
        trainer = tiny.trainer(limit_train_batches=1, limit_val_batches=0)
        trainer.fit(Narrow(["a", "b"]), datamodule=sensors(everyone))
        trainer.save_checkpoint(tmp_path / "a.ckpt")
        assert Narrow.load_from_checkpoint(tmp_path / "a.ckpt").preprocessing == sensors(everyone).preprocessing

    def same(self, folders, way):
        """Accuracy and probabilities of one person's samples, with everyone's folder and with their own alone."""
        everyone, one, path = folders
        results = []
        for make in (partial(sensors, everyone, domain_fields=["person"], domain="ann"), partial(sensors, one)):
            results.append(way(data := make(), path))
            assert data.preprocessing == make().preprocessing  # as before
        return results

    @pytest.mark.slow
    @pytest.mark.parametrize("how", ["ckpt_path", "load_from_checkpoint"])
    def test_of_a_trained_module(self, folders, how):
        def predict(data, path):
            network = partial(Flat, width=20)
            trainer = tiny.trainer()
            if how == "ckpt_path":
                module, path = ExpertModule(network, classes=data.classes), path
                parts = trainer.predict(module, datamodule=data, ckpt_path=path)
            else:
                module = ExpertModule.load_from_checkpoint(path, network=network)
                parts = trainer.predict(module, datamodule=data)
            return torch.cat([part["probabilities"] for part in parts])

        torch.testing.assert_close(*self.same(folders, predict))

    @pytest.mark.slow
    def test_other_ones_are_said_once(self, folders, caplog):
        everyone, one, path = folders
        message = "normalization: mean and std are those of the model's training, not of these data"
        with caplog.at_level(logging.INFO):
            for root, count in ((everyone, 0), (one, 1)):
                data = sensors(root)
                for _ in range(2):
                    module = ExpertModule.load_from_checkpoint(path, network=partial(Flat, width=20))
                    tiny.trainer().test(module, datamodule=data, verbose=False)
                assert caplog.text.count(message) == count

    def test_of_a_module_that_is_trained_on(self, folders):
        _, one, path = folders
        module = ExpertModule.load_from_checkpoint(path, network=partial(Flat, width=20))
        before = module.preprocessing
        data, seen = sensors(one), []
        data.on_after_batch_transfer = lambda batch, _: (seen.append(data.preprocessing), batch)[1]
        tiny.trainer(limit_train_batches=1, limit_val_batches=0).fit(module, datamodule=data)
        assert seen == [before] and module.preprocessing == before

    @pytest.mark.slow
    def test_of_experts_that_are_collected(self, folders, caplog):
        def stored(data, path):
            pool = ExpertPool({"a": Expert(partial(Flat, width=20), path)})
            return np.asarray(collect(pool, data, splits=["test"])["test"].probabilities["a"])

        with caplog.at_level(logging.INFO):
            np.testing.assert_allclose(*self.same(folders, stored), atol=1e-5)
        assert "the input of expert a is converted to the mean and std of its training" in caplog.text

    def test_of_experts_with_different_ones(self, folders, tmp_path):
        _, one, path = folders
        own = trained(sensors(one), partial(Flat, width=20), str(tmp_path / "own.ckpt"))
        experts = {name: Expert(partial(Flat, width=20), each) for name, each in (("a", path), ("b", own))}
        data = sensors(one)
        found = collect(ExpertPool(experts), data, splits=["test"])["test"].probabilities
        raw = data.rows("test")[torch.arange(len(data.rows("test")))].input
        for name, each in (("a", path), ("b", own)):
            expected = Expert(partial(Flat, width=20), each, raw_input=True)(raw)
            np.testing.assert_allclose(found[name], expected, atol=1e-5)

    @pytest.mark.slow
    def test_of_an_expert_that_is_published(self, folders):
        """Its centroids are those of its own input."""
        everyone, one, path = folders
        means = []
        for arguments in ({}, {"mean": [1.0, 2.0], "std": [3.0, 4.0]}):
            network = partial(Flat, width=20)
            expert = Expert(network, path, features="0")
            card, files = describe_source(expert, sensors(one, **arguments), "ann", [0.0], network)
            assert card.preprocessing == sensors(everyone).preprocessing
            means.append(load(files["centroids.safetensors"])["means"])
        torch.testing.assert_close(*means, atol=1e-5, rtol=0)

    def test_by_domain_where_that_is_declared(self, folders, tmp_path):
        """``normalization_scope: own``: a model reads each domain normalized by the statistics of that domain."""
        everyone, *_ = folders
        data = sensors(everyone, domain_fields=["person"], normalization_scope="own", domain="ann")
        path = trained(data, partial(Flat, width=20), str(tmp_path / "ann.ckpt"))
        other = data.variant(domain="eve")
        raw = other.rows("test")[torch.arange(len(other.rows("test")))].input
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="preprocessing")
            expert = Expert(partial(Flat, width=20), path)
            found = collect(ExpertPool({"a": expert}), other, splits=["test"])["test"].probabilities["a"]
            module = ExpertModule.load_from_checkpoint(path, network=partial(Flat, width=20))
            seen = []
            module.on_test_start = lambda: seen.append(other.preprocessing)
            tiny.trainer().test(module, datamodule=other, verbose=False)
        np.testing.assert_allclose(found, expert(other.preprocess(raw)), atol=1e-6)
        assert seen == [other.preprocessing] and seen[0]["mean"] != expert.preprocessing["mean"]

    @pytest.mark.slow
    def test_before_a_module_of_the_users(self, folders):
        """Behind other statistics, a resize gets what it gets behind those of the training."""
        everyone, one, _ = folders
        halve = nn.AvgPool1d(2)
        torch.manual_seed(0)
        network = partial(Flat, width=10)(2)
        raw = torch.randn(8, 2, 10) * 5 + 3
        probabilities = []
        for data in (sensors(everyone), sensors(one)):
            expert = Expert(network, classes=["a", "b"], preprocess=halve)
            expert.preprocessing = sensors(everyone).preprocessing
            expert.convert_from(data.preprocessing)
            probabilities.append(expert(data.preprocess(raw)))
        torch.testing.assert_close(*probabilities)

    @pytest.mark.slow
    def test_of_experts_below_a_fuser(self, folders):
        def fused(data, path):
            torch.manual_seed(0)
            fuser = FoEFuserModule({"a": Expert(partial(Flat, width=20), path)}, classes=data.classes)
            parts = tiny.trainer().predict(fuser, datamodule=data)
            return torch.cat([part["probabilities"] for part in parts])

        torch.testing.assert_close(*self.same(folders, fused), atol=1e-5, rtol=0)

    @pytest.mark.slow
    def test_behind_a_view(self, folders):
        everyone, one, path = folders
        data = RoleDataModule(sensors(one, domain_fields=["person"]))
        module = ExpertModule.load_from_checkpoint(path, network=partial(Flat, width=20))
        seen = []
        module.on_test_start = lambda: seen.append(data.preprocessing)
        tiny.trainer().test(module, datamodule=data, verbose=False)
        assert seen == [sensors(everyone).preprocessing]

    def test_given_ones_are_kept_with_a_warning(self, folders):
        _, one, path = folders
        module = ExpertModule.load_from_checkpoint(path, network=partial(Flat, width=20))
        with pytest.warns(UserWarning, match=r"the model was trained with .* \(mean \[.*\] against \[0.0, 0.0\]\)$"):
            tiny.trainer().test(module, datamodule=sensors(one, mean=[0, 0]), verbose=False)

    @pytest.mark.slow
    def test_of_images(self, tmp_path):
        make = partial(SyntheticImageDataModule, image_size=8)
        network = partial(Flat, width=3 * 8 * 8)
        path = trained(make(mean=[0.4, 0.5, 0.6], std=[0.2] * 3), network, str(tmp_path / "a.ckpt"))
        module, data, seen = ExpertModule.load_from_checkpoint(path, network=network), make(), []
        module.on_test_start = lambda: seen.append(data.preprocessing["mean"])
        tiny.trainer().test(module, datamodule=data, verbose=False)
        assert seen == [[0.4, 0.5, 0.6]] and data.preprocessing["mean"] == [0.5] * 3

    def test_missing_values_of_a_table(self, tmp_path):
        """Their replacements are statistics too."""
        for name, offset in (("train", 0), ("other", 100)):
            rows = [f"{row % 9 + offset if row % 5 else '?'},{row % 2},{'ab'[row % 2]}" for row in range(60)]
            (tmp_path / f"{name}.csv").write_text("\n".join(["x,y,label", *rows]))
        data = FeatureTableDataModule(str(tmp_path / "train.csv"))
        path = trained(data, partial(Flat, width=2), str(tmp_path / "a.ckpt"))
        other, seen = FeatureTableDataModule(str(tmp_path / "other.csv")), []
        module = ExpertModule.load_from_checkpoint(path, network=partial(Flat, width=2))
        module.on_test_batch_start = lambda batch, *_: seen.append(batch.input)
        tiny.trainer().test(module, datamodule=other, verbose=False)
        assert (torch.cat(seen)[:, 0].min() - data.preprocess(torch.tensor([[4.0, 0.0]]))[0, 0]).abs() < 1e-6


class TestTwice:
    """A network that normalizes, behind a data module that normalizes."""

    class InForward(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("pixel_mean", torch.full((1, 3, 1, 1), 0.5))
            self.register_buffer("pixel_std", torch.full((1, 3, 1, 1), 0.2))
            self.body = SmallConvNet(2)

        def forward(self, input: Tensor) -> Tensor:
            return self.body((input - self.pixel_mean) / self.pixel_std)

    NORMALIZE = v2.Normalize([0.5] * 3, [0.2] * 3)
    KINDS = {
        "a layer": (
            lambda: Expert(nn.Sequential(TestTwice.NORMALIZE, SmallConvNet(2)), classes=["a", "b"]),
            "0 (Normalize)",
        ),
        "buffers": (lambda: Expert(TestTwice.InForward(), classes=["a", "b"]), "InForward"),
        "preprocess": (
            lambda: Expert(SmallConvNet(2), classes=["a", "b"], preprocess=TestTwice.NORMALIZE),
            "Normalize",
        ),
        "a composition": (
            lambda: Expert(
                SmallConvNet(2), classes=["a", "b"], preprocess=v2.Compose([v2.Resize(8), TestTwice.NORMALIZE])
            ),
            "1 (Normalize)",
        ),
    }

    @pytest.mark.parametrize("kind", list(KINDS))
    @pytest.mark.parametrize("normalizes", [True, False])
    def test_is_said(self, kind, normalizes):
        make, part = self.KINDS[kind]
        data = SyntheticImageDataModule(image_size=8, **({} if normalizes else {"mean": [0, 0, 0], "std": [1, 1, 1]}))
        pool = ExpertPool({"a": make()}, [*data.classes, "a", "b"])
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            pool.convert_from(data.preprocessing)
        message = (
            f"preprocessing: expert a normalizes its input in {part}, and the data module normalizes it before: set "
            f"mean: [0, 0, 0] and std: [1, 1, 1] of the data module, or remove {part}"
        )
        assert [str(one.message) for one in caught] == [message] * normalizes

    def test_batch_norm_is_no_normalization_of_the_input(self):
        expert = Expert(SmallConvNet(2), classes=["a", "b"])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            expert.convert_from(SyntheticImageDataModule().preprocessing)

    def test_a_network_to_be_trained(self):
        data = SyntheticImageDataModule(image_size=8)
        module = ExpertModule(lambda count: nn.Sequential(self.NORMALIZE, SmallConvNet(count)), classes=data.classes)
        with pytest.warns(UserWarning, match=r"the model normalizes its input in 0 \(Normalize\), and the data module"):
            tiny.trainer(limit_train_batches=1, limit_val_batches=0).fit(module, datamodule=data)


class TestEqualValues:
    """The warning about another preprocessing compares values."""

    @pytest.mark.parametrize(
        ("one", "other"),
        [(200.0, 200), ([1, 2], (1.0, 2.0)), ([0.1 + 0.2], [0.3]), ({"a": (1,)}, {"a": [1]}), (np.float32(2), 2)],
    )
    def test_are_silent(self, one, other):
        known, found = {"sample_rate_hz": one}, {"sample_rate_hz": other}
        expert = Expert(tiny.Net(2), classes=["a", "b"])
        expert.preprocessing = known
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            expert.convert_from(found)
            expert.convert_from(json.loads(json.dumps(found, default=float)))

    @pytest.mark.parametrize(
        ("one", "other"), [(200.0, 100), ([1, 2], [2, 1]), ("a", "b"), (True, False), ([1], [1, 2])]
    )
    def test_other_ones_are_said(self, one, other):
        expert = Expert(tiny.Net(2), classes=["a", "b"])
        expert.preprocessing = {"sample_rate_hz": one}
        with pytest.warns(UserWarning, match=r"expert a was trained with .* \(sample_rate_hz .* against "):
            expert.convert_from({"sample_rate_hz": other}, "expert a")


def test_a_composition_and_a_sequence_of_the_same_transforms_are_one_expert():
    """They give the same outputs; another order does not."""

    def make(kind, *transforms):
        torch.manual_seed(0)
        return Expert(SmallConvNet(2), classes=["a", "b"], preprocess=kind(transforms)).fingerprint

    steps = v2.Resize(8), v2.Normalize([0.5] * 3, [0.2] * 3)

    def sequence(transforms):
        return nn.Sequential(*transforms)

    assert make(v2.Compose, *steps) == make(sequence, *steps)
    assert make(v2.Compose, *reversed(steps)) == make(sequence, *reversed(steps)) != make(v2.Compose, *steps)
    assert make(sequence, steps[0]) != make(sequence, *steps) != make(sequence, nn.Sequential(), v2.Resize(9), steps[1])
