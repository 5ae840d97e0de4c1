"""The supervisor as a process: it restarts its worker, and nothing about the worker can end it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from libs.common.errors import InvalidInput
from services.executor import beats, worker
from services.executor.config import ExecutorConfig
from services.executor.supervisor import BEATS, EXIT_CONFIG, Silence, next_pause_s

ROOT = Path(__file__).resolve().parents[2]

# Stands in for the worker: notes its pid and its parent's, then does what the file `do` says.
WORKER = """
    import os, sys, time
    from pathlib import Path
    home = Path(os.environ["HOME_OF_TEST"])
    with open(home / "starts", "a") as out:
        print(os.getpid(), os.getppid(), sys.argv[-1], file=out)
    what = (home / "do").read_text()
    if what.isdigit():
        sys.exit(int(what))
    beats = os.environ["GANTRY_EXECUTOR_BEATS"]
    while True:
        if what.startswith("beat"):
            os.write(int(beats), what.split()[1].encode() + b"\\n")
        time.sleep(0.05)
"""


class Supervised:
    """A supervisor with the stand-in worker."""

    def __init__(self, home: Path) -> None:
        self.home = home
        package = home / "tree" / "services" / "executor"
        package.mkdir(parents=True)
        real = ROOT / "services" / "executor"
        for name in ("__init__.py", "__main__.py", "supervisor.py"):
            (package / name).write_text((real / name).read_text())
        (package.parent / "__init__.py").touch()
        (package / "worker.py").write_text(textwrap.dedent(WORKER))
        self.process: subprocess.Popen[bytes]

    def start(self, what: str = "work") -> None:
        self.will(what)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "services.executor", "--config", "x"],
            cwd=self.home / "tree",
            env={
                **os.environ,
                "PYTHONPATH": str(self.home / "tree"),
                "HOME_OF_TEST": str(self.home),
            },
            stderr=subprocess.DEVNULL,
        )

    def will(self, what: str) -> None:
        """What the next worker does."""
        (self.home / "do").write_text(what)

    def starts(self) -> list[int]:
        """Pids of the workers so far."""
        file = self.home / "starts"
        return (
            [int(each.split()[0]) for each in file.read_text().splitlines()]
            if file.exists()
            else []
        )

    def until(self, condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, f"workers: {self.starts()}"
            time.sleep(0.01)


@pytest.fixture
def it(tmp_path: Path) -> Iterator[Supervised]:
    with _cleaned(Supervised(tmp_path)) as supervised:
        yield supervised


@contextmanager
def _cleaned(supervised: Supervised) -> Iterator[Supervised]:
    try:
        yield supervised
    finally:
        supervised.process.kill()
        supervised.process.wait()
        for pid in supervised.starts():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass


def test_a_killed_worker_is_replaced(it: Supervised) -> None:
    it.start()
    for count in (1, 2, 3):
        it.until(lambda count=count: len(it.starts()) == count)  # type: ignore[misc]
        os.kill(it.starts()[-1], signal.SIGKILL)
    it.until(lambda: len(it.starts()) == 4)
    assert it.process.poll() is None
    line = (it.home / "starts").read_text().splitlines()[-1].split()
    assert line[1:] == [str(it.process.pid), f"--parent={it.process.pid}"]


@pytest.mark.parametrize("status", [0, 2, 78])
def test_a_worker_that_is_done_or_can_not_work_ends_it(it: Supervised, status: int) -> None:
    it.start(str(status))
    assert it.process.wait(20) == status
    assert len(it.starts()) == 1


def test_any_other_end_does_not(it: Supervised) -> None:
    it.start("1")
    it.until(lambda: len(it.starts()) >= 3)
    assert it.process.poll() is None


@pytest.mark.parametrize("what", ["work", "1"])
def test_sigterm_ends_worker_and_supervisor(it: Supervised, what: str) -> None:
    it.start(what)
    it.until(lambda: len(it.starts()) >= 1)
    it.process.terminate()
    assert it.process.wait(20) == 0
    assert all(not Path(f"/proc/{pid}").exists() for pid in it.starts())


def test_it_has_a_session_of_its_own_and_is_small(it: Supervised) -> None:
    it.start()
    it.until(lambda: len(it.starts()) == 1)
    assert os.getsid(it.process.pid) == it.process.pid != os.getsid(0)
    status = Path(f"/proc/{it.process.pid}/status").read_text()
    resident_kib = int(status.split("VmRSS:")[1].split()[0])
    assert resident_kib < 16 * 1024
    assert "Threads:\t1\n" in status


def test_a_worker_that_stands_still_is_replaced(it: Supervised) -> None:
    it.start("beat 6")
    it.until(lambda: len(it.starts()) == 1)
    it.will("beat 600")  # the next one
    os.kill(it.starts()[0], signal.SIGSTOP)
    it.until(lambda: len(it.starts()) == 2, 60)
    assert it.process.poll() is None
    assert not Path(f"/proc/{it.starts()[0]}").exists()


def test_a_frozen_worker_does_not_hold_up_the_end(it: Supervised) -> None:
    it.start("beat 600")
    it.until(lambda: len(it.starts()) == 1)
    os.kill(it.starts()[0], signal.SIGSTOP)
    it.process.terminate()
    assert it.process.wait(60) == 0
    assert not Path(f"/proc/{it.starts()[0]}").exists()


@dataclass
class Pipe:
    """Both ends."""

    reads: int
    writes: int

    def say(self, text: bytes) -> None:
        os.write(self.writes, text)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe(*os.pipe())
    os.set_blocking(made.reads, False)
    yield made
    os.close(made.reads)
    os.close(made.writes)


def test_silence_counts_from_the_last_line_that_was_heard(pipe: Pipe) -> None:
    silence = Silence(pipe.reads)
    pipe.say(b"3\n")
    assert [silence.too_long(1.0) for _ in range(4)] == [False] * 4  # the first one heard it
    pipe.say(b"3\n3\n")
    assert [silence.too_long(1.0) for _ in range(5)] == [False, False, False, False, True]
    assert not silence.too_long(1.0), "killed once"


def test_who_has_never_said_anything_is_let_be(pipe: Pipe) -> None:
    silence = Silence(pipe.reads)
    assert not any(silence.too_long(1.0) for _ in range(1000))
    pipe.say(b"words\n")
    assert not any(silence.too_long(1.0) for _ in range(1000))


def test_a_worker_that_hangs_as_it_begins_is_silent_too(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[bytes] = []

    def hang(_file: Path) -> ExecutorConfig:
        heard.append(os.read(pipe.reads, 100))
        raise InvalidInput.of("config", "takes for ever")

    monkeypatch.setattr(worker, "load", hang)
    monkeypatch.setattr(worker, "_see_all_cgroups", lambda: None)
    monkeypatch.setenv(BEATS, str(pipe.writes))
    assert worker.main(["--config", "x"]) == EXIT_CONFIG
    pipe.say(heard[0])
    silence = Silence(pipe.reads)
    waits = int(beats.BEGIN_S)
    assert [silence.too_long(1.0) for _ in range(waits + 2)] == [False] * (waits + 1) + [True]


def test_a_machine_that_slept_heard_nothing_and_says_nothing(pipe: Pipe) -> None:
    silence = Silence(pipe.reads)
    pipe.say(b"60\n")
    assert not silence.too_long(1.0)
    assert not silence.too_long(86_400.0)


def test_pauses_grow_and_are_bounded() -> None:
    pauses = [0.0]
    for _ in range(10):
        pauses.append(next_pause_s(pauses[-1], lived_s=1.0))
    assert pauses[1:4] == [0.1, 0.2, 0.4]
    assert pauses[-1] == 5.0
    assert next_pause_s(5.0, lived_s=60.0) == 0.1
