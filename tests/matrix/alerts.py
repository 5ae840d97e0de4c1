"""Was an outage told of, and once? By the events of alerts, and the mails about them. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from libs.client.model import EventView

RAISED, RESOLVED = "alert.raised", "alert.resolved"
_SUBJECT = re.compile(r"\[gantry \S+\] (RAISED|RESOLVED) \w+: (\S+)")


@dataclass(frozen=True)
class Turn:
    """An alert began to fire, or it was over."""

    alert: str
    raised: bool


def of_events(events: Iterable[EventView]) -> list[Turn]:
    """The turns that events tell. The bus has each event once at least: the same one again is no other turn."""
    distinct = {each.id: each for each in events if each.topic in (RAISED, RESOLVED)}
    return [Turn(each.subject, each.topic == RAISED) for each in distinct.values()]


def of_mails(subjects: Iterable[str]) -> list[Turn]:
    """The turns that mails tell, by their subjects."""
    found = filter(None, map(_SUBJECT.search, subjects))
    return [Turn(each[2], each[1] == "RAISED") for each in found]


def untold(alert: str, events: Sequence[Turn], mails: Sequence[Turn], *, once: bool = True) -> str:
    """What is wrong with how an alert was told that had to be; "" is nothing.

    With `once`, that it fires may be mailed again only after it was said to be over. (A mail server that dies or
    freezes before it has said that it took a mail is sent it again.)
    """
    if Turn(alert, raised=True) not in (*events, *mails):
        return f"that {alert} fires was neither an event nor mailed"
    if _again(alert, events) or (once and _again(alert, mails)):
        return f"{alert} was raised again while it fired"
    return ""


def _again(alert: str, turns: Sequence[Turn]) -> bool:
    mine = [each.raised for each in turns if each.alert == alert]
    return any(one and other for one, other in pairwise(mine))
