"""The executor API in virtual time: what executors are told and what they may say (14, 15, 21)."""

from __future__ import annotations

import base64
import uuid

import pytest

from libs.minimesos.local import ExecutorLaunch
from tests.unit.minimesos.support import (
    Json,
    Recorder,
    VirtualCluster,
    executor_task,
    task,
)


class Executors:
    """Pretended processes of a cluster, spoken for by the tests."""

    def __init__(self) -> None:
        self.launches: list[ExecutorLaunch] = []
        self.killed: list[int] = []

    def launch(self, request: ExecutorLaunch) -> int:
        """A process with the next pid."""
        self.launches.append(request)
        return 100 + len(self.launches)

    def kill(self, agent: int, pid: int, number: int) -> None:
        """Remembered; the test says when it dies."""
        self.killed.append(pid)


class Speaker:
    """One executor's voice."""

    def __init__(self, cluster: VirtualCluster, launch: ExecutorLaunch) -> None:
        self.cluster = cluster
        environment = launch.environment
        self.ids: Json = {
            "framework_id": {"value": environment["MESOS_FRAMEWORK_ID"]},
            "executor_id": {"value": environment["MESOS_EXECUTOR_ID"]},
        }
        self.sink = Recorder(cluster)

    def subscribe(self, tasks: list[Json] | None = None, updates: list[Json] | None = None) -> None:
        """A new stream."""
        self.sink = Recorder(self.cluster)
        body = {"unacknowledged_tasks": tasks or [], "unacknowledged_updates": updates or []}
        call = {"type": "SUBSCRIBE", **self.ids, "subscribe": body}
        self.sink.response = self.cluster.executor(0, call, self.sink)
        assert self.sink.response.status == 200, self.sink.response

    def drop(self) -> None:
        """Close the stream."""
        assert self.sink.response is not None
        assert self.sink.response.stream is not None
        self.cluster.local.disconnect(self.sink.response.stream, self.cluster.now)

    def status(self, task_id: str, state: str, **more: object) -> Json:
        """A status with a fresh uuid."""
        return {
            "task_id": {"value": task_id},
            "state": state,
            "source": "SOURCE_EXECUTOR",
            "executor_id": self.ids["executor_id"],
            "uuid": base64.b64encode(uuid.uuid4().bytes).decode(),
            "timestamp": self.cluster.now,
            **more,
        }

    def update(self, status: Json) -> int:
        """Send one."""
        call = {"type": "UPDATE", **self.ids, "update": {"status": status}}
        return self.cluster.executor(0, call).status


@pytest.fixture
def world() -> tuple[VirtualCluster, Executors]:
    """A cluster whose processes are pretended."""
    executors = Executors()
    cluster = VirtualCluster(
        launch=executors.launch, kill=executors.kill, executor_registration_timeout_s=20
    )
    return cluster, executors


World = tuple[VirtualCluster, Executors]


def begin(world: World, name: str = "x1") -> tuple[Recorder, Speaker]:
    """A scheduler with one running task on a subscribed executor."""
    cluster, executors = world
    client = cluster.subscribe()
    client.launch([executor_task(name, client.offers()[0]["agent_id"])])
    speaker = Speaker(cluster, executors.launches[-1])
    speaker.subscribe()
    assert speaker.update(speaker.status(name, "TASK_RUNNING")) == 202
    client.acknowledge_all()
    return client, speaker


def test_the_environment_is_the_recorded_one(world: World) -> None:
    """Every variable Mesos sets."""
    cluster, executors = world
    client = cluster.subscribe()
    client.launch([executor_task("x1", client.offers()[0]["agent_id"])])
    (launch,) = executors.launches
    environment = launch.environment
    assert environment["MESOS_AGENT_ENDPOINT"] == "127.0.0.1:5051"
    assert environment["MESOS_CHECKPOINT"] == "1"
    assert environment["MESOS_RECOVERY_TIMEOUT"] == "15mins"
    assert environment["MESOS_SUBSCRIPTION_BACKOFF_MAX"] == "2secs"
    assert environment["MESOS_EXECUTOR_SHUTDOWN_GRACE_PERIOD"] == "5secs"
    assert environment["MESOS_SANDBOX"] == environment["MESOS_DIRECTORY"] == launch.sandbox
    assert environment["MESOS_SLAVE_ID"] == client.offers()[0]["agent_id"]["value"]
    assert launch.sandbox.endswith(f"/executors/e1/runs/{launch.container_id}")


