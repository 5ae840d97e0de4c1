"""Which jobs run after which, drawn: columns from left to right, each job right of all its parents. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 190, 34
GAP_X, GAP_Y = 46, 14
MOST = 80
"""So many jobs are drawn at most; more can't be read."""


@dataclass(frozen=True, slots=True)
class Node:
    """A job at its place, pixels from the top left."""

    job: str
    x: int
    y: int


@dataclass(frozen=True, slots=True)
class Graph:
    """The drawing: nodes, and a path (SVG) for each parent of each. `left_out` jobs are not in it."""

    nodes: tuple[Node, ...]
    paths: tuple[str, ...]
    width: int
    height: int
    left_out: int = 0


def family(parents: Mapping[str, Sequence[str]], job: str = "") -> dict[str, tuple[str, ...]]:
    """Those that depend on others or have dependents; with `job` only what it waits for, and what waits for it.

    Each with its parents, by name. Parents that nobody knows of are left out.
    """
    known = {each: tuple(p for p in given if p in parents) for each, given in parents.items()}
    children: dict[str, list[str]] = {}
    for child, given in known.items():
        for parent in given:
            children.setdefault(parent, []).append(child)
    if job:
        kept = {*_reach(job, known), *_reach(job, children)}
        kept = kept if len(kept) > 1 else set()
    else:
        kept = {each for each in known if known[each] or each in children}
    return {each: tuple(p for p in known[each] if p in kept) for each in sorted(kept)}


def draw(parents: Mapping[str, Sequence[str]]) -> Graph | None:
    """The drawing of a family; None when there is nothing to draw."""
    if not parents:
        return None
    depths = _depths(parents)
    kept = sorted(parents, key=lambda each: (depths[each], each))[:MOST]
    columns: dict[int, list[str]] = {}
    for each in kept:
        columns.setdefault(depths[each], []).append(each)
    at: dict[str, Node] = {}
    for depth, column in sorted(columns.items()):
        column.sort(key=lambda each: (_middle(parents[each], at), each))
        for row, each in enumerate(column):
            at[each] = Node(each, depth * (WIDTH + GAP_X), row * (HEIGHT + GAP_Y))
    paths = tuple(_path(at[p], at[each]) for each in kept for p in parents[each] if p in at)
    return Graph(
        nodes=tuple(at.values()),
        paths=paths,
        width=max(node.x for node in at.values()) + WIDTH,
        height=max(node.y for node in at.values()) + HEIGHT,
        left_out=len(parents) - len(kept),
    )


def _reach(start: str, edges: Mapping[str, Sequence[str]]) -> set[str]:
    found, todo = {start}, [start]
    while todo:
        for each in edges.get(todo.pop(), ()):
            if each not in found:
                found.add(each)
                todo.append(each)
    return found


def _depths(parents: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """The longest way to each from one without parents. What is in a cycle (there should be none) counts as a root."""
    depths: dict[str, int] = {}
    left = dict(parents)
    while left:
        ready = [each for each, given in left.items() if all(p in depths for p in given)]
        for each in ready or list(left):
            depths[each] = max((depths[p] + 1 for p in left[each] if p in depths), default=0)
        for each in ready or list(left):
            del left[each]
    return depths


def _middle(parents: Iterable[str], at: Mapping[str, Node]) -> float:
    """Where a job would stand to be level with its parents."""
    rows = [at[each].y for each in parents if each in at]
    return sum(rows) / len(rows) if rows else 0.0


def _path(parent: Node, child: Node) -> str:
    x1, y1 = parent.x + WIDTH, parent.y + HEIGHT // 2
    x2, y2 = child.x, child.y + HEIGHT // 2
    bend = GAP_X // 2
    return f"M{x1} {y1}C{x1 + bend} {y1} {x2 - bend} {y2} {x2} {y2}"
