"""Captions from a picture-to-text model in a local folder, by transformers, without the network and
without Python code from the folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import MISSING, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ...errors import TrainerError
from ...files import sha256_text
from ...settings.group import Group, setting
from ..image import open_rgb, read_file
from .model_folder import KINDS, ModelFacts, check_model

if TYPE_CHECKING:
    from PIL import Image

DTYPES = ("auto", "fp32", "fp16", "bf16")
DEVICES = ("auto", "cpu", "cuda")
FLORENCE_TASK = "<DETAILED_CAPTION>"
CHAT_PROMPT = "Describe this picture in one sentence."
TOKEN = re.compile(
    r"</?s>|<(?:pad|unk|mask|sep|ocr|od|poly|loc_\d+|[A-Z][A-Z_]+)>|</(?:poly|ocr|od)>"
)
"""What Florence-2 writes besides words: sequence marks, places in the picture, names of tasks."""


@dataclass(frozen=True)
class CaptionSettings(Group):
    """How a model captions pictures."""

    CALLED: ClassVar[str] = "caption setting"

    model: str = setting(
        MISSING,
        "The model's folder: config.json, safetensors weights, the processor's and the "
        "tokenizer's files.",
    )
    kind: str = setting(
        "auto",
        "What the folder must hold; auto takes any picture-to-text model that transformers knows.",
        choices=KINDS,
    )
    prompt: str = setting(
        "",
        "For Florence-2 a task such as <CAPTION> (empty: <DETAILED_CAPTION>), for BLIP and GIT the "
        "beginning of every caption, for chat models the question.",
    )
    max_new_tokens: int = setting(75, "Longest caption, in the model's own tokens.", (1, 1024))
    num_beams: int = setting(3, "Wordings that are followed at the same time.", (1, 16))
    temperature: float = setting(
        0.0,
        "0 = the likeliest words. Above 0 words are drawn; they depend only on `seed` and the "
        "picture.",
        (0.0, 2.0),
    )
    seed: int = setting(0, "Decides which words are drawn.", (0, 2**53 - 1))
    batch_size: int = setting(8, "Pictures at once; when words are drawn, one by one.", (1, 256))
    dtype: str = setting(
        "auto",
        (
            "Arithmetic of the model. auto: fp32 on the CPU, bf16 on a GPU that supports it, "
            "otherwise fp16."
        ),
        choices=DTYPES,
    )
    device: str = setting(
        "auto", "Where the model works. auto: the GPU if there is one.", choices=DEVICES
    )
    column: str = setting("model", "The caption column that the texts are for.")

    def wording(self) -> dict[str, Any]:
        """The settings that the words depend on, besides the model."""
        names = ("prompt", "max_new_tokens", "num_beams", "temperature", "seed", "dtype")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Captioner:
    """A loaded model with its processor."""

    model: Any
    processor: Any
    facts: ModelFacts
    settings: CaptionSettings


@dataclass(frozen=True)
class Picture:
    """A picture to caption; `image_hash` is the SHA-256 that its file must have ("" = any)."""

    id: str
    path: Path
    image_hash: str = ""
    background: str = "#ffffff"


@dataclass(frozen=True)
class Captioned:
    """The caption of a picture, or why there is none; `of_picture` is true when the file itself is
    at fault.
    """

    id: str
    image_hash: str
    text: str = ""
    problem: str = ""
    of_picture: bool = False


def load_captioner(settings: CaptionSettings) -> Captioner:
    """The model on its device, for inference. Nothing is downloaded, unpickled, or run from the
    folder.

    Raises TrainerError when the folder is refused (see `check_model`), does not load, or has
    weights that do not fit its config: transformers would go on with random ones.
    """
    import torch
    import transformers

    folder = Path(settings.model)
    facts = check_model(folder, settings.kind)
    device = pick_device(settings.device)
    dtype = pick_dtype(settings.dtype, device)
    old = int(transformers.__version__.split(".")[0]) < 5
    try:
        model, loading = _model_class(facts).from_pretrained(
            str(folder),
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            **{"torch_dtype" if old else "dtype": dtype},
        )
        processor = transformers.AutoProcessor.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
    except Exception as error:
        raise TrainerError(
            f"{folder.name} does not load ({facts.architecture}): {_first_line(error)}"
        ) from error
    _check_fit(folder, model, loading)
    for part in ("image_processor", "tokenizer"):
        if getattr(processor, part, None) is None:
            raise TrainerError(
                f"{folder.name} has no {part.replace('_', ' ')}: copy all of the model's .json and "
                ".txt files there."
            )
    if processor.tokenizer.pad_token is None:
        processor.tokenizer.pad_token = processor.tokenizer.eos_token
    if facts.kind == "other" and not model.config.is_encoder_decoder:
        processor.tokenizer.padding_side = "left"
    return Captioner(model.to(torch.device(device)).eval(), processor, facts, settings)


def pick_device(wanted: str) -> str:
    """cpu or cuda; auto takes a GPU when there is one."""
    import torch

    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise TrainerError("There is no CUDA device here. Set device to auto or cpu.")
    return "cuda" if available and wanted != "cpu" else "cpu"


def pick_dtype(wanted: str, device: str) -> Any:
    """The torch dtype; auto is fp32 on the CPU, bf16 on a GPU that supports it, otherwise fp16."""
    import torch

    if wanted == "auto" and device == "cpu":
        wanted = "fp32"
    elif wanted == "auto":
        wanted = "bf16" if torch.cuda.get_device_capability(device)[0] >= 8 else "fp16"
    return {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[wanted]


def _model_class(facts: ModelFacts) -> Any:
    """The automatic class that has this model, otherwise the class that its config names."""
    import transformers
    from transformers.models.auto import modeling_auto

    for name, table in (
        ("AutoModelForImageTextToText", "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES"),
        ("AutoModelForVision2Seq", "MODEL_FOR_VISION_2_SEQ_MAPPING_NAMES"),
    ):
        if facts.model_type in getattr(modeling_auto, table, {}):
            return getattr(transformers, name)
    return getattr(transformers, facts.architecture)


def _check_fit(folder: Path, model: Any, loading: dict[str, Any]) -> None:
    parameters = {name for name, _ in model.named_parameters()}
    missing = sorted(parameters & set(loading["missing_keys"]))
    other_shape = sorted(str(entry[0]) for entry in loading.get("mismatched_keys", ()))
    if missing or other_shape:
        raise TrainerError(
            f"The weights in {folder.name} do not fit its config.json: {len(missing)} are missing, "
            f"{len(other_shape)} have another shape, such as {(missing + other_shape)[0]}."
        )


def caption_images(captioner: Captioner, pictures: Iterable[Picture]) -> Iterator[Captioned]:
    """One answer for every picture, in their order.

    The next pictures are decoded while the model works. A batch that fails is repeated picture by
    picture, so that a problem stays with its picture.
    """
    settings = captioner.settings
    size = settings.batch_size if settings.temperature == 0 else 1
    remaining = iter(pictures)
    with ThreadPoolExecutor(max_workers=4) as pool:

        def upcoming() -> list[Any]:
            return [(picture, pool.submit(_read, picture)) for picture in islice(remaining, size)]

        batch, following = upcoming(), upcoming()
        while batch:
            yield from _caption_batch(captioner, [(item, read.result()) for item, read in batch])
            batch, following = following, upcoming()


def _read(picture: Picture) -> Image.Image | str:
    """The decoded picture, or what is wrong with the file."""
    try:
        data = read_file(picture.path)
        if picture.image_hash and hashlib.sha256(data).hexdigest() != picture.image_hash:
            return "the picture is not the one that the dataset was made of; load the pairs again"
        return open_rgb(data, background=picture.background)
    except FileNotFoundError:
        return "the picture is no longer there"
    except (OSError, TrainerError) as error:
        return f"the picture cannot be read: {error}"


def _caption_batch(
    captioner: Captioner, batch: Sequence[tuple[Picture, Image.Image | str]]
) -> list[Captioned]:
    readable = [(picture, image) for picture, image in batch if not isinstance(image, str)]
    answers = {
        picture.id: Captioned(picture.id, picture.image_hash, problem=image, of_picture=True)
        for picture, image in batch
        if isinstance(image, str)
    }
    for group in _groups(captioner, readable):
        for picture, answer in group:
            answers[picture.id] = _answer(picture, answer)
    return [answers[picture.id] for picture, _ in batch]


def _groups(
    captioner: Captioner, readable: Sequence[tuple[Picture, Image.Image]]
) -> Iterator[list[tuple[Picture, str | Exception]]]:
    """The batch answered together, or, when that fails, every picture by itself."""
    if not readable:
        return
    pictures = [picture for picture, _ in readable]
    try:
        texts = generate(captioner, [image for _, image in readable], pictures[0].image_hash)
        yield list(zip(pictures, texts, strict=True))
    except Exception as error:
        _free_memory()
        if len(readable) == 1:
            yield [(pictures[0], error)]
            return
        print(
            f"{len(readable)} pictures at once failed, now each by itself: {_first_line(error)}",
            file=sys.stderr,
        )
        for entry in readable:
            yield from _groups(captioner, [entry])


def _answer(picture: Picture, answer: str | Exception) -> Captioned:
    if isinstance(answer, Exception):
        problem = f"the model failed: {type(answer).__name__}: {_first_line(answer)}"
        return Captioned(picture.id, picture.image_hash, problem=problem)
    if not answer:
        return Captioned(picture.id, picture.image_hash, problem="the model answered nothing")
    return Captioned(picture.id, picture.image_hash, answer)


def generate(captioner: Captioner, images: Sequence[Image.Image], key: str = "") -> list[str]:
    """A caption for every RGB picture of a batch. When words are drawn, `key` and the seed decide
    which.
    """
    import torch

    settings, model = captioner.settings, captioner.model
    inputs = _inputs(captioner, images)
    inputs = {
        name: value.to(model.device, model.dtype)
        if value.is_floating_point()
        else value.to(model.device)
        for name, value in inputs.items()
        if isinstance(value, torch.Tensor)
    }
    options: dict[str, Any] = {
        "max_new_tokens": settings.max_new_tokens,
        "num_beams": settings.num_beams,
        "do_sample": settings.temperature > 0,
    }
    if settings.temperature > 0:
        options["temperature"] = settings.temperature
    with torch.inference_mode(), _keyed(settings, model.device, key):
        tokens = model.generate(**inputs, **options)
    if captioner.facts.kind == "florence2":
        return _florence_texts(captioner, tokens, images)
    if captioner.facts.kind == "other" and "input_ids" in inputs:
        tokens = _without_prompt(tokens, inputs["input_ids"])
    texts = captioner.processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)
    return [" ".join(text.split()) for text in texts]


@contextlib.contextmanager
def _keyed(settings: CaptionSettings, device: Any, key: str) -> Iterator[None]:
    """Inside, random numbers depend on (seed, picture): transformers draws words only from the
    global generators.
    """
    import torch

    if settings.temperature == 0:
        yield
        return
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(int(sha256_text(f"{settings.seed}/caption/{key}")[:15], 16))
        yield


def _inputs(captioner: Captioner, images: Sequence[Image.Image]) -> dict[str, Any]:
    """The model's inputs for a batch, with the prompt in the form that its kind expects."""
    import torch

    processor, prompt = captioner.processor, captioner.settings.prompt.strip()
    kind, pictures, count = captioner.facts.kind, list(images), len(images)
    if kind == "florence2":
        text = [prompt or FLORENCE_TASK] * count
        return processor(text=text, images=pictures, padding=True, return_tensors="pt")
    if kind == "git":
        inputs = dict(processor(images=pictures, return_tensors="pt"))
        if prompt:
            # As in the model's own examples: the prompt begins the caption, so no [SEP] follows it.
            tokenizer = processor.tokenizer
            ids = tokenizer(prompt, add_special_tokens=False).input_ids
            inputs["input_ids"] = torch.tensor([[tokenizer.cls_token_id, *ids]] * count)
        return inputs
    if kind == "other" and (template := _chat_template(processor)):
        asked = _chat(processor, template, prompt or CHAT_PROMPT)
        marks = processor.tokenizer.bos_token
        special = {"add_special_tokens": False} if marks and asked.startswith(marks) else {}
        return processor(
            text=[asked] * count,
            images=[[image] for image in pictures],
            padding=True,
            return_tensors="pt",
            **special,
        )
    if prompt:
        text = [prompt] * count
        return processor(images=pictures, text=text, padding=True, return_tensors="pt")
    return processor(images=pictures, return_tensors="pt")


