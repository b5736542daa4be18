"""Captioning models with hardly any weights, made by code: what they say is nonsense, always the
same.
"""

from __future__ import annotations

from pathlib import Path

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
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
    """Save a random BLIP, GIT or Florence-2, with its processor, into a new folder."""
    import transformers

    folder.mkdir(parents=True)
    if kind == "florence2":
        model, processor = _florence2()
        _draw_weights(model, kind)
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        return folder
    tokenizer = _tokenizer(folder)
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
    _draw_weights(model, kind)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _draw_weights(model, kind: str) -> None:
    """The same weights from any version of the libraries: each is drawn by its name, whatever order
    they are made in.

    Weights as they come say one word for ever; larger ones say something to every picture. The bias
    of the head keeps the special tokens, the end among them, from ever being said.
    """
    import hashlib

    import torch

    salt, deviation = DRAWN[kind]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            seed = int.from_bytes(hashlib.sha256(f"{salt}{name}".encode()).digest()[:6], "big")
            generator = torch.Generator().manual_seed(seed)
            parameter.copy_(deviation * torch.randn(parameter.shape, generator=generator))
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if name in HEAD_BIASES:
                tensor[..., : len(SPECIAL)] = -1e4


DRAWN = {"blip": (1, 0.6), "git": (3, 0.6), "florence2": (10, 2.5)}
"""Salt and standard deviation with which the words depend on the picture."""
HEAD_BIASES = (
    "text_decoder.cls.predictions.bias",
    "text_decoder.cls.predictions.decoder.bias",
    "output.bias",
)


def _florence2():
    """Four stages of the picture's half and one layer of BART; only where transformers has the
    model itself.
    """
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    marks = ["<pad>", "<s>", "</s>", "<unk>", "<image>"]
    words = {word: number for number, word in enumerate([*marks, *WORDS])}
    kept = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    kept.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=kept,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"},
    )
    vision = {
        "depths": (1, 1, 1, 1),
        "embed_dim": (8, 8, 8, 16),
        "num_heads": (1, 1, 1, 1),
        "num_groups": (1, 1, 1, 1),
        "window_size": 2,
        "projection_dim": 32,
        "drop_path_rate": 0.0,
    }
    text = {
        "model_type": "bart",
        "vocab_size": len(tokenizer),
        "d_model": 32,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 32,
        "decoder_ffn_dim": 32,
        "max_position_embeddings": 128,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 2,
        "forced_bos_token_id": 1,
    }
    config = transformers.Florence2Config(
        text_config=text, vision_config=vision, image_token_id=words["<image>"]
    )
    model = transformers.Florence2ForConditionalGeneration(config)
    model.generation_config.forced_eos_token_id = None
    model.generation_config.suppress_tokens = [0, 2, 3, 4]
    pictures = transformers.CLIPImageProcessor(
        size={"height": 64, "width": 64}, do_center_crop=False
    )
    pictures.image_seq_length = (64 // 32) ** 2 + 1
    spoken = {"pure_text": {}}
    return model, transformers.Florence2Processor(pictures, tokenizer, 0, spoken)


def _tokenizer(folder: Path):
    import inspect

    import transformers

    words = [*SPECIAL, *WORDS]
    file = folder / "vocab.txt"
    file.write_text("\n".join(words) + "\n")
    kind = transformers.BertTokenizerFast
    if "vocab" in inspect.signature(kind.__init__).parameters:
        return kind(vocab={word: number for number, word in enumerate(words)})
    return kind(vocab_file=str(file))
