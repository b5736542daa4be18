"""The one exception whose message is meant for the person who renders a grid."""

from ....trainer.errors import ForThePerson


class GridError(ForThePerson):
    """What a person who renders a grid is told."""
