"""The shim by itself: what it sends and imports, and what it says and does when hostd does not answer."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from services.hostd.cni.model import VERSIONS
from services.hostd.cni.ports import entry_of
from services.hostd.cni.request import unframe
from tests.unit.infra.compose import REPOSITORY

SHIM = REPOSITORY / "services/hostd/shim"
SYSTEM_PYTHON = "/usr/bin/python3"
BUILT_IN = {"builtins", "encodings", "encodings.aliases", "encodings.utf_8", "encodings.ascii",
            "encodings.latin_1", "codecs", "abc", "io", "zipimport", "site", "__main__"}  # fmt: skip


class Hostd:
    """A server on hostd's socket that gives one answer and remembers what it was asked."""

    def __init__(self, path: Path, exit_code: str = "0", body: bytes = b"{}") -> None:
        self.says(exit_code, body)
        self.bodies: list[bytes] = []
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def says(self, exit_code: str, body: bytes, length: int | None = None) -> None:
        head = f"HTTP/1.0 200 OK\r\nX-Cni-Exit: {exit_code}\r\nContent-Length: "
        size = len(body) if length is None else length
        self.answer = head.encode() + f"{size}\r\n\r\n".encode() + body

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                data = b""
                while b"\r\n\r\n" not in data:
                    data += connection.recv(65536)
                head, _, body = data.partition(b"\r\n\r\n")
                size = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
                while len(body) < size:
                    body += connection.recv(65536)
                self.bodies.append(body)
                connection.sendall(self.answer)

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(5)


class Plugins:
    """The installed plugins of one host."""

    def __init__(self, home: Path) -> None:
        self.bin, self.queue, self.socket = home / "bin", home / "queue", home / "s"
        command = [str(SHIM / "install.sh"), str(self.bin), str(self.socket), str(self.queue)]
        subprocess.run(command, check=True, timeout=20)

    def run(
        self, command: str, stdin: bytes = b"{}", name: str = "gantry", **env: str
    ) -> subprocess.CompletedProcess[bytes]:
        said = {"CNI_CONTAINERID": "c1", "CNI_IFNAME": "eth0", **env, "CNI_COMMAND": command}
        run = [str(self.bin / name)]
        return subprocess.run(
            run, env=said, input=stdin, capture_output=True, timeout=20, check=False
        )

    def error(self, command: str, **env: str) -> int:
        done = self.run(command, b"{}", "gantry", **env)
        content = json.loads(done.stdout)
        assert done.returncode == 1 and set(content) == {"cniVersion", "code", "msg", "details"}
        return int(content["code"])

    @property
    def kept(self) -> list[str]:
        return sorted(each.name for each in self.queue.iterdir()) if self.queue.exists() else []


@pytest.fixture
def plugins(tmp_path: Path) -> Plugins:
    """Plugins of a host where nobody listens."""
    return Plugins(tmp_path)


@pytest.fixture
def hostd(plugins: Plugins) -> Iterator[Hostd]:
    """Somebody who listens."""
    server = Hostd(plugins.socket)
    yield server
    server.close()


def test_it_forwards_bytes_and_prints_bytes(plugins: Plugins, hostd: Hostd) -> None:
    said = b'{"x": "\xc3\xa9\\u0000"}' + b" " * 200_000
    for exit_code in ("0", "1"):
        hostd.says(exit_code, b'{"anything":\n1}')
        done = plugins.run("ADD", said, "gantry-ipam", CNI_ARGS="A=\u00e9", OTHER="no")
        assert (done.returncode, done.stdout, done.stderr) == (
            int(exit_code),
            b'{"anything":\n1}',
            b"",
        )
    call = unframe(hostd.bodies[0])
    assert (call.plugin, call.stdin, call.is_ipam) == ("gantry-ipam", said, True)
    assert call.env == {
        "CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c1", "CNI_IFNAME": "eth0", "CNI_ARGS": "A=\u00e9",
    }  # fmt: skip


def test_it_imports_nothing_else_and_needs_no_environment(plugins: Plugins) -> None:
    text = (plugins.bin / "gantry").read_text()
    assert text.startswith(f"#!{SYSTEM_PYTHON} -IS\n")
    command = [SYSTEM_PYTHON, "-IS", "-X", "importtime", str(plugins.bin / "gantry")]
    env = {"CNI_COMMAND": "STATUS"}
    done = subprocess.run(command, env=env, input=b"", capture_output=True, timeout=20, check=False)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.decode().splitlines()[1:]}
    python = {each for each in imported if not each.startswith("_")} - BUILT_IN
    assert python <= {"posix", "time", "marshal"} and "_socket" in imported
    assert json.loads(done.stdout)["code"] == 50


