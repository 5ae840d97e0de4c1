"""The executor's worker: the agent's events become inputs; its parts move attempts and look at the engine.

It holds nothing that can't be found again in the journal and the engine, so it may be killed at any time.
"""

from __future__ import annotations

import random

from libs.common.clock import Clock
from libs.common.errors import InvalidInput, Unavailable
from libs.common.task import TaskPayload
from libs.common.telemetry import Telemetry
from libs.common.waiting import TaskGroup
from libs.mesos import events as mesos_events
from libs.mesos.messages import TaskInfo
from services.executor import core
from services.executor import moves as m
from services.executor.attempts import Attempts, facts
from services.executor.book import Book
from services.executor.config import ExecutorConfig
from services.executor.ends import Ends
from services.executor.hands import Hands
from services.executor.janitor import Janitor
from services.executor.lookout import Lookout
from services.executor.mesos import ahead_of, asked_anew, grace_of, payload_of, status_fields
from services.executor.model import (
    Attempt,
    AttemptId,
    ContainerName,
    Identity,
    State,
    TaskState,
)
from services.executor.ports import (
    Deliveries,
    Engine,
    ExecutorDriver,
    Inits,
    Journal,
    Network,
    Prober,
)
from services.executor.reporting import put_off
from services.executor.runs.keeper import Keeper
from services.executor.runs.pool import is_shared

_DRAIN_STEP_S = 0.1
_SUBSCRIBE_AGAIN_S = 5.0


class _Done(Exception):
    """SHUTDOWN has been carried out."""


