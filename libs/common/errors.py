"""The one error tree of Gantry's services and libraries.

    GantryError
    ├── Refused            the asker's fault; says what is wrong and what would be right
    │   ├── InvalidInput   a field has a wrong value
    │   ├── NotFound       the thing asked for does not exist (or is not the asker's to see)
    │   ├── Conflict       true, but not now: another operation holds it, or it exists already
    │   ├── Stale          the version or generation that came with the request is an old one
    │   ├── Unauthenticated
    │   ├── Forbidden
    │   └── TooMany        a quota or a rate limit
    ├── Unavailable        a peer's fault: the store, the bus, a service, Docker, Mesos; worth a retry
    │   ├── TimedOut       no answer in time; the deed may have been done
    │   └── Outdated       what is stored is not for code of this version; another release can work with it
    ├── Fenced             this leader or consumer has been replaced; it must stop acting
    └── Poison             an input that can never be handled; goes to the dead-letter topic

No HTTP here: `libs/common/problems.py` alone turns these into status codes.
"""

from __future__ import annotations

from dataclasses import dataclass


class GantryError(Exception):
    """Base of every error that Gantry raises on purpose."""


class Refused(GantryError):
    """A request that was understood and refused; the asker can mend it."""


@dataclass(frozen=True)
class FieldProblem:
    """One wrong field: its dotted path, what is wrong, and what would be right."""

    field: str
    problem: str
    expected: str = ""


class InvalidInput(Refused):
    """One or more fields are wrong; `problems` names each."""

    def __init__(self, *problems: FieldProblem) -> None:
        self.problems = problems
        super().__init__("; ".join(f"{p.field}: {p.problem}" for p in problems))

    @classmethod
    def of(cls, field: str, problem: str, expected: str = "") -> InvalidInput:
        """The common case of a single wrong field."""
        return cls(FieldProblem(field, problem, expected))


class NotFound(Refused):
    """The thing asked for does not exist, or is not the asker's to see."""


class Conflict(Refused):
    """It exists already, or another operation holds it."""


class Stale(Refused):
    """The version or generation that came with the request is not the current one."""


class Unauthenticated(Refused):
    """No credentials, or wrong ones."""


class Forbidden(Refused):
    """Known, but not allowed to do this."""


class TooMany(Refused):
    """A quota or a rate limit; `retry_after_s` says when to come again, if ever."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message)


class Unavailable(GantryError):
    """A peer could not do its part now; the same call may succeed later."""


class TimedOut(Unavailable):
    """A peer did not answer in time; what was asked may have been done all the same."""


class Outdated(Unavailable):
    """What is stored is of a version that this code can't work with; only another release can."""


class Fenced(GantryError):
    """A newer leader (or consumer of the partition) exists; what this one does is refused."""


class Poison(GantryError):
    """An input that no number of tries will make good."""
