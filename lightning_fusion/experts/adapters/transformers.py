"""Models of transformers as experts: classifiers and text generators."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from safetensors import SafetensorError
from torch import Tensor, nn

from lightning_fusion.data.text.tokens import TextTokenizer
from lightning_fusion.errors import InputError, shorten
from lightning_fusion.extras import require

_TOKENIZER = ("tokenizer.json", "vocab.txt", "vocab.json", "merges.txt", "spiece.model", "sentencepiece.bpe.model")


def weight_files(path: str) -> list[Path]:
    """Return the weight files of a local model, safetensors only; none for a model on the hub.

    Raises:
        InputError: If a folder has no configuration, or its weights are pickled.
    """
    folder = Path(path)
    if not folder.is_dir():
        if folder.is_absolute() or path.startswith(".") or path.count("/") > 1:
            raise InputError(f"path: found no folder {path}; give a model's folder, or its name on the hub")
        return []
    if not (folder / "config.json").is_file():
        raise InputError(f"path: {path} has no config.json; give a folder that save_pretrained wrote")
    found = sorted(folder.glob("*.safetensors"))
    if not found:
        pickled = sorted(file.name for kind in ("*.bin", "*.pt", "*.pth", "*.ckpt") for file in folder.glob(kind))
        if pickled:
            raise InputError(
                f"path: {path} contains pickled weights only ({shorten(pickled)}), which could run code when they are "
                "read; where you trust them, convert once: load the model with transformers and save_pretrained it, "
                "which writes model.safetensors"
            )
        raise InputError(f"path: {path} contains no weights; expected model.safetensors, as save_pretrained writes it")
    return found


def model_files(path: str) -> list[Path]:
    """Return all files of a local model that affect its outputs: weights, configurations, tokenizer."""
    more = [file for kind in ("*.json", "*.txt", "*.model") for file in Path(path).glob(kind)]
    return [*weight_files(path), *sorted(more)]


def tokenizer_fingerprint(path: str) -> str | None:
    """Return the fingerprint of a model's tokenizer, as a data module with ``tokenizer: path`` computes it.

    ``None`` if there is no tokenizer, or it cannot be read.
    """
    if not any((Path(path) / name).is_file() for name in _TOKENIZER):
        return None
    try:
        return TextTokenizer.load(path, download=False).fingerprint
    except InputError as error:
        rank_zero_warn(f"the tokens of {path} are not compared with those of the data: {error}")
        return None


def _load(kind: str, path: str, download: bool) -> Any:
    transformers = require("transformers", "text")
    weight_files(path)
    how: dict[str, Any] = {"use_safetensors": True, "local_files_only": not download, "dtype": torch.float32}
    try:
        model, found = getattr(transformers, kind).from_pretrained(path, output_loading_info=True, **how)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:  # a missing file, or another kind of model
        if not download and not Path(path).is_dir():
            raise InputError(
                f"path: found no folder {path}, and no model of this name on this machine; a name on the hub needs "
                "download: true"
            ) from error
        raise InputError(
            f"path: transformers cannot load {path} as {kind} from safetensors files: "
            f"{str(error).strip().splitlines()[0]}"
        ) from error
    if lacking := sorted(found["missing_keys"]):
        raise InputError(
            f"path: {path} contains no weights for {shorten(lacking)} of {kind}, which would be drawn at random: it is "
            "another kind of model, or its config.json is that of another"
        )
    return model.eval()


def _longest(model: nn.Module) -> int | None:
    """Return the number of learned positions of a model; ``None`` if it has none."""
    for name, table in model.named_modules():
        if isinstance(table, nn.Embedding) and name.rpartition(".")[2] in (
            "position_embeddings",
            "embed_positions",
            "wpe",
        ):
            before = 0 if table.padding_idx is None else table.padding_idx + 1  # places begin behind that of padding
            return table.num_embeddings - before - int(getattr(table, "offset", 0))
    return None


def _check_input(input: Any, vocab_size: int, path: str, longest: int | None = None) -> tuple[Tensor, Tensor]:
    """Return tokens and mask of a batch; raise InputError for tokens outside the vocabulary."""
    if not isinstance(input, Mapping) or not {"input_ids", "attention_mask"} <= set(input):
        found = f"the keys {shorten(input)}" if isinstance(input, Mapping) else f"a {type(input).__name__}"
        raise InputError(f"the model {path} reads a dict of input_ids and attention_mask (B, L); found {found}")
    ids = input["input_ids"]
    if ids.numel() and not torch.compiler.is_compiling():  # values are not available during export
        low, high = torch.stack(ids.aminmax()).tolist()  # one synchronization
        if low < 0 or high >= vocab_size:
            raise InputError(
                f"input_ids: found token {low if low < 0 else high}; the model {path} has a vocabulary of {vocab_size} "
                f"tokens (0 to {vocab_size - 1}): set the data's tokenizer to the model's own"
            )
    if longest is not None and ids.shape[1] > longest:
        raise InputError(
            f"the model {path} reads {longest} tokens at most; found {ids.shape[1]}: lower the data's max_length, or "
            "max_read and max_new_tokens"
        )
    return ids, input["attention_mask"]


def _gathered(ids: Tensor, mask: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
    """Move the tokens of a (B, L) bool mask behind the others, in stable order; returns tokens and mask (B, L)."""
    order = last.to(torch.uint8).argsort(dim=1, stable=True)
    return ids.gather(1, order), mask.gather(1, order)


def _mean(states: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over unmasked tokens; attention may give NaN at positions that only attend to padding."""
    weight = mask.to(states.dtype)[:, :, None]
    return torch.where(weight > 0, states, 0).sum(1) / weight.sum(1).clamp_min(1)


