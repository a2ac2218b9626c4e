"""Models of every method as programs, compared with what the modules answer."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers import tiny
from lightning import LightningModule
from thirdparty.baseline import OneExpert
from torch.nn.functional import cosine_similarity

from lightning_fusion import (
    ACoRLModule,
    Expert,
    ExpertModule,
    ExpertPool,
    FoEFuserModule,
    FrugalFoE,
    FrugalFoEModule,
    HaTJointModule,
)
from lightning_fusion.acorl.fusion import LinearHead
from lightning_fusion.baselines import BASELINES, LogisticStacking
from lightning_fusion.data.samples.images import ImagePreprocessing
from lightning_fusion.data.samples.waveforms import WaveformPreprocessing
from lightning_fusion.encoders import SmallConvNet
from lightning_fusion.errors import InputError
from lightning_fusion.export import export, export_checkpoint
from lightning_fusion.export.network import exported_network
from lightning_fusion.export.rules import Answers
from lightning_fusion.frugal.subset_fusers import MaskedMLPFuser
from lightning_fusion.recipes.acorl.trials import ChainTrialsModule
from lightning_fusion.recipes.pool_modules import BaselineModule, LateFusionModule, WeightedAverage

ALONE = """
import builtins, json, sys
forbidden = set(sys.argv[2].split(","))
real = builtins.__import__
def guarded(name, *args, **kwargs):
    if name.partition(".")[0] in forbidden:
        raise ImportError(f"{name} is not installed here")
    return real(name, *args, **kwargs)
builtins.__import__ = guarded
folder = sys.argv[1]
facts = json.load(open(f"{folder}/manifest.json"))
batches = json.load(open(f"{folder}/batches.json"))
if "torch" in forbidden:
    import numpy, onnxruntime
    session = onnxruntime.InferenceSession(f"{folder}/model.onnx")
    given = [{facts["input_names"][0]: numpy.array(rows, facts["input_dtype"])} for rows in batches]
    found = [session.run([facts["output"]], one)[0].tolist() for one in given]
else:
    import torch
    program = torch.export.load(f"{folder}/model.pt2").module()
    found = [program(torch.tensor(rows)).tolist() for rows in batches]
