"""What goes over the wires of the executor, and onto its disk."""

from __future__ import annotations

import asyncio
import json
import os
import random
import stat
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from libs.common.clock import RngIds, SystemClock
from libs.common.errors import InvalidInput, Unavailable
from libs.common.spec import HealthCheck
from libs.common.task import TaskReport
from libs.mesos.environment import ExecutorEnvironment
from libs.mesos.ports import Request, Response
from services.executor import checks, core, worker
from services.executor.config import ExecutorConfig, load
from services.executor.containers import container_spec, hostname, hosts_file, resolv_conf
from services.executor.dockerapi import create_body, event_of, summary_of, view_of
from services.executor.etc import EtcFiles
from services.executor.health import judge_status_line
from services.executor.journal import FileJournal
from services.executor.mesos import MesosDriver, grace_of, payload_of, status_fields
from services.executor.model import (
    Attempt,
    AttemptId,
    CheckState,
    ContainerName,
    Destroyed,
    Died,
    Identity,
    Phase,
    ProbeResult,
    Record,
    TaskState,
)
from services.executor.moves import Report
from services.executor.ports import Journal
from services.executor.reporting import World
from services.executor.wording import says_too_late
from tests.disks import small_disk
from tests.fakes.journal import MemoryJournal
from tests.unit.executor import world as w

IDENTITY = Identity(w.CLUSTER, w.AGENT, "run-1")
WEB = ContainerName("web")
CONFIG = ExecutorConfig(cluster=w.CLUSTER)


def attempt_of(name: str = "bu-web-1.1", **changes: object) -> Attempt:
    payload = w.payload_of(name, **changes)
    return core.launch(name, payload, World(CONFIG, IDENTITY, 5.0)).attempt


# -- Docker ----------------------------------------------------------------------------------------


def test_a_container_is_shut_in() -> None:
    exact = CONFIG.model_copy(update={"cpu_burst_floor": 0.0})
    spec = container_spec(
        attempt_of(cpus=0.25, mem_mib=64, pids=32, env={"B": "2", "A": "1"}), IDENTITY, exact
    )
    body = create_body(spec, Path("/etc-of/web.hosts"), Path("/etc-of/resolv.conf"))
    host = body["HostConfig"]
    assert (host["NetworkMode"], host["Runtime"]) == ("host", "gantry")
    assert (host["CapDrop"], host["CapAdd"]) == (["ALL"], [])
    assert host["SecurityOpt"] == ["no-new-privileges"]
    assert host["RestartPolicy"] == {"Name": "no"}
    assert (host["CpuShares"], host["NanoCpus"], host["PidsLimit"]) == (256, 250_000_000, 32)
    assert host["Memory"] == host["MemorySwap"] == 64 * 2**20
    assert host["LogConfig"]["Config"] == {"max-size": "10m", "max-file": "3"}
    assert host["Binds"] == [
        "/etc-of/web.hosts:/etc/hosts:ro",
        "/etc-of/resolv.conf:/etc/resolv.conf:ro",
    ]
    assert body["Env"] == ["A=1", "B=2"]
    assert body["Hostname"] == "bu-web-1"
    assert "Entrypoint" not in body
    assert "User" not in body


@pytest.mark.parametrize(("cpus", "ceiling"), [(0.02, 0.5), (0.5, 0.5), (2.0, 2.0)])
def test_a_small_instance_may_use_what_is_free_up_to_the_floor(cpus: float, ceiling: float) -> None:
    spec = container_spec(attempt_of(cpus=cpus), IDENTITY, CONFIG)
    assert spec.limits.nano_cpus == ceiling * 10**9
    assert spec.limits.cpu_shares == max(2, round(cpus * 1024))  # what counts when nothing is free


def test_command_and_user_replace_the_images() -> None:
    spec = container_spec(attempt_of(command=("/run", "it"), user="65534"), IDENTITY, CONFIG)
    body = create_body(spec, Path("/x"), Path("/y"))
    assert (body["Entrypoint"], body["User"]) == (["/run", "it"], "65534")


def test_names_and_files() -> None:
    assert hostname("bu-web-0123456789") == "bu-web-0123456789"
    assert hostname("x" * 70 + "-web-1") == "x" * 57 + "-web-1"
    assert hosts_file("web", "10.0.0.7").splitlines()[-1] == "10.0.0.7\tweb"
    asked = ExecutorConfig(dns=("10.0.0.2", "10.0.0.3"), dns_search=("a.example", "b.example"))
    assert resolv_conf(asked) == (
        "search a.example b.example\nnameserver 10.0.0.2\nnameserver 10.0.0.3\n"
    )
    assert resolv_conf(CONFIG).startswith("#")


