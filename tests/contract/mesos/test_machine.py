"""Fitting fixtures to another machine moves totals and remainders, and nothing else."""

from __future__ import annotations

import copy
import json

import pytest

from tests.contract.mesos import steps
from tests.contract.mesos.machine import RECORDED, RECORDED_ATTRIBUTES, RECORDED_PORTS, Machine

AS_RECORDED = Machine(RECORDED, RECORDED_PORTS, RECORDED_ATTRIBUTES)
ATTRIBUTES = [{"name": "zone", "type": "TEXT", "text": {"value": "z1"}}]
OTHER = Machine({"cpus": 12.0, "mem": 30000.0, "disk": 50000.0}, (1, 9), ATTRIBUTES)


@pytest.mark.parametrize("name", steps.names())
def test_the_recorded_machine_changes_nothing(name: str) -> None:
    """Nor does fitting there and back lose anything."""
    recorded = steps.load(name)
    assert AS_RECORDED.fit(copy.deepcopy(recorded)) == recorded


def test_another_machine_moves_what_is_free() -> None:
    """3.9 of 4 CPUs are 11.9 of 12; the 0.1 of the task stays, in numbers and in texts."""
    offer = {
        "attributes": RECORDED_ATTRIBUTES,
        "resources": [
            {"name": "cpus", "scalar": {"value": 3.9}},
            {"name": "mem", "scalar": {"value": 4064.0}},
            {"name": "ports", "ranges": {"range": [{"begin": 31000, "end": 32000}]}},
        ],
    }
    task = {"resources": [{"name": "cpus", "scalar": {"value": 0.1}}]}
    message = "cpus(allocated: *):0.1; mem:32 more than cpus(allocated: *):4; ports:[31000-32000]"
    event = {"step": "event", "offer": offer, "task": task, "message": message}
    request = {"step": "request", "body": json.dumps(offer)}
    fitted, sent = OTHER.fit([event, request])
    assert [r.get("scalar") for r in fitted["offer"]["resources"]][:2] == [
        {"value": 11.9},
        {"value": 29968.0},
    ]
    assert fitted["offer"]["resources"][2]["ranges"] == {"range": [{"begin": 1, "end": 9}]}
    assert fitted["offer"]["attributes"] == ATTRIBUTES
    assert fitted["task"] == task
    assert fitted["message"] == (
        "cpus(allocated: *):0.1; mem:32 more than cpus(allocated: *):12; ports:[1-9]"
    )
    assert json.loads(sent["body"]) == fitted["offer"]
