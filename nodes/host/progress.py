"""Showing the progress of a node, and letting Interrupt through."""

from __future__ import annotations


def show_text(text: str) -> None:
    """Put a line of text under the node that is being executed. Without a page or a server nothing
    happens.
    """
    import server
    from comfy_execution.utils import get_executing_context

    context = get_executing_context()
    instance = getattr(server.PromptServer, "instance", None)
    if context is not None and instance is not None:
        instance.send_progress_text(text, context.node_id)


def stop_if_interrupted() -> None:
    """Raise ComfyUI's own exception when the person has pressed Interrupt."""
    import comfy.model_management

    comfy.model_management.throw_exception_if_processing_interrupted()


class Progress:
    """The node's progress bar as a callable of (done, total); Interrupt ends the work at the next
    call.
    """

    def __init__(self) -> None:
        import comfy.utils

        self.bar = comfy.utils.ProgressBar(1)
        self.shown = -1

    def __call__(self, done: int, total: int) -> None:
        stop_if_interrupted()
        percent = done * 100 // max(total, 1)
        if percent != self.shown:
            self.shown = percent
            self.bar.update_absolute(done, total)
