"""kafka:// URLs, and what happens when nobody is there."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from libs.common.bus.base import Record
from libs.common.bus.kafka import KafkaBus
from libs.common.bus.kafka_url import parse_url
from libs.common.clock import SystemClock
from libs.common.errors import InvalidInput, Unavailable


def test_plain() -> None:
    settings = parse_url("kafka://a:9092,b:9093")
    assert settings.bootstrap == ("a:9092", "b:9093")
    assert settings.connection()["security_protocol"] == "PLAINTEXT"


def test_a_port_that_is_not_said_is_kafkas_own() -> None:
    settings = parse_url("kafka://a,b:1,[::1],[::2]:3")
    assert settings.bootstrap == ("a:9092", "b:1", "[::1]:9092", "[::2]:3")


def test_a_password_may_be_shown_to_ones_own_machine() -> None:
    for here in ("127.0.0.1:1", "localhost", "[::1]"):
        connection = parse_url(f"kafka://u:p@{here}?sasl=PLAIN").connection()
        assert connection["security_protocol"] == "SASL_PLAINTEXT"
    with pytest.raises(InvalidInput, match="shows the password"):
        parse_url("kafka://u:p@127.0.0.1:1,a:1?sasl=PLAIN")


def test_everything() -> None:
    url = "kafka://us%40er:p%3Aw@a:9092?tls=1&sasl=PLAIN&replication=3&session_s=6&linger_ms=5&prefix=x."
    settings = parse_url(url)
    connection = settings.connection()
    assert connection["security_protocol"] == "SASL_SSL"
    assert connection["ssl_context"] is not None
    assert (connection["sasl_mechanism"], connection["sasl_plain_username"]) == ("PLAIN", "us@er")
    assert connection["sasl_plain_password"] == "p:w"
    assert (settings.replication, settings.session_s, settings.linger_ms) == (3, 6.0, 5)
    assert settings.prefix == "x."
    assert "p:w" not in repr(settings)


def test_a_password_comes_from_a_file_and_may_be_replaced(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("first\n")
    settings = parse_url(f"kafka://u@a:1?password_file={file}")
    assert settings.connection()["sasl_plain_password"] == "first"
    file.write_text("second\n")
    assert settings.connection()["sasl_plain_password"] == "second"
    file.unlink()  # it is being replaced
    assert settings.connection()["sasl_plain_password"] == "first"
    assert "first" not in repr(settings)


def test_files_that_are_no_certificates_are_named(tmp_path: Path) -> None:
    (tmp_path / "ca").write_text("nonsense")
    for file in (tmp_path / "ca", tmp_path / "none"):
        with pytest.raises(InvalidInput, match=str(file)):
            parse_url(f"kafka://a:1?tls=1&cafile={file}").connection()


@pytest.mark.parametrize(
    "url", ["kafka://", "kafka://a:", "kafka://a:b", "kafka://u:secret@h:p", "kafka://a:1?tsl=1",
            "kafka://a:1?replication=x", "kafka://a:1?session_s=-1", "kafka://u:secret@a:1?sasl=PLAIN",
            "kafka://u:secret@a:1?sasl=GSSAPI", "kafka://:secret@a:1", "kafka://u@a:1", "kafka://a:1?sasl=PLAIN",
            "kafka://u:secret@a:1?password_file=/dev/null", "kafka://u@a:1?password_file=/dev/null",
            "kafka://u@a:1?password_file=/nonexistent", "kafka://a:1?cafile=/x"],
)  # fmt: skip
async def test_wrong_urls_are_refused_without_showing_the_password(url: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        await KafkaBus.open(url, SystemClock())
    assert "secret" not in str(raised.value)


async def test_without_a_broker_calls_are_unavailable() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, never listening
        bus = await KafkaBus.open(f"kafka://127.0.0.1:{taken.getsockname()[1]}", SystemClock())
        with pytest.raises(Unavailable):
            await bus.publish([Record("t", "k", b"")])
        with pytest.raises(Unavailable):
            async with bus.consumer("g", ["t"]):
                pass
        with pytest.raises(Unavailable):
            await bus.end_offsets(["t"])
        await bus.close()
