"""Looks after shared containers: follows their inits, plans who joins which, and makes and ends them.

Nothing here must be kept: containers and runs are attempts of the journal's, tasks are known to their inits.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol

from libs.common.backoff import Backoff
from libs.common.clock import Clock
from libs.common.errors import NotFound, Unavailable
from libs.common.task import Ahead, TaskPayload
from libs.common.telemetry import Log
from services.executor import core
from services.executor import moves as m
from services.executor.book import Book
from services.executor.config import ExecutorConfig
from services.executor.model import (
    CLEANING,
    LAUNCHING,
    Attempt,
    AttemptId,
    ContainerName,
    Pool,
    Ref,
    State,
)
from services.executor.ports import Inits
from services.executor.reporting import World
from services.executor.runs import core as runs
from services.executor.runs import pool as pools
from services.executor.runs import shared
from services.executor.runs.model import Listed, Member, TaskRefused, TaskView, Told, Waiting

_BACKOFF = Backoff(0.05, 2.0)
_SILENT = "its init does not answer"
_PLAN_S = 5.0  # so often without a cause: containers become idle, and old


class Machine(Protocol):
    """What moves attempts, as far as it is needed here."""

    def feed(self, attempt: AttemptId, move: m.Input) -> None:
        """Move an attempt."""
        ...

    def enter(self, step: m.Step) -> None:
        """Begin with an attempt that no task of Mesos' stands for."""
        ...

    def world(self) -> World:
        """Now."""
        ...

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> Callable[[], object]:
        """Run it beside the rest; what cancels it."""
        ...


