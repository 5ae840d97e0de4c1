"""What goes wrong between us and MongoDB, in our own errors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pymongo.errors import NetworkTimeout, OperationFailure, PyMongoError, WTimeoutError

from libs.common.errors import InvalidInput, TimedOut, Unavailable
from libs.common.waiting import contained

CALL_S = 30.0
AUTHENTICATION_FAILED = 18
_REFUSED = {
    13: "demands a user that may do this",
    AUTHENTICATION_FAILED: "refuses the user or its password",
}


@asynccontextmanager
async def guarded(what: str) -> AsyncIterator[None]:
    """Raises TimedOut or Unavailable for what goes wrong between us and the server."""
    try:
        async with asyncio.timeout(CALL_S):
            with contained(f"mongodb: {what}: the client gave it up"):
                yield
    except TimeoutError:
        raise TimedOut(f"mongodb: {what}: no answer within {CALL_S} s") from None
    except (NetworkTimeout, WTimeoutError) as error:
        raise TimedOut(f"mongodb: {what}: {error}") from error
    except OperationFailure as error:
        why = _REFUSED.get(error.code or 0)
        said = (
            f"the server {why}: {error.details.get('errmsg', '')}"
            if why and error.details
            else error
        )
        raise Unavailable(f"mongodb: {what}: {said}") from error
    except OverflowError as error:
        raise InvalidInput.of("body", f"a number is too large: {error}", "64 bits") from error
    except PyMongoError as error:
        raise Unavailable(f"mongodb: {what}: {error}") from error
