"""EveryDream2's train.json, optimizer.json and validation.json as run settings, with a report of
every key.

The keys and what they do are EveryDream2's of March 2023 (3744bc0), October 2023 (bc1058a) and May
2025 (5098db8). A key that is missing from train.json has EveryDream2's own default. EveryDream2's
command line, which can override the files, is not taken into account.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..run_settings import RunSettings
from ..strict_json import parse_object
from . import optimizer_json, train_json, validation_json
from .draft import Draft, Line, checked
from .keys import TRAIN_KEYS, VALIDATION_KEYS


@dataclass(frozen=True)
class Imported:
    """Settings and where they came from."""

    settings: RunSettings
    lines: tuple[Line, ...]

    def report(self) -> str:
        """A line for each key: first those that were ignored though they ask for something, then
        the rest.
        """
        counts = ", ".join(
            f"{sum(line.fate == fate for line in self.lines)} {fate}"
            for fate in ("taken", "translated", "ignored")
        )
        return "\n".join([f"{len(self.lines)} keys: {counts}", *map(str, self.lines)])


def import_everydream(
    train: str, optimizer: str = "", validation: str = "", steps_per_epoch: int = 0
) -> Imported:
    """Run settings from the texts of EveryDream2's files; an empty text is a missing file.

    `steps_per_epoch` (batches in an epoch) turns what EveryDream2 derives from the length of a run
    into steps; with 0 it is approximated. Raises TrainerError for a text that is not JSON, a value
    of the wrong type, and an optimizer that Cocktail does not have.
    """
    draft = Draft(steps_per_epoch)
    values = checked("train.json", parse_object(train, "train.json"), TRAIN_KEYS)
    train_json.read(draft, values)
    draft.file = "optimizer.json"
    given = parse_object(optimizer, draft.file) if optimizer.strip() else {}
    optimizer_json.read(draft, given, values)
    if validation.strip():
        draft.file = "validation.json"
        given = parse_object(validation, draft.file)
        validation_json.read(draft, checked(draft.file, given, VALIDATION_KEYS))
    elif values.get("validation_config") is None:
        # EveryDream2 does not validate then; a run here validates at least after its last epoch.
        draft.put("validation.every_epochs", 0)
    return Imported(RunSettings.from_json(draft.settings), tuple(draft.lines))
