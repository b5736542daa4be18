"""XYZ grids: axes, plan, cells, sampling with ComfyUI's own nodes, files on disk, and sheets."""
