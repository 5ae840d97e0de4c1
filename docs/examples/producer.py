"""Ask Gantry for a deployment by event, signed: plain aiokafka and joserfc, nothing of Gantry's own.

    openssl genpkey -algorithm ed25519 -out ci.key && openssl pkey -in ci.key -pubout -out ci.pub
    gantry producer add ci ci.pub --bu acme          # prints the kid
    python producer.py --kafka kafka:9092 --key ci.key --kid pk-… release acme/web --id build-42 --image …

Several requests with one id are one: send it again when in doubt. docs/producers.md says what every field means.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaProducer
from joserfc import jws
from joserfc.jwk import OKPKey

TOPIC = "deploy.requested"


def sign(headers: dict[str, str], value: bytes, key: OKPKey, kid: str) -> str:
    """The value of `gantry-signature`: a compact JWS over the record's value and the headers that name it."""
    named = ("ce_id", "ce_type", "ce_subject", "ce_source", "ce_time")
    claims = {name: headers[name] for name in named}
    claims["sha256"] = hashlib.sha256(value).hexdigest()
    protected = {"alg": "Ed25519", "kid": kid}
    return jws.serialize_compact(protected, json.dumps(claims), key, algorithms=["Ed25519"])


def request(
    key: OKPKey, kid: str, app: str, action: str, request_id: str, **wanted: Any
) -> tuple[bytes, bytes, list[tuple[str, bytes]]]:
    """The record: key, value, headers. `wanted`: image (release), instances (scale), release (rollback), force."""
    bu = app.partition("/")[0]
    content = {
        "deployment": f"{bu}.{request_id}",  # yours to choose, behind the name of your business unit
        "app": app,
        "action": action,
        "actor": "",  # Gantry says whose key it was
        **wanted,
    }
    value = json.dumps(content).encode()
    now = datetime.now(UTC)  # noqa: TID251 - no Clock here: this runs at your place
    headers = {
        "ce_specversion": "1.0",
        "ce_id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{app} {request_id}")),
        "ce_source": f"/{bu}/producers",
        "ce_type": f"gantry.{TOPIC}.v1",
        "ce_subject": app,
        "ce_time": now.isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "ce_partitionkey": app,
        "ce_sequence": str(int(now.timestamp() * 1_000_000)),
        "content-type": "application/json",
    }
    headers["gantry-signature"] = sign(headers, value, key, kid)
    return app.encode(), value, [(name, text.encode()) for name, text in headers.items()]


async def main() -> None:
    """Send one request."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("action", choices=["release", "scale", "rollback", "restart", "stop"])
    parser.add_argument("app", help="bu/app")
    parser.add_argument("--kafka", required=True, help="host:port of a broker")
    parser.add_argument("--key", required=True, type=Path, help="private Ed25519 key, PEM")
    parser.add_argument("--kid", required=True, help="what `gantry producer add` printed")
    parser.add_argument("--id", required=True, help="the same for the same request, e.g. build-42")
    parser.add_argument("--image")
    parser.add_argument("--instances", type=int)
    parser.add_argument("--release", type=int)
    given = parser.parse_args()
    wanted = {"image": given.image, "instances": given.instances, "release": given.release}
    key = OKPKey.import_key(given.key.read_text())
    record_key, value, headers = request(
        key,
        given.kid,
        given.app,
        given.action,
        given.id,
        **{name: each for name, each in wanted.items() if each is not None},
    )
    # A broker with doors also wants security_protocol="SASL_SSL", ssl_context, sasl_mechanism, sasl_plain_*.
    producer = AIOKafkaProducer(bootstrap_servers=given.kafka, enable_idempotence=True)
    await producer.start()
    try:
        await producer.send_and_wait(TOPIC, value, key=record_key, headers=headers)
    finally:
        await producer.stop()
    print(f"{given.app.partition('/')[0]}.{given.id}")


if __name__ == "__main__":
    asyncio.run(main())
