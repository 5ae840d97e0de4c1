"""docs/networks.md: its commands and options exist, its states are those there are, its numbers are the defaults."""

from __future__ import annotations

import re
import shlex

import pytest
from pydantic import BaseModel
from typer.main import get_command

from libs.cli.main import make_app
from libs.client.networks import STATES
from libs.common.spec import AppSpec
from services.ipam.model import IpamConfig
from services.monitor.model import MonitorConfig
from services.monitor.pools import RELIEF, SMALL_SHARE
from tests.unit.infra.compose import REPOSITORY

GUIDE = (REPOSITORY / "docs/networks.md").read_text()
COMMANDS = sorted(
    {
        found.removesuffix(" …")
        for found in re.findall(r"(?:`|^    )(gantry [^`\n]+)", GUIDE, re.MULTILINE)
    }
)


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_and_their_options_exist(line: str) -> None:
    root = get_command(make_app())
    command, known = root, {name for each in root.params for name in each.opts}
    for word in shlex.split(line)[1:]:
        if word.startswith("--"):
            assert word in known, word
        children = getattr(command, "commands", {})
        if word in children:
            command = children[word]
            known |= {name for each in command.params for name in each.opts}
    assert not getattr(command, "commands", None), f"{line} is no whole command"


def test_all_states_are_explained() -> None:
    told = re.findall(r"^\| (\w+) \|", GUIDE.split("## What the states mean")[1], re.MULTILINE)
    assert sorted(told) == sorted([*STATES, "state"])


def test_numbers_are_the_defaults() -> None:
    ipam, monitor = IpamConfig(), MonitorConfig()
    text = GUIDE.replace("\n", " ")
    for told in (
        f"`ipam.cooldown_s` ({ipam.cooldown_s:g} s)",
        f"`ipam.hold_s` ({ipam.hold_s:g} s)",
        f"`ipam.quarantine_s` ({ipam.quarantine_s / 3600:g} h)",
        f"`ipam.history_s` ({ipam.history_s / 86_400:g} days)",
        f"`monitor.pool_low_pct` ({monitor.pool_low_pct:g}) percent",
        f"`monitor.pool_low_count` ({monitor.pool_low_count})",
        f"`monitor.pool_s` ({monitor.pool_s:g} s)",
    ):
        assert told in text, told
    assert (monitor.pool_probes, RELIEF, SMALL_SHARE) == (2, 1.25, 0.25)
    for section, field in re.findall(r"`(ipam|monitor)\.([a-z_]+)`", GUIDE):
        models: dict[str, type[BaseModel]] = {"ipam": IpamConfig, "monitor": MonitorConfig}
        assert field in models[section].model_fields, field


def test_the_spec_in_it_is_one() -> None:
    spec = {
        "image": "web",
        "network": "web",
        "address": {"reservation": "db"},
        "strategy": {"max_surge": 0, "max_unavailable": 1},
    }
    AppSpec.model_validate(spec)
    assert "address: {reservation: db}" in GUIDE
    assert "strategy: {max_surge: 0, max_unavailable: 1}" in GUIDE
