"""The collections of all services, and a document of each shape that they ever had: `golden/<collection>.v<n>.json`."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from libs.common.store.base import CollectionSpec

SERVICES = ("deployer", "gateway", "ipam", "monitor", "scheduler")
GOLDEN = Path(__file__).parent / "golden"


def specs() -> list[CollectionSpec]:
    """Of all services, by name."""
    modules = [importlib.import_module(f"services.{each}.store") for each in SERVICES]
    found = [each for m in modules for each in vars(m).values() if isinstance(each, CollectionSpec)]
    return sorted(found, key=lambda spec: spec.name)


def file_of(spec: CollectionSpec, version: int) -> Path:
    """Where the document of a shape is."""
    return GOLDEN / f"{spec.name}.v{version}.json"


def golden(spec: CollectionSpec, version: int) -> Mapping[str, Any]:
    """The document of a shape."""
    body: dict[str, Any] = orjson.loads(file_of(spec, version).read_bytes())
    return body


def as_json(body: Mapping[str, Any]) -> dict[str, Any]:
    """As it would be stored."""
    plain: dict[str, Any] = orjson.loads(orjson.dumps(body))
    return plain
