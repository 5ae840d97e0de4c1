"""`python -m services.gateway.docs [DIR]` writes openapi.json and asyncapi.json into DIR (default: docs)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import orjson

from libs.common.events import asyncapi
from services.gateway.api import public_routes
from services.gateway.openapi import document_bytes
from services.gateway.parts import Gateway


def _openapi() -> bytes:
    # The tables of routes need no parts; only handlers, which nobody calls here, look at them.
    return document_bytes(public_routes(object.__new__(Gateway)))


def _asyncapi() -> bytes:
    return orjson.dumps(asyncapi.document(), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


DOCUMENTS: Mapping[str, Callable[[], bytes]] = {
    "openapi.json": _openapi,
    "asyncapi.json": _asyncapi,
}


def main(directory: Path) -> None:
    """Write both."""
    directory.mkdir(exist_ok=True)
    for name, make in DOCUMENTS.items():
        (directory / name).write_bytes(make())


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs"))
