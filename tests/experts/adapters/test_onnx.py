import re
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.models import raw
from torch import nn

from lightning_fusion import Expert
from lightning_fusion.data.samples.images import ImagePreprocessing
from lightning_fusion.errors import InputError
from lightning_fusion.experts.adapters.onnx import OnnxExpert

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
NETWORK = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
SIDE = ImagePreprocessing(8)


def save(path: Path, batch: int | None = None, last: bool = False, kind: str = "float", scores: bool = False) -> str:
    """A linear classifier of images: of a fixed batch, channels last, another type, with probabilities."""
    from onnx import TensorProto, helper, numpy_helper

    weight = NETWORK[1].weight.detach().numpy().T
    nodes, name = [], "input"
    for operator, attributes in (
        ("Cast", {"to": TensorProto.FLOAT}),
        *([("Transpose", {"perm": [0, 3, 1, 2]})] if last else []),
        ("Flatten", {}),
    ):
        nodes.append(helper.make_node(operator, [name], [f"{name}_"], **attributes))
        name += "_"
    nodes += [
        helper.make_node("MatMul", [name, "weight"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["logits"]),
        *([helper.make_node("Softmax", ["logits"], ["probabilities"])] if scores else []),
    ]
    shape = [batch or "n", *([8, 8, 3] if last else [3, 8, 8])]
    output = "probabilities" if scores else "logits"
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("input", getattr(TensorProto, kind.upper()), shape)],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, [batch or "n", 2])],
        [
            numpy_helper.from_array(np.ascontiguousarray(weight), "weight"),
            numpy_helper.from_array(NETWORK[1].bias.detach().numpy(), "bias"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    return str(path)


@pytest.fixture
def expected(opened) -> torch.Tensor:
    return Expert(NETWORK, classes=["cat", "dog"], preprocess=SIDE)(raw(opened))


@pytest.mark.parametrize(
    "form", [{}, {"batch": 1}, {"batch": 4}, {"last": True}, {"kind": "double"}, {"kind": "float16"}, {"scores": True}]
)
def test_the_answers_are_those_of_the_network(tmp_path, opened, expected, form):
    expert = OnnxExpert(save(tmp_path / "a.onnx", **form), ["cat", "dog"], preprocess=SIDE)
    torch.testing.assert_close(
        expert(raw(opened)), expected, atol=1e-3 if form.get("kind") == "float16" else 1e-6, rtol=0
    )
    assert expert.unknown_state() is None and expert.output == ("probabilities" if form.get("scores") else "logits")


def test_the_fingerprint_is_that_of_the_file(tmp_path):
    first = OnnxExpert(save(tmp_path / "a.onnx"), ["cat", "dog"])
    (tmp_path / "b").mkdir()
    again = OnnxExpert(save(tmp_path / "b/a.onnx"), ["cat", "dog"], version="")  # as configurations give it
    assert again.unknown_state() is None
    with pytest.raises(
        InputError, match=r"the expert: the data module gives images in their original size; set prepro"
    ):
        first.convert_from({"image_size": "original", "channels": 3})
    assert (
        first.fingerprint == again.fingerprint != OnnxExpert(save(tmp_path / "a.onnx", 1), ["cat", "dog"]).fingerprint
    )


def test_values_are_raw_unless_told_otherwise(tmp_path):
    expert = OnnxExpert(save(tmp_path / "a.onnx"), ["cat", "dog"])
    assert expert.raw_input and not OnnxExpert(save(tmp_path / "a.onnx"), ["cat", "dog"], raw_input=False).raw_input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"output_name": "p"}, r"output_name: \S+ has logits; found 'p'"),
        ({"classes": ["a", "b", "c"]}, r"output has shape \(2, 2\); expected \(batch, 3\)"),
        ({"features": "x"}, "features"),
    ],
)
def test_wrong_arguments_are_named(tmp_path, arguments, message):
    given = {"path": save(tmp_path / "a.onnx"), "classes": ["a", "b"]} | arguments
    with pytest.raises((InputError, TypeError), match=message):
        OnnxExpert(**given)(torch.zeros(2, 3, 8, 8))


def test_input_of_another_shape_is_named(tmp_path):
    expert = OnnxExpert(save(tmp_path / "a.onnx"), ["a", "b"])
    with pytest.raises(
        InputError, match=r"takes input of shape \(any, 3, 8, 8\); found \(2, 3, 9, 9\): set preprocess"
    ):
        expert(torch.zeros(2, 3, 9, 9))
    with pytest.raises(InputError, match="takes input; found a dict of input_ids, without input"):
        expert({"input_ids": torch.zeros(2, 3)})


def test_other_files_are_named(tmp_path):
    (tmp_path / "broken.onnx").write_bytes(b"\x08\x07not a model")
    with pytest.raises(InputError, match=r"ONNX Runtime cannot read .*broken.onnx"):
        OnnxExpert(str(tmp_path / "broken.onnx"), ["a"])
    with pytest.raises(InputError, match=r"path: found no file .*none.onnx"):
        OnnxExpert(str(tmp_path / "none.onnx"), ["a"])
    with pytest.raises(InputError, match=re.escape("a.onnx is an ONNX file; give it to OnnxExpert, as path")):
        Expert(nn.Linear(2, 2), save(tmp_path / "a.onnx"), ["a", "b"])
