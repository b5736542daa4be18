"""The commands of `python -m trainer`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .data.buckets import TABLES
from .errors import TrainerError
from .settings import commands as settings_commands


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; a TrainerError becomes one line on standard error and exit status 1."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except TrainerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m trainer", description=main.__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    settings_commands.add(commands)
    run = commands.add_parser("run", help="train the run in a run folder, from where it stands")
    run.add_argument("folder", type=Path, help="the folder that holds run.json")
    for name in ("base", "checkpoints", "tokenizer", "cache"):
        run.add_argument(f"--{name}", metavar="PATH", help=f"use this {name}, not run.json's")
    run.set_defaults(run=_run)

    latents = commands.add_parser(
        "latents",
        help="encode the pictures of a dataset beforehand, for runs at several resolutions from one decode",
    )
    latents.add_argument("base", type=Path, help="the checkpoint whose VAE encodes")
    latents.add_argument("dataset", type=Path, help="the manifest, dataset.parquet")
    latents.add_argument("--cache", type=Path, required=True, help="OUTPUT/cocktail/cache")
    latents.add_argument("--resolution", type=int, action="append", required=True)
    latents.add_argument("--bucket-table", choices=TABLES, default=TABLES[0])
    latents.add_argument("--bucket-step", type=int, default=64)
    latents.add_argument("--batch-size", type=int, default=4)
    latents.set_defaults(run=_latents)

    miniature = commands.add_parser("miniature", help="make a small SD1.5 checkpoint")
    miniature.add_argument("out", type=Path)
    miniature.add_argument("--size", default="small", help="small, medium or blocks")
    miniature.add_argument("--seed", type=int, default=1)
    miniature.add_argument("--drift", type=float, default=0.0, help="move the UNet by this share")
    miniature.add_argument("--drift-seed", type=int, default=0)
    miniature.set_defaults(run=_miniature)

    shapes = commands.add_parser("shapes", help="draw captioned shapes, or judge a grid of them")
    shapes.add_argument("folder", type=Path)
    shapes.add_argument("--count", type=int, default=400)
    shapes.add_argument("--seed", type=int, default=1)
    shapes.add_argument("--judge", action="store_true", help="score the grid in this folder")
    shapes.set_defaults(run=_shapes)

    select = commands.add_parser(
        "select", help="carry out a selection from a table, asked for in JSON"
    )
    select.add_argument("request", type=Path)
    select.set_defaults(run=_select)

    caption = commands.add_parser("caption", help="caption the pictures of a job folder by a model")
    caption.add_argument("folder", type=Path)
    caption.add_argument("--model", metavar="PATH", help="use this model, not job.json's")
    caption.set_defaults(run=_caption)

    download = commands.add_parser("download", help="fetch the pictures of a download folder")
    download.add_argument("folder", type=Path)
    download.add_argument("--network", metavar="PATH", help="use this network.json, not job.json's")
    download.set_defaults(run=_download)
    return parser


def _run(options: argparse.Namespace) -> int:
    from .loop import train
    from .runs import PLACES

    given = {name: getattr(options, name) for name in PLACES}
    return train(options.folder, {name: path for name, path in given.items() if path})


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
    for reason in dict.fromkeys(skipped.values()):
        print(f"skipped: {reason}", file=sys.stderr)
    return 1 if skipped else 0


def _miniature(options: argparse.Namespace) -> int:
    from .model.miniature import make_miniature

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
    from .data.caption.job import main as caption

    return caption(options.folder, options.model)


def _download(options: argparse.Namespace) -> int:
    from .data.fetch.job import main as download

    return download(options.folder, options.network)
