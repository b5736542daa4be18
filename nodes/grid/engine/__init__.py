"""XYZ grids: axes, plan, cells, sampling with ComfyUI's own nodes, the store on disk, and sheets."""
