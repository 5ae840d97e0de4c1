"""The first process of shared containers: what it starts, how that ends, and what none of its tasks can do or see.

Real processes in real namespaces, with a file system of busybox and without an engine.
"""

from __future__ import annotations

import array
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from services.executor.model import Limits
from services.executor.runs.inits import tail
from services.executor.runs.model import TaskStart, TaskView
from services.executor.runs.wire import encode, fields_of, start_of, view_of

UNLIMITED = Limits(0, 0, 0, 0)
UNSHARED = ("unshare", "--mount", "--pid", "--net", "--ipc", "--fork", "--kill-child")


@dataclass
class Init:
    """One of them, and a connection to it."""

    directory: Path
    process: subprocess.Popen[bytes]
    sock: socket.socket
    number: int = 0
    ended: dict[str, TaskView] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    running: dict[str, TaskView] = field(default_factory=dict)

    def send(self, *fields: str | int) -> None:
        self.sock.send(encode(*fields))

    def start(
        self,
        *command: str,
        user: str = "",
        env: tuple[str, ...] = (),
        timeout_s: float = 0.0,
        grace_s: float = 5.0,
        directory: str = "/",
    ) -> str:
        """Start a task in a new cell; its name."""
        self.number += 1
        cell, name = f"c{self.number}", f"t{self.number}"
        self.send("prepare", cell)
        task = TaskStart(
            name, command, user, directory, env, UNLIMITED, timeout_s, grace_s, "SIGTERM"
        )
        self.sock.send(start_of(cell, task))
        return name

    def sh(self, script: str, user: str = "") -> tuple[int, str]:
        """Exit code and output of a shell's script."""
        task = self.start("sh", "-c", script, user=user)
        view = self.end_of(task)
        return view.exit_code, self.output(view)

    def output(self, view: TaskView) -> str:
        return tail(self.directory / "out" / view.cell)

    def says(self, task: str, lines: int = 1) -> str:
        """Its output, once it runs and has written so much."""
        view, deadline = self.begin_of(task), time.monotonic() + 20
        while (said := self.output(view)).count("\n") < lines:
            assert time.monotonic() < deadline, said
            time.sleep(0.02)
        return said

    def hear(self) -> list[str]:
        """One message."""
        fields = fields_of(self.sock.recv(65536))
        match fields[0]:
            case "running":
                self.running[fields[1]] = view_of(fields)
            case "ended":
                self.ended[fields[1]] = view_of(fields)
            case "refused":
                self.refused[fields[1]] = fields[2]
        return fields

    def end_of(self, task: str) -> TaskView:
        return self.until(lambda: self.ended.get(task))

    def begin_of(self, task: str) -> TaskView:
        return self.until(lambda: self.running.get(task))

    def until(self, condition: Callable[[], TaskView | None]) -> TaskView:
        while (found := condition()) is None:
            self.hear()
        return found

    def list(self) -> list[list[str]]:
        self.send("list")
        heard = []
        while (fields := self.hear())[0] != "listed":
            heard += [fields] if fields[0] != "refused" else []
        return heard

    def connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.settimeout(20)
        sock.connect(f"{self.directory}/control")
        return sock


@pytest.fixture
def init(native: Path, tmp_path: Path) -> Iterator[Init]:
    with open_init(native, tmp_path) as started:
        yield started


@contextmanager
def open_init(native: Path, directory: Path) -> Iterator[Init]:
    """A container's, until the end."""
    script = Path(__file__).with_name("root.sh")
    command: list[str | Path] = [
        *UNSHARED,
        "sh",
        script,
        directory,
        native / "gantry-init",
        "--output=4096",
    ]
    process = subprocess.Popen(command)
    started = Init(directory, process, socket.socket())
    try:
        deadline = time.monotonic() + 20
        while True:
            assert process.poll() is None and time.monotonic() < deadline, "it does not listen"
            try:
                started.sock = started.connect()
                break
            except (FileNotFoundError, ConnectionRefusedError):
                time.sleep(0.01)
        yield started
    finally:
        started.sock.close()
        process.kill()
        process.wait()


# -- what it starts ------------------------------------------------------------------------------------


