"""Captions to embeddings: tokens, the text encoder with clip skip, and a disk cache when it is not trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .cache import TensorCache, module_hash
from .errors import TrainerError
from .files import sha256_text

if TYPE_CHECKING:
    import torch

TOKENS = 77


def load_tokenizer(folder: Path) -> Any:
    """CLIP's tokenizer from a local folder with vocab.json and merges.txt (ComfyUI ships one)."""
    from transformers import CLIPTokenizer

    if not (folder / "vocab.json").is_file():
        raise TrainerError(
            f"There is no CLIP tokenizer in {folder}: vocab.json is missing. ComfyUI has it in comfy/sd1_tokenizer."
        )
    return CLIPTokenizer.from_pretrained(folder, local_files_only=True)


def encode(text_encoder: Any, tokens: torch.Tensor, clip_skip: int) -> torch.Tensor:
    """Embeddings (batch, 77, 768) of tokens (batch, 77), from the last layer but `clip_skip` - 1.

    The final layer norm is applied in every case, as A1111, EveryDream2 and ComfyUI do.
    """
    core = getattr(text_encoder, "text_model", text_encoder)
    if clip_skip == 1:
        return text_encoder(input_ids=tokens).last_hidden_state
    hidden = text_encoder(input_ids=tokens, output_hidden_states=True).hidden_states
    return core.final_layer_norm(hidden[-clip_skip])


class Text:
    """Embeds captions for the loop; an empty caption is what conditional dropout puts in place of one."""

    def __init__(
        self, tokenizer: Any, text_encoder: Any, clip_skip: int, trained: bool, cache: Path
    ) -> None:
        self.tokenizer = tokenizer
        self.text_encoder = text_encoder
        self.clip_skip = clip_skip
        self.trained = trained
        self.cache = (
            None
            if trained
            else TensorCache(cache / "text" / f"{module_hash(text_encoder)[:16]}-skip{clip_skip}")
        )

    def tokens(self, captions: Sequence[str]) -> torch.Tensor:
        """Token ids (batch, 77); what is beyond 75 tokens is cut off."""
        return self.tokenizer(
            list(captions),
            padding="max_length",
            truncation=True,
            max_length=TOKENS,
            return_tensors="pt",
        ).input_ids

    def prepare(
        self, captions: Sequence[str], device: Any, progress: Callable[[int, int], None]
    ) -> None:
        """Fill the cache when the text encoder is frozen; afterwards it is not needed any more."""
        import torch

        if self.cache is None:
            return
        wanted = sorted({"", *captions})
        missing = [caption for caption in wanted if sha256_text(caption) not in self.cache]
        for start in range(0, len(missing), 16):
            part = missing[start : start + 16]
            progress(len(wanted) - len(missing) + start, len(wanted))
            with torch.no_grad():
                embeddings = encode(self.text_encoder, self.tokens(part).to(device), self.clip_skip)
            for caption, embedding in zip(part, embeddings.float().cpu(), strict=True):
                self.cache.put(sha256_text(caption), embedding)

    def embed(self, captions: Sequence[str], device: Any) -> torch.Tensor:
        """Embeddings (batch, 77, 768) on `device`, with gradients when the text encoder is trained.

        Captions that were not prepared, such as shuffled tags, are encoded where the frozen text encoder is.
        """
        import torch

        if self.cache is None:
            return encode(self.text_encoder, self.tokens(captions).to(device), self.clip_skip)
        known = {
            c: self.cache.get(sha256_text(c)) for c in captions if sha256_text(c) in self.cache
        }
        new = [caption for caption in dict.fromkeys(captions) if caption not in known]
        if new:
            tokens = self.tokens(new).to(self.text_encoder.device)
            with torch.no_grad():
                embeddings = encode(self.text_encoder, tokens, self.clip_skip).float().cpu()
            known |= dict(zip(new, embeddings, strict=True))
        return torch.stack([known[caption] for caption in captions]).to(device)
