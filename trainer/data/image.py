"""Image files to RGB pictures of the size of a bucket."""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import os
import re
import stat
import threading
import warnings
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from ..errors import TrainerError
from ..files import SpecialFile, TooLarge
from .decoding import CountedBytes, CountedFile, too_costly

if TYPE_CHECKING:
    from PIL import Image

MAX_PIXELS = 178_956_970
"""Larger pictures are refused before they are decoded (Pillow's own limit against decompression
bombs).
"""
TOO_MANY = f"it has more than {MAX_PIXELS} pixels, which is the limit"
PACKAGES = {
    **dict.fromkeys((".heic", ".heif", ".hif"), "pillow-heif"),
    ".jxl": "pillow-jxl-plugin",
}
"""Packages that Pillow needs for some kinds of pictures, by suffix."""
MODULES = {"pillow-heif": "pillow_heif", "pillow-jxl-plugin": "pillow_jxl"}
SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif")
).union(end for end, package in PACKAGES.items() if find_spec(MODULES[package]))
FORMATS = (
    *(
        "PNG",
        "JPEG",
        "MPO",
        "WEBP",
        "AVIF",
        "GIF",
        "BMP",
        "DIB",
        "TIFF",
        "JPEG2000",
        "PPM",
        "HEIF",
        "JXL",
    ),
)
"""The formats that are read, by Pillow's names, whatever the suffix says. HEIF and JXL work
when their PACKAGES are installed.

Others are left out on purpose: to open PostScript, for example, Pillow starts another program.
"""
MOST_FILE_BYTES = 1 << 30
"""No picture of so few pixels takes more."""
STRIP = 256
"""Rows that are composited at a time."""
BLACK_POINTS: Any = 0x2000
"""ImageCms.Flags.BLACKPOINTCOMPENSATION, which has another name in an old Pillow."""
ORIENTATION = 0x0112
"""The Exif tag that says how a camera was held."""
DOWNLOADED = "it is a web page, not a picture: whatever saved it got an HTML answer"
NOT_READ = (
    (rb"\s*(<!--.*?-->\s*)?<(!doctype\s+html|html|head|body)\b", DOWNLOADED),
    (rb"\s*(<\?xml.*?)?(<!doctype\s+svg.*?)?<svg\b", "it is an SVG drawing; save it as PNG"),
    (rb"....ftyp(hei[cfmsx]|hev[cx]|mif1|msf1)", "it is an HEIC picture; save it as JPEG or PNG"),
    (rb"(\xff\x0a|\0\0\0\x0cJXL )", "it is a JPEG XL picture; save it as JPEG or PNG"),
    (rb"8BPS", "it is a Photoshop document; save it as PNG"),
    (rb"%!PS|\xc5\xd0\xd3\xc6", "it is a PostScript drawing; save it as PNG"),
    (rb"%PDF-", "it is a PDF document; save its pictures as PNG"),
    (
        rb"version https://git-lfs",
        "it is a Git LFS pointer, not a picture; fetch the picture with: git lfs pull",
    ),
)
"""How files begin that people take for pictures, and what the message says."""
BEGINNINGS = (
    (rb"\x89PNG", "PNG"),
    (rb"\xff\xd8\xff", "JPEG"),
    (rb"GIF8", "GIF"),
    (rb"RIFF....WEBP", "WebP"),
    (rb"BM", "BMP"),
    (rb"II\*\0|MM\0\*|II\+\0|MM\0\+", "TIFF"),
    (rb"....ftypavi[fs]", "AVIF"),
)


def open_rgb(
    source: Path | bytes, cover: tuple[int, int] | None = None, background: str = "#ffffff"
) -> Image.Image:
    """The first frame of a picture, upright (Exif), in RGB with 8 bits; transparency becomes
    `background` (#rrggbb).

    With `cover` (width and height of the upright picture) a JPEG may be decoded at a half, quarter
    or eighth of its size, but never below `cover`. `info["animated"]` of the result says whether
    the file holds more frames or pages; a second picture inside a photograph (MPO) does not count.

    Colours: the values of RGB and grey pictures are taken as they are, with or without an embedded
    profile, as in EveryDream2, kohya's scripts, Hugging Face's datasets and ComfyUI's Load Image.
    CMYK is converted by its embedded profile, because the colours would be far off otherwise;
    without a profile, by Pillow's formula. Lab becomes sRGB. 16 bits are cut to the upper 8, floats
    must be from 0 to 1.

    Raises TrainerError when the file is not a picture, is damaged, cut off, or has more than
    MAX_PIXELS.
    """
    from PIL import Image, ImageColor, UnidentifiedImageError

    try:
        ImageColor.getrgb(background)
    except ValueError as error:
        raise TrainerError(f"{background!r} is not a colour; write it like #ffffff") from error
    try:
        file = CountedBytes(source) if isinstance(source, bytes) else open_file(source)
    except OSError as error:
        raise TrainerError(f"it cannot be read: {error.strerror or error}") from error
    with file:
        try:
            with _strictly(), Image.open(file, formats=read_formats()) as image:
                return _decode(image, cover, background)
        except TrainerError:
            raise
        except UnidentifiedImageError as error:
            raise TrainerError(_what_it_is(file)) from error
        except Image.DecompressionBombError as error:
            raise TrainerError(TOO_MANY) from error
        except Exception as error:
            raise TrainerError(_what_is_wrong(error, file)) from error


