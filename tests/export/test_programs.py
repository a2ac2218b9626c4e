import json
from functools import partial
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from helpers import language_models, tiny
from helpers.limited import largest_file

from lightning_fusion import Expert, ExpertPool, FoEFuserModule, OutputsDataModule, collect
from lightning_fusion.encoders import TextBag, TextTransformer
from lightning_fusion.errors import InputError
from lightning_fusion.export import export_checkpoint
from lightning_fusion.files import hash_files


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Fusers with both kinds of target, trained on the answers of one pool."""
    folder = tmp_path_factory.mktemp("export")
    outputs = collect(tiny.pool(), tiny.data(), trainer=tiny.trainer())
    facts = outputs.fuser_arguments() | {"domains": ["x", "y"], "expert_domains": {"a": ["x"], "b": ["y"]}}
    paths = {}
    for target in ("label", "expert"):
        module, trainer = FoEFuserModule(**facts, target=target), tiny.trainer()
        trainer.fit(module, datamodule=OutputsDataModule(outputs))
        trainer.save_checkpoint(paths.setdefault(target, folder / f"{target}.ckpt"))
    return {target: str(path) for target, path in paths.items()}


def sample_shape():
    return list(tiny.data().rows("test").inputs.shape[1:])


@pytest.mark.slow
@pytest.mark.parametrize(("target", "onnx"), [("label", True), ("expert", False)])
def test_the_program_answers_as_the_modules_do_for_any_batch(trained, tmp_path, target, onnx):
    manifest = export_checkpoint(trained[target], str(tmp_path / "out"), tiny.pool(), sample_shape(), onnx=onnx)
    fuser = FoEFuserModule.load_from_checkpoint(trained[target], experts=tiny.pool()).eval()
    program = torch.export.load(tmp_path / "out" / "model.pt2").module()
    for rows in (1, 3, 8):
        batch = torch.randn(rows, *sample_shape())
        with torch.no_grad():
            fused = fuser(batch)
            wanted = fused.softmax(-1) if target == "label" else fused.exp()
            assert torch.allclose(program(batch), wanted, atol=1e-5)
    if onnx:
        import onnxruntime

        session = onnxruntime.InferenceSession(str(tmp_path / "out" / "model.onnx"))
        (found,) = session.run(None, {"input": batch.numpy()})
        assert torch.allclose(torch.from_numpy(found), wanted, atol=1e-5)
    assert manifest == json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["classes"] == fuser.classes
    assert manifest["parity"] < 1e-5
    assert {name: fact["fingerprint"] for name, fact in manifest["experts"].items()} == {
        name: expert.fingerprint for name, expert in tiny.pool().members.items()
    }
    assert manifest["files"] == {name: hash_files([tmp_path / "out" / name]) for name in manifest["files"]}
    assert set(manifest["files"]) == {"model.pt2", *(["model.onnx"] if onnx else [])}


@pytest.mark.slow
def test_a_fuser_that_reads_features_is_exported_with_them(tmp_path):
    pool = tiny.pool(features="body")
    outputs = collect(pool, tiny.data(), keep_representations=True, trainer=tiny.trainer())
    data = OutputsDataModule(outputs, representations=True)
    module, trainer = (
        FoEFuserModule(**outputs.fuser_arguments(), representation_dims=data.representation_dims),
        tiny.trainer(),
    )
    trainer.fit(module, datamodule=data)
    trainer.save_checkpoint(tmp_path / "features.ckpt")
    export_checkpoint(str(tmp_path / "features.ckpt"), str(tmp_path / "out"), pool, sample_shape(), onnx=True)
    program = torch.export.load(tmp_path / "out" / "model.pt2").module()
    batch, given = tiny.data().rows("test").inputs, torch.from_numpy(outputs.concatenated("test", representations=True))
    with torch.no_grad():
        torch.testing.assert_close(program(batch), module.eval().fuse(given).softmax(-1), atol=1e-5, rtol=1e-4)


small_transformer = partial(TextTransformer, layers=1)


def of_texts(kind, tmp_path) -> ExpertPool:
    """Two experts that read tokens."""
    if kind == "bert":
        pytest.importorskip("transformers")
        paths = [language_models.save_classifier(tmp_path / name, labels=["cat", "dog"]) for name in "ab"]
        return ExpertPool({name: Expert.from_transformers(path) for name, path in zip("ab", paths, strict=True)})
    made = [network(2, vocab_size=language_models.VOCABULARY, width=16) for network in (TextBag, small_transformer)]
    named = zip("ab", made, strict=True)
    return ExpertPool({name: Expert(one, classes=["cat", "dog"], features="pool") for name, one in named})


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["of this library", "bert"])
def test_texts_of_any_length(kind, tmp_path):
    torch.manual_seed(0)
    pool = of_texts(kind, tmp_path)
    module = FoEFuserModule(pool, representation_dims={"a": 16, "b": 16}, mean_weight=0.3).eval()
    trainer = tiny.trainer()
    trainer.strategy.connect(module)
    trainer.save_checkpoint(tmp_path / "fuser.ckpt")
    manifest = export_checkpoint(
        str(tmp_path / "fuser.ckpt"), str(tmp_path / "out"), pool, max_tokens=12, onnx=kind != "bert"
    )
    assert manifest["input_shape"] == {name: [None, "up to 12"] for name in ("input_ids", "attention_mask")}
    program = torch.export.load(tmp_path / "out" / "model.pt2").module()
    for rows, length in ((1, 12), (3, 5), (4, 1)):
        ids, lengths = (
            torch.randint(language_models.VOCABULARY, (rows, length)),
            torch.randint(1, length + 1, (rows, 1)),
        )
        batch = {"input_ids": ids, "attention_mask": (torch.arange(length) < lengths).long()}
        with torch.no_grad():
            torch.testing.assert_close(program(batch), module(batch).softmax(-1), atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("how", [{}, {"input_shape": [4], "max_tokens": 4}, {"max_tokens": 1}, {"max_tokens": 4}])
def test_one_kind_of_input_is_named(trained, tmp_path, how):
    with pytest.raises(InputError, match="max_tokens"):
        export_checkpoint(trained["label"], str(tmp_path / "out"), tiny.pool(), **how)


class OwnWay(FoEFuserModule):
    """A fuser that answers something else than it was trained for."""

    def forward(self, input):
        return -super().forward(input)


class SharpFuser(FoEFuserModule):
    """The fuser of docs/how-to/extend.md."""

    def __init__(self, temperature: float = 0.5, **kwargs):
        super().__init__(**kwargs)
        self.temperature = temperature

    def fuse(self, outputs):
        return super().fuse(outputs) / self.temperature


@pytest.mark.slow
def test_what_does_not_belong_together_is_rejected_and_nothing_is_written(trained, tmp_path):
    out, shape = str(tmp_path / "out"), sample_shape()
    with pytest.raises(InputError, match="fingerprint"):
        export_checkpoint(trained["label"], out, tiny.pool(seed=1), shape)
    with pytest.raises(InputError, match="trained with"):
        export_checkpoint(trained["label"], out, {"a": tiny.pool().members["a"]}, shape)
    with pytest.raises(InputError, match="plain callable"):
        called = {
            name: Expert(expert.network.forward, classes=expert.classes) for name, expert in tiny.pool().members.items()
        }
        content = torch.load(trained["label"], weights_only=True)
        torch.save(content | {"experts": None}, tmp_path / "unknown.ckpt")
        export_checkpoint(str(tmp_path / "unknown.ckpt"), out, called, shape)
    with pytest.raises(InputError, match="input_shape"):
        export_checkpoint(trained["label"], out, tiny.pool(), [*shape, 3])
    with pytest.raises(InputError, match="found no file"):
        export_checkpoint(str(tmp_path / "none.ckpt"), out, tiny.pool(), shape)
    (tmp_path / "cut.ckpt").write_bytes(Path(trained["label"]).read_bytes()[:500])
    with pytest.raises(InputError, match="cannot be read"):
        export_checkpoint(str(tmp_path / "cut.ckpt"), out, tiny.pool(), shape)
    assert not (tmp_path / "out").exists()


def test_a_subclass_that_is_not_imported_is_named(tmp_path):
    module, trainer = FoEFuserModule(expert_classes=tiny.EXPERT_CLASSES, classes=tiny.CLASSES), tiny.trainer()
    trainer.strategy.connect(module)
    trainer.save_checkpoint(tmp_path / "own.ckpt")
    content = torch.load(tmp_path / "own.ckpt", weights_only=True)
    content["hyper_parameters"]["_class_path"] = "mine.ExtraFuser"
    torch.save(content, tmp_path / "own.ckpt")
    with pytest.raises(InputError, match=r"a mine.ExtraFuser, .*name the class of the fuser \(--fuser=mine"):
        export_checkpoint(str(tmp_path / "own.ckpt"), str(tmp_path / "out"), tiny.pool(), sample_shape())
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("onnx", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_fusion_of_a_subclass_is_exported(tmp_path, onnx):
    pool = tiny.pool()
    module, trainer = SharpFuser(experts=pool, temperature=0.25), tiny.trainer()
    trainer.strategy.connect(module)
    trainer.save_checkpoint(tmp_path / "own.ckpt")
    export_checkpoint(str(tmp_path / "own.ckpt"), str(tmp_path / "out"), pool, sample_shape(), onnx=onnx)
    program, batch = torch.export.load(tmp_path / "out" / "model.pt2").module(), torch.randn(5, *sample_shape())
    with torch.no_grad():
        plain = FoEFuserModule.fuse(module, module._query(batch))
        torch.testing.assert_close(program(batch), (plain / 0.25).softmax(1))
        assert not torch.allclose(program(batch), plain.softmax(1))


def test_an_overridden_forward_is_not_exported_as_another(tmp_path):
    module, trainer = OwnWay(expert_classes=tiny.EXPERT_CLASSES, classes=tiny.CLASSES), tiny.trainer()
    trainer.strategy.connect(module)
    trainer.save_checkpoint(tmp_path / "own.ckpt")
    with pytest.raises(InputError, match="OwnWay overrides forward, which the program would ignore; override fuse"):
        export_checkpoint(str(tmp_path / "own.ckpt"), str(tmp_path / "out"), tiny.pool(), sample_shape())


@pytest.mark.slow
def test_only_an_earlier_export_is_replaced(trained, tmp_path):
    out, shape = tmp_path / "out", sample_shape()
    export_checkpoint(trained["label"], str(out), tiny.pool(), shape)
    with pytest.raises(InputError, match="contains an export already; name a new folder, or set overwrite"):
        export_checkpoint(trained["label"], str(out), tiny.pool(), shape)
    assert export_checkpoint(trained["expert"], str(out), tiny.pool(), shape, overwrite=True)["target"] == "expert"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match=r"contains other files \(thesis\.tex\)"):
        export_checkpoint(trained["label"], str(tmp_path / "mine"), tiny.pool(), shape, overwrite=True)
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "x"
    with pytest.raises(InputError, match=r"thesis\.tex is a file; name a folder"):
        export_checkpoint(trained["label"], str(tmp_path / "mine/thesis.tex"), tiny.pool(), shape, overwrite=True)
    with FileLock(out / ".lock"), pytest.raises(InputError, match="another process is writing"):
        export_checkpoint(trained["label"], str(out), tiny.pool(), shape, overwrite=True)


@pytest.mark.slow
def test_a_full_disk_leaves_the_earlier_export(trained, tmp_path):
    shape = sample_shape()
    before = export_checkpoint(trained["label"], str(tmp_path / "out"), tiny.pool(), shape)
    with largest_file(20_000), pytest.raises(InputError, match="a file has reached the largest size"):
        export_checkpoint(trained["expert"], str(tmp_path / "out"), tiny.pool(), shape, overwrite=True)
    assert json.loads((tmp_path / "out/manifest.json").read_text()) == before
    assert before["files"]["model.pt2"] == hash_files([tmp_path / "out/model.pt2"])


class Branching(tiny.Net):
    """A network whose branch depends on the values of the batch."""

    def forward(self, input):
        return super().forward(input if input.mean() > 0 else -input)


@pytest.mark.slow
def test_a_network_that_cannot_be_traced_is_named_in_one_line(tmp_path):
    experts = {"a": Expert(Branching(2), classes=tiny.EXPERT_CLASSES["a"])}
    module = FoEFuserModule(experts=experts)
    trainer = tiny.trainer()
    trainer.strategy.connect(module)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    with pytest.raises(
        InputError, match=r"torch.export cannot trace the network \(.*branches that depend on"
    ) as caught:
        export_checkpoint(str(tmp_path / "a.ckpt"), str(tmp_path / "out"), experts, [4])
    assert "\n" not in str(caught.value) and not (tmp_path / "out" / "manifest.json").exists()


@pytest.mark.slow
def test_the_program_takes_no_other_shape(trained, tmp_path):
    export_checkpoint(trained["label"], str(tmp_path / "out"), tiny.pool(), sample_shape())
    program = torch.export.load(tmp_path / "out" / "model.pt2").module()
    for shape in [(3, 5), (3, 1, 4), (3,)]:
        with pytest.raises((AssertionError, RuntimeError, IndexError)):
            program(torch.randn(shape))
