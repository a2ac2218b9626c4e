"""Tiny models of other libraries, as their own functions write them."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from helpers import language_models
from lightning_fusion.data.text.tokens import TextTokenizer

CLASSES = ["cat", "dog", "owl"]


def photos(root: Path, splits: tuple[str, ...] = ("train", "test"), count: int = 6, seed: int = 0) -> Path:
    """PNGs of different sizes under root/<split>/<class>; classes differ in color, and edges are sharp."""
    random = np.random.default_rng(seed)
    for split in splits:
        for number, label in enumerate(CLASSES):
            (root / split / label).mkdir(parents=True)
            for row in range(count):
                height, width = random.integers(20, 70, 2)
                pixels = random.integers(0, 160, (height, width, 3), dtype=np.uint8)
                pixels[..., number] = 200 + random.integers(0, 50)
                Image.fromarray(pixels).save(root / split / label / f"{row}.png")
    return root


def raw(images: list[Image.Image]) -> list[torch.Tensor]:
    """The images as a data module gives them with image_size: original."""
    return [torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1) for image in images]


def torchvision_weights(path: Path, model: str = "resnet18", classes: int = 3, seed: int = 0) -> str:
    """State dict of a model of torchvision, with random weights."""
    from torchvision import models

    torch.manual_seed(seed)
    torch.save(models.get_model(model, num_classes=classes).state_dict(), path)
    return str(path)


def timm_folder(folder: Path, labels: list[str] = CLASSES, **settings: Any) -> str:
    """A small model of timm, as save_for_hf writes it."""
    import timm

    torch.manual_seed(0)
    settings = {"input_size": (3, 48, 48), "crop_pct": 0.9, "mean": (0.4, 0.5, 0.6), **settings}
    model = timm.create_model("resnet10t", num_classes=len(labels), pretrained_cfg_overlay=settings)
    timm.models.save_for_hf(model, folder, {"label_names": labels}, safe_serialization=True)
    return str(folder)


def vit_folder(folder: Path, labels: list[str] = CLASSES) -> str:
    """A small ViT of transformers with its processor, as save_pretrained writes them."""
    import transformers

    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=32,
        patch_size=8,
        id2label=dict(enumerate(labels)),
        label2id={name: number for number, name in enumerate(labels)},
    )
    transformers.ViTForImageClassification(config).save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return str(folder)


def speech_folder(folder: Path, labels: list[str]) -> str:
    """A small Wav2Vec2 classifier of transformers with its feature extractor, as save_pretrained writes them."""
    import transformers

    torch.manual_seed(0)
    config = transformers.Wav2Vec2Config(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        conv_dim=(8, 8),
        conv_stride=(10, 8),
        conv_kernel=(10, 8),
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        classifier_proj_size=8,
        id2label=dict(enumerate(labels)),
        label2id={name: number for number, name in enumerate(labels)},
    )
    transformers.Wav2Vec2ForSequenceClassification(config).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(folder)
    return str(folder)


def waves_onnx(path: Path) -> str:
    """Two classes of waveforms of any length in an ONNX file: a linear map of the mean deviation."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = {"weight": np.array([[2.0, -2.0]], np.float32), "bias": np.array([0.1, 0.0], np.float32)}
    nodes = [
        helper.make_node("Abs", ["input"], ["absolute"]),
        helper.make_node("ReduceMean", ["absolute"], ["mean"], axes=[1]),
        helper.make_node("MatMul", ["mean", "weight"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", "t"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 2])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return str(path)


def own_models(folder: Path) -> None:
    """The models that the shipped pools name, as users have them."""
    import xgboost
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from skops import io

    folder.mkdir(exist_ok=True)
    torchvision_weights(folder / "field.pth", "mobilenet_v3_small")
    timm_folder(folder / "studio", ["Cat", "Dog", "Owl"])
    vit_folder(folder / "street", ["cat", "dog", "bird"])
    speech_folder(folder / "wav2vec", ["zero", "one"])
    waves_onnx(folder / "waves.onnx")
    names = [f"s{number:02}" for number in range(24)]
    speech_folder(folder / "north", names[:14])
    speech_folder(folder / "south", names[10:])
    rows, labels = np.random.default_rng(0).normal(size=(60, 600)), np.arange(60) % 3
    xgboost.XGBClassifier(n_estimators=2, max_depth=2, n_jobs=1).fit(rows, labels).save_model(folder / "trees.json")
    activities = np.array([f"ACTIVITY_{label}" for label in labels])
    io.dump(LogisticRegression(max_iter=20).fit(rows, activities), folder / "linear.skops")
    texts = [f"{label} {place}" for label in ("positive", "negative") for place in ("books", "dvd", "kitchen")]
    TextTokenizer.train(texts, 280, lowercase=True).save(folder / "bert")
    language_models.save_classifier(folder / "bert", labels=["POS", "NEG"], vocab_size=300)
    model = make_pipeline(TfidfVectorizer(), LogisticRegression())
    io.dump(model.fit(texts, [text.split()[0] for text in texts]), folder / "words.skops")
