"""The release card: what it says, what it never says, and what it makes of files of strangers."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from markdown_it import MarkdownIt
from safetensors.torch import save_file

from cocktail.merge.card.card import Card, Sources, Wishes, make_card
from cocktail.merge.card.command import finder
from cocktail.merge.card.dataset import _buckets
from cocktail.merge.card.markdown import marked
from cocktail.merge.card.reading import Lines, Unreadable, inside
from cocktail.merge.card.words import verdict
from cocktail.merge.card.writing import files_of, write_another, write_card
from cocktail.merge.checkpoint import bind_to_files, make_checkpoint
from cocktail.merge.command_line import main
from cocktail.merge.errors import MergeError
from cocktail.merge.hashing import file_hashes
from cocktail.merge.licence import Licence
from cocktail.merge.recipe import Ingredient, weighted_sum
from cocktail.nodes.grid.engine.store.store import Store
from cocktail.nodes.grid.engine.vote.ballot import Ballot
from cocktail.nodes.grid.engine.vote.log import Vote, VoteLog
from cocktail.trainer.data.buckets import EVERYDREAM2, bucket_use, make_buckets
from cocktail.trainer.settings.run_settings import RunSettings

from ..pages import launched
from .conftest import sd15_tensors
from .released import CAPTION, Released, make_release

HOSTILE = "<img src=x onerror=alert(1)> [a](https://evil.example) `b` **c** | </script><b>&amp;"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Released:
    return make_release(tmp_path_factory.mktemp("release") / "base")


@pytest.fixture
def release(made: Released, tmp_path: Path) -> Released:
    """A release of its own, to be spoilt."""
    base = shutil.copytree(made.base, tmp_path / "base", symlinks=True)
    return Released(base, base / made.mix.relative_to(made.base), made.run, made.plan)


def card_of(release: Released, **wishes) -> Card:
    sources = Sources(finder(release.models), release.runs, release.grids)
    name = release.mix.relative_to(release.models).as_posix()
    return make_card(release.mix, sources, Wishes(**wishes), name)


def texts(card: Card) -> dict[str, str]:
    """All files of a card that are texts."""
    files = files_of(card, "card")
    return {n: d.decode() for n, d in files.items() if not n.endswith((".webp", ".jpg"))}


def test_a_card_tells_verdict_lineage_recipe_licences_and_how_to_make_it_again(made: Released):
    card = card_of(made, trigger_words="vdk style\nshaken", licence=None)
    hashes = file_hashes(made.mix)
    assert verdict(card).startswith("First of 4 in ")
    assert [run.name for run in card.runs] == ["vodka"] and len(card.comparisons) == 6
    assert card.problems == ()
    expected = (
        "0.6 vodka-e006-s000120 + 0.4 epic", "May not be sold because of epic.", hashes.sha256,
        hashes.autov2, hashes.autov3, "vdk style, shaken", "epoch 6", "lowest 0.1390 at epoch 6",
        "python -m merge remake MODELS/cocktail/bloody-mary.safetensors", "three yellow triangles",
        "python -m trainer new RUNS vodka", "1.0.1",
    )  # fmt: skip
    found = texts(card)
    for words in expected:
        assert words in found["card.html"].replace("&#x27;", "'"), words
        assert words in found["README.md"].replace("\\", ""), words
    boxes = re.findall(r'class="kind"[^>]*>(\w+)<', found["pictures/lineage.svg"])
    assert sorted(boxes) == sorted(
        ["released", "checkpoint", "checkpoint", "base", "run", "pairs", "source", "votes"]
    )
    settings = json.loads(found["settings-vodka.json"])
    assert RunSettings.from_json(settings) == made.run.settings


def test_no_caption_and_no_path_of_this_machine_is_in_a_card_unless_asked_for(made: Released):
    for name, text in texts(card_of(made)).items():
        assert CAPTION not in text and str(made.base) not in text, name
    assert texts(card_of(made, captions=2))["README.md"].count(CAPTION) == 2


def test_the_ranking_is_that_of_the_ranking_node(release: Released):
    log, field = VoteLog(release.grid), Ballot(Store(release.grid)).field
    for number in range(5):
        keys = field.places[number].keys
        shown = tuple(keys[n] for n in (number % 2, 2, 3, 1 - number % 2))
        log.add(Vote(f"{number:032x}", "Cleo", shown, shown[: 1 + number % 3], False, 1.0))
    expected = Ballot(Store(release.grid)).report()["ranking"]
    vote = card_of(release).ranked[0]
    labels = [one.label for one in vote.field.candidates]
    assert labels == [one.label for one in field.candidates]
    for ours, theirs in zip(vote.ranks, expected, strict=True):
        assert labels[ours.number] == theirs["label"] and ours.votes == theirs["votes"]
        for name in ("strength", "low", "high", "wins"):
            assert getattr(ours, name) == pytest.approx(theirs[name], abs=1e-6), name


def test_in_rounds_card_and_ranking_node_name_the_one_that_is_left(release: Released):
    ballot, strongest = Ballot(Store(release.grid)), card_of(release).ranked[0].ranks[0].number
    winners = set()
    for votes in (4, 8, 12, 90, 400):
        ballot.log.set_rounds(ballot.field.axis, votes)
        report, card = ballot.report(), card_of(release)
        assert not card.problems
        vote = card.ranked[0]
        numbers = [one["number"] for one in report["ranking"]]
        assert [rank.number for rank in vote.ranks] == numbers
        assert numbers[0] == report["leader_number"]
        assert f"by rounds with {vote.cast} on the grid" in texts(card)["README.md"]
        winners.add(numbers[0])
    assert winners - {strongest}, "one of them ends with another winner than the strongest"
    ballot.log.set_rounds(ballot.field.axis, 0)
    assert card_of(release).ranked[0].ranks[0].number == strongest


@pytest.mark.parametrize(
    ("resolution", "step", "table"),
    [
        *((512, 64, "generated"), (768, 64, "generated"), (64, 16, "generated")),
        *((resolution, 64, "EveryDream2") for resolution in (*EVERYDREAM2, 700)),
    ],
)
def test_buckets_are_those_of_the_trainer(resolution: int, step: int, table: str):
    sizes = [(512, 512), (640, 480), (300, 900), (1920, 1080), (64, 64), (511, 517), (100, 900)]
    settings = {"resolution": resolution, "bucket_step": step, "bucket_table": table}
    found, are_sizes = _buckets([(*size, 2) for size in sizes], settings)
    expected = bucket_use(sizes * 2, make_buckets(resolution, step, table=table), table)
    assert not are_sizes
    assert list(found) == [(*use.bucket, use.pairs) for use in expected]


def test_of_buckets_that_are_not_known_the_sizes_of_the_pictures_are_told():
    settings = {"resolution": 512, "bucket_step": 64, "bucket_table": "of a later version"}
    assert _buckets([(9, 8, 1), (4, 4, 2)], settings) == (((4, 4, 2), (9, 8, 1)), True)


class Elements(HTMLParser):
    """What is in a page: tags with their attributes, and the text outside of its record."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._in = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        self._in = tag

    def handle_endtag(self, tag):
        self._in = ""

    def handle_data(self, data):
        if self._in not in ("script", "style"):
            self.text += data


