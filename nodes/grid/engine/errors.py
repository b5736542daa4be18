"""The one exception whose message is meant for the person who renders a grid."""

LONGEST = 4000
"""Characters of a message."""


class GridError(Exception):
    """Says what is wrong, where, and what to do. Anything else that is raised is a bug."""

    def __str__(self) -> str:
        """The message; of a long one, which quotes what was given, the beginning and the end."""
        text = super().__str__()
        return text if len(text) <= LONGEST else f"{text[: LONGEST - 500]} ... {text[-400:]}"
