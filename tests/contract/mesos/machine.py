"""Fits fixtures to the agent under test: its total resources and attributes are its own.

The recordings were made on an agent of 4 CPUs, 4096 MiB, 10000 MiB of disk and ports 31000–32000.
On another one every amount that is the total less what tasks use is moved by the difference of the
totals; amounts of tasks stay. This is the `resource totals of the machine` of the allowed differences.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.contract.mesos.steps import Step

RECORDED = {"cpus": 4.0, "mem": 4096.0, "disk": 10000.0}
RECORDED_PORTS = (31000, 32000)
RECORDED_ATTRIBUTES = [
    {"name": "rack", "type": "TEXT", "text": {"value": "r1"}},
    {"name": "class", "type": "TEXT", "text": {"value": "fat"}},
]
_AMOUNT = re.compile(r"\b(cpus|mem|disk)((?:\([^;]*?\))?:)(\d+(?:\.\d+)?)")


@dataclass(frozen=True, slots=True)
class Machine:
    """Unreserved totals and attributes of the agent under test."""

    totals: Mapping[str, float]
    ports: tuple[int, int]
    attributes: list[dict[str, Any]]

    @classmethod
    def of_slave(cls, slave: Mapping[str, Any]) -> Machine:
        """From an entry of the master's `/slaves`."""
        resources = slave["unreserved_resources"]
        begin, end = re.findall(r"\d+", resources["ports"])[:2]
        attributes = [
            {"name": name, "type": "TEXT", "text": {"value": value}}
            if isinstance(value, str)
            else {"name": name, "type": "SCALAR", "scalar": {"value": float(value)}}
            for name, value in slave["attributes"].items()
        ]
        totals = {name: float(resources[name]) for name in RECORDED}
        return cls(totals, (int(begin), int(end)), attributes)

    @property
    def as_recorded(self) -> bool:
        """Whether nothing has to be fitted."""
        return (
            self.totals == RECORDED
            and self.ports == RECORDED_PORTS
            and self.attributes == RECORDED_ATTRIBUTES
        )

    def fit(self, steps: list[Step]) -> list[Step]:
        """The steps as they would have been recorded on this agent."""
        return steps if self.as_recorded else [self._step(step) for step in steps]

    def _step(self, step: Step) -> Step:
        fitted = {key: self._value(value) for key, value in step.items()}
        body = step.get("body")
        if step["step"] == "request" and body:
            try:
                fitted["body"] = json.dumps(self._value(json.loads(body)))
            except ValueError:
                fitted["body"] = body
        return fitted

    def _value(self, value: Any, key: str = "") -> Any:
        if key == "attributes" and value == RECORDED_ATTRIBUTES:
            return self.attributes
        if key == "attributes" and value == _plain(RECORDED_ATTRIBUTES):
            return _plain(self.attributes)
        if isinstance(value, dict):
            if value.get("name") in RECORDED and "scalar" in value:
                amount = self._amount(value["name"], value["scalar"]["value"])
                return {**self._fields(value), "scalar": {"value": amount}}
            if value == {"begin": RECORDED_PORTS[0], "end": RECORDED_PORTS[1]}:
                return {"begin": self.ports[0], "end": self.ports[1]}
            return self._fields(value)
        if isinstance(value, list):
            return [self._value(item, key) for item in value]
        if isinstance(value, str):
            return self._text(value)
        if key in RECORDED and isinstance(value, float):
            return self._amount(key, value)
        return value

    def _fields(self, value: Mapping[str, Any]) -> dict[str, Any]:
        return {name: self._value(inner, name) for name, inner in value.items()}

    def _amount(self, name: str, amount: float) -> float:
        total = RECORDED[name]
        if not total / 2 <= amount <= total:
            return amount
        moved = round(amount + self.totals[name] - total, 3)
        return type(amount)(moved)

    def _text(self, text: str) -> str:
        ports = "{}-{}"
        text = text.replace(ports.format(*RECORDED_PORTS), ports.format(*self.ports))

        def moved(match: re.Match[str]) -> str:
            amount = self._amount(match[1], float(match[3]))
            return match[0] if amount == float(match[3]) else f"{match[1]}{match[2]}{amount:.6g}"

        return _AMOUNT.sub(moved, text)


def _plain(attributes: list[dict[str, Any]]) -> dict[str, Any]:
    """As the legacy endpoints show them: name → text or number."""
    return {a["name"]: a[a["type"].lower()]["value"] for a in attributes}
