"""Whom each service's code calls by name: read from the code itself.

Names are literals, or constants of the service's package. Calls by what all services share (libs/common) are those of
who imports it; what is handed over past the bus goes where `WAYS` says.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

from libs.common.direct import WAYS

REPOSITORY = Path(__file__).parents[3]
SERVICES = ("gateway", "deployer", "scheduler", "ipam", "monitor", "hostd")


@cache
def calls() -> Mapping[str, frozenset[str]]:
    """Service → those that it has to have peers for."""
    shared = dict(_shared())
    return {service: frozenset(_of(service, shared)) for service in SERVICES}


@cache
def callers_of_hosts() -> frozenset[str]:
    """Who calls hostd: at the address in an attribute of its agent, not by a name."""
    return frozenset(
        service
        for service in SERVICES
        for tree in _trees(f"services/{service}").values()
        for each in ast.walk(tree)
        if isinstance(each, ast.Call) and ast.unparse(each).endswith("attributes.get('hostd', '')")
    )


def _of(service: str, shared: Mapping[tuple[str, str], set[str]]) -> Iterator[str]:
    trees = _trees(f"services/{service}")
    constants: dict[str, str] = {}
    for tree in trees.values():
        constants |= _constants(tree)
    for tree in trees.values():
        yield from _called(tree, {**constants, **_constants(tree)})
        for each in ast.walk(tree):
            if isinstance(each, ast.ImportFrom):
                for name in each.names:
                    yield from shared.get((each.module or "", name.name), ())
    yield from (way.reader for way in WAYS.values() if way.writer == service)


def _shared() -> Iterator[tuple[tuple[str, str], set[str]]]:
    """(module, name) → the services that it calls, itself or by its neighbours in that module."""
    for module, tree in _trees("libs/common").items():
        kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        parts = {each.name: each for each in tree.body if isinstance(each, kinds)}
        found = {name: set(_called(part, _constants(tree))) for name, part in parts.items()}
        for _ in parts:  # as deep as they may use each other
            for name, part in parts.items():
                used = {each.id for each in ast.walk(part) if isinstance(each, ast.Name)}
                found[name].update(*(found[each] for each in used & parts.keys()))
        yield from (((module, name), found[name]) for name in parts)


def _trees(directory: str) -> dict[str, ast.Module]:
    files = sorted((REPOSITORY / directory).rglob("*.py"))
    names = [".".join(file.relative_to(REPOSITORY).with_suffix("").parts) for file in files]
    return {n: ast.parse(file.read_text()) for n, file in zip(names, files, strict=True)}


def _called(tree: ast.AST, constants: Mapping[str, str]) -> Iterator[str]:
    """The services named in `call_json(peers, NAME, …)` and `peers.method(…, NAME, …)`, also within tuples there."""
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call):
            continue
        function = ast.unparse(call.func)
        if function == "call_json":
            given = call.args[1:2]
        elif function.rpartition(".")[0].endswith("peers"):
            given = call.args
        else:
            continue
        for each in (inner for argument in given for inner in ast.walk(argument)):
            name = each.value if isinstance(each, ast.Constant) else None
            name = constants.get(each.id) if isinstance(each, ast.Name) else name
            if isinstance(name, str) and name in SERVICES:
                yield name


def _constants(tree: ast.Module) -> dict[str, str]:
    """Module-level names that are a service's."""
    found: dict[str, str] = {}
    for each in tree.body:
        if isinstance(each, ast.Assign):
            names = [n.id for n in ast.walk(each.targets[0]) if isinstance(n, ast.Name)]
            values = [v.value for v in ast.walk(each.value) if isinstance(v, ast.Constant)]
            if len(names) == len(values):
                pairs = zip(names, values, strict=True)
                found |= {name: value for name, value in pairs if value in SERVICES}
    return found
