"""Instances as documents. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from operator import attrgetter
from typing import Any

from libs.common.spec import InstanceSpec
from services.scheduler.jobs.run import run_body, run_of
from services.scheduler.model import AgentId, AttemptId, Instance, InstanceId, State
from services.scheduler.per_spec import PerSpec

SPECS_KEPT = 10_000
SEEN, LOST = "seen", "lost"
"""How a run's instance ended: its end was seen, or its host was given up."""
_PLAIN = (
    *("app", "release", "deployment", "stop", "generation", "agent", "hostname", "address"),
    *("container", "healthy", "failures", "not_before", "since", "adopt", "message", "delayed"),
    *("orphaned_at", "delayed_at", "traceparent", "correlation", "asked", "direct_until"),
)
_plain_values = attrgetter(*_PLAIN)
# Left out when there is nothing to say.
_RARE = ("yields_to", "returned", "may_return", "return_host", "leaving")
_rare_values = attrgetter(*_RARE)


_spec_body = PerSpec(lambda spec: spec.model_dump(mode="json"))


@lru_cache(maxsize=4096)
def _shared(attributes: tuple[tuple[str, str], ...]) -> Mapping[str, str]:
    """An agent's attributes as the object that all instances on it have: there are many more of them than agents."""
    return dict(attributes)


def _attributes(body: Mapping[str, Any]) -> Mapping[str, str] | None:
    if "attributes" not in body or body.get("attributes_of") != body["agent"]:
        return None
    return _shared(tuple(body["attributes"].items()))


def to_body(instance: Instance) -> dict[str, Any]:
    """The instance as a document's body."""
    body: dict[str, Any] = dict(zip(_PLAIN, _plain_values(instance), strict=True))
    body["state"] = instance.state.value
    body["ended"] = instance.state is State.ENDED
    body["spec"] = _spec_body(instance.spec)
    body["strays"] = [list(each) for each in instance.strays]
    if instance.attributes is not None:
        # With the agent: an older release leaves them when it goes on elsewhere.
        body |= {"attributes": dict(instance.attributes), "attributes_of": instance.agent}
    if instance.cleanup:
        body["cleanup"] = True
    if instance.run is not None:
        body["run"] = run_body(instance.run)
        if instance.state is State.ENDED:
            # What a host may bring back some day is known for as long as with services.
            body["over"] = LOST if instance.run.lost else SEEN
    rare = _rare_values(instance)
    if any(rare):
        body.update({name: value for name, value in zip(_RARE, rare, strict=True) if value})
    return body


def _spec_of(_app: str, spec: Mapping[str, Any]) -> InstanceSpec:
    return InstanceSpec.model_validate(spec, extra="ignore")


class SharedSpecs:
    """Specs of many bodies: those of an app are mostly the same, and then read once and one object."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[Mapping[str, Any], InstanceSpec]] = {}

    def __call__(self, app: str, spec: Mapping[str, Any]) -> InstanceSpec:
        """The spec in a body of the app's."""
        known = self._last.get(app)
        if known is None or known[0] != spec:
            if len(self._last) >= SPECS_KEPT:
                self._last.clear()
            known = self._last[app] = (spec, _spec_of(app, spec))
        return known[1]


def from_body(
    doc_id: str,
    version: int,
    body: Mapping[str, Any],
    spec_of: Callable[[str, Mapping[str, Any]], InstanceSpec] = _spec_of,
) -> Instance:
    """The instance of a document."""
    return Instance(
        id=InstanceId(doc_id),
        version=version,
        spec=spec_of(body["app"], body["spec"]),
        state=State(body["state"]),
        strays=tuple((AttemptId(task), AgentId(agent)) for task, agent in body["strays"]),
        cleanup=body.get("cleanup", False),
        run=run_of(body["run"]) if "run" in body else None,
        attributes=_attributes(body),
        **{
            name: body[name] for name in (*_PLAIN, *_RARE) if name in body
        },  # an older one has fewer
    )
