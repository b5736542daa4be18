"""Whether a run still is what it was made as: its base, its pairs and its settings are those that
its identity covers.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from .errors import TrainerError
from .jobs.job import read_json
from .known_hashes import known_hashes, own_cache
from .runs import Run, run_identity, trained_fingerprint

FileState = tuple[int, int]


def check_identity(run: Run, heed: Callable[[], None] = lambda: None) -> FileState:
    """Raise TrainerError, which says the hash there was and the one there is, when the base's file,
    the pairs in dataset.parquet or the settings in run.json are others than those that the run was
    made with. Reads the whole base unless its hash is known since an earlier start, and returns
    the state it was in. `heed` is called again and again meanwhile; what it raises ends the check.
    """
    base = Path(run.base.path)
    state = file_state(base)
    (found,) = known_hashes([base], own_cache(), lambda *_: heed())
    if found != run.base.sha256:
        raise TrainerError(
            f"The base of the run {run.name} has changed since it was made: {run.base.path} has "
            f"the SHA-256 {short(found)}, not {short(run.base.sha256)}. Put the former file back, "
            "or make a new run from this one."
        )
    pairs = run.dataset()
    dataset = pairs.fingerprint
    noted = read_json(run.folder / "run.json").get("dataset", {}).get("fingerprint", dataset)
    if dataset != noted:
        raise TrainerError(
            f"The pairs of the run {run.name} have changed since it was made: dataset.parquet has "
            f"the fingerprint {short(dataset)}, not {short(noted)}. Put the former file back, or "
            "make a new run with these pairs."
        )
    identity = run_identity(found, trained_fingerprint(pairs, run.settings), run.settings)
    if identity != run.id:
        raise TrainerError(
            f"The run {run.name} is not the one it was made as: base, pairs and settings have the "
            f"identity {short(identity)}, run.json says {short(run.id)}. Undo what was changed in "
            "run.json, or make a new run with these settings."
        )
    return state


def file_state(file: Path) -> FileState:
    """Size and time of a file, which tell whether it may have changed. Raises TrainerError when it
    is gone.
    """
    try:
        status = file.stat()
    except OSError as error:
        raise TrainerError(
            f"{file.name} in {file.parent} cannot be read ({error.strerror}). Put it back: the run "
            "needs its base for every checkpoint."
        ) from error
    return status.st_size, status.st_mtime_ns


def short(sha256: str) -> str:
    """The beginning of a hash, as people compare it."""
    return f"{str(sha256)[:12]}..."
