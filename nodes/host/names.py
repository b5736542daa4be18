"""Names, not paths: the one place where a name from a graph or a request becomes a path below a
known folder.
"""

from __future__ import annotations

import hashlib
import os
import re
from functools import lru_cache
from pathlib import Path

from ...trainer.errors import nearest
from ...trainer.files import real

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
RESERVED = re.compile(
    r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[\d\u00b9\u00b2\u00b3]) *([.:].*)?",
    re.IGNORECASE | re.DOTALL,
)
"""Names that Windows reserves for devices."""
UNUSUAL = re.compile(r"[\x00-\x1f\x7f:]")
"""Control characters, and the colon of drives and streams on Windows. Of what else no name on
Windows has, people's own files elsewhere may be called, such as `what is "this"?`.
"""
LONGEST_PART, LONGEST_PATH = 255, 4000
"""Bytes of a file's name and characters of a path that systems take."""
TABLE = re.compile(r"\.((csv|tsv|jsonl|ndjson)(\.gz)?|parquet)$")
"""How the name of a table ends."""
WEIGHTS = (".safetensors", ".pth", ".pt", ".ckpt", ".bin")
"""How the name of a file of weights ends."""


class BadName(ValueError):
    """A name that is refused. The message says which one, why, and what to do."""

    def __str__(self) -> str:
        """The message, without the middle of a name that is very long."""
        text = super().__str__()
        return text if len(text) <= LONGEST_PATH else f"{text[:3500]} ... {text[-400:]}"


def check_name(name: str, what: str) -> str:
    """`name` itself. Raises BadName if it cannot name a `what` ("run", "grid", "merge") on every
    system.
    """
    if not NAME.fullmatch(name) or name.endswith(".") or RESERVED.fullmatch(name):
        raise BadName(
            f"{name!r} cannot name a {what}: use up to 64 letters, digits, '-', '_' and '.', "
            "beginning with a letter or digit and not ending with a dot."
        )
    return name


def accepted(name: str | None, what: str) -> bool | str:
    """What a node's validate_inputs says of a name: True, also of one that is left empty or linked,
    or why it cannot name a `what`.
    """
    try:
        return not name or bool(check_name(name, what))
    except BadName as error:
        return str(error)


def within(root: Path, relative: str, what: str) -> Path:
    """The path `relative` (with either slash) below `root`. Raises BadName if it would leave
    `root`, even by a link.
    """
    path = below(root, relative, what)
    try:
        inside = real(path).is_relative_to(real(root))
    except OSError:
        inside = False
    if not inside:
        raise BadName(f"{what} {relative!r} is a link that leads out of its folder.")
    return path


def below(root: Path, relative: str, what: str) -> Path:
    """The same, but links on the way may lead anywhere: for a folder whose links are the owner's.
    Raises BadName.
    """
    parts = _parts(relative, what)
    for part in parts:
        if RESERVED.fullmatch(part) or part.endswith((" ", ".")):
            raise BadName(
                f"{what} {relative!r} is refused: Windows keeps {part!r} for itself, or gives it "
                "another name. Rename it."
            )
    return root.joinpath(*parts)


def _parts(relative: str, what: str) -> list[str]:
    parts = relative.replace("\\", "/").split("/")
    if not all(map(_is_plain, parts)) or len(relative) > LONGEST_PATH:
        raise BadName(
            f"{what} {relative[:LONGEST_PART]!r} is refused: give a name inside its folder, "
            "without '..', drive, leading dot or leading slash."
        )
    return parts


def _is_plain(part: str) -> bool:
    """Whether this can be the name of a file or folder here."""
    try:
        length = len(os.fsencode(part))
    except UnicodeEncodeError:
        return False
    named = 0 < length <= LONGEST_PART and not part.startswith(".")
    return named and not UNUSUAL.search(part)


def cocktail_dir(*parts: str) -> Path:
    """`<output>/cocktail/...`, where everything that the pack makes is kept, except checkpoints."""
    import folder_paths

    return Path(folder_paths.get_output_directory(), "cocktail", *parts)


def temp_dir(*parts: str) -> Path:
    """`<temp>/...` of ComfyUI, which it empties whenever it starts."""
    import folder_paths

    return Path(folder_paths.get_temp_directory(), *parts)


