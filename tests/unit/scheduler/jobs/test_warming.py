"""The host of a job's last run is told before the next one, once, if that is of use; and the run goes there."""

from __future__ import annotations

from typing import Any

import pytest

from libs.common.task import MakeReady, TellAnew
from libs.mesos import events as mesos
from services.scheduler.cluster import Cluster
from services.scheduler.homes import Homes
from services.scheduler.jobs.loading import book_of
from services.scheduler.jobs.model import job_body, job_of
from services.scheduler.jobs.run import JobId
from services.scheduler.jobs.warming import MOST, in_common
from services.scheduler.model import AgentId, Door, Launch, Node, NodeSet, Prepare, State
from services.scheduler.settings import JobsConfig, SchedulerConfig
from tests.unit.scheduler.jobs.world import JOB, START, JobDesk
from tests.unit.scheduler.world import IMAGE, launches
from tests.unit.scheduler.world import offer as offered

HOURLY = "R/2027-01-15T08:00:00Z/PT1H"


def ran(desk: JobDesk | None = None, **fields: Any) -> JobDesk:
    """An hourly job has had its first run, on the agent a1."""
    desk = desk or JobDesk()
    desk.subscribe()
    desk.took(schedule=fields.pop("schedule", HOURLY), **fields)
    desk.at(0.0)
    desk.begin()
    desk.end()
    desk.actions.clear()
    return desk


def offer(desk: JobDesk, *agents: tuple[str, float]) -> Launch:
    """Agents with so many CPUs are offered together; where the run goes."""
    found = tuple(offered(100 + n, agent, cpus) for n, (agent, cpus) in enumerate(agents))
    desk.give(mesos.Offers(found))  # type: ignore[arg-type]
    (launch,) = [each for each in desk.actions if isinstance(each, Launch)]
    return launch


def another_leads(desk: JobDesk) -> None:
    """It has what is stored, and what Mesos offers: an agent that nothing has run on first."""
    live = list(desk.cluster.instances.values())
    jobs = [
        job_of(each.id, each.version, job_body(each)) for each in desk.cluster.jobs.jobs.values()
    ]
    desk.cluster = Cluster(live, {}, book_of(jobs, live, (), {}))
    desk.subscribe()
    desk.offer("a2", "a1")
    desk.actions.clear()


def prepared(desk: JobDesk) -> list[Prepare]:
    return [each for each in desk.actions if isinstance(each, Prepare)]


def test_the_last_host_is_told_once_a_while_before() -> None:
    desk = ran(env={"KEY": "value"}, command=["report"], user="nobody")
    desk.at(3579.0)
    assert prepared(desk) == []
    desk.at(3580.5)
    (told,) = prepared(desk)
    assert told.agent == "a1"
    (ahead,) = told.ahead
    assert (ahead.bu, ahead.spec.image, ahead.spec.user) == ("acme", IMAGE, "nobody")
    assert (ahead.spec.network, ahead.spec.env, ahead.spec.command) == ("web", {}, None)
    for late in (3581.0, 3590.0, 3599.9):
        desk.at(late)
    assert len(prepared(desk)) == 1
    desk.at(3600.0)
    desk.begin()
    desk.end()
    desk.at(7185.0)
    assert len(prepared(desk)) == 2


def test_a_new_leader_knows_where_the_last_run_was() -> None:
    desk = ran()
    another_leads(desk)
    desk.at(3590.0)
    (told,) = prepared(desk)
    assert told.agent == "a1"
    desk.at(3600.0)
    assert offer(desk, ("a1", 4.0), ("a2", 1.0)).agent == "a1"


def test_the_newest_run_counts_and_of_its_tries_the_last() -> None:
    desk = JobDesk()
    desk.subscribe()
    desk.took(schedule=HOURLY, concurrency="allow", retry={"limit": 1, "delay_s": 10})
    (first,) = desk.at(0.0)
    desk.begin(first)
    (second,) = desk.at(3600.0)
    desk.offer("a2")
    desk.runs(second)
    assert (desk.job().home, desk.job().home_at) == ("a2", START + 3600.0)
    desk.end(first, "TASK_FAILED")
    desk.tick(20.0)
    desk.offer("a3")
    desk.runs(first)  # an older one, on another host
    assert desk.job().home == "a2"
    desk.end(second, "TASK_FAILED")
    desk.tick(20.0)
    desk.offer("a4")
    desk.runs(second)
    assert desk.job().home == "a4"


def test_a_run_that_does_not_share_leaves_nothing_behind() -> None:
    desk = ran(reuse="never")
    assert desk.job().succeeded == 1 and desk.job().home == ""


def test_what_was_made_ready_is_for_the_run_of_that_time() -> None:
    desk = ran()
    desk.at(3590.0)
    desk.ask("run")
    desk.offer("a2")
    (by_hand,) = desk.names()
    desk.runs(by_hand)
    desk.end(by_hand)
    desk.actions.clear()
    desk.at(3600.0)
    assert offer(desk, ("a1", 4.0), ("a2", 1.0)).agent == "a1"


