"""Whom each service calls is read rightly from its code, and the operations guide says it of each port."""

from __future__ import annotations

import re

from tests.unit.infra import compose
from tests.unit.infra.calls import SERVICES, callers_of_hosts, calls
from tests.unit.infra.test_operations import table


def test_calls_are_found_in_the_code() -> None:
    assert calls() == {
        "gateway": {"deployer", "scheduler", "ipam", "monitor"},  # by constants, in `peers.get`
        "deployer": {"scheduler", "gateway"},  # the gateway by what services share
        "scheduler": {"ipam", "deployer", "gateway"},
        "ipam": {"gateway"},
        "monitor": {"scheduler", "ipam"},
        "hostd": {"ipam", "deployer"},
    }
    assert callers_of_hosts() == {"gateway", "monitor"}


def test_the_guide_says_who_calls_at_each_port() -> None:
    """By name, or to see whether it answers: the monitor asks all of its peers."""
    asked = {
        peer
        for name, each in compose.ours(compose.control()).items()
        if compose.service_of(name) == "monitor"
        for peer in compose.settings(name, each)[0].peers
    }
    callers = {
        service: {one for one in SERVICES if service in calls()[one]}
        | ({"monitor"} if service in asked else set())
        for service in SERVICES
    }
    callers["hostd"] |= callers_of_hosts()
    told = {
        who: set(re.findall(r"[a-z]+", re.split(r"[;(]", column)[0].replace("hosts", "hostd")))
        for who, _, column in table("Ports")
        if who in SERVICES
    }
    assert told == callers
