"""Merging of checkpoints, alone: nothing here knows ComfyUI. `python -m merge --help`."""
