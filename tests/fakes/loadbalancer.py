"""A load balancer in memory; passes the contract suite that the real drivers pass."""

from __future__ import annotations

from dataclasses import dataclass, field

from libs.common.clock import Clock
from libs.common.errors import Unavailable
from services.deployer.loadbalancer.base import Answer, AnswerState, Change, ChangeKind
from services.deployer.model import Endpoint

Pair = tuple[str, int]


@dataclass
class FakeLoadBalancer:
    """Backends with so many slots each. `open_requests` is the test's to set; `down` makes it unreachable."""

    clock: Clock
    slots: int = 200
    backends: tuple[str, ...] | None = None  # None: any
    down: bool = False
    add_polls: int = 0  # answer WAITING so many times before an endpoint is in
    open_requests: dict[Pair, int] = field(default_factory=dict)
    serving: dict[str, dict[Pair, None]] = field(default_factory=dict)
    draining: dict[str, dict[Pair, None]] = field(default_factory=dict)
    waits: dict[str, int] = field(default_factory=dict)
    history: list[tuple[str, str, str]] = field(default_factory=list)

    async def submit(self, change: Change) -> Answer:
        """Begin or go on."""
        return await self.poll(change)

    async def poll(self, change: Change) -> Answer:
        """Bring the endpoint to where the change wants it."""
        self._reach()
        backend = change.endpoint.backend
        if self.backends is not None and backend not in self.backends:
            if change.kind is ChangeKind.REMOVE:
                return Answer(AnswerState.SUCCESS)
            return Answer(AnswerState.FAILED, f"no backend {backend!r}")
        answer = self._add(change) if change.kind is ChangeKind.ADD else self._remove(change)
        self.history.append((change.kind.value, change.instance, answer.state.value))
        return answer

    async def cancel(self, change: Change) -> Answer:
        """Take an endpoint out that was being added."""
        self._reach()
        self._drop(change.endpoint)
        return Answer(AnswerState.CANCELLED)

    async def present(self, backend: str) -> frozenset[Pair] | None:
        """Endpoints with traffic."""
        self._reach()
        return frozenset(self.serving.get(backend, {}))

    async def close(self) -> None:
        """Nothing to release."""

    def restart(self) -> None:
        """Forget all, as HAProxy does."""
        self.serving.clear()
        self.draining.clear()

    def _reach(self) -> None:
        if self.down:
            raise Unavailable("the load balancer is down")

    def _add(self, change: Change) -> Answer:
        pair = _pair(change.endpoint)
        serving = self.serving.setdefault(change.endpoint.backend, {})
        draining = self.draining.setdefault(change.endpoint.backend, {})
        if pair not in serving and pair not in draining and len(serving | draining) >= self.slots:
            return Answer(AnswerState.FAILED, f"all {self.slots} slots are taken")
        if self.waits.setdefault(change.id, 0) < self.add_polls:
            self.waits[change.id] += 1
            return Answer(AnswerState.WAITING)
        draining.pop(pair, None)
        serving[pair] = None
        return Answer(AnswerState.SUCCESS)

    def _remove(self, change: Change) -> Answer:
        pair = _pair(change.endpoint)
        backend = change.endpoint.backend
        known = pair in self.serving.get(backend, {}) or pair in self.draining.get(backend, {})
        if not known:
            return Answer(AnswerState.SUCCESS)
        count = self.open_requests.get(pair, 0)
        if count and self.clock.now() < change.drain_until:
            self.serving[backend].pop(pair, None)
            self.draining.setdefault(backend, {})[pair] = None
            return Answer(AnswerState.WAITING, f"{count} requests are open")
        self._drop(change.endpoint)
        return Answer(AnswerState.SUCCESS, f"{count} requests were still open" if count else "")

    def _drop(self, endpoint: Endpoint) -> None:
        for pool in (self.serving, self.draining):
            pool.get(endpoint.backend, {}).pop(_pair(endpoint), None)


def _pair(endpoint: Endpoint) -> Pair:
    return (endpoint.address, endpoint.port)
