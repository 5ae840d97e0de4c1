"""From aiokafka's errors to ours, and a time-out around every call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiokafka import errors as kafka_errors

from libs.common.errors import Fenced, InvalidInput, TimedOut, Unavailable
from libs.common.waiting import contained, heeded

_FENCED = (
    kafka_errors.CommitFailedError,
    kafka_errors.IllegalStateError,
    kafka_errors.IllegalGenerationError,
    kafka_errors.UnknownMemberIdError,
    kafka_errors.RebalanceInProgressError,
)
_TIMED_OUT = (kafka_errors.KafkaTimeoutError, kafka_errors.RequestTimedOutError)
_TOO_LARGE = (kafka_errors.MessageSizeTooLargeError, kafka_errors.RecordTooLargeError)


@asynccontextmanager
async def guarded(what: str, timeout_s: float) -> AsyncIterator[None]:
    """Raises Fenced, InvalidInput, TimedOut or Unavailable for whatever Kafka throws."""
    async with heeded(), _translated(what, timeout_s):  # aiokafka's `stop` swallows cancellations
        yield


@asynccontextmanager
async def _translated(what: str, timeout_s: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(timeout_s):
            # aiokafka cancels its own futures when a connection breaks; that must not end our task.
            with contained(f"kafka: {what}: the client gave it up"):
                yield
    except TimeoutError:
        raise TimedOut(f"kafka: {what}: no answer within {timeout_s} s") from None
    except _FENCED as error:
        raise Fenced(f"kafka: {what}: {_text(error)}") from error
    except _TIMED_OUT as error:
        raise TimedOut(f"kafka: {what}: {_text(error)}") from error
    except _TOO_LARGE as error:
        raise InvalidInput.of("record", f"too large for the broker: {_text(error)}") from error
    except (kafka_errors.KafkaError, kafka_errors.ConsumerStoppedError, OSError) as error:
        raise Unavailable(f"kafka: {what}: {_text(error)}") from error


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__
