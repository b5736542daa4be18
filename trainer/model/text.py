"""Captions to embeddings: tokens, the text encoder with clip skip, and a disk cache when it is not
trained.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..cache import TensorCache, file_bytes, module_hash
from ..errors import TrainerError
from ..files import sha256_text

if TYPE_CHECKING:
    import torch

TOKENS, WIDTH = 77, 768
FOLDER = "text"
"""The folder of embedded captions in a cache."""
CHUNK = 75
"""Tokens of a caption in one chunk, between its begin and its end."""


def load_tokenizer(folder: Path) -> Any:
    """CLIP's tokenizer from a local folder with vocab.json and merges.txt (ComfyUI ships one)."""
    from transformers import CLIPTokenizer

    if not (folder / "vocab.json").is_file():
        raise TrainerError(
            f"There is no CLIP tokenizer in {folder}: vocab.json is missing. "
            "ComfyUI has it in comfy/sd1_tokenizer."
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
    """Embeds captions for the loop. Conditional dropout replaces a caption by an empty one.

    A caption is read in up to `chunks` chunks of 75 tokens, cut as ComfyUI cuts plain text, each
    between its own begin and end; the rest is left out.
    """

    def __init__(
        self,
        tokenizer: Any,
        text_encoder: Any,
        clip_skip: int,
        trained: bool,
        cache: Path,
        chunks: int = 1,
    ) -> None:
        self.tokenizer = tokenizer
        self.text_encoder = text_encoder
        self.clip_skip = clip_skip
        self.trained = trained
        self.chunks = chunks
        self.cache = (
            None
            if trained
            else TensorCache(cache / FOLDER / f"{module_hash(text_encoder)[:16]}-skip{clip_skip}")
        )

    def tokens(self, caption: str) -> list[list[int]]:
        """The token ids of a caption, 77 for each chunk: begin, up to 75 tokens, then ends."""
        ids = self.tokenizer(
            caption,
            add_special_tokens=False,
            truncation=True,
            max_length=self.chunks * CHUNK,
        ).input_ids
        begin, end = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        parts = [ids[start : start + CHUNK] for start in range(0, max(1, len(ids)), CHUNK)]
        return [[begin, *part, *[end] * (TOKENS - 1 - len(part))] for part in parts]

    def _entry(self, caption: str) -> tuple[str, tuple[int, int]]:
        """The cache key of a caption, which names the number of chunks if there are several, and
        the shape of its embedding.
        """
        chunks = len(self.tokens(caption)) if self.chunks > 1 else 1
        key = sha256_text(caption) if chunks == 1 else f"{sha256_text(caption)}-{chunks}"
        return key, (TOKENS * chunks, WIDTH)

    def missing(self, captions: Sequence[str]) -> dict[str, tuple[str, tuple[int, int]]]:
        """Those captions and the empty one that the cache lacks, in order, each with its key and
        shape; none when the text encoder learns.
        """
        if self.cache is None:
            return {}
        entries = {caption: self._entry(caption) for caption in sorted({"", *captions})}
        return {c: entry for c, entry in entries.items() if not self.cache.holds(*entry)}

    def missing_bytes(self, captions: Sequence[str]) -> int:
        """How much the cache will grow when these captions are prepared."""
        return sum(file_bytes(shape) for _, shape in self.missing(captions).values())

    def _encode(self, captions: Sequence[str], device: Any) -> list[torch.Tensor]:
        """The embedding of each caption, (77 x its chunks, 768)."""
        import torch

        chunks = [self.tokens(caption) for caption in captions]
        flat = torch.tensor([chunk for caption in chunks for chunk in caption], device=device)
        embedded = encode(self.text_encoder, flat, self.clip_skip)
        parts = embedded.split([len(caption) for caption in chunks])
        return [part.flatten(0, 1) for part in parts]

    def prepare(
        self, captions: Sequence[str], device: Any, progress: Callable[[int, int], None]
    ) -> None:
        """Fill the cache when the text encoder is frozen; these captions no longer need it then."""
        import torch

        if self.cache is None:
            return
        missing, count = self.missing(captions), len({"", *captions})
        for start in range(0, len(missing), 16):
            part = list(missing)[start : start + 16]
            progress(count - len(missing) + start, count)
            with torch.no_grad():
                embeddings = self._encode(part, device)
            for caption, embedding in zip(part, embeddings, strict=True):
                self.cache.put(missing[caption][0], embedding.float().cpu())

    def known(self, captions: Sequence[str]) -> dict[str, torch.Tensor]:
        """The embeddings that are on disk, by caption, to be read before a step needs them."""
        if self.cache is None:
            return {}
        entries = {caption: self._entry(caption) for caption in dict.fromkeys(captions)}
        return {
            caption: self.cache.get(entry[0])
            for caption, entry in entries.items()
            if self.cache.holds(*entry)
        }

    def embed(
        self,
        captions: Sequence[str],
        device: Any,
        known: dict[str, torch.Tensor] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Embeddings (batch, 77 x chunks, 768) on `device`, with gradients when the text encoder is
        trained.

        The mask (batch, 77 x chunks) is 0 behind captions of fewer chunks than the longest, None
        when all have the same number. Captions that were not prepared, such as shuffled tags, are
        encoded on the device of the frozen text encoder. `known` is the result of `known()` for
        these captions, if it is there already.
        """
        if self.cache is None:
            return _stacked(self._encode(captions, device))
        known = self.known(captions) if known is None else known
        new = [caption for caption in dict.fromkeys(captions) if caption not in known]
        if new:
            import torch

            with torch.no_grad():
                embeddings = self._encode(new, self.text_encoder.device)
            known |= {c: e.float().cpu() for c, e in zip(new, embeddings, strict=True)}
        return _stacked([known[caption].to(device) for caption in captions])


def _stacked(embeddings: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Embeddings of unequal length as one tensor, with the mask that says where they end."""
    import torch

    lengths = [len(embedding) for embedding in embeddings]
    if len(set(lengths)) == 1:
        return torch.stack(list(embeddings)), None
    stacked = torch.nn.utils.rnn.pad_sequence(list(embeddings), batch_first=True)
    places = torch.arange(max(lengths), device=stacked.device)
    return stacked, (places < torch.tensor(lengths, device=stacked.device)[:, None]).float()
