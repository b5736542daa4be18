"""The commands of `python -m trainer`."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from .data.buckets import TABLES
from .errors import TrainerError
from .files import disk_full
from .settings import commands as settings_commands

PIPE_CLOSED = 128 + 13
"""The exit status of a command whose reader has gone, as shells know it from SIGPIPE."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. A TrainerError becomes one line on standard error and exit status 1. When
    the program that reads the output ends early, such as `head`, the command ends quietly.
    """
    try:
        try:
            return _carry_out(arguments)
        finally:
            print(end="", flush=True)
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.EINVAL) or not _reader_has_gone():
            raise
        return PIPE_CLOSED


def _carry_out(arguments: Sequence[str] | None) -> int:
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except TrainerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _reader_has_gone() -> bool:
    """Whether standard output leads nowhere any more; then nothing more is written to it.

    A closed pipe is EPIPE, on Windows EINVAL, and both may come from elsewhere.
    """
    try:
        print(flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m trainer",
        description="Fine-tune Stable Diffusion 1.5 without ComfyUI, and prepare its data.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    settings_commands.add(commands)
    _add_run(commands)
    _add_latents(commands)
    _add_miniature(commands)
    _add_shapes(commands)
    _add_jobs(commands)
    return parser


def _add_run(commands: argparse._SubParsersAction) -> None:
    run = commands.add_parser(
        "run", help="train the run in a folder, from its last resume point if it has one"
    )
    run.add_argument("folder", type=Path, help="the folder that holds run.json")
    for name in ("base", "checkpoints", "tokenizer", "cache"):
        run.add_argument(f"--{name}", metavar="PATH", help=f"the {name}, instead of run.json's")
    run.add_argument(
        "--notices",
        type=Path,
        metavar="FILE",
        help="the owner's network.json, which says whom to tell how it went",
    )
    run.set_defaults(run=_run)


def _add_latents(commands: argparse._SubParsersAction) -> None:
    latents = commands.add_parser(
        "latents", help="encode the pictures of a dataset in advance, for one or more resolutions"
    )
    latents.add_argument("base", type=Path, help="the checkpoint whose VAE encodes")
    latents.add_argument("dataset", type=Path, help="the manifest, dataset.parquet")
    latents.add_argument("--cache", type=Path, required=True, help="OUTPUT/cocktail/cache")
    latents.add_argument(
        "--resolution",
        type=int,
        action="append",
        required=True,
        help="as in the settings of the run; may be repeated, and every picture is decoded once",
    )
    latents.add_argument("--bucket-table", choices=TABLES, default=TABLES[0])
    latents.add_argument("--bucket-step", type=int, default=64)
    latents.add_argument("--batch-size", type=int, default=4)
    latents.set_defaults(run=_latents)


def _add_miniature(commands: argparse._SubParsersAction) -> None:
    miniature = commands.add_parser("miniature", help="make a small SD1.5 checkpoint for tests")
    miniature.add_argument("out", type=Path, help="the .safetensors file to write")
    miniature.add_argument("--size", default="small", help="small, medium or blocks")
    miniature.add_argument("--seed", type=int, default=1)
    miniature.add_argument(
        "--drift", type=float, default=0.0, help="change every UNet weight randomly by this share"
    )
    miniature.add_argument("--drift-seed", type=int, default=0)
    miniature.set_defaults(run=_miniature)


def _add_shapes(commands: argparse._SubParsersAction) -> None:
    shapes = commands.add_parser("shapes", help="draw captioned shapes, or judge a grid of them")
    shapes.add_argument("folder", type=Path, help="the folder to draw into, or the grid's folder")
    shapes.add_argument("--count", type=int, default=400)
    shapes.add_argument("--seed", type=int, default=1)
    shapes.add_argument("--judge", action="store_true", help="score the grid in this folder")
    shapes.set_defaults(run=_shapes)


def _add_jobs(commands: argparse._SubParsersAction) -> None:
    """The commands by which ComfyUI starts its background jobs."""
    select = commands.add_parser("select", help="carry out a selection from a table")
    select.add_argument("request", type=Path, help="what to select, a JSON file")
    select.set_defaults(run=_select)

    caption = commands.add_parser("caption", help="caption the pictures of a caption job")
    caption.add_argument("folder", type=Path, help="the job's folder")
    caption.add_argument(
        "--model", metavar="PATH", help="the model's folder, instead of job.json's"
    )
    caption.add_argument("--device", choices=("cpu", "cuda"), help="instead of job.json's")
    caption.set_defaults(run=_caption)

    download = commands.add_parser("download", help="fetch the pictures of a download")
    download.add_argument("folder", type=Path, help="the download's folder")
    download.add_argument(
        "--network",
        type=Path,
        required=True,
        metavar="FILE",
        help="the owner's network.json, which says whether the network may be used",
    )
    download.set_defaults(run=_download)


def _run(options: argparse.Namespace) -> int:
    from .jobs.control import ending_early
    from .runs import PLACES, Run

    given = {name: getattr(options, name) for name in PLACES}
    places = {name: path for name, path in given.items() if path}
    status = 0
    with ending_early(lambda: Run.open(options.folder)):
        from .loop import train
        from .model.imports import import_models

        import_models()
        status = train(options.folder, places, options.notices)
    return status


def _latents(options: argparse.Namespace) -> int:
    """Exit status 1 when pictures were skipped."""
    from tqdm import tqdm

    from .data.manifest import Dataset
    from .latents import fill_cache
    from .settings.run_settings import RunSettings

    for resolution in options.resolution:
        RunSettings(
            resolution=resolution,
            bucket_step=options.bucket_step,
            bucket_table=options.bucket_table,
        )
    dataset = Dataset.load(options.dataset)
    with tqdm(unit="latent", unit_scale=True) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            if not bar.n:
                bar.initial = done
            bar.update(done - bar.n)

        try:
            skipped = fill_cache(
                options.base,
                dataset,
                options.resolution,
                options.bucket_step,
                options.bucket_table,
                options.cache,
                options.batch_size,
                progress,
            )
        except OSError as error:
            if not disk_full(error):
                raise
            raise TrainerError(
                f"The disk of {options.cache} is full. Make room and start the command again: "
                "what was encoded stays, and it goes on from there."
            ) from error
    for reason in dict.fromkeys(skipped.values()):
        print(f"skipped: {reason}", file=sys.stderr)
    return 1 if skipped else 0


def _miniature(options: argparse.Namespace) -> int:
    from .model.imports import import_models
    from .model.miniature import make_miniature

    import_models()
    make_miniature(options.out, options.size, options.seed, options.drift, options.drift_seed)
    print(f"{options.out}: {options.out.stat().st_size / 1e6:.0f} MB")
    return 0


def _shapes(options: argparse.Namespace) -> int:
    from .shapes import draw_shapes, judge_grid

    if options.judge:
        for score in judge_grid(options.folder):
            print(f"{score.right:3d} of {score.asked:3d}  {score.checkpoint}")
        return 0
    draw_shapes(options.folder, options.count, options.seed)
    print(f"{options.folder}: {options.count} pairs")
    return 0


def _select(options: argparse.Namespace) -> int:
    from .data.table.request import main as select

    return select(options.request)


def _caption(options: argparse.Namespace) -> int:
    from .data.caption.job import CaptionJob
    from .data.caption.job import main as caption
    from .jobs.control import ending_early

    status = 0
    with ending_early(lambda: CaptionJob.open(options.folder)):
        instead = {"model": options.model, "device": options.device}
        status = caption(options.folder, **{name: one for name, one in instead.items() if one})
    return status


def _download(options: argparse.Namespace) -> int:
    from .data.fetch.job import DownloadJob
    from .data.fetch.job import main as download
    from .jobs.control import ending_early

    status = 0
    with ending_early(lambda: DownloadJob.open(options.folder)):
        status = download(options.folder, options.network)
    return status