def test_subscribed_launch_acknowledged_kill(world: World) -> None:
    """The usual conversation."""
    client, speaker = begin(world)
    assert [e["type"] for e in speaker.sink.events] == ["SUBSCRIBED", "LAUNCH", "ACKNOWLEDGED"]
    subscribed = speaker.sink.of("SUBSCRIBED")[0]
    assert set(subscribed) == {"executor_info", "framework_info", "agent_info", "container_id"}
    launched = speaker.sink.of("LAUNCH")[0]["task"]
    assert launched["executor"]["executor_id"] == {"value": "e1"}
    assert launched["resources"][0]["allocation_info"] == {"role": "*"}
    assert client.statuses("x1")[0]["container_status"]["executor_pid"] == 101
    policy = {"grace_period": {"nanoseconds": 5_000_000_000}}
    kill = {"task_id": {"value": "x1"}, "kill_policy": policy}
    client.call({"type": "KILL", "kill": kill})
    assert speaker.sink.of("KILL") == [kill]


def test_more_tasks_go_to_the_same_executor(world: World) -> None:
    """Without another process."""
    client, speaker = begin(world)
    world[0].advance(1)
    client.launch([executor_task("x2", client.offers()[-1]["agent_id"])])
    assert [e["task"]["name"] for e in speaker.sink.of("LAUNCH")] == ["x1", "x2"]
    assert len(world[1].launches) == 1


def test_an_agents_books(world: World) -> None:
    """What is free there and which tasks have not ended, for who looks from outside of Mesos."""
    cluster = world[0].local
    before = cluster.free(0).scalar("cpus"), cluster.free(0).scalar("mem")
    _, speaker = begin(world)
    assert cluster.tasks(0) == {"x1"}
    left = cluster.free(0).scalar("cpus"), cluster.free(0).scalar("mem")
    assert left == pytest.approx((before[0] - 0.1 - 0.2, before[1] - 32 - 64))
    assert speaker.update(speaker.status("x1", "TASK_FINISHED")) == 202
    assert cluster.tasks(0) == set()
    assert cluster.free(0).scalar("cpus") == pytest.approx(before[0] - 0.2)
    cluster.crash_agent(0, world[0].now)
    assert not cluster.free(0)
    assert cluster.tasks(0) == set()


def test_a_dropped_stream_changes_nothing(world: World) -> None:
    """Fact 21: updates between the streams are taken, re-subscription is silent."""
    client, speaker = begin(world)
    speaker.drop()
    world[0].advance(25)
    healthy = speaker.status("x1", "TASK_RUNNING", healthy=True)
    assert speaker.update(healthy) == 202
    client.acknowledge_all()
    speaker.subscribe(updates=[{"status": healthy}])
    assert client.states("x1") == ["TASK_RUNNING", "TASK_RUNNING"]
    assert not client.of("FAILURE")
    assert speaker.sink.of("ACKNOWLEDGED") == [
        {"task_id": {"value": "x1"}, "uuid": healthy["uuid"]}
    ]


def test_a_launch_while_away_is_lost_if_the_executor_does_not_know_it(world: World) -> None:
    """TASK_LOST, REASON_AGENT_RESTARTED, as Mesos does."""
    client, speaker = begin(world)
    speaker.drop()
    world[0].advance(1)
    client.launch([executor_task("x2", client.offers()[-1]["agent_id"])])
    speaker.subscribe()
    status = client.statuses("x2")[-1]
    assert status["state"] == "TASK_LOST"
    assert status["reason"] == "REASON_AGENT_RESTARTED"