def thumbnails_dir() -> Path:
    """Where the small copies of pictures of grids are."""
    return temp_dir("cocktail", "thumbnails")


def block_presets_file() -> Path:
    """The text file with the person's own presets of block weights."""
    return cocktail_dir("block_presets.txt")


def network_file() -> Path:
    """The settings file with which the server's owner allows access to the network. Graphs cannot
    write to its folder.
    """
    import folder_paths

    return Path(folder_paths.get_user_directory(), "cocktail", "network.json")


def key_file() -> Path:
    """The file of the key with which this installation marks what it has begun. Neither graphs nor
    archives that are unpacked in the output folder write to its folder.
    """
    return network_file().with_name("installation.key")


def hashes_file() -> Path:
    """What is known of the hashes of files. It lies beside the key, since it is believed: in the
    output folder, somebody's archive could say of any file that it is another one.
    """
    return key_file().with_name("hashes.json")


def tokenizer_dir() -> Path:
    """The folder of CLIP's tokenizer, which comes with ComfyUI."""
    import comfy

    return Path(next(iter(comfy.__path__)), "sd1_tokenizer")


def checkpoint_dir() -> Path:
    """`cocktail` in the first checkpoints folder, where trained and merged checkpoints go."""
    import folder_paths

    return Path(folder_paths.get_folder_paths("checkpoints")[0], "cocktail")


def checkpoint_names() -> list[str]:
    """The checkpoints that ComfyUI lists."""
    import folder_paths

    return folder_paths.get_filename_list("checkpoints")


def checkpoint_path(name: str) -> Path:
    """The file of a checkpoint that ComfyUI lists. Raises BadName, which suggests the nearest name,
    if there is none.
    """
    import folder_paths

    relative = "/".join(_parts(name, "Checkpoint"))
    path = folder_paths.get_full_path("checkpoints", relative)
    if path is None:
        hint = nearest(name, checkpoint_names())
        raise BadName(
            f"There is no checkpoint {name!r} in ComfyUI's checkpoints folders.{hint} "
            "Put the file there and press R to refresh the lists."
        )
    return Path(path)


def vae_names() -> list[str]:
    """The VAE files that ComfyUI lists."""
    import folder_paths

    return folder_paths.get_filename_list("vae")


def lora_names() -> list[str]:
    """The LoRA files that ComfyUI lists."""
    import folder_paths

    return folder_paths.get_filename_list("loras")


def lora_path(name: str) -> Path:
    """The file of a LoRA that ComfyUI lists. Raises BadName if there is none."""
    import folder_paths

    path = folder_paths.get_full_path("loras", "/".join(_parts(name, "LoRA")))
    if path is None:
        raise BadName(
            f"There is no LoRA {name!r} in ComfyUI's loras folders. Put it there and press R."
        )
    return Path(path)


def lora_dir() -> Path:
    """`cocktail` in the first loras folder, where extracted LoRAs go."""
    import folder_paths

    return Path(folder_paths.get_folder_paths("loras")[0], "cocktail")


def lora_name(path: Path) -> str:
    """The name under which ComfyUI lists a LoRA in `lora_dir`."""
    return str(path.relative_to(lora_dir().parent))


def ingredient_path(name: str) -> Path:
    """The file of an ingredient of a recipe: a checkpoint, or else a VAE file. Raises BadName if
    there is neither.
    """
    import folder_paths

    relative = "/".join(_parts(name, "Ingredient"))
    if folder_paths.get_full_path("checkpoints", relative) is None:
        path = folder_paths.get_full_path("vae", relative)
        if path is not None:
            return Path(path)
    return checkpoint_path(name)


def checkpoint_name(path: Path) -> str:
    """The name under which ComfyUI lists a checkpoint file. Raises BadName for a file outside its
    folders.
    """
    import folder_paths

    for folder in folder_paths.get_folder_paths("checkpoints"):
        if path.is_relative_to(folder):
            return str(path.relative_to(folder))
    raise BadName(f"{path.name} is not in any of ComfyUI's checkpoints folders.")


