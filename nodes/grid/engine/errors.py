"""The one exception whose message is meant for the person who renders a grid."""


class GridError(Exception):
    """Says what is wrong, where, and what to do. Anything else that is raised is a bug."""
