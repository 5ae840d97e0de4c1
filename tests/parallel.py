"""How `pytest -n` spreads the tests: by files, but for those that want an Open vSwitch: a network namespace holds one.

What is SWITCHED is one unit of work and needs the machine's own namespace. What is WIRED is another, for the last
worker, which is BOXED: in a namespace of its own, where it goes on with tests that need only loopback. Both are long:
they come first. So are the simulation's seeds, which come next, each by itself.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

from tests import garbage

SWITCHED = ("tests/e2e/", "tests/integration/test_provisioner.py")
WIRED = (
    "tests/contract/network/",
    "tests/integration/test_cni.py",
    "tests/integration/test_executor.py",
    "tests/integration/test_executor_runs.py",
    "tests/integration/test_first_thing.py",
    "tests/integration/test_full_host.py",
    "tests/integration/test_hostd",
)
"""Files and directories of tests that use the fixture `ovs`. What is WIRED fetches nothing from anywhere."""

LOOPBACK = ("tests/unit/", "tests/simulation/", "wired")
SEEDS = "tests/simulation/test_seeds.py"
BOXED = f"popen//python={Path(__file__).with_name('boxed.sh')} {sys.executable}"


class ByFile(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """A file is a unit of work, so is each of SEEDS, and so are what is SWITCHED and what is WIRED."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        if file == SEEDS:
            return nodeid
        if file.startswith(SWITCHED):
            return "switched"
        return "wired" if file.startswith(WIRED) else file

    def _assign_work_unit(self, node: WorkerController) -> None:
        ours = (scope for scope in self.workqueue if self._takes(node, scope))
        if (scope := next(ours, None)) is None:
            node.shutdown()
            return
        self.workqueue.move_to_end(scope, last=False)
        super()._assign_work_unit(node)

    def _takes(self, node: WorkerController, scope: str) -> bool:
        if _boxed(node):
            return scope.startswith(LOOPBACK)
        return scope != "wired" or not any(_boxed(each) for each in self.nodes)


def _boxed(node: WorkerController) -> bool:
    return "boxed.sh" in (node.gateway.spec.python or "")


def pytest_configure(config: pytest.Config) -> None:
    """The last of several workers is boxed, where we may make namespaces."""
    workers: list[str] = getattr(config.option, "tx", [])
    if len(workers) > 1 and os.geteuid() == 0 and not hasattr(config, "workerinput"):
        workers[-1] = BOXED


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    """See pytest-xdist."""
    return ByFile(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest units first. Raises UsageError when a test wants a switch and is in no unit that has one."""
    with_switch = (*SWITCHED, *WIRED)
    wanting = {_file(item) for item in items if "ovs" in _fixtures(item)}
    if unnamed := sorted(file for file in wanting if not file.startswith(with_switch)):
        raise pytest.UsageError(f"tests/parallel.py: nothing names {', '.join(unnamed)}")
    items.sort(key=lambda item: (not _file(item).startswith(with_switch), _file(item) != SEEDS))


def pytest_collection_finish() -> None:
    """Thousands of tests live to the end."""
    garbage.spare()


def _file(item: pytest.Item) -> str:
    return item.nodeid.partition("::")[0]


def _fixtures(item: pytest.Item) -> Sequence[str]:
    names: Sequence[str] = getattr(item, "fixturenames", ())
    return names
