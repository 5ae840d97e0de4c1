"""The public API, a method an operation. Apps are named `bu/app` throughout."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any, TypeVar

import aiohttp
import orjson
from pydantic import BaseModel, ValidationError

from libs.client import dead, model
from libs.client.hosts_api import HostCalls
from libs.client.jobs import JobCalls
from libs.client.maintenance import MaintenanceCalls
from libs.client.networks_api import NetworkCalls
from libs.client.scheduling import SchedulerCalls
from libs.client.sse import Parser
from libs.client.stats import InstanceStats
from libs.client.transport import ModelT, Transport, read
from libs.client.vault import VaultClient
from libs.common.clock import Clock, Ids, RngIds, SystemClock, system_rng
from libs.common.errors import InvalidInput, TooMany, Unavailable
from libs.common.http import Response
from libs.common.problems import invalid
from libs.common.serve import segment
from libs.common.spec import NAME_PATTERN, AppSpec

BodyT = TypeVar("BodyT", bound=BaseModel)

ENDED = frozenset({"succeeded", "failed", "rolled_back", "aborted", "superseded", "refused"})
"""States of a deployment that it does not leave."""

SILENCE_S = 60.0  # the server sends a heartbeat four times as often
STREAM_FAILURES = 30  # in a row, before a stream of events is given up
WAIT_POLL_S = 1.0


class GantryClient:
    """Calls one gateway with one API key. All methods raise the errors of `libs/common/errors`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self.hosts = HostCalls(transport)
        self.vault = VaultClient(transport)
        self.addressing = NetworkCalls(transport)
        self.maintenance = MaintenanceCalls(transport)
        self.jobs = JobCalls(transport)
        self.scheduling = SchedulerCalls(transport)

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        url: str,
        key: str,
        *,
        timeout_s: float = 30.0,
        tries: int = 4,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        ids: Ids | None = None,
    ) -> AsyncIterator[GantryClient]:
        """A client with connections of its own, closed with the context."""
        drawn = rng or system_rng()
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            transport = Transport(
                url.rstrip("/"),
                key,
                session,
                clock or SystemClock(),
                drawn,
                ids or RngIds(drawn),
                timeout_s=timeout_s,
                tries=tries,
            )
            yield cls(transport)

    # -- apps ------------------------------------------------------------------------------------

    async def apps(self) -> model.Apps:
        """All apps that the key may see."""
        return await self._get(model.Apps, "/v1/apps")

    async def app(self, app: str) -> tuple[model.AppView, str]:
        """The app and the ETag of its spec."""
        response = await self._transport.call("GET", _app(app))
        return read(model.AppView, response), response.headers.get("etag", "")

    async def put_app(
        self, app: str, spec: AppSpec | Mapping[str, Any], *, if_match: str = ""
    ) -> tuple[model.AppView, str]:
        """Write the spec, whole; with `if_match` only over the one that has this ETag (else Stale)."""
        content = spec.model_dump(mode="json", by_alias=True) if isinstance(spec, AppSpec) else spec
        headers = {"if-match": if_match} if if_match else {}
        response = await self._transport.call(
            "PUT", _app(app), body=orjson.dumps(content), headers=headers
        )
        return read(model.AppView, response), response.headers.get("etag", "")

    async def releases(self, app: str) -> model.Releases:
        """The app's releases, newest first."""
        return await self._get(model.Releases, f"{_app(app)}/releases")

    async def instances(self, app: str = "") -> model.Instances:
        """The instances of an app, or of all that the key may see."""
        return await self._get(model.Instances, "/v1/instances", {"app": app})

    # -- deployments -----------------------------------------------------------------------------

    async def deploy(
        self, app: str, *, image: str | None = None, force: bool = False, key: str = ""
    ) -> model.Accepted:
        """Release the app's spec as it stands. `key` is an Idempotency-Key of one's own."""
        return await self._ask(app, "deploys", _body(model.Release, image=image, force=force), key)

    async def plan(
        self,
        app: str,
        *,
        image: str | None = None,
        spec: AppSpec | None = None,
        force: bool = False,
    ) -> model.Plan:
        """What `deploy` would do with the spec as it stands, or once `spec` were put. Stores nothing.

        With `spec` the app need not exist yet.
        """
        body = _body(model.Release, image=image, dry_run=True, spec=spec, force=force)
        return read(model.Plan, await self._post(f"{_app(app)}/deploys", body))

    async def scale(
        self,
        app: str,
        instances: int,
        *,
        force: bool = False,
        break_glass: str | None = None,
        key: str = "",
    ) -> model.Accepted:
        """Change how many instances there shall be; `break_glass`, a reason: without waiting for the event bus."""
        body = _urgent(model.Scale, break_glass, instances=instances, force=force)
        return await self._ask(app, "scale", body, key)

    async def rollback(
        self,
        app: str,
        release: int | None = None,
        *,
        force: bool = False,
        break_glass: str | None = None,
        key: str = "",
    ) -> model.Accepted:
        """Go back to a release, or to the one before; `break_glass` as in `scale`."""
        body = _urgent(model.Rollback, break_glass, release=release, force=force)
        return await self._ask(app, "rollback", body, key)

    async def restart(
        self, app: str, *, force: bool = False, break_glass: str | None = None, key: str = ""
    ) -> model.Accepted:
        """Replace all instances by new ones of the same release; `break_glass` as in `scale`."""
        body = _urgent(model.Urgent, break_glass, force=force)
        return await self._ask(app, "restart", body, key)

    async def stop(
        self, app: str, *, force: bool = False, break_glass: str | None = None, key: str = ""
    ) -> model.Accepted:
        """Stop all instances; the app stays. `break_glass` as in `scale`."""
        return await self._ask(app, "stop", _urgent(model.Urgent, break_glass, force=force), key)

    async def deployment(self, deployment: str) -> model.DeploymentView:
        """How a deployment goes."""
        return await self._get(model.DeploymentView, f"/v1/deployments/{segment(deployment)}")

    async def deployments(self, app: str = "", *, limit: int = 100) -> model.Deployments:
        """Deployments, newest first."""
        query = {"app": app, "limit": str(limit)}
        return await self._get(model.Deployments, "/v1/deployments", query)

    async def pause(self, deployment: str) -> model.DeploymentView:
        """Hold a deployment where it stands."""
        return await self._change(deployment, "pause")

    async def resume(self, deployment: str) -> model.DeploymentView:
        """Let a paused deployment go on."""
        return await self._change(deployment, "resume")

    async def abort(self, deployment: str) -> model.DeploymentView:
        """Go back to what was there before; one that is on its way back already ends as it stands."""
        return await self._change(deployment, "abort")

    async def wait(self, deployment: str, poll_s: float = WAIT_POLL_S) -> model.DeploymentView:
        """The deployment once it has ended. Polls; has no time-out of its own."""
        while True:
            view = await self.deployment(deployment)
            if view.state in ENDED:
                return view
            await self._transport.clock.sleep(poll_s)

    # -- the cluster -----------------------------------------------------------------------------

    async def nodes(self) -> model.Nodes:
        """All hosts."""
        return await self._get(model.Nodes, "/v1/nodes")

    async def alerts(self, state: str = "") -> model.Alerts:
        """Alerts: `firing`, `resolved` or both."""
        return await self._get(model.Alerts, "/v1/alerts", {"state": state})

    # -- keys and audit --------------------------------------------------------------------------

    async def keys(self) -> model.Keys:
        """API keys, without their secrets."""
        return await self._get(model.Keys, "/v1/keys")

    async def create_key(self, wanted: model.NewKey) -> model.KeyCreated:
        """Make an API key; the answer alone shows it."""
        return read(model.KeyCreated, await self._post("/v1/keys", wanted))

    async def revoke_key(self, key_id: str) -> model.KeyView:
        """Revoke an API key."""
        response = await self._transport.call("DELETE", f"/v1/keys/{segment(key_id)}")
        return read(model.KeyView, response)

    async def producer_keys(self) -> model.ProducerKeys:
        """Public keys of producers."""
        return await self._get(model.ProducerKeys, "/v1/producers")

    async def add_producer_key(self, wanted: model.NewProducerKey) -> model.ProducerKeyView:
        """Register a producer's public key."""
        return read(model.ProducerKeyView, await self._post("/v1/producers", wanted))

    async def remove_producer_key(self, key_id: str) -> model.ProducerKeyView:
        """Remove a producer's key."""
        response = await self._transport.call("DELETE", f"/v1/producers/{segment(key_id)}")
        return read(model.ProducerKeyView, response)

    async def tenants(self) -> model.Tenants:
        """Business units that have keys."""
        return await self._get(model.Tenants, "/v1/tenants")

    async def audit(self, *, limit: int = 100, before: str = "") -> model.Audit:
        """A page of the audit trail, newest first."""
        return await self._get(model.Audit, "/v1/audit", {"limit": str(limit), "before": before})

    async def breaker(self) -> model.Breaker:
        """Does the scheduler hold kills of unknown tasks back, and of which."""
        return await self._get(model.Breaker, "/v1/breaker")

    async def release_breaker(self) -> model.Breaker:
        """Have the unknown tasks killed. Raises Conflict when none is held back."""
        return read(model.Breaker, await self._post("/v1/breaker/release", None))

    # -- dead letters ----------------------------------------------------------------------------

    async def dead_letters(self, group: str = "", *, limit: int = 100) -> dead.Dead:
        """What consumer groups (or this one) could not handle, newest first."""
        return await self._get(dead.Dead, "/v1/dead", {"group": group, "limit": str(limit)})

    async def dead_letter(self, group: str, place: str) -> dead.DeadLetter:
        """One dead letter with its value; `place` is partition:offset."""
        return await self._get(dead.DeadLetter, f"{_dead(group)}/{segment(place)}")

    async def replay(self, group: str, places: Sequence[str]) -> dead.Replayed:
        """Publish dead letters again, each to the topic it came from."""
        return await self._replay(group, dead.Replay(places=tuple(places)))

    async def replay_all(self, group: str, after: str = "") -> dead.Replayed:
        """A page of all that were not replayed yet; go on with the answer's `next` until that is empty."""
        return await self._replay(group, dead.Replay(all=True, after=after))

    # -- streams ---------------------------------------------------------------------------------

    async def events(
        self, topics: Sequence[str] = (), subject: str = "", last_id: str = ""
    ) -> AsyncGenerator[model.EventView, None]:
        """Events as they happen, for ever; comes back from lost connections where it was.

        Raises what the server refuses with, and Unavailable after STREAM_FAILURES in a row.
        """
        query = {"topics": ",".join(topics), "subject": subject}
        query = {name: value for name, value in query.items() if value}
        transport = self._transport
        failures = 0
        while True:
            parser = Parser(last_id)
            headers = {"last-event-id": last_id} if last_id else {}
            try:
                async with transport.stream(
                    "/v1/events", query=query, headers=headers, silence_s=SILENCE_S
                ) as chunks:
                    async for chunk in chunks:
                        failures = 0
                        for message in parser.feed(chunk):
                            yield _event(message.data, message.id)
                        last_id = parser.last_id
            except (Unavailable, TooMany):
                if failures + 1 >= STREAM_FAILURES:
                    raise
            failures += 1
            await transport.clock.sleep(transport.backoff.delay_s(failures, transport.rng))

    async def place(self, topics: Sequence[str] = (), subject: str = "") -> str:
        """Where the events stand now; `events` from there on misses nothing that happens after this call."""
        query = {"topics": ",".join(topics), "subject": subject}
        query = {name: value for name, value in query.items() if value}
        parser = Parser()
        async with self._transport.stream("/v1/events", query=query, silence_s=SILENCE_S) as chunks:
            async for chunk in chunks:
                for _ in parser.feed(chunk):
                    break
                if parser.last_id:
                    return parser.last_id
        raise Unavailable("the event stream ended before it began")

    async def logs(
        self, instance: str, *, follow: bool = False, tail: int = 100, since: int = 0
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Lines that an instance writes: {time, stream, line}."""
        query = {"follow": str(follow).lower(), "tail": str(tail), "since": str(since)}
        path = f"/v1/instances/{segment(instance)}/logs"
        async with aclosing(self._transport.lines(path, query)) as lines:
            async for line in lines:
                yield line

    async def stats(self, instance: str) -> InstanceStats:
        """What an instance's container uses; see `cpus_between`."""
        return await self._get(InstanceStats, f"/v1/instances/{segment(instance)}/stats")

    # -- parts -----------------------------------------------------------------------------------

    async def _get(
        self, kind: type[ModelT], path: str, query: Mapping[str, str] | None = None
    ) -> ModelT:
        kept = {name: value for name, value in (query or {}).items() if value}
        return read(kind, await self._transport.call("GET", path, query=kept))

    async def _post(self, path: str, body: BaseModel | None = None, key: str = "") -> Response:
        # What is None is left out: an older server refuses fields that it does not know.
        content = (
            b"" if body is None else body.model_dump_json(by_alias=True, exclude_none=True).encode()
        )
        headers = {"idempotency-key": key} if key else {}
        return await self._transport.call("POST", path, body=content, headers=headers)

    async def _ask(self, app: str, what: str, body: BaseModel, key: str) -> model.Accepted:
        return read(model.Accepted, await self._post(f"{_app(app)}/{what}", body, key))

    async def _replay(self, group: str, wanted: dead.Replay) -> dead.Replayed:
        return read(dead.Replayed, await self._post(f"{_dead(group)}/replay", wanted))

    async def _change(self, deployment: str, verb: str) -> model.DeploymentView:
        path = f"/v1/deployments/{segment(deployment)}/{verb}"
        return read(model.DeploymentView, await self._post(path))


def _app(app: str) -> str:
    bu, found, name = app.partition("/")
    if not found or not bu or not name or "/" in name:
        raise InvalidInput.of(
            "app", f"{app!r} is not an app's name", f"bu/app, each {NAME_PATTERN}"
        )
    return f"/v1/apps/{segment(bu)}/{segment(name)}"


def _body(kind: type[BodyT], **fields: Any) -> BodyT:
    """What is sent. Raises InvalidInput naming the field, as the server would."""
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        raise invalid(error) from None


def _urgent(kind: type[BodyT], break_glass: str | None, **fields: Any) -> BodyT:
    broken = {} if break_glass is None else {"break_glass": True, "reason": break_glass}
    return _body(kind, **fields, **broken)


def _dead(group: str) -> str:
    return f"/v1/dead/{segment(group)}"


def _event(data: str, cursor: str) -> model.EventView:
    try:
        return model.EventView.model_validate({**orjson.loads(data), "cursor": cursor})
    except (ValidationError, ValueError, TypeError):
        raise Unavailable("the event stream sent something else than an event") from None