class TransformersClassifier(nn.Module):
    """Sequence classifier of transformers, read from safetensors only.

    The output of the layer ``pool`` is its representation (B, D): the masked mean of the last layer's states. Any layer
    of the model can be named instead, such as ``model.bert.pooler``.

    Args:
        path: A folder written by ``save_pretrained``, or a name on the hub.
        labels: New names of the model's labels, such as {POSITIVE: positive}; others keep their names.
        download: Download missing files from the hub.

    Raises:
        InputError: If transformers is missing, the model cannot be read, or a label is unknown or duplicated.
    """

    def __init__(self, path: str, labels: dict[str, str] | None = None, download: bool = False) -> None:
        super().__init__()
        self.path = path
        self.model = _load("AutoModelForSequenceClassification", path, download)
        config = self.model.config
        names = [str(config.id2label[number]) for number in range(config.num_labels)]
        if unknown := sorted(set(labels or {}) - set(names)):
            raise InputError(f"labels: the model {path} has no label {shorten(unknown)}; it has {shorten(names, 20)}")
        self.classes = [(labels or {}).get(name, name) for name in names]
        if len(set(self.classes)) < len(self.classes):
            raise InputError(f"labels: two labels of the model {path} would be one class: {shorten(self.classes, 20)}")
        self.vocab_size, self.longest = self.model.get_input_embeddings().num_embeddings, _longest(self.model)
        if config.pad_token_id is None:  # classifiers of decoders look for the last token before padding
            end = config.eos_token_id
            if end is None:
                raise InputError(f"path: the config.json of {path} names no pad_token_id; set it to the tokenizer's")
            config.pad_token_id = end[0] if isinstance(end, list) else end
        self.pad_id: int = config.pad_token_id
        self.pool = nn.Identity()

    def forward(self, input: Mapping[str, Tensor]) -> Tensor:
        """Map input_ids and attention_mask (B, L) to (B, C) logits."""
        ids, mask = _check_input(input, self.vocab_size, self.path, self.longest)
        ids, mask = _gathered(ids, mask, mask == 0)  # padding on the right: positions count from the left
        ids = ids.masked_fill(mask == 0, self.pad_id)  # some models look for padding by its token
        output = self.model(input_ids=ids, attention_mask=mask, output_hidden_states=True, return_dict=True)
        states = getattr(output, "hidden_states", None)
        last = states[-1] if states is not None else output.encoder_last_hidden_state
        self.pool(_mean(last, mask))
        logits: Tensor = output.logits
        return logits


