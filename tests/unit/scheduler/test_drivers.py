"""Which driver a configuration leads to, and what is said when it can't be had."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any, cast

import pytest

from libs.common.clock import SystemClock, system_rng
from libs.common.errors import InvalidInput
from libs.common.runtime import Runtime
from libs.mesos.pymesos_client import PymesosClient
from libs.mesos.scheduler import SchedulerClient
from services.scheduler.mesos import ClientDriver, open_driver
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
