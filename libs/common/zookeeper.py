"""Leaders elected by ZooKeeper: who has stood longest leads, and who ends in good order is followed at once.

Each candidate has a session of its own and an ephemeral, numbered node below `<path>/<name>`; the lowest number leads,
and each other watches the one before it. kazoo works in threads: nothing of it leaves this module, whatever it says
comes into the loop by `call_soon_threadsafe`, and each call has a time-out of ours.

A connection that breaks is no loss: the servers keep the session, and with it the node, for as long as was agreed. So a
leader goes on until SURE of that time has passed since the last proof, by its own clock, and not a moment longer. A
session that has ended is a loss at once.
"""

from __future__ import annotations

import asyncio
import logging
import re
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from kazoo.client import KazooClient
from kazoo.exceptions import KazooException, NodeExistsError, NoNodeError
from kazoo.handlers.threading import SequentialThreadingHandler
from kazoo.protocol.states import KazooState
from kazoo.security import CREATOR_ALL_ACL

from libs.common.backoff import Backoff
from libs.common.errors import Fenced, InvalidInput, Unavailable
from libs.common.leader import Candidate, Leadership, LeaseLost
from libs.common.telemetry import Log
from libs.common.waiting import set_or_due
from libs.common.zookeeper_url import ZooKeeperSettings

SURE = 0.8  # of the session's time a leader goes on without a proof: what it does must end within the rest
CLOSE_S = 2.0
_RETRY = {"max_tries": -1, "delay": 0.1, "max_delay": 2.0}
_NUMBERED = re.compile(r"_(\d{10})$")

# kazoo writes credentials into its debug log. What matters of it, this module says.
_SILENT = logging.Logger("zookeeper", level=logging.CRITICAL + 1)


class _Unhurried(SequentialThreadingHandler):  # type: ignore[misc]  # kazoo has no types
    """A server may accept an attempt and never answer it when a session ends or the server starts: don't rush it.

    kazoo itself pauses only after it has tried all hosts.
    """

    def create_connection(self, *args: Any, **kwargs: Any) -> Any:
        self.sleep_func(_RETRY["delay"])
        return super().create_connection(*args, **kwargs)


class _Session:
    """One ZooKeeper session, from its first connection to its end. It may be used in the loop that made it only."""

    def __init__(self, settings: ZooKeeperSettings, ttl_s: float, log: Log) -> None:
        self.news = asyncio.Event()  # the connection or something watched has changed
        self.connected = False
        self.ended = False
        self._closing = False
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._client = KazooClient(
            timeout=ttl_s,
            handler=_Unhurried(),
            connection_retry=_RETRY,
            default_acl=CREATOR_ALL_ACL if settings.user else None,
            logger=_SILENT,
            **settings.connection(),
        )
        self._client.add_listener(lambda state: self._post(self._changed, state))
        self._client.start_async()

    @property
    def prefix(self) -> str:
        """How our nodes' names begin: a node whose making was never confirmed is found by it. Raises Unavailable."""
        known = self._client.client_id
        if known is None:
            raise Unavailable("ZooKeeper is not connected")
        return f"{known[0]:x}_"

    async def children(self, path: str, timeout_s: float) -> list[str]:
        """Names of the nodes below. Raises NoNodeError, Unavailable."""
        names: list[str] = await self._do(self._client.get_children_async(path), timeout_s)
        return names

    async def make(self, path: str, holder: str, timeout_s: float) -> None:
        """A numbered node that lives as long as the session. Raises NoNodeError, Unavailable."""
        made = self._client.create_async(path, holder.encode(), ephemeral=True, sequence=True)
        await self._do(made, timeout_s)

    async def make_path(self, path: str, timeout_s: float) -> None:
        """The nodes of a path, those that are not there. Raises Unavailable."""
        with suppress(NodeExistsError):
            await self._do(self._client.ensure_path_async(path), timeout_s)

    async def exists(self, path: str, timeout_s: float, *, watch: bool = False) -> bool:
        """Is there such a node; `watch`: it is news when that changes. Raises Unavailable."""
        call = self._client.exists_async(
            path, (lambda _: self._post(self.news.set)) if watch else None
        )
        return await self._do(call, timeout_s) is not None

    async def close(self) -> None:
        """End the session, and its nodes with it, if that can be done in a moment; else the servers do it in time."""
        self._closing = True
        done = asyncio.Event()

        def end() -> None:
            with suppress(Exception):
                self._client.stop()
                self._client.close()
            self._post(done.set)

        # Not one of the loop's own threads: it waits for those, and this one may wait for ZooKeeper for long.
        threading.Thread(target=end, name="zookeeper-close", daemon=True).start()
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await done.wait()

    async def _do(self, call: Any, timeout_s: float) -> Any:
        arrived: asyncio.Future[None] = self._loop.create_future()

        def wake() -> None:
            if not arrived.done():
                arrived.set_result(None)

        call.rawlink(lambda _: self._post(wake))
        try:
            async with asyncio.timeout(timeout_s):
                await arrived
            return call.get_nowait()
        except TimeoutError:
            raise Unavailable("ZooKeeper does not answer") from None
        except (NoNodeError, NodeExistsError):
            raise
        except KazooException as error:
            raise Unavailable(f"ZooKeeper: {type(error).__name__}") from None

    def _post(self, call: Callable[..., None], *args: Any) -> None:
        """From kazoo's threads into the loop, which may be over already."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(call, *args)

    def _changed(self, state: str) -> None:
        if state == KazooState.LOST:
            self.ended = True  # kazoo may begin another one, which is not this one
        connected = state == KazooState.CONNECTED and not self.ended
        if self.connected and not connected and not self._closing:
            self._log.warning("zookeeper is away", session="ended" if self.ended else "may live")
        self.connected = connected
        self.news.set()


class ZooKeeperElection:
    """See the module."""

    def __init__(self, settings: ZooKeeperSettings) -> None:
        self._settings = settings

    @asynccontextmanager
    async def lead(self, rt: Candidate, name: str, ttl_s: float) -> AsyncIterator[Leadership]:
        """See Election; `ttl_s` is the session's time, which ZooKeeper keeps within 2 to 20 of its ticks."""
        if ttl_s <= 0:
            what = "is 0, and common.election is to elect one of several"
            raise InvalidInput.of(f"{name}.leader_lease_s", what, "seconds, such as 10")
        seat = await self._win(rt, name, ttl_s)
        try:
            yield seat
        finally:
            await seat.close()

    async def _win(self, rt: Candidate, name: str, ttl_s: float) -> _Seat:
        """Stand for election, in one session after the other, until elected."""
        log, backoff, failures = rt.telemetry.log, Backoff(0.2, 5.0), 0
        while True:
            session = _Session(self._settings, ttl_s, log)
            seat = _Seat(rt, session, f"{self._settings.path}/{name}", ttl_s)
            try:
                await seat.win()
            except Unavailable as error:
                await session.close()
                failures += 1
                log.warning("can't stand for election", error=str(error), failures=failures)
            except BaseException:
                await session.close()
                raise
            else:
                return seat
            await rt.clock.sleep(backoff.delay_s(failures, rt.rng))