def test_a_task_has_its_command_variables_user_and_directory(init: Init) -> None:
    script = 'id -u; id -g; id -G; echo "$HOME $A" "$1"; ls -l /proc/self/cwd; exit 3'
    task = init.start(
        "sh", "-c", script, "sh", "two words", user="nobody", env=("A=b\nc",), directory="/tmp"
    )
    view = init.end_of(task)
    assert view.exit_code == 3
    ids, home, rest = init.output(view).partition("/home")
    assert ids.split() == ["65534", "65534", "65534", "77"]
    assert (home + rest).startswith("/home b\nc two words\n")
    assert rest.endswith("-> /tmp\n")
    assert 0 < view.began_at <= view.ended_at
    assert view.max_rss_kib > 0


@pytest.mark.parametrize(
    ("user", "seen"),
    [
        ("", "0 0 0"),
        ("0", "0 0 0"),
        ("nobody:root", "65534 0 0"),
        ("12:34", "12 34 34"),
        ("65534", "65534 65534 65534 77"),
        ("nobody:extra", "65534 77 77"),
    ],
)
def test_users_are_read_as_the_engine_reads_them(init: Init, user: str, seen: str) -> None:
    _, said = init.sh("echo $(id -u) $(id -g) $(id -G)", user)
    assert said.strip() == seen


def test_what_can_not_start_says_why(init: Init) -> None:
    for start, why in (
        (init.start("/no/such"), "exec /no/such: No such file or directory"),
        (init.start("true", user="who"), "the image's /etc/passwd has no user who"),
        (init.start("true", user="root:who"), "the image's /etc/group has no group who"),
        (init.start("true", directory="/nowhere"), "working directory /nowhere"),
        (init.start("/etc/passwd"), "exec /etc/passwd: Permission denied"),
    ):
        assert init.end_of(start).failed.startswith(why)


def test_how_it_ended_is_told_until_it_is_forgotten(init: Init) -> None:
    by_signal = init.end_of(init.start("sh", "-c", "kill -USR1 $$"))
    assert by_signal.exit_code == 128 + 10
    init.sock.close()
    init.sock = init.connect()
    assert [each[:2] for each in init.list()] == [["ended", "t1"]]
    init.send("start", "c9", "t1", "", "/", 0, 0, 15, 1, "true")  # asked twice
    assert init.hear()[:2] == ["ended", "t1"]
    init.send("ack", "t1")
    assert init.list() == []
    assert list((init.directory / "out").iterdir()) == []


def test_time_outs_and_grace_are_kept(init: Init) -> None:
    late = init.start("sleep", "100", timeout_s=0.2)
    # Long enough for the shell to have set its trap.
    stubborn = init.start("sh", "-c", "trap '' TERM; sleep 100", timeout_s=3.0, grace_s=0.3)
    killed = init.start("sh", "-c", "trap 'exit 7' TERM; echo there; while :; do sleep 0.05; done")
    patient = init.start("true", timeout_s=366 * 86_400.0)  # the longest that a job may have
    init.says(killed)
    assert (init.end_of(patient).exit_code, init.end_of(patient).timed_out) == (0, False)
    assert (init.end_of(late).timed_out, init.end_of(late).exit_code) == (True, 128 + 15)
    view = init.end_of(stubborn)
    assert (view.timed_out, view.exit_code) == (True, 128 + 9)
    assert 3.2 < view.ended_at - view.began_at < 60
    init.send("kill", killed, 15, 30_000)
    assert (init.end_of(killed).exit_code, init.end_of(killed).timed_out) == (7, False)


def test_who_is_told_to_end_leaves_nothing_however_late_its_children_end(init: Init) -> None:
    """They end with the cell; that says nothing about the task."""
    late = "trap '' TERM; sleep 7654322"
    task = init.start("sh", "-c", f"sh -c \"{late}\" & trap 'exit 0' TERM; echo there; wait")
    init.says(task)
    init.send("kill", task, 15, 30_000)
    view = init.end_of(task)
    assert (view.exit_code, view.leaked) == (0, False)
    assert not _processes("sleep", "7654322")  # of no other test


def test_output_is_kept_within_its_bound(init: Init) -> None:
    view = init.end_of(init.start("sh", "-c", "seq 1 20000; echo last"))
    files = [init.directory / "out" / f"{view.cell}{end}" for end in ("", ".1")]
    assert sum(each.stat().st_size for each in files) <= 4096 + 2 * 64 * 1024
    assert init.output(view).endswith("19999\n20000\nlast\n")


def test_many_run_at_a_time(init: Init) -> None:
    tasks = [init.start("sh", "-c", f"echo {n}; exit {n}") for n in range(40)]
    views = [init.end_of(each) for each in tasks]
    assert [each.failed for each in views if each.failed] == []
    assert [each.exit_code for each in views] == list(range(40))
    assert [init.output(each) for each in views] == [f"{n}\n" for n in range(40)]


