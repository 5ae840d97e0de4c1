"""Smaller forms of what `make network` does: a full matrix on one host, and random steps against the real thing."""

from __future__ import annotations

import pytest

from tests.network.__main__ import matrix
from tests.network.churn import churn
from tests.network.plan import FAULTS, Act, Size, rounds
from tests.network.site import open_site

SEED = 3  # of a plan that has every fault
SMALL = Size(300, at_once=40, fault_share=0.7)


async def test_thirty_on_one_host() -> None:
    async with open_site(1) as site:
        found, _ = await matrix(site, 30, engine=None)
    assert (found.can, found.cannot, found.wrong) == (3 * 10 * 9, 30 * 20, ())


@pytest.mark.timeout(240)
async def test_random_steps_leave_what_should_be_there() -> None:
    async with open_site(SMALL.hosts) as site:
        outcome = await churn(site, SEED, SMALL)
    assert outcome.steps == SMALL.steps
    assert set(outcome.acts) == set(Act)


def test_a_seed_is_a_plan() -> None:
    planned = [list(each) for each in rounds(SEED, SMALL)]
    assert planned == [list(each) for each in rounds(SEED, SMALL)]
    assert planned != [list(each) for each in rounds(SEED + 1, SMALL)]
    assert sum(len(each) for each in planned) == SMALL.steps
    for each in planned:
        callers = [step.container for step in each if step.act not in FAULTS]
        assert len(set(callers)) == len(callers), "a caller makes one call at a time"
