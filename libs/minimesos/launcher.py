"""Starts, watches and kills the processes of one agent's executors."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from libs.minimesos import processes
from libs.minimesos.effects import (
    Effect,
    ExecutorExited,
    ExecutorLaunched,
    Input,
    Kill,
    Launch,
    LaunchFailed,
    RecoveredAlive,
    WatchRecovered,
)
from libs.minimesos.errors import LaunchError

MAX_STARTING = 8


class Launcher:
    """Performs Launch, Kill and WatchRecovered; `feed` gets what became of them."""

    def __init__(self, feed: Callable[[Input], None], same_boot: bool) -> None:
        self._feed = feed
        self._same_boot = same_boot
        self._loop = asyncio.get_running_loop()
        self._threads = ThreadPoolExecutor(MAX_STARTING, "minimesos-launch")
        self._watched: dict[str, int] = {}
        self._closed = False

    def perform(self, effect: Effect) -> bool:
        """Do what concerns processes; False for other effects."""
        if isinstance(effect, Launch):
            future = self._loop.run_in_executor(self._threads, processes.start, effect)
            future.add_done_callback(lambda done: self._started(effect.container_id, done))
        elif isinstance(effect, Kill):
            self._loop.run_in_executor(self._threads, processes.kill_tree, effect.pid)
        elif isinstance(effect, WatchRecovered):
            alive = frozenset(self._watch_recovered(effect.containers))
            self._loop.call_soon(self._tell, RecoveredAlive(alive))
        else:
            return False
        return True

    def close(self) -> None:
        """Stop watching; the processes live on."""
        self._closed = True
        for handle in self._watched.values():
            self._loop.remove_reader(handle)
            os.close(handle)
        self._watched.clear()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _tell(self, event: Input) -> None:
        if not self._closed:
            self._feed(event)

    # ---- starting
    def _started(self, container_id: str, done: asyncio.Future[processes.Started]) -> None:
        if self._closed or done.cancelled():
            return
        try:
            started = done.result()
        except LaunchError as error:
            stage = "directory" if isinstance(error, processes.SandboxError) else "container"
            self._feed(LaunchFailed(container_id, stage, str(error)))
            return
        self._feed(ExecutorLaunched(container_id, started.pid, started.start_ticks))
        if not self._watch(container_id, started.pid):
            self._feed(ExecutorExited(container_id, processes.reap(started.pid)))

    # ---- watching
    def _watch_recovered(self, containers: Iterable[tuple[str, int, int]]) -> Iterable[str]:
        for container_id, pid, start_ticks in containers:
            # Open first, compare after: so the handle is of the process that was compared.
            if self._same_boot and self._watch(container_id, pid):
                if processes.is_running(pid, start_ticks):
                    yield container_id
                else:
                    self._unwatch(container_id)

    def _watch(self, container_id: str, pid: int) -> bool:
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            return False
        self._watched[container_id] = handle
        self._loop.add_reader(handle, self._ended, container_id, pid)
        return True

    def _unwatch(self, container_id: str) -> None:
        handle = self._watched.pop(container_id, None)
        if handle is not None:
            self._loop.remove_reader(handle)
            os.close(handle)

    def _ended(self, container_id: str, pid: int) -> None:
        self._unwatch(container_id)
        status = processes.reap(pid)
        # What a dead executor left behind in its session must not run on unseen.
        self._loop.run_in_executor(self._threads, processes.kill_tree, pid)
        self._feed(ExecutorExited(container_id, status))
