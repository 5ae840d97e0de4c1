"""Errors of the Mesos client.

MesosError
 ├─ ProtocolError            the peer broke the protocol
 │   └─ RecordError          its RecordIO framing or JSON is broken
 ├─ TransportError           no answer: refused, reset, cut
 │   └─ CallTimeout          no answer in time; the call may have been carried out
 ├─ CallRefused              an answer other than success (status, text)
 │   ├─ BadCall              400, 405, 406, 415: our fault, repeating it is useless
 │   ├─ AccessDenied         401, 403: wrong or missing credentials or rights
 │   ├─ NotSubscribed        403/400: the framework or this stream is no longer subscribed
 │   ├─ NotLeader            307: `location` is the leader's base URL
 │   └─ Unavailable          404, 5xx: no leader, recovering; worth another try
 ├─ NotConnected             a call without a subscription: nothing was sent
 ├─ GaveUp                   no subscription within the time allowed (an executor's recovery)
 └─ EnvironmentInvalid       a MESOS_* variable is missing or malformed
"""

from __future__ import annotations


class MesosError(Exception):
    """Root of everything this package raises on purpose."""


class ProtocolError(MesosError):
    """The peer sent something the protocol does not allow."""


class RecordError(ProtocolError):
    """A RecordIO frame or the JSON in it is broken."""


class TransportError(MesosError):
    """The peer could not be reached or the connection broke."""


class CallTimeout(TransportError):
    """No answer in time. The peer may have carried the call out nevertheless."""


class CallRefused(MesosError):
    """The peer answered with `status` and `text` instead of accepting the call."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status}: {text}")
        self.status = status
        self.text = text


class BadCall(CallRefused):
    """The call is malformed or invalid: repeating it is useless."""


class AccessDenied(CallRefused):
    """Credentials or rights are missing."""


class NotSubscribed(CallRefused):
    """The framework, or this very stream, is not subscribed any more."""


class NotLeader(CallRefused):
    """The peer is not the leading master; `location` is the leader's base URL."""

    def __init__(self, status: int, text: str, location: str) -> None:
        super().__init__(status, text or f"not the leader, which is {location}")
        self.location = location


class Unavailable(CallRefused):
    """The peer cannot serve now (no leader, recovery, internal error)."""


class NotConnected(MesosError):
    """There is no subscription to make the call on; nothing was sent."""


class GaveUp(MesosError):
    """No subscription was possible within the time allowed."""


class EnvironmentInvalid(MesosError):
    """A MESOS_* variable is missing or malformed; the message names it."""


_NOT_SUBSCRIBED = ("Framework is not subscribed", "Executor is not subscribed")
_STREAM_MISMATCH = "The stream ID"


def refusal(status: int, text: str, location: str | None = None) -> CallRefused:
    """The error for an answer that is not a success (status texts: Mesos 1.12)."""
    if status in (301, 302, 307, 308) and location:
        return NotLeader(status, text, location)
    if text in _NOT_SUBSCRIBED or (status == 400 and text.startswith(_STREAM_MISMATCH)):
        return NotSubscribed(status, text)
    if status in (401, 403):
        return AccessDenied(status, text)
    # 404: a master answers so until its routes are installed after a start.
    if status == 404 or status >= 500:
        return Unavailable(status, text)
    if 400 <= status < 500:
        return BadCall(status, text)
    return CallRefused(status, text)
