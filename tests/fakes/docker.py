"""A container engine without containers: what a host's Docker remembers, and an executor's view of it.

`FakeDocker` is the host's engine and outlives every worker; `FakeEngine` is the `Engine` of one executor on it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from libs.common.clock import Clock
from libs.common.errors import InvalidInput, NotFound, Unavailable
from services.executor.errors import HalfStarted, ImageMissing, NameTaken, StartRefused
from services.executor.model import (
    LABEL_AGENT,
    LABEL_CLUSTER,
    Begun,
    ContainerName,
    ContainerSpec,
    Destroyed,
    Died,
    EngineEvent,
    Image,
    Login,
    Phase,
    Ref,
    Summary,
    View,
)
from services.executor.runs.model import ImageConfig, TaskView

Claim = Callable[[str], Awaitable[int]]
"""The OCI runtime: gives the inode of the namespace registered for a container id. Raises StartRefused."""

Watch = Callable[["FakeContainer", TaskView | None], None]
"""Called when a container, or the task of a shared one, has begun or ended."""

Fault = Callable[[str, str], Awaitable[None]]
"""Called as (`before:create` or `after:create`, name) around each call; may raise Unavailable or wait."""


@dataclass
class FakeImage:
    """How containers of an image behave; times in seconds after the start or the signal, None: never."""

    exits_after_s: float | None = None
    exit_code: int = 0
    out_of_memory: bool = False
    ends_on_term_s: float | None = 0.0
    healthy_after_s: float | None = 0.0
    stop_signal: str = "SIGTERM"
    output: str = ""
    lives: Callable[[], tuple[float, int]] | None = None  # drawn at each start, instead of the two

    def end(self) -> tuple[float, int, bool] | None:
        """How a process of it ends by itself: after how long, exit code, out of memory; None: never."""
        if self.lives is not None:
            return (*self.lives(), False)
        if self.exits_after_s is None:
            return None
        return self.exits_after_s, 137 if self.out_of_memory else self.exit_code, self.out_of_memory


@dataclass
class FakeContainer:
    """A container as the engine remembers it. `netns_inode` is that of its process, 0 while none runs."""

    id: str
    spec: ContainerSpec
    image: FakeImage
    created_at: float
    runtime: str
    phase: Phase = Phase.CREATED
    exit_code: int = 0
    oom_killed: bool = False
    started_at: float = 0.0
    ended_at: float = 0.0
    pid: int = 0
    netns_inode: int = 0
    hosts: str = ""
    starts: int = 0
    healthy: bool | None = None  # set by a test: overrules the image
    signals: list[str] = field(default_factory=list)
    # Of a shared one: its tasks, and who follows them.
    tasks: dict[str, TaskView] = field(default_factory=dict)
    listeners: list[asyncio.Queue[TaskView | None]] = field(default_factory=list)

    @property
    def name(self) -> ContainerName:
        """Its name."""
        return self.spec.name

    @property
    def running(self) -> bool:
        """Does it run?"""
        return self.phase is Phase.RUNNING


class FakeDocker:
    """One host's engine. `images` are here, `registry` can be pulled."""

    def __init__(
        self,
        clock: Clock,
        rng: random.Random,
        *,
        claim: Claim,
        runtimes: tuple[str, ...] = ("gantry", "runc"),
        default_image: FakeImage | None = None,
    ) -> None:
        self.clock = clock
        self.claim = claim
        self.images: dict[str, FakeImage] = {}
        self.registry: dict[str, FakeImage] = {}
        self.default_image = default_image  # what any other image is; None: it does not exist
        self.containers: dict[str, FakeContainer] = {}
        self.logins: dict[str, Login] = {}  # image -> whom the registry gives it to
        self.log: list[tuple[str, str]] = []  # (operation, name) of what was done
        self.fault: Fault | None = None
        self.watch: Watch | None = None
        self.latency_s: dict[str, float] = {}
        # What it had half started when it died, by container id; `replaces`: the next start ends it, as newer ones do.
        self.leftovers: dict[str, None] = {}
        self.replaces = False
        self.down = False
        self.root = Path("/engine")
        self._rng = rng
        self._runtimes = runtimes
        self._pids = 1000
        self._history: list[tuple[EngineEvent, dict[str, str]]] = []
        self._epoch = 0
        self._news = asyncio.Event()

    # -- what tests and simulations do to it -----------------------------------------------------

    def stop(self) -> None:
        """The daemon goes down; containers go on (live-restore), the events it remembered are lost."""
        self.down = True
        self._epoch += 1
        self._history.clear()
        self._wake()

    def start(self) -> None:
        """The daemon is back."""
        self.down = False

    def by_name(self, name: str) -> FakeContainer | None:
        """The container of that name or id."""
        found = (each for each in self.containers.values() if name in (each.name, each.id))
        return next(found, None)

    def kill(self, name: str, exit_code: int = 137, *, oom: bool = False) -> None:
        """Its process ends, whoever did that."""
        container = self.by_name(name)
        if container is not None and container.running:
            self._exit(container, exit_code, oom=oom)

    def destroy(self, name: str) -> None:
        """It is removed, running or not."""
        container = self.by_name(name)
        if container is None:
            return
        if container.running:
            self._exit(container, 137)
        del self.containers[container.id]
        self._tell(container, Destroyed(container.id, container.name, self.clock.now()))

    def die_in_start(self, name: str) -> None:
        """The daemon goes down in the middle of a container's start, and knows nothing of it afterwards."""
        container = self.by_name(name)
        if container is not None and container.phase is Phase.CREATED:
            self.leftovers[container.id] = None
            self.stop()

    def run_by_hand(self, name: str, netns_inode: int) -> None:
        """Somebody gets it started past the runtime."""
        container = self.by_name(name)
        if container is not None and not container.running:
            self._begin(container, netns_inode)

    # -- the engine ------------------------------------------------------------------------------

    async def call(self, operation: str, name: str, deed: Callable[[], Awaitable[str]]) -> str:
        """One call of the API: reaches the daemon or not, takes its time, and its answer may be lost."""
        if self.down:
            raise Unavailable("Docker can't be reached")
        if self.fault is not None:
            await self.fault(f"before:{operation}", name)
        if self.latency_s.get(operation, 0.0) > 0:
            await self.clock.sleep(self.latency_s[operation])
        if self.down:
            raise Unavailable("Docker can't be reached")
        result = await deed()
        self.log.append((operation, name))
        if self.fault is not None:
            await self.fault(f"after:{operation}", name)
        return result

    async def create(self, spec: ContainerSpec) -> str:
        """A container that was never started; its id."""
        image = self.images.get(spec.image, self.default_image)
        if image is None:
            raise ImageMissing(f"No such image: {spec.image}")
        if spec.runtime not in self._runtimes:
            raise InvalidInput.of("container", f"Unknown runtime specified {spec.runtime}")
        if self.by_name(spec.name) is not None:
            raise NameTaken(f"The container name {spec.name} is already in use")
        container = FakeContainer(
            id=f"{self._rng.getrandbits(256):064x}",
            spec=spec,
            image=image,
            created_at=self.clock.now(),
            runtime=spec.runtime,
        )
        self.containers[container.id] = container
        return container.id

    async def launch(self, ref: Ref, hosts: str) -> str:
        """Start a container by its runtime."""
        container = self.find(ref)
        if container.running:
            return ""
        if container.phase is Phase.EXITED and container.starts == 0:
            raise StartRefused("it is dead")
        if container.id in self.leftovers and not self.replaces:
            raise HalfStarted(f"task {container.id}: already exists")
        inode = await self.claim(container.id)
        container.hosts = hosts
        self._begin(container, inode)
        return ""

    def find(self, ref: Ref) -> FakeContainer:
        """Raises NotFound."""
        container = self.by_name(ref.key)
        if container is None:
            raise NotFound(f"No such container: {ref.key}")
        return container

    def signal(self, container: FakeContainer, name: str) -> None:
        """Deliver a signal."""
        container.signals.append(name)
        if name == "SIGKILL":
            self._exit(container, 137)
        elif container.image.ends_on_term_s is not None:
            self._later(container, container.image.ends_on_term_s, 0)

    def _begin(self, container: FakeContainer, inode: int) -> None:
        self._pids += 1
        container.phase, container.pid = Phase.RUNNING, self._pids
        container.netns_inode, container.started_at = inode, self.clock.now()
        container.starts += 1
        self._tell(container, Begun(container.id, container.name, self.clock.now()))
        if self.watch is not None:
            self.watch(container, None)
        if container.spec.init is None and (end := container.image.end()) is not None:
            self._later(container, end[0], end[1], oom=end[2])

    def _later(
        self, container: FakeContainer, after_s: float, code: int, *, oom: bool = False
    ) -> None:
        start = container.starts

        def end() -> None:
            if container.running and container.starts == start:
                self._exit(container, code, oom=oom)

        asyncio.get_running_loop().call_later(after_s, end)

    def _exit(self, container: FakeContainer, code: int, *, oom: bool = False) -> None:
        container.phase, container.exit_code, container.oom_killed = Phase.EXITED, code, oom
        container.ended_at = self.clock.now()
        container.pid = container.netns_inode = 0
        if self.watch is not None:
            self.watch(container, None)
            for task in container.tasks.values():
                if task.running:
                    self.watch(container, replace(task, ended_at=container.ended_at, exit_code=137))
        container.tasks.clear()
        for each in container.listeners:
            each.put_nowait(None)
        self._tell(container, Died(container.id, container.name, code, oom, at=self.clock.now()))

    def _tell(self, container: FakeContainer, event: EngineEvent) -> None:
        if not self.down:  # a daemon that is away tells of no end, not even later
            self._history.append((event, container.spec.labels))
            self._wake()

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def follow(self, since: float, labels: dict[str, str]) -> AsyncIterator[EngineEvent]:
        """Events of containers with these labels."""
        if self.down:
            raise Unavailable("Docker can't be reached")
        epoch, position = self._epoch, 0
        while True:
            news = self._news
            while self._epoch == epoch and position < len(self._history):
                event, theirs = self._history[position]
                position += 1
                if event.at >= since and labels.items() <= theirs.items():
                    yield event
            if self._epoch != epoch:
                raise Unavailable("the events of Docker were cut")
            await news.wait()


