"""CNI as runtimes use it: namespaces of a test's own, configurations, cnitool, and the plugins themselves."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.integration.hostd_host import ROOT, Host, run

EXAMPLES = ROOT / "infra/cni"
DEBIANS = Path("/usr/lib/cni")


@dataclass(frozen=True)
class Done:
    """How a plugin or cnitool ended, and what it said."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)

    def ok(self) -> Done:
        assert self.code == 0, (self.stdout, self.stderr)
        return self


@dataclass
class Cni:
    """One host's plugins, installed, and the configurations that a test wrote."""

    host: Host
    tool: Path
    home: Path
    netns: dict[str, str] = field(default_factory=dict)  # short name -> path

    @property
    def queue(self) -> Path:
        return self.host.home / "data/hostd/cni"

    @property
    def path(self) -> str:
        return f"{self.home}/bin:{DEBIANS}"

    def install(self) -> None:
        script = ROOT / "services/hostd/shim/install.sh"
        socket = self.host.run_dir / "hostd.sock"
        run(str(script), f"{self.home}/bin", str(socket), str(self.queue))
        (self.home / "net.d").mkdir(exist_ok=True)

    def namespace(self, short: str) -> str:
        """A new network namespace, as a runtime makes one."""
        name = f"{self.host.cluster}-{short}"
        run("ip", "netns", "add", name)
        self.netns[short] = f"/var/run/netns/{name}"
        return self.netns[short]

    def drop(self, short: str) -> None:
        run("ip", "netns", "del", Path(self.netns.pop(short)).name)

    def drop_all(self) -> None:
        for short in list(self.netns):
            self.drop(short)

    def example(self, file: str, version: str, **changes: Any) -> str:
        """An example of infra/cni as it would be used here; its name."""
        content = json.loads((EXAMPLES / file).read_text())
        content["cniVersion"] = version
        content.get("plugins", [content])[0].update(changes)
        return self.conf(content)

    def conf(self, content: Mapping[str, Any]) -> str:
        suffix = "conflist" if "plugins" in content else "conf"
        name: str = content["name"]
        (self.home / f"net.d/{name}.{suffix}").write_text(json.dumps(content))
        return name

    def cnitool(self, verb: str, network: str, short: str, **env: str) -> Done:
        """Run cnitool on one of the namespaces."""
        said = {"CNI_PATH": self.path, "NETCONFPATH": f"{self.home}/net.d", **env}
        return _run([str(self.tool), verb, network, self.netns[short]], said)

    def plugin(self, name: str, command: str, conf: Mapping[str, Any], **env: str) -> Done:
        """Run a plugin as a runtime does: nothing in its environment but this."""
        said = {"CNI_COMMAND": command, "CNI_PATH": self.path, **env}
        return _run([f"{self.home}/bin/{name}"], said, json.dumps(conf))

    def addresses(self, short: str, ifname: str = "eth0") -> list[str]:
        """IPv4 addresses of an interface in a namespace, [] when there is no such interface."""
        command = ("nsenter", f"--net={self.netns[short]}", "ip", "-j", "-4", "addr", "show")
        found = json.loads(run(*command) or "[]")
        return [
            f"{info['local']}/{info['prefixlen']}"
            for link in found
            if link.get("ifname") == ifname
            for info in link["addr_info"]
        ]

    def routes(self, short: str) -> set[tuple[str, str]]:
        command = ("nsenter", f"--net={self.netns[short]}", "ip", "-j", "route", "show")
        found = json.loads(run(*command) or "[]")
        return {(each["dst"], each.get("gateway", "")) for each in found}


def _run(command: list[str], env: Mapping[str, str], stdin: str = "") -> Done:
    path = {"PATH": os.environ["PATH"]}
    done = subprocess.run(
        command, env={**path, **env}, input=stdin, capture_output=True, text=True, timeout=90,
        check=False,
    )  # fmt: skip
    return Done(done.returncode, done.stdout, done.stderr)


@contextmanager
def open_cni(host: Host, tool: Path, home: Path) -> Iterator[Cni]:
    """The plugins of a host; namespaces that are left go at the end."""
    assert (DEBIANS / "bridge").exists(), f"{DEBIANS} is missing: run infra/host/setup.sh test"
    cni = Cni(host, tool, home)
    cni.install()
    try:
        yield cni
    finally:
        cni.drop_all()