def test_docker_is_read() -> None:
    labels = {"gantry.cluster": "test"}
    view = view_of(
        {
            "Id": "c1",
            "Name": "/gantry-test-web.1",
            "State": {
                "Status": "exited",
                "ExitCode": 137,
                "OOMKilled": True,
                "Pid": 0,
                "StartedAt": "2026-01-02T03:04:05.123456789Z",
                "FinishedAt": "2026-01-02T03:04:06.5Z",
            },
            "Config": {"Labels": labels, "StopSignal": "SIGQUIT"},
            "HostConfig": {"Runtime": "gantry"},
        }
    )
    assert (view.name, view.phase, view.exit_code) == ("gantry-test-web.1", Phase.EXITED, 137)
    assert (view.oom_killed, view.stop_signal, view.netns_inode) == (True, "SIGQUIT", None)
    assert view.started_at == pytest.approx(1767323045.123456)
    for status, phase in (("paused", Phase.RUNNING), ("removing", Phase.EXITED)):
        listed = {"Id": "c", "Names": ["/n"], "State": status, "Created": 7, "Labels": labels}
        assert summary_of(listed).phase is phase


def test_events_are_read_and_memory_remembered() -> None:
    def event(action: str, **attributes: str) -> dict[str, object]:
        actor = {"ID": "c1", "Attributes": {"name": "web", **attributes}}
        return {"Action": action, "Actor": actor, "timeNano": 1_500_000_000}

    memory: dict[str, None] = {}
    assert event_of(event("oom"), memory) is None
    assert event_of(event("die", exitCode="137"), memory) == Died("c1", WEB, 137, True, 1.5)
    assert event_of(event("die", exitCode="0"), memory) == Died("c1", WEB, 0, False, 1.5)
    assert event_of(event("destroy"), memory) == Destroyed("c1", WEB, 1.5)
    assert event_of(event("exec_start: sh"), memory) is None
    assert memory == {}


# -- health ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"HTTP/1.1 200 OK", ""),
        (b"HTTP/1.0 302 Found", ""),
        (b"HTTP/1.1 404 Not Found", "status 404"),
        (b"HTTP/1.1 503", "status 503"),
        (b"", "closed without an answer"),
        (b"SSH-2.0-OpenSSH", "not HTTP"),
        (b"HTTP/1.1 abc", "not HTTP"),
    ],
)
def test_status_lines(line: bytes, said: str) -> None:
    found = judge_status_line(line)
    assert (said in found) if said else found == ""


def test_failures_count_after_the_grace_or_the_first_success() -> None:
    check = HealthCheck(port=1, grace_s=10, interval_s=5, max_consecutive_failures=2)
    failed, passed = ProbeResult(False, "no"), ProbeResult(True)
    state = checks.judge(check, CheckState(), failed, age_s=5)
    assert state.failures == 0
    assert checks.next_probe_s(check, state, 1, 0.02) == 0.5
    assert checks.next_probe_s(check, state, 10, 0.02) == 5
    state = checks.judge(check, state, failed, age_s=10)
    assert (state.failures, checks.verdict([check], [state], before=None)) == (1, None)
    state = checks.judge(check, state, passed, age_s=11)
    assert checks.verdict([check], [state], before=None) is True
    state = checks.judge(check, state, failed, age_s=12)
    assert checks.verdict([check], [state], before=True) is True
    state = checks.judge(check, state, failed, age_s=13)
    assert checks.verdict([check], [state], before=True) is False
    assert checks.why([check], [state]) == "health check failed: no (2 times in a row)"


# -- Mesos -----------------------------------------------------------------------------------------


def test_a_payload_is_read_or_refused_by_name() -> None:
    payload = w.payload_of("web.1")
    assert payload_of(w.task_of("web.1")) == payload
    spoilt = json.loads(payload.model_dump_json())
    del spoilt["spec"]["network"]
    data = b64encode(json.dumps(spoilt).encode()).decode()
    with pytest.raises(InvalidInput, match=r"data\.spec\.network"):
        payload_of({**w.task_of("web.1"), "data": data})
    with pytest.raises(InvalidInput, match="base64"):
        payload_of({**w.task_of("web.1"), "data": "???"})


def test_a_report_becomes_a_status() -> None:
    report = TaskReport(container="c", address="10.0.0.7", healthy=True)
    fields = status_fields(Report(TaskState.RUNNING, "running", "", True, report))
    assert TaskReport.model_validate_json(b64decode(fields["data"])) == report
    assert (fields["healthy"], fields["message"]) == (True, "running")
    assert "reason" not in fields
    address = fields["container_status"]["network_infos"][0]["ip_addresses"][0]
    assert address == {"protocol": "IPv4", "ip_address": "10.0.0.7"}
    bare = status_fields(Report(TaskState.FAILED, "no", "REASON_X", None, TaskReport()))
    assert bare.keys() == {"message", "data", "reason"}


