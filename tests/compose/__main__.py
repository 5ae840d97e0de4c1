"""`make compose`: docker-compose.yml and infra/compose/host.yml brought up as docs/operations.md says.

Builds all images, then goes into network, mount and process namespaces of its own, where a machine of its own seems to
be (`machine.sh`), and does there what `trial.py` says. Takes some minutes, as root; leaves nothing behind but the
images' cache. Exits 0 when everything held.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
from pathlib import Path

from infra.provision import process
from infra.provision.errors import CommandError, ProvisionError
from infra.provision.scripts import engine_server
from tests.compose.images import GANTRY, REPOSITORY, build_all

HERE = Path(__file__).parent
OWNER, MOST_MB = "10001:10001", 250
LOOK_S, SHOWN = 60.0, "{{.Size}} {{.Config.User}}"
NAMESPACES = ("--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")


async def prepare(root: Path) -> None:
    """All images, in the data directory of the engine that will run inside."""
    engine = engine_server(root / "engine")
    try:
        await engine.start()
        await build_all(engine.url)
        await check_image(engine.url)
    finally:
        await engine.stop()


async def check_image(engine_url: str) -> None:
    """Gantry's image is not root's, and adds little to its base, whichever that is here. Raises CommandError."""
    dockerfile = (REPOSITORY / "Dockerfile").read_text()
    base = next(line for line in dockerfile.splitlines() if line.startswith("ARG BASE="))[9:]
    look = ("docker", "-H", engine_url, "image", "inspect", "--format", SHOWN)
    below, ours = (await process.run((*look, base, GANTRY), timeout_s=LOOK_S)).splitlines()
    size, user = ours.split(" ")
    added_mb = (int(size) - int(below.split(" ")[0])) / 1e6
    print(f"the image is {user}'s and adds {added_mb:.0f} MB to its base", flush=True)
    if user != OWNER or added_mb > MOST_MB:
        raise CommandError(f"it must be {OWNER}'s and add at most {MOST_MB} MB")


def main() -> int:
    """Build, go inside, clean up."""
    root = Path(tempfile.mkdtemp(prefix="gc-", dir="/var/tmp"))
    try:
        print("building images", flush=True)
        asyncio.run(prepare(root))
        inside = (
            "bash",
            str(HERE / "machine.sh"),
            str(root),
            sys.executable,
            "-m",
            "tests.compose.trial",
        )
        return subprocess.run(
            ("unshare", *NAMESPACES, *inside), cwd=REPOSITORY, check=False
        ).returncode
    except ProvisionError as error:
        print(f"compose: {error}", file=sys.stderr)
        return 1
    finally:
        try:
            asyncio.run(engine_server(root / "engine").control.purge())
        except (
            ProvisionError
        ) as error:  # a busy disk takes its time with that much; what held has held
            print(f"compose: {error}", file=sys.stderr)
        subprocess.run(("rm", "-rf", "--one-file-system", str(root)), check=False)


if __name__ == "__main__":
    sys.exit(main())
