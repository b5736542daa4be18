"""Fine-tuning of Stable Diffusion 1.5, alone: nothing here knows ComfyUI. `python -m trainer
--help`.
"""