class TransformersGenerator(nn.Module):
    """Sequence-to-sequence or causal language model of transformers with greedy decoding, safetensors only.

    Its embedding is the masked mean of the last layer's states over input and written text: of encoder and decoder,
    if there are two. It is a :class:`~lightning_fusion.generation.expert.Writer`.

    Args:
        path: A folder written by ``save_pretrained``, or a name on the hub.
        download: Download missing files from the hub.

    Raises:
        InputError: If transformers is missing, or the model cannot be read or names no token for the end of a text.
    """

    def __init__(self, path: str, download: bool = False) -> None:
        super().__init__()
        transformers = require("transformers", "text")
        weight_files(path)
        try:
            config = transformers.AutoConfig.from_pretrained(path, local_files_only=not download)
        except (OSError, ValueError) as error:
            raise InputError(f"path: transformers cannot read the config.json of {path}") from error
        self.path, self.both = path, bool(config.is_encoder_decoder)
        self.model = _load("AutoModelForSeq2SeqLM" if self.both else "AutoModelForCausalLM", path, download)
        settings = self.model.generation_config
        end = settings.eos_token_id if settings.eos_token_id is not None else self.model.config.eos_token_id
        if end is None:
            raise InputError(f"path: the config.json of {path} names no eos_token_id; set it to the tokenizer's")
        self.end_ids: list[int] = list(end) if isinstance(end, (list, tuple)) else [int(end)]
        pad = settings.pad_token_id if settings.pad_token_id is not None else self.model.config.pad_token_id
        self.pad_id: int = self.end_ids[0] if pad is None else int(pad)
        self.start_id: int | None = None
        if self.both:
            start = getattr(settings, "decoder_start_token_id", None)
            self.start_id = int(start if start is not None else self.model.config.decoder_start_token_id)
        self.vocab_size, self.longest = self.model.get_input_embeddings().num_embeddings, _longest(self.model)

    def generate(self, input: Mapping[str, Tensor], max_new_tokens: int) -> Tensor:
        """Generate texts (B, T) greedily, T <= max_new_tokens, padded with ``pad_id``."""
        ids, mask = self._read(input)
        if max_new_tokens < 1:
            return ids[:, :0]
        with torch.no_grad():
            written = self.model.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                num_beams=1,
                pad_token_id=self.pad_id,
                eos_token_id=self.end_ids,
            )
        written = written[:, 1 if self.both else ids.shape[1] :]
        ended = torch.isin(written, written.new_tensor(self.end_ids)).cumsum(1) > 0
        text: Tensor = written.masked_fill(ended, self.pad_id)
        return text[:, : int((~ended).any(0).sum())]

    @torch.no_grad()
    def embed(self, input: Mapping[str, Tensor], generated: Tensor | None = None) -> Tensor:
        """Return the embedding (B, D): the masked mean of last-layer states over the input and a text (B, T)."""
        ids, mask = self._read(input)
        text = ids[:, :0] if generated is None else generated
        there = text != self.pad_id
        if self.both:
            encoded = self.model.get_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state
            if generated is None:
                return _mean(encoded, mask)
            states = self._run(ids, mask, text).decoder_hidden_states[-1]
            there = nn.functional.pad(there, (1, 0), value=True)  # the start
            return _mean(torch.cat([encoded, states], 1), torch.cat([mask > 0, there], 1))
        states = self._run(ids, mask, text).hidden_states[-1]
        return _mean(states, torch.cat([mask > 0, there], 1))

    def forward(self, input: Mapping[str, Tensor], target: Tensor) -> Tensor:
        """Return log-probabilities (B, T + 1, V) after the input and each token of the target (B, T)."""
        ids, mask = self._read(input)
        logits: Tensor = self._run(ids, mask, target).logits
        return (logits if self.both else logits[:, ids.shape[1] - 1 :]).float().log_softmax(2)

    def labels(self, target: Tensor) -> Tensor:
        """Return the labels (B, T + 1) of :meth:`forward` for a target (B, T); -100 after the end."""
        lengths = (target != self.pad_id).sum(1, keepdim=True)
        labels = nn.functional.pad(target, (0, 1)).scatter(1, lengths, self.end_ids[0])
        return labels.masked_fill(torch.arange(labels.shape[1], device=target.device) > lengths, -100)

    def _read(self, input: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return tokens and mask, with padding on the left if the text continues the input."""
        ids, mask = _check_input(input, self.vocab_size, self.path, self.longest)
        if not self.both:
            ids, mask = _gathered(ids, mask, mask != 0)
        return ids.masked_fill(mask == 0, self.pad_id), mask

    def _run(self, ids: Tensor, mask: Tensor, text: Tensor) -> Any:
        """Run the model on the input and a text (B, T) padded on the right."""
        more: dict[str, Any] = {"output_hidden_states": True, "return_dict": True, "use_cache": False}
        if self.both:
            tokens = nn.functional.pad(text, (1, 0), value=self.start_id)
            return self.model(input_ids=ids, attention_mask=mask, decoder_input_ids=tokens, **more)
        whole = torch.cat([mask, (text != self.pad_id).to(mask.dtype)], 1)
        place = (whole.cumsum(1) - 1).clamp_min(0)  # a position counts tokens, not columns
        return self.model(input_ids=torch.cat([ids, text], 1), attention_mask=whole, position_ids=place, **more)
