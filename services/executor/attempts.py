"""What moves attempts: core says what comes of an input; that is saved first, and done then."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Mapping
from typing import Any

from libs.common.clock import Clock
from libs.common.telemetry import Log
from libs.common.waiting import TaskGroup
from libs.mesos.messages import TaskInfo
from services.executor import core
from services.executor import moves as m
from services.executor.book import Book
from services.executor.config import ExecutorConfig
from services.executor.hands import Hands
from services.executor.mesos import status_fields
from services.executor.model import (
    Attempt,
    AttemptId,
    ContainerName,
    Identity,
    Ref,
    State,
    TaskState,
)
from services.executor.ports import ExecutorDriver
from services.executor.reporting import World
from services.executor.updates import Updates


class Attempts:
    """The attempts of one worker, and the tasks that act for them. It works once `begin` was called."""

    def __init__(
        self,
        book: Book,
        hands: Hands,
        driver: ExecutorDriver,
        *,
        clock: Clock,
        log: Log,
        config: ExecutorConfig,
        identity: Identity,
    ) -> None:
        self._book = book
        self._hands = hands
        self._driver = driver
        self._clock = clock
        self._log = log
        self._config = config
        self._identity = identity
        self._updates = Updates(driver, book, log, self.tidy)
        self._group: TaskGroup
        self._shared_moved: Callable[[Attempt | None, Attempt], None]
        self._tasks: dict[AttemptId, dict[asyncio.Task[None], None]] = {}
        self._discarding: dict[ContainerName, None] = {}
        self._inherited: dict[AttemptId, None] = dict.fromkeys(book.attempts)

    def begin(
        self, group: TaskGroup, shared_moved: Callable[[Attempt | None, Attempt], None]
    ) -> None:
        """Act in `group`; tell `shared_moved` how shared containers and runs in them move: before and after."""
        self._group = group
        self._shared_moved = shared_moved

    def world(self) -> World:
        """What core may know besides an attempt."""
        return World(self._config, self._identity, self._clock.now())

    def enter(self, step: m.Step, task: TaskInfo | None = None) -> None:
        """Begin with an attempt, which a task of Mesos' stands for or none."""
        self._book.open(step.attempt, task)
        self.apply(step)

    def feed(self, attempt: AttemptId, move: m.Input) -> None:
        """Move an attempt; one that is no longer known stays so."""
        current = self._book.get(attempt)
        if current is not None:
            self.apply(core.advance(current, move, self.world()))

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> Callable[[], object]:
        """Run it beside the rest; what cancels it."""
        return self._group.create_task(work, name=name).cancel

    def tell(self, task_id: str, state: TaskState, fields: Mapping[str, Any]) -> None:
        """Send an update about a task that no attempt stands for."""
        status = self._driver.make_status(task_id, state.value, fields)
        self._updates.send(AttemptId(task_id), status, self._group)

    @property
    def untold(self) -> bool:
        """Are updates on their way?"""
        return bool(self._updates)

    def inherited(self) -> Iterator[Attempt]:
        """Those of an earlier worker that have not moved yet, each when its turn comes. To be asked once."""
        for attempt in list(self._inherited):
            current = self._book.get(attempt)
            if current is not None and attempt in self._inherited:
                yield current
        self._inherited.clear()

    def apply(self, step: m.Step) -> None:
        """Save first, then act."""
        attempt = step.attempt
        before = self._book.get(attempt.id)
        statuses = [  # to Mesos a shared container is nothing
            self._driver.make_status(attempt.id, action.state.value, status_fields(action))
            for action in step.actions
            if isinstance(action, m.Report) and attempt.pool is None
        ]
        self._book.save(attempt, statuses)
        if before is not None and before.state is not attempt.state:
            self._inherited.pop(attempt.id, None)
            self._note(attempt)
        self._hands.moved(attempt)
        for status in statuses:
            self._updates.send(attempt.id, status, self._group)
        for action in step.actions:
            if isinstance(action, m.Discard):
                self.discard(action)
            elif not isinstance(action, m.Report):
                self._spawn(attempt.id, self._perform(attempt.id, action))
        if attempt.shared or attempt.pool is not None:
            self._shared_moved(before, attempt)
        self.tidy(attempt.id)

    def _note(self, attempt: Attempt) -> None:
        over = State.REMOVING if attempt.shared else State.REVOKING
        if attempt.state is State.RUNNING:
            total_s = round(self._clock.now() - attempt.launched_at, 4)
            times = self._hands.times(attempt.id)
            self._log.info("running", **facts(attempt), **times, total_s=total_s)
        elif attempt.state in (over, State.DONE) and attempt.outcome is not None:
            self._log.info(
                "ended" if attempt.state is over else "cleared away",
                **facts(attempt),
                outcome=attempt.outcome.state.value,
                message=attempt.outcome.message,
            )

    def tidy(self, attempt: AttemptId) -> None:
        """Forget an attempt of which nothing is left and that Mesos knows to be over."""
        if self._book.get(attempt) is None or not self._book.finished(attempt):
            return
        if attempt in self._updates:
            return
        self._book.drop(attempt)
        self._hands.times(attempt)
        current = asyncio.current_task()
        for task in self._tasks.pop(attempt, {}):
            if task is not current:
                task.cancel()

    def _spawn(self, attempt: AttemptId, work: Coroutine[Any, Any, None]) -> None:
        task = self._group.create_task(work, name=f"attempt:{attempt}")
        tasks = self._tasks.setdefault(attempt, {})
        tasks[task] = None
        task.add_done_callback(lambda done: tasks.pop(done, None))

    async def _perform(self, attempt: AttemptId, action: m.Action) -> None:
        """Do one action and feed back what came of it."""
        try:
            result = await self._hands.do(attempt, action)
            if result is not None:
                self.feed(attempt, result)
        except Exception as error:
            # One attempt that meets a bug must not end the worker of all the others, again and again.
            self._log.error("attempt broken", attempt=attempt, exc_info=error)
            self.feed(attempt, m.Broken(f"an error in the executor: {error!r}"))

    def discard(self, what: m.Discard) -> None:
        """Clear a container away that no attempt wants."""
        if what.container in self._discarding:
            return
        self._discarding[what.container] = None
        self._log.warning("clearing away", container=what.container)
        self._group.create_task(self._discard_one(what), name=f"discard:{what.container}")

    async def _discard_one(self, what: m.Discard) -> None:
        try:
            await self._hands.discard(Ref(what.container, what.container_id))
        finally:
            del self._discarding[what.container]


def facts(attempt: Attempt) -> dict[str, str]:
    """What log lines about an attempt say."""
    trace = attempt.payload.traceparent.split("-")
    return {
        "attempt": attempt.id,
        "container": attempt.container,
        "address": attempt.network.ip if attempt.network else "",
        **({"trace_id": trace[1]} if len(trace) == 4 else {}),
    }