def hostile_card(base: Path) -> Card:
    release = make_release(
        base,
        other="[x](javascript:alert(2)) <b>$(touch pwned)`id`.safetensors",
        prompts=(HOSTILE, "two\u202e\x1b[31m lines", "plain"),
        dataset=HOSTILE,
    )
    return card_of(release, title=HOSTILE, notes=HOSTILE, trigger_words=HOSTILE)


def test_words_of_strangers_are_shown_as_text_in_both_outputs(tmp_path: Path):
    card = hostile_card(tmp_path / "base")
    found = texts(card)
    page = Elements(found["card.html"])
    tags = [tag for tag, _ in page.found]
    assert tags.count("script") == 1 and not {"b", "iframe", "link", "object"} & set(tags)
    for tag, attributes in page.found:
        assert not any(name.startswith("on") for name in attributes), attributes
        if tag == "img":
            assert (attributes["src"] or "").startswith("data:image/webp;base64,")
        assert tag != "a" or (attributes["href"] or "").startswith("#")
    assert HOSTILE in page.text and "&amp;amp;amp;" not in found["card.html"]
    assert "\u202e" not in found["card.html"] and "\x1b" not in found["card.html"]

    body = found["README.md"].split("---\n", 2)[2]
    shown = Elements(MarkdownIt("commonmark").enable("table").render(body))
    tags = {tag for tag, _ in shown.found}
    assert not {"script", "a", "b", "iframe"} & tags
    sources = [attributes["src"] for tag, attributes in shown.found if tag == "img"]
    assert sources and all(re.fullmatch(r"pictures/[\w.-]+", one or "") for one in sources)
    assert HOSTILE in shown.text
    for name in ("pictures/lineage.svg", "pictures/loss-vodka.svg"):
        assert "<img" not in found[name] and "onerror" not in re.sub(r">[^<]*<", "><", found[name])
    command = re.search(r"python -m merge run .*", found["README.md"])[0]
    assert "$(touch" not in re.sub(r"'[^']*'", "", command)


