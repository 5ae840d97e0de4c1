"""`gantry job`: jobs that run by a schedule, after others, or when asked to; and their runs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar

import typer

from libs.cli import job_output, job_text, job_times, spec_file
from libs.cli.apps_cmd import TimeOut, changes
from libs.cli.context import Context, context_of
from libs.cli.exits import RunFailed
from libs.cli.output import Printer, time_of
from libs.cli.spec_file import JobFile
from libs.client import GantryClient
from libs.client.jobs import ENDED, JOB_STATES, JobChecked, JobRequestView, JobView, RunView
from libs.client.model import View
from libs.common.clock import SystemClock
from libs.common.errors import Conflict, InvalidInput, NotFound, TimedOut, Unavailable

job = typer.Typer(
    help="Jobs: what runs by a schedule, after other jobs, or when asked to.", no_args_is_help=True
)
JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="bu/job, or job with --bu")]
RunArgument = Annotated[str, typer.Argument(metavar="[RUN]", help="a run, as `history` shows it")]
FileArgument = Annotated[str, typer.Argument(metavar="FILE", help="a job file, or '-'")]
ViewT = TypeVar("ViewT", bound=View)

PAGE = 20  # runs that are asked for at once; each may bring 8 KiB of output
POLL_S = 1.0
SETTLE_S = 60.0  # so long a change may take until it is said to take too long


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(job, name="job")


# -- writing ---------------------------------------------------------------------------------------


@job.command()
def put(
    ctx: typer.Context,
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="job files, or '-'")],
) -> None:
    """Write jobs from files, in their order: make them, or change them. What runs goes on as it began."""
    context = context_of(ctx)
    read = [_read(each, context) for each in files]  # all of them, before the first is written

    async def run(client: GantryClient) -> list[JobView]:
        return [await _put(client, context.printer, each) for each in read]

    written = context.ask(run)
    if context.printer.is_json:
        shown = [each.model_dump(mode="json") for each in written]
        context.printer.json(shown if len(shown) > 1 else shown[0])


async def _put(client: GantryClient, printer: Printer, file: JobFile) -> JobView:
    try:
        known: JobView | None = await client.jobs.job(file.job)
    except NotFound:
        known = None
    written = await _settled(client, printer, await client.jobs.put(file.job, file.spec))
    view = written if isinstance(written, JobView) else await client.jobs.job(file.job)
    printer.say(f"{file.job}: {_next(view)}" if known else f"{file.job}: made; {_next(view)}")
    if known is not None:
        diff = changes(known.spec, file.spec)
        for name, (before, after) in diff.items():
            printer.say(f"  {name}: {before!r} -> {after!r}")
        if known.image != view.image:
            printer.say(f"  image is now {view.image}")
        elif not diff:
            printer.say("  nothing differs")
    return view


def _next(view: JobView) -> str:
    coming = f"next {time_of(view.next)}" if view.next else job_text.when(view)
    return f"version {view.version}, {view.state}, {coming}"


@job.command()
def validate(
    ctx: typer.Context,
    file: FileArgument,
    zone: Annotated[
        str, typer.Option(help="show times in this zone besides; default: this machine's")
    ] = "",
) -> None:
    """Check a job file here and, when it can be reached, at the server; show its next five times. Nothing is stored."""
    context = context_of(ctx)
    printer = context.printer
    reader = job_times.zone_of(zone)
    read = _read(file, context)
    times = job_times.next_times(read.job, read.spec, SystemClock().now())
    checked, why = _at_the_server(context, read)
    if printer.is_json:
        found = checked.model_dump(mode="json") if checked is not None else None
        printer.json({"job": read.job, "next": times, "server": found, "unchecked": why})
        return
    printer.say(f"{read.job}: {read.spec.schedule} in {read.spec.time_zone}" if times else read.job)
    for line in job_times.lines(times, read.spec.time_zone, reader):
        printer.say(f"  {line}")
    if not times:
        after = ", ".join(read.spec.parents)
        never = "its schedule has ended" if read.spec.schedule is not None else "when asked to"
        printer.say(f"  runs after {after}" if after else f"  {never}")
    if checked is None:
        printer.note(f"checked here only: {why}")
        return
    told = ", ".join(checked.changes)
    printer.say(
        f"the server would take it; what differs: {told}" if told else "it stands so already"
    )


def _at_the_server(context: Context, file: JobFile) -> tuple[JobChecked | None, str]:
    """What the server finds; None and why not when it can't be asked. Raises what it refuses by."""
    if not context.settings.key:
        return None, "there is no API key"
    try:
        return context.ask(lambda client: client.jobs.validate(file.job, file.spec)), ""
    except Unavailable as error:
        return None, str(error)


