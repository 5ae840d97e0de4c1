"""Several roles: each agent is ours in one, which binds while the executor is there; the others' offers go back."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from libs.mesos import events as mesos
from services.scheduler.cluster import Cluster
from services.scheduler.model import (
    Action,
    AgentId,
    Decline,
    Launch,
    Reregister,
    Revive,
    State,
    Tick,
)
from services.scheduler.offering import IDLE_REFUSE_S, TURN_S
from services.scheduler.planning import plan
from services.scheduler.refusing import OFFERS_COME_S
from services.scheduler.settings import SchedulerConfig
from services.scheduler.tasks import EXECUTOR_ID, executor_info, framework_info
from tests.unit.scheduler.jobs.world import JobDesk
from tests.unit.scheduler.world import Desk, launches, offer, spec, update, want

THIN, FAT = "gantry", "gantry-fat"
CONFIG = SchedulerConfig(roles=(THIN, FAT))
A1 = AgentId("a1")


def _desk(config: SchedulerConfig = CONFIG, cluster: Cluster | None = None) -> Desk:
    desk = Desk(config, cluster=cluster or Cluster())
    desk.subscribe()
    return desk


def _made(
    desk: Desk,
    role: str,
    agent: str = "a1",
    free: float = 1.0,
    reserved: float = 0.0,
    executor: bool = False,
) -> dict[str, Any]:
    """So many CPUs and GiB of an agent, for all and for the role, offered in that role."""
    desk.offers += 1
    made = offer(desk.offers, agent)
    made["allocation_info"] = {"role": role}
    made["resources"] = [
        {
            "name": name,
            "type": "SCALAR",
            "role": whose,
            "scalar": {"value": amount * unit},
            "allocation_info": {"role": role},
        }
        for whose, amount in ((role, reserved), ("*", free))
        for name, unit in (("cpus", 1.0), ("mem", 1024.0))
        if amount
    ]
    if executor:
        made["executor_ids"] = [{"value": EXECUTOR_ID}]
    return made


def _offer(desk: Desk, *made: dict[str, Any]) -> list[Action]:
    return desk.give(mesos.Offers(made))  # type: ignore[arg-type]


def _one(desk: Desk, role: str, agent: str = "a1", **more: Any) -> list[Action]:
    return _offer(desk, _made(desk, role, agent, **more))


def _returned(actions: list[Action]) -> dict[str, float]:
    return {
        name: each.refuse_s for each in actions if isinstance(each, Decline) for name in each.offers
    }


def _roles_of(launch: Launch) -> set[str]:
    """In which roles a launch's resources are, its executors' too."""
    infos = [*launch.tasks, *(each["executor"] for each in launch.tasks)]
    return {r["allocation_info"]["role"] for info in infos for r in info["resources"]}


def _launch(actions: list[Action]) -> Launch:
    (found,) = [each for each in actions if isinstance(each, Launch)]
    return found


def _refusal(agent: str, existing: str, meant: str, task: str = "i1.1") -> mesos.Update:
    """What a master says of a launch with the executor in another role; the recordings have such a text."""

    def text(role: str) -> str:
        info = executor_info("true", role)
        parts = [
            f'resources {{\n  name: "{r["name"]}"\n  allocation_info {{\n    role: "{role}"\n  }}\n}}'
            for r in info["resources"]
        ]
        return "\n".join(parts)

    rule = "-" * 60
    said = update(task, "TASK_ERROR", agent=agent, reason="REASON_TASK_INVALID")
    said.status["message"] = (
        "ExecutorInfo is not compatible with existing ExecutorInfo with same ExecutorID.\n"
        f"{rule}\nExisting ExecutorInfo:\n{text(existing)}\n{rule}\nExecutorInfo:\n{text(meant)}\n{rule}\n"
    )
    return said


def test_roles_come_from_the_configuration_old_and_new() -> None:
    assert SchedulerConfig().roles == ("gantry",)
    assert SchedulerConfig.model_validate({"role": "prod"}).roles == ("prod",)
    assert SchedulerConfig.model_validate({"roles": ["b", "a"]}).roles == ("b", "a")
    refused: tuple[dict[str, Any], ...] = (
        {"roles": []},
        {"roles": ["a", "a"]},
        {"roles": ["a"], "role": "a"},
    )
    for wrong in refused:
        with pytest.raises(ValidationError):
            SchedulerConfig.model_validate(wrong)
    assert framework_info(CONFIG, "f")["roles"] == [THIN, FAT]


def test_hosts_that_are_reserved_for_two_roles_are_one_cluster() -> None:
    desk = _desk()
    desk.give(*(want(f"i{n}", spec(1.5)) for n in range(4)))
    both = (_made(desk, THIN, "a1", 0.1, 3.0), _made(desk, FAT, "a2", 0.1, 3.0))
    done = [each for each in _offer(desk, *both) if isinstance(each, Launch)]
    assert {each.agent: _roles_of(each) for each in done} == {"a1": {THIN}, "a2": {FAT}}
    assert sum(len(each.tasks) for each in done) == 4
    for each in done:  # reserved ones first
        paid = [r["role"] for r in each.tasks[0]["resources"] if r["name"] == "cpus"]
        assert paid == [r for r in (THIN, FAT) if r in _roles_of(each)]
    assert desk.cluster.roles == {"a1": THIN, "a2": FAT}


def test_an_agent_is_in_the_role_for_which_it_has_something_reserved() -> None:
    """However small that is and whoever is offered the rest: else what is reserved there would be lost."""
    desk = _desk()
    desk.give(want("i1", spec(0.5)))
    rest, kept = _made(desk, THIN, free=2.0), _made(desk, FAT, free=0.0, reserved=1.0)
    actions = _offer(desk, rest, kept)
    assert not launches(actions)  # the executor is paid out of what nobody has reserved
    assert _returned(actions) == {"o1": desk.config.decline_s}
    assert list(desk.cluster.volatile.offers) == ["o2"]
    done = _launch(_one(desk, FAT, free=2.0))  # now that it is offered to this role
    assert done.offers == ("o2", "o3") and _roles_of(done) == {FAT}


def test_who_has_the_first_offer_gives_way_to_what_is_reserved() -> None:
    desk = _desk()
    desk.give(want("i1", spec(1.5)))
    _one(desk, THIN)
    actions = _one(desk, FAT, free=0.0, reserved=1.0)
    assert _returned(actions) == {"o1": desk.config.decline_s}
    assert _roles_of(_launch(_one(desk, FAT))) == {FAT}


def test_where_nothing_is_reserved_the_first_role_comes_first() -> None:
    desk = _desk()
    desk.give(want("i1", spec(0.5)))
    assert _returned(_one(desk, FAT)) == {"o1": desk.config.decline_s}
    assert _roles_of(_launch(_one(desk, THIN))) == {THIN}


def test_another_role_may_have_it_when_the_first_is_offered_nothing() -> None:
    """As when a quota of Mesos' holds that role down."""
    desk = _desk()
    desk.give(want("i1", spec(0.5)))
    _one(desk, FAT)
    desk.tick(desk.config.decline_s / 2)
    assert not launches(_one(desk, FAT))
    desk.tick(desk.config.decline_s / 2)
    assert _roles_of(_launch(_one(desk, FAT))) == {FAT}


