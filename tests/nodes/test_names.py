"""Names become paths in one place, and none of them leads out of its folder."""

from __future__ import annotations

import pytest

from cocktail.nodes.host.names import BadName, check_name, within

ESCAPES = [
    "", "..", "../up", "a/../../up", "/etc/passwd", "\\\\host\\share", "C:\\x", "c:",
    "a/.hidden", ".hidden", "a//b", "a/", "nul\0l", "x" * 256, "\u00e9" * 128, "a/" * 2000 + "b",
    "\ud800", "con", "a/NUL", "aux.png", "Com1.txt", "com\u00b9", "lpt9.tar.gz", "conin$",
    "prn .txt", "con/a.txt", "a.", "a ", "b./a.txt", "b /a.txt", "...",
    "a\n", "a\x1fb", "a\x7f", "in/a\tb",
]  # fmt: skip


@pytest.mark.parametrize("name", ["vodka-64", "V1.2_final", "a", "x" * 64])
def test_plain_names_are_taken(name):
    assert check_name(name, "run") == name


@pytest.mark.parametrize(
    "name", [*ESCAPES, "a/b", "a b", "x" * 65, "CON", "lpt1.txt", "end.", "-x", "a\n"]
)
def test_what_is_no_name_on_every_system_is_refused(name):
    with pytest.raises(BadName, match="cannot name a run"):
        check_name(name, "run")


@pytest.mark.parametrize("relative", ESCAPES)
def test_a_path_that_leaves_its_folder_is_refused(tmp_path, relative):
    with pytest.raises(BadName, match="is refused"):
        within(tmp_path, relative, "Folder")


@pytest.mark.parametrize("relative", ["a|b", 'what is "this"?.png', "[*].csv", "a<b>", "a'b # % ~"])
def test_peoples_own_names_are_taken(tmp_path, relative):
    assert within(tmp_path, relative, "File") == tmp_path / relative


@pytest.mark.parametrize("relative", ["console", "a/null.png", "com10", "aux1", "my con.txt"])
def test_names_that_only_begin_like_a_device_are_taken(tmp_path, relative):
    assert within(tmp_path, relative, "File") == tmp_path / relative


def test_both_slashes_lead_below_the_folder(tmp_path):
    assert (
        within(tmp_path, "a/b", "Folder")
        == within(tmp_path, "a\\b", "Folder")
        == tmp_path / "a" / "b"
    )


def test_a_link_out_of_the_folder_is_refused_and_a_linked_root_is_not(tmp_path):
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    try:
        (root / "link").symlink_to(outside, target_is_directory=True)
        (tmp_path / "again").symlink_to(root, target_is_directory=True)
    except OSError:
        pytest.fail("this test needs the right to make links (on Windows: developer mode)")
    with pytest.raises(BadName, match="leads out of its folder"):
        within(root, "link", "Folder")
    assert within(tmp_path / "again", "x", "Folder").parent.resolve() == root
