"""HTTP conventions: who may call what, and every error as problem+json."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, Field

from libs.common import errors
from libs.common.errors import FieldProblem, GantryError
from libs.common.http import (
    Access,
    HttpApp,
    Kind,
    Principal,
    Request,
    Response,
    Route,
    problem,
    raise_problem,
    reply,
)
from libs.common.problems import PROBLEM
from tests.unit.common.helpers import Table

PRINCIPALS = {
    "service": Principal(Kind.SERVICE, "deployer", "*"),
    "host": Principal(Kind.HOST, "h1"),
    "key": Principal(Kind.KEY, "k1", "shop"),
    "scraper": Principal(Kind.SCRAPER, "prometheus"),
}


class Inner(BaseModel):
    size: int = Field(ge=1, le=9)


class Body(BaseModel, extra="forbid"):
    name: str
    inner: Inner


async def echo(request: Request) -> Response:
    return reply(
        {
            "params": dict(request.params),
            "query": dict(request.query),
            "principal": request.principal.name,
        }
    )


async def parse(request: Request) -> Response:
    return reply(request.parse(Body), 201)


async def broken(_request: Request) -> Response:
    raise RuntimeError("the password is hunter2")


async def refused(request: Request) -> Response:
    raise errors.Stale(f"version {request.params['version']} is not the current one")


class Seen:
    """What the app told of its requests."""

    def __init__(self) -> None:
        self.finished: list[tuple[str | None, int]] = []
        self.errors: list[BaseException] = []

    def observe(self, route: Route | None, request: Request, status: int, took_s: float) -> None:
        assert took_s == 1.0
        self.finished.append((route.path if route else None, status))

    def on_error(self, request: Request, error: BaseException) -> None:
        self.errors.append(error)


def make_app(seen: Seen | None = None) -> HttpApp:
    """Routes of every access."""
    routes = [Route("GET", f"/{access}/{{name}}", echo, access) for access in Access]
    routes += [
        Route("GET", "/files/{rest:path}", echo, Access.PUBLIC),
        Route("PUT", "/body", parse, Access.PUBLIC),
        Route("POST", "/body", parse, Access.PUBLIC),
        Route("GET", "/broken", broken, Access.PUBLIC),
        Route("GET", "/stale/{version}", refused, Access.PUBLIC),
    ]
    seen = seen or Seen()
    ticks = iter(range(1000))
    return HttpApp(
        routes,
        Table(PRINCIPALS),
        monotonic=lambda: float(next(ticks)),
        observe=seen.observe,
        on_error=seen.on_error,
    )


async def call(method: str, target: str, token: str = "", body: bytes = b"") -> Response:
    """One request."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return await make_app().dispatch(method, target, headers, body)


def is_problem(response: Response, status: int, slug: str) -> dict[str, Any]:
    """It is one, of this kind; its content."""
    assert (response.status, response.content_type) == (status, PROBLEM)
    content: dict[str, Any] = response.json()
    assert (content["status"], content["type"]) == (status, f"urn:gantry:problem:{slug}")
    assert content["title"] and content["detail"]
    return content


async def test_paths_queries_and_principals_reach_the_handler() -> None:
    answer = (await call("GET", "/service/a%2Fb?x=1&empty=&x=2", "service")).json()
    assert answer == {
        "params": {"name": "a/b"},
        "query": {"x": "2", "empty": ""},
        "principal": "deployer",
    }
    deep = (await call("GET", "/files/a/b/c.txt")).json()
    assert deep["params"] == {"rest": "a/b/c.txt"}
    assert deep["principal"] == "anonymous"


@pytest.mark.parametrize(
    ("access", "allowed"),
    [
        ("public", {"", "service", "host", "key", "scraper"}),
        ("service", {"service"}),
        ("host", {"service", "host"}),
        ("key", {"key"}),
        ("metrics", {"service", "scraper"}),
    ],
)
@pytest.mark.parametrize("token", ["", *PRINCIPALS])
async def test_who_may_call_what(access: str, allowed: set[str], token: str) -> None:
    answer = await call("GET", f"/{access}/x", token)
    if token in allowed:
        assert answer.status == 200
    elif token:
        is_problem(answer, 403, "forbidden")
    else:
        is_problem(answer, 401, "unauthenticated")
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")


