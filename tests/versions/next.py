"""The release after this one, as far as others can see it: more fields in documents, events and answers.

`python -m tests.versions.next services.deployer …` runs a service as that release would. Its models are subclasses of
today's, put in their places before the service is imported: every event and answer has a field `since_next`, and the
deployer's and the scheduler's documents are of schema version 2, with a `stamp` that is drawn when a part is made and
says nothing.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Mapping
from dataclasses import field, fields, make_dataclass, replace
from operator import attrgetter
from types import ModuleType
from typing import Any
from uuid import uuid4

from pydantic import BaseModel, Field, create_model

LATER = "upgraded"  # the stamp of what was made before


def _with_stamp(base: type[BaseModel], **parts: Any) -> Any:
    stamp = (str, Field(default_factory=lambda: uuid4().hex))
    fields: dict[str, Any] = {"stamp": stamp, **parts}
    return create_model(base.__name__, __base__=base, __module__=__name__, **fields)


def events() -> None:
    """Every event says more."""
    from libs.common.events import EVENT_TYPES, model

    table: Any = EVENT_TYPES.by_type
    for each in model.ALL:
        more: Any = {"since_next": (str, "yes")}
        newer = create_model(each.__name__, __base__=each, __module__=__name__, **more)
        setattr(model, each.__name__, newer)
        table[each.type_name()] = newer


def answers() -> None:
    """Every JSON object that is answered says more."""
    from libs.common import http

    today = http.reply

    def reply(content: Any, *arguments: Any, **named: Any) -> http.Response:
        if isinstance(content, Mapping):
            content = {**content, "since_next": "yes"}
        return today(content, *arguments, **named)

    http.reply = reply


def deployer() -> None:
    """The deployer's documents, and the parts of them, are stamped."""
    from services.deployer import model

    hook: Any = _with_stamp(model.Hook)
    release: Any = _with_stamp(model.Release)
    deployment: Any = _with_stamp(model.Deployment)
    instance = _with_stamp(model.Instance, hook=(hook, Field(default_factory=hook)))
    intents = _with_stamp(
        model.Intents,
        releases=(tuple.__class_getitem__((release, ...)), ()),
        deployments=(tuple.__class_getitem__((deployment, ...)), ()),
    )
    app = _with_stamp(
        model.App,
        deployment=(deployment | None, None),
        intents=(intents, Field(default_factory=intents)),
    )
    for each in (hook, release, deployment, instance, intents, app):
        setattr(model, each.__name__, each)

    from services.deployer import store

    _second(store, "APPS", "RELEASES", "DEPLOYMENTS", "INSTANCES")


def scheduler() -> None:
    """The scheduler's documents of instances, jobs and runs, and the run in an instance, are stamped."""
    from services.scheduler.jobs import run

    _stamp_in(run, "Run", "run_body", "run_of")  # before others have taken them from there
    from services.scheduler import model

    _stamp_in(model, "Instance")
    names = tuple(each.name for each in fields(model.Instance))
    of_class: dict[str, Any] = {
        "_values": attrgetter(*names),
        "_setters": tuple(getattr(model.Instance, name).__set__ for name in names),
        "_places": {name: n for n, name in enumerate(names)},
    }
    for name, value in of_class.items():
        setattr(model, name, value)
    from services.scheduler import documents
    from services.scheduler.jobs import model as jobs

    _stamp_in(documents, "", "to_body", "from_body")
    _stamp_in(jobs, "Job", "job_body", "job_of")
    _stamp_in(jobs, "Record", "record_body", "record_of")
    from services.scheduler.jobs import store as job_store

    _second(job_store, "JOBS", "RUNS")
    from services.scheduler import store

    _second(store, "INSTANCES")


def _stamp_in(module: ModuleType, kind: str, body: str = "", known: str = "") -> None:
    """A dataclass of the module's has a stamp, and so has what it is stored as."""
    if kind:
        base = getattr(module, kind)
        stamp = ("stamp", str, field(default_factory=lambda: uuid4().hex))
        newer = make_dataclass(kind, [stamp], bases=(base,), frozen=True, slots=True)
        setattr(module, kind, newer)
    if body:
        write, read = getattr(module, body), getattr(module, known)

        def read_stamp(*arguments: Any) -> Any:
            stored = next(each for each in arguments if isinstance(each, Mapping))
            return replace(read(*arguments), **{k: stored[k] for k in ("stamp",) if k in stored})

        setattr(module, body, lambda each: {**write(each), "stamp": each.stamp})
        setattr(module, known, read_stamp)


def _second(store: ModuleType, *names: str) -> None:
    """Collections of a module are in their second version."""
    from libs.common.store.base import Schema

    for name in names:
        spec = getattr(store, name)
        setattr(store, name, replace(spec, schema=Schema(2, 1, (_stamped,))))


def _stamped(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """From version 1 to version 2; what is inside gets its stamps by its models' defaults."""
    return {**body, "stamp": LATER}


def main() -> None:
    """Run a service."""
    events()
    answers()
    service = sys.argv.pop(1)
    if stamped := {"services.deployer": deployer, "services.scheduler": scheduler}.get(service):
        stamped()
    runpy.run_module(service, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