assert not forbidden & {name.partition(".")[0] for name in sys.modules}
print(json.dumps(found))
"""


def alone(folder, batches, forbidden: str) -> list[torch.Tensor]:
    """What a program answers to some batches in a process where these packages cannot be imported."""
    (folder / "batches.json").write_text(json.dumps([rows.tolist() for rows in batches]))
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(folder), forbidden], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [torch.tensor(found) for found in json.loads(done.stdout)]


def rows(count: int = 7) -> torch.Tensor:
    return torch.randn(count, 4, generator=torch.Generator().manual_seed(3))


def saved(module: LightningModule, path) -> str:
    trainer = tiny.trainer()
    trainer.strategy.connect(module)
    trainer.save_checkpoint(path, weights_only=True)
    return str(path)


def policy(fuser=None) -> FrugalFoE:
    outputs = tiny.outputs(rows={"train": 60})
    return FrugalFoE(fuser=fuser).fit(outputs["train"])


def answered(model) -> torch.Tensor:
    with torch.no_grad():
        return exported_network(model)(rows())


def complementary(pool: ExpertPool) -> ACoRLModule:
    return ACoRLModule(tiny.Net, pool, features="body", classes=tiny.CLASSES).eval()


class TestEveryMethod:
    def test_an_expert(self):
        (expert, *_) = tiny.experts().values()
        assert torch.allclose(answered(expert), expert(rows()))

    def test_an_expert_module_which_remains_trainable(self):
        module = ExpertModule(tiny.Net, classes=tiny.CLASSES).eval()
        assert torch.allclose(answered(module), module(rows()).softmax(1))
        assert all(weight.requires_grad for weight in module.parameters())

    def test_a_student(self):
        student = HaTJointModule(tiny.Net, tiny.pool(features="body"), features="body", classes=tiny.CLASSES).eval()
        assert torch.allclose(answered(student), student(rows()).softmax(1))

    def test_a_policy_ends_in_the_vote_of_its_neighbors(self):
        fitted, pool = policy(), tiny.pool()
        module = FrugalFoEModule(fitted, pool)
        spread = module.vocabulary.scatter(torch.cat(list(pool(rows()).values()), 1))
        wanted = fitted.fuse(fitted.names, spread.transpose(0, 1))
        assert torch.allclose(answered(module), wanted)
        assert "queries all experts" in exported_network(module).rule.facts["decisions"]

    def test_equally_distant_samples_vote_in_their_order(self):
        fitted = policy()
        with torch.no_grad():
            fitted.outputs[:, 1::2] = fitted.outputs[:, ::2].clone()  # every sample twice, with other targets
        fitted._calibration = None
        network = exported_network(FrugalFoEModule(fitted, tiny.pool()))
        network.rule.rows = fitted.outputs.double().transpose(0, 1).flatten(1)
        points = fitted.outputs[:, :10]
        wanted = fitted.fuse(fitted.names, points)
        spread = points.transpose(0, 1)
        assert torch.equal(network.rule(Answers(spread.flatten(1), spread, [])), wanted)

    def test_a_policy_with_a_perceptron(self):
        fitted, pool = policy(), tiny.pool()
        fitted.fuser = MaskedMLPFuser(hidden=(4,))
        fitted.fuser.allocate(2, 60, 3)
        module = FrugalFoEModule(fitted, pool)
        spread = module.vocabulary.scatter(torch.cat(list(pool(rows()).values()), 1))
        assert torch.allclose(answered(module), fitted.fuser.predict([0, 1], spread.transpose(0, 1)))

    @pytest.mark.parametrize("name", [name for name, kind in BASELINES.items() if kind.__name__ != "KNORAE"])
    def test_rows_of_a_report(self, name):
        pool, stored = tiny.pool(), tiny.outputs()
        rule = BASELINES[name]().fit(stored.scattered("train"), np.asarray(stored["train"].target))
        module = BaselineModule(pool, rule)
        try:
            found = answered(module)
        except InputError as error:
            assert "is no part of a program; choose an average" in str(error)
            assert name not in ("softmax average", "best single expert", "most confident", "majority vote")
            assert name != "logistic stacking"
            return
        assert torch.allclose(found, module.answer(rows())["probabilities"].float(), atol=1e-6)

    def test_stacking_of_two_classes_or_one(self):
        pool = ExpertPool({name: Expert(tiny.Net(2), classes=["cat", "dog"]) for name in "ab"})
        outputs = torch.rand(20, 2, 2).numpy()
        for targets in (np.arange(20) % 2, np.ones(20, int)):
            module = BaselineModule(pool, LogisticStacking().fit(outputs, targets))
            assert torch.allclose(answered(module), module.answer(rows())["probabilities"].float(), atol=1e-6)

    def test_members_of_a_chain(self):
        pool = tiny.pool(features="body")
        weighted = BaselineModule(pool, WeightedAverage(torch.tensor([0.3, 0.7], dtype=torch.float64)))
        late = LateFusionModule(pool, LinearHead(3, torch.randn(10), torch.rand(10) + 0.5).eval())
        for module in (weighted, late):
            assert torch.allclose(answered(module), module.answer(rows())["probabilities"].float(), atol=1e-6)

    def test_the_cosine_of_embeddings_is_the_mean_of_the_members(self):
        pool = tiny.pool(features="body")
        chain = ChainTrialsModule(pool, [0.5, 0.7, -0.1])
        found = answered(chain)
        each = [cosine_similarity(one[:1], one[1:]) for one in pool.representations(rows()).values()]
        assert torch.allclose(cosine_similarity(found[:1], found[1:]), sum(each) / 2, atol=1e-6)
        facts = exported_network(chain).rule
        assert (facts.output, facts.facts["weights"], facts.facts["intercept"]) == ("embedding", [0.5, 0.7], -0.1)


class TestCheckpoints:
    @pytest.mark.slow
    def test_a_complementary_expert_alone_and_beside_the_frozen_ones(self, tmp_path):
        pool = tiny.pool(features="body")
        module = complementary(pool)
        path = saved(module, tmp_path / "new.ckpt")
        alone = export_checkpoint(path, str(tmp_path / "alone"), input_shape=[4])
        assert (alone["method"], alone["classes"]) == ("ACoRLModule", tiny.CLASSES)
        export_checkpoint(path, str(tmp_path / "pair"), pool, [4])
        program = torch.export.load(tmp_path / "pair" / "model.pt2").module()
        with torch.no_grad():
            spread = tiny.pool(features="body")
            known = spread(rows())
            each = torch.zeros(7, 3, 3)
            for number, (name, own) in enumerate(tiny.EXPERT_CLASSES.items()):
                each[:, number, [tiny.CLASSES.index(label) for label in own]] = known[name]
            each[:, 2] = module(rows()).softmax(1)
            torch.testing.assert_close(program(rows()), each.mean(1), atol=1e-5, rtol=1e-4)
        with pytest.raises(InputError, match="fingerprint"):
            export_checkpoint(path, str(tmp_path / "other"), tiny.pool(seed=1, features="body"), [4])

    @pytest.mark.slow
    def test_a_policy_needs_its_experts(self, tmp_path):
        path = saved(FrugalFoEModule(policy(), tiny.pool()), tmp_path / "policy.ckpt")
        with pytest.raises(InputError, match=r"is the checkpoint of a fuser or policy.*give them \(-c POOL"):
            export_checkpoint(path, str(tmp_path / "out"), input_shape=[4])
        found = export_checkpoint(path, str(tmp_path / "out"), tiny.pool(), [4])
        assert found["method"].startswith("FrugalFoE") and "FrugalFoEModule queries" in found["decisions"]

    def test_of_another_method(self, tmp_path):
        path = saved(ExpertModule(tiny.Net, classes=tiny.CLASSES), tmp_path / "one.ckpt")
        with pytest.raises(InputError, match=r"one model .*ExpertModule.*answers alone; leave experts out"):
            export_checkpoint(path, str(tmp_path / "out"), tiny.pool(), [4])
        content = torch.load(path, weights_only=True)
        content.pop("expert")
        content["hyper_parameters"]["_class_path"] = "lightning_fusion.generation.module.GenerativeExpertModule"
        torch.save(content, path)
        with pytest.raises(InputError, match="is that of a GenerativeExpertModule, which is not exported; expected"):
            export_checkpoint(path, str(tmp_path / "out"), tiny.pool(), [4])


class TestRefusals:
    def test_what_is_no_torch_module(self):
        recorded = tiny.experts()["a"]
        recorded.answers_by_name = True
        called = Expert(tiny.Net(2).forward, classes=["cat", "dog"])
        for expert, said in ((recorded, "recorded predictions"), (called, "is a plain callable, no torch module")):
            with pytest.raises(InputError, match=f"expert.* {said}"):
                exported_network(expert)

    def test_models_without_experts_or_a_fit(self):
        with pytest.raises(InputError, match="this FoEFuserModule has none, and reads stored outputs only"):
            exported_network(FoEFuserModule(expert_classes=tiny.EXPERT_CLASSES))
        with pytest.raises(InputError, match="policy: it is not fitted"):
            exported_network(FrugalFoEModule(FrugalFoE(), tiny.pool()))
        with pytest.raises(InputError, match="a Net cannot be exported; expected an Expert"):
            exported_network(tiny.Net(2))
        with pytest.raises(InputError, match=r"features: the experts a, b have no layer set"):
            exported_network(ChainTrialsModule(tiny.pool()))
        with pytest.raises(InputError, match=r"rule of this row \(OneExpert\) is no part of a program"):
            exported_network(BaselineModule(tiny.pool(), OneExpert(number=1)))

    def test_wrong_shapes(self, tmp_path):
        expert = tiny.experts()["a"]
        with pytest.raises(InputError, match=r"input_shape is \[0\]; expected positive sizes of one sample"):
            export(expert, tmp_path / "out", [0])
        with pytest.raises(InputError, match=r"input_shape: the experts reject a sample of shape \[5\]: mat1 and"):
            export(expert, tmp_path / "out", [5])


class TestRawSamples:
    """Experts that prepare raw samples: exported where their preparation is one of tensors of one size."""

    @staticmethod
    def image_expert(**how) -> Expert:
        torch.manual_seed(0)
        way = ImagePreprocessing(8, mean=[0.4] * 3, std=[0.2] * 3, **how)
        return Expert(SmallConvNet(2, width=2), classes=["cat", "dog"], preprocess=way)

    @pytest.mark.slow
    def test_images_of_the_size_of_the_network(self, tmp_path):
        expert = self.image_expert()
        found = export(expert, tmp_path / "out")
        assert (found["input_shape"], found["input"]) == ([None, 3, 8, 8], "raw")
        program = torch.export.load(tmp_path / "out" / "model.pt2").module()
        images = torch.randint(256, (3, 3, 8, 8), dtype=torch.uint8)
        torch.testing.assert_close(program(images.float()), expert(images), atol=1e-5, rtol=1e-4)

    def test_images_of_other_sizes(self):
        with pytest.raises(InputError, match=r"resizes images with PIL.* shape of resized images, \[3, 8, 8\]"):
            exported_network(self.image_expert()).prepare([3, 9, 9])
        with pytest.raises(InputError, match="images in their original size with ImagePreprocessing, which is"):
            exported_network(self.image_expert(resize=10))

    def test_waveforms(self):
        def expert(rate: int) -> Expert:
            way = WaveformPreprocessing(rate, normalize=True)
            return Expert(tiny.Net(2), classes=["cat", "dog"], preprocess=way)

        one = expert(8000)
        assert torch.allclose(answered(one), one(rows()))
        with pytest.raises(InputError, match=r"waveforms of different rates \(a 8000 Hz, b 16000 Hz\)"):
            exported_network(FoEFuserModule(ExpertPool({"a": one, "b": expert(16000)})))


@pytest.mark.slow
def test_programs_run_without_this_library_and_name_no_path_of_this_machine(tmp_path):
    """The program runs with torch, and the ONNX file with ONNX Runtime and NumPy, alone."""
    module = FrugalFoEModule(policy(), tiny.pool())
    manifest = export(module, tmp_path / "out", [4], onnx=True)
    wanted = answered(module)
    without = "lightning_fusion,lightning,pytorch_lightning,torchvision,sklearn,torchmetrics"
    for forbidden in (without, f"torch,{without}"):
        found = alone(tmp_path / "out", [rows(), rows()[:1]], forbidden)
        torch.testing.assert_close(found, [wanted, wanted[:1]], atol=1e-5, rtol=1e-4)
    assert manifest["input_dtype"] == "float32" and manifest["output_shape"] == [None, 3]
    for name in ("model.pt2", "model.onnx"):
        content = (tmp_path / "out" / name).read_bytes()
        assert b"/export/" not in content and b"return F.linear" not in content, name
