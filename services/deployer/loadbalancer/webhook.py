"""Any load balancer behind a small HTTP API of its owner's.

    POST   {url}        {"id", "kind": "add"|"remove", "app", "instance", "backend", "address", "port", "drain_until"}
    GET    {url}/{id}   how the change stands; 404 when it is not known
    DELETE {url}/{id}   give it up

Answers are {"state": "waiting"|"success"|"failed"|"cancelled", "message"}. The id is ours: a repeated POST is
the same change. Requests carry `Authorization: Bearer <token>` and, with a signing key, `X-Gantry-Signature:
sha256=<hex HMAC of the body>`.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import aiohttp
import orjson

from libs.common.bounded import read_to_end
from libs.common.errors import TimedOut, Unavailable
from services.deployer.loadbalancer.base import Answer, AnswerState, Change

MAX_ANSWER_BYTES = 65_536
CALL_S = 5.0


@dataclass(frozen=True)
class WebhookConfig:
    """Where the hook is, and the secrets it knows us by (the content of files, never of settings)."""

    url: str
    token: str = field(default="", repr=False)
    signing_key: bytes = field(default=b"", repr=False)


class WebhookDriver:
    """A `LoadBalancerDriver` that asks an HTTP API."""

    def __init__(self, config: WebhookConfig) -> None:
        self._config = config
        self._session: aiohttp.ClientSession | None = None

    async def submit(self, change: Change) -> Answer:
        """POST the change."""
        content = {
            "id": change.id,
            "kind": change.kind.value,
            "app": change.app,
            "instance": change.instance,
            "backend": change.endpoint.backend,
            "address": change.endpoint.address,
            "port": change.endpoint.port,
            "drain_until": change.drain_until,
        }
        return await self._call("POST", "", orjson.dumps(content))

    async def poll(self, change: Change) -> Answer:
        """GET how it stands."""
        return await self._call("GET", f"/{quote(change.id, safe='')}")

    async def cancel(self, change: Change) -> Answer:
        """DELETE it; one that isn't known is as good as cancelled."""
        answer = await self._call("DELETE", f"/{quote(change.id, safe='')}")
        if answer.state is AnswerState.UNKNOWN:
            return Answer(AnswerState.CANCELLED)
        return answer

    async def present(self, backend: str) -> frozenset[tuple[str, int]] | None:
        """The API has no listing: whoever answers it must not forget."""
        return None

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _call(self, method: str, path: str, body: bytes = b"") -> Answer:
        url = self._config.url.rstrip("/") + path
        try:
            async with self._open().request(
                method, url, data=body or None, headers=self._headers(body), allow_redirects=False
            ) as answer:
                if answer.status == 404 and method != "POST":
                    return Answer(AnswerState.UNKNOWN)
                chunks = answer.content.iter_any()
                content = await read_to_end(chunks, MAX_ANSWER_BYTES, "the webhook answers")
                return _answer(answer.status, content)
        except TimeoutError:
            raise TimedOut(f"the webhook did not answer {method} in {CALL_S:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            text = f"the webhook can't be reached: {type(error).__name__}"
            raise Unavailable(text) from None

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None or self._session.closed:
            timeout = aiohttp.ClientTimeout(total=CALL_S)
            connector = aiohttp.TCPConnector(limit=16)
            self._session = aiohttp.ClientSession(timeout=timeout, connector=connector)
        return self._session

    def _headers(self, body: bytes) -> dict[str, str]:
        headers = {"Content-Type": "application/json"}
        if self._config.token:
            headers["Authorization"] = f"Bearer {self._config.token}"
        if self._config.signing_key:
            digest = hmac.new(self._config.signing_key, body, hashlib.sha256).hexdigest()
            headers["X-Gantry-Signature"] = f"sha256={digest}"
        return headers


def _answer(status: int, body: bytes) -> Answer:
    if status >= 500 or status == 429:
        raise Unavailable(f"the webhook answered {status}")
    if status >= 300:
        return Answer(AnswerState.FAILED, f"the webhook refused: {status}")
    try:
        content: Any = orjson.loads(body)
        state = AnswerState(content["state"])
        return Answer(state, str(content.get("message", ""))[:500])
    except (ValueError, KeyError, TypeError):
        raise Unavailable("the webhook's answer is not what it should be") from None
