"""Sends updates: those of one attempt one after the other, those of several side by side."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from libs.common.telemetry import Log
from libs.common.waiting import TaskGroup
from libs.mesos.errors import BadCall
from libs.mesos.messages import TaskStatus
from services.executor.book import Book
from services.executor.model import AttemptId
from services.executor.ports import ExecutorDriver


class Updates:
    """What is on its way to the agent. `sent` is called when all of an attempt's have gone out."""

    def __init__(
        self, driver: ExecutorDriver, book: Book, log: Log, sent: Callable[[AttemptId], None]
    ) -> None:
        self._driver = driver
        self._book = book
        self._log = log
        self._sent = sent
        self._waiting: dict[AttemptId, deque[TaskStatus]] = {}

    def __contains__(self, attempt: AttemptId) -> bool:
        """Is any of the attempt's on its way?"""
        return attempt in self._waiting

    def __len__(self) -> int:
        """Attempts with updates on their way."""
        return len(self._waiting)

    def send(self, attempt: AttemptId, status: TaskStatus, group: TaskGroup) -> None:
        """Put it in line; a task of `group` sends it."""
        waiting = self._waiting.get(attempt)
        if waiting is not None:
            waiting.append(status)
            return
        self._waiting[attempt] = deque([status])
        group.create_task(self._send_all(attempt), name=f"updates:{attempt}")

    async def _send_all(self, attempt: AttemptId) -> None:
        waiting = self._waiting[attempt]
        while waiting:
            try:
                await self._driver.update(waiting[0])
            except BadCall as error:
                self._log.error("update refused", attempt=attempt, error=str(error))
                self._book.forget(waiting[0])
            waiting.popleft()
        del self._waiting[attempt]
        self._sent(attempt)
