"""What the engine refuses, as far as the executor treats it apart.

GantryError
├── Conflict ── NameTaken       a container of that name exists
├── NotFound ── ImageMissing    the image is not on this host (create), or nowhere (pull)
└── Refused ─── StartRefused    the container did not start, and does not run
                └── HalfStarted  an engine died while it started it, and what that left is in the way
"""

from __future__ import annotations

from libs.common.errors import Conflict, NotFound, Refused


class NameTaken(Conflict):
    """A container of that name exists."""


class ImageMissing(NotFound):
    """On create: not on this host. On pull: the registry does not have it."""


class StartRefused(Refused):
    """The engine, or the runtime, would not start it; it is certain that it does not run."""


class HalfStarted(StartRefused):
    """The engine knows of no start, but what an earlier one left is in the way; see `Engine.end_leftover`."""
