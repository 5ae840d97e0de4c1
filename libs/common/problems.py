"""Errors as they travel: `application/problem+json` (RFC 9457) of each, and the error again that it stands for.

The one table of errors and status codes; `libs/common/http.py` makes answers of it and reads those of peers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
from pydantic import ValidationError

from libs.common import errors
from libs.common.errors import FieldProblem, GantryError

PROBLEM = "application/problem+json"


class MethodNotAllowed(errors.Refused):
    """The path exists, but not for this method."""

    def __init__(self, allowed: tuple[str, ...]) -> None:
        self.allowed = allowed
        super().__init__(f"only {', '.join(allowed)} here")


_TABLE: tuple[tuple[type[GantryError], int, str], ...] = (
    (errors.InvalidInput, 422, "invalid-input"),
    (errors.NotFound, 404, "not-found"),
    (errors.Stale, 412, "stale"),
    (errors.Conflict, 409, "conflict"),
    (errors.Unauthenticated, 401, "unauthenticated"),
    (errors.Forbidden, 403, "forbidden"),
    (errors.TooMany, 429, "too-many"),
    (MethodNotAllowed, 405, "method-not-allowed"),
    (errors.TimedOut, 504, "timed-out"),
    (errors.Unavailable, 503, "unavailable"),
    (errors.Fenced, 503, "fenced"),
)


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem document, with the headers that go with it. `slug` ends its type, `extra` are members of its own."""

    status: int
    slug: str
    detail: str
    extra: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, error: GantryError) -> Problem:
        """The problem that tells of an error."""
        for kind, status, slug in _TABLE:
            if isinstance(error, kind):
                break
        else:
            status, slug = 500, "internal"
        headers: dict[str, str] = {}
        extra: dict[str, Any] = {}
        if isinstance(error, errors.InvalidInput):
            extra["errors"] = [
                {"field": p.field, "problem": p.problem, "expected": p.expected}
                for p in error.problems
            ]
        if isinstance(error, errors.TooMany) and error.retry_after_s is not None:
            headers["Retry-After"] = str(max(1, round(error.retry_after_s)))
        if isinstance(error, MethodNotAllowed):
            headers["Allow"] = ", ".join(error.allowed)
        if isinstance(error, errors.Unauthenticated):
            headers["WWW-Authenticate"] = 'Bearer realm="gantry"'
        return cls(status, slug, str(error), extra, headers)

    def body(self) -> bytes:
        """The document."""
        content = {
            "type": f"urn:gantry:problem:{self.slug}",
            "title": self.slug.replace("-", " "),
            "status": self.status,
            "detail": self.detail,
            **self.extra,
        }
        return orjson.dumps(content)


INTERNAL = Problem(500, "internal", "An internal error; the log has it.")
"""A bug: the log is told everything, and the asker nothing."""


def error_of(service: str, status: int, body: bytes) -> GantryError:
    """The error that a peer's answer of 400 or more stands for; Unavailable for what is no problem document."""
    try:
        content = orjson.loads(body)
        slug = str(content["type"]).rpartition(":")[2]
        detail = str(content["detail"])
    except (ValueError, KeyError, TypeError):
        return errors.Unavailable(f"{service} answered {status}")
    if slug == "invalid-input":
        return errors.InvalidInput(*(FieldProblem(**each) for each in content.get("errors", ())))
    for kind, _, known in _TABLE:
        if known == slug and kind not in (MethodNotAllowed, errors.Fenced):
            return kind(detail)
    return errors.Unavailable(f"{service} answered {status}: {detail}")


# What is right where pydantic's context does not say so, by the first word of the error's type.
_RIGHT: Mapping[str, str] = {
    "bool": "true or false",
    "dict": "names with values",
    "finite": "a finite number",
    "float": "a number",
    "int": "a whole number",
    "json": "valid JSON",
    "list": "a list",
    "missing": "it is required",
    "model": "names with values",
    "string": "text",
    "tuple": "a list",
}
_DEMAND = re.compile(r"\b(?:must (?:be )?|(?=needs |give ))(.+)", re.DOTALL)


def _own_words(message: str) -> tuple[str, str]:
    """What a check of our own finds wrong, and what would be right: it says so after "; expected", or in a demand."""
    problem, said, expected = message.partition("; expected ")
    if said:
        return problem, expected
    demand = _DEMAND.search(message)
    return message, demand[1] if demand else ""


def invalid(error: ValidationError, prefix: str = "") -> errors.InvalidInput:
    """Pydantic's findings as InvalidInput, each with the field's dotted path and, if it can be told, what is right."""
    problems = []
    for each in error.errors(include_url=False):
        path = ".".join(str(part) for part in each["loc"]) or "body"
        known = each.get("ctx") or {}
        expected = "; ".join(f"{name} {value}" for name, value in known.items() if name != "error")
        message = each["msg"].removeprefix("Value error, ")
        if each["type"] == "value_error":
            message, expected = _own_words(message)
        expected = expected or _RIGHT.get(each["type"].partition("_")[0], "")
        if each["type"] == "extra_forbidden":
            message, expected = "unknown field", "remove it, or check its spelling"
        problems.append(FieldProblem(f"{prefix}{path}", message, expected))
    return errors.InvalidInput(*problems)
