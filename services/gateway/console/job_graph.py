"""Which jobs run after which, drawn: columns from left to right, each job right of all its parents. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 190, 34
GAP_X, GAP_Y = 46, 14
STEP_X = WIDTH + GAP_X
LANE = 6
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


_Key = str | tuple[str, str]


@dataclass(frozen=True, slots=True)
class _Stop:
    """What takes a place in a column: a job, or the lane of a path (parent, child) that passes."""

    key: _Key
    after: tuple[str, ...]
    height: int


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
    """The drawing of a family; None when there is nothing to draw.

    A path that passes columns takes a lane of its own in each of them, so that it runs behind no job.
    """
    if not parents:
        return None
    depths = _depths(parents)
    kept = sorted(parents, key=lambda each: (depths[each], each))[:MOST]
    drawn = frozenset(kept)
    ways = {each: [p for p in parents[each] if p in drawn] for each in kept}
    lanes = {
        (parent, child): range(depths[parent] + 1, depths[child])
        for child, given in ways.items()
        for parent in given
    }
    columns: dict[int, list[_Stop]] = {}
    for each in kept:
        columns.setdefault(depths[each], []).append(_Stop(each, tuple(ways[each]), HEIGHT))
    for (parent, child), passed in lanes.items():
        for depth in passed:
            columns[depth].append(_Stop((parent, child), (parent,), LANE))
    middles: dict[_Key, dict[int, int]] = {}
    bottom = 0
    for depth, column in sorted(columns.items()):
        column.sort(key=lambda stop: (_level(stop.after, middles, depth), str(stop.key)))
        y = 0
        for stop in column:
            middles.setdefault(stop.key, {})[depth] = y + stop.height // 2
            y += stop.height + GAP_Y
        bottom = max(bottom, y - GAP_Y)
    at = {
        each: Node(each, depths[each] * STEP_X, middles[each][depths[each]] - HEIGHT // 2)
        for each in kept
    }
    paths = tuple(
        _path(at[parent], [(d * STEP_X, middles[parent, child][d]) for d in passed], at[child])
        for (parent, child), passed in lanes.items()
    )
    width = max(node.x for node in at.values()) + WIDTH
    return Graph(tuple(at.values()), paths, width, bottom, len(parents) - len(kept))


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


def _level(parents: Iterable[_Key], middles: Mapping[_Key, Mapping[int, int]], depth: int) -> float:
    """Where a stop would stand to be level with what it comes after."""
    found = [max(known.items()) for each in parents if (known := middles.get(each))]
    return sum(y for at, y in found if at < depth) / len(found) if found else 0.0


def _path(parent: Node, lane: Sequence[tuple[int, int]], child: Node) -> str:
    """Out of the parent to the right, along the lanes, into the child from the left."""
    x, y = parent.x + WIDTH, parent.y + HEIGHT // 2
    drawn = f"M{x} {y}"
    for left, middle in lane:
        drawn += f"{_bend(x, y, left, middle)}H{left + WIDTH}"
        x, y = left + WIDTH, middle
    return drawn + _bend(x, y, child.x, child.y + HEIGHT // 2)


def _bend(x: int, y: int, to_x: int, to_y: int) -> str:
    half = (to_x - x) // 2
    return f"C{x + half} {y} {to_x - half} {to_y} {to_x} {to_y}"
