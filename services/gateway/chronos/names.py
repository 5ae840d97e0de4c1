"""Chronos' names of jobs as ours, and back.

Chronos takes letters, digits, `_`, `.` and `-` (2.x: blanks and `#` too) of any length, we take DNS labels. A name
that is one already stays; any other gets a readable stem and 12 hexadecimal digits of its SHA-256, and the name itself
travels in a label of the spec. A name that only looks as if it had been made so gets digits too, so two names never
become the same, short of a collision of 48 bits, which is noticed by the label.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import NamedTuple

from libs.common.errors import InvalidInput
from libs.common.jobs import CHRONOS_NAME
from libs.common.wishes import NAME_PATTERN
from services.gateway.chronos.model import Version

LONGEST = 200
_TASK = re.compile(r"ct:(\d{1,15}):(\d{1,9}):([\w\s.#-]+):?.*", re.ASCII)
_OURS = re.compile(NAME_PATTERN)
_MADE = re.compile(r".*-x[0-9a-f]{12}", re.ASCII)
_STEM = 25  # with 15 more: the longest that we take
# Java's \w and \s are of ASCII alone.
_CHRONOS: Mapping[Version, re.Pattern[str]] = {
    Version.V2: re.compile(r"[\w\s.#-]+", re.ASCII),
    Version.V3: re.compile(r"[\w.-]+", re.ASCII),
}


class Task(NamedTuple):
    """What Chronos' id of a task says: when its run was due (Unix milliseconds), and which try it is, from 0 on."""

    due_ms: int
    tries: int
    job: str


def read_task(task: str) -> Task | None:
    """What an id of a task says; None when it is none. Its last part, the arguments, says nothing to us."""
    found = _TASK.fullmatch(task)
    return Task(int(found[1]), int(found[2]), found[3]) if found is not None else None


def our_name(name: str) -> str:
    """The name of ours that stands for a Chronos name."""
    if _OURS.fullmatch(name) and not _MADE.fullmatch(name):
        return name
    stem = re.sub(r"[^a-z0-9]+", "-", name.lower())[:_STEM].strip("-")
    digits = hashlib.sha256(name.encode()).hexdigest()[:12]
    return f"{stem or 'job'}-x{digits}"


def candidates(name: str) -> tuple[str, ...]:
    """Where a job of that Chronos name may be: first where it is put, then where our own API would have made it."""
    ours = our_name(name)
    return (ours, name) if ours != name and _OURS.fullmatch(name) else (ours,)


def chronos_name(our: str, labels: Mapping[str, str]) -> str:
    """The Chronos name of a job of ours; its own when it has no other."""
    return labels.get(CHRONOS_NAME, our)


def check_name(name: str, version: Version) -> None:
    """Raises InvalidInput for a name that Chronos does not take for a new job, or that is longer than we take."""
    if not _CHRONOS[version].fullmatch(name):
        pattern = _CHRONOS[version].pattern
        raise InvalidInput.of("name", f"the job's name is invalid. Allowed names: '{pattern}'")
    if len(name) > LONGEST:
        raise InvalidInput.of("name", f"{len(name)} characters", f"at most {LONGEST}")