def test_grace_periods() -> None:
    assert grace_of(None) is None
    assert grace_of({}) is None
    assert grace_of({"grace_period": {"nanoseconds": 1_500_000_000}}) == 1.5


class _SlowAgent:
    """A Transport whose SUBSCRIBE takes until it is let through; it notes the updates it gets."""

    def __init__(self) -> None:
        self.let_through = asyncio.Event()
        self.subscribes: list[dict[str, object]] = []
        self.updates: list[str] = []
        self.closed = asyncio.Event()

    async def request(self, request: Request, *, timeout_s: float) -> Response:
        body = json.loads(request.body or b"")
        self.updates.append(body["update"]["status"]["uuid"])
        return Response(202, {}, b"")

    @asynccontextmanager
    async def stream(self, request: Request, *, timeout_s: float) -> AsyncIterator[_SlowAgent]:
        self.subscribes.append(json.loads(request.body or b""))
        await self.let_through.wait()
        self.told = False
        yield self

    status = 200
    headers = {"content-type": "application/json"}

    async def read(self) -> bytes:
        if self.told:
            await self.closed.wait()
            return b""
        self.told = True
        infos: dict[str, object] = {"executor_info": {}, "framework_info": {}, "agent_info": {}}
        event = json.dumps({"type": "SUBSCRIBED", "subscribed": infos}).encode()
        return b"%d\n%s" % (len(event), event)

    def close(self) -> None:
        self.closed.set()


async def test_an_update_made_while_subscribing_is_not_forgotten() -> None:
    agent, rng = _SlowAgent(), random.Random(1)
    environment = ExecutorEnvironment("http://agent:5051", "F", "E", "S", "/sandbox", True)
    driver = MesosDriver(agent, environment, clock=SystemClock(), rng=rng, ids=RngIds(rng))
    async with driver.subscribe((), ()) as events, asyncio.timeout(10):
        waiting = asyncio.ensure_future(anext(events))
        while not agent.subscribes:
            await asyncio.sleep(0.001)
        status = driver.make_status("web.1", "TASK_RUNNING", {})
        await driver.update(status)
        assert agent.updates == []
        agent.let_through.set()
        await waiting
        assert agent.updates == [status["uuid"]]


# -- the disk --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_a_journal_gives_back_what_it_was_given(kind: str, tmp_path: Path) -> None:
    journal: Journal = (
        MemoryJournal() if kind == "memory" else FileJournal(tmp_path / "j" / "journal")
    )
    one = Record(attempt_of("a.1", health=(w.HTTP,)), task={"name": "a.1"})
    two = Record(attempt_of("b/../.1"), updates=({"uuid": "u", "state": "TASK_FAILED"},))
    for record in (two, one):
        journal.put(record)
    assert journal.load() == [one, two]
    journal.put(Record(one.attempt, updates=({"uuid": "v"},)))
    assert journal.load()[0].task is None
    journal.drop(AttemptId("a.1"))
    journal.drop(AttemptId("a.1"))
    assert journal.load() == [two]


def test_a_journal_is_read_by_the_next_worker(tmp_path: Path) -> None:
    file = tmp_path / "journal"
    journal = FileJournal(file)
    for number in range(20):
        journal.put(Record(attempt_of(f"web-{number}.1", env={"PASSWORD": "geheim"})))
        journal.drop(AttemptId(f"web-{number - 1}.1"))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    size = file.stat().st_size
    assert [each.attempt.id for each in FileJournal(file).load()] == ["web-19.1"]
    assert file.stat().st_size < size / 10
    assert [each.attempt.id for each in FileJournal(file).load()] == ["web-19.1"]


def test_a_line_that_is_broken_spoils_itself_only(tmp_path: Path) -> None:
    file = tmp_path / "journal"
    journal = FileJournal(file)
    journal.put(Record(attempt_of("a.1")))
    with file.open("ab") as out:
        out.write(b'\n{"attempt": {"id": "half')
    journal.put(Record(attempt_of("b.1")))
    with file.open("ab") as out:
        out.write(b'\n{"attempt": 7}\n[]')
    assert [each.attempt.id for each in FileJournal(file).load()] == ["a.1", "b.1"]