@pytest.mark.parametrize(
    "text",
    ["# no heading", "- no list", "1. none", "1) none", "> no quote", "a\n\n# b", "***", "---",
     "=== ", "<b>", "&lt;", "[a](b)", "![a](b)", "a|b", "~~a~~", "`a`", "\\*a\\*", "www.a.example",
     "https://a.example", "{a}", "$a$", "_a_", "a_b_c", "-e006-", "+1", "100 %", "| --- |"],
)  # fmt: skip
def test_markdown_shows_a_text_as_it_is(text: str):
    markdown = MarkdownIt("commonmark", {"linkify": False}).enable(["table", "strikethrough"])
    shown = Elements(markdown.render(f"{marked(text)}\n\nnext"))
    assert {tag for tag, _ in shown.found} == {"p"}
    assert shown.text.split("\n")[0] == " ".join(text.split())


def test_judges_are_those_whose_votes_count(release: Released):
    whole = card_of(release).ranked[0]
    gone = ("a" * 64, "b" * 64)
    VoteLog(release.grid).add(Vote("c" * 32, "Zoe", gone, gone[:1], False, 1.0))
    vote = card_of(release).ranked[0]
    assert len({one.judge for one in vote.votes.standing}) == 3
    assert (vote.judges, vote.counted, vote.ranks) == (2, whole.counted, whole.ranks)


def test_votes_on_more_models_than_are_ranked_are_told(release: Released, monkeypatch):
    monkeypatch.setattr("cocktail.merge.card.card.MOST_CANDIDATES", 3)
    card = card_of(release)
    told = "they are on 4 models, and 3 is the most that are ranked."
    assert not card.ranked and f"The votes on the grid tasting: {told}" in card.problems


def test_of_a_votes_file_that_was_cut_all_whole_lines_count(release: Released):
    file = release.grid / "votes.jsonl"
    whole = card_of(release)
    data = file.read_bytes()
    file.write_bytes(data.rstrip(b"\n")[:-20])
    cut = card_of(release)
    assert cut.ranked[0].counted < whole.ranked[0].counted + 1 and cut.ranked[0].counted > 40
    told = "1 line is damaged or cut off and left out; all others count."
    assert cut.problems == (*whole.problems, f"The votes on the grid tasting: {told}")
    file.write_bytes(b"[" * 100_000 + b"\n\xff\xfe\n{}\n" + data)
    assert card_of(release).ranked[0].ranks == whole.ranked[0].ranks
    lines = Lines(file, most_bytes=len(data) // 2)
    assert list(lines) is not None and "Only the first" in lines.problem()


def spoil_json(name: str, **changes) -> Callable[[Path], None]:
    def spoil(base: Path) -> None:
        file = base / name
        file.write_text(json.dumps(json.loads(file.read_text()) | changes), encoding="utf-8")

    return spoil


def write(name: str, data: bytes) -> Callable[[Path], object]:
    return lambda base: (base / name).write_bytes(data)


def link_out(name: str) -> Callable[[Path], None]:
    def spoil(base: Path) -> None:
        (base.parent / "elsewhere").mkdir()
        target = base.parent / "elsewhere" / "file"
        shutil.move(base / name, target)
        (base / name).symlink_to(target)

    return spoil


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda base: shutil.rmtree(base / "runs" / "vodka"), "The run vodka: it is not there"),
        (write("runs/vodka/run.json", b"{"), "The run vodka: it is damaged"),
        (spoil_json("runs/vodka/run.json", format=99), "another version of Cocktail"),
        (spoil_json("runs/vodka/run.json", base=7), "The run vodka: run.json is damaged"),
        (spoil_json("runs/vodka/run.json", dataset={"fingerprint": "x"}, id="y"), "another run"),
        (write("runs/vodka/dataset.parquet", b"PAR1"), "The pairs of the run vodka: it is damaged"),
        (link_out("runs/vodka/run.json"), "The run vodka: it is a link"),
        (link_out("grids/tasting/votes.jsonl"), "The votes on the grid tasting: it is a link"),
        (write("grids/tasting/plan.json", b"[]"), None),
        (spoil_json("grids/tasting/plan.json", format=2), "tasting is left out: its plan.json"),
        (spoil_json("grids/tasting/plan.json", axes=[{}]), "tasting is left out: its plan.json"),
        (lambda base: (base / "models" / "epic.safetensors").unlink(), None),
        (lambda base: shutil.rmtree(base / "grids"), None),
    ],
)
def test_what_cannot_be_read_is_told_in_words_and_the_rest_is_there(release, spoil, told):
    spoil(release.base)
    if not release.grids.is_dir():
        release.grids.mkdir()
    card = card_of(release)
    assert told is None or any(told in problem for problem in card.problems), card.problems
    found = texts(card)
    assert "bloody-mary" in found["README.md"].replace("\\", "")
    assert "not recorded" in found["card.html"] and '"kind"' in found["card.card.json"]


