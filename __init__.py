"""Cocktail for ComfyUI: fine-tune, compare, merge and release Stable Diffusion checkpoints in one
graph.
"""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """Called by ComfyUI. Imports here, so that tests and tools can import the pack's cores without
    ComfyUI.
    """
    try:
        from .nodes import CocktailExtension
    except Exception:
        import logging

        logging.exception("Cocktail could not be loaded")
        raise
    return CocktailExtension()
