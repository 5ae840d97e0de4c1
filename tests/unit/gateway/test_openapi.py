"""The API's own description: valid, complete, and the same as the one in docs/."""

from __future__ import annotations

from pathlib import Path

import orjson
from openapi_spec_validator import OpenAPIV31SpecValidator

from services.gateway.docs import DOCUMENTS
from tests.fakes.gateway import World

DOCS = Path(__file__).parents[3] / "docs"


async def test_it_is_valid_and_complete(world: World) -> None:
    response = await world.call("GET", "/v1/openapi.json", key="")
    assert response.status == 200
    document = response.json()
    OpenAPIV31SpecValidator(document).validate()
    paths = document["paths"]
    assert set(paths["/v1/apps/{bu}/{app}"]) == {"get", "put"}
    for what in ("deploys", "scale", "rollback", "restart", "stop"):
        operation = paths[f"/v1/apps/{{bu}}/{{app}}/{what}"]["post"]
        assert "202" in operation["responses"]
        assert [p["name"] for p in operation["parameters"]] == ["bu", "app", "Idempotency-Key"]
    ids = [op["operationId"] for path in paths.values() for op in path.values()]
    assert len(ids) == len(set(ids))
    assert not [path for path in paths if not path.startswith("/v1/")]


async def test_every_operation_says_how_it_fails(world: World) -> None:
    document = (await world.call("GET", "/v1/openapi.json", key="")).json()
    for path in document["paths"].values():
        for operation in path.values():
            assert "application/problem+json" in operation["responses"]["default"]["content"]


def test_the_documents_in_docs_are_current() -> None:
    for name, make in DOCUMENTS.items():
        assert (DOCS / name).read_bytes() == make(), (
            f"run: python -m services.gateway.docs ({name} is old)"
        )


def test_asyncapi_describes_every_event() -> None:
    from libs.common.events import EVENT_TYPES

    document = orjson.loads((DOCS / "asyncapi.json").read_bytes())
    assert document["asyncapi"] == "3.0.0"
    told = {message["name"] for message in document["components"]["messages"].values()}
    assert told == set(EVENT_TYPES.by_type)
    for channel in document["channels"].values():
        for reference in channel["messages"].values():
            name = reference["$ref"].rpartition("/")[2]
            assert name in document["components"]["messages"]
