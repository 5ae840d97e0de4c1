"""A durable map of keys to bytes: an append-only log, synced once a batch, rewritten when long.

Records are `op, key length, value length, crc32, key, value`. A torn tail (crash in mid-write) is
cut off at opening. A rewrite goes to a new file, is synced, and replaces the log by rename.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from libs.common.disk import why
from libs.minimesos.effects import Delete, Put
from libs.minimesos.errors import StorageError
from libs.minimesos.keyspace import KeySpace

_HEADER = struct.Struct(">BIII")
_PUT, _DELETE = 1, 2
_REWRITE_MIN_BYTES = 8 << 20


class Journal:
    """One writer's journal in `directory`. `commit` blocks: call it from a worker thread."""

    def __init__(self, directory: Path) -> None:
        """Open or create. Raises StorageError."""
        self._path = directory / "journal"
        self._live_bytes = 0
        self._rewrite_at = _REWRITE_MIN_BYTES
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self.saved = self._load()
            self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            self._size = os.fstat(self._file).st_size
            _sync_directory(directory)
        except OSError as error:
            raise StorageError(f"{self._path}: {error}") from error

    def commit(self, effects: Iterable[Put | Delete]) -> None:
        """Make a batch durable. Raises StorageError; then nothing of it is kept, and it may be tried again."""
        data = b"".join(_encode(effect) for effect in effects)
        try:
            # What an earlier try left would hide all that comes after it.
            os.ftruncate(self._file, self._size)
            view = memoryview(data)
            while view:
                view = view[os.write(self._file, view) :]
            os.fdatasync(self._file)
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(self._file, self._size)
            raise StorageError(f"{self._path}: {why(error)}") from error
        self._size += len(data)
        if self._size > max(self._rewrite_at, 3 * self._live_bytes):
            try:
                self._rewrite()
            except (
                OSError
            ):  # the batch is safe all the same; when there is room, it is written anew
                self._rewrite_at = self._size + _REWRITE_MIN_BYTES

    def close(self) -> None:
        """Release the file."""
        os.close(self._file)

    # ---- the file
    def _load(self) -> dict[str, bytes]:
        if not self._path.exists():
            return {}
        raw = self._path.read_bytes()
        space = KeySpace()
        good = 0
        for end, op, key, value in _records(raw):
            if op == _PUT:
                space.put(key, value)
            else:
                space.delete(key)
            good = end
        if good < len(raw):
            os.truncate(self._path, good)
        self._live_bytes = space.weight_bytes()
        return space.values

    def _rewrite(self) -> None:
        saved = self._load()
        new = self._path.with_suffix(".new")
        file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        try:
            with os.fdopen(os.dup(file), "wb") as out:
                for key, value in saved.items():
                    out.write(_encode(Put(key, value)))
            os.fsync(file)
            new.replace(self._path)
        except BaseException:
            os.close(file)
            new.unlink(missing_ok=True)
            raise
        os.close(self._file)
        self._file = file
        self._size = os.fstat(file).st_size
        self._live_bytes = self._size
        self._rewrite_at = _REWRITE_MIN_BYTES
        _sync_directory(self._path.parent)


class NoJournal:
    """Keeps nothing: for masters with an in-memory registry and for benchmarks."""

    def __init__(self) -> None:
        self.saved: dict[str, bytes] = {}

    def commit(self, effects: Iterable[Put | Delete]) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing to do."""


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _encode(effect: Put | Delete) -> bytes:
    key = effect.key.encode()
    op, value = (_PUT, effect.value) if isinstance(effect, Put) else (_DELETE, b"")
    crc = zlib.crc32(value, zlib.crc32(key, op))
    return _HEADER.pack(op, len(key), len(value), crc) + key + value


def _records(raw: bytes) -> Iterable[tuple[int, int, str, bytes]]:
    """(end offset, op, key, value) of every intact record, up to the first torn one."""
    at = 0
    while at + _HEADER.size <= len(raw):
        op, key_size, value_size, crc = _HEADER.unpack_from(raw, at)
        begin = at + _HEADER.size
        end = begin + key_size + value_size
        key = raw[begin : begin + key_size]
        value = raw[begin + key_size : end]
        if end > len(raw) or op not in (_PUT, _DELETE):
            return
        if zlib.crc32(value, zlib.crc32(key, op)) != crc:
            return
        yield end, op, key.decode(), value
        at = end
