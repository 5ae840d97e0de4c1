"""Which fixtures are replayed, on what kind of cluster, and which powers that takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.contract.mesos.cluster import Power


@dataclass(frozen=True, slots=True)
class Scenario:
    """One fixture.

    `edits` are texts put in place of recorded ones, in requests and expectations alike, so that a
    time-out which the scenario itself sets can be shorter than it was. Without flags and powers the
    scenarios share one cluster, as the recordings did.
    """

    name: str
    powers: frozenset[Power] = frozenset()
    edits: Mapping[str, str] = field(default_factory=dict)
    master_flags: Mapping[str, str] = field(default_factory=dict)
    agent_flags: Mapping[str, str] = field(default_factory=dict)
    second_agent_flags: Mapping[str, str] = field(default_factory=dict)
    agents: int = 1

    @property
    def shared(self) -> bool:
        """Whether the shared cluster will do."""
        return not self.powers - {Power.EXECUTOR}


_TRAP = r"trap \"sleep 1; exit 0\" TERM; while true; do sleep 0.2; done"
# Shorter than recorded, and long enough for who is to come back in time on a busy machine.
_SHORT_FAILOVER = {'failover_timeout":20': 'failover_timeout":6', '"s":4.5': '"s":10'}
# Where no agent is to be back in time, silence need not last as long as in the recording.
_FAST_LOSS = {"agent_ping_timeout": "1secs", "max_agent_ping_timeouts": "3"}
_LOSS = frozenset({Power.AGENT, Power.FLAGS})

SCENARIOS: tuple[Scenario, ...] = (
    Scenario("basic"),
    Scenario("filters", edits={"sleep 12": "sleep 8"}),
    Scenario("bad_calls"),
    Scenario("bad_launches"),
    Scenario("bad_launches_partition_aware"),
    Scenario("failover", edits=_SHORT_FAILOVER),
    Scenario("two_frameworks", edits={'"s":1.5': '"s":6'}),
    # Recorded: KILL came before the shell had set its trap. That race is no behaviour of Mesos.
    Scenario("offer_shapes", edits={_TRAP: "sleep 1000"}),
    Scenario("operator"),
    # Its calls name the agent's machine as recorded, so the agent has to be started so.
    Scenario("maintenance", powers=frozenset({Power.FLAGS})),
    Scenario("custom_executor", powers=frozenset({Power.EXECUTOR})),
    Scenario(
        "supervised_executor",
        powers=frozenset({Power.EXECUTOR}),
        edits={"c2xlZXA9Mg==": "c2xlZXA9Ng=="},  # sleep=6, was 2: its offer is made while it runs
    ),
    Scenario(
        "executor_registration_timeout",
        powers=frozenset({Power.FLAGS}),
        agent_flags={"executor_registration_timeout": "2secs"},
        edits={"within 20secs": "within 2secs"},
    ),
    Scenario("agent_loss", powers=_LOSS),
    Scenario("agent_loss_without_checkpoint", powers=_LOSS),
    Scenario(
        "master_restart",
        powers=frozenset({Power.MASTER, Power.AGENT, Power.FLAGS}),
        master_flags={
            "offer_timeout": "5secs",
            "registry": "replicated_log",
            "agent_reregister_timeout": "10mins",
        },
    ),
    Scenario(
        "two_agents",
        powers=_LOSS,
        agents=2,
        master_flags=_FAST_LOSS,
        second_agent_flags={
            "hostname": "agent2",
            "resources": "cpus:2;mem:2048;disk:5000;ports:[32001-33000];cpus(rr):1;mem(rr):512",
            "attributes": "rack:r2;gen:3;range:[1-3]",
        },
    ),
    Scenario("http_details"),
    Scenario(
        "http_auth",
        powers=frozenset({Power.FLAGS}),
        agents=0,
        master_flags={
            "credentials": "{credentials}",
            "authenticate_http_frameworks": "true",
            "authenticate_http_readonly": "true",
            "authenticate_http_readwrite": "true",
        },
    ),
    Scenario(
        "not_leading",
        powers=frozenset({Power.FLAGS}),
        agents=0,
        master_flags={"elected": "false"},
    ),
)
