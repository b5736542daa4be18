"""Captioning models with hardly any weights, made by code: what they say is nonsense, always the same."""

from __future__ import annotations

from pathlib import Path

WORDS = [
    "a",
    "the",
    "red",
    "green",
    "blue",
    "white",
    "black",
    "circle",
    "square",
    "triangle",
    "on",
    "background",
    "of",
    "in",
    "and",
    "large",
    "small",
    "with",
    "two",
]


def make_captioner(folder: Path, kind: str) -> Path:
    """Save a random BLIP or GIT, with its processor, into a new folder."""
    import torch
    import transformers

    folder.mkdir(parents=True)
    tokenizer = _tokenizer(folder)
    torch.manual_seed(3)
    small = {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    vocabulary = len(tokenizer)
    if kind == "blip":
        text = {
            **small,
            "vocab_size": vocabulary,
            "encoder_hidden_size": 32,
            "max_position_embeddings": 64,
            "bos_token_id": tokenizer.cls_token_id,
            "sep_token_id": tokenizer.sep_token_id,
            "eos_token_id": tokenizer.sep_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        }
        config = transformers.BlipConfig(
            text_config=text,
            vision_config={**small, "image_size": 32, "patch_size": 16},
            projection_dim=32,
        )
        model = transformers.BlipForConditionalGeneration(config)
        processor = transformers.BlipProcessor(
            transformers.BlipImageProcessor(size={"height": 32, "width": 32}), tokenizer
        )
    else:
        config = transformers.GitConfig(
            vision_config={**small, "image_size": 32, "patch_size": 16},
            **small,
            vocab_size=vocabulary,
            max_position_embeddings=64,
            bos_token_id=tokenizer.cls_token_id,
            eos_token_id=tokenizer.sep_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        model = transformers.GitForCausalLM(config)
        processor = transformers.GitProcessor(
            transformers.CLIPImageProcessor(
                size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
            ),
            tokenizer,
        )
    for parameter in model.parameters():
        # Random weights as they come say one word for ever; larger ones say something to every picture.
        torch.nn.init.normal_(parameter, std=0.6)
    model.generation_config.suppress_tokens = list(range(5))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _tokenizer(folder: Path):
    import inspect

    import transformers

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    file = folder / "vocab.txt"
    file.write_text("\n".join(words) + "\n")
    kind = transformers.BertTokenizerFast
    if "vocab" in inspect.signature(kind.__init__).parameters:
        return kind(vocab={word: number for number, word in enumerate(words)})
    return kind(vocab_file=str(file))
