"""The words of the public API about dead letters: what a consumer group could not handle."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, StringConstraints, model_validator

from libs.client.model import View
from libs.common.spec import Strict

GROUP_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
PLACE_PATTERN = r"^[0-9]{1,5}:[0-9]{1,15}$"
MAX_PLACES = 100

Place = Annotated[str, StringConstraints(pattern=PLACE_PATTERN)]
"""partition:offset"""


class Replay(Strict):
    """The body of `POST /v1/dead/{group}/replay`: the letters at some places, or `all` that were not replayed yet."""

    places: tuple[Place, ...] = Field(
        (), max_length=MAX_PLACES, description="of letters, replayed before or not"
    )
    all: bool = Field(False, description="all that lie there now, oldest first, a page at a time")
    after: str = Field("", max_length=20_000, description="with `all`: `next` of the page before")

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if self.all == bool(self.places):
            raise ValueError("name places, or ask for all: one of both")
        return self


class DeadView(View):
    """A dead letter: what was not handled, why, and whether it was replayed."""

    group: str
    place: str = Field(description="partition:offset in the group's dead letters")
    topic: str = Field(description="where it came from, and where a replay puts it")
    origin: str = Field("", description="partition:offset there")
    key: str
    reason: str
    time: float = Field(description="when it was given up")
    id: str = Field("", description="the event's ce_id")
    size: int = Field(description="bytes of the value")
    cut_from: int = Field(
        0, description="bytes of the value before it was cut; such a letter can't be replayed"
    )
    replayed_at: float | None = None
    replayed_by: str = ""
    replays: int = 0


class Dead(View):
    """Dead letters, newest first; `more` when older ones were left out."""

    letters: tuple[DeadView, ...]
    more: bool = False


class DeadLetter(DeadView):
    """A dead letter with all that it says. It may hold secrets, such as values of a spec's env."""

    headers: dict[str, str]
    value: str = Field(description="its beginning, as text")
    encoding: str = Field("utf-8", description="of `value`: utf-8, or base64 of what is no text")
    truncated: bool = Field(False, description="`value` is only the beginning")


class NotReplayed(View):
    """A letter that was asked for and left."""

    place: str
    reason: str


class Replayed(View):
    """What a replay did; with `next`, more follow."""

    group: str
    replayed: tuple[str, ...]
    left: tuple[NotReplayed, ...] = ()
    next: str = ""
