"""`gantry job` against a live gateway, and what of it works without one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from libs.cli import job_times, spec_file
from libs.common.errors import InvalidInput
from tests.unit.cli.conftest import Live

FILE = """\
job: acme/report
image: registry.test/report:1
network: blue
schedule: "*/5 * * * *"
time_zone: Asia/Kolkata
owner: ann
"""
ROOT = Path(__file__).parents[3]


@pytest.fixture
def file(tmp_path: Path) -> str:
    """A job file."""
    path = tmp_path / "report.yaml"
    path.write_text(FILE)
    return str(path)


@contextmanager
def ending(live: Live, state: str, **fields: object) -> Iterator[None]:
    """Ends each run as soon as it has begun."""
    over = threading.Event()

    def end() -> None:
        while not over.wait(0.05):
            for run in list(live.world.jobs.runs.values()):
                if run["state"] == "running":
                    live.world.jobs.end(run["run"], state, **fields)

    worker = threading.Thread(target=end)
    worker.start()
    try:
        yield
    finally:
        over.set()
        worker.join()


def missed_at_once(live: Live, run: str) -> str:
    live.world.jobs.end(run, "missed", started=None, reason="a run is under way")
    return run


def test_put_tells_what_changes(live: Live, file: str) -> None:
    made = live.gantry("job", "put", file)
    assert made.code == 0, made.err
    assert made.out.startswith("acme/report: made; version 1, active, next 20")
    Path(file).write_text(
        FILE.replace("*/5", "*/7").replace("ann", "bob") + "secrets: [{name: db, env: DB}]\n"
    )
    changed = live.gantry("job", "put", file)
    assert "schedule: '*/5 * * * *' -> '*/7 * * * *'" in changed.out
    assert (
        "owner: 'ann' -> 'bob'" in changed.out and "secrets: None -> [{'name': 'db'" in changed.out
    )
    again = live.gantry("job", "put", file)
    assert "nothing differs" in again.out and "version 3" in again.out
    assert live.gantry("job", "put", file, "-o", "json").json()["version"] == 4


def test_several_files_are_read_before_the_first_is_written(
    live: Live, file: str, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(FILE.replace("*/5", "*/5 * *").replace("report", "bad"))
    refused = live.gantry("job", "put", file, str(bad))
    assert refused.code == 2 and "schedule" in refused.err and "bad.yaml" in refused.err
    assert not live.world.jobs.jobs
    child = tmp_path / "child.yaml"
    child.write_text("job: mail\nimage: registry.test/mail:1\nnetwork: blue\nparents: [report]\n")
    both = live.gantry("job", "put", file, str(child), "--bu", "acme", "-o", "json")
    assert both.code == 0, both.err
    assert [each["job"] for each in both.json()] == ["acme/report", "acme/mail"]
    alone = live.gantry("job", "put", str(child), "--bu", "other")
    assert alone.code == 2 and "parents: there is no job other/report" in alone.err


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("- job", "mapping"),
        ("image: x", "job: is missing"),
        (FILE.replace("acme/report", "Acme/report"), "job"),
        (FILE + "scedule: x\n", "scedule: unknown field"),
        (FILE.replace("*/5 * * * *", "* * 31 2 *"), "schedule"),
        (FILE.replace("Asia/Kolkata", "Asia/Nowhere"), "time_zone"),
        (FILE + "parents: [a]\n", "one of `schedule` and `parents`"),
    ],
)
def test_what_is_wrong_is_named_without_a_server(
    live: Live, tmp_path: Path, text: str, named: str
) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(text)
    for command in ("put", "validate"):
        refused = live.gantry("job", command, str(path), GANTRY_URL="http://127.0.0.1:9")
        assert refused.code == 2 and named in refused.err, refused.err


def test_validate_here_and_at_the_server(live: Live, file: str) -> None:
    seen = live.gantry("job", "validate", file, "--zone", "Europe/Berlin")
    assert seen.code == 0, seen.err
    lines = seen.out.splitlines()
    assert lines[0] == "acme/report: */5 * * * * in Asia/Kolkata"
    assert len(lines) == 7 and all(" IST   " in line and " CE" in line for line in lines[1:6])
    assert "what differs: image, network, owner, schedule" in lines[6]
    same = live.gantry("job", "validate", file, "--zone", "Asia/Calcutta")
    assert same.code == 0 and "CET" not in same.out and same.out.count("IST") == 5
    live.gantry("job", "put", file)
    assert "it stands so already" in live.gantry("job", "validate", file).out
    assert len(live.world.jobs.heard) == 1
    live.world.jobs.away = True
    away = live.gantry("job", "validate", file)
    assert away.code == 0 and "checked here only: " in away.err
    keyless = live.gantry("job", "validate", file, "-o", "json", GANTRY_KEY="")
    assert keyless.json()["unchecked"] == "there is no API key" and len(keyless.json()["next"]) == 5
    assert live.gantry("job", "validate", file, "--zone", "Mars/Base").code == 2
    Path(file).write_text(FILE.replace('schedule: "*/5 * * * *"\n', "parents: [nobody]\n"))
    live.world.jobs.away = False
    refused = live.gantry("job", "validate", file)
    assert refused.code == 2 and "there is no job acme/nobody" in refused.err


def test_run_and_wait_exits_with_its_result(
    live: Live, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("libs.cli.job_cmd.POLL_S", 0.05)
    live.gantry("job", "put", file)
    begun = live.gantry("job", "run", "report", "--bu", "acme")
    assert begun.code == 0 and begun.out == "acme-report-1: running, on host-1\n"
    begin = live.world.jobs.begin

    def begin_missed(job: str, **more: Any) -> str:
        return missed_at_once(live, begin(job, **more))

    monkeypatch.setattr(live.world.jobs, "begin", begin_missed)
    missed = live.gantry("job", "run", "acme/report")
    assert missed.code == 1 and "missed" in missed.err and "a run is under way" in missed.err
    monkeypatch.setattr(live.world.jobs, "begin", begin)
    slow = live.gantry("job", "run", "acme/report", "--wait", "--timeout", "1")
    assert slow.code == 6 and "gantry job history acme/report" in slow.err
    with ending(live, "succeeded", exit_code=0, output="all is well"):
        good = live.gantry("job", "run", "acme/report", "--wait")
    assert (good.code, good.out) == (0, "all is well\n")
    assert "succeeded, exit code 0, after" in good.err
    with ending(live, "failed", exit_code=3, reason="exit code 3", output="oh\nno\n"):
        bad = live.gantry("job", "run", "acme/report", "--wait")
        as_json = live.gantry("job", "run", "acme/report", "--wait", "-o", "json")
    assert (bad.code, bad.out) == (1, "oh\nno\n") and "failed, exit code 3" in bad.err
    assert as_json.code == 1 and as_json.json()["exit_code"] == 3


def test_what_is_only_accepted_is_waited_for(
    live: Live, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("libs.cli.job_cmd.POLL_S", 0.05)
    monkeypatch.setattr("services.gateway.jobs.WAIT_S", 0.05)
    live.gantry("job", "put", file)
    live.world.jobs.deaf = True
    timer = threading.Timer(0.5, lambda: setattr(live.world.jobs, "deaf", False))
    timer.start()
    run = live.gantry("job", "run", "acme/report")
    timer.join()
    assert run.code == 0 and "accepted; waiting for the scheduler" in run.err
    assert run.out == "acme-report-1: running, on host-1\n"
    monkeypatch.setattr("libs.cli.job_cmd.SETTLE_S", 0.1)
    live.world.jobs.deaf = True
    assert live.gantry("job", "pause", "acme/report").code == 6


def test_the_tables_and_the_outputs(live: Live, file: str) -> None:
    assert "no jobs" in live.gantry("job", "ls").err
    live.gantry("job", "put", file)
    assert live.gantry("job", "logs", "acme/report").code == 4
    assert "no runs yet" in live.gantry("job", "history", "acme/report").err
    jobs = live.world.jobs
    first = jobs.begin("acme/report", "schedule")
    jobs.end(first, "failed", exit_code=2, reason="exit code 2", output="first\n")
    jobs.end(jobs.begin("acme/report"), exit_code=0, output="second\n")
    (row,) = live.gantry("job", "ls").out.splitlines()[1:]
    for shown in ("acme/report", "active", "*/5 * * * * (Asia/Kolkata)", "succeeded"):
        assert shown in row
    assert "ann" not in row and "ann" in live.gantry("job", "ls", "-o", "wide").out
    assert "no jobs" in live.gantry("job", "ls", "--state", "paused").err
    assert "no jobs" in live.gantry("job", "ls", "--bu", "other").err
    assert live.gantry("job", "ls", "--state", "odd").code == 2
    newest, oldest = live.gantry("job", "history", "acme/report").out.splitlines()[1:]
    assert "acme-report-2" in newest and "manual" in newest
    assert first in oldest and "exit code 2" in oldest and "host-1" in oldest
    assert len(live.gantry("job", "history", "acme/report", "-n", "1").out.splitlines()) == 2
    for _ in range(21):  # wait for their turn, or were missed: they have written nothing
        waiting = jobs.begin("acme/report", "schedule")
        jobs.end(waiting, "missed", started=None)
    assert live.gantry("job", "logs", "acme/report").out == "second\n"
    logs = live.gantry("job", "logs", "acme/report", first)
    assert logs.out == "first\n" and "failed, exit code 2" in logs.err
    shown = live.gantry("job", "show", "acme/report").out
    for words in (
        "schedule     */5 * * * * (Asia/Kolkata)",
        "1 succeeded, 1 failed",
        "owner        ann",
    ):
        assert words in shown
    told = live.gantry("job", "stats", "acme/report").out
    assert "acme/report: 23 runs, 1 succeeded, 1 failed, 21 missed" in told and "median" in told


def test_the_output_of_a_run_that_goes_on(live: Live, file: str) -> None:
    live.gantry("job", "put", file)
    jobs, outputs = live.world.jobs, live.world.others.outputs
    run = jobs.begin("acme/report")
    jobs.containers[run], outputs["c.1", run] = "c.1", ["one", "two"]
    logs = live.gantry("job", "logs", "acme/report")
    assert logs.out == "one\ntwo\nfollow=0\n" and f"{run}: running, on host-1" in logs.err
    assert live.gantry("job", "logs", "acme/report", "-o", "json").json()["output"] == logs.out
    with soon(lambda: jobs.end(run, "failed", output="two\n")):
        logs = live.gantry("job", "logs", "acme/report", run, "-f")
    assert logs.out == "one\ntwo\nfollow=1\n" and f"{run}: failed" in logs.err


def test_a_run_that_waits_is_followed_through_its_tries(live: Live, file: str) -> None:
    live.gantry("job", "put", file)
    jobs, outputs = live.world.jobs, live.world.others.outputs
    run = jobs.begin("acme/report")
    jobs.runs[run] |= {"state": "pending", "tries": 0}

    def go_on() -> None:
        for number in (1, 2):
            jobs.containers[run], outputs["c.1", run] = "c.1", [f"try {number}"]
            jobs.runs[run] |= {"state": "running", "tries": number}
            time.sleep(0.7)
            del outputs["c.1", run]
            jobs.runs[run] |= {"state": "pending"}
            time.sleep(0.7)
        jobs.runs[run] |= {"tries": 3}  # too short to be seen
        jobs.end(run, output="try 3\n")

    with soon(go_on):
        logs = live.gantry("job", "logs", "acme/report", run, "--follow")
    assert logs.out == "try 1\nfollow=1\ntry 2\nfollow=1\ntry 3\n"
    assert f"{run}: succeeded" in logs.err


@contextmanager
def soon(act: Callable[[], None]) -> Iterator[None]:
    """Do it in a moment, beside what is done now."""
    worker = threading.Timer(0.5, act)
    worker.start()
    try:
        yield
    finally:
        worker.join()


def test_pause_resume_kill_rm(live: Live, file: str) -> None:
    live.gantry("job", "put", file)
    assert "paused" in live.gantry("job", "pause", "acme/report").out
    assert "active" in live.gantry("job", "resume", "acme/report").out
    run = live.world.jobs.begin("acme/report")
    live.world.jobs.begin("acme/report")
    assert live.gantry("job", "put", file).code == 0
    other = live.gantry("job", "kill", "acme/other", run)
    assert other.code == 4 and live.world.jobs.runs[run]["state"] == "running"
    assert f"{run}: killed" in live.gantry("job", "kill", "acme/report", run).out
    assert live.gantry("job", "kill", "acme/report", "-o", "json").json()["running"] == []
    live.world.jobs.refusing = "acme/mail runs after it"
    refused = live.gantry("job", "rm", "acme/report")
    assert refused.code == 7 and "acme/mail runs after it" in refused.err
    live.world.jobs.refusing = ""
    assert live.gantry("job", "rm", "acme/report").out == "acme/report: removed\n"
    assert live.gantry("job", "rm", "acme/report").code == 4
    assert live.gantry("job", "show", "report").code == 2


@pytest.mark.parametrize("path", sorted((ROOT / "docs/examples/jobs").glob("*.yaml")))
def test_the_examples_are_valid(path: Path) -> None:
    read = spec_file.read_job(str(path), "")
    times = job_times.next_times(read.job, read.spec, 1_750_000_000.0)
    assert len(times) == (0 if read.spec.schedule is None else 5)


def test_a_schedule_without_a_start_begins_now() -> None:
    spec = spec_file.parse_job(FILE.replace("*/5 * * * *", "R3//PT1M"), "x", "").spec
    assert len(job_times.next_times("acme/report", spec, 1_000.0)) == 3
    with pytest.raises(InvalidInput, match="--zone"):
        job_times.zone_of("../etc")
