"""`make network`: the network's big tests, on hosts that are namespaces with their own Open vSwitch and hostd.

`python -m tests.network [matrix|churn]… [--seed N] [--steps N]`: everybody tries to connect to everybody, 150
containers of a real engine on one host and 90 on three; then 10,000 random steps, without an engine. Prints what it
found; figures are in build/network.json. Exit 1 when something did not hold. All of it happens in network, mount and
process namespaces of its own: however it ends, the kernel ends the processes and removes the interfaces.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from libs.common.clock import system_rng
from tests.figures import merge
from tests.network.churn import ChurnFailed, churn
from tests.network.engine import Engine, open_engine
from tests.network.plan import Size
from tests.network.site import NETWORKS, Site, open_site
from tests.network.stations import Matrix, full_matrix, stations

FILE = Path("build/network.json")
PARTS = ("matrix", "churn")
MATRICES = ((1, 150), (3, 90))  # hosts, containers
STEPS = 10_000
AT_ONCE = 32
INSIDE = "--inside"
# A /run of its own, where what one process mounts shows up for all.
_ENTER = """
mount --make-rprivate / && mount -t tmpfs tmpfs /run && mount --make-shared /run && mkdir -p /run/lock
ip link set lo up && exec "$@"
"""


async def matrix(site: Site, containers: int, engine: Engine | None) -> tuple[Matrix, float]:
    """So many containers on the site's hosts, in turns, in all networks; and how long it took to have them.

    Without an engine they are what hostd makes for one, with nothing in it.
    """
    limit = asyncio.Semaphore(AT_ONCE)

    async def one(n: int) -> tuple[str, dict[str, Any]]:
        host = site.hosts[n % len(site.hosts)]
        network = str(NETWORKS[n // len(site.hosts) % len(NETWORKS)]["name"])
        name = f"acme-web-{n}"
        async with limit:
            if engine is None:
                return host.name, await host.add(name, network)
            return host.name, await engine.run(host, name, network)

    began = time.monotonic()
    views = await asyncio.gather(*(one(n) for n in range(containers)))
    took_s = time.monotonic() - began
    with stations(views) as everybody:
        return await full_matrix(everybody), took_s


async def run(parts: list[str], seed: int, steps: int) -> int:
    """The chosen parts."""
    results: dict[str, Any] = {}
    failed = False
    if "matrix" in parts:
        for hosts, containers in MATRICES:
            async with (
                open_engine() as engine,
                open_site(hosts, hostd={"docker": str(engine.socket)}) as site,
            ):
                found, start_s = await matrix(site, containers, engine)
            failed |= bool(found.wrong)
            results[f"matrix_{containers}_on_{hosts}"] = {**asdict(found), "start_s": start_s}
            say(
                f"{containers} containers on {hosts} hosts, started in {start_s:.1f} s: {found.pairs} pairs in "
                f"{found.took_s:.1f} s, {found.can} can, {found.cannot} can't; wrong: {found.wrong or 'none'}"
            )
    if "churn" in parts:
        say(f"churn with seed {seed}")
        size = Size(steps)
        try:
            async with open_site(size.hosts) as site:
                outcome = await churn(site, seed, size, say=say)
            results["churn"] = asdict(outcome)
            say(f"held: {outcome}")
        except ChurnFailed as error:
            failed = True
            results["churn"] = {"failed": str(error)}
            say(f"did not hold: {error}")
    merge(FILE, results)
    return 1 if failed else 0


def say(text: str) -> None:
    """A line, at once."""
    print(text, flush=True)


def main() -> int:
    """Go into namespaces of our own, and do there what is asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.network", description=__doc__)
    parser.add_argument("parts", nargs="*", default=list(PARTS))
    parser.add_argument("--seed", type=int, default=system_rng().randrange(10**6))
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument(INSIDE, action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.inside:
        return asyncio.run(run(given.parts, given.seed, given.steps))
    namespaces = ("--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
    again = (sys.executable, "-m", "tests.network", INSIDE, f"--seed={given.seed}")
    command = (*again, f"--steps={given.steps}", *given.parts)
    return subprocess.run(
        ("unshare", *namespaces, "bash", "-ec", _ENTER, "enter", *command), check=False
    ).returncode


if __name__ == "__main__":
    sys.exit(main())
