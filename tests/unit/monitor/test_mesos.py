"""What the monitor reads of the master's answers."""

from __future__ import annotations

from libs.minimesos.resources_read import attributes_from_flag
from services.monitor.mesos import parse_agent


def test_a_node_has_its_attributes_whatever_their_type() -> None:
    found = attributes_from_flag("zone:1;rack:20240101;class:thin;ports:[1-3]")
    info = {"id": {"value": "a1"}, "hostname": "h1", "attributes": found}
    node = parse_agent({"agent_info": info, "total_resources": []})
    assert node.attributes == {"zone": "1", "rack": "20240101", "class": "thin", "ports": "[1-3]"}
