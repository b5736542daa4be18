"""What the file of a picture says of the work that decoding it takes."""

from __future__ import annotations

import io
import re
import struct
from typing import IO, Any

from ..errors import TrainerError

MOST_SCANS = 100
"""Of a JPEG. A progressive one has about ten; each costs as much time as a whole picture."""
TOO_MANY_SCANS = f"it is a JPEG of more than {MOST_SCANS} scans, which takes too long to decode"
MOST_TILES = 1 << 14
"""Of a JPEG 2000, each counted for every component. Before the first is decoded, room for what may
be said of each is taken: about 12 KB.
"""
TOO_MANY_TILES = (
    f"it is a JPEG 2000 of more than {MOST_TILES} tiles and components, which takes too much memory"
)
MOST_READS = 1_000_000
"""Of a picture's file: a GIF of 120 MB has as many, the largest PNG, as programs write it, half of
them. Of a file that is made for it, Pillow reads each byte on its own.
"""
TOO_MANY_READS = "it consists of so many small pieces that reading it takes too long; save it anew"
MARKER = re.compile(rb"\xff([\x02-\xcf\xd8-\xfe])")
"""A marker of a JPEG, but those that may stand inside a scan."""
START, END, SCAN = b"\xd8", b"\xd9", b"\xda"
"""The markers of the beginning and the end of a JPEG, and of a scan. The first two have no data."""
CODESTREAM = b"\xff\x4f\xff\x51"
"""How a JPEG 2000 begins, in a box or alone: it goes on with its size and that of its tiles."""


class _Counted:
    """Counts how often somebody reads. Raises TrainerError after MOST_READS."""

    reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self.reads += 1
        if self.reads > MOST_READS:
            raise TrainerError(TOO_MANY_READS)
        return super().read(size)  # type: ignore[misc]


class CountedFile(_Counted, io.BufferedReader):
    """An opened file of a picture."""


class CountedBytes(_Counted, io.BytesIO):
    """A picture's file in memory."""


def too_costly(image: Any) -> str:
    """Why an opened picture is not to be decoded, "" if it may be."""
    if image.format in ("JPEG", "MPO") and scans(image.fp) > MOST_SCANS:
        return TOO_MANY_SCANS
    if image.format == "JPEG2000" and tiles(image.fp) > MOST_TILES:
        return TOO_MANY_TILES
    return ""


def scans(file: IO[bytes]) -> int:
    """How often a scan begins in the first picture of a JPEG, without decoding it. What stands
    inside a segment, such as a thumbnail, or behind the end, such as a film, does not count.
    """
    before = file.tell()
    file.seek(0)
    found, data, place = 0, b"", 0
    while True:
        marker = MARKER.search(data, place)
        if marker is None or marker.end() + 2 > len(data):
            kept = marker.start() if marker else max(place, len(data) - 1)
            file.seek(max(0, kept - len(data)), io.SEEK_CUR)
            block = file.read(1 << 20)
            if not block:
                break
            data, place = data[kept:] + block, 0
        elif marker[1] == END:
            break
        else:
            found += marker[1] == SCAN
            place = marker.end()
            if marker[1] != START:
                place += max(2, int.from_bytes(data[place : place + 2], "big"))
    file.seek(before)
    return found


def tiles(file: IO[bytes]) -> int:
    """The tiles of a JPEG 2000 times its components, 0 where no codestream is found."""
    before = file.tell()
    file.seek(0)
    try:
        if file.read(4) != CODESTREAM:
            file.seek(0)
            _seek_codestream(file)
        _, _, *sizes, components = struct.unpack(">HH8IH", file.read(38))
    except struct.error:
        return 0
    finally:
        file.seek(before)
    wide, high, _, _, tile_wide, tile_high, left, top = sizes
    across = -(-(wide - left) // max(tile_wide, 1))
    return across * -(-(high - top) // max(tile_high, 1)) * components


def _seek_codestream(file: IO[bytes]) -> None:
    """Go behind the beginning of the codestream in the boxes of a JP2 file. Raises struct.error
    when there is none.
    """
    while True:
        size, kind = struct.unpack(">I4s", file.read(8))
        head = 8
        if size == 1:
            (size,), head = struct.unpack(">Q", file.read(8)), 16
        if kind == b"jp2c":
            file.seek(len(CODESTREAM), io.SEEK_CUR)
            return
        file.seek(max(size - head, 0), io.SEEK_CUR)
