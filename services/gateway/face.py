"""Around the routes: a request id on every answer, and the headers that browsers need to be told."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import orjson

from libs.common.clock import Ids
from libs.common.http import Dispatcher, Response
from libs.common.problems import PROBLEM

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{8,64}")
SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    # Not `no-referrer`: with it, browsers send `Origin: null` with our own forms.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


@dataclass(frozen=True)
class PublicFace:
    """A `Dispatcher` around the gateway's."""

    inner: Dispatcher
    ids: Ids

    async def dispatch(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes = b""
    ) -> Response:
        """Answer one request; never raises (other than cancellation)."""
        sent = {name.lower(): value for name, value in headers.items()}
        given = sent.get("x-request-id", "")
        request_id = given if REQUEST_ID.fullmatch(given) else self.ids.uuid()
        sent["x-request-id"] = request_id
        response = await self.inner.dispatch(method, target, sent, body)
        return _marked(response, request_id)


def _marked(response: Response, request_id: str) -> Response:
    body = response.body
    if response.content_type == PROBLEM:
        body = orjson.dumps({**orjson.loads(body), "request_id": request_id})
    headers = {**SECURITY_HEADERS, **response.headers, "X-Request-Id": request_id}
    return replace(response, body=body, headers=headers)