def open_file(path: Path) -> IO[bytes]:
    """A picture's file, which links may lead to. Raises OSError, also for a pipe, whose other end
    nobody may ever open, and for what is far too large.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise SpecialFile(errno.EINVAL, "it is no regular file", os.fspath(path))
    if found.st_size > MOST_FILE_BYTES:
        raise TooLarge(path, MOST_FILE_BYTES)
    return CountedFile(io.FileIO(os.fspath(path)))


def read_file(path: Path) -> bytes:
    """The same, read."""
    with open_file(path) as file:
        return file.read()


def _decode(image: Any, cover: tuple[int, int] | None, background: str) -> Image.Image:
    """An opened file as `open_rgb` returns it."""
    if image.width * image.height > MAX_PIXELS:
        raise TrainerError(TOO_MANY)
    photograph = image.format in ("JPEG", "MPO")
    if costly := too_costly(image):
        raise TrainerError(costly)
    animated = not photograph and _is_animated(image)
    if photograph and cover:
        image.draft("RGB", cover[::-1] if _orientation(image) >= 5 else cover)
    image.load()
    orientation = _orientation(image)
    picture = _rgb(image, background)
    if orientation > 1:
        picture = picture.transpose(_turns()[orientation])
    picture.info = {"animated": animated}
    return picture


def _rgb(image: Image.Image, background: str) -> Image.Image:
    """A loaded picture of any mode in RGB."""

    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "F":
        return _from_floats(image).convert("RGB")
    if image.mode.startswith("I"):
        return _from_16_bits(image, background)
    if image.mode in ("CMYK", "LAB"):
        return _from_print(image)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        return _on(background, image)
    return image.convert("RGB")


def _with_alpha(image: Image.Image) -> Image.Image:
    """The picture as RGBA. The transparent colour of a PNG with 16 bits is cut to 8 bits, like its
    pixels.
    """
    colour = image.info.get("transparency")
    if isinstance(colour, tuple) and max(colour) > 255:
        image.info["transparency"] = tuple(value >> 8 for value in colour)
    return image.convert("RGBA")


def _on(background: str, layer: Image.Image) -> Image.Image:
    """A picture with transparency on a colour, strip by strip: a large one, taken at once, would be
    in memory five times.
    """
    from PIL import Image

    result = Image.new("RGB", layer.size)
    for top in range(0, layer.height, STRIP):
        box = (0, top, layer.width, min(top + STRIP, layer.height))
        strip = _with_alpha(layer.crop(box))
        below = Image.new("RGBA", strip.size, background)
        result.paste(Image.alpha_composite(below, strip).convert("RGB"), box)
    return result


def _from_16_bits(image: Image.Image, background: str) -> Image.Image:
    """Grey with 16 bits, of which one value may be transparent. Raises TrainerError for values of
    more than 16 bits.
    """
    values = image.convert("I")
    low, high = cast("tuple[int, int]", values.getextrema())
    if not 0 <= low <= high <= 65_535:
        raise TrainerError(
            f"its values go from {low} to {high}; at most 16 bits can be read. "
            "Save it with 8 or 16 bits"
        )
    grey = values.point(lambda value: value * (1 / 257)).convert("L")
    clear = image.info.get("transparency")
    if not isinstance(clear, int):
        return grey.convert("RGB")
    import numpy
    from PIL import Image

    layer = grey.convert("RGBA")
    opaque = (numpy.asarray(values) != clear).astype(numpy.uint8) * 255
    layer.putalpha(Image.fromarray(opaque))
    return _on(background, layer)


def _from_floats(image: Image.Image) -> Image.Image:
    """Grey floats from 0 to 1. Raises TrainerError for others, because nobody can tell which value
    is white.
    """
    import numpy
    from PIL import Image

    values = numpy.asarray(image, dtype=numpy.float32)
    low, high = float(values.min()), float(values.max())
    if not 0 <= low <= high <= 1:
        raise TrainerError(
            f"its values are floats from {low:g} to {high:g}; only 0 to 1 can be read. "
            "Save it with 8 or 16 bits"
        )
    return Image.fromarray((values * 255 + 0.5).astype(numpy.uint8))


def _from_print(image: Image.Image) -> Image.Image:
    """CMYK or Lab in sRGB."""
    from PIL import ImageCms

    profile: bytes = image.info.get("icc_profile") or b""
    if image.mode == "CMYK" and not profile:
        return image.convert("RGB")
    try:
        given = (
            ImageCms.createProfile("LAB")
            if image.mode == "LAB"
            else ImageCms.ImageCmsProfile(io.BytesIO(profile))
        )
        converted = ImageCms.profileToProfile(
            image,
            given,
            ImageCms.createProfile("sRGB"),
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            outputMode="RGB",
            flags=BLACK_POINTS,
        )
        assert converted is not None
        return converted
    except (ImportError, OSError, ImageCms.PyCMSError) as error:
        if image.mode == "LAB":
            raise TrainerError("it has Lab colours; save it in RGB") from error
        return image.convert("RGB")


def read_formats() -> list[str]:
    """Those of FORMATS that the installed Pillow can read."""
    from PIL import Image

    _register()
    return [name for name in FORMATS if name in Image.OPEN]


@cache
def _register() -> None:
    """Make the formats of Pillow and of those PACKAGES that are installed known to it."""
    from PIL import Image

    Image.init()
    with contextlib.suppress(ImportError):
        import_module("pillow_heif").register_heif_opener()
    with contextlib.suppress(ImportError):
        import_module("pillow_jxl")  # registers itself


def _turns() -> dict[int, Any]:
    """The operation that turns a picture of each Exif orientation upright."""
    from PIL.Image import Transpose

    return {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }


def _orientation(image: Image.Image) -> int:
    """The Exif orientation from 1 (upright) to 8; 1 when the Exif block is damaged."""
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except Exception as error:
        _log.debug("A damaged Exif block, whose picture is taken as it lies: %s", error)
        return 1
    return value if value in range(1, 9) else 1


def _is_animated(image: Any) -> bool:
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception as error:
        _log.debug("A picture whose frames cannot be counted is taken for a film: %s", error)
        return True


_log = logging.getLogger(__name__)
_guard = threading.Lock()
_restore = contextlib.ExitStack()
_inside: list[int] = []


@contextlib.contextmanager
def _strictly() -> Iterator[None]:
    """Make Pillow silent, and make it refuse pictures that are cut off even if another extension
    has told it to fill them with grey.

    Both switches apply to the whole process: the first thread that enters sets them, the last one
    that leaves restores them.
    """
    from PIL import ImageFile

    with _guard:
        if not _inside:
            filled = ImageFile.LOAD_TRUNCATED_IMAGES
            _restore.callback(setattr, ImageFile, "LOAD_TRUNCATED_IMAGES", filled)
            _restore.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
            ImageFile.LOAD_TRUNCATED_IMAGES = False
        _inside.append(threading.get_ident())
    try:
        yield
    finally:
        with _guard:
            _inside.pop()
            if not _inside:
                _restore.close()


def _what_it_is(file: IO[bytes]) -> str:
    """What is wrong with a file that Pillow does not recognize."""
    file.seek(0)
    begin = file.read(1024).removeprefix(b"\xef\xbb\xbf")
    if not begin:
        return "the file is empty"
    for pattern, words in NOT_READ:
        if re.match(pattern, begin, re.IGNORECASE | re.DOTALL):
            return words
    for pattern, name in BEGINNINGS:
        if re.match(pattern, begin, re.DOTALL):
            return (
                f"it begins like {name}, but is damaged, cut off or of a kind that cannot be read; "
                "save it as PNG"
            )
    return f"it is not a picture of a known format; it begins with {begin[:16]!r}"


def _what_is_wrong(error: Exception, file: IO[bytes]) -> str:
    """What is wrong with a picture that Pillow recognizes but cannot decode."""
    words = str(error)
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    begin = file.read(8)
    short = begin[:4] == b"RIFF" and int.from_bytes(begin[4:], "little") + 8 > size
    if short or "truncated" in words.lower():
        return "it is cut off: the file ends before the picture does"
    if "MAX_TEXT" in words or "data too large" in words.lower():
        return "the text or profile inside the file is too large; save the picture without it"
    return f"it cannot be decoded: {words or type(error).__name__}"


def reduction(data: bytes, size: tuple[int, int], cover: tuple[int, int]) -> int:
    """The factor by which `open_rgb` reduces a picture of that upright size while it decodes it for
    `cover`: 1, 2, 4 or 8.
    """
    if not data.startswith(b"\xff\xd8\xff"):
        return 1
    most = min(size[0] // cover[0], size[1] // cover[1])
    return next(number for number in (8, 4, 2, 1) if number <= max(1, most))


def fit(image: Image.Image, width: int, height: int) -> Image.Image:
    """Scaled (Lanczos) until it covers width x height, then cropped to that around its centre."""
    from PIL import Image, ImageOps

    return ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)