# -- what is left of one for others -------------------------------------------------------------------


def test_nothing_is_left_of_a_task(init: Init) -> None:
    leaves = """
      echo x >/left; echo x >/tmp/left; echo x >/dev/shm/left; rm /etc/group; mkdir -p /tmp/a/b
      i=0; while [ $i -lt 60 ]; do d=$(printf %0100d $i); mkdir $d; cd $d; i=$((i+1)); done; echo x >deep
      setsid sleep 7654321 & (setsid sh -c 'trap "" TERM HUP; nc -l -p 7777' &) ; exit 0"""
    view = init.end_of(init.start("sh", "-c", leaves))
    assert view.leaked
    looks = """
      ls /left /tmp/left /dev/shm/left; wc -l </etc/group; ls -A /tmp; ps | grep -c '[s]leep 7654321'
      nc -w 1 127.0.0.1 7777 </dev/null && echo it listens"""
    _, said = init.sh(f"({looks}) 2>/dev/null")
    assert said.split() == ["3", "0"]
    deadline = time.monotonic() + 10
    while any((init.directory / "scratch").iterdir()):
        assert time.monotonic() < deadline, "files are left on the host"
        time.sleep(0.02)
    assert not _processes("sleep", "7654321")  # of no other test


def _processes(*words: str) -> list[int]:
    found = []
    for each in Path("/proc").iterdir():
        try:
            if each.name.isdigit() and (each / "cmdline").read_bytes().split(b"\0")[:-1] == [
                word.encode() for word in words
            ]:
                found.append(int(each.name))
        except OSError:
            continue
    return found


def test_those_at_the_same_time_do_not_see_each_other(init: Init) -> None:
    quiet = "touch /tmp/mine /dev/shm/mine; echo there; while :; do sleep 0.05; done"
    other = init.start("sh", "-c", quiet, env=("SECRET=xyzzy",))
    init.says(other)
    looks = "ls -A /tmp /dev/shm; ps | wc -l; cat /proc/[0-9]*/environ | grep -c xyzzy; kill -9 -1"
    _, said = init.sh(f"({looks}) 2>/dev/null")
    assert "mine" not in said
    assert said.split()[-1] == "0"  # nobody's variables
    assert [each[0] for each in init.list() if each[1] == other] == ["running"]


def test_ipc_is_each_ones_own(init: Init) -> None:
    # Both live until both are seen: the kernel gives a namespace's number again.
    script = "for each in ipc pid mnt; do readlink /proc/self/ns/$each; done; exec sleep 100"
    tasks = [init.start("sh", "-c", script) for _ in range(2)]
    seen = [set(init.says(each, lines=3).split()) for each in tasks]
    for each in tasks:
        init.send("kill", each, 15, 5000)
        init.end_of(each)
    assert len(seen[0]) == len(seen[1]) == 3
    assert seen[0].isdisjoint(seen[1])


def test_what_is_left_in_ipc_is_seen_by_nobody_else(init: Init) -> None:
    leave = "touch /dev/mqueue/left /dev/shm/left && ls /dev/mqueue /dev/shm"
    beside = init.start("sh", "-c", f"{leave}; exec sleep 100")
    assert init.says(beside, lines=5).split().count("left") == 2
    look = "ls /dev/mqueue /dev/shm; grep -c mqueue /proc/mounts"
    assert init.sh(look) == (0, "/dev/mqueue:\n\n/dev/shm:\n1\n")
    init.send("kill", beside, 15, 5000)
    init.end_of(beside)
    assert init.sh(look) == (0, "/dev/mqueue:\n\n/dev/shm:\n1\n")


