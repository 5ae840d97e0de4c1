"""Around all routes, for those of Chronos: HTTP Basic, which its clients know, and errors as it tells them."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus

import orjson

from libs.common.errors import FieldProblem, GantryError, InvalidInput
from libs.common.http import Dispatcher, Response, reply
from libs.common.problems import PROBLEM
from libs.common.wishes import NAME_PATTERN
from services.gateway.chronos.model import Version

BU = "x-gantry-bu"
PREFIX: Mapping[Version, str] = {Version.V2: "/scheduler", Version.V3: "/v1/scheduler"}
METRICS = "/metrics"
"""At this path itself is our own, for who scrapes it; who comes by HTTP Basic wants that below the prefix."""
CHALLENGES = 'Bearer realm="gantry", Basic realm="chronos"'
_TEXT = "text/plain; charset=utf-8"
# Not all below /v1/scheduler is Chronos': it is our own scheduler's place too.
_V3 = re.compile(r"/v1/scheduler/(jobs?|iso8601|dependency|task|graph|stats|leader|metrics)(/.*)?")
_BU = re.compile(NAME_PATTERN)


@dataclass(frozen=True)
class ChronosFace:
    """A `Dispatcher` around the gateway's. `versions` are those that are spoken."""

    inner: Dispatcher
    versions: frozenset[Version]

    async def dispatch(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes = b""
    ) -> Response:
        """Answer one request; never raises (other than cancellation)."""
        path, _, query = target.partition("?")
        sent = {name.lower(): value for name, value in headers.items()}
        basic = sent.get("authorization", "")[:6].lower() == "basic "
        if path == METRICS and basic and self.versions:
            path = f"{PREFIX[max(self.versions)]}{METRICS}"
        version = self._version(path)
        if method == "HEAD" and self.versions and (version is not None or path == "/ping"):
            # As each GET of a Java server is; load balancers look after /ping so.
            return replace(await self.dispatch("GET", target, headers), body=b"")
        if version is None:
            response = await self.inner.dispatch(method, target, headers, body)
            if path == METRICS and response.status == 401 and self.versions:
                challenged = {**response.headers, "WWW-Authenticate": CHALLENGES}
                response = replace(response, headers=challenged)
            return response
        if basic:
            sent = opened(sent)
        path = path.rstrip("/")
        asked = f"{path}?{query}" if query else path
        response = await self.inner.dispatch(method, asked, sent, body)
        return translated(response, version) if response.content_type == PROBLEM else response

    def _version(self, path: str) -> Version | None:
        """The version whose path it is, if it is spoken."""
        for version in sorted(self.versions):
            if version is Version.V2 and path.startswith("/scheduler/"):
                return version
            if version is Version.V3 and _V3.fullmatch(path):
                return version
        return max(self.versions, default=None) if path.rstrip("/") == "/leader" else None


def opened(headers: Mapping[str, str]) -> dict[str, str]:
    """Headers with HTTP Basic: the password is the API key, and the user the business unit, if it can be one.

    What can't be read stays as it is, and is refused as any other scheme would be.
    """
    kept = dict(headers)
    try:
        pair = base64.b64decode(headers["authorization"][6:].strip(), validate=True).decode()
    except (binascii.Error, ValueError):
        return kept
    user, found, password = pair.partition(":")
    if found:
        kept["authorization"] = f"Bearer {password}"
    if _BU.fullmatch(user):
        kept.setdefault(BU, user)
    return kept


def translated(response: Response, version: Version) -> Response:
    """A problem as Chronos tells it: its status, with 400 for what is wrong in a request."""
    content = orjson.loads(response.body)
    problems = [FieldProblem(**each) for each in content.get("errors", ())]
    status = 400 if response.status in (409, 412, 422) else response.status
    answer = refusal(version, status, worded(*problems) or content["detail"])
    headers = dict(response.headers)
    if status == 401:
        headers["WWW-Authenticate"] = 'Basic realm="chronos"'
    return replace(answer, headers=headers)


def refusal(version: Version, status: int, message: str) -> Response:
    """An error: 2.x says it in plain text, 3.x with the status as it is called."""
    if version is Version.V2:
        return Response(status, message.encode(), content_type=_TEXT)
    return reply({"status": HTTPStatus(status).phrase, "message": message}, status)


def reason(error: GantryError) -> str:
    """What an error says, with what would be right."""
    return worded(*error.problems) if isinstance(error, InvalidInput) else str(error)


def worded(*problems: FieldProblem) -> str:
    """Wrong fields in one line."""
    return "; ".join(
        f"{each.field}: {each.problem}" + (f" (expected: {each.expected})" if each.expected else "")
        for each in problems
    )
