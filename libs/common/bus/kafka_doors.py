"""Why a broker that is there won't have us: aiokafka's own clients say only that they got nowhere.

Asked once, when the bus is opened, so that a wrong password or certificate ends the process with a reason. A broker
that can't be reached is another matter: it passes here, and calls say Unavailable until it is back.
"""

from __future__ import annotations

import asyncio
import ssl

from aiokafka import errors as kafka_errors
from aiokafka.conn import create_conn
from aiokafka.protocol.metadata import MetadataRequest

from libs.common.bus.kafka_url import KafkaSettings
from libs.common.errors import InvalidInput

CHECK_S = 5.0
_NO_AUTHENTICATION = (
    kafka_errors.SaslAuthenticationFailed,
    kafka_errors.AuthenticationFailedError,
)


async def check_doors(settings: KafkaSettings) -> None:
    """Raises InvalidInput when the first broker that can be reached refuses us; never shows the password."""
    for address in settings.bootstrap:
        try:
            async with asyncio.timeout(CHECK_S):
                if await _admits(settings, address):
                    return
        except TimeoutError:
            continue


async def _admits(settings: KafkaSettings, address: str) -> bool:
    """False when the broker can't be reached. Raises InvalidInput when it refuses us."""
    host, _, port = address.rpartition(":")
    arguments = {
        name: value
        for name, value in settings.connection().items()
        if name != "bootstrap_servers" and value is not None
    }
    connected = False
    try:
        connection = await create_conn(host, int(port), client_id="gantry", **arguments)
        connected = True
        try:
            await connection.send(MetadataRequest([]))
        finally:
            connection.close()
    except ssl.SSLCertVerificationError as error:
        raise InvalidInput.of(
            "common.bus?cafile",
            f"the certificate of {address} is not trusted: {error.verify_message}",
            "the authority that signed it",
        ) from None
    except _NO_AUTHENTICATION as error:
        raise InvalidInput.of(
            "common.bus", f"{address} refuses the password of {settings.user!r}: {_text(error)}"
        ) from None
    except kafka_errors.UnsupportedSaslMechanismError:
        raise InvalidInput.of(
            "common.bus?sasl", f"{address} does not take {settings.sasl}", "another mechanism"
        ) from None
    except kafka_errors.IllegalSaslStateError:
        raise InvalidInput.of("common.bus", f"{address} wants no user: it has no SASL") from None
    except (OSError, kafka_errors.KafkaError):
        await _explain(settings, address, connected)
        return False
    return True


async def _explain(settings: KafkaSettings, address: str, connected: bool) -> None:
    """Raises InvalidInput when a broker that hung up speaks otherwise than we do; returns when it is just away."""
    if connected and not settings.user:
        raise InvalidInput.of(
            "common.bus", f"{address} takes nobody without a password", "kafka://user@host:port"
        )
    has_tls = await _speaks_tls(address)
    if has_tls is None or has_tls is settings.tls:
        return
    if has_tls:
        raise InvalidInput.of("common.bus?tls", f"{address} speaks TLS only", "tls=1")
    raise InvalidInput.of("common.bus?tls", f"{address} does not speak TLS", "no tls=1")


async def _speaks_tls(address: str) -> bool | None:
    """Does it; None when nobody is there. Nothing is sent, so nothing needs to be verified."""
    host, _, port = address.rpartition(":")
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    reached = False
    try:
        _, writer = await asyncio.open_connection(host, int(port))
        reached = True
        try:
            await writer.start_tls(context)
        finally:
            writer.close()
    except OSError:
        return False if reached else None
    return True


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__
