"""The simulation gives way: its time is virtual, and beside it run tests whose time is not."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

GIVEN_WAY = 10


@pytest.fixture(scope="module", autouse=True)
def gives_way() -> Iterator[None]:
    """The worker's priority is low in these modules, and what they start inherits it."""
    before = os.getpriority(os.PRIO_PROCESS, 0)
    os.setpriority(os.PRIO_PROCESS, 0, max(before, GIVEN_WAY))
    yield
    if os.geteuid() == 0:  # nobody else may raise it again
        os.setpriority(os.PRIO_PROCESS, 0, before)