def test_a_long_journal_is_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.executor.journal._COMPACT_BYTES", 20_000)
    journal = FileJournal(tmp_path / "journal")
    for number in range(200):
        journal.put(Record(attempt_of(f"web-{number % 3}.1")))
        assert (tmp_path / "journal").stat().st_size < 30_000
    names = [each.attempt.id for each in FileJournal(tmp_path / "journal").load()]
    assert names == ["web-0.1", "web-1.1", "web-2.1"]


def test_a_journal_that_can_not_write_says_so(tmp_path: Path) -> None:
    journal = FileJournal(tmp_path / "journal")
    os.close(journal._out)
    journal._out = os.open("/dev/full", os.O_WRONLY)
    with pytest.raises(Unavailable, match="the disk is full"):
        journal.put(Record(attempt_of()))


def test_a_journal_that_can_not_be_made_yet_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("no directory")
    journal = FileJournal(tmp_path / "data" / "journal")
    with pytest.raises(Unavailable, match="the journal can't be written"):
        journal.put(Record(attempt_of("a.1")))
    (tmp_path / "data").unlink()
    journal.put(Record(attempt_of("b.1")))
    names = [each.attempt.id for each in FileJournal(tmp_path / "data" / "journal").load()]
    assert names == ["a.1", "b.1"]


def test_a_journal_on_a_full_disk_catches_up_when_there_is_room(tmp_path: Path) -> None:
    """Of what could not be written nothing is missing afterwards, and a worker starts on a full disk, too."""
    with small_disk(tmp_path / "disk") as disk:
        file = disk.root / "journal"
        journal = FileJournal(file)
        journal.put(Record(attempt_of("a.1")))
        disk.fill()
        big = {"PAYLOAD": "x" * 200_000}
        with pytest.raises(Unavailable, match="the disk is full"):
            journal.put(Record(attempt_of("b.1", env=big)))
        assert [each.attempt.id for each in FileJournal(file).load()] == ["a.1"]
        with pytest.raises(Unavailable, match="the disk is full"):
            journal.put(Record(attempt_of("c.1", env=big)))
        disk.free()
        journal.drop(AttemptId("c.1"))
        assert [each.attempt.id for each in FileJournal(file).load()] == ["a.1", "b.1"]


def test_a_file_that_containers_see_is_never_cut(tmp_path: Path) -> None:
    """It is mounted into all that run; a worker that starts on a full disk must not empty it."""
    with small_disk(tmp_path / "disk") as disk:
        content = "nameserver 10.0.0.2\n"
        file = EtcFiles(disk.root).resolv_conf(content)
        before = file.stat()
        disk.fill()
        assert EtcFiles(disk.root).resolv_conf(content) == file
        assert (file.read_text(), file.stat().st_ino) == (content, before.st_ino)
        assert file.stat().st_mtime_ns == before.st_mtime_ns
        with pytest.raises(Unavailable, match="the disk is full"):
            EtcFiles(disk.root).write_hosts(ContainerName("c"), "x" * 100_000)
        disk.free()
        EtcFiles(disk.root).write_hosts(ContainerName("c"), "x" * 100_000)
        assert EtcFiles(disk.root).hosts(ContainerName("c")).read_text() == "x" * 100_000


# -- configuration ---------------------------------------------------------------------------------


def test_configuration(tmp_path: Path) -> None:
    file = tmp_path / "executor.yaml"
    file.write_text("cluster: test\nhostd: unix:/x/hostd.sock\n")
    assert load(file).hostd_socket == "/x/hostd.sock"
    assert ExecutorConfig(cluster="c").hostd_socket == "/run/gantry/c/hostd.sock"
    file.write_text(json.dumps({"clutser": "x", "launches": 0}))
    with pytest.raises(InvalidInput) as caught:
        load(file)
    fields = {each.field for each in caught.value.problems}
    assert fields == {"executor.clutser", "executor.launches"}


def test_a_worker_that_can_not_work_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "executor.json"
    assert worker.main(["--config", str(file)]) == 78
    assert str(file) in capsys.readouterr().err
    file.write_text("{}")
    assert not [name for name in os.environ if name.startswith("MESOS_")]
    assert worker.main(["--config", str(file)]) == 78
    assert "MESOS_AGENT_ENDPOINT" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("message", "too_late"),
    [
        (
            "failed to create shim task: failed to start io pipe copy: unable to copy pipes:"
            ' containerd-shim: opening w/o fifo "/run/init-stdout" failed: context deadline exceeded',
            True,
        ),
        ("failed to create shim task: OCI runtime create failed: no registration", False),
    ],
)
def test_a_start_that_the_engine_was_too_slow_for_is_told_from_one_that_was_refused(
    message: str, too_late: bool
) -> None:
    assert says_too_late(message) is too_late
