"""What is ZooKeeper's own: sessions that end, servers that restart, credentials, and what its logs must not have."""

from __future__ import annotations

import asyncio
import logging
import random
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import NoAuthError

from infra import provision
from infra.provision import Server
from infra.provision.certificates import make_certificates
from libs.common.errors import Fenced, InvalidInput
from libs.common.leader import Leadership, leadership
from libs.common.runtime import CommonConfig, Runtime, open_election, open_runtime, open_shared
from tests.contract.election.conftest import SOON_S, TTL_S
from tests.servers import MARK, ServerPark

LONG_S = 40.0  # what a server takes to start on a busy machine is well within it


@pytest.fixture(scope="module")
def secure_zookeeper(server_park: ServerPark) -> Server:
    def secure(directory: Path) -> AbstractAsyncContextManager[Server]:
        return provision.zookeeper(directory, secure=True)

    return server_park.start("zookeeper-doors", secure)


async def candidate(stack: AsyncExitStack, directory: Path, election: str) -> Runtime:
    common = CommonConfig(data_dir=directory, bus="memory:", store="memory:", election=election)
    shared = await stack.enter_async_context(open_shared(common, {}))
    return await stack.enter_async_context(open_runtime(shared, "tests"))


async def _holding(led: Leadership) -> asyncio.Task[None]:
    task = asyncio.create_task(led.hold())
    await asyncio.sleep(0)
    return task


async def test_a_session_that_ends_is_a_loss_at_once(zookeeper_url: str, tmp_path: Path) -> None:
    """Another connection takes the session over and closes it, as an expiry would."""
    async with AsyncExitStack() as stack:
        rt = await candidate(stack, tmp_path, f"{zookeeper_url}/{MARK}/ends")
        led = await stack.enter_async_context(leadership(rt, "tests", 10.0))
        holding = await _holding(led)
        assert led.certain()
        known = led._session._client.client_id  # type: ignore[attr-defined]
        await asyncio.to_thread(_end_session, zookeeper_url, known)
        async with asyncio.timeout(SOON_S + 1):
            with pytest.raises(Fenced):
                await holding
        assert not led.certain()


def _end_session(url: str, client_id: tuple[int, bytes]) -> None:
    other = KazooClient(url.removeprefix("zk://"), client_id=client_id)
    other.start()
    other.stop()
    other.close()


async def test_a_restart_within_the_sessions_time_changes_nothing(
    zookeeper_server: Server, tmp_path: Path
) -> None:
    async with AsyncExitStack() as stack:
        rt = await candidate(stack, tmp_path, f"{zookeeper_server.url}/{MARK}/restarts")
        led = await stack.enter_async_context(leadership(rt, "tests", LONG_S))
        holding = await _holding(led)
        await zookeeper_server.kill9()
        assert led.certain()
        proved = led._proved  # type: ignore[attr-defined]
        await zookeeper_server.start()
        async with asyncio.timeout(30):
            while led._proved == proved:  # type: ignore[attr-defined]
                await asyncio.sleep(0.02)
        assert led.certain() and not holding.done()
        holding.cancel()


@dataclass
class DeafWay:
    """A way to ZooKeeper. While it is deaf connections are accepted, and nothing that they say is answered."""

    target: tuple[str, int]
    deaf: bool = False
    unanswered: int = 0
    _writers: list[asyncio.StreamWriter] = field(default_factory=list)

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        if self.deaf:
            self.unanswered += 1
            await reader.read()
            return
        answers, onward = await asyncio.open_connection(*self.target)
        self._writers.append(onward)
        await asyncio.gather(self._carry(reader, onward), self._carry(answers, writer))

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while said := await reader.read(65536):
                writer.write(said)
        writer.close()

    def cut(self) -> None:
        """End all connections."""
        while self._writers:
            self._writers.pop().close()


async def test_an_attempt_that_is_never_answered_does_not_cost_the_session(
    zookeeper_url: str, tmp_path: Path
) -> None:
    """As of a server that is just starting: seen in three of a hundred restarts on a busy machine."""
    host, _, port = zookeeper_url.removeprefix("zk://").partition(":")
    way = DeafWay((host, int(port)))
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(
            await asyncio.start_server(way.accept, "127.0.0.1", 0)
        )
        stack.callback(way.cut)
        url = f"zk://127.0.0.1:{server.sockets[0].getsockname()[1]}/{MARK}/deaf"
        led = await stack.enter_async_context(
            leadership(await candidate(stack, tmp_path, url), "tests", LONG_S)
        )
        holding = await _holding(led)
        way.deaf = True
        way.cut()
        async with asyncio.timeout(15):
            while not way.unanswered:
                await asyncio.sleep(0.02)
        way.deaf = False
        proved = led._proved  # type: ignore[attr-defined]
        async with asyncio.timeout(25):
            while led._proved == proved:  # type: ignore[attr-defined]
                await asyncio.sleep(0.02)
        assert led.certain() and not holding.done()
        holding.cancel()