async def test_wrong_credentials_are_401() -> None:
    is_problem(await call("GET", "/service/x", "forged"), 401, "unauthenticated")


async def test_nothing_there_is_404_and_a_wrong_method_405() -> None:
    is_problem(await call("GET", "/nothing"), 404, "not-found")
    is_problem(await call("GET", "/public/a/b"), 404, "not-found")
    answer = await call("DELETE", "/body")
    is_problem(answer, 405, "method-not-allowed")
    assert answer.headers["Allow"] == "POST, PUT"


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        (b'{"name": "n", "inner": {"size": 0}}', {"inner.size"}),
        (b'{"inner": {"size": "x"}, "nmae": "n"}', {"name", "inner.size", "nmae"}),
        (b'{"name": "n"}', {"inner"}),
        (b"[]", {"body"}),
        (b"{", {"body"}),
        (b"", {"body"}),
        (b"\xff", {"body"}),
    ],
)
async def test_a_wrong_body_is_422_and_names_the_fields(body: bytes, fields: set[str]) -> None:
    content = is_problem(await call("PUT", "/body", body=body), 422, "invalid-input")
    assert {each["field"] for each in content["errors"]} == fields
    assert all(each["problem"] for each in content["errors"])


async def test_a_wrong_value_says_what_would_be_right() -> None:
    answer = await call("PUT", "/body", body=b'{"name": "n", "inner": {"size": 10}, "x": 1}')
    found = {each["field"]: each for each in answer.json()["errors"]}
    assert found["inner.size"]["expected"] == "le 9"
    assert found["x"] == {
        "field": "x", "problem": "unknown field", "expected": "remove it, or check its spelling",
    }  # fmt: skip


async def test_a_good_body_is_taken() -> None:
    answer = await call("PUT", "/body", body=b'{"name": "n", "inner": {"size": 9}}')
    assert (answer.status, answer.json()["inner"]) == (201, {"size": 9})


async def test_a_bug_is_told_to_the_log_and_not_to_the_asker() -> None:
    seen = Seen()
    answer = await make_app(seen).dispatch("GET", "/broken", {})
    is_problem(answer, 500, "internal")
    assert b"hunter2" not in answer.body
    assert [str(error) for error in seen.errors] == ["the password is hunter2"]


async def test_each_request_is_observed_by_its_template() -> None:
    seen = Seen()
    app = make_app(seen)
    for path in ("/stale/7", "/public/x", "/nothing"):
        await app.dispatch("GET", path, {})
    assert seen.finished == [("/stale/{version}", 412), ("/public/{name}", 200), (None, 404)]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.InvalidInput(FieldProblem("a.b", "is wrong", "right")), 422),
        (errors.NotFound("no such app"), 404),
        (errors.Conflict("held"), 409),
        (errors.Stale("old"), 412),
        (errors.Unauthenticated("who"), 401),
        (errors.Forbidden("no"), 403),
        (errors.TooMany("quota", 2.4), 429),
        (errors.Unavailable("away"), 503),
        (errors.TimedOut("slow"), 504),
        (errors.GantryError("odd"), 500),
    ],
)
def test_an_error_comes_out_of_a_peers_answer_as_it_went_in(
    error: GantryError, status: int
) -> None:
    response = problem(error)
    assert response.status == status
    with pytest.raises(GantryError) as raised:
        raise_problem("peer", response)
    if status == 500:
        assert type(raised.value) is errors.Unavailable  # the peer's fault, from here
    else:
        assert (type(raised.value), str(raised.value)) == (type(error), str(error))


def test_a_fenced_peer_is_an_unavailable_one() -> None:
    with pytest.raises(errors.Unavailable):
        raise_problem("peer", problem(errors.Fenced("old leader")))


def test_too_many_says_when_to_come_again() -> None:
    assert problem(errors.TooMany("quota", 2.4)).headers == {"Retry-After": "2"}
    assert problem(errors.TooMany("quota", 0.01)).headers == {"Retry-After": "1"}
    assert problem(errors.TooMany("quota")).headers == {}


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"type": 1}', b'"text"'])
def test_an_answer_that_is_no_problem_is_an_unavailable_peer(body: bytes) -> None:
    with pytest.raises(errors.Unavailable, match="peer answered 502"):
        raise_problem("peer", Response(502, body))
    raise_problem("peer", Response(204))
