"""Asks a service as an operator: sign a call with the cluster's secret, print the answer.

    docker-compose exec -T deployer-1 python - SERVICE METHOD PATH <infra/compose/ask.py

Runs in a container that has the secret. SERVICE is one of `common.peers`, or the base URL of one replica. It is for
what no API key opens: metrics, the scheduler's status and breaker. The call is signed as service `operator`.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping, Sequence

from libs.common import config
from libs.common.clock import SystemClock
from libs.common.http import Kind
from libs.common.keys import read_secrets
from libs.common.peers import PeerClient
from libs.common.runtime import CommonConfig
from libs.common.tokens import TokenSigner, derive_key

NAME = "operator"
WORDS = 3


async def ask(environ: Mapping[str, str], service: str, method: str, path: str) -> tuple[int, str]:
    """Status and body of the answer. Raises InvalidInput, Unavailable, TimedOut."""
    own = {name: value for name, value in environ.items() if name.startswith("GANTRY_COMMON__")}
    common = config.load({"common": CommonConfig}, environ=own)["common"]
    assert isinstance(common, CommonConfig)
    secret, *_ = read_secrets(common.secret_file or common.data_dir / "cluster.secret")
    signer = TokenSigner(Kind.SERVICE, NAME, derive_key(secret, Kind.SERVICE, NAME), SystemClock())
    client = PeerClient(signer, common.peers)
    try:
        answer = await client.call(service, method, path)
    finally:
        await client.close()
    return answer.status, answer.body.decode()


def main(arguments: Sequence[str]) -> None:
    """Exits 0 for an answer below 400."""
    if len(arguments) != WORDS:
        sys.exit("usage: ask.py SERVICE METHOD PATH")
    status, body = asyncio.run(ask(os.environ, *arguments))
    print(body)
    sys.exit(0 if status < 400 else f"{arguments[0]}: {status}")


if __name__ == "__main__":
    main(sys.argv[1:])