def _read(file: str, context: Context) -> JobFile:
    """A job file whose schedule can be read. Raises InvalidInput naming the field, with a note that names the file."""
    try:
        read = spec_file.read_job(file, context.settings.bu)
        job_times.next_times(read.job, read.spec, 0.0, count=1)
    except InvalidInput as error:
        error.add_note(f"in: {file}")
        raise
    return read


@job.command()
def pause(ctx: typer.Context, job: JobArgument) -> None:
    """Start nothing of a job any more; what runs goes on."""
    _change(ctx, job, lambda client, name: client.jobs.pause(name))


@job.command()
def resume(ctx: typer.Context, job: JobArgument) -> None:
    """Let a job that is paused, or was disabled, go on."""
    _change(ctx, job, lambda client, name: client.jobs.resume(name))


@job.command()
def kill(ctx: typer.Context, job: JobArgument, run: RunArgument = "") -> None:
    """End a run of a job, or all that run or wait; the job stays."""
    if not run:
        _change(ctx, job, lambda client, name: client.jobs.kill(name))
        return
    context = context_of(ctx)
    name = context.settings.job(job)

    async def end(client: GantryClient) -> RunView:
        await _of_job(client, name, run)
        settled = await _settled(client, context.printer, await client.jobs.kill_run(run))
        return settled if isinstance(settled, RunView) else await client.jobs.one_run(run)

    ended = context.ask(end)
    context.printer.tell(ended, job_text.describe_run(ended))


@job.command()
def rm(ctx: typer.Context, job: JobArgument) -> None:
    """Delete a job, and end what runs of it."""
    context = context_of(ctx)
    name = context.settings.job(job)

    async def remove(client: GantryClient) -> JobRequestView:
        return await _settled(client, context.printer, await client.jobs.remove(name))

    context.printer.tell(context.ask(remove), f"{name}: removed")


# -- reading ---------------------------------------------------------------------------------------


@job.command("ls")
def list_jobs(
    ctx: typer.Context,
    state: Annotated[str, typer.Option(help=f"only those that are {', '.join(JOB_STATES)}")] = "",
) -> None:
    """All jobs (of the unit of --bu): when they run next, and how they went last. Times are UTC."""
    context = context_of(ctx)
    if state not in ("", *JOB_STATES):
        raise InvalidInput.of("--state", f"{state!r} is not one", ", ".join(JOB_STATES))
    answer = context.ask(lambda client: client.jobs.jobs(context.settings.bu))
    kept = tuple(each for each in answer.jobs if state in ("", each.state))
    answer = answer.model_copy(update={"jobs": kept})
    context.printer.rows(answer, answer.jobs, job_text.job_columns(), "no jobs")


@job.command()
def show(ctx: typer.Context, job: JobArgument) -> None:
    """A job: its state, its next and last runs, its spec. Times are UTC."""
    context = context_of(ctx)
    name = context.settings.job(job)
    view = context.ask(lambda client: client.jobs.job(name))
    context.printer.tell(view, "\n".join(job_text.describe(view)))


@job.command()
def history(
    ctx: typer.Context,
    job: JobArgument,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1000)] = 20,
    before: Annotated[str, typer.Option(help="those before this run")] = "",
) -> None:
    """A job's runs, newest first; the scheduler keeps the last 100, unless it is told otherwise. Times are UTC."""
    context = context_of(ctx)
    name = context.settings.job(job)
    answer = context.ask(lambda client: client.jobs.runs(name, limit=limit, before=before))
    context.printer.rows(answer, answer.runs, job_text.run_columns(), "no runs yet")


@job.command()
def logs(
    ctx: typer.Context,
    job: JobArgument,
    run: RunArgument = "",
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="go on as it writes more, until it has ended")
    ] = False,
) -> None:
    """What a run writes to both its outputs, and the last of it once it has ended: by default of the newest begun."""
    context = context_of(ctx)
    printer, name = context.printer, context.settings.job(job)

    async def print_it(client: GantryClient) -> None:
        found = await (_of_job(client, name, run) if run else _newest_begun(client, name))
        if follow and found.state not in ENDED:
            await job_output.follow(client, printer, found)
            return
        if found.state not in ENDED:
            found = await job_output.so_far(client, found)
        job_output.show(printer, found)

    context.ask(print_it)