def _chat_template(processor: Any) -> str | None:
    return getattr(processor, "chat_template", None) or getattr(
        processor.tokenizer, "chat_template", None
    )


def _chat(processor: Any, template: str, prompt: str) -> str:
    """One question about one picture, in the form of the model's template."""
    question = [{"type": "image"}, {"type": "text", "text": prompt}]
    return processor.apply_chat_template(
        [{"role": "user", "content": question}],
        chat_template=template,
        add_generation_prompt=True,
        tokenize=False,
    )


def _without_prompt(tokens: Any, prompt: Any) -> Any:
    """Generated tokens without the prompt, which some models repeat before them."""
    import torch

    length = prompt.shape[1]
    if tokens.shape[1] > length and torch.equal(tokens[:, :length], prompt):
        return tokens[:, length:]
    return tokens


def _florence_texts(captioner: Captioner, tokens: Any, images: Sequence[Image.Image]) -> list[str]:
    """Florence-2's answers as captions: text as it is, objects as a list of their names."""
    prompt = captioner.settings.prompt.strip() or FLORENCE_TASK
    task = prompt[: prompt.find(">") + 1] or FLORENCE_TASK
    texts = captioner.processor.tokenizer.batch_decode(tokens, skip_special_tokens=False)
    found = []
    for text, image in zip(texts, images, strict=True):
        parsed = captioner.processor.post_process_generation(
            text=text.replace("<pad>", ""), task=task, image_size=image.size
        )
        found.append(florence_text(parsed[task]))
    return found


def florence_text(answer: str | dict[str, Any]) -> str:
    """A parsed answer as a caption, without the tokens of tasks and places. Boxes and regions
    become their labels, each once.
    """
    if isinstance(answer, dict):
        labels = [*answer.get("labels", ()), *answer.get("bboxes_labels", ())]
        answer = ", ".join(dict.fromkeys(str(label).strip() for label in labels if label))
    return " ".join(TOKEN.sub(" ", answer).split())


def _free_memory() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
