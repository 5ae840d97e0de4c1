"""What a run writes, while it is under way."""

from __future__ import annotations

from contextlib import aclosing

from libs.cli.job_text import describe_run
from libs.cli.output import Printer
from libs.client import GantryClient
from libs.client.jobs import ENDED, RunView
from libs.common.clock import SystemClock
from libs.common.errors import Conflict, NotFound

POLL_S = 0.5


async def so_far(client: GantryClient, run: RunView) -> RunView:
    """A run that has not ended, with what its present try has written."""
    try:
        async with aclosing(client.jobs.output(run.job, run.run)) as lines:
            text = "".join([f"{each.get('line', '')}\n" async for each in lines])
    except NotFound:  # of an older server: its output comes with its end
        return run
    return run.model_copy(update={"output": text})


async def follow(client: GantryClient, printer: Printer, run: RunView) -> None:
    """Print what a run writes, by all tries that are to come, until it has ended."""
    clock, told = SystemClock(), 0  # the try whose lines were printed
    while run.state not in ENDED:
        # A try that was followed to its end may stand there as running for a moment.
        if run.state == "running" and run.tries != told and await _print(client, printer, run):
            told = run.tries
        await clock.sleep(POLL_S)
        run = await client.jobs.one_run(run.run)
    if told != run.tries:
        show(printer, run)
    else:
        printer.note(describe_run(run))


async def _print(client: GantryClient, printer: Printer, run: RunView) -> bool:
    """The present try's lines until it ends; was there any?"""
    some = False
    try:
        async with aclosing(client.jobs.output(run.job, run.run, follow=True)) as lines:
            async for each in lines:
                some = True
                if printer.is_json:
                    printer.line(each)
                else:
                    _write(printer, f"{each.get('line', '')}\n")
    except Conflict:
        return False  # it waits again
    return some


def show(printer: Printer, run: RunView) -> None:
    """What is known of a run's output, and how it stands."""
    if printer.is_json:
        printer.json(run)
        return
    text = run.output
    _write(printer, text if text.endswith("\n") or not text else f"{text}\n")
    printer.note(describe_run(run))


def _write(printer: Printer, text: str) -> None:
    printer.out.file.write(text)
    printer.out.file.flush()
