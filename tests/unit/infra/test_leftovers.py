"""What a destroyed cluster would be told to have left: processes that no pid file knows, and links by their owner."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.demo.__main__ import why_not
from infra.demo.story import DemoFailed
from infra.local.layout import Layout
from infra.local.leftovers import idle_switch, links_of, of, processes_of
from libs.common.errors import Unavailable
from libs.common.waiting import TaskGroup
from services.hostd.core import link_name

SLEEP = "import sys; print('ready', flush=True); sys.stdin.read()"


@contextmanager
def program(*arguments: str, cwd: Path | None = None, inside: str = "") -> Iterator[int]:
    """A process that lives until the block is left; `inside` is what a mount namespace of its own is prepared with."""
    command = [sys.executable, "-c", SLEEP, *arguments]
    if inside:
        script = f'{inside}; exec "$@"'
        command = ["unshare", "--mount", "sh", "-ec", script, "sh", *command]
    process = subprocess.Popen(
        command, cwd=cwd, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"ready\n"
        yield process.pid
    finally:
        process.communicate()


def pids(directory: Path) -> list[int]:
    return [int(each.split()[0]) for each in processes_of(directory)]


def test_what_was_started_for_a_cluster_is_seen_and_nothing_else(tmp_path: Path) -> None:
    root, other = tmp_path / "gd-1", tmp_path / "gd-11"
    root.mkdir()
    other.mkdir()
    assert pids(root) == []
    with (
        program("-address", f"{root}/engine/exec/containerd.sock") as shim,
        program(f"--db=unix:{root}") as switch,
        program(cwd=root) as balancer,
        program(f"{other}/engine/docker.sock"),
        program(cwd=other),
    ):
        assert pids(root) == sorted([shim, switch, balancer])
        root.rmdir()  # where they work is gone, and they are not
        assert pids(root) == sorted([shim, switch, balancer])
    assert pids(root) == []


def test_an_app_is_seen_by_where_its_files_come_from(tmp_path: Path) -> None:
    root = tmp_path / "gd-1"
    layers = [root / each for each in ("lower", "upper", "work")]
    for each in layers:
        each.mkdir(parents=True)
    (root / "hosts").write_text("")
    bind = f"mount --bind {root}/hosts {tmp_path}/hosts"
    (tmp_path / "hosts").write_text("")
    with program(cwd=Path("/"), inside=bind) as app, program(cwd=Path("/"), inside=":"):
        assert pids(root) == [app]


def test_a_person_who_looks_at_its_files_is_none_of_it(tmp_path: Path) -> None:
    controller, terminal = pty.openpty()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.setsid()
        open(os.ttyname(terminal)).close()  # a session's first terminal is its own
        os.chdir(tmp_path)
        os.write(write, b"!")
        os.execvp("sleep", ["sleep", "60"])
    try:
        assert os.read(read, 1) == b"!"
        assert pids(tmp_path) == []
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
        for each in (controller, terminal, read, write):
            os.close(each)


def test_links_are_known_by_their_owner() -> None:
    mine, theirs = link_name("demo/node-1", "0123456789"), link_name("demo/node-2", "0123456789")
    names = {mine, theirs, "lo", "eth0"}
    assert links_of(["demo/node-1"], names) == [mine]
    assert links_of(["demo/node-1", "demo/node-2"], names) == sorted([mine, theirs])


def test_a_switch_whose_database_is_gone_should_be_gone(tmp_path: Path) -> None:
    assert idle_switch(tmp_path) == []
    with program(f"--pidfile={tmp_path}/ovs-vswitchd.pid") as switch:
        assert [each.split()[0] for each in idle_switch(tmp_path)] == [str(switch)]


async def test_trouble_of_any_kind_ends_the_demo_with_its_reason() -> None:
    async def away() -> None:
        raise Unavailable("gateway can't be reached")

    async def both() -> None:
        async with TaskGroup() as group:
            group.create_task(away())

    async def failed() -> None:
        raise DemoFailed("three are left")

    async def well() -> None:
        return

    assert await why_not(away()) == await why_not(both()) == "gateway can't be reached"
    assert await why_not(failed()) == "three are left"
    assert await why_not(well()) == ""


def test_what_goes_by_itself_is_waited_for(tmp_path: Path) -> None:
    """As a container's link does, which the kernel takes away some time after its namespace."""
    layout = Layout("gone", tmp_path / "gd-1", ovs_dir=tmp_path / "ovs")
    lingers = tmp_path / "run"
    lingers.mkdir()
    going = threading.Timer(0.5, lingers.rmdir)
    going.start()
    assert of(layout, (lingers,), (), ()) == []
    going.join()