class ExecutorService:
    """One worker. `run` ends when a SHUTDOWN was carried out; to crash it, cancel it."""

    def __init__(
        self,
        *,
        driver: ExecutorDriver,
        engine: Engine,
        network: Network,
        deliveries: Deliveries,
        prober: Prober,
        inits: Inits,
        journal: Journal,
        ends: Journal,
        janitor: Janitor,
        clock: Clock,
        rng: random.Random,
        telemetry: Telemetry,
        config: ExecutorConfig,
        identity: Identity,
    ) -> None:
        self._driver = driver
        self._clock = clock
        self._log = log = telemetry.log
        self._config = config
        self._identity = identity
        self._ends = Ends(ends, log)
        self._book = book = Book(journal, self._ends, log)
        self._janitor = janitor
        hands = Hands(
            book.get,
            engine,
            network,
            deliveries,
            prober,
            inits,
            lives=book.lives,
            holder=book.of_container,
            is_saved=book.is_saved,
            may_go=book.may_go,
            clock=clock,
            rng=rng,
            telemetry=telemetry,
            config=config,
            identity=identity,
            janitor=janitor,
        )
        self._attempts = Attempts(
            book, hands, driver, clock=clock, log=log, config=config, identity=identity
        )
        self._keeper = Keeper(
            self._attempts, book, inits, clock=clock, rng=rng, log=log, config=config
        )
        self._lookout = Lookout(
            engine,
            self._attempts,
            book,
            self._keeper.recovered,
            clock=clock,
            rng=rng,
            log=log,
            config=config,
            identity=identity,
        )
        self._group: TaskGroup
        self._draining = False

    @property
    def attempts(self) -> dict[AttemptId, Attempt]:
        """What is known now."""
        return self._book.attempts

    async def run(self) -> None:
        """Work until SHUTDOWN. Raises BadCall or AccessDenied when the agent will not have us."""
        try:
            async with TaskGroup() as self._group:
                self._attempts.begin(self._group, self._keeper.moved)
                self._group.create_task(self._lookout.follow(), name="engine-events")
                self._group.create_task(self._lookout.sweep(), name="sweep")
                self._group.create_task(self._keeper.run(), name="keeper")
                self._group.create_task(self._janitor.run(self._book.wanted_images), name="janitor")
                self._group.create_task(self._forget_ends(), name="ends")
                await self._serve()
        except* _Done:
            self._log.info("shut down")

    async def _forget_ends(self) -> None:
        """As long as containers that nobody has, they wait to be asked for."""
        await self._clock.sleep(self._config.orphan_grace_s)
        self._ends.forget_unasked(self._book.attempts)

    async def _serve(self) -> None:
        """Handle the agent's events for ever: `_drain` ends it all."""
        while True:
            book = self._book
            async with self._driver.subscribe(
                book.unacknowledged_tasks, book.unacknowledged_updates
            ) as events:
                async for event in events:
                    self._handle(event)
            # The agent has been away for long: containers go on, and we wait for it all the same.
            await self._clock.sleep(_SUBSCRIBE_AGAIN_S)

    def _handle(self, event: mesos_events.ExecutorEvent) -> None:
        match event:
            case mesos_events.Launch(task):
                self._launch(task)
            case mesos_events.LaunchGroup(tasks):
                for task in tasks:
                    self._refuse(task["task_id"]["value"], "task groups are not supported")
            case mesos_events.Kill(task_id, policy):
                self._kill(task_id, grace_of(policy))
            case mesos_events.Acknowledged(task_id, uuid):
                self._book.acknowledged(AttemptId(task_id), uuid)
                self._attempts.tidy(AttemptId(task_id))
            case mesos_events.Shutdown(""):
                # The subscription stays, or nobody would hear how the tasks end.
                if not self._draining:
                    self._draining = True
                    self._group.create_task(self._drain(), name="drain")
            case mesos_events.Shutdown(reason) | mesos_events.Disconnected(reason):
                self._log.warning("agent lost", reason=reason)
            case mesos_events.Message(data):
                for attempt in asked_anew(data):
                    if self._book.get(attempt) is not None:
                        self._attempts.feed(attempt, m.AskedAnew())
                ahead = ahead_of(data)
                if ahead and not self._janitor.no_room():
                    self._keeper.make_ready(ahead, self._identity.cluster)
            case mesos_events.Error(message):
                raise Unavailable(f"the agent ended the subscription: {message}")
            case mesos_events.ExecutorSubscribed():
                self._log.info("subscribed", attempts=len(self.attempts))
            case _:
                pass

    def _launch(self, task: TaskInfo) -> None:
        task_id = task["task_id"]["value"]
        if self._draining or self._book.get(AttemptId(task_id)) is not None:
            return
        try:
            payload = payload_of(task)
            ended = self._book.end_of(payload) if payload.run and payload.adopt else None
            self._check(payload, ended)
        except InvalidInput as error:
            self._refuse(task_id, str(error))
            return
        if ended is not None:
            self._tell_again(task, payload, ended)
            return
        if payload.cleanup:
            self._clean_up(task_id)
            return
        no_room = "" if payload.adopt else self._janitor.no_room()
        if no_room:
            self._put_off(payload, no_room)
            return
        step = core.launch(task_id, payload, self._attempts.world())
        self._log.info("launching", **facts(step.attempt), adopt=payload.adopt)
        self._attempts.enter(step, task)

    def _check(self, payload: TaskPayload, ended: Attempt | None) -> None:
        """Raises InvalidInput for a task that must not be begun here."""
        if payload.cluster != self._identity.cluster:
            raise InvalidInput.of("data.cluster", "is not this executor's cluster")
        adopt = "" if ended is not None or is_shared(payload) else payload.adopt
        holder = self._book.of_container(ContainerName(adopt)) if adopt else None
        if holder is not None:
            raise InvalidInput.of("data.adopt", f"is the container of task {holder}")

    def _refuse(self, task_id: str, why: str) -> None:
        self._log.error("task refused", attempt=task_id, reason=why)
        fields = {"message": why, "reason": "REASON_TASK_INVALID"}
        self._attempts.tell(task_id, TaskState.ERROR, fields)

    def _clean_up(self, task_id: str) -> None:
        """We are here, which was the task: what is left of others waits for `orphan_grace_s`, and goes."""
        self._lookout.look()
        fields = {"message": "the executor looks after what is left on its host"}
        self._attempts.tell(task_id, TaskState.FINISHED, fields)

    def _tell_again(self, task: TaskInfo, payload: TaskPayload, ended: Attempt) -> None:
        """The run that it is to take over is over, and the scheduler has not heard how: it is not to run again."""
        task_id, is_ours = task["task_id"]["value"], self._book.get(ended.id) is not None
        world = self._attempts.world()
        step = core.tell_again(task_id, payload, ended, world, is_ours=is_ours)
        self._attempts.enter(step, task)
        if ended.shared and not is_ours:
            self._keeper.let_go(ended.task or ended.id)
        self._log.info("told again", attempt=task_id, ended=ended.id, ours=is_ours)

    def _put_off(self, payload: TaskPayload, why: str) -> None:
        """Nothing is wrong with the task, of which nothing is begun; another host may have room for it."""
        self._log.warning("no room for a task", attempt=payload.attempt, reason=why)
        told = put_off(self._identity, why)
        self._attempts.tell(payload.attempt, told.state, status_fields(told))

    def _kill(self, task_id: str, grace_s: float | None) -> None:
        attempt = AttemptId(task_id)
        if self._book.get(attempt) is None:
            fields = {"message": "the executor does not know this task"}
            self._attempts.tell(task_id, TaskState.LOST, fields)
            return
        self._attempts.feed(attempt, m.StopAsked(grace_s, "stopped"))

    async def _drain(self) -> None:
        """Stop everything within the agent's patience; when that is done and told, end the worker."""
        self._log.info("shutting down", attempts=len(self.attempts))
        patience_s = max(0.0, self._driver.shutdown_grace_s - self._config.shutdown_margin_s)
        self._keeper.draining = True
        for attempt in self.attempts.values():
            if attempt.pool is not None:
                continue  # it goes when it is empty
            grace_s = min(attempt.payload.spec.stop_grace_s, patience_s)
            self._attempts.feed(attempt.id, m.StopAsked(grace_s, "the executor was shut down"))
        deadline = self._clock.monotonic() + patience_s + self._config.engine_deadline_s
        while (
            any(each.state is not State.DONE for each in self.attempts.values())
            or self._attempts.untold
        ):
            if self._clock.monotonic() > deadline:
                self._log.error("containers are left", attempts=len(self.attempts))
                break
            await self._clock.sleep(_DRAIN_STEP_S)
        raise _Done
