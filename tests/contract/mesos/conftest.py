"""The Mesos under test, and the choice of scenarios it allows."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.contract.mesos.cluster import Mesos, external, minimesos

_DESELECTED = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker that names the powers a test needs over the cluster."""
    config.addinivalue_line("markers", "mesos_power(*powers): what the test does to the cluster")
    config.stash[_DESELECTED] = []


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """On an external Mesos, deselect what needs powers we lack there, and remember why."""
    mesos = external(os.environ)
    if mesos is None:
        return
    kept, left_out = [], []
    for item in items:
        marker = item.get_closest_marker("mesos_power")
        missing = sorted(set(marker.args) - mesos.powers) if marker else []
        if missing:
            left_out.append(item)
            config.stash[_DESELECTED].append(f"{item.nodeid}: cannot {' or '.join(missing)} there")
        else:
            kept.append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = kept


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print the reason of every deselection."""
    for reason in config.stash[_DESELECTED]:
        terminalreporter.write_line(f"DESELECTED {reason}")


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mesos]:
    """The external Mesos, or one minimesos for all tests that need none of their own."""
    mesos = external(os.environ)
    if mesos is not None:
        await mesos.look()
        yield mesos
        return
    async with minimesos(tmp_path_factory.mktemp("mesos")) as mesos:
        yield mesos
