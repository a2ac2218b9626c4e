"""Frozen models with the metadata that a fuser needs."""

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn

from lightning_fusion.costs import as_cost
from lightning_fusion.data.batch import NamedSamples, num_samples
from lightning_fusion.data.image.files import ORIGINAL
from lightning_fusion.data.names import as_labels
from lightning_fusion.data.normalization import Normalization, preprocessor
from lightning_fusion.data.samples.base import SamplePreprocessing
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.experts.answers import UnusableInputError, as_rows, column_names, has_names, take_rows
from lightning_fusion.experts.estimators import check_factory, check_takes, declared, probability_method
from lightning_fusion.experts.factories import network_for
from lightning_fusion.experts.gradients import detached, gradients_of, refuse_gradients, tensors_with_gradient
from lightning_fusion.experts.identity import (
    UnknownStateError,
    state_digest,
    transform_parts,
    weight_parts,
    wrapped_parts,
)
from lightning_fusion.experts.layers import as_vectors, catch_output, check_layer, like_weights
from lightning_fusion.experts.names import renamed_classes
from lightning_fusion.experts.plausibility import FirstBatches, random_state, unsteady_message
from lightning_fusion.experts.preprocessing import (
    Conversion,
    check_preprocessed,
    check_tokenizer,
    conversion,
    conversion_to_raw,
    own_normalization,
    published_normalization,
    sample_conversion,
    shared_settings,
    warn_double_normalization,
    warn_preprocessing_mismatch,
)
from lightning_fusion.experts.weights import (
    build_network,
    digest_array,
    keep_samples,
    kept_samples,
    load_weights,
    read_weights,
)
from lightning_fusion.files import digest
from lightning_fusion.sharing import SharedModel


