"""Backup and restore of any store: JSON lines, gzipped, in a format of its own that goes from one adapter to another.

    {"gantry_backup": 1, "at": …}
    {"collection": name} before its documents, each [id, version, epoch, body, outbox]
    {"epochs": {…}, "changed": [collections that changed while they were read], "documents": n}

The last line says that the file is whole. Of an SQLite file it is one moment. Of MongoDB each document is, and
`changed` says whether all of them together are, which they are when nobody wrote.

A restored document's version is STEP higher than it was, and so are epochs: whoever has seen newer ones, in another
document, in an event's `ce_sequence`, or as a leader that should have stopped, must not take what comes now for old.
"""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from libs.common.errors import Conflict, InvalidInput
from libs.common.store.base import Archive, CollectionSpec, Doc, Store
from libs.common.store.restores import note_restore
from libs.common.store.wire import pack_events, unpack_events

FORMAT = 1
PAGE = 500
STEP = 1_000_000


@dataclass(frozen=True, slots=True)
class Summary:
    """What a backup holds. `changed`: collections of which some documents are older than others."""

    at: float
    documents: int
    changed: tuple[str, ...]


async def back_up(store: Store, file: Path, now: float) -> Summary:
    """Write everything to a new file (mode 0600: it holds what the store holds). Raises Unavailable, Conflict."""
    partial = _begin(file)
    async with store.archive().snapshot() as source:
        versions: dict[str, dict[str, int]] = {}
        with gzip.open(partial, "wb") as lines:
            lines.write(_line({"gantry_backup": FORMAT, "at": now}))
            for name in await source.collections():
                lines.write(_line({"collection": name}))
                seen = versions[name] = {}
                async for doc in _documents(source, name):
                    outbox = pack_events(doc.outbox)
                    lines.write(_line([doc.id, doc.version, doc.epoch, doc.body, outbox]))
                    seen[doc.id] = doc.version
            changed = [name for name in versions if versions[name] != await _versions(source, name)]
            count = sum(map(len, versions.values()))
            end = {"epochs": await source.epochs(), "changed": changed, "documents": count}
            lines.write(_line(end))
    partial.rename(file)
    return Summary(now, count, tuple(changed))


def _begin(file: Path) -> Path:
    """What will be the file when it is whole."""
    if file.exists():
        raise Conflict(f"{file} exists")
    partial = file.with_name(f"{file.name}.partial")
    partial.unlink(missing_ok=True)
    partial.touch(mode=0o600, exist_ok=False)
    return partial


async def restore(store: Store, file: Path, now: float, *, replace_all: bool) -> Summary:
    """Put a backup in the place of what is stored, while no service runs.

    Raises InvalidInput for a file that is not whole (before anything is touched), and Conflict for a store that is not
    empty, unless `replace_all`.
    """
    summary = read_summary(file)
    archive = store.archive()
    if not replace_all and await _holds_anything(archive):
        raise Conflict("the store is not empty")
    await archive.clear()
    name, docs = "", list[Doc]()
    for line in _lines(file):
        if isinstance(line, list):
            docs.append(_raised(_document(line)))
            if len(docs) < PAGE:
                continue
        if docs:
            await archive.put(name, docs)
            docs = []
        if isinstance(line, dict) and "collection" in line:
            name = str(line["collection"])
            await store.collection(CollectionSpec(name))
        elif isinstance(line, dict) and "epochs" in line:
            await archive.put_epochs({each: n + STEP for each, n in line["epochs"].items()})
    await note_restore(store, now)
    return summary


async def mark_restored(store: Store, now: float) -> int:
    """Do to a store what `restore` does to what it puts there: for one that another tool has restored; how many."""
    archive, count = store.archive(), 0
    for name in await archive.collections():
        after = ""
        while docs := await archive.page(name, after, PAGE):
            after = docs[-1].id
            await archive.put(name, [_raised(doc) for doc in docs])
            count += len(docs)
    await archive.put_epochs({each: n + STEP for each, n in (await archive.epochs()).items()})
    await note_restore(store, now)
    return count


def read_summary(file: Path) -> Summary:
    """What a backup holds. Raises InvalidInput for one that is not whole, or not one at all."""
    first: dict[str, Any] = {}
    last: Any = None
    count = 0
    for line in _lines(file):
        if not first:
            if not isinstance(line, dict) or line.get("gantry_backup") != FORMAT:
                raise InvalidInput.of(str(file), "is no backup of this format", f"format {FORMAT}")
            first = line
        count += isinstance(line, list)
        last = line
    if not isinstance(last, dict) or last.get("documents") != count:
        raise InvalidInput.of(str(file), f"is not whole: it ends after {count} documents")
    return Summary(float(first["at"]), count, tuple(last["changed"]))


def _lines(file: Path) -> Iterator[Any]:
    try:
        with closing(gzip.open(file, "rb")) as lines:
            for line in lines:
                yield orjson.loads(line)
    except (OSError, EOFError, ValueError) as error:
        raise InvalidInput.of(str(file), f"can't be read: {error}") from None


def _line(content: object) -> bytes:
    return orjson.dumps(content) + b"\n"


def _document(line: list[Any]) -> Doc:
    doc_id, version, epoch, body, outbox = line
    return Doc(doc_id, version, body, epoch, unpack_events(outbox))


def _raised(doc: Doc) -> Doc:
    return replace(doc, version=doc.version + STEP)


async def _documents(archive: Archive, name: str) -> AsyncIterator[Doc]:
    after = ""
    while docs := await archive.page(name, after, PAGE):
        for doc in docs:
            yield doc
        after = docs[-1].id


async def _versions(archive: Archive, name: str) -> dict[str, int]:
    return {doc.id: doc.version async for doc in _documents(archive, name)}


async def _holds_anything(archive: Archive) -> bool:
    for name in await archive.collections():
        if await archive.page(name, "", 1):
            return True
    return False
