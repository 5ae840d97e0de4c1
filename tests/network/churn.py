"""A churn: seeded random steps of many callers, with processes killed and things cut under them, on a real site.

At check points, and at the end, the site must have exactly what the callers were told; then all is deleted, and it must
have nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from infra.provision.process import tail
from libs.common.errors import Unavailable
from services.hostd.flows import OWNER_COOKIE
from tests.network import places
from tests.network.plan import FAULTS, Act, Size, Step, rounds
from tests.network.site import NetHost, Site
from tests.network.stations import full_matrix, stations
from tests.network.truth import differences

T = TypeVar("T")

CALL_S = 90.0  # a caller goes on trying so long
SETTLE_S = 45.0
CHECK_EVERY = 1000  # steps
SPOKEN_TO = 12  # attachments of a check point that try each other
PAUSE_S = 0.05


class ChurnFailed(Exception):
    """Something is not as it should be. The text has the seed and the step."""


@dataclass
class Outcome:
    """What was done, and how long it took."""

    seed: int
    steps: int = 0
    acts: dict[str, int] = field(default_factory=dict)
    checks: int = 0
    retries: int = 0
    took_s: float = 0.0

    def __str__(self) -> str:
        acts = ", ".join(f"{count} × {act}" for act, count in sorted(self.acts.items()))
        return (
            f"seed {self.seed}: {self.steps} steps in {self.took_s:.0f} s, {self.checks} checks, "
            f"{self.retries} calls repeated: {acts}"
        )


async def churn(
    site: Site,
    seed: int,
    size: Size,
    *,
    check_every: int = CHECK_EVERY,
    say: Callable[[str], None] = lambda _text: None,
) -> Outcome:
    """Do it. Raises ChurnFailed."""
    run = _Churn(site, Outcome(seed))
    began = time.monotonic()
    next_check = check_every
    try:
        for planned in rounds(seed, size):
            await run.round(planned)
            run.outcome.took_s = time.monotonic() - began
            if run.outcome.steps >= next_check:
                next_check += check_every
                await run.check()
                say(str(run.outcome))
        await run.check()
        await run.clear()
    except (Exception, ExceptionGroup) as error:
        logs = "\n".join(f"{each.name}: {tail(each.hostd.log)}" for each in site.hosts)
        where = f"seed {seed}, by step {run.outcome.steps}, last {run.last}"
        raise ChurnFailed(
            f"{where}: {_reasons(error)}\n{logs}\nipam: {tail(site.ipam.log)}"
        ) from error
    run.outcome.took_s = time.monotonic() - began
    return run.outcome


def _reasons(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(_reasons(each) for each in error.exceptions)
    return f"{type(error).__name__}: {error}"


class _Churn:
    def __init__(self, site: Site, outcome: Outcome) -> None:
        self.outcome = outcome
        self.last: Sequence[str] = ()
        self._site = site
        self._views: dict[str, dict[str, Any]] = {}  # of those that answered last, by container
        self._leave: dict[str, str] = {}  # the engine's id that may start, by container
        self._hosts: dict[str, NetHost] = {}  # of all that the callers want
        self._unsure: dict[str, Step] = {}  # the last call for it was broken off
        self._rubbish = 0

    async def round(self, planned: Sequence[Step]) -> None:
        """Make all steps at once; afterwards everything runs, and all calls but the broken ones were answered."""
        self.last = [str(each) for each in planned]
        faults = {each.act for each in planned} & set(FAULTS)
        async with asyncio.TaskGroup() as group:
            for step in planned:
                job = self._strike(step) if step.act in FAULTS else self._call(step, not faults)
                group.create_task(job)
        # What was sent and broken off is in hostd's hands before anything else is asked of it.
        for host in self._site.hosts:
            await self._persist(host.attachments)
        self.outcome.steps += len(planned)
        for each in planned:
            self.outcome.acts[each.act.value] = self.outcome.acts.get(each.act.value, 0) + 1
        self._check_unique()

    def _check_unique(self) -> None:
        owners: dict[str, str] = {}
        for name, view in self._views.items():
            other = owners.setdefault(view["ip"], name)
            assert other == name, f"{view['ip']} is {name}'s and {other}'s"

    # -- calls

    async def _call(self, step: Step, calm: bool) -> None:
        host = self._site.hosts[step.host]
        if step.act in (Act.ADD, Act.AGAIN):
            await self._add(host, step.container, step)
        elif step.act is Act.DELETE:
            await self._delete(host, step.container)
        elif step.act is Act.REGISTER:
            await self._register(host, step)
        elif step.act is Act.MOVE:
            before = self._views[step.container]
            await self._delete(host, step.container)
            after = await self._add(self._site.hosts[step.to_host], step.heir, step)
            # While ipam or the old host's hostd is away, the address may come free too late.
            assert not calm or after["ip"] == before["ip"], f"{step}: {before} -> {after}"
        else:
            await self._broken(host, step)

    async def _broken(self, host: NetHost, step: Step) -> None:
        """The caller leaves in the middle of the call."""
        self._unsure[step.container] = step
        self._hosts[step.container] = host
        if step.act is Act.ADD_BROKEN:
            call = host.add(step.container, step.network, sticky_key=step.sticky)
        else:
            self._forget(step.container)
            call = self._ignored(host.delete(step.container))
        with suppress(Unavailable, TimeoutError):
            async with asyncio.timeout(step.after_s):
                await call

    @staticmethod
    async def _ignored(call: Awaitable[object]) -> dict[str, Any]:
        await call
        return {}

    async def _add(self, host: NetHost, container: str, step: Step) -> dict[str, Any]:
        view = await self._persist(
            lambda: host.add(container, step.network, sticky_key=step.sticky)
        )
        known = self._views.get(container)
        if known is not None:
            same = [
                key for key in ("ip", "namespace", "address_generation") if known[key] != view[key]
            ]
            assert not same, f"{container}: the same ADD answers another {same}: {known} -> {view}"
        self._views[container], self._hosts[container] = view, host
        self._unsure.pop(container, None)
        return view

    async def _register(self, host: NetHost, step: Step) -> None:
        engine_id = hashlib.sha256(step.container.encode()).hexdigest()

        async def have_leave() -> None:
            await host.add(step.container, step.network, sticky_key=step.sticky)
            await host.register(step.container, engine_id)

        await self._persist(have_leave)
        self._leave[step.container] = engine_id

    def _forget(self, container: str) -> None:
        self._views.pop(container, None)
        self._leave.pop(container, None)

    async def _delete(self, host: NetHost, container: str) -> None:
        self._forget(container)
        await self._persist(lambda: host.delete(container))
        self._hosts.pop(container, None)
        self._unsure.pop(container, None)

    async def _persist(self, call: Callable[[], Awaitable[T]]) -> T:
        """A caller that repeats its call until it is answered; what is refused is not repeated."""
        async with asyncio.timeout(CALL_S):
            while True:
                try:
                    return await call()
                except Unavailable:
                    self.outcome.retries += 1
                    await asyncio.sleep(PAUSE_S)

    # -- faults

    async def _strike(self, step: Step) -> None:
        await asyncio.sleep(step.after_s)
        host = self._site.hosts[step.host]
        if step.act is Act.KILL_HOSTD:
            await host.hostd.kill()
            host.hostd.start()
            await host.wait_ready()
        elif step.act in (Act.KILL_SWITCH, Act.KILL_DATABASE):
            await host.kill_switch(database=step.act is Act.KILL_DATABASE)
            await host.ovs.start()
        elif step.act is Act.KILL_IPAM:
            await self._site.ipam.kill()
            await self._site.start_ipam()
        elif step.act is Act.LEAVE_RUBBISH:
            self._rubbish += 1
            await asyncio.to_thread(_leave_rubbish, host, self._rubbish)
        elif (view := self._views.get(step.container)) is not None:
            await asyncio.to_thread(_cut, host, step.act, view)

    # -- looking

    async def check(self) -> None:
        """Callers whose call was broken off finish it; then everything must become exactly right."""
        for name, step in list(self._unsure.items()):
            host = self._hosts[name]
            if step.act is Act.ADD_BROKEN:
                await self._add(host, name, step)
            else:
                await self._delete(host, name)
        await self._settle()
        await self._speak()
        self.outcome.checks += 1

    async def clear(self) -> None:
        """Delete everything; nothing must be left."""
        async with asyncio.TaskGroup() as group:
            for name in list(self._views):
                group.create_task(self._delete(self._hosts[name], name))
        await self._settle()
        self.outcome.checks += 1

    async def _settle(self) -> None:
        give_up_at = time.monotonic() + SETTLE_S
        while found := await differences(self._site, self._wanted()):
            if time.monotonic() > give_up_at:
                raise AssertionError("\n".join(found))
            await asyncio.sleep(0.2)

    def _wanted(self) -> Mapping[str, Mapping[str, dict[str, Any]]]:
        wanted: dict[str, dict[str, dict[str, Any]]] = {}
        for name, view in self._views.items():
            known = {**view, "leave": self._leave.get(name)}
            wanted.setdefault(self._hosts[name].name, {})[name] = known
        return wanted

    async def _speak(self) -> None:
        """Some of them try each other."""
        views = [(self._hosts[name].name, view) for name, view in sorted(self._views.items())]
        with stations(views[:SPOKEN_TO]) as everybody:
            matrix = await full_matrix(everybody)
        assert not matrix.wrong, f"who can connect to whom: {matrix.wrong}"


def _port_of(host: NetHost, view: Mapping[str, Any]) -> str:
    return f"{host.link_prefix}{view['namespace'].rpartition('/')[2]}"[:15]


def _cut(host: NetHost, act: Act, view: Mapping[str, Any]) -> None:
    """Somebody deletes it by hand; no error when it goes at the same time."""
    port = _port_of(host, view)
    if act is Act.CUT_LINK:
        places.inside(host.namespace, "ip", "link", "delete", port, check=False)
    elif act is Act.CUT_PORT:
        host.vsctl("--if-exists", "del-port", host.bridge, port)
    else:
        told = host.vsctl("--if-exists", "get", "interface", port, "ofport").strip()
        if told.isdecimal():
            host.ofctl("del-flows", f"cookie={OWNER_COOKIE | int(told)}/-1", check=False)


def _leave_rubbish(host: NetHost, n: int) -> None:
    """A port, a link, a namespace and a registration of hostd's that it knows nothing of."""
    name = f"{n:010d}"
    link = f"{host.link_prefix}{name}"[:15]
    peer = ("type", "veth", "peer", "name", f"rubbish{n}")
    places.inside(host.namespace, "ip", "link", "add", link, *peer)
    host.vsctl(
        "add-port", host.bridge, link, "--", "set", "port", link, f"external_ids:gantry-attachment={name}",
        check=False,
    )  # fmt: skip
    namespace = host.run_dir / "netns" / name
    namespace.touch()
    places.run("unshare", f"--net={namespace}", "true", check=False)
    registration = host.run_dir / "netns-reg" / f"{n:064x}"
    registration.write_text(f"gantry-registration 1\nnamespace={name}\n")