def dataset_folders() -> list[str]:
    """The folders that can be loaded as a dataset: datasets folders, and the folders directly below
    them and below input.
    """
    found = []
    for label, root in _dataset_roots().items():
        if label != "input" and root.is_dir():
            found.append(label)
        found += [f"{label}/{name}" for name in _folders_in(root)]
    return found


def dataset_folder(name: str) -> Path:
    """The folder of a dataset name, `<root>` or `<root>/<folder below it>`. Raises BadName if there
    is none.
    """
    label, _, relative = name.replace("\\", "/").partition("/")
    root = _dataset_roots().get(label)
    if root is not None and (relative or label != "input"):
        path = within(root, relative, "Dataset folder") if relative else root
        if path.is_dir():
            return path
    hint = nearest(name, dataset_folders())
    raise BadName(
        f"There is no dataset folder {name!r}.{hint} Put a folder of pictures into ComfyUI's input "
        "folder "
        "(its name is then input/FOLDER), or add a 'datasets' folder to extra_model_paths.yaml."
    )


def is_dataset_place(folder: Path) -> bool:
    """Whether a folder is below a root that may hold pictures of datasets: input, datasets folders,
    our own output.
    """
    there = folder.resolve()
    return any(
        there.is_relative_to(root.resolve())
        for root in (*_dataset_roots().values(), cocktail_dir())
    )


def picture_facts(folder: Path, kind: str = "") -> Path:
    """The file of known facts about a folder's pictures. Join Images keeps the kind "joined-"."""
    name = hashlib.sha256(str(folder.resolve()).encode("utf-8")).hexdigest()[:16]
    return cocktail_dir("cache", "pictures", f"{kind}{name}.json")


def _dataset_roots() -> dict[str, Path]:
    """Known roots by their labels: "input", then every datasets folder under its own name."""
    import folder_paths

    folders = [Path(folder_paths.base_path, "datasets")]
    if "datasets" in folder_paths.folder_names_and_paths:
        folders += map(Path, folder_paths.get_folder_paths("datasets"))
    roots = {"input": Path(folder_paths.get_input_directory())}
    for folder in dict.fromkeys(folders):
        label, number = folder.name, 2
        while label in roots:
            label, number = f"{folder.name}-{number}", number + 1
        roots[label] = folder
    return roots


def _folders_in(root: Path) -> list[str]:
    """Names of the folders directly below `root`, read again only when `root` has changed."""
    try:
        changed = root.stat().st_mtime_ns
    except OSError:
        return []
    return _listed(root, changed)


@lru_cache(maxsize=64)
def _listed(root: Path, changed: int) -> list[str]:
    return sorted(
        path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")
    )


def run_names() -> list[str]:
    """Names of the runs that there are."""
    root = cocktail_dir("runs")
    return [name for name in _folders_in(root) if (root / name / "run.json").is_file()]


def run_folder(name: str) -> Path:
    """The folder of a run. Raises BadName, which suggests the nearest name, if there is none."""
    check_name(name, "run")
    folder = cocktail_dir("runs", name)
    if (folder / "run.json").is_file():
        return folder
    hint = nearest(name, run_names())
    raise BadName(f"There is no run {name!r}.{hint} Fine-tune makes one; press R to refresh.")


def saved_datasets() -> list[str]:
    """Names of the datasets that Save Dataset has saved."""
    root = cocktail_dir("datasets")
    return [name for name in _folders_in(root) if saved_dataset(name).is_file()]


def saved_dataset(name: str) -> Path:
    """The manifest of a saved dataset, whether it exists or not."""
    return cocktail_dir("datasets", name, "manifest.parquet")


def existing_dataset(name: str) -> Path:
    """The manifest of a saved dataset. Raises BadName, which suggests the nearest name, if there is
    none.
    """
    check_name(name, "dataset")
    if saved_dataset(name).is_file():
        return saved_dataset(name)
    hint = nearest(name, saved_datasets())
    raise BadName(f"There is no saved dataset {name!r}.{hint} Save Dataset makes one.")


