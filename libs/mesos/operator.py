"""`OperatorClient`: the operator API of the leading master, and its legacy endpoints."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from libs.common.clock import Clock
from libs.mesos import calls, events
from libs.mesos.credentials import CredentialFile, Login
from libs.mesos.errors import (
    MesosError,
    NotLeader,
    ProtocolError,
    TransportError,
    Unavailable,
    refusal,
)
from libs.mesos.ports import Credentials, Request, Response, Transport
from libs.mesos.stream import EventStream, ask, base_url, location, post
from libs.mesos.subscription import Lost, Options, Subscription

PATH = "/api/v1"
Json = dict[str, Any]


class OperatorClient:
    """Calls and the event stream of the operator API.

    `peers` are base URLs or `host:port` of the masters, or of one agent (which has no stream).
    A call goes to the peer that answered last; a redirect is followed once.
    """

    def __init__(
        self,
        transport: Transport,
        peers: Sequence[str],
        *,
        clock: Clock,
        rng: random.Random,
        credentials: Credentials | CredentialFile | None = None,
        options: Options | None = None,
        call_timeout_s: float = 10.0,
    ) -> None:
        if not peers:
            raise ValueError("an operator client needs at least one peer")
        self._transport = transport
        self._peers = [base_url(peer) for peer in peers]
        self._clock = clock
        self._rng = rng
        self._login = Login(credentials)
        self._options = options or Options()
        self._call_timeout_s = call_timeout_s
        self._leader: str | None = None

    @asynccontextmanager
    async def subscribe(
        self,
    ) -> AsyncIterator[AsyncIterator[events.OperatorEvent | events.Disconnected]]:
        """Events, re-subscribing inside; each SUBSCRIBED carries the whole state (get_state).

        What happened while disconnected is only in that state, never repeated as events.
        """
        stream = EventStream(
            Subscription(self._peers, self._options, self._rng),
            self._transport,
            self._clock,
            path=PATH,
            headers={},
            subscribe_body=lambda: {"type": "SUBSCRIBE"},
            connect_timeout_s=self._options.connect_timeout_s,
            login=self._login,
        )
        try:
            yield self._events(stream)
        finally:
            await stream.aclose()

    async def _events(
        self, stream: EventStream
    ) -> AsyncIterator[events.OperatorEvent | events.Disconnected]:
        async for item in stream:
            if isinstance(item, Lost):
                yield events.Disconnected(item.reason, item.was_subscribed, item.retry_in_s)
            else:
                yield events.operator_event(item)

    async def call(self, type_: str, **body: Any) -> Json:
        """The answer's body (what stands under its lower-case type), {} if it has none.

        `body` is what goes under the call's lower-case type. Raises `BadCall`, `AccessDenied`,
        `Unavailable`, `TransportError`, `CallTimeout`, `ProtocolError`.
        """
        message = {"type": type_, **({type_.lower(): body} if body else {})}
        response = await self._to_leader(message)
        if not response.body:
            return {}
        answer = _object(response)
        found = answer.get(str(answer.get("type", "")).lower(), {})
        return found if isinstance(found, dict) else {}

    async def _to_leader(self, message: Json) -> Response:
        failure: MesosError | None = None
        candidates = [self._leader] if self._leader else []
        candidates += [peer for peer in self._peers if peer != self._leader]
        for peer in candidates:
            try:
                response = await self._post(peer, message)
            except NotLeader as redirect:
                self._leader = redirect.location
                return await self._post(redirect.location, message)
            except MesosError as error:
                if len(candidates) == 1 or not _another_may_answer(error):
                    raise
                failure = error
                continue
            self._leader = peer
            return response
        assert failure is not None, "there is at least one candidate"
        raise failure

    async def _post(self, peer: str, message: Json) -> Response:
        return await post(
            self._transport, peer + PATH, {}, message, self._call_timeout_s, self._login
        )

    async def get(self, path: str, peer: str | None = None) -> Response:
        """GET an endpoint, of the present leader unless `peer` is said; any 2xx or 307 answer."""
        url = (base_url(peer) if peer else self._leader or self._peers[0]) + path
        request = Request("GET", url, {"Accept": "application/json"})
        response = await ask(self._transport, request, self._login, self._call_timeout_s)
        if response.status == 307 or 200 <= response.status < 300:
            return response
        raise refusal(response.status, response.text(), location(response.headers, url))

    async def get_state(self) -> Json:
        """GET_STATE: get_tasks, get_executors, get_frameworks, get_agents in one."""
        return await self.call("GET_STATE")

    async def get_agents(self) -> Json:
        """GET_AGENTS: agents, recovered_agents."""
        return await self.call("GET_AGENTS")

    async def get_tasks(self) -> Json:
        """GET_TASKS: tasks, completed_tasks, unreachable_tasks, orphan_tasks, pending_tasks."""
        return await self.call("GET_TASKS")

    async def get_frameworks(self) -> Json:
        """GET_FRAMEWORKS: frameworks, completed_frameworks."""
        return await self.call("GET_FRAMEWORKS")

    async def get_executors(self) -> Json:
        """GET_EXECUTORS: executors."""
        return await self.call("GET_EXECUTORS")

    async def get_health(self) -> bool:
        """GET_HEALTH."""
        return bool((await self.call("GET_HEALTH")).get("healthy", False))

    async def get_version(self) -> Json:
        """GET_VERSION: version_info."""
        return await self.call("GET_VERSION")

    async def get_metrics(self, timeout_s: float | None = None) -> dict[str, float]:
        """GET_METRICS: name → value."""
        body = {"timeout": {"nanoseconds": round(timeout_s * calls.NS_PER_S)}} if timeout_s else {}
        metrics = (await self.call("GET_METRICS", **body)).get("metrics", [])
        return {metric["name"]: float(metric["value"]) for metric in metrics if "value" in metric}

    async def get_master(self) -> Json:
        """GET_MASTER: master_info."""
        return await self.call("GET_MASTER")

    async def get_roles(self) -> Json:
        """GET_ROLES: roles."""
        return await self.call("GET_ROLES")

    async def mark_agent_gone(self, agent_id: str) -> None:
        """MARK_AGENT_GONE: for good; its tasks become TASK_GONE_BY_OPERATOR."""
        await self.call("MARK_AGENT_GONE", agent_id=calls.value(agent_id))

    async def drain_agent(
        self, agent_id: str, *, max_grace_s: float | None = None, mark_gone: bool = False
    ) -> None:
        """DRAIN_AGENT: kill its tasks, offer nothing of it until it is reactivated."""
        body: Json = {"agent_id": calls.value(agent_id), "mark_gone": mark_gone}
        if max_grace_s is not None:
            body["max_grace_period"] = {"nanoseconds": round(max_grace_s * calls.NS_PER_S)}
        await self.call("DRAIN_AGENT", **body)

    async def deactivate_agent(self, agent_id: str) -> None:
        """DEACTIVATE_AGENT: offer nothing of it."""
        await self.call("DEACTIVATE_AGENT", agent_id=calls.value(agent_id))

    async def reactivate_agent(self, agent_id: str) -> None:
        """REACTIVATE_AGENT."""
        await self.call("REACTIVATE_AGENT", agent_id=calls.value(agent_id))

    async def teardown(self, framework_id: str) -> None:
        """TEARDOWN a framework."""
        await self.call("TEARDOWN", framework_id=calls.value(framework_id))

    async def health(self) -> bool:
        """`/health` of the first peer that answers: 200 is health."""
        return (await self.get("/health")).status == 200

    async def state(self) -> Json:
        """`/state`."""
        return _object(await self.get("/state"))

    async def metrics_snapshot(self, peer: str | None = None) -> dict[str, float]:
        """`/metrics/snapshot`: name → value."""
        return {k: float(v) for k, v in _object(await self.get("/metrics/snapshot", peer)).items()}

    async def leader(self) -> str:
        """The leading master's base URL, by `/master/redirect`. Raises `Unavailable`."""
        failure: MesosError = ProtocolError("no Location in the answer to /master/redirect")
        for peer in self._peers:
            try:
                response = await self.get("/master/redirect", peer)
            except MesosError as error:
                failure = error
                continue
            if found := location(response.headers, peer):
                self._leader = found
                return found
        raise failure


def _another_may_answer(error: MesosError) -> bool:
    return isinstance(error, TransportError | Unavailable)


def _object(response: Response) -> Json:
    try:
        found = json.loads(response.body)
    except ValueError as error:
        raise ProtocolError(f"the answer is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ProtocolError("the answer is not a JSON object")
    return found
