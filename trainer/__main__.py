"""`python -m trainer`, and the entry point of background processes, which start it by this path."""

from __future__ import annotations

import importlib
import sys


def _as_package() -> None:
    """Give the code a package name when it was started by path: embedded Pythons ignore the working
    directory, and the script's own folder on `sys.path` would let our file names shadow other
    modules.
    """
    import importlib.util
    from pathlib import Path

    here = Path(__file__).resolve().parent
    sys.path[:] = [entry for entry in sys.path if not entry or Path(entry).resolve() != here]
    spec = importlib.util.spec_from_file_location(
        "trainer", here / "__init__.py", submodule_search_locations=[str(here)]
    )
    assert spec and spec.loader
    package = importlib.util.module_from_spec(spec)
    sys.modules["trainer"] = package
    spec.loader.exec_module(package)


if __name__ == "__main__":
    if not __package__:
        _as_package()
    sys.exit(importlib.import_module("trainer.command_line").main())