def test_an_ingredient_that_cannot_be_opened_leaks_no_path_of_this_machine(release: Released):
    def refuse(path: Path):
        if path.name == "epic.safetensors":
            raise MergeError(f"{path} cannot be read: Permission denied.")
        return file_hashes(path)

    sources = Sources(finder(release.models), release.runs, release.grids, refuse)
    card = make_card(release.mix, sources, Wishes(), "cocktail/bloody-mary.safetensors")
    for name, text in texts(card).items():
        assert str(release.base) not in text, name
    told = texts(card)["card.html"]
    assert "not checked: the file of this name in the models folder cannot be read" in told


def test_a_pickled_ingredient_is_checked_by_its_hash(tmp_path: Path):
    import torch

    models = tmp_path / "models"
    models.mkdir()
    torch.save({"state_dict": sd15_tensors(4)}, models / "old.ckpt")
    save_file({k: t.contiguous() for k, t in sd15_tensors(5).items()}, models / "new.safetensors")
    recipe = weighted_sum([(Ingredient("old.ckpt"), 1), (Ingredient("new.safetensors"), 1)])
    bound = bind_to_files(recipe, models.joinpath, converted=tmp_path / "converted")
    mix = models / "mix.safetensors"
    make_checkpoint(bound, mix, "fp16")
    wishes = Wishes(licences={"old": Licence("cc-by-4.0")})
    card = make_card(mix, Sources(finder(models)), wishes, mix.name)
    assert [one.problem for one in card.lineage.models.values()] == ["", "", ""]
    assert card.licences["old.ckpt"] == Licence("cc-by-4.0")
    assert not [one for one in card.problems if "licence was given" in one]
    assert all(str(tmp_path) not in text for text in texts(card).values())


def test_licences_given_by_hand_are_everywhere_and_names_of_nothing_are_told(release: Released):
    card = card_of(release, licences={"epic": Licence("cc-by-4.0"), "epik": Licence("cc0-1.0")})
    assert card.licences["epic"] == Licence("cc-by-4.0") and card.warnings == ()
    record = json.loads(texts(card)["card.card.json"])
    (epic,) = [one for one in record["models"] if one["name"] == "epic.safetensors"]
    assert epic["licence"]["license"] == "cc-by-4.0"
    told = "A licence was given for epik, but this card has no such checkpoint."
    assert [one for one in card.problems if "epik" in one] == [told]


def test_two_checkpoints_of_one_name_keep_their_own_licences(tmp_path: Path):
    models = tmp_path / "models"
    for seed, licence in ((1, "cc-by-nc-4.0"), (2, "cc-by-4.0")):
        (models / str(seed)).mkdir(parents=True)
        tensors = {name: one.contiguous() for name, one in sd15_tensors(seed).items()}
        save_file(tensors, models / str(seed) / "epic.safetensors", {"modelspec.license": licence})
    recipe = weighted_sum([(Ingredient(f"{n}/epic.safetensors"), 1) for n in (1, 2)])
    mix = models / "mix.safetensors"
    make_checkpoint(bind_to_files(recipe, models.joinpath), mix, "fp16")
    card = make_card(mix, Sources(finder(models)), Wishes(), mix.name)
    assert {name: str(one) for name, one in card.licences.items()} == {
        "1/epic.safetensors": "cc-by-nc-4.0",
        "2/epic.safetensors": "cc-by-4.0",
    }
    assert card.warnings[0] == "May not be sold because of 1/epic.safetensors."