class Expert(SharedModel, nn.Module):
    """A frozen pre-trained model with its metadata.

    It maps an input batch to (B, C_k) float32 probabilities over its classes. Its weights have no gradients, and it
    always stays in eval mode: the given network is frozen in place, not copied (pass ``copy.deepcopy(network)`` to
    train it further). Gradients with respect to an input that requires them, or to a layer, are those of the network.
    The input is preprocessed, as a data module gives it to a model; what the checkpoint records about its
    preprocessing is compared with the first batch, and raw values raise an error. Behind a data module that normalizes
    with other statistics than those of the training, the input is converted.

    Args:
        network: Any module, or in Python any callable (a remote service, another framework), that maps a batch to
            (B, C_k) outputs: an array, or values that name their classes (a data
            frame, a list of dicts, a dict of columns). A fitted
            classifier of scikit-learn's kind, or its method ``predict_proba``, has its own
            classes: outputs are put into the order of ``classes``. Optional for a checkpoint of
            :class:`~lightning_fusion.ExpertModule`, which records its network; with a checkpoint a callable maps the
            number of classes to the module.
        checkpoint: Weights to load into ``network``: a Lightning checkpoint, a plain state dict, or safetensors.
            Loading is weights-only: nothing in the file is executed.
        classes: Names of the C_k classes, in the order of the outputs. Taken from the checkpoint if it has them: the
            same names in another order then reorder the outputs, and other names rename all classes.
        output: What ``network`` returns: ``logits`` (softmax is applied, in float32) or ``probabilities``; ``None``
            means probabilities for ``predict_proba``, logits for everything else.
        features: Name of the submodule whose output is the representation, such as ``pool``; ``None`` means no
            representation.
        domains: Names of the domains whose data the expert was trained on, if known.
        cost: Cost of a query, in any unit.
        preprocess: Module applied to the input before ``network``, such as a resize. A
            :class:`~lightning_fusion.data.samples.base.SamplePreprocessing`, such as
            :class:`~lightning_fusion.data.samples.images.ImagePreprocessing`, takes raw samples in place of the
            input of the data module.
        raw_input: The input has raw values (images from 0 to 255, signals as recorded, waveforms): the preprocessing
            that the checkpoint records is applied to it, before ``preprocess``. Data modules of the library preprocess
            already, so that this has no effect behind them. An expert without a recorded preprocessing gets the raw
            values that the input of a data module was computed from.
        version: Version of the expert, a part of its fingerprint. For a callable it replaces the digest of its state.
        rename: New names of classes, such as ``{sparrow: bird}``; the others keep theirs.
        fold_case: The classes are those of the task that differ from them in case only.

    Raises:
        InputError: If the checkpoint does not match the network, or metadata are missing or wrong.

    Example:
        >>> expert = Expert(nn.Linear(4, 2), classes=["cat", "dog"])
        >>> expert(torch.zeros(3, 4)).shape
        torch.Size([3, 2])
    """

    answers_by_name: ClassVar[bool] = False
    """Whether the input of ``network`` is the file, with the position in it, of each sample, in place of the sample."""

    def __init__(
        self,
        network: nn.Module | Callable[..., Any] | None = None,
        checkpoint: str | None = None,
        classes: list[str] | None = None,
        output: Literal["logits", "probabilities"] | None = None,
        features: str | None = None,
        domains: list[str] | None = None,
        cost: float = 1.0,
        preprocess: nn.Module | None = None,
        version: str = "",
        raw_input: bool = False,
        rename: dict[str, str] | None = None,
        fold_case: bool = False,
    ) -> None:
        super().__init__()
        if network is None and checkpoint is None:
            raise InputError("an expert needs a network, a checkpoint, or both; found neither")
        state: dict[str, Any] = {}
        card: dict[str, Any] = {}
        spec: dict[str, Any] | None = None
        if checkpoint is not None:
            state, card = read_weights(checkpoint)
            if network is None:
                spec = card.get("network")
                size = sum(value.nbytes for value in state.values() if isinstance(value, Tensor))
                network = build_network(spec, len(card.get("classes") or ()), f"checkpoint {checkpoint}", size)
            elif not isinstance(network, nn.Module):
                check_factory(network, checkpoint)
                network = network_for(network, len(classes or card.get("classes") or ()))
            if not isinstance(network, nn.Module):
                raise InputError(
                    f"checkpoint {checkpoint} needs a network that is a torch module to load it into; found a "
                    f"{type(network).__name__}"
                )
        given = classes if classes is not None else card.get("classes")
        classes = None if given is None else as_labels(given, "classes")
        network = probability_method(network)
        if not callable(network):
            raise InputError(
                f"network: found a {type(network).__name__}; expected a torch module, a function that returns (batch, "
                "classes) outputs, or a classifier with predict_proba"
            )
        recorded = as_labels(card["classes"], "classes") if card.get("classes") else None
        classes, self._columns, output = declared(network, classes, output, recorded, checkpoint)  # type: ignore[assignment]
        if not classes:
            raise InputError(
                "classes is not set; set it to the names of the expert's classes, in the order of its outputs"
            )
        if len(set(classes)) != len(classes):
            raise InputError(f"classes: found duplicate names in {shorten(given or classes)}")
        if output not in ("logits", "probabilities"):
            raise InputError(f"output is {output!r}; expected 'logits' or 'probabilities'")
        if checkpoint is not None:
            load_weights(network, state, checkpoint, list(classes))  # type: ignore[arg-type]  # a module, see above
        self.network = network
        self.preprocess = preprocess
        self._input_checked = self._rows_checked = False  # its first batch
        self._first = FirstBatches(output == "logits", trained=bool(card))
        self.raw_input = raw_input or isinstance(preprocess, SamplePreprocessing)
        self._is_preprocessed = False
        self._conversion: Conversion | Callable[[Any], Tensor] | None = None
        self.whose = f"the expert of {shorten(classes)}"  # in messages; a pool gives it the name
        self._recorded: tuple[dict[str, Any] | None, nn.Module | None] = None, None
        self.output_names, self.fold_case = list(classes), fold_case  # of the network
        self.classes, self.output, self.cost = renamed_classes(classes, rename or {}), output, as_cost(cost)
        own = domains if domains is not None else card.get("domains")
        self.domains: list[str] | None = None if own is None else as_labels(own, "domains")
        self.checkpoint, self.version = checkpoint, version
        self.spec = spec  # class_path and init_args of the network, where the checkpoint records them
        self.preprocessing: dict[str, Any] | None = card.get("preprocessing")
        if self.preprocessing is not None and isinstance(preprocess, SamplePreprocessing):
            raise InputError(
                f"preprocess: the checkpoint {checkpoint} records its preprocessing, which is applied; remove "
                f"{type(preprocess).__name__}"
            )
        self.new_sample_facts: dict[str, Any] = dict(card.get("new_samples") or {})  # of its training data
        if checkpoint is not None:
            keep_samples(network, digest_array(card.get("samples")))  # type: ignore[arg-type]  # a module, see above
        self.features = features if features is not None else card.get("features")
        if self.features is not None:
            check_layer(self.network, self.features, "the expert")
        self.requires_grad_(False)
        self.train(False)

    @classmethod
    def from_transformers(cls, path: str, **arguments: Any) -> "Expert":
        """Create an expert from a classifier of transformers, of texts, images or recordings.

        Args:
            path: A folder written by ``save_pretrained``, or a name on the hub.
            **arguments: Arguments of :class:`~lightning_fusion.experts.adapters.transformers.TransformersExpert`.

        Raises:
            InputError: If the model cannot be read, or is no classifier.
        """
        adapters = import_module("lightning_fusion.experts.adapters.transformers")  # which imports this module
        expert: Expert = adapters.TransformersExpert(path, **arguments)
        return expert

    def train(self, mode: bool = True) -> "Expert":
        """Stay in eval mode, so that batch-norm statistics and dropout of a frozen model do not change."""
        return super().train(False)

    def network_columns(self, places: Sequence[int]) -> list[int]:
        """Return positions among :attr:`classes` as positions among the outputs of the network; -1 stays -1."""
        order = self._columns
        return [place if place < 0 or order is None else order[place] for place in places]

    def convert_from(self, found: Mapping[str, Any] | None, whose: str | None = "the expert") -> None:
        """Convert input with another normalization to that of the training; other differences are warnings.

        Args:
            found: Preprocessing of the input, such as the attribute ``preprocessing`` of a data module. ``None`` means
                the input is that of the training, or raw if ``raw_input`` is set.
            whose: Name of the expert, for messages; ``None`` means no messages.
        """
        self._is_preprocessed, self._input_checked = bool(found), False
        self.whose = whose or self.whose
        if self.answers_by_name:
            return
        known = None if own_normalization(self.preprocess) is not None else self.preprocessing
        unknown = self.raw_input and preprocessor(self.preprocessing) is None
        try:
            if isinstance(self.preprocess, SamplePreprocessing):
                self.preprocess.check(found)
                self._conversion = conversion_to_raw(found) if isinstance(preprocessor(found), Normalization) else None
            elif unknown:
                self._conversion = conversion_to_raw(found)
                if self.preprocess is None and not self.takes_lists and (found or {}).get("image_size") == ORIGINAL:
                    raise InputError(
                        "the data module gives images in their original size; set preprocess of the expert, such as "
                        "ImagePreprocessing, or image_size of the data module"
                    )
            else:
                self._conversion = sample_conversion(known, found) or conversion(known, found)
        except InputError as error:
            raise InputError(f"{self.whose}: {error}") from error
        if whose is None or unknown:
            return
        if known is None and self.lacks_preprocessing(found):
            known = published_normalization(self.network)
            warn_preprocessing_mismatch(whose, known, found, converted=True)
        elif known is None:
            own = self.preprocess if own_normalization(self.preprocess) is not None else self.network
            warn_double_normalization(whose, own, found)
        else:
            is_prepared = self._conversion is not None and not isinstance(self._conversion, Conversion)
            if not is_prepared:
                check_tokenizer(whose, known, found)
            warn_preprocessing_mismatch(whose, shared_settings(known, found) if is_prepared else known, found)
        if isinstance(self._conversion, Conversion):
            rank_zero_info(f"preprocessing: the input of {whose} is converted to the mean and std of its training")

    def lacks_preprocessing(self, found: Mapping[str, Any] | None) -> bool:
        """Return whether a data module normalizes the input, and that of the training is not known.

        Args:
            found: Preprocessing of the data module.
        """
        way = preprocessor(found)
        if self.raw_input or self.preprocessing is not None or not isinstance(way, Normalization) or not way.changes:
            return False
        return own_normalization(self.preprocess) is None and own_normalization(self.network) is None

    def _prepared(self, input: Any) -> Any:
        """Return the network's input."""
        if self._conversion is not None:
            input = self._conversion(input)
        elif self.raw_input and not self._is_preprocessed:
            if self._recorded[0] is not self.preprocessing:  # built once; a tuple keeps it apart from the weights
                self._recorded = self.preprocessing, preprocessor(self.preprocessing)
            way = self._recorded[1]
            input = input if way is None else way.to(input.device)(input)
        elif self.preprocess is None and not (self._input_checked or torch.compiler.is_compiling()):
            check_preprocessed(input, self.preprocessing)
            self._input_checked = True
        if not isinstance(self.preprocess, SamplePreprocessing):
            return input if self.preprocess is None else self.preprocess(input)
        try:
            return self.preprocess(input)
        except InputError as error:
            raise UnusableInputError(f"{self.whose}: {error}") from error

    @property
    def takes_lists(self) -> bool:
        """Whether the network may take lists, such as images of any size: functions in Python may."""
        return not isinstance(self.network, nn.Module)

    @property
    def training_samples(self) -> np.ndarray | None:
        """(S,) uint64 digests of its training samples, sorted; None if they are not recorded."""
        return kept_samples(self.network)

    @property
    def fingerprint(self) -> str:
        """Fingerprint of weights, state and metadata; experts with the same fingerprint have the same outputs.

        Where the state of a callable cannot be read, its name stands for it, and :meth:`unknown_state` returns why.
        """
        return digest(*self._identity()[0])

    @property
    def identified_by_version(self) -> bool:
        """Whether the version stands for the state of a callable, so that its name alone distinguishes it."""
        return bool(self.version) and not isinstance(self.network, nn.Module)

    def unknown_state(self) -> str | None:
        """Return why the fingerprint does not cover the state of this expert; ``None`` if it does."""
        return self._identity()[1]

    def _identity(self) -> tuple[list[Any], str | None]:
        """Return the parts of the fingerprint, and why they do not cover the expert's state; ``None`` if they do."""
        classes = [name.casefold() for name in self.classes] if self.fold_case else self.classes  # not those of a pool
        parts = [json.dumps(classes), self.output, self.features, self.version, *transform_parts(self.preprocess)]
        parts += [self.raw_input] if self.raw_input else []
        module = self.network if isinstance(self.network, nn.Module) else None
        if module is not None:
            parts += [*weight_parts(module), *([] if self._columns is None else [self._columns])]
        else:
            name = getattr(self.network, "__qualname__", type(self.network).__qualname__)
            parts += [self._columns, f"{getattr(self.network, '__module__', '')}.{name}"]
        if self.identified_by_version:
            return parts, None
        try:
            return [*parts, *([state_digest(self.network)] if module is None else wrapped_parts(module))], None
        except UnknownStateError as error:
            return parts, None if self.version else str(error)

    def metadata(self) -> dict[str, Any]:
        """Return the metadata of the expert as plain data, for manifests and checkpoints."""
        return {
            "classes": self.classes,
            "domains": self.domains,
            "cost": self.cost,
            "fingerprint": self.fingerprint,
            "checkpoint": self.checkpoint,
            "training_samples": None if (samples := self.training_samples) is None else len(samples),
        }

    def forward(self, input: Any) -> Tensor:
        """Map a batch of inputs to (B, C_k) float32 probabilities.

        The backward pass raises InputError where a gradient with respect to the input is requested, and the network or
        its preprocessing passes none.
        """
        if isinstance(input, NamedSamples):
            input = input["names" if self.answers_by_name else "samples"]
        with gradients_of(self.network, input):
            prepared, outputs = self._answer(input if isinstance(self.network, nn.Module) else detached(input))
        return self._or_refused(outputs, input, prepared)

    def trainable_forward(self, input: Any) -> Tensor:
        """Map a batch to (B, C_k) probabilities that have a gradient with respect to weights that are not frozen.

        :meth:`forward` records none, since experts are frozen. The network stays in eval mode.
        """
        return self._answer(input)[1]

    def _or_refused(self, outputs: Tensor, input: Any, prepared: Any) -> Tensor:
        """Return outputs whose backward pass raises where the gradient of the input is lost."""
        if torch.compiler.is_compiling() or not tensors_with_gradient(input):
            return outputs
        if not isinstance(self.network, nn.Module):
            why = "its network is no torch module; use a method without gradients, such as Occlusion of captum"
        elif not tensors_with_gradient(prepared):
            why = (
                "its preprocessing does not compute in torch; attribute the input of its network, as "
                "docs/how-to/explain.md shows"
            )
        elif not outputs.requires_grad:
            why = f"its network ({type(self.network).__name__}) detaches it"
        else:
            return outputs
        return refuse_gradients(outputs, input, f"{self.whose} passes no gradient to its input: {why}")

    def _answer(self, input: Any) -> tuple[Any, Tensor]:
        """Return the input of the network and the (B, C_k) probabilities of a batch, checked."""
        count = None if torch.compiler.is_compiling() else num_samples(input)  # a number would fix the batch size
        assert self.network is not None
        if isinstance(input, Mapping) and type(self.network).__module__.startswith("transformers."):
            raise InputError(
                f"network: a {type(self.network).__name__} does not take the tokens of a data module "
                f"({shorten(input)}); give its folder, written by save_pretrained, to Expert.from_transformers"
            )
        prepared = self._prepared(input)
        check_takes(self.network, prepared)
        given = like_weights(prepared, self.network)
        kept = copy.deepcopy(given) if self._first.compares(self.network) else None
        if getattr(self.network, "training", False):  # the user's own reference to it was put into training mode
            self.train(False)
        before = [] if self._first.over or torch.compiler.is_compiling() else random_state(self.network)
        raw = self.network(given)
        if before and (message := unsteady_message(self.network, before, self.classes)):
            rank_zero_warn(message)
        raw = getattr(raw, "logits", raw)  # return type of transformers' models
        named = column_names(raw) if isinstance(raw, Mapping) else None
        if isinstance(raw, tuple) or (named is not None and not set(named) & set(self.output_names)):
            raise InputError(
                f"the expert's network returns a {type(raw).__name__}; wrap it so that it returns its (batch, "
                f"{len(self.output_names)}) outputs alone"
            )
        columns = None if has_names(raw, self.output_names) else self._columns
        try:
            raw = as_rows(raw, self.output_names)
        except InputError as error:
            raise InputError(f"the expert of {shorten(self.classes)} {error}") from error
        if raw.ndim != 2 or raw.shape[1] != len(self.output_names):
            raise InputError(
                f"the expert's output has shape {tuple(raw.shape)}; expected (batch, {len(self.output_names)}) for its "
                f"classes {shorten(self.classes)}; change classes or the network's head"
            )
        if not self._rows_checked and isinstance(prepared, Mapping) and not isinstance(self.network, nn.Module):
            self._check_reads_rows(prepared, count, len(raw))
        if count is not None and count != len(raw):
            raise InputError(
                f"the expert of {shorten(self.classes)} returns {len(raw)} rows for {count} samples; expected one row "
                "for each sample, in order"
            )
        raw = raw.to(torch.float32)
        if columns is not None:
            raw = raw[:, columns]
        if not torch.compiler.is_compiling():
            self._first.check(self.network, kept, raw, self.classes, self.output_names)
        return prepared, raw if self.output == "probabilities" else raw.softmax(-1)

    def _check_reads_rows(self, input: Mapping[str, Any], count: int | None, found: int) -> None:
        """Reject a function that iterates over a dict: it returns a row for each key, whatever the samples."""
        if count == len(input):  # both are equal: with one sample more they are not
            count += 1
            answer = self.network(take_rows(input, torch.zeros(count, dtype=torch.long)))
            found = len(as_rows(answer, self.output_names))
        self._rows_checked = True
        if count != found == len(input):
            raise UnusableInputError(
                f"the expert of {shorten(self.classes)} returns {found} rows for {count} samples, as many as the input "
                f"has entries ({shorten(input)}): it iterates over a dict; a model that reads texts needs a loader of "
                "texts, as docs/how-to/extend.md shows"
            )

    def forward_with_representations(self, input: Any) -> tuple[Tensor, Tensor]:
        """Return probabilities (B, C_k) and the representation (B, D) of the layer named ``features``.

        An output with more than two dimensions is averaged over all but the first two (space), or over the second
        if it has three (tokens, time).

        Raises:
            InputError: If ``features`` is None.
        """
        if self.features is None:
            raise InputError("features is not set; set it to the name of a submodule")
        assert isinstance(self.network, nn.Module)
        with catch_output(self.network, self.features) as caught:
            probabilities = self(input)
        return probabilities, self._or_refused(as_vectors(caught[-1]).to(torch.float32), input, input)
