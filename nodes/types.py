"""What travels on the wires between the nodes. Saved workflows contain these strings: they stay."""

from __future__ import annotations

from comfy_api.latest import io

Dataset = io.Custom("COCKTAIL_DATASET")
"""A `trainer.data.manifest.Dataset`."""

Selection = io.Custom("COCKTAIL_SELECTION")
"""Rows of a table, without their images yet: a `trainer.data.table.selection.Selection`."""

Settings = io.Custom("COCKTAIL_SETTINGS")
"""A `trainer.settings.run_settings.RunSettings`."""

Run = io.Custom("COCKTAIL_RUN")
"""A `trainer.runs.Run`."""

Sweep = io.Custom("COCKTAIL_SWEEP")
"""A `trainer.sweep.sweep.Sweep`."""

Recipe = io.Custom("COCKTAIL_RECIPE")
"""A `merge.recipe.Recipe`."""

Axis = io.Custom("COCKTAIL_AXIS")
"""An axis of a grid: `nodes.grid.engine.axes.axis.Axis`."""

Grid = io.Custom("COCKTAIL_GRID")
"""A resolved plan of a grid: `nodes.grid.engine.plan.plan.Plan`."""

CheckpointName = io.AnyType
"""The name of a checkpoint as `CheckpointLoaderSimple` takes it. Of any type, because ComfyUI lets
nothing else link into a list of choices.
"""
