"""Classifiers of scikit-learn in skops files as experts."""

from pathlib import Path
from typing import Any

from torch import nn

from lightning_fusion.data.samples.texts import TextSamples
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.experts.adapters.files import FileExpert
from lightning_fusion.experts.adapters.tables import table_estimator
from lightning_fusion.experts.formats import check_format
from lightning_fusion.extras import require
from lightning_fusion.files import hash_files


class SklearnExpert(FileExpert):
    """Classifier of scikit-learn, or a pipeline that ends in one, in a file that ``skops.io.dump`` wrote.

    skops builds the types that it knows of, and no other without your word: no code in the file is run. The input are
    raw values, flattened to one row per sample; a pipeline that begins with a vectorizer of texts gets the texts.

    Args:
        path: Path of the file.
        trusted: Types that the file may contain beyond those that skops trusts, such as a transformer of your own.
        classes: Names of the classes. ``None`` (default) uses ``classes_``; names for numbered classes stand in the
            order of the numbers.
        preprocess: Module that prepares raw samples, such as
            :class:`~lightning_fusion.data.samples.images.ImagePreprocessing`.
        raw_input: Whether the classifier takes raw values, not the input of the data module.
        **shared: Arguments of :class:`~lightning_fusion.Expert`.

    Raises:
        InputError: If skops is missing, the file contains other types, or no classifier with ``predict_proba``.
    """

    def __init__(
        self,
        path: str,
        trusted: list[str] | None = None,
        classes: list[str] | None = None,
        preprocess: nn.Module | None = None,
        raw_input: bool = True,
        **shared: Any,
    ) -> None:
        estimator = _load(path, trusted or [])
        kind = type(estimator).__name__
        if not hasattr(estimator, "predict_proba"):
            raise InputError(
                f"path: {path} contains a {kind} without predict_proba; expected a classifier that gives "
                "probabilities: fit one that does, or wrap it in CalibratedClassifierCV"
            )
        texts = _takes_texts(estimator)
        if texts and preprocess is None:
            preprocess = TextSamples()
        columns = getattr(estimator, "feature_names_in_", None)
        table = table_estimator(
            estimator,
            num_values=None if texts else getattr(estimator, "n_features_in_", None),
            columns=None if columns is None or texts else list(columns),
            texts=texts,
        )
        super().__init__(
            network=table.predict_proba,
            digest=hash_files([Path(path)]),
            classes=classes,
            output="probabilities",
            preprocess=preprocess,
            raw_input=raw_input,
            **shared,
        )


def _load(path: str, trusted: list[str]) -> Any:
    """Read a skops file that contains no other types than those that are trusted."""
    skops = require("skops.io", "skops")
    check_format(path, ("a skops file of scikit-learn",))
    try:
        unknown = sorted(set(skops.get_untrusted_types(file=path)) - set(trusted))
        if unknown:
            raise InputError(
                f"trusted: {path} contains {shorten(unknown, 9)}, which skops does not trust; where you know what they "
                f"do, add them: trusted: [{', '.join(unknown)}]"
            )
        return skops.load(path, trusted=trusted)
    except InputError:
        raise
    except Exception as error:  # of skops, and of the types that it builds
        what = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise InputError(f"path: skops cannot read {path} ({what})") from error


def _takes_texts(estimator: Any) -> bool:
    """Return whether an estimator, or the first step of a pipeline, is a vectorizer of texts."""
    first = estimator.steps[0][1] if hasattr(estimator, "steps") else estimator
    tags = getattr(first, "__sklearn_tags__", None)
    return tags is not None and bool(tags().input_tags.string)