def test_exit_is_failure_and_then_failed_tasks(world: World) -> None:
    """Fact 15."""
    client, speaker = begin(world)
    world[0].local.exited(0, 101, 1280, world[0].now)
    kinds = [e["type"] for e in client.events[-2:]]
    assert kinds == ["FAILURE", "UPDATE"]
    assert client.of("FAILURE")[0]["status"] == 1280
    status = client.statuses("x1")[-1]
    assert status["state"] == "TASK_FAILED"
    assert status["source"] == "SOURCE_AGENT"
    assert status["reason"] == "REASON_EXECUTOR_TERMINATED"
    assert status["message"] == "Executor terminated"
    assert "container_status" not in status
    assert speaker.sink.ended
    client.acknowledge_all()
    world[0].advance(1)
    # Its own resources are free again too: the next executor under that id is a new process.
    client.launch([executor_task("x2", client.offers()[-1]["agent_id"])])
    assert len(world[1].launches) == 2


def test_an_executor_that_never_subscribes_is_killed(world: World) -> None:
    """After the registration timeout."""
    cluster, executors = world
    client = cluster.subscribe()
    client.launch([executor_task("x1", client.offers()[0]["agent_id"])])
    cluster.advance(19.9)
    assert not executors.killed
    cluster.advance(0.2)
    assert executors.killed == [101]
    cluster.local.exited(0, 101, 9, cluster.now)
    assert client.of("FAILURE")[0]["status"] == 9
    status = client.statuses("x1")[-1]
    assert status["reason"] == "REASON_EXECUTOR_REGISTRATION_TIMEOUT"
    assert status["message"] == "Executor did not register within 20secs"


def test_shutdown_has_a_grace_period(world: World) -> None:
    """SHUTDOWN, then SIGKILL."""
    client, speaker = begin(world)
    agent_id = client.statuses("x1")[0]["agent_id"]
    body = {"executor_id": {"value": "e1"}, "agent_id": agent_id}
    client.call({"type": "SHUTDOWN", "shutdown": body})
    assert speaker.sink.events[-1] == {"type": "SHUTDOWN"}
    world[0].advance(4.9)
    assert not world[1].killed
    world[0].advance(0.2)
    assert world[1].killed == [101]


def test_teardown_shuts_executors_down_silently(world: World) -> None:
    """No update after it."""
    client, speaker = begin(world)
    client.call({"type": "TEARDOWN"})
    assert speaker.sink.events[-1] == {"type": "SHUTDOWN"}
    world[0].local.exited(0, 101, 0, world[0].now)
    assert b'"executors":[]' in world[0].local.agent(0, world[0].now, "GET", "/state").body


def test_messages_both_ways(world: World) -> None:
    """Base64 passed through."""
    client, speaker = begin(world)
    agent_id = client.statuses("x1")[0]["agent_id"]
    body = {"agent_id": agent_id, "executor_id": {"value": "e1"}, "data": "cGluZw=="}
    client.call({"type": "MESSAGE", "message": body})
    assert speaker.sink.of("MESSAGE") == [{"data": "cGluZw=="}]
    call = {"type": "MESSAGE", **speaker.ids, "message": {"data": "cG9uZw=="}}
    assert world[0].executor(0, call).status == 202
    assert client.of("MESSAGE") == [{**body, "data": "cG9uZw=="}]


def test_updates_for_unknown_tasks_are_passed_on_but_not_answered(world: World) -> None:
    """Once a uuid."""
    client, speaker = begin(world)
    stray = speaker.status("nope", "TASK_RUNNING")
    assert [speaker.update(dict(stray)) for _ in range(3)] == [202] * 3
    assert len(client.statuses("nope")) == 1
    assert "container_status" not in client.statuses("nope")[0]
    client.acknowledge_all()
    speaker.update(dict(stray))
    assert len(client.statuses("nope")) == 1
    answered = [a["task_id"]["value"] for a in speaker.sink.of("ACKNOWLEDGED")]
    assert answered == ["x1"]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"uuid": None}, "Expecting 'uuid' to be present"),
        ({"uuid": "AAAA"}, "Not a valid UUID"),
        ({"source": "SOURCE_AGENT"}, "with invalid source, expecting 'SOURCE_EXECUTOR'"),
        ({"source": None}, "with invalid source, expecting 'SOURCE_EXECUTOR'"),
        (
            {"executor_id": {"value": "z"}},
            "ExecutorID in Call: e1 does not match ExecutorID in TaskStatus: z",
        ),
        ({"state": "TASK_STAGING"}, "which is not allowed"),
    ],
)
def test_bad_updates(world: World, change: Json, text: str) -> None:
    """Recorded texts."""
    _, speaker = begin(world)
    status = {**speaker.status("x1", "TASK_RUNNING"), **change}
    call = {"type": "UPDATE", **speaker.ids, "update": {"status": status}}
    response = world[0].executor(0, call)
    assert response.status == 400
    assert response.body.decode().startswith("Failed to validate Executor::Call: ")
    assert response.body.decode().endswith(text)


