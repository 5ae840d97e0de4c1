"""Commands of apps: deploy and all that changes one, apps, ps, releases."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import typer

from libs.cli import spec_file
from libs.cli.context import Context, context_of
from libs.cli.output import Column, Printer, time_of
from libs.cli.progress import TOPICS
from libs.cli.watch import verdict, watch
from libs.client import GantryClient
from libs.client.model import Accepted, Plan
from libs.common.errors import InvalidInput, NotFound, TooMany, Unavailable
from libs.common.jobs import JobSpec
from libs.common.spec import AppSpec

AppArgument = Annotated[str, typer.Argument(metavar="APP", help="bu/app, or app with --bu")]
Detach = Annotated[bool, typer.Option("--detach", "-d", help="do not wait for the end")]
Force = Annotated[bool, typer.Option("--force", help="take over from a deployment in progress")]
TimeOut = Annotated[
    float | None, typer.Option("--timeout", min=1, help="wait at most so many seconds")
]
BreakGlass = Annotated[
    bool,
    typer.Option(
        "--break-glass",
        help="don't wait for the event bus, and take over; for admins, with --reason, audited",
    ),
]
Reason = Annotated[str, typer.Option("--reason", help="why the glass is broken")]
Ask = Callable[[GantryClient], Awaitable[Accepted]]

PLACE_S = 5.0


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (deploy, plan, apps, ps, releases, scale, rollback, restart, stop):
        app.command()(command)


def run_deployment(
    context: Context,
    app: str,
    ask: Ask,
    *,
    detach: bool,
    timeout_s: float | None,
    break_glass: bool = False,
) -> None:
    """Ask for a deployment and watch it to its end, unless detached; where the glass is broken, without the events."""
    printer = context.printer

    async def run(client: GantryClient) -> None:
        place = None if detach or break_glass else await place_now(client, printer, app)
        if break_glass:
            printer.note(
                "the glass is broken, and that is audited; events are delayed, this is the state"
            )
        accepted = await ask(client)
        if detach:
            printer.tell(accepted, f"{accepted.deployment} of {app}: accepted")
            return
        printer.note(f"{accepted.deployment} of {app}")
        ended = await watch(client, printer, app, accepted.deployment, place, timeout_s)
        if printer.is_json:
            printer.json(ended)
        printer.say(verdict(ended))

    context.ask(run)


async def place_now(client: GantryClient, printer: Printer, app: str) -> str | None:
    """Where the events stand; None, after a while and with a note, when the event bus does not tell."""
    try:
        async with asyncio.timeout(PLACE_S):
            return await client.place(TOPICS, app)
    except (TimeoutError, Unavailable):
        printer.note("the event bus does not answer: events are delayed, what follows is the state")
    except TooMany as error:
        printer.note(f"{error}: what follows is the state")
    return None


def deploy(
    ctx: typer.Context,
    what: Annotated[str, typer.Argument(metavar="FILE|APP", help="an app file, '-', or an app")],
    image: Annotated[str | None, typer.Option(help="instead of the image in the spec")] = None,
    detach: Detach = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="show what would be done")] = False,
    force: Force = False,
    timeout: TimeOut = None,
) -> None:
    """Release an app: write its spec from FILE, if one is given, and roll it out."""
    context = context_of(ctx)
    file = spec_file.read(what, context.settings.bu) if spec_file.is_file(what) else None
    app = file.app if file else context.settings.app(what)
    if dry_run:
        _dry_run(context, app, file.spec if file else None, image, force)
        return

    async def ask(client: GantryClient) -> Accepted:
        if file is not None:
            await write_spec(client, context, app, file.spec)
        return await client.deploy(app, image=image, force=force)

    run_deployment(context, app, ask, detach=detach, timeout_s=timeout)


def plan(
    ctx: typer.Context,
    what: Annotated[str, typer.Argument(metavar="FILE|APP", help="an app file, '-', or an app")],
    image: Annotated[str | None, typer.Option(help="instead of the image in the spec")] = None,
    force: Force = False,
) -> None:
    """What `deploy` would do, where each instance would go, and why some would not; nothing is done."""
    context = context_of(ctx)
    file = spec_file.read(what, context.settings.bu) if spec_file.is_file(what) else None
    app = file.app if file else context.settings.app(what)
    _dry_run(context, app, file.spec if file else None, image, force)


async def write_spec(client: GantryClient, context: Context, app: str, spec: AppSpec) -> None:
    """Write the spec unless it stands there already. Raises Stale when somebody else writes at the same time."""
    try:
        known, etag = await client.app(app)
    except NotFound:
        await client.put_app(app, spec)
        context.printer.note(f"{app}: made")
        return
    if changes(known.spec, spec):
        await client.put_app(app, spec, if_match=etag)
        context.printer.note(f"{app}: spec written")


def changes(known: dict[str, Any], spec: AppSpec | JobSpec) -> dict[str, tuple[Any, Any]]:
    """The spec's fields that differ from what is known: before and after."""
    after = spec.model_dump(mode="json", by_alias=True)
    was = type(spec).model_validate(known, extra="ignore")
    before = was.model_dump(mode="json", by_alias=True)
    names = dict.fromkeys((*before, *after))  # what is empty may be left out
    pairs = {name: (before.get(name), after.get(name)) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _dry_run(
    context: Context, app: str, spec: AppSpec | None, image: str | None, force: bool
) -> None:
    printer = context.printer

    async def run(client: GantryClient) -> tuple[bool, dict[str, tuple[Any, Any]], Plan]:
        plan = await client.plan(app, image=image, spec=spec, force=force)
        if spec is None:
            return False, {}, plan
        try:
            known, _ = await client.app(app)
        except NotFound:
            after = spec.model_dump(mode="json", by_alias=True, exclude_defaults=True)
            return True, {name: (None, value) for name, value in after.items()}, plan
        return False, changes(known.spec, spec), plan

    made, diff, plan = context.ask(run)
    if printer.is_json:
        shown = {name: {"before": old, "after": new} for name, (old, new) in diff.items()}
        printer.json({"app": app, "spec": shown, "plan": plan.model_dump(mode="json")})
        return
    if made:
        printer.say(f"{app} would be made")
    for name, (before, after) in diff.items():
        printer.say(f"{name}: {before!r} -> {after!r}")
    show_plan(printer, plan)


def show_plan(printer: Printer, plan: Plan) -> None:
    """A plan in lines: what changes, in which steps, and how it would end."""
    content = plan.model_dump(mode="json")
    if content.get("refused"):
        printer.say(f"nothing would be done: {content['refused']}")
        return
    for name in ("release", "image", "wanted"):
        if content.get(name) is not None:
            printer.say(f"{name}: {content[name]}")
    for n, step in enumerate(content.get("steps") or (), 1):
        told = ", ".join(f"{value} {name}" for name, value in step.items())
        printer.say(f"step {n}: {told}")
    if content.get("ends"):
        printer.say(f"ends: {content['ends']}")
    for place in plan.places:
        zone = f" (zone {place.zone})" if place.zone else ""
        printer.say(f"{place.count} on {place.hostname}{zone}")
    if plan.unplaced:
        nearest = plan.why.nearest if plan.why is not None else "nobody knows why"
        printer.say(f"{plan.unplaced} would wait: {nearest}")
        if plan.why is not None and plan.why.counts:
            printer.say(f"of {plan.why.agents} agents failed: {plan.why.counts}")
    if plan.incomplete:
        printer.say(f"where instances would go is not known: {', '.join(plan.incomplete)} away")


def apps(ctx: typer.Context) -> None:
    """All apps."""
    context = context_of(ctx)
    answer = context.ask(lambda client: client.apps())
    columns = (
        Column("APP", lambda a: a.app),
        Column("RELEASE", lambda a: _extra(a, "release"), right=True),
        Column("WANTED", lambda a: _extra(a, "wanted"), right=True),
        Column("NETWORK", lambda a: a.spec.get("network")),
        Column("VERSION", lambda a: a.version, wide=True, right=True),
        Column("IMAGE", lambda a: a.spec.get("image")),
    )
    context.printer.rows(answer, answer.apps, columns, "no apps")


def ps(
    ctx: typer.Context,
    app: Annotated[str, typer.Argument(metavar="[APP]", help="of this app only")] = "",
) -> None:
    """Instances: what runs where, and why something waits."""
    context = context_of(ctx)
    name = context.settings.app(app) if app else ""
    answer = context.ask(lambda client: client.instances(name))
    columns = (
        Column("INSTANCE", lambda i: i.instance),
        Column("RELEASE", lambda i: i.release, right=True),
        Column("STATE", lambda i: i.state),
        Column("HOST", lambda i: i.hostname),
        Column("ADDRESS", lambda i: i.address),
        Column("CONTAINER", lambda i: i.container, wide=True),
        Column("AGENT", lambda i: i.agent, wide=True),
        Column("WHY", lambda i: i.waiting or _extra(i, "leaving") or _extra(i, "last_exit") or ""),
        Column(
            "AGENTS THAT FAILED",
            lambda i: i.why.counts if i.why is not None else "",
            wide=all(each.why is None for each in answer.instances),
        ),
    )
    context.printer.rows(answer, answer.instances, columns, "no instances")


def releases(ctx: typer.Context, app: AppArgument) -> None:
    """An app's releases, newest first."""
    context = context_of(ctx)
    name = context.settings.app(app)
    answer = context.ask(lambda client: client.releases(name))
    columns = (
        Column("RELEASE", lambda r: r.release, right=True),
        Column("CREATED", lambda r: time_of(r.created_at)),
        Column("BY", lambda r: r.actor),
        Column("DEPLOYMENT", lambda r: _extra(r, "deployment"), wide=True),
        Column("IMAGE", lambda r: r.image),
    )
    context.printer.rows(answer, answer.releases, columns, "no releases")


def scale(
    ctx: typer.Context,
    app: AppArgument,
    instances: Annotated[int, typer.Argument(min=0, max=10_000)],
    detach: Detach = False,
    force: Force = False,
    break_glass: BreakGlass = False,
    reason: Reason = "",
    timeout: TimeOut = None,
) -> None:
    """Change how many instances there shall be."""
    why = glass(break_glass, reason)
    _change(
        ctx,
        app,
        lambda client, name: client.scale(name, instances, force=force, break_glass=why),
        detach,
        timeout,
        why,
    )


def rollback(
    ctx: typer.Context,
    app: AppArgument,
    release: Annotated[
        int | None, typer.Option("--release", "-r", min=1, help="default: the one before")
    ] = None,
    detach: Detach = False,
    force: Force = False,
    break_glass: BreakGlass = False,
    reason: Reason = "",
    timeout: TimeOut = None,
) -> None:
    """Go back to a release."""
    why = glass(break_glass, reason)
    _change(
        ctx,
        app,
        lambda client, name: client.rollback(name, release, force=force, break_glass=why),
        detach,
        timeout,
        why,
    )


def restart(
    ctx: typer.Context,
    app: AppArgument,
    detach: Detach = False,
    force: Force = False,
    break_glass: BreakGlass = False,
    reason: Reason = "",
    timeout: TimeOut = None,
) -> None:
    """Replace all instances by new ones of the same release."""
    why = glass(break_glass, reason)
    _change(
        ctx,
        app,
        lambda client, name: client.restart(name, force=force, break_glass=why),
        detach,
        timeout,
        why,
    )


def stop(
    ctx: typer.Context,
    app: AppArgument,
    detach: Detach = False,
    force: Force = False,
    break_glass: BreakGlass = False,
    reason: Reason = "",
    timeout: TimeOut = None,
) -> None:
    """Stop all instances; the app and its releases stay."""
    why = glass(break_glass, reason)
    _change(
        ctx,
        app,
        lambda client, name: client.stop(name, force=force, break_glass=why),
        detach,
        timeout,
        why,
    )


def glass(break_glass: bool, reason: str) -> str | None:
    """The reason, if the glass is to be broken. Raises InvalidInput for one flag without the other."""
    if break_glass and not reason.strip():
        raise InvalidInput.of("--reason", "is missing", 'with --break-glass: --reason "why"')
    if reason and not break_glass:
        raise InvalidInput.of("--reason", "has no use here", "together with --break-glass")
    return reason if break_glass else None


def _change(
    ctx: typer.Context,
    app: str,
    verb: Callable[[GantryClient, str], Awaitable[Accepted]],
    detach: bool,
    timeout_s: float | None,
    why: str | None,
) -> None:
    """Ask for a deployment that takes the spec as it stands; `why` the glass is broken, if it is."""
    context = context_of(ctx)
    name = context.settings.app(app)
    run_deployment(
        context,
        name,
        lambda client: verb(client, name),
        detach=detach,
        timeout_s=timeout_s,
        break_glass=why is not None,
    )


def _extra(view: Any, name: str) -> Any:
    return (view.model_extra or {}).get(name)
