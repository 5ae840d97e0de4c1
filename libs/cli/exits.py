"""Exit codes that mean something, and which error means which."""

from __future__ import annotations

from enum import IntEnum

from libs.common import errors


class Exit(IntEnum):
    """What the command's exit code says."""

    OK = 0
    FAILED = 1
    USAGE = 2
    FORBIDDEN = 3
    NOT_FOUND = 4
    UNAVAILABLE = 5
    TIMED_OUT = 6
    REFUSED = 7
    INTERRUPTED = 130


MEANING = {
    Exit.OK: "done",
    Exit.FAILED: "the deployment or run failed, was rolled back, aborted or overtaken; or the doctor found something",
    Exit.USAGE: "wrong usage or bad input",
    Exit.FORBIDDEN: "no key, a wrong one, or a role that is too low",
    Exit.NOT_FOUND: "no such thing, or not yours to see",
    Exit.UNAVAILABLE: "the server can't be reached, or a part of it is away",
    Exit.TIMED_OUT: "not done in time; it may still be going on",
    Exit.REFUSED: "not now: a conflict, an old version, or too much at once",
    Exit.INTERRUPTED: "interrupted",
}

HELP = "Exit codes: " + " · ".join(f"{code.value} {text}" for code, text in MEANING.items())

_OF_ERROR: tuple[tuple[type[errors.GantryError], Exit], ...] = (
    (errors.InvalidInput, Exit.USAGE),
    (errors.Unauthenticated, Exit.FORBIDDEN),
    (errors.Forbidden, Exit.FORBIDDEN),
    (errors.NotFound, Exit.NOT_FOUND),
    (errors.Refused, Exit.REFUSED),
    (errors.TimedOut, Exit.TIMED_OUT),
    (errors.Unavailable, Exit.UNAVAILABLE),
)


class DeployFailed(errors.GantryError):
    """A deployment that was watched ended badly."""


class RunFailed(errors.GantryError):
    """A job's run that was waited for ended badly."""


def exit_of(error: errors.GantryError) -> Exit:
    """The exit code for an error."""
    if isinstance(error, DeployFailed | RunFailed):
        return Exit.FAILED
    for kind, code in _OF_ERROR:
        if isinstance(error, kind):
            return code
    return Exit.UNAVAILABLE