class Keeper:
    """The shared containers of one executor."""

    def __init__(
        self,
        machine: Machine,
        book: Book,
        inits: Inits,
        *,
        clock: Clock,
        rng: random.Random,
        log: Log,
        config: ExecutorConfig,
    ) -> None:
        self._machine = machine
        self._book = book
        self._inits = inits
        self._clock = clock
        self._rng = rng
        self._log = log
        self._config = config
        self._following: dict[AttemptId, Callable[[], object]] = {}
        self._listed: dict[AttemptId, None] = {}  # containers whose tasks are known
        self._unheard: dict[AttemptId, float] = {}  # the others that are followed, since when
        # Tasks that no attempt stands for, by container; since when that is so.
        self._orphans: dict[ContainerName, dict[str, tuple[TaskView, float]]] = {}
        # Tasks that nobody wants, since when: who run are killed. One that was gone is not listed any more.
        self._given_up: dict[str, float] = {}
        self._habits: dict[str, pools.Habit] = {}
        self._left: dict[AttemptId, None] = {}  # earlier workers' containers that must tell first
        self._recovered = False  # are containers that earlier workers left known?
        self._wake = asyncio.Event()
        self.draining = False

    def recovered(self) -> None:
        """All that an earlier worker left has been taken up."""
        self._recovered = True
        for a in list(self._book.attempts.values()):
            if a.pool is not None and a.state not in CLEANING:
                # One may have been heard already: events of the engine's do not wait for its list.
                if a.id not in self._listed:
                    self._left[a.id] = None
                self._container_moved(a)
            if a.shared and a.container and self._book.of_container(a.container) is None:
                self._machine.feed(a.id, m.TaskLost("its container is gone"))
        self._wake.set()

    async def run(self) -> None:
        """Plan for ever, when something has changed and now and then."""
        while True:
            try:
                async with asyncio.timeout(_PLAN_S):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            if self._recovered:
                self._give_up_silent()
                self._give_up_orphans()
                self._plan()

    # -- attempts that moved -----------------------------------------------------------------------

    def moved(self, before: Attempt | None, a: Attempt) -> None:
        """To be told of each change of a run's or a shared container's state."""
        if a.pool is not None:
            self._container_moved(a)
        elif a.shared:
            self._run_moved(before, a)
        self._wake.set()

    def _container_moved(self, a: Attempt) -> None:
        if a.state is State.RUNNING and a.id not in self._following:
            work = self._follow(a.id, Ref(a.container, a.container_id))
            self._following[a.id] = self._machine.spawn(work, f"follow:{a.container}")
            self._unheard[a.id] = self._clock.monotonic()
        if a.state is State.PREPARING and not a.adopting:  # no task was ever in it
            self._left.pop(a.id, None)
        if a.state not in CLEANING:
            return
        self._left.pop(a.id, None)
        self._unheard.pop(a.id, None)
        self._listed.pop(a.id, None)
        self._orphans.pop(a.container, None)
        stop = self._following.pop(a.id, None)
        if stop is not None:
            stop()
        message = a.outcome.message if a.outcome else "it was removed"
        for run in self._book.runs_in(a.container):
            self._machine.feed(run.id, m.TaskLost(f"its container ended: {message}"))
        if not a.started_at and a.pool is not None:
            self._failed(a, a.pool.key, message)

    def _failed(self, container: Attempt, key: str, message: str) -> None:
        """It never ran: whoever waits for it is told, unless another one is coming, or it was made for nobody."""
        if container.pool is not None and not container.pool.sponsor:
            return  # they get one of their own, which they can tell a pull of
        if any(each.key == key for each in self._members() if each.id != container.id):
            return
        for run in self._waiting():
            if run.key == key:
                self._machine.feed(AttemptId(run.attempt), m.NoContainer(message))

    def _run_moved(self, before: Attempt | None, a: Attempt) -> None:
        container = self._book.of_container(a.container) if a.container else None
        if container is None or before is None or before.state is a.state:
            return
        if before.state is State.PREPARING and a.state is State.STARTING:
            self._machine.feed(container, m.TaskJoined())
            key = pools.key_of(a.payload)
            self._habits[key] = pools.began(self._habits.get(key), self._clock.now())
        elif a.state is State.REMOVING:
            idle = not self._book.runs_in(a.container)
            why = "a task ran out of memory" if a.outcome and a.outcome.oom_killed else ""
            self._machine.feed(container, m.TaskLeft(idle, why))

    # -- inits ----------------------------------------------------------------------------------------

    async def _follow(self, container: AttemptId, ref: Ref) -> None:
        failures, heard_at = 0, self._clock.monotonic()
        while True:
            try:
                async for told in self._inits.follow(ref):
                    failures, heard_at = 0, self._clock.monotonic()
                    self._hear(container, ref.name, told)
            except NotFound:
                pass
            except Unavailable as error:
                if failures == 3:
                    self._log.warning("init not heard", container=ref.name, error=str(error))
            failures += 1
            if self._clock.monotonic() - heard_at > self._config.engine_deadline_s:
                self._machine.feed(container, m.StopAsked(0.0, _SILENT))
            await self._clock.sleep(_BACKOFF.delay_s(failures, self._rng))

    def _hear(self, container: AttemptId, name: ContainerName, told: Told) -> None:
        match told:
            case TaskView():
                self._seen(container, name, told)
            case TaskRefused(task, why):
                for run in self._book.runs_in(name):
                    if (run.task or run.id) == task:
                        lost = m.TaskLost(f"it did not start: {why}", started=False)
                        self._machine.feed(run.id, lost)
            case Listed(tasks):
                self._listed[container] = None
                self._left.pop(container, None)
                self._unheard.pop(container, None)
                for run in self._book.runs_in(name):
                    if (run.task or run.id) not in tasks:
                        self._machine.feed(run.id, m.TaskUnknown())
                self._wake.set()

    def _seen(self, container: AttemptId, name: ContainerName, view: TaskView) -> None:
        for run in self._book.runs_in(name):
            if (run.task or run.id) == view.task:
                if view.leaked:
                    self._log.warning("processes were left", attempt=run.id, container=name)
                    self._machine.feed(container, m.TaskLeft(False, "a task left processes"))
                self._machine.feed(run.id, m.TaskSeen(view))
                return
        a = self._book.get(AttemptId(view.task))
        told = a is not None and a.state in CLEANING
        if not view.running and (told or view.task in self._given_up):
            self._given_up.pop(view.task, None)
            if not told or self._book.is_saved(AttemptId(view.task)):  # else it is, once that is so
                self._forget(name, view.task)
            return
        known = self._orphans.setdefault(name, {})
        known[view.task] = (view, known.get(view.task, (view, self._clock.now()))[1])

    def _forget(self, name: ContainerName, task: str) -> None:
        async def forget() -> None:
            try:
                await self._inits.forget(name, task)
            except (NotFound, Unavailable):
                pass  # it is listed again

        self._machine.spawn(forget(), f"forget:{task}")

    def let_go(self, task: str) -> None:
        """Its end is known already: what its init still has of it is cleared away, now or when that is listed."""
        for name, tasks in self._orphans.items():
            if task in tasks:
                self._clear(name, tasks.pop(task)[0])
                return
        self._given_up[task] = self._clock.now()

    def _give_up_silent(self) -> None:
        """An init that is frozen takes a connection and says nothing; runs that may be in there wait for its word."""
        now = self._clock.monotonic()
        for container, since in list(self._unheard.items()):
            if now - since > self._config.engine_deadline_s:
                del self._unheard[container]
                self._machine.feed(container, m.StopAsked(0.0, _SILENT))

    def _give_up_orphans(self) -> None:
        """Tasks whose attempts are over for Mesos wait to be taken over, and end when nobody does."""
        now = self._clock.now()
        for task, since in list(self._given_up.items()):
            if now - since >= self._config.orphan_grace_s:
                del self._given_up[task]  # should it be listed after all, it waits once more
        for name, tasks in self._orphans.items():
            for task, (view, since) in list(tasks.items()):
                if now - since < self._config.orphan_grace_s:
                    continue
                del tasks[task]
                self._log.warning("clearing away", container=name, task=task)
                self._clear(name, view)

    def _clear(self, name: ContainerName, view: TaskView) -> None:
        if view.running:
            self._given_up[view.task] = self._clock.now()
            self._machine.spawn(self._kill(name, view.task), f"kill:{view.task}")
        else:
            self._forget(name, view.task)

    async def _kill(self, name: ContainerName, task: str) -> None:
        try:
            await self._inits.kill(name, task, "SIGKILL", 0.0)
        except (NotFound, Unavailable):
            pass

    # -- the plan -------------------------------------------------------------------------------------

    def _members(self) -> list[Member]:
        """Containers that are there or coming, and not on their way out."""
        found = []
        for a in self._book.attempts.values():
            if a.pool is None or a.stop is not None or a.state not in LAUNCHING | {State.RUNNING}:
                continue
            tasks = len(self._book.runs_in(a.container)) + len(self._orphans.get(a.container, {}))
            found.append(
                Member(
                    id=a.id,
                    container=a.container,
                    key=a.pool.key,
                    ready=a.state is State.RUNNING and a.id in self._listed,
                    tasks=tasks,
                    uses=a.pool.uses,
                    made_at=a.launched_at,
                    idle_since=a.pool.idle_since or a.started_at or a.launched_at,
                    recycle=a.pool.recycle,
                    ahead=not a.pool.sponsor,
                )
            )
        return found

    def _waiting(self) -> list[Waiting]:
        found = [a for a in self._book.attempts.values() if a.shared and runs.waits(a)]
        return [Waiting(a.id, pools.key_of(a.payload)) for a in found]

    def _plan(self) -> None:
        if self._left and not self.draining:
            return  # what waits may run in there
        waiting = [each for each in self._waiting() if not self._take_over(each)]
        closing = sum(
            a.pool is not None and (a.stop is not None or a.state in CLEANING)
            for a in self._book.attempts.values()
        )
        now, members = self._clock.now(), self._members()
        for key in pools.outdated(self._habits, members, now, self._config):
            del self._habits[key]
        plan = pools.plan(
            members, waiting, self._habits, closing, self._config, now,
            draining=self.draining,
        )  # fmt: skip
        for run, container in plan.joins:
            found = self._book.get(AttemptId(container))
            if found is not None and found.network is not None:
                self._machine.feed(AttemptId(run), m.Joined(found.container, found.network))
        for run in plan.opens:
            self._open(AttemptId(run))
        for container, why in plan.closes:
            self._log.info("closing a shared container", container=container, reason=why)
            self._machine.feed(AttemptId(container), m.StopAsked(0.0, why))

    def _take_over(self, run: Waiting) -> bool:
        """It is a task that an earlier attempt at the same instance began: one that runs, or whose end is asked for."""
        a = self._book.get(AttemptId(run.attempt))
        if a is None:
            return True
        adopt = a.payload.adopt
        for name, task, view in self._orphans_of(a.payload.instance):
            owner = self._book.of_container(name)
            container = self._book.get(owner) if owner is not None else None
            if container is None or container.network is None:
                continue
            del self._orphans[name][task]
            if not view.running and not adopt and task != a.id:
                self._forget(name, task)  # its end is known, and this is another try
                continue
            self._machine.feed(a.id, m.Joined(name, container.network, task))
            self._machine.feed(a.id, m.TaskSeen(view))
            return True
        if adopt:
            message = f"nobody can tell how it ended: it is not in {adopt} any more"
            self._machine.feed(a.id, m.NoContainer(message, started=True))
        return bool(adopt)

    def _orphans_of(self, instance: str) -> list[tuple[ContainerName, str, TaskView]]:
        """The newest try first: what an older one left, when several executors died, is not this one's."""
        found = [
            (name, task, view)
            for name, tasks in self._orphans.items()
            for task, (view, _) in tasks.items()
            if task.rpartition(".")[0] == instance
        ]
        return sorted(found, key=lambda each: int(each[1].rpartition(".")[2]), reverse=True)

    def make_ready(self, ahead: Sequence[Ahead], cluster: str) -> None:
        """Runs like these are about to be due: containers for them are made or kept. Nothing depends on it."""
        if self.draining or not self._recovered or self._left:
            return
        now = self._clock.now()
        for each in ahead:
            run = shared.foretold(each, cluster)
            key = pools.key_of(run)
            self._habits[key] = pools.foretell(self._habits.get(key), now)
            if pools.lacks(self._members(), key, now, self._config):
                self._make(run, AttemptId(""))

    def _open(self, run: AttemptId) -> None:
        a = self._book.get(run)
        if a is not None:
            self._make(a.payload, run)

    def _make(self, run: TaskPayload, sponsor: AttemptId) -> None:
        bu = run.app.partition("/")[0]
        payload = shared.payload_for(run, f"{bu}-runs-{self._rng.getrandbits(40):010x}")
        pool = Pool(key=pools.key_of(run), sponsor=sponsor, idle_since=self._clock.now())
        self._log.info("making a shared container", container=payload.attempt, sponsor=sponsor)
        self._machine.enter(core.open_pool(pool, payload, self._machine.world()))
