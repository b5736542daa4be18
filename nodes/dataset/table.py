"""Pairs from a table: rows are selected first, then their images are found on disk or fetched."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from comfy_api.latest import io

from ...trainer.data.table.columns import PRESETS, Mapping
from ...trainer.data.table.midjourney import KINDS
from ...trainer.data.table.request import run_select
from ...trainer.data.table.select import RAW, SelectionSettings
from ...trainer.data.table.selection import Selection
from ...trainer.data.table.table import fingerprint
from ...trainer.errors import TrainerError
from ...trainer.files import canonical_json, sha256_file, sha256_text
from .. import types
from ..host import names
from ..host.progress import show_text, stop_if_interrupted
from ..schema import opt, schema

CATEGORY = "cocktail/dataset"
ASK = "show me the table first"
OWN_COLUMNS = "columns below"
LAYOUTS = (ASK, *PRESETS, OWN_COLUMNS)
ANY_KIND = "any"
DERIVE_BYTES = 64_000_000
"""Larger tables get a derived table after their first selection; smaller ones are read in no time.
"""


class CocktailSelectPairs(io.ComfyNode):
    """Rows of a table, chosen by filters."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        number = {"default": 0, "min": 0, "max": 2**31 - 1}
        return schema(
            node_id="CocktailSelectPairs",
            display_name="Select Pairs",
            category=CATEGORY,
            description="Chooses rows of a table of image/prompt pairs: a CSV of any size, TSV, JSON lines or Parquet, gzip of the text ones too. The funnel "
            "says how many rows each filter leaves. The first selection reads the whole table; later ones answer in about a second.",
            search_aliases=[
                "csv",
                "parquet",
                "midjourney",
                "filter table",
                "sql",
                "duckdb",
                "laion",
                "metadata table",
                "prompt dataset",
            ],
            is_output_node=True,
            inputs=[
                opt(
                    io.Combo.Input,
                    "table",
                    options=names.tables(),
                    tooltip="A table below ComfyUI's input folder or in a datasets folder. Press R to refresh the list.",
                ),
                io.Combo.Input(
                    "layout",
                    options=list(LAYOUTS),
                    default=ASK,
                    tooltip=f"Which column is what. '{ASK}' stops and shows the columns, the likely layout and five rows; then choose that layout, or "
                    f"'{OWN_COLUMNS}' and name them.",
                ),
                io.String.Input(
                    "image_column",
                    default="",
                    tooltip=f"Column with the image's URL or path. Used by '{OWN_COLUMNS}' only.",
                ),
                io.String.Input(
                    "prompt_column",
                    default="",
                    tooltip=f"Column with the text alone. Used by '{OWN_COLUMNS}' only.",
                ),
                io.String.Input(
                    "content_column",
                    default="",
                    tooltip=f"Column with whole Midjourney messages, from which prompt, user, kind and parameters are read. Used by '{OWN_COLUMNS}' only.",
                ),
                io.String.Input(
                    "user_column",
                    default="",
                    tooltip=f"Column with who made it. Empty: the mention in the message. Used by '{OWN_COLUMNS}' only.",
                ),
                io.String.Input(
                    "upscaled_column",
                    default="",
                    tooltip=f"Column that says true or false whether it was upscaled. Used by '{OWN_COLUMNS}' only.",
                ),
                io.Combo.Input(
                    "kind",
                    options=[ANY_KIND, *KINDS],
                    default=ANY_KIND,
                    tooltip="What a message shows: any; grid = four pictures; upscaled = the one that somebody chose; and so on. Unfinished ones never count.",
                ),
                io.Combo.Input(
                    "raw",
                    options=list(RAW),
                    default=RAW[0],
                    tooltip="any; style_raw = only pictures made with --style raw or --raw; stylize = only those with --stylize up to the value below.",
                ),
                io.Int.Input(
                    "max_stylize",
                    default=50,
                    min=0,
                    max=1000,
                    tooltip="Largest --stylize value. Used by raw 'stylize' only.",
                ),
                io.Int.Input(
                    "min_words",
                    default=3,
                    min=0,
                    max=1000,
                    tooltip="Prompts with fewer words are left out.",
                ),
                io.Int.Input(
                    "max_words",
                    **{**number, "max": 10_000},
                    tooltip="Prompts with more words are left out. 0 = no limit.",
                ),
                io.Int.Input(
                    "max_tokens",
                    **{**number, "max": 10_000},
                    tooltip="Prompts with more CLIP tokens are left out; 75 are read at once. 0 = no limit, the report says how many are longer.",
                ),
                io.Boolean.Input(
                    "image_prompts",
                    default=False,
                    tooltip="Whether to keep prompts that contain pictures: their text does not describe the result.",
                ),
                io.Boolean.Input(
                    "truncated",
                    default=True,
                    tooltip="Whether to keep prompts that were cut off in the table, and end in '...'.",
                ),
                io.Int.Input(
                    "top_users",
                    **number,
                    tooltip="Only users who are among so many with the most upscales in the whole table. 0 = everyone.",
                ),
                io.Boolean.Input(
                    "deduplicate",
                    default=True,
                    tooltip="Of equal prompts, upper and lower case aside, keep the first.",
                ),
                io.Int.Input(
                    "per_user",
                    **number,
                    tooltip="Most pairs of one user, the first ones. 0 = no limit.",
                ),
                io.Int.Input(
                    "sample",
                    **number,
                    tooltip="So many pairs are drawn by the seed below. 0 = all.",
                ),
                io.Int.Input(
                    "seed",
                    default=555,
                    min=0,
                    max=2**53 - 1,
                    control_after_generate=False,
                    tooltip="Which pairs a sample draws: the same seed draws the same ones.",
                ),
                io.String.Input(
                    "where",
                    default="",
                    multiline=True,
                    placeholder="width >= 1024 AND prompt NOT ILIKE '%logo%'",
                    tooltip="A further condition, one SQL expression over image, prompt, words, user, kind, image_no, version, aspect, stylize, raw, width, height, "
                    "image_prompts, truncated. It can read nothing else. Empty = none.",
                ),
            ],
            outputs=[
                types.Selection.Output(
                    "selection",
                    display_name="selection",
                    tooltip="The chosen rows, for Join Images or Download Images.",
                ),
                io.String.Output(
                    "report",
                    display_name="report",
                    tooltip="Rows after each step, and rows that could not be read.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(
        cls,
        table: str | None,
        layout: str | None,
        image_column: str | None,
        prompt_column: str | None,
        content_column: str | None,
    ) -> bool | str:
        try:
            if table is not None:
                names.table_path(table)
        except names.BadName as error:
            return str(error)
        if layout == OWN_COLUMNS and not (image_column and (prompt_column or content_column)):
            return f"Layout '{OWN_COLUMNS}' needs image_column, and prompt_column or content_column. Choose '{ASK}' to see what the table has."
        return True

    @classmethod
    def fingerprint_inputs(cls, table: str | None, **_: Any) -> list[int]:
        try:
            status = names.table_path(table).stat() if table else None
        except (names.BadName, OSError):
            status = None
        return [status.st_size, status.st_mtime_ns] if status else []

    @classmethod
    def execute(
        cls,
        table: str,
        layout: str,
        image_column: str,
        prompt_column: str,
        content_column: str,
        user_column: str,
        upscaled_column: str,
        kind: str,
        **filters: Any,
    ) -> io.NodeOutput:
        path = names.table_path(table)
        request = {"table": str(path), "name": table, "cache": str(_cache())}
        if layout == ASK:
            raise TrainerError(_first_look(table, request))
        if layout == OWN_COLUMNS:
            mapping = Mapping(
                image=image_column.strip(),
                content=content_column.strip(),
                prompt=prompt_column.strip(),
                user=user_column.strip(),
                upscaled=upscaled_column.strip(),
            )
            request["mapping"] = mapping.to_json()
        else:
            request["preset"] = layout
        settings = SelectionSettings(kinds=() if kind == ANY_KIND else (kind,), **filters)
        asked = canonical_json([fingerprint(path), request, settings.to_json()])
        output = _cache() / "selections" / f"{sha256_text(asked)[:32]}.parquet"
        output.parent.mkdir(parents=True, exist_ok=True)
        found = run_select(
            {
                **request,
                "action": "select",
                "settings": settings.to_json(),
                "output": str(output),
                "tokenizer": str(names.tokenizer_dir()),
            },
            show_text,
            stop_if_interrupted,
        )
        if not found["from_derived"] and path.stat().st_size > DERIVE_BYTES:
            _derive_in_background(request)
        funnel = " -> ".join(f"{step['rows']} {step['name']}" for step in found["funnel"])
        if not found["rows"]:
            raise TrainerError(
                f"No row is left.\n{found['text']}\nLoosen the filter that took the last ones away."
            )
        chosen = Selection(
            str(output), sha256_file(output), table, found["rows"], (f"from {table}: {funnel}",)
        )
        show_text(found["text"])
        told = {
            key: found[key]
            for key in ("rows", "funnel", "rejects", "over_75_tokens", "mapping", "from_derived")
        }
        return io.NodeOutput(
            chosen, found["text"], ui={"text": [found["text"]], "cocktail": [told]}
        )


def _first_look(name: str, request: dict[str, Any]) -> str:
    """What a person needs to know to choose a layout."""
    found = run_select({**request, "action": "look"}, None, stop_if_interrupted)
    mapping = found["mapping"]
    if mapping is None:
        return f"{name}: {found['text']}\nSet layout to '{OWN_COLUMNS}' and name the columns, then queue again."
    if mapping["preset"] in PRESETS:
        advice = f"If that is right, set layout to {mapping['preset']} and queue again."
    else:
        columns = ", ".join(
            f"{role}_column to {mapping[role]}"
            for role in ("image", "prompt", "content", "user", "upscaled")
            if mapping[role]
        )
        advice = f"If that is right, set layout to '{OWN_COLUMNS}', {columns}, and queue again."
    return f"{name} looks like this:\n{found['text']}\n{advice}"


_deriving: dict[str, threading.Thread] = {}


def _derive_in_background(request: dict[str, Any]) -> None:
    """Make the derived table that later selections are answered from, in a process of its own, once
    at a time.
    """
    key = canonical_json(request)
    if key in _deriving and _deriving[key].is_alive():
        return

    def derive() -> None:
        try:
            run_select({**request, "action": "ingest"})
        except TrainerError as error:
            print(f"cocktail: the derived table of {request['name']} was not made: {error}")

    _deriving[key] = threading.Thread(target=derive, daemon=True)
    _deriving[key].start()


def _cache() -> Path:
    return names.cocktail_dir("cache", "tables")


NODES: list[type[io.ComfyNode]] = [CocktailSelectPairs]
