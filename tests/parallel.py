"""How `pytest -n` spreads the tests: by files, and all that want the machine's one Open vSwitch go to one worker.

They take about half of the time, so they come first; the other workers share the rest. The simulation's seeds come
last and one by one: whichever worker is free takes the next, and all end at about the same time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

SWITCHED = (
    "tests/e2e/",
    "tests/contract/network/",
    "tests/integration/test_cni.py",
    "tests/integration/test_executor.py",
    "tests/integration/test_executor_runs.py",
    "tests/integration/test_first_thing.py",
    "tests/integration/test_hostd",
    "tests/integration/test_provisioner.py",
)
"""Files and directories of tests that use the fixture `ovs`: a network namespace holds one such switch."""

SEEDS = "tests/simulation/test_seeds.py"


class ByFile(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """A file is a unit of work, what is SWITCHED another, and so is each of SEEDS."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        if file == SEEDS:
            return nodeid
        return "switched" if file.startswith(SWITCHED) else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    """See pytest-xdist."""
    return ByFile(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest unit first. Raises UsageError when a test wants the switch that SWITCHED doesn't name."""
    wanting = {_file(item) for item in items if "ovs" in _fixtures(item)}
    if unnamed := sorted(file for file in wanting if not file.startswith(SWITCHED)):
        raise pytest.UsageError(f"tests/parallel.py: SWITCHED lacks {', '.join(unnamed)}")
    items.sort(key=lambda item: (not _file(item).startswith(SWITCHED), _file(item) == SEEDS))


def _file(item: pytest.Item) -> str:
    return item.nodeid.partition("::")[0]


def _fixtures(item: pytest.Item) -> Sequence[str]:
    names: Sequence[str] = getattr(item, "fixturenames", ())
    return names
