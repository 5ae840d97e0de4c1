"""The command line and the flags that /state shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from libs.minimesos.config import AgentConfig, MasterConfig, flags
from libs.minimesos.errors import ConfigError
from libs.minimesos.flags import parse, read_credentials
from libs.minimesos.units import format_duration, parse_duration_s


def test_all_takes_both_sets_of_flags(tmp_path: Path) -> None:
    """Ports of agents count up; dashes and underscores are the same."""
    options = parse(
        [
            "all",
            "--port=5050",
            "--agents",
            "2",
            "--agent-port=6001",
            f"--work-dir={tmp_path}",
            "--agent_ping_timeout=3secs",
            "--executor_registration_timeout=20secs",
            "--virtual",
        ]
    )
    assert options.work_dir == tmp_path
    assert options.master.port == 5050
    assert options.master.agent_ping_timeout_s == 3
    assert [agent.port for agent in options.agents] == [6001, 6002]
    assert all(agent.executor_registration_timeout_s == 20 for agent in options.agents)
    assert all(agent.virtual for agent in options.agents)


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["nothing"],
        ["all", "--no_such_flag=1"],
        ["all", "--port=x"],
        ["all", "--agents"],
        ["all", "stray"],
        ["master", "--agent_ping_timeout=3"],
        ["master", "--executor_registration_timeout=3secs"],
        ["agent"],
        ["agent", "--recover=1", "--agent_ping_timeout=1secs"],
        ["all", "--authenticate_http_readonly=yes"],
    ],
)
def test_bad_command_lines_are_refused(argv: list[str]) -> None:
    """With an error, not a guess."""
    with pytest.raises(ConfigError):
        parse(argv)


def test_credentials_in_both_formats(tmp_path: Path) -> None:
    """Mesos' JSON and its older lines."""
    json_file, line_file = tmp_path / "json", tmp_path / "lines"
    json_file.write_text('{"credentials":[{"principal":"p","secret":"s"}]}')
    line_file.write_text("p s\n")
    assert read_credentials(json_file) == read_credentials(line_file) == {"p": "s"}
    line_file.write_text("p\n")
    with pytest.raises(ConfigError):
        read_credentials(line_file)


@pytest.mark.parametrize(
    "text", ["15secs", "5mins", "500ms", "1weeks", "2hrs", "0ns", "1days", "10us"]
)
def test_durations_print_as_they_were_read(text: str) -> None:
    """Both ways."""
    assert format_duration(parse_duration_s(text)) == text


def test_flags_are_shown_under_mesos_names() -> None:
    """And no secrets among them."""
    master = flags(MasterConfig(credentials={"p": "top secret"}, cluster="c"))
    assert master["agent_ping_timeout"] == "15secs"
    assert master["max_agent_ping_timeouts"] == "5"
    assert master["agent_reregister_timeout"] == "10mins"
    assert master["authenticate_http_frameworks"] == "false"
    agent = flags(AgentConfig(credentials={"p": "top secret"}))
    assert agent["executor_shutdown_grace_period"] == "5secs"
    assert agent["recovery_timeout"] == "15mins"
    assert "top secret" not in str(master) + str(agent)
