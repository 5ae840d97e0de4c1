"""Inits of shared containers without processes: tasks live in a FakeDocker's containers, and end as their image says.

A task is told of until it is forgotten, whoever follows; it is gone with its container.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

from libs.common.errors import NotFound, Unavailable
from services.executor.model import ContainerName, Ref
from services.executor.runs.model import Listed, TaskStart, TaskView, Told
from tests.fakes.docker import FakeContainer, FakeDocker

BY_SIGNAL = 128


class FakeInits:
    """See Inits. `started` is every task that was ever begun, in order."""

    def __init__(self, docker: FakeDocker) -> None:
        self.docker = docker
        self.started: list[str] = []
        self.given: dict[str, TaskStart] = {}
        self.leaking: set[str] = set()  # tasks that leave processes
        self.frozen: set[ContainerName] = (
            set()
        )  # containers whose inits take connections, and say nothing

    async def follow(self, container: Ref) -> AsyncIterator[Told]:
        """See Inits."""
        found = self._found(container.name)
        if container.name in self.frozen:
            await asyncio.Event().wait()
        news: asyncio.Queue[TaskView | None] = asyncio.Queue()
        found.listeners.append(news)
        try:
            tasks = dict(found.tasks)
            for view in tasks.values():
                yield view
            yield Listed(tuple(tasks))
            while (told := await news.get()) is not None:
                yield told
            raise Unavailable("the init has hung up")
        finally:
            found.listeners.remove(news)

    async def start(self, container: ContainerName, task: TaskStart) -> None:
        """See Inits."""
        found = await self._reach("begin", container)
        if task.task in found.tasks:
            return
        now = self.docker.clock.now()
        self.started.append(task.task)
        self.given[task.task] = task
        self._tell(found, TaskView(task.task, f"c{len(self.started)}", now))
        if (end := found.image.end()) is not None:
            self._later(found, task.task, end[0], end[1], oom_killed=end[2])
        if task.timeout_s > 0:
            loop = asyncio.get_running_loop()
            loop.call_later(task.timeout_s, self._time_out, found, task)
        if self.docker.fault is not None:
            await self.docker.fault("after:begin", container)

    def _time_out(self, found: FakeContainer, task: TaskStart) -> None:
        view = found.tasks.get(task.task)
        if view is not None and view.running:
            found.tasks[task.task] = replace(view, timed_out=True)
            self._signal(found, task.task, task.stop_signal, task.grace_s)

    async def kill(self, container: ContainerName, task: str, name: str, grace_s: float) -> None:
        """See Inits."""
        self._signal(await self._reach("kill", container), task, name, grace_s)

    def _signal(self, found: FakeContainer, task: str, name: str, grace_s: float) -> None:
        found.signals.append(f"{name} {task}")
        if grace_s <= 0:
            self.end(found, task, BY_SIGNAL + 9)
        elif found.image.ends_on_term_s is not None and found.image.ends_on_term_s <= grace_s:
            self._later(found, task, found.image.ends_on_term_s, 0)
        else:
            self._later(found, task, grace_s, BY_SIGNAL + 9)

    async def forget(self, container: ContainerName, task: str) -> None:
        """See Inits."""
        found = await self._reach("forget", container)
        view = found.tasks.get(task)
        if view is not None and not view.running:
            del found.tasks[task]

    # -- what a test does ---------------------------------------------------------------------------

    def finish(self, task: str, code: int = 0, *, oom_killed: bool = False) -> None:
        """The task ends by itself."""
        for each in self.docker.containers.values():
            self.end(each, task, code, oom_killed=oom_killed)

    def end(self, found: FakeContainer, task: str, code: int, *, oom_killed: bool = False) -> None:
        """Its processes are dead."""
        view = found.tasks.get(task)
        if view is None or not view.running or not found.running:
            return
        self._tell(
            found,
            replace(
                view,
                ended_at=self.docker.clock.now(),
                exit_code=code,
                oom_killed=oom_killed,
                leaked=task in self.leaking,
                output=f"output of {task}\n",
            ),
        )

    def _later(
        self,
        found: FakeContainer,
        task: str,
        after_s: float,
        code: int,
        *,
        oom_killed: bool = False,
    ) -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(after_s, lambda: self.end(found, task, code, oom_killed=oom_killed))

    def _tell(self, found: FakeContainer, view: TaskView) -> None:
        found.tasks[view.task] = view
        if self.docker.watch is not None:
            self.docker.watch(found, view)
        for each in found.listeners:
            each.put_nowait(view)

    def _found(self, name: ContainerName) -> FakeContainer:
        found = self.docker.by_name(name)
        if found is None or not found.running:
            raise NotFound(f"{name} does not run")
        return found

    async def _reach(self, operation: str, name: ContainerName) -> FakeContainer:
        if self.docker.fault is not None:
            await self.docker.fault(f"before:{operation}", name)
        found = self.docker.by_name(name)
        if found is None or not found.running or not found.listeners:
            raise Unavailable(f"there is no connection to the init of {name}")
        return found
