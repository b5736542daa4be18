"""The pictures of selected rows, from a folder or by download."""
