"""The images of selected rows: found in a folder, or fetched from their URLs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from comfy_api.latest import io

from ...trainer.data.fetch import job as download_job
from ...trainer.data.fetch.join import join
from ...trainer.data.fetch.local_images import KEYS, find_images
from ...trainer.data.fetch.network import require_download
from ...trainer.data.fetch.settings import RETRY, ROBOTS, DownloadSettings
from ...trainer.data.folder.folder import ON_PROBLEM, LoadReport, folder_state
from ...trainer.data.manifest import Dataset
from ...trainer.data.table.selection import Selection, read_rows
from ...trainer.errors import TrainerError
from .. import types
from ..host import names
from ..host.progress import Progress, show_text
from ..schema import opt, schema
from ..waiting import work_off

CATEGORY = "cocktail/dataset"


class CocktailJoinImages(io.ComfyNode):
    """Selected rows joined to the files of a folder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailJoinImages",
            display_name="Join Images",
            category=CATEGORY,
            description="Finds the image of each selected row in a folder: by the row's number "
            "in the table, the Discord attachment id, the job's uuid, the file name, or the path "
            "in the image column. Files may be named in any of the usual ways.",
            search_aliases=[
                "join local images",
                "match files",
                "table and folder",
                "attach images",
            ],
            is_output_node=True,
            inputs=[
                types.Selection.Input("selection", tooltip="The rows, from Select Pairs."),
                opt(
                    io.Combo.Input,
                    "folder",
                    options=names.dataset_folders(),
                    tooltip="The folder with the images, below ComfyUI's input folder or a "
                    "datasets folder. The folders in it are searched too.",
                ),
                io.Combo.Input(
                    "key",
                    options=list(KEYS),
                    default=KEYS[-1],
                    tooltip="What a row and its file have in common. row index: 000123.png "
                    "belongs to row 123, counted from 0, damaged records of the table included. "
                    "column: the image column holds a path inside the folder.",
                ),
                io.Combo.Input(
                    "on_problem",
                    options=list(ON_PROBLEM),
                    default=ON_PROBLEM[1],
                    tooltip="What to do about images that cannot be decoded. stop: say which and "
                    "stop. skip: leave them out and report them.",
                ),
            ],
            outputs=[
                types.Dataset.Output(
                    "dataset",
                    display_name="dataset",
                    tooltip="The pairs; each pair's group is its user.",
                ),
                io.String.Output(
                    "report",
                    display_name="report",
                    tooltip="How many rows have an image, and which have none or several.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, folder: str | None) -> bool | str:
        try:
            if folder is not None:
                names.dataset_folder(folder)
        except names.BadName as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, folder: str | None, **_: Any) -> str:
        """Changes when a file in the folder does."""
        try:
            return folder_state(names.dataset_folder(folder)) if folder else ""
        except names.BadName:
            return ""

    @classmethod
    def execute(cls, selection: Selection, folder: str, key: str, on_problem: str) -> io.NodeOutput:
        path = names.dataset_folder(folder)
        progress = Progress()
        found = find_images(Path(selection.path), path, key, folder, progress)
        dataset, report = _join(selection, found.files, path, folder, on_problem, progress)
        text = f"{found}\n{_describe_pairs(report)}"
        show_text(text)
        facts = {
            "rows": found.rows,
            "matched": found.matched,
            "missing": found.missing,
            "ambiguous": found.ambiguous,
            "unused": found.unused,
            "pairs": len(dataset.pairs),
            "reasons": report.reasons(),
            "fingerprint": dataset.fingerprint,
        }
        return io.NodeOutput(dataset, text, ui={"text": [text], "cocktail": [facts]})


class CocktailDownloadImages(io.ComfyNode):
    """Selected rows with the images fetched from their URLs."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="CocktailDownloadImages",
            display_name="Download Images",
            category=CATEGORY,
            description="Fetches the image of each selected row from its URL, in the background, "
            "and keeps the file unchanged. This is off until the server's owner allows it in a "
            "settings file. Nothing is lost if it is stopped: when queued again, it continues, "
            "and nothing is fetched twice.",
            search_aliases=[
                "fetch urls",
                "img2dataset",
                "download urls",
                "scrape",
                "image downloader",
            ],
            is_output_node=True,
            inputs=[
                types.Selection.Input(
                    "selection",
                    tooltip="The rows, from Select Pairs; the image column holds their URLs.",
                ),
                io.String.Input(
                    "name",
                    default="downloaded",
                    tooltip="Name of the folder in output/cocktail/datasets for the images: up "
                    "to 64 letters, digits, dots, hyphens and underscores.",
                ),
                io.Int.Input(
                    "concurrency",
                    default=32,
                    min=1,
                    max=256,
                    tooltip="Images fetched at the same time; at most half of them from one host.",
                ),
                io.Float.Input(
                    "timeout_s",
                    default=20.0,
                    min=1.0,
                    max=600.0,
                    step=1.0,
                    tooltip="Seconds without an answer before an attempt is given up.",
                ),
                io.Int.Input(
                    "retries",
                    default=3,
                    min=0,
                    max=20,
                    tooltip="How often to try again after a timeout, a broken connection or a "
                    "busy server, with growing pauses.",
                ),
                io.Float.Input(
                    "max_megabytes",
                    default=50.0,
                    min=0.1,
                    max=1000.0,
                    step=1.0,
                    tooltip="Larger files are not kept, in MB of a million bytes.",
                ),
                io.Float.Input(
                    "max_megapixels",
                    default=64.0,
                    min=0.1,
                    max=178.0,
                    step=1.0,
                    tooltip="Larger images are not kept, in millions of pixels.",
                ),
                io.Boolean.Input(
                    "respect_robots",
                    default=True,
                    tooltip="Whether to skip images whose server says noai, noimageai, noindex "
                    "or noimageindex (X-Robots-Tag).",
                ),
                io.Combo.Input(
                    "retry_failed",
                    options=list(RETRY),
                    default=RETRY[0],
                    tooltip="Which rows that failed before are tried again. nothing: none. "
                    "transient: those whose failure may be temporary. all: all of them.",
                ),
            ],
            outputs=[
                types.Dataset.Output(
                    "dataset",
                    display_name="dataset",
                    tooltip="The pairs whose images were fetched; each pair's group is its user.",
                ),
                io.String.Output(
                    "report",
                    display_name="report",
                    tooltip="How many images were fetched, and why the others were not.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, name: str | None) -> bool | str:
        try:
            names.check_name(name or "downloaded", "download")
            require_download(names.network_file())
        except (names.BadName, TrainerError) as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls,
        selection: Selection,
        name: str,
        concurrency: int,
        timeout_s: float,
        retries: int,
        max_megabytes: float,
        max_megapixels: float,
        respect_robots: bool,
        retry_failed: str,
    ) -> io.NodeOutput:
        names.check_name(name, "download")
        settings = DownloadSettings(
            concurrency=concurrency,
            per_host=max(1, concurrency // 2),
            timeout_s=timeout_s,
            retries=retries,
            max_bytes=int(max_megabytes * 1e6),
            max_pixels=int(max_megapixels * 1e6),
            retry_failed=retry_failed,
            refused_robots_tags=ROBOTS if respect_robots else (),
        )
        job = download_job.create_download(
            names.cocktail_dir("datasets"),
            name,
            Path(selection.path),
            settings,
        )
        if job.has_work():
            download_job.start(job, names.network_file())
        state = work_off(job, _describe)
        dataset, report = _join(
            selection, download_job.images(job.folder), job.folder, name, "skip", Progress()
        )
        text = f"{_describe(state)}\n{_describe_pairs(report)}"
        show_text(text)
        facts = {
            "rows": state.total,
            "downloaded": state.ok,
            "errors": state.errors,
            "bytes": state.bytes,
            "pairs": len(dataset.pairs),
            "fingerprint": dataset.fingerprint,
        }
        return io.NodeOutput(dataset, text, ui={"text": [text], "cocktail": [facts]})


def _join(
    selection: Selection,
    files: dict[int, str],
    root: Path,
    name: str,
    on_problem: str,
    progress: Progress,
) -> tuple[Dataset, LoadReport]:
    """The dataset of the rows that have a file; the facts about each image are kept."""
    cache = names.picture_facts(root, "joined-")
    rows = read_rows(Path(selection.path))
    dataset, report = join(rows, files, root, name, on_problem, cache, progress)
    for line in selection.history:
        dataset = dataset.noted(line)
    return dataset.noted(f"{len(dataset.pairs)} images of {len(rows)} rows in {name}"), report


def _describe_pairs(report: LoadReport) -> str:
    lines = [f"{report.found - len(report.problems)} pairs"]
    lines += [f"skipped: {count} x {reason}" for reason, count in report.reasons().items()]
    return "\n".join(lines)


def _describe(state: download_job.DownloadState) -> str:
    """The state of a download, in a line."""
    parts = [state.status, f"{state.done} of {state.total} rows", f"{state.ok} images"]
    if state.rows_per_second and state.status == "running":
        parts.append(f"{state.rows_per_second:.1f} a second")
    parts += [f"{count} x {reason}" for reason, count in state.errors.items()]
    return ", ".join(parts)


NODES: list[type[io.ComfyNode]] = [CocktailJoinImages, CocktailDownloadImages]
