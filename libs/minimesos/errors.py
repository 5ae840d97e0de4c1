"""Errors of minimesos.

MinimesosError
├── ConfigError       a flag or resource text that cannot be used
├── CallError         what a client sent is refused: carries the HTTP status and the plain text
├── StorageError      the journal on disk cannot be read or written
└── LaunchError       an executor could not be started
"""

from __future__ import annotations


class MinimesosError(Exception):
    """Base of all errors raised on purpose by this package."""


class ConfigError(MinimesosError):
    """A flag, resource text or attribute text is malformed."""


class CallError(MinimesosError):
    """A refused HTTP call.

    `status` is the HTTP status, `text` the body as Mesos words it, `headers` extra headers.
    """

    def __init__(self, status: int, text: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.headers = headers or {}


class StorageError(MinimesosError):
    """The journal could not be read or written."""


class LaunchError(MinimesosError):
    """An executor process could not be started."""