def test_of_two_offers_at_once_the_first_role_by_preference_has_the_agent() -> None:
    desk = _desk(SchedulerConfig(roles=(FAT, THIN)))
    desk.give(want("i1", spec(0.5)))
    actions = _offer(desk, _made(desk, THIN), _made(desk, FAT))
    assert _roles_of(_launch(actions)) == {FAT}
    assert _returned(actions) == {"o1": desk.config.decline_s}


def _bound(desk: Desk, role: str = FAT) -> None:
    """a1 is ours in a role, and runs i1."""
    desk.give(want("i1", spec(0.5)))
    _one(desk, role, reserved=1.0)
    desk.tell("i1.1", "TASK_RUNNING", container="c")


def test_other_roles_offers_of_an_agent_go_back_for_long() -> None:
    desk = _desk()
    _bound(desk)
    desk.give(want("i2", spec(0.5)))
    actions = _one(desk, THIN, free=4.0)
    assert not launches(actions) and _returned(actions) == {"o2": IDLE_REFUSE_S}
    assert not desk.cluster.volatile.offers
    assert launches(_one(desk, FAT)) == ["i2.1"]


def test_a_revive_does_not_bring_back_what_was_just_given_to_the_right_role() -> None:
    desk = _desk()
    _bound(desk)
    desk.tick(10.0)
    desk.give(want("i2", spec(0.5)))
    _one(desk, THIN)
    quiet = desk.tick(TURN_S - 0.1)
    assert not [each for each in quiet if isinstance(each, Revive)]
    assert [each for each in desk.tick(0.2) if isinstance(each, Revive)]


