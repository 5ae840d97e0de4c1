"""What all parts of the agent share: its state, its timers, and the effects being gathered."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator

import orjson

from libs.common.clock import Ids
from libs.minimesos.agent.model import CAPABILITIES, Executor, Framework, Task
from libs.minimesos.config import AgentConfig
from libs.minimesos.effects import Delete, Effect, LinkSend, Message, Put, Send
from libs.minimesos.host import Host
from libs.minimesos.resources import Resources
from libs.minimesos.resources_read import attributes_from_flag, resources_from_flag
from libs.minimesos.schema import Json
from libs.minimesos.timers import Timers


class Core:
    """Shared context of one `handle` after another."""

    def __init__(self, config: AgentConfig, ids: Ids, host: Host, now: float) -> None:
        self.config = config
        self.ids = ids
        self.host = host
        self.now = now
        self.start_time = now
        self.total: Resources = resources_from_flag(config.resources)
        self.info: Json = self._info()
        self.agent_id = ""
        self.link: str | None = None
        self.registered = False
        self.recovering = False
        self.stopped = False
        self.drain: Json | None = None
        self.frameworks: dict[str, Framework] = {}
        self.completed_frameworks: deque[Framework] = deque(maxlen=config.max_completed_frameworks)
        self.by_container: dict[str, Executor] = {}
        self.by_stream: dict[str, Executor] = {}
        self.operations: dict[str, Message] = {}
        self.timers = Timers()
        self.out: list[Effect] = []
        self.counters: Counter[str] = Counter()

    def _info(self) -> Json:
        config = self.config
        out: Json = {
            "hostname": config.host,
            "port": config.port,
            "resources": self.total.to_json(refined=True),
        }
        attributes = attributes_from_flag(config.attributes)
        if attributes:
            out["attributes"] = attributes
        return out

    @property
    def pid_text(self) -> str:
        """The agent's libprocess pid."""
        return f"slave(1)@{self.config.ip}:{self.config.port}"

    @property
    def capabilities(self) -> tuple[str, ...]:
        """What this agent can do, as it tells the master."""
        return CAPABILITIES

    # ---- effects
    def to_master(self, message: Message) -> None:
        """Send to the master if registered; what must not be lost is repeated by its owner."""
        if self.link is not None and self.registered:
            self.out.append(LinkSend(self.link, message))

    def to_executor(self, executor: Executor, kind: str, body: Json | None = None) -> bool:
        """An event to an executor; False when it is not subscribed."""
        if executor.stream is None:
            return False
        event: Json = {"type": kind}
        if body is not None:
            event[kind.lower()] = body
        self.out.append(Send(executor.stream, orjson.dumps(event)))
        return True

    def save(self, key: str, value: bytes) -> None:
        """Checkpoint an entry."""
        self.out.append(Put(key, value))

    def forget(self, key: str) -> None:
        """Drop an entry and all below it."""
        self.out.append(Delete(key))

    # ---- finding
    def executors(self) -> Iterator[Executor]:
        """All executors that are not history."""
        for framework in self.frameworks.values():
            yield from framework.executors.values()

    def find_task(self, framework_id: str, task_id: str) -> tuple[Executor, Task] | None:
        """A task that has not been acknowledged to its end, with its executor."""
        framework = self.frameworks.get(framework_id)
        if framework is None:
            return None
        # A command task's executor bears its id: the common case needs no search.
        first = framework.executors.get(task_id)
        candidates = [first] if first is not None else []
        for executor in [*candidates, *framework.executors.values()]:
            for table in (executor.tasks, executor.queued, executor.ended, executor.strays):
                task = table.get(task_id)
                if task is not None:
                    return executor, task
        return None


def safe(part: str) -> str:
    """An id as part of a checkpoint key: slashes separate, so they are escaped."""
    return part.replace("%", "%25").replace("/", "%2F") if "/" in part or "%" in part else part


def framework_key(framework_id: str) -> str:
    """Key of a framework's info."""
    return f"fw/{safe(framework_id)}"


def executor_key(executor: Executor) -> str:
    """Key of an executor's info."""
    return f"ex/{safe(executor.framework_id)}/{safe(executor.executor_id)}"


def pid_key(executor: Executor) -> str:
    """Key of an executor's process."""
    return f"pid/{safe(executor.framework_id)}/{safe(executor.executor_id)}"


def task_key(executor: Executor, task_id: str) -> str:
    """Key of a task's info."""
    return f"task/{safe(executor.framework_id)}/{safe(executor.executor_id)}/{safe(task_id)}"


def update_key(framework_id: str, task_id: str) -> str:
    """Key below which a task's updates are kept."""
    return f"upd/{safe(framework_id)}/{safe(task_id)}"


def ack_key(framework_id: str, task_id: str) -> str:
    """Key of the number of the last acknowledged update."""
    return f"ack/{safe(framework_id)}/{safe(task_id)}"
