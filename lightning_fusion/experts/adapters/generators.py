"""Text generators of transformers."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lightning_fusion.errors import InputError
from lightning_fusion.experts.adapters.folders import load_pretrained, weight_files
from lightning_fusion.experts.adapters.tokens import check_tokens, gathered, longest_text, masked_mean
from lightning_fusion.extras import require


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
        self.model = load_pretrained("AutoModelForSeq2SeqLM" if self.both else "AutoModelForCausalLM", path, download)
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
        self.vocab_size, self.longest = self.model.get_input_embeddings().num_embeddings, longest_text(self.model)

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
                return masked_mean(encoded, mask)
            states = self._run(ids, mask, text).decoder_hidden_states[-1]
            there = nn.functional.pad(there, (1, 0), value=True)  # the start
            return masked_mean(torch.cat([encoded, states], 1), torch.cat([mask > 0, there], 1))
        states = self._run(ids, mask, text).hidden_states[-1]
        return masked_mean(states, torch.cat([mask > 0, there], 1))

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
        ids, mask = check_tokens(input, self.vocab_size, self.path, self.longest)
        if not self.both:
            ids, mask = gathered(ids, mask, mask != 0)
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