def test_the_role_binds_while_the_executor_is_there_and_no_longer() -> None:
    desk = _desk()
    _bound(desk)
    desk.tell("i1.1", "TASK_FINISHED")
    desk.subscribe()  # what was reserved is no more, which nobody tells
    assert desk.cluster.roles == {"a1": FAT}
    desk.give(want("i2", spec(0.5)))
    for number in (2, 3):
        assert _returned(_one(desk, THIN, executor=True)) == {f"o{number}": IDLE_REFUSE_S}
        desk.tick(desk.config.decline_s)
    assert desk.cluster.roles == {"a1": FAT}
    assert _returned(_one(desk, THIN)) == {"o4": desk.config.decline_s}  # the old one comes first
    desk.tick(desk.config.decline_s)
    assert _roles_of(_launch(_one(desk, THIN))) == {THIN}
    assert desk.cluster.roles == {"a1": THIN}


def test_a_new_leader_knows_the_roles() -> None:
    desk = _desk()
    _bound(desk)
    known = Cluster(desk.cluster.instances.values(), roles=desk.cluster.roles)
    heir = _desk(cluster=known)
    heir.give(want("i2", spec(0.5)))
    assert not launches(_one(heir, THIN, executor=True))
    assert _roles_of(_launch(_one(heir, FAT, executor=True))) == {FAT}


def test_an_executor_in_a_role_that_nobody_knew_is_believed() -> None:
    """An older release has started it, or the store is an older one."""
    desk = _desk()
    desk.give(want("i1", spec(0.5)), want("i2", spec(0.5)))
    _one(desk, FAT, reserved=1.0, executor=True)
    desk.give(_refusal("a1", THIN, FAT, "i1.1"), _refusal("a1", THIN, FAT, "i2.1"))
    assert desk.cluster.roles == {"a1": THIN}
    assert [desk[name].failures for name in ("i1", "i2")] == [0, 0]
    desk.tick(desk.config.restart_backoff_s)
    assert not launches(_one(desk, FAT, executor=True))
    done = _launch(_one(desk, THIN, executor=True))
    assert len(done.tasks) == 2 and _roles_of(done) == {THIN}


def test_another_difference_of_executors_is_a_failure_like_any_other() -> None:
    desk = _desk()
    desk.give(want("i1", spec(0.5)))
    _one(desk, FAT, reserved=1.0)
    desk.give(_refusal("a1", FAT, FAT))
    assert desk["i1"].failures == 1 and desk.cluster.roles == {"a1": FAT}


def test_a_role_that_is_taken_away_loses_no_task() -> None:
    """What runs there runs on; nothing new comes, whatever is offered in other roles; kills go on."""
    before = _desk()
    _bound(before)
    roles = before.cluster.roles
    desk = _desk(SchedulerConfig(), Cluster(before.cluster.instances.values(), roles=roles))
    desk.give(want("i2", spec(0.5)))
    assert _returned(_one(desk, THIN, free=4.0, executor=True)) == {"o1": IDLE_REFUSE_S}
    desk.give(update("i1.1", "TASK_RUNNING", container="c"))
    assert desk["i1"].state == "running"
    desk.tick(OFFERS_COME_S)
    why = next(iter(desk.cluster.volatile.why.values())).refusal
    assert why.failed == {"role of the executor": 1}
    assert desk["i2"].delayed == "none of 1 agents is in a role of ours"
    planned = plan(desk.cluster, "acme/other", spec(0.5), 1, False, desk.now, desk.config)
    assert planned.unplaced == 1
    desk.tell("i1.1", "TASK_FAILED")
    desk.tick(5.0)
    assert not launches(_one(desk, THIN, executor=True))
    assert len(launches(_one(desk, THIN, "a2"))) == 1  # each goes on elsewhere
    assert launches(_one(desk, THIN))  # its executor was ended: the host is like any other


