"""A virtual-time event loop: hours pass in seconds, and a seed repeats them exactly.

It is CPython's own `BaseEventLoop` with a lean inner loop and nothing to wait for: when nothing is due it moves the
clock to the next timer, and raises `NothingWillHappen` when there is none. Sockets, executors and other threads are
refused. Tasks and futures hash by a per-loop counter, as `TaskGroup` and `asyncio.wait` keep them in sets; the
garbage collector runs at fixed steps, since it may close async generators. Set PYTHONHASHSEED for equal traces in
different processes.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import random
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import suppress
from contextvars import Context, copy_context
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any, NoReturn, TypeVar

from libs.common.clock import RngIds

T = TypeVar("T")

EPOCH_S = 1_541_303_220.0
"""What a VirtualClock shows when the loop starts: 2018-11-04 03:47 UTC.

Thirteen minutes later, at `CHANGE_S`, clocks are changed in both directions: in Cuiabá from 00:00 to 01:00, in
Saint-Pierre-et-Miquelon from 02:00 back to 01:00. No later moment does both (of tzdata 2025)."""
CHANGE_S = EPOCH_S + 780.0
_COLLECT_EVERY = 50_000  # steps between runs of the garbage collector
_SCATTER = (
    2_654_435_761  # Knuth's multiplicative hash: timers of one moment fire in scattered order
)


class NothingWillHappen(RuntimeError):
    """Every task waits for something that no timer will bring about."""


class RealWorld(RuntimeError):
    """Code under virtual time reached for a socket, a thread or an executor."""


class _Future(asyncio.Future[Any]):
    _serial = 0

    def __hash__(self) -> int:
        if not self._serial:  # few futures are ever put into a set
            loop = self.get_loop()
            assert isinstance(loop, VirtualLoop)
            self._serial = loop.next_serial()
        return self._serial


class _Task(asyncio.Task[Any]):
    def __init__(self, coro: Any, *, loop: VirtualLoop, **options: Any) -> None:
        self._serial = loop.next_serial()  # before Task.__init__, which puts it into a set
        # asyncio's own names count through the whole process.
        super().__init__(coro, loop=loop, **{"name": f"task-{self._serial}", **options})

    def __hash__(self) -> int:
        return self._serial


class _Timer:
    """What asyncio calls a handle: a callback, due now or later. A cancelled one has none."""

    __slots__ = ("_when", "args", "callback", "context")

    def __init__(
        self,
        when: float,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        context: Context | None,
    ) -> None:
        self._when = when
        self.callback: Callable[..., object] | None = callback
        self.args = args
        self.context = copy_context() if context is None else context

    def cancel(self) -> None:
        """See asyncio.Handle."""
        self.callback = None
        self.args = ()

    def cancelled(self) -> bool:
        """See asyncio.Handle."""
        return self.callback is None

    def when(self) -> float:
        """See asyncio.TimerHandle."""
        return self._when


class VirtualLoop(asyncio.BaseEventLoop):
    """An event loop whose time moves only when all that is due has been done."""

    # BaseEventLoop's own, of which its stubs don't tell.
    _closed: bool
    _stopping: bool

    def __init__(self) -> None:
        super().__init__()
        self._virtual_now = 0.0
        self._serial = 0
        self._thread = threading.get_ident()
        self._soon: deque[_Timer] = deque()
        self._later: list[tuple[float, int, int, _Timer]] = []  # heap of (when, tie, serial, timer)
        self.steps = 0
        self.after_step: Callable[[], None] | None = None
        self.set_task_factory(_make_task)

    def time(self) -> float:
        """Seconds of virtual time since the loop was made."""
        return self._virtual_now

    def next_serial(self) -> int:
        """A number that no task, future or timer of this loop has yet."""
        self._serial += 1
        return self._serial

    def create_future(self) -> asyncio.Future[Any]:
        """A future with a repeatable hash."""
        return _Future(loop=self)

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> _Timer:
        """In the next step, in the order of the calls."""
        if self._closed:
            raise RuntimeError("the loop is closed")
        timer = _Timer(self._virtual_now, callback, args, context)
        self._soon.append(timer)
        return timer

    def call_later(  # type: ignore[override]
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> _Timer:
        """After `delay` seconds."""
        return self.call_at(self._virtual_now + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> _Timer:
        """At `when`. Those of one moment are called in no particular order, as ever in asyncio."""
        if self._closed:
            raise RuntimeError("the loop is closed")
        timer = _Timer(when, callback, args, context)
        self._serial = serial = self._serial + 1
        heappush(self._later, (when, (serial * _SCATTER) & 0xFFFF_FFFF, serial, timer))
        return timer

    def _run_once(self) -> None:
        """Steps until the loop is stopped. What is due has been done: check, move the clock, do what is due then."""
        soon, later = self._soon, self._later
        while True:
            self.steps += 1
            if self.after_step is not None:
                self.after_step()
            if self.steps % _COLLECT_EVERY == 0:
                gc.collect()
            if not soon and not self._stopping:
                self._move_clock()
            now = self._virtual_now
            while later and later[0][0] <= now:
                soon.append(heappop(later)[3])
            for _ in range(len(soon)):  # what these add is for the next step
                timer = soon.popleft()
                callback = timer.callback
                if callback is None:
                    continue
                try:
                    timer.context.run(callback, *timer.args)
                except (SystemExit, KeyboardInterrupt):
                    raise
                except BaseException as error:
                    what = f"Exception in callback {callback!r}"
                    self.call_exception_handler({"message": what, "exception": error})
            if self._stopping:
                return

    def _move_clock(self) -> None:
        later = self._later
        while later and later[0][3].callback is None:
            heappop(later)
        if not later:
            waiting = sorted(task.get_name() for task in asyncio.all_tasks(self))
            raise NothingWillHappen(f"no timer is set; waiting: {', '.join(waiting)}")
        self._virtual_now = max(self._virtual_now, later[0][0])

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> _Timer:
        """As call_soon, from this thread only (asyncio itself uses it to close async generators)."""
        if threading.get_ident() != self._thread:
            raise RealWorld("another thread called into the virtual loop")
        return self.call_soon(callback, *args, context=context)

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Any, *args: Any
    ) -> NoReturn:
        """Refused: threads have no virtual time."""
        raise RealWorld(f"run_in_executor({func!r}) under virtual time")

    def _make_socket_transport(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise RealWorld("a socket under virtual time")

    async def create_connection(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused."""
        raise RealWorld("create_connection under virtual time")

    async def create_server(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused."""
        raise RealWorld("create_server under virtual time")

    def _write_to_self(self) -> None:
        """Nobody else could be waiting."""


def _make_task(
    loop: asyncio.AbstractEventLoop,
    coro: Coroutine[Any, Any, T] | Generator[Any, None, T],
    **options: Any,
) -> asyncio.Task[T]:
    assert isinstance(loop, VirtualLoop)
    return _Task(coro, loop=loop, **options)


class VirtualClock:
    """A Clock on the loop's time; `skew_s` makes its wall clock wrong."""

    def __init__(self, loop: VirtualLoop, skew_s: float = 0.0) -> None:
        self._loop = loop
        self.skew_s = skew_s

    def now(self) -> float:
        """Seconds since the Unix epoch, as this clock believes."""
        return EPOCH_S + self._loop.time() + self.skew_s

    def monotonic(self) -> float:
        """Seconds since the loop was made."""
        return self._loop.time()

    async def sleep(self, delay_s: float) -> None:
        """Let virtual time pass."""
        await asyncio.sleep(delay_s)


@dataclass(frozen=True)
class World:
    """What a virtual run is handed: everything in it comes from the loop and the seed."""

    loop: VirtualLoop
    clock: VirtualClock
    rng: random.Random
    ids: RngIds
    seed: int


def run(main: Callable[[World], Awaitable[T]], seed: int = 0) -> T:
    """Run `main(world)` to its end in virtual time. An error carries the seed as a note."""
    loop = VirtualLoop()
    rng = random.Random(seed)
    world = World(loop, VirtualClock(loop), rng, RngIds(rng), seed)
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        asyncio.set_event_loop(loop)
        return loop.run_until_complete(_await(main(world)))
    except BaseException as error:
        error.add_note(f"seed {seed}, virtual time {loop.time():.6f} s, step {loop.steps}")
        raise
    finally:
        try:
            with suppress(
                NothingWillHappen
            ):  # a task that will not end must not hide why the run did
                _cancel_all(loop)
                loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            asyncio.set_event_loop(None)
            loop.close()
            if collecting:
                gc.enable()


async def _await(awaitable: Awaitable[T]) -> T:
    return await awaitable


def _cancel_all(loop: VirtualLoop) -> None:
    loop.after_step = None
    left = sorted(asyncio.all_tasks(loop), key=hash)
    for task in left:
        task.cancel()
    if left:
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))


def virtual(test: Callable[[World], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Make a test of an `async def test(world)`, run in virtual time from seed 0."""

    def wrapper() -> None:
        run(test)

    # Not functools.wraps: pytest would follow __wrapped__ and take `world` for a fixture.
    functools.update_wrapper(wrapper, test, updated=())
    del wrapper.__wrapped__  # type: ignore[attr-defined]
    return wrapper
