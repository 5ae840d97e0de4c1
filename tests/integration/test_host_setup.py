"""Setting up a host that already has a Docker: it is asked to keep containers, or made to where that hurts nobody."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
SETUP = ROOT / "infra/host/setup.sh"

# An engine of somebody else's in a world of its own: at the system's places, which are empty directories there.
ENGINE = """
set -euo pipefail
mount --make-rprivate /
mount -t tmpfs tmpfs /run && mkdir /run/lock
mount -t tmpfs tmpfs /etc/docker
[[ -z $GIVEN ]] || printf '%s' "$GIVEN" >/etc/docker/daemon.json
dockerd -H unix:///run/docker.sock --bridge none --iptables=false --ip6tables=false --ip-forward=false \
  --pidfile /run/docker.pid --data-root "$ROOT/data" --exec-root /run/exec >"$ROOT/log" 2>&1 &
for ((n = 0; n < 300; n++)); do
  ! docker -H unix:///run/docker.sock version >/dev/null 2>&1 || break
  sleep 0.1
done
"$SETUP" host
docker -H unix:///run/docker.sock info --format '{{.LiveRestoreEnabled}}'
cat /etc/docker/daemon.json
"""


def set_up(root: Path, given: str) -> tuple[str, str, str]:
    """What setup.sh says, whether the engine keeps containers then, and its configuration."""
    world = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c")
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    environ = {"GIVEN": given, "ROOT": str(root), "SETUP": str(SETUP), "PATH": path}
    done = subprocess.run([*world, ENGINE], env=environ, capture_output=True, text=True, timeout=90)
    log = root / "log"
    assert done.returncode == 0, done.stderr + (log.read_text()[-2000:] if log.exists() else "")
    live, _, config = done.stdout.partition("\n")
    return done.stderr, live, config


def test_an_engine_that_nobody_has_configured_keeps_containers_from_now_on(tmp_path: Path) -> None:
    said, live, config = set_up(tmp_path, "")
    assert (live, json.loads(config)) == ("true", {"live-restore": True})
    assert "live-restore is on now" in said and "WARNING" not in said


def test_an_engine_that_somebody_has_configured_is_left_to_them(tmp_path: Path) -> None:
    given = '{"debug": false}'
    said, live, config = set_up(tmp_path, given)
    assert (live, config) == ("false", given)
    assert "WARNING: the Docker engine here runs without live-restore" in said
    assert "/etc/docker/daemon.json" in said


def test_a_process_that_has_been_reaped_is_gone_and_ends_no_script() -> None:
    script = """
    set -euo pipefail
    source "$1/infra/host/lib.sh"
    sleep 60 & pid=$!
    ! gone $pid
    kill $pid; wait $pid || true
    gone $pid
    stop_pid $pid 1
    ! pid_of "$1/no/such/file" sleep
    echo all said
    """
    done = subprocess.run(
        ["bash", "-c", script, "bash", str(ROOT)], capture_output=True, text=True, timeout=20
    )
    assert done.stdout == "all said\n", done.stderr


def test_who_asks_for_help_gets_it_and_nothing_is_installed() -> None:
    done = subprocess.run([SETUP, "--help"], capture_output=True, text=True, timeout=10, check=True)
    assert "usage: setup.sh" in done.stdout and not done.stderr


def test_make_installs_by_the_script_that_fetches_an_index_first() -> None:
    recipes = (ROOT / "Makefile").read_text()
    assert "apt-get" not in recipes and "setup.sh python" in recipes
    done = subprocess.run([SETUP, "python"], capture_output=True, text=True, timeout=10, check=True)
    assert "everything is there" in done.stderr
