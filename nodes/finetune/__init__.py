"""The nodes that start fine-tunes, choose their settings and pick their checkpoints."""

from __future__ import annotations

from comfy_api.latest import io

from . import figures, pick, range_test, run, settings, steer, sweep

NODES: list[type[io.ComfyNode]] = [
    run.CocktailTrainingSettings,
    run.CocktailBase,
    run.CocktailFineTune,
    run.CocktailWaitForRun,
    figures.CocktailLossChart,
    steer.CocktailOpenRun,
    steer.CocktailControlRun,
    steer.CocktailForkRun,
    figures.CocktailLossHeatMap,
    figures.CocktailStandOut,
    figures.CocktailLeaveOutPairs,
    settings.CocktailTrainingPreset,
    settings.CocktailImportEveryDream2,
    settings.CocktailChangeSettings,
    settings.CocktailOptimizerSettings,
    settings.CocktailLayerSettings,
    settings.CocktailLossSettings,
    settings.CocktailDataSettings,
    settings.CocktailValidationSettings,
    settings.CocktailEmaSettings,
    settings.CocktailComputeSettings,
    settings.CocktailSample,
    settings.CocktailSampleSettings,
    settings.CocktailSavingSettings,
    settings.CocktailLoggingSettings,
    settings.CocktailShowSettings,
    pick.CocktailPickCheckpoint,
    pick.CocktailChooseCheckpoint,
    sweep.CocktailSweep,
    sweep.CocktailSweepResults,
    range_test.CocktailRangeTest,
]