def test_those_at_the_same_time_share_their_containers_network_and_no_other(
    init: Init, native: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """So it is written in docs/cron.md: ports, loopback and, being of the namespace, abstract sockets."""
    network, knock = "readlink /proc/self/ns/net", "nc -w 5 127.0.0.1 7777 </dev/null 2>&1"
    listener = init.start("sh", "-c", f"{network}; echo hello | nc -l -p 7777")
    init.begin_of(listener)
    assert init.sh("until grep -q :1E61 /proc/net/tcp*; do sleep 0.05; done") == (0, "")
    with open_init(native, tmp_path_factory.mktemp("elsewhere")) as other:
        _, elsewhere = other.sh(network)
        assert "refused" in other.sh(knock)[1]
        assert other.sh("nc -l -p 7777 & sleep 0.3; kill $!") == (0, "")  # the port is free there
    code, said = init.sh("nc -l -p 7777 2>&1")
    assert code == 1 and "Address already in use" in said
    code, said = init.sh(f"{network}; {knock}")
    assert code == 0 and said == init.output(init.end_of(listener)) + "hello\n"
    assert elsewhere not in said


@pytest.mark.parametrize("user", ["root", "nobody"])
def test_what_a_task_can_not_do(init: Init, user: str) -> None:
    tries = {
        "another namespace": "unshare -U true",
        "its own mounts": "mount -t tmpfs x /tmp",
        "the directory of all": "ls /.gantry/run/* || ls /.gantry/run/control",
        "settings of the kernel": "echo 1 >/proc/sys/kernel/panic",
        "new devices": "mknod /tmp/x b 7 0",
        "files in /dev": "touch /dev/x",
        "memory of the cell": "cat /proc/1/mem",
        "variables of the cell": "cat /proc/1/environ",
        "descriptors of the cell": "cat /proc/1/fd/3",
        "cgroups": "mkdir /sys/fs/cgroup/x || mkdir /sys/fs/cgroup/memory/x",
    }
    script = "\n".join(f"({each}) >/dev/null 2>&1 && echo '{what}'" for what, each in tries.items())
    _, said = init.sh(script, user)
    assert said == ""
    _, status = init.sh("grep -E 'CapEff|CapBnd|NoNewPrivs|Seccomp:' /proc/self/status", user)
    assert status.split()[1::2] == ["0" * 16, "0" * 16, "1", "2"]
    _, open_ones = init.sh("ls /proc/$$/fd", user)
    assert open_ones.split()[:3] == ["0", "1", "2"] and len(open_ones.split()) <= 4
    _, mounts = init.sh("cat /proc/self/mounts", user)
    assert not [line for line in mounts.splitlines() if line.split()[1] == "/.gantry/run"]


# -- who talks to it --------------------------------------------------------------------------------------


def test_only_root_outside_of_the_container_is_heard(init: Init) -> None:
    assert (init.directory / "control").stat().st_mode & 0o077 == 0
    inside = subprocess.run(
        ["pgrep", "-f", "^/.gantry/init"], capture_output=True, text=True, check=True
    )
    init_pid = next(
        pid
        for pid in inside.stdout.split()
        if os.path.realpath(f"/proc/{pid}/root/.gantry/run") and _knows(int(pid), init.directory)
    )
    script = "\n".join(
        (
            "import socket",
            "s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)",
            f"s.connect('{init.directory}/control'); s.settimeout(5)",
            "try: s.send(b'list\\0'); print(s.recv(99))",
            "except OSError: print('refused')",
        )
    )
    command = ["nsenter", "--target", init_pid, "--pid", "python3", "-c", script]
    said = subprocess.run(command, capture_output=True, text=True, timeout=20).stdout
    assert said.strip() in ("b''", "refused")
    assert init.list() == []


def _knows(pid: int, directory: Path) -> bool:
    try:
        mounts = Path(f"/proc/{pid}/mountinfo").read_text()
    except OSError:
        return False
    return any(
        line.split()[4] == "/.gantry/run" and str(directory).endswith(line.split()[3][-20:])
        for line in mounts.splitlines()
    )


def test_what_it_can_not_read_does_it_no_harm(init: Init) -> None:
    for message in (
        b"start",
        b"\0",
        b"start\0",
        b"start\0c1\0t1\0\0/\x000\x000\x0015\x00999999\0",
        b"prepare\0../x\0",
        b"prepare\0\0",
        b"prepare\0" + b"x" * 300 + b"\0",
        b"kill\0t1\0-1\0x\0",
        b"kill\0\0",
        b"ack\0" * 1000,
        b"\xff" * 5000 + b"\0",
        b"x" * 200_000 + b"\0",
    ):
        init.sock.send(message)
    descriptors = [os.open("/dev/null", os.O_RDONLY) for _ in range(20)]
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
    init.sock.sendmsg([b"prepare\0many\0"], rights)
    for each in descriptors:
        os.close(each)
    assert init.list() == []
    assert init.sh("echo fine") == (0, "fine\n")
    for _ in range(20):  # more than it takes
        init.connect().close()
    assert init.sh("echo fine") == (0, "fine\n")
