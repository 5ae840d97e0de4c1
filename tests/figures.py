"""Files of figures in `build/`: {key: {…, commit, at}}. What a run did not measure stays, as old as it says it is."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from libs.common.disk import replace_file

ROOT = Path(__file__).resolve().parents[1]


def merge(file: Path, figures: Mapping[str, Mapping[str, Any]], at: float | None = None) -> None:
    """Put these into the file in place of those of the same keys, each with its commit and time (Unix seconds).

    A file that can't be read as such is begun anew.
    """
    stamp = {"commit": commit(), "at": round(time.time() if at is None else at)}
    known = read(file) | {key: {**figure, **stamp} for key, figure in figures.items()}
    file.parent.mkdir(exist_ok=True)
    replace_file(file, (json.dumps(known, indent=2) + "\n").encode(), 0o644)


def read(file: Path) -> dict[str, dict[str, Any]]:
    """All that is in the file; nothing when there is none, or it is no such file."""
    with suppress(FileNotFoundError, ValueError):
        content = json.loads(file.read_text())
        if isinstance(content, dict) and all(isinstance(each, dict) for each in content.values()):
            return content
    return {}


@cache
def commit() -> str:
    """What the working tree is of, with `-dirty` when it differs from that; "" where git can't tell."""
    asked = (
        "git",
        "-C",
        str(ROOT),
        "describe",
        "--always",
        "--dirty",
        "--abbrev=12",
        "--exclude=*",
    )
    try:
        found = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return ""
    return found.stdout.strip()
