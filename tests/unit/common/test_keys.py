"""Secrets that are replaced: the file, what is derived of it, and tokens while two parties differ."""

from __future__ import annotations

import asyncio
import io
import os
from pathlib import Path

import orjson
import pytest

from libs.cli.main import Streams, run
from libs.common.clock import SystemClock
from libs.common.errors import InvalidInput, Unauthenticated
from libs.common.http import ANONYMOUS, Kind, Principal
from libs.common.keys import (
    MAX_SECRETS,
    DerivedKeys,
    FixedKeys,
    Macs,
    SecretFile,
    fingerprint,
    open_secret,
    prepend_secret,
    read_secrets,
    retire_secret,
    write_secrets,
)
from libs.common.telemetry import make_log
from libs.common.tokens import (
    MORE_TOKENS,
    TokenSigner,
    TokenVerifier,
    derive_key,
    party_keys,
    scraper_of,
)
from services.hostd.auth import OwnKeyVerifier
from tests.unit.common.test_tokens import make_clock

OLD, NEW, OTHER = b"o" * 32, b"n" * 32, b"x" * 32


def touch(path: Path) -> None:
    """Another moment of writing, whatever the file system's clock is like."""
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1_000_000))


def test_a_secret_is_made_once_and_is_the_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    first = open_secret(path).current()
    assert open_secret(path).current() == first
    assert path.stat().st_mode & 0o777 == 0o600 and len(first[0]) == 32


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "has 0 secrets"),
        ("ab" * 32 + "\nzz" * 1, "line 2 is not hex"),
        ("ab" * 31, "line 1 is too short"),
        ("\n".join(f"{n:064x}" for n in range(MAX_SECRETS + 1)), "has 5 secrets"),
    ],
)
def test_a_file_that_is_none_is_refused_without_showing_it(
    tmp_path: Path, text: str, why: str
) -> None:
    (tmp_path / "s").write_text(text)
    with pytest.raises(InvalidInput, match=why) as raised:
        SecretFile(tmp_path / "s")
    assert "abab" not in str(raised.value)


def test_a_changed_file_is_taken_up_when_it_has_settled(tmp_path: Path) -> None:
    path = tmp_path / "s"
    write_secrets(path, [OLD])
    file = SecretFile(path)
    before = file.current()
    assert not file.look() and file.current() is before
    path.write_text(NEW.hex() + "\n")  # half of what is being written
    assert not file.look() and file.current() == (OLD,)
    path.write_text(NEW.hex() + "\n" + OLD.hex() + "\n")
    assert not file.look() and file.current() == (OLD,)
    assert file.look() and file.current() == (NEW, OLD)
    after = file.current()
    touch(path)
    assert [file.look(), file.look()] == [False, False] and file.current() is after


def test_a_file_that_becomes_useless_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "s"
    write_secrets(path, [OLD])
    file = SecretFile(path)
    path.write_text("nonsense")
    assert not file.look()
    with pytest.raises(InvalidInput):
        file.look()
    path.unlink()
    with pytest.raises(OSError):
        file.look()
    assert file.current() == (OLD,)
    write_secrets(path, [NEW])
    assert [file.look(), file.look()] == [False, True]


class Hasty(SystemClock):
    """The machine's clock; it sleeps a hundredth of what it is told."""

    async def sleep(self, delay_s: float) -> None:
        """Sleep a little."""
        await asyncio.sleep(delay_s / 100)


async def test_the_watch_tells_what_it_took_up_by_fingerprints_only(tmp_path: Path) -> None:
    path, out = tmp_path / "s", io.StringIO()
    write_secrets(path, [OLD])
    file = SecretFile(path)
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        watching = group.create_task(file.watch(Hasty(), make_log("test", stream=out)))
        path.write_text("nonsense")
        while "not taken up" not in out.getvalue():
            await asyncio.sleep(0.01)
        write_secrets(path, [NEW, OLD])
        while file.current() != (NEW, OLD) or "taken up" not in out.getvalue().splitlines()[-1]:
            await asyncio.sleep(0.01)
        watching.cancel()
    lines = [orjson.loads(each) for each in out.getvalue().splitlines()]
    assert lines[-1]["fingerprints"] == [fingerprint(NEW), fingerprint(OLD)]
    assert len(lines) == 2  # the same trouble is told once
    assert not any(each.hex() in out.getvalue() for each in (NEW, OLD))


def test_secrets_are_added_and_retired(tmp_path: Path) -> None:
    path = tmp_path / "s"
    (first,) = prepend_secret(path)
    path.chmod(0o640)
    second, _ = prepend_secret(path)
    assert read_secrets(path) == (second, first) and path.stat().st_mode & 0o777 == 0o640
    assert retire_secret(path) == (second,)
    with pytest.raises(InvalidInput, match="one secret"):
        retire_secret(path)
    for _ in range(MAX_SECRETS - 1):
        prepend_secret(path)
    with pytest.raises(InvalidInput, match="has 4 secrets"):
        prepend_secret(path)


def gantry(*argv: str) -> tuple[int, str]:
    out, err = io.StringIO(), io.StringIO()
    code = run(argv, Streams(out, err, {"HOME": "/nonexistent"}))
    return int(code), out.getvalue() + err.getvalue()


