"""Secrets that are replaced while their users run: a file of several, and the keys derived from them.

A secret file has one secret a line, 64 hex digits or more, the newest first. A new one is put before the others
everywhere, the old one removed everywhere later. In between the parties' files differ, so whoever proves something
does so with every secret it has, and whoever checks takes any that it knows: no call is refused on the way.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from libs.common.clock import Clock
from libs.common.disk import create_file
from libs.common.errors import InvalidInput
from libs.common.telemetry import Log

MAX_SECRETS = 4
SECRET_BYTES = 32
LOOK_S = 1.0


class Keys(Protocol):
    """Keys of one purpose, the newest first."""

    def current(self) -> tuple[bytes, ...]:
        """At least one; the very same tuple until they change."""
        ...


@dataclass(frozen=True, slots=True)
class FixedKeys:
    """Keys that never change."""

    keys: tuple[bytes, ...]

    def current(self) -> tuple[bytes, ...]:
        """See Keys."""
        return self.keys


Secret = bytes | Keys
"""What is handed around: a plain secret, or those of a file."""


def keys_of(secret: Secret) -> Keys:
    """The same as `Keys`."""
    return FixedKeys((secret,)) if isinstance(secret, bytes) else secret


class DerivedKeys:
    """A key of each secret, made anew when these change."""

    def __init__(self, secret: Secret, derive: Callable[[bytes], bytes]) -> None:
        self._secrets = keys_of(secret)
        self._derive = derive
        self._of: tuple[bytes, ...] = ()
        self._keys: tuple[bytes, ...] = ()

    def current(self) -> tuple[bytes, ...]:
        """See Keys."""
        of = self._secrets.current()
        if of is not self._of:
            self._of, self._keys = of, tuple(self._derive(each) for each in of)
        return self._keys


class Macs:
    """Proofs of texts by HMAC-SHA256: one a key, with dots between; any of them that is right will do."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    def prove(self, text: str) -> str:
        """The proof of `text`."""
        return ".".join(_mac(key, text) for key in self._keys.current())

    def proves(self, text: str, proof: str) -> bool:
        """Is one of the proof's parts made with one of our keys?"""
        given = [each.encode() for each in proof.split(".", MAX_SECRETS)]
        return any(
            hmac.compare_digest(_mac(key, text).encode(), each)
            for key in self._keys.current()
            for each in given
        )


def _mac(key: bytes, text: str) -> str:
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def fingerprint(secret: bytes) -> str:
    """Eight digits by which people tell secrets apart; they say nothing about the secret."""
    return _mac(secret, "fingerprint")[:8]


# -- files -----------------------------------------------------------------------------------------


class SecretFile:
    """The secrets of a file, as they were at the last look."""

    def __init__(self, path: Path) -> None:
        """Read the file. Raises InvalidInput, OSError."""
        self.path = path
        self._state = _state(path)
        self._pending = self._state
        self._keys = read_secrets(path)

    def current(self) -> tuple[bytes, ...]:
        """See Keys."""
        return self._keys

    def look(self) -> bool:
        """Take the file up if it has changed, and not since the last look: then nobody is at writing it.

        True when the secrets are others now. Raises InvalidInput or OSError for a file that can't be used; the secrets
        stay as they were then.
        """
        state = _state(self.path)
        settled, self._pending = state == self._pending, state
        if state == self._state or not settled:
            return False
        found = read_secrets(self.path)
        self._state = state
        changed, self._keys = found != self._keys, found if found != self._keys else self._keys
        return changed

    async def watch(self, clock: Clock, log: Log) -> None:
        """Look again and again until cancelled."""
        told = ""
        while True:
            await clock.sleep(LOOK_S)
            try:
                if await asyncio.to_thread(self.look):
                    prints = [fingerprint(each) for each in self._keys]
                    log.info("secrets taken up", file=str(self.path), fingerprints=prints)
                told = ""
            except (InvalidInput, OSError) as error:
                if str(error) != told:  # once, not each second
                    log.error("secrets not taken up", file=str(self.path), error=str(error))
                told = str(error)


def _state(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_ino, found.st_mtime_ns, found.st_size


def open_secret(path: Path) -> SecretFile:
    """The secrets of a file; one is made (32 random bytes, mode 0600) when there is no file yet."""
    if not path.exists():
        create_file(path, f"{secrets.token_hex(SECRET_BYTES)}\n".encode())
    return SecretFile(path)


def read_secrets(path: Path) -> tuple[bytes, ...]:
    """The secrets of a file. Raises InvalidInput, never showing what stands there; OSError."""
    expected = f"1 to {MAX_SECRETS} lines, each of at least {2 * SECRET_BYTES} hex digits"
    lines = [each.strip() for each in path.read_text().splitlines() if each.strip()]
    if not 1 <= len(lines) <= MAX_SECRETS:
        raise InvalidInput.of(str(path), f"has {len(lines)} secrets", expected)
    found: list[bytes] = []
    for number, line in enumerate(lines, 1):
        try:
            found.append(bytes.fromhex(line))
        except ValueError:
            raise InvalidInput.of(str(path), f"line {number} is not hex", expected) from None
        if len(found[-1]) < SECRET_BYTES:
            raise InvalidInput.of(str(path), f"line {number} is too short", expected)
    return tuple(dict.fromkeys(found))


def prepend_secret(path: Path) -> tuple[bytes, ...]:
    """Put a new secret before those of the file (which may be missing); all that are there now.

    Raises InvalidInput when there are too many already, OSError.
    """
    known = read_secrets(path) if path.exists() else ()
    if len(known) >= MAX_SECRETS:
        raise InvalidInput.of(str(path), f"has {len(known)} secrets", "retire the oldest first")
    return write_secrets(path, (secrets.token_bytes(SECRET_BYTES), *known))


def retire_secret(path: Path) -> tuple[bytes, ...]:
    """Remove the oldest secret; those that stay. Raises InvalidInput when it is the only one, OSError."""
    known = read_secrets(path)
    if len(known) < 2:
        raise InvalidInput.of(str(path), "has one secret", "put a new one before it first")
    return write_secrets(path, known[:-1])


def write_secrets(path: Path, keys: Iterable[bytes]) -> tuple[bytes, ...]:
    """Replace the file's secrets; see `write_private`."""
    kept = tuple(keys)
    write_private(path, text_of(kept))
    return kept


def text_of(secrets: Iterable[bytes]) -> str:
    """What a file of secrets holds."""
    return "".join(f"{each.hex()}\n" for each in secrets)


def write_private(path: Path, text: str, mode: int = 0o600, uid: int | None = None) -> None:
    """Replace a file in one step; owner and mode stay; a new one has `mode` and is ours, or `uid`'s. Raises OSError."""
    beside = path.with_name(f".{path.name}.new")
    beside.unlink(missing_ok=True)
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "w") as out:
        if path.exists():
            before = path.stat()
            os.fchmod(descriptor, before.st_mode & 0o777)
            if os.geteuid() == 0:
                os.fchown(descriptor, before.st_uid, before.st_gid)
        elif uid is not None:
            os.fchown(descriptor, uid, uid)
        out.write(text)
        out.flush()
        os.fsync(descriptor)
    beside.replace(path)
