"""Where the recorded answers are: `TTA_SHARED`, or a folder `shared` beside the repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def replay_folder() -> Path:
    """The folder of the replay corpora; skips the test where this machine has none."""
    beside = Path(__file__).resolve().parents[3] / "shared"
    folder = Path(os.environ.get("TTA_SHARED", beside)) / "data" / "replay"
    if not folder.is_dir():
        pytest.skip("the recorded answers are not on this machine (set TTA_SHARED)")
    return folder
