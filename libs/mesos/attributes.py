"""Agents' attributes as text, the way Marathon writes and compares them."""

from __future__ import annotations

import re
from collections.abc import Iterable

from libs.mesos.messages import Attribute

_SCALAR = re.compile(r"[0-9]+(\.[0-9]+)?")


def as_texts(attributes: Iterable[Attribute]) -> dict[str, str]:
    """All of them by name. Of several with one name the first counts, as in Marathon."""
    texts: dict[str, str] = {}
    for each in attributes:
        texts.setdefault(each["name"], _text(each))
    return texts


def _text(attribute: Attribute) -> str:
    """`getValueString` of Marathon's Constraints.scala: `b`, `2.5`, `[1-3,8-9]`, `{a,b}`."""
    if "text" in attribute:
        return attribute["text"]["value"]
    if "scalar" in attribute:
        return number(attribute["scalar"]["value"])
    if "ranges" in attribute:
        found = attribute["ranges"].get("range", [])  # Mesos leaves out what is empty
        ranges = sorted((each["begin"], each["end"]) for each in found)
        return f"[{','.join(f'{begin}-{end}' for begin, end in ranges)}]"
    items = attribute["set"].get("item", []) if "set" in attribute else []
    return f"{{{','.join(sorted(items))}}}"


def number(value: float) -> str:
    """A scalar: thousandths, rounded half to even, and no zeros behind the point that say nothing."""
    return f"{value:.3f}".rstrip("0").rstrip(".")


def as_number(text: str) -> str:
    """What is written like a scalar as a scalar is written: `7.0` is `7`; anything else as it is."""
    return number(float(text)) if _SCALAR.fullmatch(text) else text
