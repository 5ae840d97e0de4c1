"""HTTP as Mesos answers it: negotiation, error texts, JSON bodies, basic authentication."""

from __future__ import annotations

import base64
import binascii
import gzip
import json
from collections.abc import Mapping
from typing import Any

import orjson

from libs.minimesos.effects import HttpRequest, Respond
from libs.minimesos.errors import CallError
from libs.minimesos.schema import Json, MessageType, ProtoError

JSON_TYPE = "application/json"
TEXT_TYPE = "text/plain; charset=utf-8"
STREAM_ID = "mesos-stream-id"
GZIP_MIN_BYTES = 1024
NOT_FOUND = CallError(404, "404 Not Found.")
_BAD_CONTENT_TYPE = "Expecting 'Content-Type' of application/json or application/x-protobuf"
_BAD_ACCEPT = "Expecting 'Accept' to allow 'application/x-protobuf' or 'application/json'"


def parse_call(request: HttpRequest, kind: MessageType, recordio: bool = False) -> Json:
    """The call in the body of a v1 API request, still unvalidated.

    `recordio`: the agent's operator API also names application/recordio in its 415.
    Raises CallError 405, 400 or 415.
    """
    if request.method != "POST":
        raise method_not_allowed(request.method)
    content_type = request.headers.get("content-type")
    if content_type is None:
        raise CallError(400, "Expecting 'Content-Type' to be present")
    if content_type != JSON_TYPE:
        raise CallError(415, _BAD_CONTENT_TYPE + (" or application/recordio" if recordio else ""))
    try:
        value = orjson.loads(request.body)
    except orjson.JSONDecodeError:
        raise CallError(400, _syntax_error(request.body)) from None
    try:
        return kind.parse(value)
    except ProtoError as error:
        raise CallError(400, f"Failed to convert JSON into Call protobuf: {error}") from None


def _syntax_error(body: bytes) -> str:
    text = body.decode("utf-8", "replace")
    line, near = 1, ""
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        line = error.lineno
        # A truncated document is reported at its end, not where the open value began.
        if not error.msg.startswith("Unterminated"):
            near = text[error.pos :].split("\n", 1)[0]
    return f"Failed to parse body into JSON: syntax error at line {line} near: {near}"


def method_not_allowed(method: str) -> CallError:
    """405 for an endpoint that takes POST only."""
    text = f"405 Method Not Allowed. Expecting one of {{ 'POST' }}, but received '{method}'."
    return CallError(405, text, {"Allow": "POST"})


def require_json_accept(request: HttpRequest, agent: bool = False) -> None:
    """Raise CallError 406 unless the client takes JSON."""
    if accepts(request.headers, JSON_TYPE):
        return
    if agent:
        names = "application/json or application/x-protobuf or application/recordio"
        raise CallError(406, f"Expecting 'Accept' to allow {names}")
    raise CallError(406, _BAD_ACCEPT)


def accepts(headers: Mapping[str, str], media_type: str) -> bool:
    """Whether the Accept header (absent: anything) allows `media_type`."""
    accept = headers.get("accept")
    if accept is None:
        return True
    wanted = {media_type, media_type.split("/")[0] + "/*", "*/*"}
    return any(part.split(";")[0].strip() in wanted for part in accept.split(","))


def invalid_call(api: str, text: str) -> CallError:
    """400 of Mesos' call validation; `api` is scheduler, Executor, master or agent."""
    return CallError(400, f"Failed to validate {api}::Call: {text}")


def require(call: Json, api: str, *names: str) -> None:
    """Raise CallError unless each submessage of `names` is there."""
    for name in names:
        if name not in call:
            raise invalid_call(api, f"Expecting '{name}' to be present")


# ---- answers ------------------------------------------------------------------------------------
def error_response(conn: str, error: CallError) -> Respond:
    """The answer for `error`; an empty text keeps the content type, as Mesos does."""
    headers = {**error.headers, "Content-Type": TEXT_TYPE}
    return Respond(conn, error.status, headers, error.text.encode())


def accepted(conn: str, status: int = 202) -> Respond:
    """An empty success."""
    return Respond(conn, status, {}, b"")


def json_response(request: HttpRequest, value: Any) -> Respond:
    """200 with compact JSON; honours `?jsonp=` and gzip for bigger bodies."""
    body = orjson.dumps(value)
    content_type = JSON_TYPE
    jsonp = request.query.get("jsonp")
    if jsonp:
        body = jsonp.encode() + b"(" + body + b")"
        content_type = "text/javascript"
    headers = {"Content-Type": content_type}
    encodings = request.headers.get("accept-encoding", "")
    if "gzip" in encodings and len(body) >= GZIP_MIN_BYTES:
        body = gzip.compress(body, 6, mtime=0)
        headers["Content-Encoding"] = "gzip"
    return Respond(request.conn, 200, headers, body)


# ---- authentication -----------------------------------------------------------------------------
def authenticate(
    request: HttpRequest, credentials: Mapping[str, str] | None, realm: str
) -> str | None:
    """The principal of a request; None when the realm takes anybody (`credentials` is None).

    Raises CallError 401 with the realm's challenge.
    """
    if credentials is None:
        return None
    principal, secret = _basic(request.headers.get("authorization", ""))
    if principal is not None and credentials.get(principal) == secret:
        return principal
    challenge = {"WWW-Authenticate": f'Basic realm="{realm}"'}
    raise CallError(401, "401 Unauthorized.", challenge)


def _basic(header: str) -> tuple[str | None, str]:
    if not header.startswith("Basic "):
        return None, ""
    try:
        text = base64.b64decode(header[6:], validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None, ""
    principal, separator, secret = text.partition(":")
    return (principal, secret) if separator else (None, "")
