"""Kinds of files and folders of models, for messages that say which expert reads them."""

import zipfile
from contextlib import suppress
from pathlib import Path

from lightning_fusion.errors import InputError, nearest_path, shorten
from lightning_fusion.files import ARCHIVE_ERRORS

SUPPORTED = (
    "supported are checkpoints and safetensors (Expert, TorchvisionExpert, TimmExpert), folders of transformers and "
    "timm (TransformersExpert, TimmExpert), ONNX (OnnxExpert), torch.export and TorchScript programs (ProgramExpert), "
    "skops (SklearnExpert), XGBoost's and LightGBM's own files (XGBoostExpert, LightGBMExpert) and CSV files of "
    "predictions (RecordedExpert)"
)
_TO_ONNX = "convert it to ONNX (python -m tf2onnx.convert) and give that file to OnnxExpert"
_FROM_CATBOOST = "save it by save_model(FILE, format='onnx'), and give that file to OnnxExpert"
_TO_SKOPS = "where you trust it, load it once and save it with skops.io.dump, for SklearnExpert"
_SUFFIXES = {
    ".onnx": ("an ONNX file", "give it to OnnxExpert, as path"),
    ".keras": ("a Keras model", _TO_ONNX),
    ".h5": ("a Keras model", _TO_ONNX),
    ".hdf5": ("a Keras model", _TO_ONNX),
    ".pb": ("a TensorFlow graph", _TO_ONNX),
    ".tflite": ("a TensorFlow Lite model", _TO_ONNX),
    ".skops": ("a skops file of scikit-learn", "give it to SklearnExpert, as path"),
    ".joblib": (
        "a pickled estimator",
        "where you trust it, load it once and save it with skops.io.dump, for SklearnExpert",
    ),
    ".pkl": ("a pickled object", _TO_SKOPS),
    ".pickle": (
        "a pickled object",
        "where you trust it, load it once and save it with skops.io.dump, for SklearnExpert",
    ),
    ".ubj": ("a model of XGBoost", "give it to XGBoostExpert, as path"),
    ".safetensors": ("a file of weights", "give it to Expert, TorchvisionExpert or TimmExpert, as checkpoint"),
    ".ckpt": ("a checkpoint", "give it to Expert, TorchvisionExpert or TimmExpert, as checkpoint"),
    ".cbm": ("a model of CatBoost", _FROM_CATBOOST),
    ".gguf": ("a language model of llama.cpp", "expected a classifier, such as a folder of transformers"),
    ".csv": ("a table", "give recorded predictions to RecordedExpert, as path"),
}
_HEADS = {
    b'{"learner"': ("a model of XGBoost", "give it to XGBoostExpert, as path"),
    b"CBM1": ("a model of CatBoost", _FROM_CATBOOST),
    b"tree\nversion": ("a model of LightGBM", "give it to LightGBMExpert, as path"),
}


def model_format(path: str | Path) -> tuple[str, str] | None:
    """Return what a file or folder of a model is, and what to do with it; ``None`` if it is of no known kind.

    Nothing in it is loaded.

    Args:
        path: File or folder.
    """
    path = Path(path)
    if path.is_dir():
        return _folder_format(path)
    if not path.is_file():
        return None
    with suppress(*ARCHIVE_ERRORS):
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                inside = {name.partition("/")[2] for name in archive.namelist()}
            if any(name.startswith("code/") for name in inside):
                return "a TorchScript program", "give it to ProgramExpert, as path"
            if "archive_format" in inside or any(name.startswith("models/") for name in inside):
                return "a torch.export program", "give it to ProgramExpert, as path"
            if "data.pkl" in inside:
                return _SUFFIXES[".ckpt"]
        else:
            with open(path, "rb") as file:
                head = file.read(64)
            for start, found in _HEADS.items():
                if head.lstrip().startswith(start):
                    return found
    return _SUFFIXES.get(path.suffix.lower())


def _folder_format(folder: Path) -> tuple[str, str] | None:
    if (folder / "saved_model.pb").is_file() or (folder / "keras_metadata.pb").is_file():
        return "a TensorFlow SavedModel folder", _TO_ONNX
    if (folder / "MLmodel").is_file():
        return "an MLflow model", "give the file of its model, such as model.onnx, to the expert of its kind"
    if (folder / "adapter_config.json").is_file():
        return (
            "an adapter of peft",
            "merge it: model.merge_and_unload().save_pretrained(FOLDER), for TransformersExpert",
        )
    if (folder / "config.json").is_file():
        with suppress(OSError):
            if '"architecture":' in (folder / "config.json").read_text(encoding="utf-8", errors="replace"):
                return "a folder of timm", "give it to TimmExpert, as model"
        return "a folder of transformers", "give it to TransformersExpert, as path"
    for suffix in (".onnx", ".skops", ".keras"):
        if files := sorted(folder.glob(f"*{suffix}")):
            return f"a folder with {files[0].name}", _SUFFIXES[suffix][1].replace("give it", f"give {files[0].name}")
    return None


def check_format(path: str, kinds: tuple[str, ...], argument: str = "path") -> None:
    """Check that a path is a file of one of some kinds, as far as its kind is known.

    Args:
        path: Path of the file or folder.
        kinds: Permitted kinds, as :func:`model_format` names them.
        argument: Argument that names it, for messages.

    Raises:
        InputError: If it does not exist, or is of another kind; the message says which expert reads it.
    """
    if not Path(path).exists():
        raise InputError(f"{argument}: found no file {path}{nearest_path(path)}")
    found = model_format(path)
    if found is not None and found[0] not in kinds:
        raise InputError(f"{argument}: {path} is {found[0]}; {found[1]}")
    if found is None and Path(path).is_dir():
        raise unknown_folder(path, argument)


def unknown_folder(path: str, argument: str = "path") -> InputError:
    """Return the error of a folder that is no model of a known kind.

    Args:
        path: Path of the folder.
        argument: Argument that names it, for the message.
    """
    inside = sorted(entry.name for entry in Path(path).iterdir())
    return InputError(f"{argument}: {path} is a folder of unknown kind ({shorten(inside) or 'empty'}); {SUPPORTED}")
