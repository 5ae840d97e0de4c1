"""Builds the C programs once a session, into a directory of this session's own."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="session")
def native(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory with freshly built `gantry-runc`, `spec-edit` and `spec-edit-sanitized`."""
    out = tmp_path_factory.mktemp("native")
    command = [
        "make",
        "-C",
        str(ROOT / "services/executor/native"),
        f"OUT={out}",
        "all",
        "sanitized",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return out