class _Seat:
    """A candidate and, once it has won, the leader."""

    def __init__(self, rt: Candidate, session: _Session, root: str, ttl_s: float) -> None:
        self._rt = rt
        self._session = session
        self._root = root
        self._ttl_s = ttl_s
        self._node = ""
        self._proved = float("-inf")

    async def win(self) -> None:
        """Return when elected. Raises Unavailable when this session can't be."""
        session = self._session
        while True:
            session.news.clear()
            if session.ended:
                raise Unavailable("ZooKeeper has ended the session, or refuses the credentials")
            if session.connected:
                try:
                    if await self._is_first():
                        return
                except Unavailable as error:
                    if session.connected and not session.ended:
                        self._rt.telemetry.log.warning("the election waits", error=str(error))
            # Whatever happened is news. A look now and then costs nothing, and makes up for what was missed.
            await set_or_due(session.news, self._ttl_s)

    async def _is_first(self) -> bool:
        session, timeout_s = self._session, self._ttl_s
        asked = self._rt.clock.monotonic()
        try:
            found = await session.children(self._root, timeout_s)
        except NoNodeError:
            await session.make_path(self._root, timeout_s)
            found = []
        queue = sorted((each for each in found if _NUMBERED.search(each)), key=_number)
        mine = next((each for each in queue if each.startswith(session.prefix)), None)
        if mine is None:
            await session.make(f"{self._root}/{session.prefix}", self._rt.instance, timeout_s)
            return await self._is_first()
        place = queue.index(mine)
        if place == 0:
            self._node, self._proved = f"{self._root}/{mine}", asked
            return True
        if not await session.exists(f"{self._root}/{queue[place - 1]}", timeout_s, watch=True):
            session.news.set()  # it went meanwhile
        return False

    def certain(self) -> bool:
        """See Leadership."""
        return not self._session.ended and self._left_s() > 0

    def _left_s(self) -> float:
        return self._proved + SURE * self._ttl_s - self._rt.clock.monotonic()

    async def hold(self) -> None:
        """See Leadership."""
        session = self._session
        while True:
            session.news.clear()
            if session.ended:
                raise Fenced("the ZooKeeper session has ended: another may lead")
            asked = self._rt.clock.monotonic()
            wait_s = self._ttl_s / 5
            try:
                if not await session.exists(self._node, max(self._left_s(), 0.01)):
                    raise Fenced(f"{self._node} is gone: another may lead")
                self._proved = asked
            except Unavailable as error:
                if not self.certain() and not session.ended:
                    raise LeaseLost(f"no proof of the leadership: {error}", "zookeeper") from None
                wait_s = min(wait_s, max(self._left_s(), 0.01), 0.5)
            await set_or_due(session.news, wait_s)

    async def close(self) -> None:
        """Give it up."""
        await self._session.close()


def _number(node: str) -> int:
    found = _NUMBERED.search(node)
    assert found is not None
    return int(found[1])
