"""Calls of the public API over aiohttp: errors as `libs/common/errors`, bounded retries of what may be repeated.

A GET may be repeated as it is, a POST or DELETE because each carries an Idempotency-Key of its own: the answer to one
that was done is told again. A PUT is not: its If-Match would refuse the repetition of one that was done.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import aiohttp
import orjson
from pydantic import BaseModel, ValidationError

from libs.common.backoff import Backoff
from libs.common.clock import Clock, Ids
from libs.common.errors import Conflict, GantryError, InvalidInput, TimedOut, TooMany, Unavailable
from libs.common.http import Response, raise_problem

ModelT = TypeVar("ModelT", bound=BaseModel)
REPEATABLE = frozenset({"GET", "DELETE", "POST"})
LONGEST_PAUSE_S = 10.0


@dataclass
class Transport:
    """One server and one key. `tries` bounds the attempts of a call, `timeout_s` each of them."""

    url: str
    key: str = field(repr=False)
    session: aiohttp.ClientSession
    clock: Clock
    rng: random.Random
    ids: Ids
    timeout_s: float = 30.0
    tries: int = 4
    backoff: Backoff = Backoff(0.2, 5.0)

    async def call(
        self,
        method: str,
        path: str,
        *,
        body: bytes = b"",
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """The answer to a call that went well.

        Raises what the answer's problem stands for, Unavailable or TimedOut when there is none; each with a note
        that tells the request id.
        """
        sent = {**self.headers(), **(headers or {})}
        if method in ("POST", "DELETE"):
            sent.setdefault("idempotency-key", self.ids.uuid())
        tries = self.tries if method in REPEATABLE else 1
        failures = 0
        while True:
            try:
                return await self._once(method, path, body, query, sent)
            except (Unavailable, TooMany) as error:
                failures += 1
                pause_s = self._pause_s(error, failures)
                if failures >= tries or pause_s > LONGEST_PAUSE_S:
                    raise
            except Conflict:
                # After an attempt without answer, that attempt itself may be what still runs.
                failures += 1
                pause_s = self._pause_s(None, failures)
                if failures in (1, tries) or failures > tries:
                    raise
            await self.clock.sleep(pause_s)

    def headers(self) -> dict[str, str]:
        """What each call carries."""
        sent = {"user-agent": "gantry"}
        if self.key:
            sent["authorization"] = f"Bearer {self.key}"
        return sent

    def _pause_s(self, error: GantryError | None, failures: int) -> float:
        if isinstance(error, TooMany) and error.retry_after_s is not None:
            return error.retry_after_s
        return self.backoff.delay_s(failures, self.rng)

    async def _once(
        self,
        method: str,
        path: str,
        body: bytes,
        query: Mapping[str, str] | None,
        headers: Mapping[str, str],
    ) -> Response:
        sent = {**headers, "content-type": "application/json"} if body else headers
        try:
            async with (
                asyncio.timeout(self.timeout_s),
                self.session.request(
                    method, self.url + path, data=body or None, params=query, headers=sent
                ) as answer,
            ):
                response = _response(answer, await answer.read())
        except TimeoutError:
            raise TimedOut(f"{self.url} did not answer within {self.timeout_s:g} s") from None
        except aiohttp.InvalidURL:
            raise InvalidInput.of(
                "url", f"{self.url!r} is not one", "http(s)://host:port"
            ) from None
        except (aiohttp.ClientError, OSError) as error:
            raise Unavailable(f"{self.url} can't be reached: {_say(error)}") from None
        check(response)
        return response

    async def lines(
        self, path: str, query: Mapping[str, str]
    ) -> AsyncGenerator[dict[str, Any], None]:
        """The JSON objects of an answer that has one a line. Raises as `stream` does."""
        rest = b""
        async with self.stream(path, query=query) as chunks:
            async for chunk in chunks:
                *whole, rest = (rest + chunk).split(b"\n")
                for line in whole:
                    if line.strip():
                        yield _object(line)
        if rest.strip():
            yield _object(rest)

    @asynccontextmanager
    async def stream(
        self,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        silence_s: float | None = None,
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """The chunks of an answer that goes on; one that is silent for `silence_s` is given up.

        Raises what the answer's problem stands for, Unavailable when it can't be had or breaks off.
        """
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10.0, sock_read=silence_s)
        try:
            async with self.session.get(
                self.url + path,
                params=query,
                headers={**self.headers(), **(headers or {})},
                timeout=timeout,
            ) as answer:
                if answer.status >= 400:
                    check(_response(answer, await answer.read()))
                yield answer.content.iter_any()
        except TimeoutError:
            raise TimedOut(f"{self.url}{path} fell silent") from None
        except aiohttp.InvalidURL:
            raise InvalidInput.of(
                "url", f"{self.url!r} is not one", "http(s)://host:port"
            ) from None
        except (aiohttp.ClientError, OSError) as error:
            raise Unavailable(f"{self.url} can't be reached: {_say(error)}") from None


def _response(answer: aiohttp.ClientResponse, body: bytes) -> Response:
    headers = {name.lower(): value for name, value in answer.headers.items()}
    return Response(answer.status, body, headers, answer.content_type)


def _say(error: Exception) -> str:
    return str(error) or type(error).__name__


def read(kind: type[ModelT], response: Response) -> ModelT:
    """The answer's body. Raises Unavailable for what is none."""
    try:
        return kind.model_validate_json(response.body)
    except ValidationError as error:
        raise Unavailable(
            f"the answer is no {kind.__name__}: {error.error_count()} faults"
        ) from None


def check(response: Response) -> None:
    """Raise the error that an answer stands for, with its request id as a note."""
    try:
        raise_problem("the server", response)
    except GantryError as error:
        if isinstance(error, TooMany):
            after = response.headers.get("retry-after", "")
            error.retry_after_s = float(after) if after.isdigit() else None
        request_id = response.headers.get("x-request-id")
        if request_id:
            error.add_note(f"request id: {request_id}")
        raise


def _object(line: bytes) -> dict[str, Any]:
    try:
        return dict(orjson.loads(line))
    except (ValueError, TypeError):
        return {"line": line.decode(errors="replace"), "stream": "stdout", "time": None}
