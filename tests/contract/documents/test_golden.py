"""No collection changes its shape unnoticed, and none forgets the shapes that it had.

A document of each version is in `golden/`. When this fails because a model has changed: has a release written the
shape before? Then it is a new version of the schema (docs/adr/0015), with an upgrade and a file of its own. Otherwise,
and for the new file, `python -m tests.contract.documents.write_golden` writes it.
"""

from __future__ import annotations

from typing import Any

import pytest

from libs.common.store.base import CollectionSpec
from libs.common.store.bodies import SCHEMA
from libs.common.store.shapes import blended, marked, readable, upgraded
from tests.contract.documents.collections import GOLDEN, as_json, file_of, golden, specs

SPECS = specs()
each_collection = pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)


@each_collection
def test_the_shape_is_the_one_of_its_version(spec: CollectionSpec) -> None:
    body = golden(spec, spec.schema.version)
    assert spec.schema.known is not None
    assert as_json(spec.schema.known(body)) == body


@each_collection
def test_every_shape_that_may_be_stored_is_read(spec: CollectionSpec) -> None:
    schema = spec.schema
    assert schema.readable_by <= schema.version
    assert schema.known is not None
    for version in range(schema.oldest, schema.version):
        body = upgraded(spec, "golden", golden(spec, version), version)
        assert as_json(schema.known(body)) == as_json(body)


@each_collection
def test_what_a_newer_version_adds_survives_this_one(spec: CollectionSpec) -> None:
    newer = {"version": spec.schema.version + 1, "readable": spec.schema.version}
    stored = {**_richer(golden(spec, spec.schema.version)), SCHEMA: newer}
    read = readable(spec, "golden", stored)
    assert "from_the_future" not in read
    assert blended(spec.schema, marked(spec.schema, read), stored) == stored


def _richer(value: Any) -> Any:
    """With a field more in each object, however deep."""
    if isinstance(value, dict):
        return {name: _richer(each) for name, each in value.items()} | {"from_the_future": "x"}
    return [_richer(each) for each in value] if isinstance(value, list) else value


def test_there_is_a_file_for_each_shape_and_no_other() -> None:
    wanted = {
        file_of(spec, version)
        for spec in SPECS
        for version in range(spec.schema.oldest, spec.schema.version + 1)
    }
    assert wanted == set(GOLDEN.glob("*.json"))
