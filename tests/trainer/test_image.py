"""Picture files of every kind that people have, judged by their pixels; bad ones by what they are
told.
"""

from __future__ import annotations

import functools
import io
import struct
import threading
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy
import pytest
from PIL import Image, ImageCms, ImageFile, features

from cocktail.trainer.data import image as image_module
from cocktail.trainer.data.folder.folder import load_folder
from cocktail.trainer.data.image import MAX_PIXELS, fit, open_rgb
from cocktail.trainer.errors import TrainerError

WHITE = (255, 255, 255)
needs_avif = pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
needs_profiles = pytest.mark.skipif(
    not features.check("littlecms2"), reason="this Pillow has no LittleCMS"
)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, bits: int, colour_type: int, row: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of one row, with chunks before its pixels."""
    header = struct.pack(">IIBBBBB", width, 1, bits, colour_type, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def words16(*values: int) -> bytes:
    return struct.pack(f">{len(values)}H", *values)


def tiff16(samples: int, values: tuple[int, ...]) -> bytes:
    """A little-endian TIFF of one pixel with 16 bits a sample."""
    entries = [
        (256, 3, 1, 1),
        (257, 3, 1, 1),
        (258, 3, samples, 200),
        (259, 3, 1, 1),
        (262, 3, 1, 2),
        (273, 4, 1, 300),
        (277, 3, 1, samples),
        (278, 3, 1, 1),
        (279, 4, 1, 2 * samples),
    ]
    if samples == 4:
        entries.append((338, 3, 1, 2))
    data = b"II*\0" + struct.pack("<IH", 8, len(entries))
    data += b"".join(struct.pack("<HHII", *entry) for entry in entries) + struct.pack("<I", 0)
    data = data.ljust(200, b"\0") + struct.pack(f"<{samples}H", *(16,) * samples)
    return data.ljust(300, b"\0") + struct.pack(f"<{samples}H", *values)


def noise(width: int, height: int) -> Image.Image:
    pixels = numpy.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=numpy.uint8)
    return Image.fromarray(pixels)


def ycck_red() -> bytes:
    """An Adobe JPEG in YCCK. Pillow writes CMYK only, so the channels hold Y, Cb, Cr and K and the
    marker is changed.
    """
    stored = (179, 171, 0, 255)  # YCbCr of (0, 255, 255), which stands for C, M, Y; K inverted
    image = Image.new("CMYK", (16, 16), tuple(255 - value for value in stored))
    data = encoded(image, "JPEG", quality=100, subsampling=0)
    place = data.index(b"Adobe") + 11
    assert data[place] == 0
    return data[:place] + b"\2" + data[place + 1 :]


def ink_profile() -> bytes:
    """A CMYK profile in which full cyan is L 60, a -30, b -40, whatever else is printed; without
    it, white.
    """
    grid = bytearray()
    for node in range(16):
        grid += bytes((153, 98, 88)) if node & 8 else bytes((255, 128, 128))
    identity = bytes(range(256))
    table = b"mft1" + bytes(4) + bytes((4, 3, 2, 0))
    table += struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    table += identity * 4 + bytes(grid) + identity * 3
    white = b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)
    name = b"desc" + bytes(4) + struct.pack(">I", 4) + b"ink\0" + bytes(78)
    tags, data, at = [], b"", 128 + 4 + 4 * 12
    for tag, body in ((b"A2B0", table), (b"wtpt", white), (b"desc", name), (b"cprt", name)):
        body += bytes(-len(body) % 4)
        tags.append(tag + struct.pack(">II", at + len(data), len(body)))
        data += body
    header = bytes(4) + bytes((2, 0x40, 0, 0)) + b"prtrCMYKLab " + bytes(12) + b"acsp" + bytes(28)
    header += struct.pack(">3i", 63190, 65536, 54061)
    profile = header.ljust(124, b"\0") + struct.pack(">I", 4) + b"".join(tags) + data
    return struct.pack(">I", len(profile) + 4) + profile


def lab_of(colour: tuple[int, int, int]) -> Image.Image:
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    image = ImageCms.profileToProfile(Image.new("RGB", (4, 4), colour), srgb, lab, outputMode="LAB")
    assert image is not None
    return image


def palette(transparency: int | bytes | None = None) -> bytes:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 200, 100, 50, 0, 0, 255])
    options = {} if transparency is None else {"transparency": transparency}
    return encoded(image, "PNG", **options)


def pa(alpha: int) -> bytes:
    """A palette picture with an alpha channel, as TIFF."""
    image = Image.new("PA", (4, 4), (1, alpha))
    image.putpalette([0, 0, 0, 200, 100, 50])
    return encoded(image.convert("RGBA"), "TIFF")


def frames(kind: str, **options) -> bytes:
    pictures = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "lime")]
    return encoded(pictures[0], kind, save_all=True, append_images=pictures[1:], **options)


def grey16(kind: str, **options) -> bytes:
    values = numpy.full((4, 4), 100 * 257, dtype=numpy.uint16)
    return encoded(Image.fromarray(values), kind, **options)


MPO = Path(__file__).with_name("three_pictures.mpo")
"""A red, a blue and a lime picture in one file, written by Pillow 12: the oldest writes such files
in a way that it cannot read itself.
"""
WORD = b"II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x04\0\0\0abc\0\0\0\0\0"
"""Exif with an orientation of "abc"."""
HALF = (200, 100, 50, 128)
ON_WHITE = (227, 177, 152)
RGB = (200, 100, 50)
GOOD = {
    "RGB PNG": (lambda: encoded(Image.new("RGB", (4, 4), RGB), "PNG"), RGB, 0),
    "RGB BMP": (lambda: encoded(Image.new("RGB", (4, 4), RGB), "BMP"), RGB, 0),
    "RGB JPEG": (lambda: encoded(Image.new("RGB", (16, 16), RGB), "JPEG", quality=100), RGB, 2),
    "grey JPEG": (lambda: encoded(Image.new("L", (16, 16), 90), "JPEG"), (90, 90, 90), 1),
    "RGB WebP": (lambda: encoded(Image.new("RGB", (4, 4), RGB), "WEBP", lossless=True), RGB, 0),
    "RGB TIFF": (lambda: encoded(Image.new("RGB", (4, 4), RGB), "TIFF"), RGB, 0),
    "LZW TIFF": (lambda: encoded(Image.new("RGB", (4, 4), RGB), "TIFF", compression="tiff_lzw"), RGB, 0),
    "clear RGBA": (lambda: encoded(Image.new("RGBA", (4, 4), (*RGB, 0)), "PNG"), WHITE, 0),
    "half clear RGBA": (lambda: encoded(Image.new("RGBA", (4, 4), HALF), "PNG"), ON_WHITE, 1),
    "half clear WebP": (lambda: encoded(Image.new("RGBA", (4, 4), HALF), "WEBP", lossless=True), ON_WHITE, 1),
    "half clear grey": (lambda: encoded(Image.new("LA", (4, 4), (50, 128)), "PNG"), (152, 152, 152), 1),
    "half clear palette": (lambda: palette(bytes((0, 128, 255))), ON_WHITE, 1),
    "palette": (palette, RGB, 0),
    "palette, one clear": (lambda: palette(1), WHITE, 0),
    "palette, another clear": (lambda: palette(0), RGB, 0),
    "palette and alpha": (lambda: pa(128), ON_WHITE, 1),
    "GIF, one clear": (lambda: encoded(Image.new("P", (4, 4), 0), "GIF", transparency=0), WHITE, 0),
    "RGB, its colour clear": (lambda: png(1, 8, 2, bytes(RGB), (b"tRNS", words16(*RGB))), WHITE, 0),
    "RGB, another colour clear": (lambda: png(1, 8, 2, bytes(RGB), (b"tRNS", words16(1, 2, 3))), RGB, 0),
    "grey, its value clear": (lambda: png(1, 8, 0, b"\x5a", (b"tRNS", words16(0x5A))), WHITE, 0),
    "1 bit, black": (lambda: encoded(Image.new("1", (4, 4), 0), "PNG"), (0, 0, 0), 0),
    "1 bit, white": (lambda: encoded(Image.new("1", (4, 4), 1), "TIFF"), WHITE, 0),
    "16 bit grey PNG": (lambda: grey16("PNG"), (100, 100, 100), 1),
    "16 bit grey TIFF": (lambda: grey16("TIFF"), (100, 100, 100), 1),
    "16 bit grey, its value clear": (lambda: png(1, 16, 0, words16(25_700), (b"tRNS", words16(25_700))), WHITE, 0),
    "16 bit grey, another clear": (lambda: png(1, 16, 0, words16(25_701), (b"tRNS", words16(25_700))), (100, 100, 100), 1),
    "16 bit grey and alpha": (lambda: png(1, 16, 4, words16(25_700, 0)), WHITE, 0),
    "16 bit RGB PNG": (lambda: png(1, 16, 2, words16(51_400, 25_700, 12_850)), RGB, 1),
    "16 bit RGB, its colour clear": (lambda: png(1, 16, 2, words16(51_300, 25_600, 12_900), (b"tRNS", words16(51_300, 25_600, 12_900))), WHITE, 0),
    "16 bit RGBA PNG": (lambda: png(1, 16, 6, words16(51_400, 25_700, 12_850, 32_896)), ON_WHITE, 1),
    "16 bit RGB TIFF": (lambda: tiff16(3, (51_400, 25_700, 12_850)), RGB, 1),
    "16 bit RGBA TIFF": (lambda: tiff16(4, (51_400, 25_700, 12_850, 0)), WHITE, 0),
    "float TIFF": (lambda: encoded(Image.fromarray(numpy.full((4, 4), 0.25, numpy.float32)), "TIFF"), (64, 64, 64), 0),
    "CMYK TIFF": (lambda: encoded(Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "TIFF"), (255, 0, 0), 0),
    "CMYK JPEG, inverted by Adobe's rule": (lambda: encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=100), (255, 0, 0), 2),
    "YCCK JPEG": (ycck_red, (255, 0, 0), 4),
    "MPO": (MPO.read_bytes, (254, 0, 0), 2),
    "animated GIF": (lambda: frames("GIF"), (255, 0, 0), 0),
    "animated WebP": (lambda: frames("WEBP", lossless=True), (255, 0, 0), 0),
    "animated PNG": (lambda: frames("PNG"), (255, 0, 0), 0),
    "pages of a TIFF": (lambda: frames("TIFF"), (255, 0, 0), 0),
    "text before the pixels": (lambda: png(1, 8, 2, bytes(RGB), (b"tEXt", b"workflow\0" + b"{" * 900_000)), RGB, 0),
    "junk after the end": (lambda: encoded(Image.new("RGB", (4, 4), RGB), "PNG") + b"junk", RGB, 0),
    "damaged Exif in a PNG": (lambda: png(1, 8, 2, bytes(RGB), (b"eXIf", b"nonsense")), RGB, 0),
    "an Exif orientation that is a word": (lambda: png(1, 8, 2, bytes(RGB), (b"eXIf", WORD)), RGB, 0),
    "damaged Exif": (lambda: encoded(Image.new("RGB", (16, 16), RGB), "JPEG", quality=100, exif=b"Exif\0\0nonsense"), RGB, 2),
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_a_picture_of_any_kind_has_the_colours_that_one_sees(name):
    make, colour, tolerance = GOOD[name]
    picture = open_rgb(make())
    assert picture.mode == "RGB"
    for place in ((0, 0), (picture.width - 1, picture.height - 1)):
        found = picture.getpixel(place)
        assert max(abs(a - b) for a, b in zip(found, colour, strict=True)) <= tolerance, found


@needs_avif
def test_avif_is_read_still_or_animated():
    still = open_rgb(encoded(Image.new("RGBA", (16, 16), (0, 0, 0, 0)), "AVIF", quality=100))
    assert min(still.getpixel((8, 8))) >= 253 and not still.info["animated"]
    moving = open_rgb(frames("AVIF", quality=100))
    assert moving.getpixel((4, 4))[0] >= 250 and moving.info["animated"]


@needs_profiles
def test_lab_and_profiled_cmyk_are_converted_by_their_meaning():
    red, green, blue = open_rgb(encoded(lab_of(RGB), "TIFF")).getpixel((1, 1))
    assert abs(red - 200) <= 3 and abs(green - 100) <= 3 and abs(blue - 50) <= 3
    cyan = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    assert open_rgb(encoded(cyan, "TIFF")).getpixel((1, 1)) == (0, 255, 255)
    for kind in ("TIFF", "JPEG"):
        found = open_rgb(encoded(cyan, kind, icc_profile=ink_profile())).getpixel((1, 1))
        assert max(abs(a - b) for a, b in zip(found, (0, 161, 214), strict=True)) <= 2, found
    broken = encoded(cyan, "TIFF", icc_profile=b"no profile at all")
    assert open_rgb(broken).getpixel((1, 1)) == (0, 255, 255)


@needs_profiles
def test_values_of_rgb_are_taken_as_they_are_with_any_profile():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    data = encoded(Image.new("RGB", (4, 4), RGB), "PNG", icc_profile=profile)
    assert open_rgb(data).getpixel((0, 0)) == RGB


@pytest.mark.parametrize("colour", ["#000000", "#ff0000", "#123456"])
def test_transparency_becomes_the_chosen_colour(colour):
    wanted = tuple(bytes.fromhex(colour[1:]))
    for name in (
        "clear RGBA",
        "RGB, its colour clear",
        "16 bit grey, its value clear",
        "GIF, one clear",
    ):
        assert open_rgb(GOOD[name][0](), background=colour).getpixel((0, 0)) == wanted, name


def test_a_background_that_is_not_a_colour_is_refused_by_name(tmp_path):
    with pytest.raises(TrainerError, match="^'nothing' is not a colour; write it like #ffffff$"):
        open_rgb(GOOD["RGB PNG"][0](), background="nothing")


def test_whoever_asks_learns_that_a_file_has_more_frames():
    for name in ("animated GIF", "animated WebP", "animated PNG", "pages of a TIFF"):
        assert open_rgb(GOOD[name][0]()).info["animated"], name
    for name in ("RGB PNG", "GIF, one clear", "RGB WebP", "RGB TIFF", "MPO", "RGB JPEG"):
        assert not open_rgb(GOOD[name][0]()).info["animated"], name


CORNERS = ("red", "lime", "blue", "white")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_shown_upright(kind, orientation):
    upright = Image.new("RGB", (64, 32), "white")
    for place, colour in zip(((0, 0), (32, 0), (0, 16), (32, 16)), CORNERS, strict=True):
        upright.paste(colour, (*place, place[0] + 32, place[1] + 16))
    stored = {
        1: lambda: upright,
        2: lambda: upright.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        3: lambda: upright.rotate(180),
        4: lambda: upright.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
        5: lambda: upright.transpose(Image.Transpose.TRANSPOSE),
        6: lambda: upright.rotate(90, expand=True),
        7: lambda: upright.transpose(Image.Transpose.TRANSVERSE),
        8: lambda: upright.rotate(-90, expand=True),
    }[orientation]()
    exif = Image.Exif()
    exif[0x0112] = orientation
    shown = open_rgb(encoded(stored, kind, exif=exif))
    assert shown.size == (64, 32)
    difference = numpy.asarray(shown, int)[4::8, 4::8] - numpy.asarray(upright, int)[4::8, 4::8]
    assert numpy.abs(difference).max() <= (0 if kind in ("PNG", "TIFF") else 12)


@pytest.mark.parametrize(
    "cover", [(500, 250), (501, 250), (500, 251), (250, 125), (100, 60), (8, 8)]
)
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_jpeg_is_decoded_as_small_as_it_may_be_and_never_smaller(cover, orientation):
    stored = (1000, 500) if orientation < 5 else (500, 1000)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.new("RGB", stored, "red"), "JPEG", exif=exif)
    decoded = open_rgb(data, cover)
    assert decoded.width >= cover[0] and decoded.height >= cover[1]
    allowed = [n for n in (1, 2, 4, 8) if 1000 // n >= cover[0] and 500 // n >= cover[1]]
    assert decoded.width == 1000 // allowed[-1]
    assert open_rgb(data).size == (1000, 500)


def test_a_picture_is_cropped_around_its_centre():
    wide = Image.new("RGB", (300, 100), "red")
    wide.paste("blue", (100, 0, 200, 100))
    square = numpy.asarray(fit(open_rgb(encoded(wide, "PNG")), 50, 50))
    assert (square[:, 4:-4] == (0, 0, 255)).all()


def bomb(side: int) -> bytes:
    return png(1, 8, 2, b"abc").replace(
        chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)),
        chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)),
    )


@functools.cache
def much() -> bytes:
    """99 MiB of zeros, compressed."""
    return zlib.compress(bytes(99 << 20), 1)


def cut(kind: str, share: float = 0.5, **options) -> bytes:
    data = encoded(noise(120, 80), kind, **options)
    return data[: int(len(data) * share)]


def as_tiff(values: numpy.ndarray) -> bytes:
    return encoded(Image.fromarray(values), "TIFF")


CUT_OFF = "it is cut off: the file ends before the picture does"
ODD = "is damaged, cut off or of a kind that cannot be read; save it as PNG"
PAGE = "it is a web page, not a picture: whatever saved it got an HTML answer"
TOO_MANY = f"it has more than {MAX_PIXELS} pixels, which is the limit"
TOO_MUCH_TEXT = "the text or profile inside the file is too large; save the picture without it"
BAD = {
    "empty.png": (lambda: b"", "the file is empty"),
    "page.jpg": (lambda: b"<html><body>gone</body></html>", PAGE),
    "comment.png": (lambda: b"\n<!-- x --><!DOCTYPE html>\n<html>", PAGE),
    "bom.webp": (lambda: b"\xef\xbb\xbf<!doctype HTML><title>", PAGE),
    "drawing.png": (lambda: b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "it is an SVG drawing; save it as PNG"),
    "telephone.jpg": (lambda: b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "it is an HEIC picture; save it as JPEG or PNG"),
    "new.jpg": (lambda: b"\xff\x0a\xfa\x1f\x41", "it is a JPEG XL picture; save it as JPEG or PNG"),
    "layers.png": (lambda: b"8BPS\0\1" + bytes(40), "it is a Photoshop document; save it as PNG"),
    "program.png": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "it is a PostScript drawing; save it as PNG"),
    "pages.jpg": (lambda: b"%PDF-1.7\n", "it is a PDF document; save its pictures as PNG"),
    "pointer.png": (lambda: b"version https://git-lfs.github.com/spec/v1\noid", "it is a Git LFS pointer, not a picture; fetch the picture with: git lfs pull"),
    "text.png": (lambda: b"only words are in here", "it is not a picture of a known format; it begins with b'only words are i'"),
    "head.png": (lambda: encoded(noise(9, 9), "PNG")[:20], CUT_OFF),
    "nothing.png": (lambda: bomb(0), f"it begins like PNG, but {ODD}"),
    "cut.png": (lambda: cut("PNG"), CUT_OFF),
    "cut.jpg": (lambda: cut("JPEG"), CUT_OFF),
    "nearly.jpg": (lambda: cut("JPEG", 0.95), CUT_OFF),
    "progressive.jpg": (lambda: cut("JPEG", progressive=True), CUT_OFF),
    "cut.webp": (lambda: cut("WEBP"), CUT_OFF),
    "cut.gif": (lambda: cut("GIF"), CUT_OFF),
    "cut.bmp": (lambda: cut("BMP"), CUT_OFF),
    "cut.tif": (lambda: cut("TIFF"), CUT_OFF),
    "lzw.tif": (lambda: cut("TIFF", compression="tiff_lzw"), f"it begins like TIFF, but {ODD}"),
    "text_bomb.png": (lambda: png(1, 8, 2, b"abc", (b"zTXt", b"k\0\0" + zlib.compress(bytes(9 << 20)))), TOO_MUCH_TEXT),
    "profile_bomb.png": (lambda: png(1, 8, 2, b"abc", (b"iCCP", b"k\0\0" + much())), TOO_MUCH_TEXT),
    "bomb.png": (lambda: bomb(13_400), TOO_MANY),
    "huge.png": (lambda: bomb(200_000), TOO_MANY),
    "bright.tif": (lambda: as_tiff(numpy.array([[0, 812.5]], numpy.float32)), "its values are floats from 0 to 812.5; only 0 to 1 can be read. Save it with 8 or 16 bits"),
    "nan.tif": (lambda: as_tiff(numpy.array([[0, numpy.nan]], numpy.float32)), "its values are floats from nan to nan; only 0 to 1 can be read. Save it with 8 or 16 bits"),
    "whole.tif": (lambda: as_tiff(numpy.array([[-1, 70_000]], numpy.int32)), "its values go from -1 to 70000; at most 16 bits can be read. Save it with 8 or 16 bits"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_the_error_says_what_is_wrong_with_a_bad_picture(name, tmp_path):
    make, words = BAD[name]
    (tmp_path / name).write_bytes(make())
    for source in (make(), tmp_path / name):
        with pytest.raises(TrainerError) as error:
            open_rgb(source)
        assert str(error.value) == words


def test_a_file_that_is_not_there_is_said_so(tmp_path):
    with pytest.raises(TrainerError, match="^it cannot be read: No such file or directory$"):
        open_rgb(tmp_path / "gone.png")


def test_bad_pictures_do_not_affect_good_ones(tmp_path):
    for number, (name, (make, _)) in enumerate(BAD.items()):
        (tmp_path / name).write_bytes(make())
        noise(8 + number, 8).save(tmp_path / f"good {number}.png")
    dataset, report = load_folder(tmp_path, "few", on_problem="skip")
    assert [pair.image for pair in dataset.pairs] == sorted(
        f"good {n}.png" for n in range(len(BAD))
    )
    assert {p.file: p.detail for p in report.problems} == {
        n: words for n, (_, words) in BAD.items()
    }


@pytest.mark.parametrize("limit", [Image.MAX_IMAGE_PIXELS, None])
def test_a_bomb_is_refused_before_anything_is_decoded(monkeypatch, limit):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda *_: pytest.fail("decoded"))
    for name in ("bomb.png", "huge.png", "text_bomb.png", "profile_bomb.png"):
        with pytest.raises(TrainerError) as error:
            open_rgb(BAD[name][0]())
        assert str(error.value) == BAD[name][1]


def test_of_many_frames_only_the_first_is_decoded(monkeypatch):
    colours = [Image.new("RGB", (8, 8), (n, 255 - n, 0)) for n in range(200)]
    data = encoded(colours[0], "GIF", save_all=True, append_images=colours[1:])
    decoders = []
    getdecoder = Image._getdecoder
    monkeypatch.setattr(Image, "_getdecoder", lambda *a: decoders.append(a) or getdecoder(*a))
    assert open_rgb(data).getpixel((0, 0))[1] >= 250
    assert len(decoders) == 1


def test_no_picture_is_half_grey_whatever_another_extension_sets_in_pillow(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    before = list(warnings.filters)
    good = encoded(noise(200, 200), "PNG")
    bad = [BAD[name][0]() for name in ("cut.png", "cut.jpg", "cut.gif", "cut.bmp", "cut.tif")]
    together = threading.Barrier(4)

    def work(number: int) -> int:
        together.wait()
        refused = 0
        for _ in range(20):
            open_rgb(good)
            for data in bad:
                try:
                    open_rgb(data)
                except TrainerError:
                    refused += 1
        return refused

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(4))) == [100] * 4
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True
    assert list(warnings.filters) == before
    assert not image_module._inside
