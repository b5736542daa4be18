"""Bad pictures, captions, names and files of settings: each gives its exact message, and none takes
a good pair along.
"""

from __future__ import annotations

import json
import os
import sys

import pytest
from PIL import Image

from cocktail.trainer.errors import TrainerError

from .folders import bomb, by_image, load, picture, text

NO_LINKS = sys.platform == "win32"


def noise(name, **options):
    """A picture file with more bytes than its first rows need."""

    def make(folder):
        Image.effect_noise((96, 96), 60).convert("RGB").save(folder / name, **options)
        return (folder / name).read_bytes()

    return make


def half(name, **options):
    def make(folder):
        data = noise(name, **options)(folder)
        (folder / name).write_bytes(data[: len(data) // 2])

    return make


def link(name, target):
    return lambda folder: (folder / name).symlink_to(target)


def directory(name):
    return lambda folder: (folder / name).mkdir()


def pipe(folder):
    os.mkfifo(folder / "bad.png")


def not_utf8(folder):
    name = b"caf\xe9.png"
    good = picture(folder, "x.png")
    os.rename(good, os.path.join(os.fsencode(folder), name))  # noqa: PTH104, PTH118 - bytes


DAMAGED = "bad.png: the file is damaged or not a picture"

PICTURES = {
    "an empty file": ({"bad.png": b""}, f"{DAMAGED} (the file is empty)"),
    "a web page": ({"bad.jpg": b"<!DOCTYPE html><html>404</html>"}, "bad.jpg: the file is damaged or not a picture (it is a web page, not a picture: whatever saved it got an HTML answer)"),
    "half a PNG": (half("bad.png"), f"{DAMAGED} (it is cut off: the file ends before the picture does)"),
    "half a JPEG": (half("bad.jpg", quality=95), "bad.jpg: the file is damaged or not a picture (it is cut off: the file ends before the picture does)"),
    "half a WebP": (half("bad.webp", lossless=True), "bad.webp: the file is damaged or not a picture (it is cut off: the file ends before the picture does)"),
    "too many pixels": (lambda folder: bomb(folder, "bad.png"), f"{DAMAGED} (it has more than 178956970 pixels, which is the limit)"),
    "an SVG": ({"bad.png": b"<svg xmlns='http://www.w3.org/2000/svg'/>"}, f"{DAMAGED} (it is an SVG drawing; save it as PNG)"),
    "a pointer of Git LFS": ({"bad.png": b"version https://git-lfs.github.com/spec/v1\n"}, f"{DAMAGED} (it is a Git LFS pointer, not a picture; fetch the picture with: git lfs pull)"),
    "another file": ({"bad.png": b"\x00\x01hello"}, f"{DAMAGED} (it is not a picture of a known format; it begins with b'\\x00\\x01hello')"),
    "a name in two lines": ({"two\nlines.png": b""}, "two\\nlines.png: the file is damaged or not a picture (the file is empty)"),
    "a name that turns around": ({"\u202egnp.png": b""}, "\\u202egnp.png: the file is damaged or not a picture (the file is empty)"),
    "a name of spaces": ({" .png": b""}, " .png: the file is damaged or not a picture (the file is empty)"),
}  # fmt: skip
LINKS = {
    "a link to nothing": (link("bad.png", "nothing.png"), "bad.png: the picture cannot be read (it is a link to nothing)"),
    "a caption that is a link to a file elsewhere": ([link("bad.txt", "/etc/hostname")], "bad.png: the caption cannot be read (bad.txt: it is a link that leads out of the dataset's folder; copy the folder with cp -rL, which puts files in the place of links)"),
    "a link to itself": (link("bad.png", "bad.png"), "bad.png: the picture cannot be read (it is a link to nothing)"),
    "a pipe": (pipe, "bad.png: the picture cannot be read (it is neither a file nor a folder)"),
    "a caption that is a link to nothing": ([link("bad.txt", "nothing")], "bad.png: the caption cannot be read (bad.txt: it is a link to nothing)"),
}  # fmt: skip
CAPTIONS = {
    "empty": ({"bad.txt": b""}, "the caption is empty (bad.txt)"),
    "white space": ({"bad.txt": b" \r\n\t"}, "the caption is empty (bad.txt)"),
    "a byte order mark": ({"bad.txt": b"\xef\xbb\xbf"}, "the caption is empty (bad.txt)"),
    "UTF-16, little end first": ({"bad.txt": "a cat".encode("utf-16")}, "the caption is not UTF-8 (bad.txt is UTF-16; save it as UTF-8)"),
    "UTF-16, big end first": ({"bad.txt": b"\xfe\xff" + "a cat".encode("utf-16-be")}, "the caption is not UTF-8 (bad.txt is UTF-16; save it as UTF-8)"),
    "UTF-16 without a mark": ({"bad.txt": "a cat".encode("utf-16-le")}, "the caption contains NUL characters (bad.txt; if it is UTF-16, save it as UTF-8)"),
    "UTF-32": ({"bad.txt": "a cat".encode("utf-32")}, "the caption is not UTF-8 (bad.txt is UTF-32; save it as UTF-8)"),
    "Latin-1": ({"bad.txt": "caf\xe9".encode("latin-1")}, "the caption is not UTF-8 (bad.txt, byte 0xe9 at 3; save it as UTF-8)"),
    "half of a character": ({"bad.txt": b"a \xed\xa0\x80"}, "the caption is not UTF-8 (bad.txt, byte 0xed at 2; save it as UTF-8)"),
    "a character cut off": ({"bad.txt": "a \u65e5".encode()[:-1]}, "the caption is not UTF-8 (bad.txt, byte 0xe6 at 2; save it as UTF-8)"),
    "NUL bytes": ({"bad.txt": b"a\0b"}, "the caption contains NUL characters (bad.txt; if it is UTF-16, save it as UTF-8)"),
    "five megabytes": ({"bad.txt": b"long " * 1_000_000}, "the caption is too large (bad.txt, more than 1,048,576 bytes)"),
    "a book": ({"bad.txt": b"x" * 20_001}, "the caption is too long (bad.txt: 20,001 characters; at most 20,000 are taken)"),
    "a folder": (directory("bad.txt"), "the caption cannot be read (bad.txt is a folder)"),
    "an empty .caption": ({"bad.caption": b""}, "the caption is empty (bad.caption)"),
    "a picture inside": ({"bad.txt": b"\x89PNG\r\n\x1a\n"}, "the caption is not UTF-8 (bad.txt, byte 0x89 at 0; save it as UTF-8)"),
}  # fmt: skip
SIDECARS = {
    "a bomb of aliases": ("bad.yaml", "a: &a [x, x]\nb: &b [*a, *a]\ntags: [*b, *b]", "the file is not understood (bad.yaml: it has an alias (*a in line 2); write out the value)"),
    "a tag of Python": ("bad.yaml", "!!python/object/apply:os.system [ls]", "the file is not understood (bad.yaml: it has a tag (tag:yaml.org,2002:python/object/apply:os.system in line 1); write plain values)"),
    "no YAML": ("bad.yaml", "main_prompt: [a", "the file is not understood (bad.yaml: it is not YAML: did not find expected ',' or ']' at line 2, column 1)"),
    "a tab": ("bad.yml", "tags:\n\t- a", "the file is not understood (bad.yml: it is not YAML: found character that cannot start any token at line 2, column 1)"),
    "a deep nest": ("bad.yaml", "[" * 5000, "the file is not understood (bad.yaml: it is nested too deeply (line 1))"),
    "a list": ("bad.yaml", "- a\n- b", "the file is not understood (bad.yaml: it is a list)"),
    "a key twice": ("bad.yaml", "main_prompt: a\nmain_prompt: b", "the file is not understood (bad.yaml: it has the key 'main_prompt' twice)"),
    "two documents": ("bad.yaml", "main_prompt: a\n---\nmain_prompt: b", "the file is not understood (bad.yaml: it is not YAML: but found another document at line 2, column 1)"),
    "a number": ("bad.yaml", "main_prompt: 5", "main_prompt is not text (bad.yaml: it is the number 5; put it in quotes)"),
    "a date": ("bad.yaml", "main_prompt: 2023-05-01", "main_prompt is not text (bad.yaml: it is a date; put it in quotes)"),
    "a date that is none": ("bad.yaml", "main_prompt: 2023-13-45", "the file is not understood (bad.yaml: month must be in 1..12)"),
    "yes": ("bad.yaml", "tags: [yes]", "a tag is not text (bad.yaml: it is true; put it in quotes)"),
    "tags that are a text": ("bad.yaml", "tags: a, b", "tags is not a list (bad.yaml: it is the text 'a, b')"),
    "a weight in words": ("bad.yaml", "tags: [{tag: a, weight: big}]", "the weight of a tag is not a number from 0 to 1e+06 (bad.yaml: it is the text 'big')"),
    "shuffling maybe": ("bad.yaml", "shuffle_tags: maybe", "shuffle_tags is neither true nor false (bad.yaml: it is the text 'maybe')"),
    "minus two": ("bad.yaml", "multiply: -2", "multiply is not a number above 0, at most 10000 (bad.yaml: it is the number -2)"),
    "zero": ("bad.yaml", "multiply: 0", "multiply is not a number above 0, at most 10000 (bad.yaml: it is the number 0)"),
    "not a number": ("bad.yaml", "multiply: .nan", "multiply is not a number above 0, at most 10000 (bad.yaml: it is the number nan)"),
    "infinity": ("bad.yaml", "multiply: .inf", "multiply is not a number above 0, at most 10000 (bad.yaml: it is the number inf)"),
    "a dropout of two": ("bad.yaml", "cond_dropout: 2", "cond_dropout is not a number from 0 to 1 (bad.yaml: it is the number 2)"),
    "YAML in UTF-16": ("bad.yaml", "main_prompt: a".encode("utf-16"), "the file is not UTF-8 (bad.yaml is UTF-16; save it as UTF-8)"),
    "a control character": ("bad.yaml", "main_prompt: a\x07", "the file is not understood (bad.yaml: it is not YAML: unacceptable character #x0007: control characters are not allowed in \"<unicode string>\", position 14)"),
    "NaN in JSON": ("bad.json", '{"multiply": NaN}', "the file is not understood (bad.json: it has NaN, which is not a number in JSON)"),
    "1e999 in JSON": ("bad.json", '{"multiply": 1e999}', "multiply is not a number above 0, at most 10000 (bad.json: it is the number inf)"),
    "a key twice in JSON": ("bad.json", '{"caption": "a", "caption": "b"}', "the file is not understood (bad.json: it has the key 'caption' twice)"),
    "half of JSON": ("bad.json", '{"caption": "a"', "the file is not understood (bad.json: it is not JSON: Expecting ',' delimiter at line 1, column 16)"),
    "a caption that is a list": ("bad.json", '{"caption": ["a"]}', "caption is not text (bad.json: it is a list)"),
    "a deep nest of JSON": ("bad.json", "[" * 100_000, "the file is not understood (bad.json: it is nested too deeply)"),
    "half of a character in JSON": ("bad.json", '{"caption": "\\ud83d"}', "the caption contains half of a character (bad.png)"),
}  # fmt: skip
FOLDER_FILES = {
    "a word": ("multiply.txt", "abc", "multiply is not a number above 0, at most 10000 (it is the text 'abc')"),
    "nothing": ("multiply.txt", "", "multiply is not a number above 0, at most 10000 (it is the text '')"),
    "below zero": ("multiply.txt", "-1", "multiply is not a number above 0, at most 10000 (it is the number -1.0)"),
    "nan": ("multiply.txt", "nan", "multiply is not a number above 0, at most 10000 (it is the number nan)"),
    "inf": ("multiply.txt", "inf", "multiply is not a number above 0, at most 10000 (it is the number inf)"),
    "a decimal comma": ("multiply.txt", "2,5", "multiply is not a number above 0, at most 10000 (it is the text '2,5')"),
    "a billion": ("multiply.txt", "1e9", "multiply is not a number above 0, at most 10000 (it is the number 1000000000.0)"),
    "a chance of two": ("flip_p.txt", "2", "flip_p is not a number from 0 to 1 (it is the number 2.0)"),
    "a percentage": ("cond_dropout.txt", "4%", "cond_dropout is not a number from 0 to 1 (it is the text '4%')"),
    "UTF-16": ("multiply.txt", "2".encode("utf-16"), "the number is not UTF-8 (multiply.txt is UTF-16; save it as UTF-8)"),
    "a broken global.yaml": ("global.yaml", "tags: {", "the file is not understood (global.yaml: it is not YAML: did not find expected node content at line 2, column 1)"),
    "a local.yaml of numbers": ("local.yaml", "tags: [1]", "a tag is not text (local.yaml: it is the number 1; put it in quotes)"),
}  # fmt: skip


def build(folder, files):
    """Files by their bytes, or what makes them."""
    if isinstance(files, dict):
        for name, content in files.items():
            text(folder, name, content)
    else:
        for make in files if isinstance(files, list) else [files]:
            make(folder)


def check(folder, expected, unread=(), **options):
    """The messages are these; the good pair is there; without "skip" the same messages stop the
    load.
    """
    dataset, report = load(folder, **options)
    assert [str(problem) for problem in report.problems] == list(expected)
    assert [str(problem) for problem in report.unread] == list(unread)
    assert by_image(dataset)["good.png"].caption.startswith("a good one")
    with pytest.raises(TrainerError) as error:
        load(folder, on_problem="stop", **options)
    lines = str(error.value).splitlines()
    assert [line[2:] for line in lines if line.startswith("  ")] == [*expected, *unread]
    return report


@pytest.fixture
def folder(tmp_path):
    """A folder with a good pair."""
    picture(tmp_path, "good.png")
    text(tmp_path, "good.txt", "a good one")
    return tmp_path


@pytest.mark.parametrize(("files", "message"), PICTURES.values(), ids=PICTURES)
def test_a_bad_picture(folder, files, message):
    if NO_LINKS and "\n" in str(files):
        pytest.skip("Windows has no such names")
    build(folder, files)
    check(folder, [message])


@pytest.mark.skipif(NO_LINKS, reason="links and pipes need rights there that a test does not have")
@pytest.mark.parametrize(("files", "message"), LINKS.values(), ids=LINKS)
def test_a_bad_link(folder, files, message):
    if isinstance(files, list):
        picture(folder, "bad.png")
    build(folder, files)
    check(folder, [message])


@pytest.mark.skipif(sys.platform != "linux", reason="only there a name can be any bytes")
def test_a_name_that_is_not_utf8(folder):
    not_utf8(folder)
    report = check(
        folder, ["caf\\udce9.png: the picture cannot be read (its name is not UTF-8; rename it)"]
    )
    assert str(report).encode(), "a report can be sent"


@pytest.mark.skipif(
    NO_LINKS or (hasattr(os, "geteuid") and os.geteuid() == 0),
    reason="everything is readable to this user",
)
def test_files_without_the_right_to_read(folder):
    for name in ("bad.png", "closed.png", "locked/c.png"):
        picture(folder, name)
    text(folder, "closed.txt", "closed").chmod(0)
    (folder / "bad.png").chmod(0)
    (folder / "locked").chmod(0)
    try:
        check(
            folder,
            [
                "bad.png: the picture cannot be read (Permission denied)",
                "closed.png: the caption cannot be read (closed.txt: Permission denied)",
            ],
            ["locked: it cannot be listed: Permission denied"],
        )
    finally:
        (folder / "locked").chmod(0o700)


@pytest.mark.parametrize(("files", "message"), CAPTIONS.values(), ids=CAPTIONS)
def test_a_bad_caption(folder, files, message):
    picture(folder, "bad.png")
    build(folder, files)
    check(folder, [f"bad.png: {message}"])


def test_a_name_without_a_caption(folder):
    picture(folder, "_1.png")
    check(
        folder,
        [
            (
                "_1.png: the caption is empty (no caption file, and nothing before the first _ "
                "of the picture's name)"
            )
        ],
    )


@pytest.mark.parametrize(("file", "content", "message"), SIDECARS.values(), ids=SIDECARS)
def test_a_bad_sidecar_of_everydream2(folder, file, content, message):
    picture(folder, "bad.png")
    text(folder, file, content)
    check(folder, [f"bad.png: {message}"], layout="everydream")


@pytest.mark.parametrize(("file", "content", "message"), FOLDER_FILES.values(), ids=FOLDER_FILES)
def test_a_bad_folder_file_of_everydream2(folder, file, content, message):
    text(folder, file, content)
    check(folder, [], [f"{file}: {message}"])


def test_a_folder_file_that_is_a_folder(folder):
    (folder / "multiply.txt").mkdir()
    check(
        folder,
        [],
        ["multiply.txt: the number cannot be read (multiply.txt is a folder)"],
        layout="everydream",
    )


def test_bad_repeats_of_kohya(tmp_path):
    picture(tmp_path, "2_cat/good.png")
    picture(tmp_path, "99999_cat/bad.png")
    picture(tmp_path, "7/nameless.png")
    dataset, report = load(tmp_path, layout="kohya")
    assert [(pair.image, pair.caption, pair.weight) for pair in dataset.pairs] == [
        ("2_cat/good.png", "cat", 2)
    ]
    assert [str(problem) for problem in report.problems] == [
        (
            "7/nameless.png: the caption is empty (no caption file, and no name after the "
            "repeats of its folder)"
        ),
        "99999_cat/bad.png: its folder has too many repeats (99999; at most 10,000)",
    ]


def test_bad_entries_of_kohyas_metadata(folder):
    picture(folder, "twin.png")
    picture(folder, "twin.jpg")
    picture(folder, "bad.png")
    entries = {
        "good": {"caption": "a good one"},
        "gone.png": {"caption": "a"},
        "../outside": {"caption": "a"},
        "/etc/passwd": {"caption": "a"},
        "twin": {"caption": "a"},
        "bad.png": "a text",
        "./bad.png": {"caption": 5},
        "bad": {"tags": ["a", "b"]},
        "sub/../bad.png": {"caption": " "},
        "https://example.org/a.png": {"caption": "a"},
        "9" * 5000: {"caption": "a"},
    }
    digits = f"{'9' * 300}..."
    text(folder, "metadata.json", json.dumps(entries))
    check(
        folder,
        [
            f"{digits}: there is no such picture ({digits})",
            "../outside: the path leads out of the folder (../outside)",
            "./bad.png: the caption is not text (caption: it is the number 5)",
            "/etc/passwd: there is no such picture (/etc/passwd)",
            "bad: the caption is not text (tags: it is a list)",
            "bad.png: its entry is not understood (it is the text 'a text')",
            "gone.png: there is no such picture (gone.png)",
            "https://example.org/a.png: it is not a path (https://example.org/a.png)",
            "sub/../bad.png: the caption is empty (its entry has neither caption nor tags)",
            "twin: several pictures have this name (twin.jpg, twin.png)",
        ],
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"good": {"caption": "a"}', "it is not JSON: Expecting ',' delimiter at line 1, column 26"),
        ('{"good": {"caption": "a", "score": NaN}}', "it has NaN, which is not a number in JSON"),
        ('{"good": {"caption": "a"}, "good": {"caption": "b"}}', "it has the key 'good' twice"),
        ('{"good": {"caption": "caf\\u00e9"}}'.encode("utf-16"), "the file is not UTF-8 (metadata.json is UTF-16; save it as UTF-8)"),
        ("[1]", "it is a list, not a mapping of pictures to captions"),
        ('{"a":' * 100_000, "it is nested too deeply"),
    ],
)  # fmt: skip
def test_a_metadata_file_of_kohya_that_is_broken(folder, content, reason):
    text(folder, "metadata.json", content)
    with pytest.raises(TrainerError) as error:
        load(folder, layout="kohya")
    assert (
        str(error.value)
        == f"metadata.json is not understood: {reason}. Repair it, or choose another layout."
    )


ROWS = {
    "a broken line": ('{"file_name": "bad.png", "text": "b"', "the row is not understood (it is not JSON: Expecting ',' delimiter at line 1, column 37)"),
    "no object": ('["bad.png", "b"]', "the row is not understood (it is a list)"),
    "NaN": ('{"file_name": "bad.png", "text": "b", "x": NaN}', "the row is not understood (it has NaN, which is not a number in JSON)"),
    "a key twice": ('{"file_name": "bad.png", "text": "b", "text": "c"}', "the row is not understood (it has the key 'text' twice)"),
    "a missing picture": ('{"file_name": "gone.png", "text": "b"}', "there is no such picture (gone.png)"),
    "a path that climbs out": ('{"file_name": "../bad.png", "text": "b"}', "the path leads out of the folder (../bad.png)"),
    "an absolute path": ('{"file_name": "/data/bad.png", "text": "b"}', "the path leads out of the folder (/data/bad.png)"),
    "a path with a drive": ('{"file_name": "C:\\\\bad.png", "text": "b"}', "the path leads out of the folder (C:\\bad.png)"),
    "a URL": ('{"file_name": "file:///etc/passwd", "text": "b"}', "it is not a path (file:///etc/passwd)"),
    "no file name": ('{"text": "b"}', "the row names no picture"),
    "an empty file name": ('{"file_name": null, "text": "b"}', "the row names no picture (it is empty)"),
    "a number for a file name": ('{"file_name": 7, "text": "b"}', "the row names no picture (it is the number 7)"),
    "a number for a caption": ('{"file_name": "bad.png", "text": 7}', "the caption is not text (column 'text': it is the number 7)"),
    "a list for a caption": ('{"file_name": "bad.png", "text": ["b"]}', "the caption is not text (column 'text': it is a list)"),
    "no caption": ('{"file_name": "bad.png"}', "the caption is empty (column 'text')"),
    "an empty caption": ('{"file_name": "bad.png", "text": " "}', "the caption is empty (column 'text')"),
    "a NUL in a caption": ('{"file_name": "bad.png", "text": "a\\u0000b"}', "the caption contains NUL characters (column 'text')"),
    "Latin-1": ('{"file_name": "bad.png", "text": "caf\xe9"}'.encode("latin-1"), "the row is not understood (it is not UTF-8; save the file as UTF-8)"),
    "a line of two megabytes": ('{"file_name": "bad.png", "text": "' + "b" * 2_000_000 + '"}', "the row is not understood (more than 1,048,576 bytes)"),
    "a row for a text file": ('{"file_name": "good.txt", "text": "b"}', None),
}  # fmt: skip


@pytest.mark.parametrize(("line", "message"), ROWS.values(), ids=ROWS)
def test_a_bad_line_of_metadata(folder, line, message):
    picture(folder, "bad.png")
    line = line if isinstance(line, bytes) else line.encode()
    good = b'{"file_name": "good.png", "text": "a good one"}\n'
    text(folder, "metadata.jsonl", good + line + b"\n" + good.replace(b"one", b"one, again"))
    dataset, report = load(folder)
    assert [pair.caption for pair in dataset.pairs] == ["a good one", "a good one, again"]
    expected = (
        (
            "good.txt: the file is damaged or not a picture (it is not a picture of a known "
            "format; it begins with b'a good one')"
        )
        if message is None
        else f"metadata.jsonl, line 2: {message}"
    )
    assert [str(problem) for problem in report.problems] == [expected]


CSV_ROWS = {
    "too few values": (b"bad.png", "1 values for 2 columns"),
    "too many values": (b"bad.png,b,c", "3 values for 2 columns"),
    "a quote that is not closed": (b'bad.png,"b', "a quote is not closed"),
    "a quote in the middle": (b'bad.png,"b"c', "it is not CSV: ',' expected after '\"'"),
    "Latin-1": (b"bad.png,caf\xe9", "it is not UTF-8; save the file as UTF-8"),
}


@pytest.mark.parametrize(("line", "message"), CSV_ROWS.values(), ids=CSV_ROWS)
def test_a_bad_row_of_a_csv_file(folder, line, message):
    picture(folder, "bad.png")
    text(
        folder,
        "metadata.csv",
        b"file_name,text\n" + line + b"\ngood.png,a good one\nbad.png,fine\n",
    )
    check(folder, [f"metadata.csv, line 2: the row is not understood ({message})"])
    assert by_image(load(folder)[0])["bad.png"].caption == "fine"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metadata.jsonl", '{"file_name": "good.png"}'.encode("utf-16"), "the file is not UTF-8 (it is UTF-16; save it as UTF-8)"),
        ("metadata.csv", "file_name,text\n".encode("utf-16"), "the file is not UTF-8 (it is UTF-16; save it as UTF-8)"),
        ("metadata.csv", b"file_name,text,text\ngood.png,a,b\n", "the header repeats a column (text)"),
        ("metadata.parquet", b"PAR1 and then nothing", None),
    ],
)  # fmt: skip
def test_a_metadata_file_that_cannot_be_read_at_all(folder, name, content, message):
    text(folder, name, content)
    with pytest.raises(TrainerError) as error:
        load(folder, layout="hugging face")
    lines = str(error.value).splitlines()
    assert lines[0] == "1 of 1 pictures in input/few cannot be used:"
    assert lines[1].startswith(f"  {name}: {message or 'the file is not understood ('}")
    assert load(folder)[1].layout == "plain", "without the word of a person it is not taken for one"