def test_everything_but_a_del_fails_without_hostd(plugins: Plugins) -> None:
    with ThreadPoolExecutor() as pool:  # these wait a little for hostd
        assert list(pool.map(plugins.error, ("ADD", "CHECK", "GC"))) == [11, 11, 11]
    assert plugins.error("STATUS") == 50
    assert plugins.error("") == 11
    version = plugins.run("VERSION")
    assert version.returncode == 0
    assert tuple(json.loads(version.stdout)["supportedVersions"]) == VERSIONS
    assert plugins.kept == []


def test_a_del_is_kept_once(plugins: Plugins) -> None:
    for stdin, name in (
        (b'{"n":1}', "gantry"),
        (b'{"n":2}', "gantry"),
        (b'{"n":3}', "gantry-ipam"),
    ):
        done = plugins.run("DEL", stdin, name)
        assert (done.returncode, done.stdout) == (0, b"") and b"is kept" in done.stderr
    assert plugins.kept == [entry_of("gantry-ipam", "c1", "eth0"), entry_of("gantry", "c1", "eth0")]
    call = unframe((plugins.queue / entry_of("gantry", "c1", "eth0")).read_bytes())
    assert (call.plugin, call.env["CNI_COMMAND"], call.stdin) == ("gantry", "DEL", b'{"n":2}')
    assert plugins.queue.stat().st_mode & 0o777 == 0o700
    assert {each.stat().st_mode & 0o777 for each in plugins.queue.iterdir()} == {0o600}


def test_a_del_that_can_not_be_kept_has_failed(plugins: Plugins) -> None:
    assert plugins.error("DEL", CNI_CONTAINERID="../../etc/passwd") == 4
    assert plugins.error("DEL", CNI_IFNAME="") == 4
    plugins.queue.mkdir()
    plugins.queue.chmod(0o777)
    assert plugins.error("DEL") == 11 and plugins.kept == []
    plugins.queue.rmdir()
    plugins.queue.write_text("")
    assert plugins.error("DEL") == 11
    plugins.queue.unlink()
    plugins.queue.symlink_to("/proc/self/nowhere")
    assert plugins.error("DEL") == 11


@pytest.mark.parametrize(
    "answer",
    [
        b"", b"HTTP/1.0 500 Oh\r\nContent-Length: 2\r\n\r\n{}", b"HTTP/1.0 200 OK\r\nX-Cni-Exit: 0\r\n",
        b"HTTP/1.0 200 OK\r\nX-Cni-Exit: 0\r\nContent-Length: 5\r\n\r\n{",
        b"HTTP/1.0 200 OK\r\nX-Cni-Exit: 7\r\nContent-Length: 2\r\n\r\n{}",
    ],
)  # fmt: skip
def test_half_an_answer_is_none(plugins: Plugins, hostd: Hostd, answer: bytes) -> None:
    hostd.answer = answer
    assert plugins.error("ADD") == 11
    assert plugins.run("DEL").returncode == 0 and len(plugins.kept) == 1


def test_a_failed_del_says_so_and_is_not_kept(plugins: Plugins, hostd: Hostd) -> None:
    hostd.says("1", b'{"code":11,"msg":"not now"}')
    done = plugins.run("DEL")
    assert (done.returncode, json.loads(done.stdout)["code"], plugins.kept) == (1, 11, [])


def test_an_add_waits_for_a_hostd_that_is_being_replaced(plugins: Plugins) -> None:
    servers: list[Hostd] = []

    timer = threading.Timer(0.5, lambda: servers.append(Hostd(plugins.socket)))
    timer.start()
    assert plugins.run("ADD").returncode == 0
    servers[0].close()


def test_the_installer_takes_plain_paths_only(tmp_path: Path) -> None:
    for path in ("relative/s", '/a"b', "/a|b", "/a b"):
        command = [str(SHIM / "install.sh"), str(tmp_path / "bin"), path, "/q"]
        done = subprocess.run(command, capture_output=True, timeout=20, check=False)
        assert done.returncode == 2 and not (tmp_path / "bin").exists()