class FakeEngine:
    """See Engine and Images."""

    def __init__(self, docker: FakeDocker, *, cluster: str, agent: str) -> None:
        self.docker = docker
        self._labels = {LABEL_CLUSTER: cluster, LABEL_AGENT: agent}

    async def create(self, spec: ContainerSpec) -> str:
        """See Engine."""
        return await self.docker.call("create", spec.name, lambda: self.docker.create(spec))

    async def pull(self, image: str, login: Login | None = None) -> None:
        """See Engine."""

        async def deed() -> str:
            if self.docker.logins.get(image, login) != login:
                raise InvalidInput.of("image", "unauthorized: authentication required")
            if image not in self.docker.registry:
                raise ImageMissing(f"manifest for {image} not found: manifest unknown")
            self.docker.images[image] = self.docker.registry[image]
            return ""

        await self.docker.call("pull", image, deed)

    async def start(self, container: Ref, hosts: str) -> None:
        """See Engine."""
        await self.docker.call(
            "start", container.name, lambda: self.docker.launch(container, hosts)
        )

    async def has_leftover(self, container: Ref) -> bool:
        """See Engine."""
        return container.id in self.docker.leftovers

    async def end_leftover(self, container: Ref) -> bool:
        """See Engine."""
        found = container.id in self.docker.leftovers
        self.docker.leftovers.pop(container.id, None)
        return found

    async def inspect(self, container: Ref) -> View:
        """See Engine."""
        found: list[View] = []

        async def deed() -> str:
            found.append(_view(self.docker.find(container)))
            return ""

        await self.docker.call("inspect", container.name, deed)
        return found[0]

    async def signal(self, container: Ref, name: str) -> None:
        """See Engine."""

        async def deed() -> str:
            found = self.docker.by_name(container.key)
            if found is not None and found.running:
                self.docker.signal(found, name)
            return ""

        await self.docker.call(f"signal:{name}", container.name, deed)

    async def remove(self, container: Ref) -> None:
        """See Engine."""

        async def deed() -> str:
            self.docker.destroy(container.key)
            return ""

        await self.docker.call("remove", container.name, deed)

    async def containers(self) -> tuple[Summary, ...]:
        """See Engine."""
        found: list[Summary] = []

        async def deed() -> str:
            found.extend(
                Summary(each.id, each.name, each.phase, each.created_at, dict(each.spec.labels))
                for each in self.docker.containers.values()
                if self._labels.items() <= each.spec.labels.items()
            )
            return ""

        await self.docker.call("list", "", deed)
        return tuple(found)

    async def images(self) -> tuple[Image, ...]:
        """See Images."""
        found: list[Image] = []

        async def deed() -> str:
            used = {each.spec.image for each in self.docker.containers.values()}
            for name in self.docker.images:
                tags, digests = ((), (name,)) if "@" in name else ((name,), ())
                found.append(Image(f"id:{name}", tags, digests, name in used))
            return ""

        await self.docker.call("images", "", deed)
        return tuple(found)

    async def image_config(self, image: str) -> ImageConfig:
        """See Engine."""
        found: list[ImageConfig] = []

        async def deed() -> str:
            known = self.docker.images.get(image, self.docker.default_image)
            if known is None:
                raise ImageMissing(f"No such image: {image}")
            found.append(ImageConfig(("/app",), ("PATH=/bin",), "", "/", known.stop_signal))
            return ""

        await self.docker.call("image_config", image, deed)
        return found[0]

    async def output(self, container: Ref) -> str:
        """See Engine."""

        async def deed() -> str:
            return self.docker.find(container).image.output

        return await self.docker.call("output", container.name, deed)

    async def remove_image(self, name: str) -> bool:
        """See Images."""

        async def deed() -> str:
            if any(each.spec.image == name for each in self.docker.containers.values()):
                return "used"
            self.docker.images.pop(name, None)
            return ""

        answer: list[str] = []

        async def noted() -> str:
            answer.append(await deed())
            return ""

        await self.docker.call("remove_image", name, noted)
        return answer[0] != "used"

    async def root(self) -> Path:
        """See Images."""
        return self.docker.root

    def events(self, since: float) -> AsyncIterator[EngineEvent]:
        """See Engine."""
        return self.docker.follow(since, self._labels)


def _view(container: FakeContainer) -> View:
    return View(
        id=container.id,
        name=container.name,
        phase=container.phase,
        runtime=container.runtime,
        labels=dict(container.spec.labels),
        exit_code=container.exit_code,
        oom_killed=container.oom_killed,
        stop_signal=container.image.stop_signal,
        started_at=container.started_at,
        ended_at=container.ended_at,
        pid=container.pid,
        netns_inode=container.netns_inode or None,
    )
