"""Showing the progress of a node, and letting Interrupt through."""

from __future__ import annotations

import re

JOINER = "\u2060"
"""A character without width at which no line breaks."""
MARKUP = re.compile(r"<(?=[A-Za-z/!?])|&(?=#|[A-Za-z][A-Za-z0-9]*;)|\[(?=\[)|_(?=_LNK)")
"""Where ComfyUI's page would begin to read markup: tags and entities of HTML, its own
`[[label|address]]`, and the placeholder that it puts in place of those."""


def as_text(text: str) -> str:
    """`text` such that ComfyUI's page shows it and does not obey it. Older frontends (1.32) put the
    text of a node into the page as HTML, newer ones escape it. Entities would be shown to people
    there; an invisible character behind each opening sign is right in both.
    """
    text = text.encode("utf-8", "replace").decode("utf-8")
    return MARKUP.sub(lambda found: found.group() + JOINER, text)


def show_text(text: str) -> None:
    """Put a line of text under the node that is being executed, whatever words it quotes. Without a
    page or a server nothing happens.
    """
    import server
    from comfy_execution.utils import get_executing_context

    context = get_executing_context()
    instance = getattr(server.PromptServer, "instance", None)
    if context is not None and instance is not None:
        instance.send_progress_text(as_text(text), context.node_id)


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
