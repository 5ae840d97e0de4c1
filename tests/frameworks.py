"""Both clients of the scheduler API, made alike: what is tested of one is tested of the other."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import aiohttp

from libs.common.clock import SystemClock
from libs.mesos.framework import FrameworkClient
from libs.mesos.keepalive import KeepAliveTransport
from libs.mesos.messages import FrameworkInfo
from libs.mesos.pymesos_client import PymesosClient
from libs.mesos.scheduler import SchedulerClient

KINDS = ("libs", "pymesos")
"""As the setting `scheduler.driver` calls them."""


def make_client(
    kind: str,
    session: aiohttp.ClientSession,
    masters: Sequence[str],
    info: FrameworkInfo,
    **more: Any,
) -> FrameworkClient:
    """A client of that kind; `more` goes to it as it is."""
    clock, rng = SystemClock(), random.Random(1)
    if kind == "pymesos":
        return PymesosClient(masters, info, clock=clock, rng=rng, **more)
    return SchedulerClient(KeepAliveTransport(session), masters, info, clock=clock, rng=rng, **more)