def test_pictures_that_are_no_pictures_are_left_out(release: Released):
    for file in release.grid.glob("cells/*/*.png"):
        file.write_bytes(b"P5 1 1 255 \0")
    card = card_of(release)
    assert card.pictures == [] and card.final is not None
    told = r"A picture of the grid tasting, [0-9a-f]{12}\.\.\.: it is no picture, or damaged\."
    assert card.problems and all(re.fullmatch(told, problem) for problem in card.problems)
    assert "pictures/thumbnail.jpg" not in files_of(card, "card")


def test_names_in_metadata_lead_nowhere(tmp_path: Path):
    (tmp_path / "models").mkdir()
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "models" / "out").symlink_to(tmp_path)
    for name in (
        "../secret",
        "/etc/passwd",
        "out/secret",
        "a/../../secret",
        "C:x",
        "",
        ".x",
        "a\0",
    ):
        with pytest.raises(Unreadable):
            inside(tmp_path / "models", name)


def test_of_a_checkpoint_that_says_nothing_nothing_is_invented(tmp_path: Path, write):
    path = write("silent", sd15_tensors(5))
    card = make_card(path, Sources(finder(None)), Wishes(), path.name)
    told = texts(card)["README.md"].replace("\\", "")
    assert "How it was chosen is not recorded" in told
    assert "where it comes from is not recorded" in told
    assert "How it was made is not recorded" in told
    with pytest.raises(MergeError, match="grid nowhere has no picture"):
        make_card(path, Sources(finder(None), None, tmp_path), Wishes(grid="nowhere"), path.name)


def test_a_card_is_written_whole_or_not_at_all_and_replaces_nothing(
    made: Released, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    card, folder = card_of(made), tmp_path / "cards" / "mary"
    files = files_of(card, "mary")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
        with pytest.raises(MergeError, match="cannot be written: full"):
            write_card(folder, files)
    assert list(folder.parent.iterdir()) == []
    assert write_card(folder, files) and not write_card(folder, files)
    assert files_of(card_of(made), "mary") == files, "the same card has the same bytes"
    (folder / "README.md").write_text("my own words")
    with pytest.raises(MergeError, match="never overwritten"):
        write_card(folder, files)
    other, _, is_new = write_another(folder.parent, card, "mary")
    assert (other.name, is_new) == ("mary-2", True)
    assert (folder / "README.md").read_text() == "my own words"


def test_card_and_verify_as_commands(release: Released, tmp_path: Path, capsys):
    arguments = ["card", str(release.mix), "--out", str(tmp_path / "out"), *release.folders]
    assert main([*arguments, "--title", "Bloody Mary", "--licence-of", "epic: cc-by-4.0"]) == 0
    card = tmp_path / "out" / "Bloody-Mary"
    assert "Bloody-Mary.html: Bloody Mary" in capsys.readouterr().out
    assert "allowCommercialUse" not in (card / "Bloody-Mary.card.json").read_text()
    assert main(["verify", str(card), *release.folders]) == 0
    assert re.fullmatch(r"\d+ same\n", capsys.readouterr().out)
    assert main(["verify", str(card / "README.md")]) == 0
    assert "unreachable: checkpoint" in capsys.readouterr().out
    assert main(["verify", str(card / "Bloody-Mary.html"), "--strict"]) == 1
    (release.models / "epic.safetensors").write_bytes(b"x")
    assert main(["verify", str(card), *release.folders]) == 1
    assert "changed: ingredient epic.safetensors" in capsys.readouterr().out
    assert main([*arguments, "--name", "../out"]) == 1
    assert main(["verify", str(release.models)]) == 1
    assert main(["card", str(tmp_path / "none.safetensors"), "--out", str(tmp_path)]) == 1
    assert capsys.readouterr().err.count("error: ") == 3


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_needs_no_network_fits_every_screen_and_axe_finds_nothing(
    page_file: Path, browser, scheme: str, width: int
):
    context = browser.new_context(
        viewport={"width": width, "height": 844}, color_scheme=scheme, offline=True
    )
    page, told = context.new_page(), []
    page.on("console", lambda message: told.append(message.text))
    page.on("request", lambda request: told.append(request.url))
    page.goto(page_file.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true })")
    assert [one for one in told if not one.startswith(("data:", "file:"))] == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate("[...document.images].every(one => one.naturalWidth > 0)")
    found = Axe().run(page).response["violations"]
    assert [(one["id"], one["nodes"][0]["html"]) for one in found] == []
    context.close()


@pytest.fixture(scope="module")
def browser(dev):
    with launched(dev) as browser:
        yield browser


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("page") / "card.html"
    card = hostile_card(file.parent / "base")
    file.write_bytes(files_of(card, "card")["card.html"])
    return file
