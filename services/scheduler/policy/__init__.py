"""Placement: which agent gets which pending instance, and why some get none. Pure, vectorised over agents.

Reading order: `model` (what is asked and answered) → `agents` (agents as vectors) → `rules` (filters and constraints as
masks, caps and levels) → `filling` (many like instances at once) → `search` (a few) → `placer` (all of it together) →
`explain`, `fairness`, `eviction`.
"""

from services.scheduler.policy.agents import Agents, Rows
from services.scheduler.policy.model import (
    NOWHERE,
    Candidate,
    Need,
    Placement,
    Refusal,
    Shape,
    Siblings,
)
from services.scheduler.policy.placer import Round, place, place_on

__all__ = [
    "NOWHERE",
    "Agents",
    "Candidate",
    "Need",
    "Placement",
    "Refusal",
    "Round",
    "Rows",
    "Shape",
    "Siblings",
    "place",
    "place_on",
]
