"""Engine on a Docker engine, by aiodocker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiodocker
import aiohttp
import orjson
from aiodocker.exceptions import DockerError

from libs.common.errors import InvalidInput, NotFound, Refused, TimedOut, Unavailable
from libs.common.jobs import OUTPUT_TAIL
from services.executor import shims
from services.executor.dockerapi import (
    as_shared,
    bind_of,
    create_body,
    event_of,
    image_config_of,
    image_of,
    summary_of,
    view_of,
)
from services.executor.errors import HalfStarted, ImageMissing, NameTaken, StartRefused
from services.executor.etc import EtcFiles
from services.executor.model import (
    LABEL_AGENT,
    LABEL_CLUSTER,
    ContainerName,
    ContainerSpec,
    EngineEvent,
    Identity,
    Image,
    Login,
    Ref,
    Summary,
    View,
)
from services.executor.runs.inits import make_place, remove_place
from services.executor.runs.model import ImageConfig
from services.executor.secret_files import SecretFiles, uid_in
from services.executor.wording import (
    says_half_started,
    says_no_entry,
    says_too_late,
    says_unknown,
    with_host,
)

API_VERSION = "v1.40"  # of engine 19.03: it has all that is used here, and newer engines speak it
CONCURRENCY = 8  # an engine gains nothing from more
_UNREACHABLE = 900  # aiodocker's status for "can't connect"
_TAIL_LINES = 200


class DockerEngine:
    """See Engine. `socket` is unix:///path or tcp://host:port; close it at the end."""

    def __init__(
        self,
        socket: str,
        identity: Identity,
        data_dir: Path,
        secrets_dir: Path,
        *,
        call_timeout_s: float = 60.0,
        pull_timeout_s: float = 300.0,
    ) -> None:
        self._identity = identity
        self._etc = EtcFiles(data_dir / identity.cluster)
        self._secrets = SecretFiles(secrets_dir)
        self._runs = data_dir / identity.cluster / "runs"
        self._creating: dict[ContainerName, None] = {}  # may have secret files and no container
        self._call_timeout_s = call_timeout_s
        self._pull_timeout_s = pull_timeout_s
        self._busy = asyncio.Semaphore(CONCURRENCY)
        if socket.startswith("unix://"):
            path = socket.removeprefix("unix://")
            connector: aiohttp.BaseConnector = aiohttp.UnixConnector(path, limit=0)
            self._base = "unix://localhost"
        else:
            connector = aiohttp.TCPConnector(limit=0)
            self._base = socket
        self._http = "http://localhost" if socket.startswith("unix") else _http(socket)
        # Every call has its own time-out; the stream of events has none.
        self._session = aiohttp.ClientSession(
            connector=connector, timeout=aiohttp.ClientTimeout(total=None)
        )
        self.docker = aiodocker.Docker(
            url=self._base, session=self._session, connector=connector, api_version=API_VERSION
        )

    async def close(self) -> None:
        """Close the connections."""
        await self.docker.close()
        await self._session.close()

    async def create(self, spec: ContainerSpec) -> str:
        """See Engine."""
        resolver = self._etc.resolv_conf(spec.resolv_conf)
        body = create_body(spec, self._etc.hosts(spec.name), resolver)
        if spec.init is not None:
            place = await asyncio.to_thread(make_place, self._runs, spec.name)
            as_shared(body, spec.init, place)
        if not spec.secret_files:
            return await self._create(spec, body)
        self._creating[spec.name] = None
        self._secrets.write(spec.name, spec.secret_files)
        body["HostConfig"]["Mounts"] = [
            bind_of(self._secrets.path(spec.name, number), file.target)
            for number, file in enumerate(spec.secret_files)
        ]
        try:
            created = await self._create(spec, body)
            self._secrets.give(spec.name, await self._uid(spec.name))
        except NameTaken:
            # Of a worker before us, maybe, that was killed before the files were the user's.
            self._secrets.give(spec.name, await self._uid(spec.name))
            del self._creating[spec.name]
            raise
        except Refused:
            self._forget_secrets(spec.name)
            raise
        del self._creating[spec.name]
        return created

    async def _create(self, spec: ContainerSpec, body: dict[str, Any]) -> str:
        try:
            async with self._call():
                created = await self.docker.containers.create(body, name=spec.name)
                return str(created.id)
        except DockerError as error:
            if error.status == 409:
                raise NameTaken(error.message) from None
            if error.status == 404:
                raise ImageMissing(error.message) from None
            raise InvalidInput.of("container", error.message) from None

    async def _uid(self, name: ContainerName) -> int:
        """The container's user as a number; of a name, as the image's /etc/passwd has it."""
        container = self.docker.containers.container(name)
        try:
            async with self._call():
                shown = await container.show()
                user = str(shown["Config"]["User"] or "0").partition(":")[0]
                if user.isdecimal():
                    return int(user)
                # To read it the engine mounts what the container will have, and makes what is missing.
                self._etc.write_hosts(name, "")
                uid = uid_in(await container.get_archive("/etc/passwd"), user)
        except DockerError as error:
            raise _other(error) from None
        if uid is None:
            text = (
                f"{user!r} is not in the image's /etc/passwd: whose are the secrets' files to be?"
            )
            raise InvalidInput.of("user", text, "a number, or a user of the image")
        return uid

    def _forget_secrets(self, name: ContainerName) -> None:
        self._secrets.remove(name)
        self._creating.pop(name, None)

    async def pull(self, image: str, login: Login | None = None) -> None:
        """See Engine."""
        named, auth = image, None
        if login is not None:
            named = with_host(image)
            auth = {"username": login.user, "password": login.password}
        try:
            async with asyncio.timeout(self._pull_timeout_s):
                await self.docker.images.pull(named, auth=auth)
        except TimeoutError:
            raise TimedOut(f"the pull took over {self._pull_timeout_s:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise Unavailable(f"Docker can't be reached: {type(error).__name__}") from None
        except DockerError as error:
            if error.status == 404 or says_unknown(error.message):
                raise ImageMissing(error.message) from None
            if error.status in (400, 401, 403) or says_no_entry(error.message):
                raise InvalidInput.of("image", error.message) from None
            raise Unavailable(error.message) from None

    async def start(self, container: Ref, hosts: str) -> None:
        """See Engine."""
        self._etc.write_hosts(container.name, hosts)
        try:
            async with self._call():
                await self.docker.containers.container(container.key).start()
        except DockerError as error:
            if error.status == 404 and "No such container" in error.message:
                self._etc.remove_hosts(container.name)
                raise NotFound(error.message) from None
            if says_too_late(error.message):
                raise Unavailable(error.message) from None
            if says_half_started(error.message):
                raise HalfStarted(error.message) from None
            raise StartRefused(error.message) from None

    async def has_leftover(self, container: Ref) -> bool:
        """See Engine."""
        return await self._leftover(shims.there, container)

    async def end_leftover(self, container: Ref) -> bool:
        """See Engine."""
        return await self._leftover(shims.end, container)

    async def _leftover(self, what: Callable[[str], bool], container: Ref) -> bool:
        """One without an id was never to be started."""
        try:
            return bool(container.id) and await asyncio.to_thread(what, container.id)
        except OSError as error:
            raise Unavailable(f"processes can't be looked at: {error}") from None

    async def inspect(self, container: Ref) -> View:
        """See Engine."""
        try:
            async with self._call():
                return view_of(await self.docker.containers.container(container.key).show())
        except DockerError as error:
            raise _other(error) from None

    async def pid(self, container: Ref) -> int:
        """Its first process. Raises NotFound, also when it does not run."""
        view = await self.inspect(container)
        if view.pid <= 0:
            raise NotFound(f"{container.name} does not run")
        return view.pid

    async def signal(self, container: Ref, name: str) -> None:
        """See Engine."""
        try:
            async with self._call():
                await self.docker.containers.container(container.key).kill(signal=name)
        except DockerError as error:
            if error.status not in (404, 409) and "is not running" not in error.message:
                raise _other(error) from None

    async def remove(self, container: Ref) -> None:
        """See Engine."""
        try:
            async with self._call():
                await self.docker.containers.container(container.key).delete(force=True, v=True)
        except DockerError as error:
            if error.status != 404:  # 409: a removal is under way; asked again until it is gone
                raise Unavailable(error.message) from None
        await asyncio.to_thread(self._etc.remove_hosts, container.name)
        await asyncio.to_thread(remove_place, self._runs, container.name)
        self._forget_secrets(container.name)

    async def containers(self) -> tuple[Summary, ...]:
        """See Engine."""
        filters = orjson.dumps({"label": self._labels()}).decode()
        # What has files now and is not being created is in the list that comes, or gone.
        filed = self._secrets.names() - self._creating.keys()
        try:
            async with self._call():
                listed = await self.docker.containers.list(all=True, filters=filters)
        except DockerError as error:
            raise _other(error) from None
        found = tuple(summary_of(each._container) for each in listed)
        for name in filed - {each.name for each in found}:
            self._secrets.remove(name)
        return found

    async def images(self) -> tuple[Image, ...]:
        """See Images."""
        try:
            async with self._call():
                listed = await self.docker.images.list()
                containers = await self.docker.containers.list(all=True)
        except DockerError as error:
            raise _other(error) from None
        used = {each._container["ImageID"] for each in containers}
        return tuple(image_of(each, used) for each in listed)

    async def image_config(self, image: str) -> ImageConfig:
        """See Engine."""
        try:
            async with self._call():
                return image_config_of((await self.docker.images.inspect(image))["Config"] or {})
        except DockerError as error:
            if error.status == 404:
                raise ImageMissing(error.message) from None
            raise _other(error) from None

    async def output(self, container: Ref) -> str:
        """See Engine."""
        try:
            async with self._call():
                lines = await self.docker.containers.container(container.key).log(
                    stdout=True, stderr=True, tail=_TAIL_LINES
                )
        except DockerError as error:
            raise _other(error) from None
        return "".join(lines).encode()[-OUTPUT_TAIL:].decode("utf-8", "replace")

    async def remove_image(self, name: str) -> bool:
        """See Images."""
        try:
            async with self._call():
                await self.docker.images.delete(name)
        except DockerError as error:
            if error.status == 409:
                return False
            if error.status != 404:
                raise _other(error) from None
        return True

    async def root(self) -> Path:
        """See Images."""
        try:
            async with self._call():
                return Path((await self.docker.system.info())["DockerRootDir"])
        except DockerError as error:
            raise _other(error) from None

    async def events(self, since: float) -> AsyncIterator[EngineEvent]:
        """See Engine. By aiohttp itself: aiodocker's events lose the nanoseconds, and want a task of their own."""
        filters = {
            "type": ["container"],
            "event": ["start", "die", "oom", "destroy"],
            "label": self._labels(),
        }
        params = {"since": f"{since:.6f}", "filters": orjson.dumps(filters).decode()}
        out_of_memory: dict[str, None] = {}
        try:
            async with self._session.get(
                f"{self._http}/{API_VERSION}/events", params=params
            ) as answer:
                if answer.status != 200:
                    raise Unavailable(f"Docker answered {answer.status} to events")
                async for line in answer.content:
                    event = event_of(orjson.loads(line), out_of_memory)
                    if event is not None:
                        yield event
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise Unavailable(f"events of Docker: {type(error).__name__}") from None

    def _labels(self) -> list[str]:
        identity = self._identity
        return [f"{LABEL_CLUSTER}={identity.cluster}", f"{LABEL_AGENT}={identity.agent}"]

    @asynccontextmanager
    async def _call(self) -> AsyncIterator[None]:
        """One call among CONCURRENCY, in time; what keeps the engine from answering is Unavailable."""
        async with self._busy:
            try:
                async with asyncio.timeout(self._call_timeout_s):
                    yield
            except TimeoutError:
                message = f"Docker did not answer in {self._call_timeout_s:g} s"
                raise TimedOut(message) from None
            except DockerError as error:
                if error.status in (_UNREACHABLE, 503):
                    raise Unavailable(error.message) from None
                raise
            except (aiohttp.ClientError, OSError) as error:
                message = f"Docker can't be reached: {type(error).__name__}"
                raise Unavailable(message) from None


def _http(url: str) -> str:
    return url.replace("tcp://", "http://", 1).rstrip("/")


def _other(error: DockerError) -> NotFound | Unavailable:
    return NotFound(error.message) if error.status == 404 else Unavailable(error.message)
