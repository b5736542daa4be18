"""Pairs from a table: rows are selected first; then their images are found on disk or fetched."""

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
"""Larger tables get a derived table after their first selection; smaller ones are read quickly."""


class CocktailSelectPairs(io.ComfyNode):
    """Rows of a table, selected by filters."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        number: dict[str, Any] = {"default": 0, "min": 0, "max": 2**31 - 1}
        return schema(
            node_id="CocktailSelectPairs",
            display_name="Select Pairs",
            category=CATEGORY,
            description="Selects rows from a table of image/prompt pairs: CSV of any size, TSV, "
            "JSON lines (each also as .gz) or Parquet. The report says how many rows each filter "
            "leaves. The first selection reads the whole table; later ones take about a second.",
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
                    tooltip="A table below ComfyUI's input folder or in a datasets folder. Press "
                    "R to refresh the list.",
                ),
                io.Combo.Input(
                    "layout",
                    options=list(LAYOUTS),
                    default=ASK,
                    tooltip=f"Which column holds what. '{ASK}' stops and shows the columns, the "
                    f"likely layout and five rows; then choose that layout, or '{OWN_COLUMNS}' "
                    "and name the columns.",
                ),
                io.String.Input(
                    "image_column",
                    default="",
                    tooltip="The column with the image's URL or path. Used only by "
                    f"'{OWN_COLUMNS}'.",
                ),
                io.String.Input(
                    "prompt_column",
                    default="",
                    tooltip=f"The column with only the text. Used only by '{OWN_COLUMNS}'.",
                ),
                io.String.Input(
                    "content_column",
                    default="",
                    tooltip="The column with whole Midjourney messages, from which prompt, user, "
                    f"kind and parameters are read. Used only by '{OWN_COLUMNS}'.",
                ),
                io.String.Input(
                    "user_column",
                    default="",
                    tooltip="The column with the user who made it. Empty: the user mentioned in "
                    f"the message. Used only by '{OWN_COLUMNS}'.",
                ),
                io.String.Input(
                    "upscaled_column",
                    default="",
                    tooltip="The column that says whether it was upscaled (true or false). Used "
                    f"only by '{OWN_COLUMNS}'.",
                ),
                io.Combo.Input(
                    "kind",
                    options=[ANY_KIND, *KINDS],
                    default=ANY_KIND,
                    tooltip="What a message shows: any; grid = four pictures; upscaled = the one "
                    "that somebody picked; and so on. Unfinished ones are never selected.",
                ),
                io.Combo.Input(
                    "raw",
                    options=list(RAW),
                    default=RAW[0],
                    tooltip="any; style_raw = only pictures made with --style raw or --raw; "
                    "stylize = only pictures with --stylize up to the value below.",
                ),
                io.Int.Input(
                    "max_stylize",
                    default=50,
                    min=0,
                    max=1000,
                    tooltip="The largest --stylize value. Used only when raw is 'stylize'.",
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
                    tooltip="Prompts with more CLIP tokens are left out; CLIP reads 75 at once. "
                    "0 = no limit; the report then says how many are longer than 75.",
                ),
                io.Boolean.Input(
                    "image_prompts",
                    default=False,
                    tooltip="Whether to keep prompts that contain pictures: their text does not "
                    "describe the result.",
                ),
                io.Boolean.Input(
                    "truncated",
                    default=True,
                    tooltip="Whether to keep prompts that are cut off in the table and end in "
                    "'...'.",
                ),
                io.Int.Input(
                    "top_users",
                    **number,
                    tooltip="Keep only this many users, those with the most upscales in the "
                    "whole table. 0 = everyone.",
                ),
                io.Boolean.Input(
                    "deduplicate",
                    default=True,
                    tooltip="Of equal prompts, keep only the first. Letter case is ignored.",
                ),
                io.Int.Input(
                    "per_user",
                    **number,
                    tooltip="The most pairs of one user; the first ones are kept. 0 = no limit.",
                ),
                io.Int.Input(
                    "sample",
                    **number,
                    tooltip="The number of pairs to draw with the seed below. 0 = all.",
                ),
                io.Int.Input(
                    "seed",
                    default=555,
                    min=0,
                    max=2**53 - 1,
                    control_after_generate=False,
                    tooltip="The same seed draws the same sample.",
                ),
                io.String.Input(
                    "where",
                    default="",
                    multiline=True,
                    placeholder="width >= 1024 AND prompt NOT ILIKE '%logo%'",
                    tooltip="A further condition: one SQL expression over image, prompt, words, "
                    "user, kind, image_no, version, aspect, stylize, raw, width, height, "
                    "image_prompts, truncated. It can read nothing else. Empty = none.",
                ),
            ],
            outputs=[
                types.Selection.Output(
                    "selection",
                    display_name="selection",
                    tooltip="The selected rows, for Join Images or Download Images.",
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
            return (
                f"Layout '{OWN_COLUMNS}' needs image_column, and prompt_column or "
                f"content_column. Choose '{ASK}' to see what the table has."
            )
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
        request: dict[str, Any] = {"table": str(path), "name": table, "cache": str(_cache())}
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
                f"No row is left.\n{found['text']}\nLoosen the filter that removed the last ones."
            )
        selection = Selection(
            str(output), sha256_file(output), table, found["rows"], (f"from {table}: {funnel}",)
        )
        show_text(found["text"])
        facts = {
            key: found[key]
            for key in ("rows", "funnel", "rejects", "over_75_tokens", "mapping", "from_derived")
        }
        return io.NodeOutput(
            selection, found["text"], ui={"text": [found["text"]], "cocktail": [facts]}
        )


def _first_look(name: str, request: dict[str, Any]) -> str:
    """What a person needs to know to choose a layout, as text."""
    found = run_select({**request, "action": "look"}, None, stop_if_interrupted)
    mapping = found["mapping"]
    if mapping is None:
        return (
            f"{name}: {found['text']}\nSet layout to '{OWN_COLUMNS}' and name the columns, then "
            "queue again."
        )
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
    """Make the derived table for later selections in a process of its own, unless that is already
    being done.
    """
    key = canonical_json(request)
    if key in _deriving and _deriving[key].is_alive():
        return

    def derive() -> None:
        try:
            run_select({**request, "action": "ingest"})
        except TrainerError as error:
            print(f"cocktail: the derived table of {request['name']} could not be made: {error}")

    _deriving[key] = threading.Thread(target=derive, daemon=True)
    _deriving[key].start()


def _cache() -> Path:
    return names.cocktail_dir("cache", "tables")


NODES: list[type[io.ComfyNode]] = [CocktailSelectPairs]
