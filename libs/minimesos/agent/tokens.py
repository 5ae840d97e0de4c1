"""Executors' tokens: JWTs by HMAC-SHA256, as `--jwt_secret_key` has Mesos make and check them.

An executor gets its own as MESOS_EXECUTOR_AUTHENTICATION_TOKEN and shows it with each call. It names framework,
executor and container ("fid", "eid", "cid"), and lasts as long as the key: an agent that recovers takes it as before.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Mapping

import orjson

from libs.minimesos.agent.model import Executor
from libs.minimesos.errors import CallError

_REALM = 'Bearer realm="mesos-agent-executor"'
_HEADER = {"alg": "HS256", "typ": "JWT"}


def claims_of(executor: Executor) -> dict[str, str]:
    """What its token says of an executor."""
    return {
        "cid": executor.container_id,
        "eid": executor.executor_id,
        "fid": executor.framework_id,
    }


def token(key: bytes, claims: Mapping[str, str]) -> str:
    """A signed token."""
    text = f"{_encode(orjson.dumps(_HEADER))}.{_encode(orjson.dumps(claims))}"
    return f"{text}.{_encode(_sign(key, text))}"


def claims(key: bytes, header: str | None) -> dict[str, object]:
    """What the token in an Authorization header says. Raises CallError 401 unless it was signed with this key."""
    if header is None:
        raise _refused("")
    scheme, separator, given = header.partition(" ")
    if not separator or " " in given:
        raise _refused("Malformed 'Authorization' header")
    if scheme != "Bearer":
        raise _refused(f"Scheme '{scheme}' unsupported")
    text, _, signature = given.rpartition(".")
    try:
        parts = [orjson.loads(_decode(part)) for part in text.split(".")]
        signed = hmac.compare_digest(_decode(signature), _sign(key, text))
    except (ValueError, binascii.Error):
        raise _refused("Invalid JWT: malformed") from None
    if len(parts) != 2 or parts[0] != _HEADER or not signed:
        raise _refused("Invalid JWT: Token signature does not match")
    if not isinstance(parts[1], dict) or not parts[1]:
        raise _refused("JWT claims missing")
    return parts[1]


def _refused(why: str) -> CallError:
    error = f', error="invalid_token", error_description="{why}"' if why else ""
    return CallError(401, "", {"WWW-Authenticate": _REALM + error})


def _sign(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
