"""A Mesos credential that is replaced while its users run: master and file get another secret, nothing is restarted."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from libs.common.clock import SystemClock
from libs.mesos import events
from libs.mesos.credentials import CredentialFile, open_credentials
from libs.mesos.errors import AccessDenied
from libs.mesos.framework import SchedulerOptions
from libs.mesos.http import AiohttpTransport
from libs.mesos.operator import OperatorClient
from libs.mesos.subscription import Options
from tests.contract.mesos.cluster import Mesos, Power, minimesos
from tests.contract.mesos.test_clients_live import _info, _next
from tests.frameworks import KINDS, make_client

pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.mesos_power(Power.MASTER, Power.FLAGS),
]
FAST = Options(backoff_min_s=0.01, backoff_max_s=0.05)
_AUTHENTICATED = {
    "credentials": "{credentials}",
    "authenticate_http_frameworks": "true",
    "authenticate_http_readonly": "true",
    "authenticate_http_readwrite": "true",
}


@pytest_asyncio.fixture(loop_scope="session")
async def mesos(tmp_path: Path) -> AsyncIterator[Mesos]:
    """A master that knows `pr` with the secret `se`, and lets nobody else in."""
    async with minimesos(tmp_path, master_flags=_AUTHENTICATED, agents=0) as started:
        yield started


@pytest_asyncio.fixture(loop_scope="session")
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """For both clients."""
    async with aiohttp.ClientSession() as opened:
        yield opened


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The secret as our services are given it."""
    (tmp_path / "secret").write_text("se\n")
    return tmp_path / "secret"


async def _restart(mesos: Mesos, secret: str) -> None:
    """The master comes back knowing another secret of `pr`."""
    assert mesos.master is not None
    known = next(w for w in mesos.master.args if w.startswith("--credentials="))
    await mesos.master.kill()
    Path(known.partition("=")[2]).write_text(f"pr {secret}\n")
    await mesos.master.start()


def _credentials(file: Path) -> CredentialFile:
    found = open_credentials("scheduler", "pr", file)
    assert found is not None
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("first", ["the file", "the master"])
async def test_a_framework_goes_on_with_the_secret_that_the_file_holds_now(
    mesos: Mesos, session: aiohttp.ClientSession, file: Path, kind: str, first: str
) -> None:
    client = make_client(
        kind,
        session,
        [mesos.master_url],
        _info("rotation"),
        credentials=_credentials(file),
        options=SchedulerOptions(FAST),
    )
    async with client.subscribe() as stream:
        await _next(stream, events.Subscribed)
        framework = client.framework_id
        if first == "the file":
            file.write_text("other\n")
            await client.revive()  # the master that is there knows the old one
        await _restart(mesos, "other")
        if first == "the master":  # the framework is refused for a while, and told why
            await _next(stream, events.Disconnected, lambda each: not each.was_subscribed)
            await _next(stream, events.Disconnected, _refused if kind == "libs" else _any)
            file.write_text("")  # somebody is at writing it
            await _next(stream, events.Disconnected, _refused if kind == "libs" else _any)
            file.write_text("other\n")
        await _next(stream, events.Subscribed)
        assert client.framework_id == framework
        await client.revive()


def _refused(event: events.Disconnected) -> bool:
    return event.reason.startswith("401")


def _any(event: events.Disconnected) -> bool:
    return True


def _operator(mesos: Mesos, session: aiohttp.ClientSession, file: Path) -> OperatorClient:
    return OperatorClient(
        AiohttpTransport(session),
        [mesos.master_url],
        clock=SystemClock(),
        rng=random.Random(1),
        credentials=_credentials(file),
        options=FAST,
    )


async def test_an_operator_goes_on_with_the_secret_that_the_file_holds_now(
    mesos: Mesos, session: aiohttp.ClientSession, file: Path
) -> None:
    operator = _operator(mesos, session, file)
    async with operator.subscribe() as stream:
        await _next(stream, events.OperatorEvent)
        await _restart(mesos, "other")
        with pytest.raises(AccessDenied):
            await operator.get_agents()
        await _next(stream, events.Disconnected, _refused)
        file.write_text("other\n")
        assert (await operator.get_agents())["agents"] == []
        assert (await operator.get("/master/state")).status == 200
        await _next(stream, events.OperatorEvent, lambda each: each.type == "SUBSCRIBED")


async def test_calls_side_by_side_are_all_made_with_the_other_secret(
    mesos: Mesos, session: aiohttp.ClientSession, file: Path
) -> None:
    operator = _operator(mesos, session, file)
    file.write_text("other\n")
    await _restart(mesos, "other")
    await asyncio.gather(*(operator.get_agents() for _ in range(8)))