def input_text(name: str, limit_bytes: int = 1_000_000) -> str:
    """The text of a small UTF-8 file in the input folder. Raises BadName if it is missing, too
    large, or not text.
    """
    import folder_paths

    relative = name.strip().replace("\\", "/").removeprefix("input/")
    path = within(Path(folder_paths.get_input_directory()), relative, "File")
    if not path.is_file():
        raise BadName(
            f"There is no file {name!r} in ComfyUI's input folder. Put it there, or paste its text."
        )
    if path.stat().st_size > limit_bytes:
        raise BadName(
            f"{name!r} has more than {limit_bytes} bytes, which is too large for a settings file."
        )
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadName(f"{name!r} is not UTF-8 text.") from error


def tables() -> list[str]:
    """The tables in the input folder, in the datasets folders, and in the folders directly below
    them.
    """
    found = []
    for label, root in _dataset_roots().items():
        for folder in ("", *_folders_in(root)):
            inside = "/".join(filter(None, (label, folder)))
            found += [f"{inside}/{name}" for name in _tables_in(root / folder)]
    return found


def table_path(name: str) -> Path:
    """The file of a table name, `<root>/.../<file>`; raises BadName if there is none."""
    label, _, relative = name.replace("\\", "/").partition("/")
    root = _dataset_roots().get(label)
    if root is not None and relative:
        path = within(root, relative, "Table")
        if path.is_file():
            return path
    hint = nearest(name, tables())
    raise BadName(
        f"There is no table {name!r}.{hint} Put a CSV, TSV, JSONL or Parquet file into ComfyUI's "
        "input folder "
        "(its name is then input/FILE), or into a 'datasets' folder, and press R to refresh the "
        "lists."
    )


def _tables_in(folder: Path) -> list[str]:
    """Names of the tables directly in `folder`, read again only when it has changed."""
    try:
        return _listed_tables(folder, folder.stat().st_mtime_ns)
    except OSError:
        return []


@lru_cache(maxsize=256)
def _listed_tables(folder: Path, changed: int) -> list[str]:
    return sorted(
        path.name
        for path in folder.iterdir()
        if TABLE.search(path.name.lower()) and not path.name.startswith(".") and path.is_file()
    )


def captioners() -> list[str]:
    """The folders below models/LLM and models/captioners that hold a model."""
    return [
        f"{label}/{name}"
        for label, roots in _captioner_roots().items()
        for root in roots
        for name in _folders_in(root)
        if (root / name / "config.json").is_file()
    ]


def captioner_folder(name: str) -> Path:
    """The folder of a captioning model; raises BadName if there is none."""
    label, _, relative = name.replace("\\", "/").partition("/")
    for root in _captioner_roots().get(label, []):
        if relative and (path := within(root, relative, "Model folder")).is_dir():
            return path
    hint = nearest(name, captioners())
    raise BadName(
        f"There is no captioning model {name!r}.{hint} Put its folder (config.json, safetensors "
        "weights, tokenizer) into "
        "models/LLM or models/captioners, and press R to refresh the lists."
    )


def _captioner_roots() -> dict[str, list[Path]]:
    """Folders of models by the label that names begin with."""
    return {label: _model_folders(label) for label in ("LLM", "captioners")}


def weights_names(kind: str) -> list[str]:
    """The files of weights directly in models/`kind`, such as "lpips" or "aesthetic"."""
    found = [
        path.name
        for folder in _model_folders(kind)
        if folder.is_dir()
        for path in folder.iterdir()
        if path.suffix.lower() in WEIGHTS and not path.name.startswith(".") and path.is_file()
    ]
    return sorted(dict.fromkeys(found))


def weights_path(kind: str, name: str, what: str) -> Path:
    """The file of weights with this name; `what` says in words what it has to hold. Raises BadName
    if there is none.
    """
    for folder in _model_folders(kind):
        path = within(folder, name, "File")
        if path.suffix.lower() in WEIGHTS and path.is_file():
            return path
    raise BadName(
        f"There is no file {name!r} in models/{kind}.{nearest(name, weights_names(kind))} Put "
        f"{what} there, and press R to refresh the lists."
    )


def _model_folders(kind: str) -> list[Path]:
    """models/`kind`, and the folders that extra_model_paths.yaml adds to it."""
    import folder_paths

    known = folder_paths.folder_names_and_paths
    folders = folder_paths.get_folder_paths(kind) if kind in known else []
    return list(dict.fromkeys([Path(folder_paths.models_dir, kind), *map(Path, folders)]))
