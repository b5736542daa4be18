"""Selection in plain Python, one record after the other: slow, and what the fast one must agree
with.

`read_csv` says rule by rule which records of a damaged table are whole.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator

from cocktail.trainer.data.table.columns import Mapping
from cocktail.trainer.data.table.midjourney import WHITE
from cocktail.trainer.data.table.select import SelectionSettings

from .midjourney_reference import read_prompt, read_tail, split_message, words

QUOTE, SPACE, RETURN, NEWLINE = b'" \r\n'


def read_csv(
    data: bytes, delimiter: str = ",", wanted: set[int] | None = None
) -> Iterator[list[str | None] | None]:
    """The records after the header, None for each that is damaged.

    A quote opens a quoted field only at its start, spaces before it aside. Only spaces may follow
    the closing quote. A record needs as many fields as the header; further ones must be empty.
    Reading goes on in the line after a damaged record, but where its quotes are broken, or where it
    swallows a line that is a record by itself, in its own second line. With `wanted`, places of
    columns, bytes in other columns that are no UTF-8 do not matter.
    """
    for _, cells in read_csv_lines(data, delimiter, wanted):
        yield cells


def read_csv_lines(
    data: bytes, delimiter: str = ",", wanted: set[int] | None = None
) -> Iterator[tuple[int, list[str | None] | None]]:
    """The records after the header as `read_csv` reads them, each with the line that it begins in,
    from 1.
    """
    text = data.removeprefix(b"\xef\xbb\xbf")
    header, place = _record(text, len(text) - len(text.lstrip(b"\r\n")), ord(delimiter))
    width = len(header)
    while place < len(text):
        if text[place] in b"\r\n":
            place += 1
            continue
        line = text.count(b"\n", 0, place) + 1
        cells, after = _record(text, place, ord(delimiter))
        is_whole = cells is not None and _is_whole(cells, width)
        begin, place = place, after
        if not is_whole:
            second = _next_line(text, begin)
            if cells is None or _swallows(text[second:after], ord(delimiter), width):
                place = second
            yield line, None
            continue
        try:
            yield (
                line,
                [
                    (cell.decode("utf-8") or None) if wanted is None or column in wanted else None
                    for column, cell in enumerate(cells[:width])
                ],
            )
        except UnicodeDecodeError:
            yield line, None


def _is_whole(cells: list[bytes], width: int) -> bool:
    return len(cells) >= width and not b"".join(cells[width:])


def _next_line(text: bytes, place: int) -> int:
    return text.find(b"\n", place) + 1 or len(text)


def _swallows(rest: bytes, delimiter: int, width: int) -> bool:
    lines = rest.splitlines(keepends=True) if b"\r" not in rest.replace(b"\r\n", b"") else []
    lines = lines or [line + b"\n" for line in rest.split(b"\n")]
    for line in lines[:-1]:
        cells, end = _record(line, 0, delimiter)
        if cells is not None and end == len(line) and _is_whole(cells, width):
            return True
    return False


def _record(text: bytes, place: int, delimiter: int) -> tuple[list[bytes] | None, int]:
    """The fields of a record and where it ends; None where its quotes or line ends are broken."""
    cells, cell, state = [], bytearray(), "start"
    broken = None, _next_line(text, place)
    while place < len(text):
        byte = text[place]
        is_end = byte == NEWLINE or text[place : place + 2] == b"\r\n"
        if state == "quoted":
            if byte != QUOTE:
                cell.append(byte)
            elif text[place + 1 : place + 2] == b'"':
                cell.append(byte)
                place += 1
            else:
                state = "closed"
        elif byte == delimiter or is_end:
            cells.append(bytes(cell))
            if is_end:
                return cells, place + 1 + (byte == RETURN)
            cell, state = bytearray(), "start"
        elif state == "closed":
            if byte != SPACE:
                return broken
        elif byte == RETURN:
            return broken
        elif state == "start" and byte == QUOTE and len(cell) < 2:
            cell, state = bytearray(), "quoted"
        else:
            cell.append(byte)
            state = state if byte == SPACE else "plain"
        place += 1
    return broken if state == "quoted" else ([*cells, bytes(cell)], place)


def read_jsonl(data: bytes, columns: Iterable[str]) -> Iterator[list[str | None] | None]:
    """The objects of a JSONL file as cells, None for a line that holds none."""
    for line in data.split(b"\n"):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError:
            value = None
        yield [_text(value.get(name)) for name in columns] if isinstance(value, dict) else None


def _text(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, separators=(",", ":"))


def select(
    records: Iterable[dict[str, str | None] | None],
    mapping: Mapping,
    settings: SelectionSettings,
    salt: str,
) -> list[tuple]:
    """Rows of the result for records by column name; only `where`, `max_tokens` and `version`,
    `aspect` columns are not known.

    None stands for a record that cannot be read: it has a number
    nevertheless.
    """
    found, upscales, first_upscale = [], Counter(), {}
    for number, record in enumerate(records):
        if record is None:
            continue
        row = _read(record, mapping)
        if row["kind"] == "upscaled" and not row["unfinished"] and row["account"]:
            upscales[row["account"]] += 1
            first_upscale.setdefault(row["account"], number)
        if _passes(row, settings):
            found.append({**row, "row": number})
    if settings.top_users:
        best = _best(upscales, first_upscale, settings)
        found = [row for row in found if row["account"] in best]
    if settings.deduplicate:
        seen: set[str] = set()
        found = [row for row in found if _is_new("".join(map(str.lower, row["prompt"])), seen)]
    if settings.per_user:
        had: Counter = Counter()
        kept = []
        for row in found:
            had[row["account"]] += 1
            if had[row["account"]] <= settings.per_user:
                kept.append(row)
        found = kept
    if settings.sample:
        found.sort(
            key=lambda row: hashlib.md5(f"{settings.seed}/{row['row']}".encode()).hexdigest()
        )
        found = sorted(found[: settings.sample], key=lambda row: row["row"])
    return [_result(row, salt, len(mapping.captions)) for row in found]


def _best(upscales: Counter, first_upscale: dict[str, int], settings: SelectionSettings) -> set:
    ranked = sorted(upscales, key=lambda user: (-upscales[user], first_upscale[user]))
    return set(ranked[: settings.top_users])


def funnel(
    records: Iterable[dict[str, str | None] | None],
    mapping: Mapping,
    settings: SelectionSettings,
    salt: str = "",
) -> list[tuple[str, int]]:
    """What every step leaves, in the order of the steps."""
    records = list(records)
    rows = [_read(record, mapping) for record in records if record is not None]
    upscales, first_upscale = Counter(), {}
    for number, row in enumerate(rows):
        if row["kind"] == "upscaled" and not row["unfinished"] and row["account"]:
            upscales[row["account"]] += 1
            first_upscale.setdefault(row["account"], number)
    best = _best(upscales, first_upscale, settings)
    tests = [
        (
            settings.kinds,
            f"kind: {' or '.join(settings.kinds)}",
            lambda r: r["kind"] in settings.kinds,
        ),
        (True, "finished", lambda r: not r["unfinished"]),
        (settings.raw == "style_raw", "raw", lambda r: r["raw"]),
        (
            settings.top_users,
            f"top {settings.top_users} users by upscales",
            lambda r: r["account"] in best,
        ),
        (True, "with picture and prompt", lambda r: bool(r["image"] and r["prompt"])),
        (
            settings.raw == "stylize",
            f"stylize at most {settings.max_stylize}",
            lambda r: r["stylize"] is not None and r["stylize"] <= settings.max_stylize,
        ),
        (not settings.image_prompts, "no image prompts", lambda r: r["image_prompts"] == 0),
        (True, "no negative weights", lambda r: not r["negative_weight"]),
        (not settings.truncated, "not cut off", lambda r: not r["truncated"]),
        (
            settings.min_words,
            f"at least {settings.min_words} words",
            lambda r: words(r["prompt"]) >= settings.min_words,
        ),
        (
            settings.max_words,
            f"at most {settings.max_words} words",
            lambda r: words(r["prompt"]) <= settings.max_words,
        ),
    ]
    steps = [("records", len(rows))]
    for asked, name, passes in tests:
        if asked:
            rows = [row for row in rows if passes(row)]
            steps.append((name, len(rows)))
    if settings.deduplicate:
        seen: set[str] = set()
        rows = [row for row in rows if _is_new("".join(map(str.lower, row["prompt"])), seen)]
        steps.append(("first of equal prompts", len(rows)))
    if settings.per_user:
        had = Counter(row["account"] for row in rows)
        left = sum(min(count, settings.per_user) for count in had.values())
        steps.append((f"at most {settings.per_user} a user", left))
    if settings.sample:
        steps.append((f"sample of {settings.sample}", min(settings.sample, steps[-1][1])))
    return steps


def _is_new(key: str, seen: set[str]) -> bool:
    new = key not in seen
    seen.add(key)
    return new


def _read(record: dict[str, str | None], mapping: Mapping) -> dict:
    cells = {role: record[name] for role, name in mapping.columns().items()}
    if mapping.content:
        typed, tail_text = split_message(cells["content"] or "")
    else:
        typed, tail_text = cells["prompt"] or "", ""
        if mapping.arguments:
            typed += " " + (cells["arguments"] or "")
    said, tail = read_prompt(typed), read_tail(tail_text)
    own = read_prompt(cells["prompt"] or "") if mapping.content and mapping.prompt else said
    kind = tail.kind
    flag = {"true": True, "1": True, "t": True, "false": False, "0": False, "f": False}.get(
        (cells.get("upscaled") or "").lower()
    )
    if flag:
        kind = "upscaled"
    elif flag is False and kind == "upscaled":
        kind = "grid"
    image = re.sub(rf"(?s),[{WHITE}]*https?://.*", "", cells["image"] or "").strip(WHITE)
    return {
        "account": (cells.get("user") or None) if mapping.user else tail.user,
        "kind": kind,
        "unfinished": tail.unfinished,
        "image_no": tail.image_no,
        "image": image,
        "prompt": own.prompt,
        "version": said.version or cells.get("version") or None,
        "aspect": said.aspect or cells.get("aspect") or None,
        "stylize": said.stylize,
        "raw": said.raw,
        "width": int(cells["width"]) if cells.get("width") else None,
        "height": int(cells["height"]) if cells.get("height") else None,
        "image_prompts": own.image_prompts,
        "negative_weight": own.negative_weight,
        "truncated": said.truncated,
        "captions": [cells[f"caption_{number}"] for number in range(len(mapping.captions))],
    }


def _passes(row: dict, settings: SelectionSettings) -> bool:
    count = words(row["prompt"])
    return (
        not row["unfinished"]
        and (not settings.kinds or row["kind"] in settings.kinds)
        and (settings.raw != "style_raw" or row["raw"])
        and bool(row["image"] and row["prompt"])
        and (
            settings.raw != "stylize"
            or (row["stylize"] is not None and row["stylize"] <= settings.max_stylize)
        )
        and (settings.image_prompts or row["image_prompts"] == 0)
        and not row["negative_weight"]
        and (settings.truncated or not row["truncated"])
        and count >= settings.min_words
        and (not settings.max_words or count <= settings.max_words)
    )


def _result(row: dict, salt: str, captions: int) -> tuple:
    def found(pattern: str) -> str | None:
        match = re.search(pattern, row["image"])
        return (match[1] or None) if match else None

    uuid = "-".join(f"[0-9a-f]{{{length}}}" for length in (8, 4, 4, 4, 12))
    account = row["account"]
    return (
        row["row"],
        row["image"],
        row["prompt"],
        hashlib.sha256((salt + account).encode()).hexdigest()[:16] if account else None,
        *(row[name] for name in ("kind", "image_no", "version", "aspect", "stylize", "raw")),
        row["width"],
        row["height"],
        found(r"/attachments/[0-9]+/([0-9]+)/"),
        found(f"({uuid})"),
        found(r"([^/\\?#]*)(?:[?#].*)?$"),
        row["image_prompts"],
        row["truncated"],
        *row["captions"],
    )
