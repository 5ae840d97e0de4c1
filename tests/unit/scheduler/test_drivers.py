"""Which driver a configuration leads to, and what is said when it can't be had."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any, cast

import pytest

from libs.common.clock import SystemClock, system_rng
from libs.common.errors import InvalidInput
from libs.common.runtime import Runtime
from libs.mesos.messages import TaskStatus
from libs.mesos.pymesos_client import PymesosClient
from libs.mesos.scheduler import SchedulerClient
from services.scheduler.mesos import ACKNOWLEDGED_TOGETHER, ClientDriver, open_driver, together
from services.scheduler.model import Acknowledge, Reconcile, Revive
from services.scheduler.settings import SchedulerConfig
from services.scheduler.tasks import framework_info


async def _open(**settings: Any) -> type:
    config = SchedulerConfig(**settings)
    rt = cast(Runtime, SimpleNamespace(clock=SystemClock(), rng=system_rng()))
    async with open_driver(rt, config, framework_info(config, "")) as driver:
        assert isinstance(driver, ClientDriver)
        return type(driver._client)


async def test_the_setting_names_the_client() -> None:
    assert await _open() is SchedulerClient
    assert await _open(driver="pymesos") is PymesosClient


async def test_a_driver_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "libs.mesos.pymesos_client", None)
    with pytest.raises(InvalidInput, match=r"scheduler\.driver: pymesos is not installed"):
        await _open(driver="pymesos")


async def test_a_master_out_of_its_reach() -> None:
    with pytest.raises(InvalidInput, match=r"scheduler\.masters: .*plain HTTP"):
        await _open(driver="pymesos", masters=("https://master:5050",))


def test_acknowledgements_go_in_lots() -> None:
    def acknowledge(n: int) -> Acknowledge:
        status: TaskStatus = {"task_id": {"value": f"t{n}"}, "state": "TASK_RUNNING"}
        return Acknowledge((status,))

    count = 2 * ACKNOWLEDGED_TOGETHER + 1
    some = [acknowledge(n) for n in range(count)]
    *lots, last = together([some[0], Revive(), *some[1:]])
    assert last == Revive()
    told = [each.statuses for each in lots if isinstance(each, Acknowledge)]
    assert [len(each) for each in told] == [ACKNOWLEDGED_TOGETHER, ACKNOWLEDGED_TOGETHER, 1]
    assert [each for lot in told for each in lot] == [each.statuses[0] for each in some]


def test_questions_by_name_are_one_call_and_the_one_for_all_stays() -> None:
    one, other = Reconcile((("t1", "a1"),)), Reconcile((("t2", None),))  # type: ignore[arg-type]
    found = together([one, Reconcile(), Revive(), other])
    assert found == [Reconcile((*one.tasks, *other.tasks)), Reconcile(), Revive()]
    assert together([]) == []