@job.command()
def stats(ctx: typer.Context, job: JobArgument) -> None:
    """How a job's runs went that are kept, and how long the successful ones took."""
    context = context_of(ctx)
    name = context.settings.job(job)
    found = context.ask(lambda client: client.jobs.stats(name))
    context.printer.tell(found, "\n".join(job_text.describe_stats(name, found)))


# -- running ---------------------------------------------------------------------------------------


@job.command()
def run(
    ctx: typer.Context,
    job: JobArgument,
    wait: Annotated[
        bool, typer.Option("--wait", "-w", help="until it has ended; exit 1 if it did not succeed")
    ] = False,
    timeout: TimeOut = None,
) -> None:
    """Run a job now. Exit 1 when it is missed at once, such as while another run is under way."""
    context = context_of(ctx)
    printer, name = context.printer, context.settings.job(job)

    async def begin(client: GantryClient) -> RunView:
        begun = await _settled(client, printer, await client.jobs.run(name))
        if isinstance(begun, JobRequestView):
            begun = await client.jobs.one_run(begun.run)
        if not wait:
            return begun
        printer.note(f"{begun.run} of {name}")
        return await _ended(client, begun, timeout)

    found = context.ask(begin)
    if wait:
        job_output.show(printer, found)
    else:
        printer.tell(found, job_text.describe_run(found))
    if found.state in ENDED and found.state != "succeeded":  # it may be missed at once
        raise RunFailed(job_text.describe_run(found))


async def _ended(client: GantryClient, run: RunView, timeout_s: float | None) -> RunView:
    """The run once it has ended. Raises TimedOut; it goes on then."""
    clock = SystemClock()
    try:
        async with asyncio.timeout(timeout_s):
            while run.state not in ENDED:
                await clock.sleep(POLL_S)
                run = await client.jobs.one_run(run.run)
    except TimeoutError:
        raise TimedOut(
            f"{run.run} has not ended within {timeout_s:g} s; it goes on: gantry job history {run.job}"
        ) from None
    return run


# -- parts -----------------------------------------------------------------------------------------


def _change(
    ctx: typer.Context,
    job: str,
    act: Callable[[GantryClient, str], Awaitable[JobView | JobRequestView]],
) -> None:
    context = context_of(ctx)
    name = context.settings.job(job)

    async def run(client: GantryClient) -> JobView:
        settled = await _settled(client, context.printer, await act(client, name))
        return settled if isinstance(settled, JobView) else await client.jobs.job(name)

    view = context.ask(run)
    context.printer.tell(view, f"{name}: {_next(view)}")


async def _newest_begun(client: GantryClient, job: str) -> RunView:
    """The job's newest run that has begun. Raises NotFound."""
    before = ""
    while page := (await client.jobs.runs(job, limit=PAGE, before=before)).runs:
        for each in page:
            if each.started:
                return each
        before = page[-1].run
    raise NotFound(f"no run of {job} has begun yet")


async def _of_job(client: GantryClient, job: str, run: str) -> RunView:
    """The run. Raises NotFound, also for another job's."""
    found = await client.jobs.one_run(run)
    if found.job != job:
        raise NotFound(f"{job} has no run {run!r}; it is of {found.job}")
    return found


async def _settled(
    client: GantryClient, printer: Printer, answer: ViewT | JobRequestView
) -> ViewT | JobRequestView:
    """The answer, once the scheduler has done what was only accepted so far.

    Raises Conflict when it refuses it, TimedOut after SETTLE_S: it may still be done.
    """
    if not isinstance(answer, JobRequestView):
        return answer
    asked, clock = answer, SystemClock()
    until = clock.monotonic() + SETTLE_S
    if asked.state == "accepted":
        printer.note(f"{asked.action} of {asked.job}: accepted; waiting for the scheduler")
    while asked.state == "accepted":
        if clock.monotonic() > until:
            raise TimedOut(f"{asked.action} of {asked.job} is kept, and will be done")
        await clock.sleep(POLL_S)
        asked = await client.jobs.request(asked.request)
    if asked.state == "refused":
        raise Conflict(asked.problem)
    return asked
