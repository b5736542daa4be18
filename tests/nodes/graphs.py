"""Graphs of the dataset and fine-tune nodes."""

from __future__ import annotations

from typing import Any

from cocktail.trainer.settings.run_settings import RunSettings

QUICK = RunSettings(
    resolution=64,
    bucket_step=16,
    epochs=1,
    batch_size=8,
    learning_rate=3e-4,
    train_text_encoder=False,
    validation_timesteps=1,
    precision="fp32",
)


def node(kind: str, /, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def fine_tune(run_name: str, count: int = 24, **settings: Any) -> dict[str, Any]:
    """Draw, load, split, fine-tune, wait, pick; `settings` over QUICK. Node ids are words."""
    values = QUICK.to_json() | settings
    return {
        "draw": node("CocktailDrawShapes", name=f"few-{count}", count=count, seed=3),
        "load": node(
            "CocktailLoadDataset", folder=["draw", 0], caption_text="first line", on_problem="stop"
        ),
        "split": node("CocktailSplitDataset", dataset=["load", 0], share=0.25, seed=1),
        "base": node("CocktailBase", checkpoint="miniature_base.safetensors"),
        "settings": node("CocktailTrainingSettings", **values),
        "run": node(
            "CocktailFineTune",
            base=["base", 0],
            dataset=["split", 0],
            settings=["settings", 0],
            run_name=run_name,
        ),
        "wait": node("CocktailWaitForRun", run=["run", 0]),
        "pick": node(
            "CocktailPickCheckpoint", run=["wait", 0], rule="lowest validation loss", epoch=1
        ),
    }
