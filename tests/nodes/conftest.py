"""What the tests of nodes and routes share."""

from __future__ import annotations

from pathlib import Path

import pytest

from .run_folders import pretend_comfyui


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A ComfyUI's folders, without a ComfyUI; nothing is started."""
    pretend_comfyui(tmp_path, monkeypatch)
    return tmp_path
