"""What the pack asks of ComfyUI: names under its folders, progress and interrupt, numerics."""
