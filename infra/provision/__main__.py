"""`python -m infra.provision start|stop|status KIND --dir D`: a server by hand; prints JSON.

`reap --root R` ends and removes every server under R/<kind> and R/<kind>-…: what is left of a run that died.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
from pathlib import Path

from infra.provision.errors import ProvisionError
from infra.provision.server import Server
from infra.provision.sources import KINDS

EXIT_NOT_RUNNING = 3


def _show(server: Server) -> None:
    shown = {"kind": server.name, "url": server.url, "pids": list(server.control.pids())}
    print(json.dumps(shown | {"data_dir": str(server.data_dir)}))


async def _act(verb: str, kind: str, directory: Path, purge: bool) -> int:
    server = await KINDS[kind](directory)
    if verb == "start":
        await server.start()
        _show(server)
    elif verb == "stop":
        await (server.control.purge() if purge else server.stop())
    elif server.pid is None:
        return EXIT_NOT_RUNNING
    else:
        _show(server)
    return 0


def _directories(root: Path, kind: str) -> list[Path]:
    return [each for each in (root / kind, *sorted(root.glob(f"{kind}-*"))) if each.is_dir()]


async def reap(root: Path) -> None:
    """Purges each server under the root, whatever happens to the others, and the root itself."""
    for kind, make in KINDS.items():
        for directory in await asyncio.to_thread(_directories, root, kind):
            try:
                await (await make(directory)).control.purge()
            except ProvisionError as error:
                print(f"reap {directory}: {error}", file=sys.stderr)
    await asyncio.to_thread(shutil.rmtree, root, True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m infra.provision", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb in ("start", "stop", "status"):
        each = verbs.add_parser(verb)
        each.add_argument("kind", choices=list(KINDS))
        each.add_argument("--dir", type=Path, required=True)
        each.add_argument("--purge", action="store_true", help="stop: remove its data too")
    verbs.add_parser("reap").add_argument("--root", type=Path, required=True)
    args = parser.parse_args()
    try:
        if args.verb == "reap":
            asyncio.run(reap(args.root.resolve()))
            return 0
        return asyncio.run(_act(args.verb, args.kind, args.dir.resolve(), args.purge))
    except ProvisionError as error:
        print(f"{args.verb}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