def test_what_runs_in_a_lost_role_is_adopted_in_another_when_its_executor_has_ended() -> None:
    before = _desk()
    _bound(before)
    known = Cluster(before.cluster.instances.values(), roles=before.cluster.roles)
    desk = _desk(SchedulerConfig(), known)
    desk.tell("i1.1", "TASK_FAILED", reason="REASON_EXECUTOR_TERMINATED")
    assert not launches(_one(desk, THIN, executor=True))  # it was made before
    done = _launch(_one(desk, THIN))
    assert _roles_of(done) == {THIN} and desk["i1"].adopt == "c"


def test_agents_in_a_lost_role_with_nothing_on_them_count_among_reasons() -> None:
    desk = _desk(SchedulerConfig(), Cluster(roles={A1: FAT}))
    desk.give(want("i1", spec(0.5)))
    _one(desk, THIN, executor=True)
    desk.tick(OFFERS_COME_S)
    why = next(iter(desk.cluster.volatile.why.values())).refusal
    assert why.agents == 1 and why.failed == {"role of the executor": 1}


def test_an_executor_that_is_idle_needs_no_room_to_start() -> None:
    """What is reserved for nobody may be just enough for one."""
    desk = _desk()
    need = 0.032  # and 32.8 MiB
    desk.give(want("i1", spec(0.5)))
    _one(desk, FAT, free=need, reserved=1.0)
    desk.tell("i1.1", "TASK_FINISHED")
    desk.tick(5.0)
    (paid,) = _launch(_one(desk, FAT, free=0.0, reserved=1.0, executor=True)).tasks
    assert {each["role"] for each in paid["resources"]} == {FAT}


def test_an_executor_that_died_is_not_counted_on_though_an_offer_says_so() -> None:
    desk = _desk()
    desk.give(want("i1", spec(0.4)))
    _one(desk, FAT, reserved=1.0)
    desk.tell("i1.1", "TASK_RUNNING", container="c")
    desk.give(want("large", spec(0.5)))
    assert not launches(_one(desk, FAT, free=0.0, reserved=0.45, executor=True))  # it is held
    actions = desk.tell("i1.1", "TASK_FAILED", reason="REASON_EXECUTOR_TERMINATED")
    assert not launches(actions) and desk["i1"].state == "orphaned"
    assert launches(_one(desk, FAT, free=0.04)) == ["i1.2"]


def test_a_framework_that_begins_anew_has_no_executors() -> None:
    desk = _desk()
    _bound(desk)
    desk.give(Reregister(), Tick())
    assert desk.cluster.roles == {} and not any(desk.cluster.in_role.values())


def test_a_run_that_was_launched_in_another_role_than_its_executor_s_has_not_begun() -> None:
    desk = JobDesk(SchedulerConfig(roles=(THIN, FAT)))
    desk.subscribe()
    desk.took(schedule="@every 1h")
    (run,) = desk.at(3600.0)
    _one(desk, THIN)
    assert desk[run].state is State.STAGED
    desk.give(_refusal("a1", FAT, THIN, desk[run].attempt))
    assert desk[run].state is State.PENDING and not desk.records
    told = desk.run(run)
    assert (told.begun, told.failed, told.lost) == (0, 0, 0), "nobody's failure"
    assert not desk.job().home


def test_the_executor_is_the_one_that_older_releases_have_started() -> None:
    """Mesos refuses any other one on a host where it runs."""
    assert executor_info("exec x", "gantry") == {
        "executor_id": {"value": "gantry-executor"},
        "type": "CUSTOM",
        "name": "gantry-executor",
        "command": {"shell": True, "value": "exec x"},
        "resources": [
            {
                "name": name,
                "type": "SCALAR",
                "scalar": {"value": amount},
                "role": "*",
                "allocation_info": {"role": "gantry"},
            }
            for name, amount in (("cpus", 0.01), ("mem", 32.0))
        ],
    }