@pytest.mark.parametrize(
    "fields",
    [
        {"reuse": "never"},
        {"secrets": [{"name": "key", "file": "/run/key"}]},
        {"schedule": "R/2027-01-15T08:00:00Z/PT3M"},  # its container is still there
        {"schedule": "R1/2027-01-15T08:00:00Z/PT1H"},
    ],
)
def test_nobody_is_told_when_it_is_of_no_use(fields: dict[str, Any]) -> None:
    desk = ran(**fields)
    for late in range(10, 7300, 10):
        desk.at(late)
        if desk.names():
            desk.begin()
            desk.end()
    assert prepared(desk) == []


def test_nobody_is_told_of_what_will_not_run() -> None:
    for action in ("pause", "delete"):
        desk = ran()
        desk.ask(action)
        desk.at(3590.0)
        assert prepared(desk) == [], action


def test_a_host_that_takes_nothing_new_is_not_told() -> None:
    desk = ran()
    desk.offer()
    desk.give(NodeSet(Node("host-a1", door=Door.CORDONED)))
    desk.offer()
    desk.at(3590.0)
    assert prepared(desk) == []


def test_a_host_of_which_a_new_leader_has_not_heard_is_not_told_while_some_are_closed() -> None:
    desk = ran()
    live = list(desk.cluster.instances.values())
    jobs = [
        job_of(each.id, each.version, job_body(each)) for each in desk.cluster.jobs.jobs.values()
    ]
    desk.cluster = Cluster(live, {}, book_of(jobs, live, (), {}))
    desk.subscribe()
    desk.give(NodeSet(Node("host-a9", door=Door.CORDONED)))
    desk.at(3590.0)
    assert prepared(desk) == []


def test_it_can_be_switched_off() -> None:
    desk = ran(JobDesk(config=SchedulerConfig(jobs=JobsConfig(warm_s=0))))
    desk.at(3590.0)
    assert prepared(desk) == []


def test_jobs_that_share_a_container_are_one_wish() -> None:
    desk = JobDesk()
    desk.subscribe()
    for name in ("acme/a", "acme/b", "other/c"):
        desk.took(name, schedule=HOURLY)
    desk.at(0.0)
    desk.offer()
    for run in desk.names():
        desk.runs(run)
        desk.end(run)
    desk.at(3590.0)
    (told,) = prepared(desk)
    assert sorted(each.bu for each in told.ahead) == ["acme", "other"]


def test_the_run_goes_where_a_container_is_ready() -> None:
    for late, home in ((3590.0, True), (-1.0, False)):
        desk = ran()
        if late > 0:
            desk.at(late)
        desk.at(3600.0)
        # The other one is fuller, where runs go as a rule.
        assert (offer(desk, ("a1", 4.0), ("a2", 1.0)).agent == "a1") is home
        assert len(launches(desk.actions)) == 1


def test_whom_nothing_is_made_ready_for_any_more_is_forgotten() -> None:
    homes = Homes()
    for number in range(5):
        homes.expect(JobId(f"acme/{number}"), 1000.0 * number, AgentId("a1"))
        homes.expect(JobId("acme/often"), 1000.0 * number, AgentId("a1"))
    assert sorted(homes._ready) == ["acme/4", "acme/often"]


def test_more_than_a_message_holds_are_not_waited_for() -> None:
    desk = JobDesk()
    desk.subscribe()
    for number in range(MOST + 1):
        desk.took(f"acme/j{number:03}", schedule=HOURLY, user=f"u{number}")
    desk.at(0.0)
    while any(each.state is State.PENDING for each in desk.cluster.instances.values()):
        desk.offer()
        for run in [n for n in desk.names() if desk[n].state is State.STAGED]:
            desk.runs(run)
            desk.end(run)
    desk.actions.clear()
    desk.at(3590.0)
    (told,) = prepared(desk)
    assert len(told.ahead) == len(desk.cluster.homes._ready) == MOST


def test_a_host_without_room_is_no_reason_to_wait() -> None:
    desk = ran()
    desk.at(3590.0)
    desk.at(3600.0)
    assert offer(desk, ("a1", 0.01), ("a2", 1.0)).agent == "a2"


def test_older_executors_take_it_for_nothing() -> None:
    desk = ran()
    desk.at(3590.0)
    (told,) = prepared(desk)
    message = MakeReady(ahead=told.ahead).model_dump_json()
    with pytest.raises(ValueError):
        TellAnew.model_validate_json(message)
    with pytest.raises(ValueError):
        MakeReady.model_validate_json(TellAnew(attempts=("a.1",)).model_dump_json())


def test_nothing_of_a_run_s_own_is_told() -> None:
    desk = ran(
        env={"A": "b"}, secrets=[{"name": "key", "env": "KEY"}], labels={"team": "x"}, command=["c"]
    )
    spec = in_common(desk.cluster.jobs.spec_of(desk.job(JOB)))
    told = spec.model_dump(mode="json", exclude_defaults=True)
    assert told.keys() == {"image", "network", "resources"}
    assert START and told["resources"] == {}


def test_the_environment_is_told() -> None:
    desk = ran(environment="lab")
    assert in_common(desk.cluster.jobs.spec_of(desk.job(JOB))).environment == "lab"