async def test_one_of_many_leads_in_the_order_of_their_standing(
    zookeeper_url: str, tmp_path: Path
) -> None:
    order: list[int] = []
    leading = 0

    async def stand(number: int, rt: Runtime) -> None:
        nonlocal leading
        async with leadership(rt, "tests", 10.0):  # nobody's may expire while it leads
            leading += 1
            assert leading == 1
            order.append(number)
            await asyncio.sleep(0.05)
            leading -= 1

    async with AsyncExitStack() as stack:
        rt = await candidate(stack, tmp_path, f"{zookeeper_url}/{MARK}/many")
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            for number in range(6):
                group.create_task(stand(number, rt))
    assert sorted(order) == list(range(6))


async def test_credentials_close_the_nodes_to_others_and_show_up_nowhere(
    zookeeper_url: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(1)
    logging.getLogger("kazoo").setLevel(1)
    secret = f"s3cret-{random.random()}"
    for name, text in (("right", secret), ("wrong", "other-" + secret)):
        (tmp_path / name).write_text(text + "\n")
    place = f"{zookeeper_url.replace('://', '://gantry@')}/{MARK}-own"
    async with AsyncExitStack() as stack:
        rt = await candidate(stack, tmp_path, f"{place}?password_file={tmp_path / 'right'}")
        await stack.enter_async_context(leadership(rt, "tests", TTL_S))
        stranger = await candidate(stack, tmp_path, f"{place}?password_file={tmp_path / 'wrong'}")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5), leadership(stranger, "tests", TTL_S):
                raise AssertionError("elected without the right to stand")
        with pytest.raises(NoAuthError):
            await asyncio.to_thread(_children, zookeeper_url, f"/{MARK}-own/tests")
    said = caplog.text + "".join(capfd.readouterr())
    assert "NoAuthError" in said and secret not in said
    assert secret not in repr(rt.common) + repr(rt.election)


async def test_over_tls_both_sides_show_a_certificate(
    secure_zookeeper: Server, tmp_path: Path
) -> None:
    url = secure_zookeeper.url
    plain, _, options = url.partition("?")
    other = await make_certificates(tmp_path)
    trusting, own = options.partition("&certfile=")[::2]
    theirs = f"certfile={other.certificate}&keyfile={other.key}"
    strangers = {
        "without TLS": plain,
        "without a certificate": f"{plain}?{trusting}",
        "with a certificate of another authority": f"{plain}?{trusting}&{theirs}",
        "trusting another authority": f"{plain}?tls=1&cafile={other.authority}&certfile={own}",
    }

    async def elected(election: str, within_s: float) -> bool:
        async with AsyncExitStack() as stack:
            rt = await candidate(stack, tmp_path, election)
            with suppress(TimeoutError):
                async with asyncio.timeout(within_s), leadership(rt, "tests", TTL_S):
                    return True
        return False

    assert await elected(url, 60.0)  # the first one also waits for what Java has yet to load
    found = await asyncio.gather(*(elected(each, 1.5) for each in strangers.values()))
    assert not any(found), dict(zip(strangers, found, strict=True))
    assert await elected(url, 30.0)


def _children(url: str, path: str) -> list[str]:
    client = KazooClient(url.removeprefix("zk://"))
    client.start()
    try:
        found: list[str] = client.get_children(path)
        return found
    finally:
        client.stop()
        client.close()


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("zk://", "no servers"),
        ("zk://host", "no servers"),
        ("zk://u:s3cret@host:1", "a password in the URL"),
        ("zk://u@host:1", "a user without a password"),
        ("zk://host:1?password_file=/dev/null", "a user without a password"),
        ("zk://u@host:1?password_file=/nonexistent", "can't be read"),
        ("zk://host:1?tsl=1", "unknown options"),
        ("etcd://host:1", "can't elect"),
    ],
)
def test_urls_that_say_nothing(url: str, what: str) -> None:
    with pytest.raises(InvalidInput, match=what) as found:
        open_election(url)
    assert "s3cret" not in str(found.value)


async def test_zookeeper_is_to_elect_nobody(tmp_path: Path) -> None:
    """Two that both believe to be the only one would lead at once."""
    async with AsyncExitStack() as stack:
        rt = await candidate(stack, tmp_path, "zk://127.0.0.1:1/gantry")
        with pytest.raises(InvalidInput, match=r"scheduler\.leader_lease_s"):
            async with leadership(rt, "scheduler", 0.0):
                raise AssertionError
