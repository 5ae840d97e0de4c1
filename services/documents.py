"""`python -m services.documents [--config FILE] COMMAND`: the store's documents, for those who run Gantry.

    state            which collections there are, of which version, and how many documents are older
    backup FILE      write all of them to a new file
    restore FILE     put a backup into an empty store; with `--replace`, in the place of all that is stored
    restored         note that another tool has restored the store

The configuration is the services' own. No service may run during `restore` and `restored`.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from libs.common.clock import SystemClock
from libs.common.errors import GantryError, InvalidInput
from libs.common.runtime import CommonConfig, open_store
from libs.common.store.backup import back_up, mark_restored, restore
from libs.common.store.base import CollectionSpec, Op, Store, Where, eq
from libs.common.store.schemas import FIELD, RECORDS, Record, SchemaStore, record_of
from services.__main__ import MAINS, SECTIONS
from services.main import EXIT_FAILED, EXIT_USAGE, read_settings


def specs() -> dict[str, CollectionSpec]:
    """All services' collections, by name."""
    modules = [importlib.import_module(f"services.{service}.store") for service in MAINS]
    found = [each for module in modules for each in vars(module).values()]
    return {each.name: each for each in found if isinstance(each, CollectionSpec)}


async def run(common: CommonConfig, asked: argparse.Namespace) -> None:
    """Do it, and say what was done."""
    now = SystemClock().now()
    store = await open_store(common.store or f"sqlite://{common.data_dir}/store.db")
    try:
        match asked.command:
            case "state":
                await tell_state(store)
            case "backup":
                summary = await back_up(store.inner, asked.file, now)
                print(f"{summary.documents} documents")
                if summary.changed:
                    changed = ", ".join(summary.changed)
                    print(f"not of one moment, these changed while they were read: {changed}")
            case "restore":
                summary = await restore(store.inner, asked.file, now, replace_all=asked.replace)
                print(f"{summary.documents} documents, as of {summary.at:.0f} (Unix seconds)")
            case "restored":
                print(f"{await mark_restored(store.inner, now)} documents are marked as restored")
    finally:
        await store.close()


async def tell_state(store: SchemaStore) -> None:
    """A line a collection."""
    known, inner = specs(), store.inner
    records = await _records(inner)
    print(f"{'collection':24} {'code':>4} {'store':>5} {'from':>4} {'documents':>9} {'older':>9}")
    for name in await inner.archive().collections():
        version = known[name].schema.version if name in known else 0
        record = records.get(name, Record(name))
        collection = await inner.collection(CollectionSpec(name))
        total, older = await collection.count(), 0
        if record.version > 1:
            older = await collection.count((eq(FIELD, None),))
            older += await collection.count((Where(FIELD, Op.LT, record.version),))
        code = str(version or "-")
        print(
            f"{name:24} {code:>4} {record.version:>5} {record.readable_by:>4} {total:>9} {older:>9}"
        )


async def _records(store: Store) -> dict[str, Record]:
    if RECORDS.name not in await store.archive().collections():
        return {}
    docs = await store.archive().page(RECORDS.name, "", 1000)
    return {doc.id: record_of(doc) for doc in docs}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser("python -m services.documents", description=__doc__)
    made.add_argument("--config", default="")
    commands = made.add_subparsers(dest="command", required=True)
    commands.add_parser("state")
    commands.add_parser("backup").add_argument("file", type=Path)
    restoring = commands.add_parser("restore")
    restoring.add_argument("file", type=Path)
    restoring.add_argument("--replace", action="store_true")
    commands.add_parser("restored")
    return made


def main(argv: Sequence[str]) -> int:
    """Exit 0; 1 when it failed, 2 when it was asked wrongly."""
    asked, flags = parser().parse_known_args(argv)
    try:
        settings = read_settings(
            [*flags, *(["--config", asked.config] if asked.config else [])], SECTIONS
        )
        common = settings["common"]
        assert isinstance(common, CommonConfig)
        asyncio.run(run(common, asked))
    except InvalidInput as error:
        print(f"gantry: {error}", file=sys.stderr)
        return EXIT_USAGE
    except GantryError as error:
        print(f"gantry: {error}", file=sys.stderr)
        return EXIT_FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
