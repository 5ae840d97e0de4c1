"""`gantry up` and `gantry down` as a person runs them, on a machine of their own made of namespaces."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(600)

ROOT = Path(__file__).parents[2]
GANTRY = str(Path(sys.executable).with_name("gantry"))
# Interfaces, processes and /run of its own: a second Open vSwitch can't share a network namespace, and what is
# left is seen. The file system of control groups is bound in again, as a fresh /sys has none.
MACHINE = """
set -euo pipefail
mount --make-rprivate /
mkdir "$1/cgroup"
mount --rbind /sys/fs/cgroup "$1/cgroup"
mount -t sysfs sysfs /sys
mount --rbind "$1/cgroup" /sys/fs/cgroup
mount -t tmpfs tmpfs /run
mount --make-shared /run
mkdir -p /run/lock
ip link set lo up
home=$1 gantry=$2
shift 2
"$gantry" up --root "$home/gantry" --no-samples "$@"
echo "-- it runs"
curl -fsS "$(sed -n 's/.*GANTRY_URL=\\([^ ]*\\).*/\\1/p' "$home/told")/readyz"
echo
"$gantry" down --root "$home/gantry" "${@:1:1}"
echo "-- it is gone"
find /run/gantry "$home/gantry" -mindepth 1 2>/dev/null || true
ip -br link
for _ in $(seq 200); do
  set -- /proc/[0-9]*
  [ $# -le 1 ] && break
  sleep 0.1
done
exec ps -eo pid=,args=
"""


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory with a short name: sockets lie below it."""
    path = Path(tempfile.mkdtemp(prefix="gu-", dir="/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.mark.parametrize("form", [(), ("--distributed",)], ids=("one", "many"))
def test_up_says_where_and_down_leaves_nothing(home: Path, form: tuple[str, ...]) -> None:
    told = home / "told"
    world = ("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
    with told.open("w") as out:
        done = subprocess.run(
            [*world, "bash", "-c", MACHINE, "bash", str(home), GANTRY, *form],
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, "COLUMNS": "200", "PYTHONPATH": str(ROOT)},
            timeout=400,
        )
    text = told.read_text()
    assert done.returncode == 0, text
    up, _, rest = text.partition("-- it runs\n")
    down, _, left = rest.partition("-- it is gone\n")
    assert re.search(r"Console and API: http://127\.0\.0\.1:\d+/", up), text
    assert re.search(r"Admin key: gk_\w+", up), text
    assert '"status":"ready"' in down and "Gantry is gone." in down, text
    links = [line for line in left.splitlines() if re.match(r"\S+ +(UP|DOWN|UNKNOWN) ", line)]
    processes = [line for line in left.splitlines() if re.match(r" *\d+ ", line)]
    assert [line.split()[0] for line in links] == ["lo"], text
    assert [line.split()[1] for line in processes] == ["ps"], text
    assert len(left.splitlines()) == len(links) + len(processes), text