def test_unknown_frameworks_and_executors(world: World) -> None:
    """400 with their texts."""
    _, speaker = begin(world)
    for change, text in (
        ({"framework_id": {"value": "x"}}, b"Framework cannot be found"),
        ({"executor_id": {"value": "x"}}, b"Executor cannot be found"),
    ):
        call = {"type": "SUBSCRIBE", **speaker.ids, **change, "subscribe": {}}
        response = world[0].executor(0, call)
        assert (response.status, response.body) == (400, text)


def test_a_restarted_agent_waits_for_its_executors(world: World) -> None:
    """Those that come within 2 s live; the others are killed and their tasks fail."""
    cluster, executors = world
    client, speaker = begin(world)
    cluster.local.crash_agent(0, cluster.now)
    assert speaker.sink.ended
    cluster.local.start_agent(0, cluster.now)
    speaker.subscribe()
    cluster.advance(5)
    assert client.states("x1") == ["TASK_RUNNING"]
    assert not executors.killed
    cluster.local.crash_agent(0, cluster.now)
    cluster.local.start_agent(0, cluster.now)
    cluster.advance(2.1)
    assert executors.killed == [101]
    cluster.local.exited(0, 101, 9, cluster.now)
    cluster.advance(1)
    status = client.statuses("x1")[-1]
    assert status["state"] == "TASK_FAILED"
    assert status["reason"] == "REASON_EXECUTOR_REREGISTRATION_TIMEOUT"


def test_an_update_taken_before_a_crash_is_not_lost(world: World) -> None:
    """It was answered, so it is on the agent's disk, and goes out after the restart."""
    cluster, _ = world
    client, speaker = begin(world)
    cluster.local.partition(0, True, cluster.now)
    assert speaker.update(speaker.status("x1", "TASK_FINISHED")) == 202
    assert speaker.sink.of("ACKNOWLEDGED")[-1]["task_id"] == {"value": "x1"}
    cluster.local.crash_agent(0, cluster.now)
    cluster.local.start_agent(0, cluster.now)
    speaker.subscribe()
    cluster.local.partition(0, False, cluster.now)
    cluster.advance(3)
    assert client.states("x1") == ["TASK_RUNNING", "TASK_FINISHED"]


def test_a_task_killed_before_its_executor_came(world: World) -> None:
    """TASK_KILLED by the agent; the executor is told to end."""
    cluster, executors = world
    client = cluster.subscribe()
    client.launch([executor_task("x1", client.offers()[0]["agent_id"])])
    client.call({"type": "KILL", "kill": {"task_id": {"value": "x1"}}})
    status = client.statuses("x1")[0]
    assert status["state"] == "TASK_KILLED"
    assert status["reason"] == "REASON_TASK_KILLED_DURING_LAUNCH"
    speaker = Speaker(cluster, executors.launches[0])
    speaker.subscribe()
    assert [e["type"] for e in speaker.sink.events] == ["SUBSCRIBED", "SHUTDOWN"]


def test_command_tasks_get_the_built_in_executor(world: World) -> None:
    """Named as Mesos names it."""
    cluster, executors = world
    client = cluster.subscribe()
    client.launch([task("t1", client.offers()[0]["agent_id"], "echo hi; sleep 2")])
    (launch,) = executors.launches
    assert launch.builtin
    assert launch.environment["MESOS_EXECUTOR_ID"] == "t1"
    state = cluster.local.agent(0, cluster.now, "GET", "/containers").body
    assert b"Command Executor (Task: t1) (Command: sh -c 'echo hi; sle...')" in state