def test_the_command_shows_fingerprints_and_never_a_secret(tmp_path: Path) -> None:
    path, host = tmp_path / "cluster.secret", tmp_path / "host.key"
    assert gantry("secret", "add", str(path))[0] == 0
    code, said = gantry("secret", "add", str(path), "-o", "json")
    secrets = read_secrets(path)
    assert code == 0 and orjson.loads(said)["fingerprints"] == [fingerprint(s) for s in secrets]
    assert gantry("secret", "host-key", str(path), "host-1", str(host))[0] == 0
    assert read_secrets(host) == tuple(derive_key(s, Kind.HOST, "host-1") for s in secrets)
    assert host.stat().st_mode & 0o777 == 0o600
    code, listed = gantry("secret", "ls", str(path))
    assert code == 0 and not any(s.hex() in listed + said for s in secrets)
    assert gantry("secret", "retire", str(path))[0] == 0 and read_secrets(path) == secrets[:1]
    assert gantry("secret", "retire", str(path))[0] == 2
    code, said = gantry("secret", "ls", str(tmp_path / "none"))
    assert code == 2 and "No such file" in said


def test_the_command_writes_a_scrapers_token(tmp_path: Path) -> None:
    path, token = tmp_path / "cluster.secret", tmp_path / "gantry.token"
    first, *_ = prepend_secret(path)
    clock = SystemClock()
    code, said = gantry("secret", "scraper-token", str(path), "prometheus", str(token))
    text = token.read_text().strip()
    assert code == 0 and text not in said and token.stat().st_mode & 0o777 == 0o600
    assert TokenVerifier(first, clock).verify(text) == Principal(Kind.SCRAPER, "prometheus")
    _, until = scraper_of(text, [first])
    assert until - clock.now() == pytest.approx(90 * 86_400, abs=120)
    host = ("--host", "host-1", "--generation", "2", "--days", "1")
    assert gantry("secret", "scraper-token", str(path), "p", str(token), *host)[0] == 0
    key = derive_key(first, Kind.HOST, "host-1", 2)
    assert scraper_of(token.read_text().strip(), [key])[0].name == "p"
    with pytest.raises(Unauthenticated):
        TokenVerifier(first, clock).verify(token.read_text().strip())
    for wrong in (("a b",), ("p", "--days", "0"), ("p", "--days", "1000")):
        assert (
            gantry("secret", "scraper-token", str(path), wrong[0], str(token), *wrong[1:])[0] == 2
        )


# -- what is derived -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        ((OLD,), (OLD,)),
        ((NEW, OLD), (OLD,)),
        ((OLD,), (NEW, OLD)),
        ((NEW, OLD), (NEW,)),
        ((NEW,), (NEW, OLD)),
    ],
)
async def test_two_stages_of_a_replacement_understand_each_other(
    mine: tuple[bytes, ...], theirs: tuple[bytes, ...]
) -> None:
    clock = make_clock()
    signer = TokenSigner(
        Kind.SERVICE, "ipam", party_keys(FixedKeys(mine), Kind.SERVICE, "ipam"), clock
    )
    principal = await TokenVerifier(FixedKeys(theirs), clock)(signer.headers(), {})
    assert (principal.kind, principal.name) == (Kind.SERVICE, "ipam")
    keys = party_keys(FixedKeys(mine), Kind.HOST, "h")
    host = OwnKeyVerifier("h", party_keys(FixedKeys(theirs), Kind.HOST, "h"), clock)
    signed = TokenSigner(Kind.HOST, "h", keys, clock).headers()
    assert (await host(signed, {})).kind is Kind.SERVICE
    cookie = Macs(FixedKeys(mine)).prove("text")
    assert Macs(FixedKeys(theirs)).proves("text", cookie)
    assert not Macs(FixedKeys(theirs)).proves("other", cookie)


async def test_a_retired_secret_opens_nothing_not_even_what_it_had_opened() -> None:
    clock = make_clock()

    class Changing:
        keys: tuple[bytes, ...] = (NEW, OLD)

        def current(self) -> tuple[bytes, ...]:
            return self.keys

    secret = Changing()
    verify = TokenVerifier(secret, clock)
    old = TokenSigner(Kind.HOST, "h", derive_key(OLD, Kind.HOST, "h"), clock)
    signer = TokenSigner(Kind.HOST, "h", party_keys(secret, Kind.HOST, "h"), clock)
    macs = Macs(DerivedKeys(secret, lambda each: each[:16]))
    cookie = Macs(FixedKeys((OLD[:16],))).prove("text")
    await verify(old.headers(), {})
    assert macs.proves("text", cookie) and MORE_TOKENS in signer.headers()
    secret.keys = (NEW,)
    with pytest.raises(Unauthenticated):
        await verify(old.headers(), {})
    assert not macs.proves("text", cookie) and MORE_TOKENS not in signer.headers()
    await verify(signer.headers(), {})


async def test_more_tokens_open_nothing_by_themselves_and_are_bounded() -> None:
    clock = make_clock()
    verify = TokenVerifier(OLD, clock)
    good = TokenSigner(Kind.HOST, "h", derive_key(OLD, Kind.HOST, "h"), clock).token()
    assert await verify({MORE_TOKENS: good}, {}) == ANONYMOUS
    with pytest.raises(Unauthenticated):
        late = " ".join(["a.b.c"] * MAX_SECRETS + [good])
        await verify({"authorization": "Bearer a.b.c", MORE_TOKENS: late}, {})
