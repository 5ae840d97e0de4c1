"""SwitchDriver on a FakeHost (`network.py`): ports with numbers, rules by cookie."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from libs.common.errors import Unavailable
from services.hostd import flows
from services.hostd.model import PortView, Probe, SwitchPort, SwitchReport

if TYPE_CHECKING:
    from tests.fakes.network import FakeHost

FIRST_AUTOMATIC_OFPORT = 1


class FakeSwitch:
    """SwitchDriver on a FakeHost."""

    def __init__(self, host: FakeHost) -> None:
        self._host = host
        self._restarted = host.watch_switch()

    async def run(self) -> None:
        """See SwitchDriver."""
        await asyncio.Event().wait()

    async def restarted(self) -> None:
        """See SwitchDriver."""
        await self._restarted.wait()
        self._restarted.clear()

    def is_connected(self) -> bool:
        """See SwitchDriver."""
        return self._host.switch_up

    async def ensure(self, ports: Sequence[SwitchPort]) -> tuple[PortView, ...]:
        """See SwitchDriver."""
        self._arrive("switch.ensure")
        host = self._host
        for port in ports:
            host.rules[flows.OWNER_COOKIE | port.ofport] = flows.rules_of(port)
            host.ports[port.name] = port
            if port.name in host.links and port.name not in host.numbers:
                host.numbers[port.name] = self._number(port.ofport)
        host.step("switch.ensured")
        return tuple(self._judge(port) for port in ports)

    async def remove(self, names: Sequence[str]) -> None:
        """See SwitchDriver."""
        self._arrive("switch.remove")
        host = self._host
        for name in names:
            port = host.ports.pop(name, None)
            host.numbers.pop(name, None)
            if port is not None:
                host.rules.pop(flows.OWNER_COOKIE | port.ofport, None)

    async def ping(self) -> None:
        """See SwitchDriver."""
        if not self._host.switch_up:
            raise Unavailable("Open vSwitch is not running")

    async def view(self) -> tuple[PortView, ...]:
        """See SwitchDriver."""
        self._arrive("switch.view")
        return tuple(self._view(port) for port in self._host.ports.values())

    async def probe(self, probes: Sequence[Probe]) -> Mapping[Probe, str]:
        """See SwitchDriver."""
        self._arrive("switch.probe")
        claims = self._host.strangers
        return {each: claims[each.address] for each in probes if each.address in claims}

    async def restore_flows(self, wanted: Callable[[], Sequence[SwitchPort]]) -> None:
        """See SwitchDriver."""
        self._arrive("switch.restore")
        self._host.rules = self._right(wanted())

    async def inspect(self, wanted: Callable[[], Sequence[SwitchPort]]) -> SwitchReport:
        """See SwitchDriver."""
        self._arrive("switch.inspect")
        present, right = self._host.rules, self._right(wanted())
        return SwitchReport(
            ports=tuple(self._view(port) for port in self._host.ports.values()),
            uplinks=frozenset(),
            missing=tuple(
                c for c, rules in right.items() for each in rules if each not in present.get(c, ())
            ),
            surplus=tuple(
                str(each)
                for cookie, rules in present.items()
                for each in rules
                if each not in right.get(cookie, ())
            ),
        )

    def _arrive(self, step: str) -> None:
        self._host.step(step)
        if not self._host.switch_up:
            raise Unavailable("Open vSwitch is not running")

    def _right(self, ports: Sequence[SwitchPort]) -> dict[int, tuple[flows.Rule, ...]]:
        found = [self._view(port) for port in self._host.ports.values()]
        ports = flows.standing(found, ports)
        strays = {rule.cookie: (rule,) for rule in flows.strays(found, ports)}
        return strays | _rules(ports)

    def _number(self, wanted: int) -> int:
        taken = set(self._host.numbers.values())
        if wanted not in taken:
            return wanted
        return next(n for n in range(FIRST_AUTOMATIC_OFPORT, 65_000) if n not in taken)

    def _view(self, port: SwitchPort) -> PortView:
        number = self._host.numbers.get(port.name)
        # As the real one: a link that vanished later keeps its number and shows no error.
        error = None if number else f"could not open network device {port.name}"
        return PortView(
            port.name,
            port.vlan,
            number,
            port.attachment,
            port.container,
            error,
            port.bandwidth,
            port.netns,
            port.generation,
        )

    def _judge(self, port: SwitchPort) -> PortView:
        view = self._view(port)
        if view.error is None and view.ofport != port.ofport:
            return replace(view, error=f"the switch gave it number {view.ofport}")
        return view


def _rules(ports: Sequence[SwitchPort]) -> dict[int, tuple[flows.Rule, ...]]:
    return {flows.OWNER_COOKIE: flows.SHARED_RULES} | {
        flows.OWNER_COOKIE | port.ofport: flows.rules_of(port) for port in ports
    }
