"""`gantry`: where the command begins.

Global options may stand anywhere on the line. Errors of `libs/common/errors` become one line on standard error and the
exit code of `exits.py`. What other modules add (`up`, `demo`) comes in by `EXTRAS`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, TextIO

import typer
from rich.console import Console

from libs.cli import (
    address_cmd,
    apps_cmd,
    breaker_cmd,
    cluster_cmd,
    dead_cmd,
    doctor_cmd,
    exits,
    host_cmd,
    job_cmd,
    keys_cmd,
    local_cmd,
    network_cmd,
    node_cmd,
    observe_cmd,
    producer_cmd,
    rollout_cmd,
    scheduler_cmd,
    secret_cmd,
    up,
    vault_cmd,
)
from libs.cli.context import Context
from libs.cli.exits import Exit, exit_of
from libs.cli.output import Printer
from libs.cli.settings import Flags, Output, Settings, resolve
from libs.common.errors import GantryError

Extra = Callable[[typer.Typer], None]
"""Adds commands to the application: `register(app)` of a module such as `libs/cli/up.py`."""

EXTRAS: tuple[Extra, ...] = (up.register,)

_COMMANDS = (
    apps_cmd,
    rollout_cmd,
    job_cmd,
    observe_cmd,
    cluster_cmd,
    network_cmd,
    node_cmd,
    address_cmd,
    breaker_cmd,
    scheduler_cmd,
    dead_cmd,
    keys_cmd,
    producer_cmd,
    host_cmd,
    secret_cmd,
    vault_cmd,
    local_cmd,
    doctor_cmd,
)
_GLOBAL = ("-o", "--output", "--url", "--key-file", "--bu")
_EPILOG = exits.HELP
PIPE_WIDTH = 10_000  # what reads a pipe wants whole lines


def make_app(extras: Sequence[Extra] = EXTRAS) -> typer.Typer:
    """The application with all its commands."""
    app = typer.Typer(
        name="gantry",
        help="Releases in seconds, one routable address per container.",
        epilog=_EPILOG,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
    )
    app.callback()(_global_options)
    for module in _COMMANDS:
        module.register(app)
    for extra in extras:
        extra(app)
    return app


def _global_options(
    ctx: typer.Context,
    url: Annotated[
        str, typer.Option(help="the server; else GANTRY_URL, else the config file")
    ] = "",
    key_file: Annotated[
        Path | None,
        typer.Option(help="file with the API key; else GANTRY_KEY, GANTRY_KEY_FILE, config file"),
    ] = None,
    bu: Annotated[str, typer.Option(help="business unit of names without one")] = "",
    output: Annotated[
        Output | None, typer.Option("--output", "-o", help="how results are printed")
    ] = None,
) -> None:
    """See `make_app`."""
    streams = ctx.find_object(Streams) or Streams()
    settings = resolve(Flags(url, key_file, bu, output), streams.environ)
    ctx.obj = Context(settings, streams.printer(settings))


class Streams:
    """Where the command reads its environment and writes its output."""

    def __init__(
        self,
        out: TextIO | None = None,
        err: TextIO | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._out = out or sys.stdout
        self._err = err or sys.stderr
        self.environ = os.environ if environ is None else environ
        self.output = Output.TABLE

    def printer(self, settings: Settings | None = None) -> Printer:
        """A printer to these streams; the one for errors when no settings could be made."""
        if settings is not None:
            self.output = settings.output
        plain = "NO_COLOR" in self.environ or self.environ.get("TERM") == "dumb"
        return Printer(
            self.output,
            Console(
                file=self._out,
                no_color=plain,
                highlight=False,
                width=None if self._out.isatty() else PIPE_WIDTH,
                _environ=dict(self.environ),
            ),
            Console(
                file=self._err,
                no_color=plain,
                highlight=False,
                soft_wrap=True,
                _environ=dict(self.environ),
            ),
        )


def hoist(argv: Sequence[str]) -> list[str]:
    """The arguments with the global options first, wherever they stood before a `--`."""
    front: list[str] = []
    rest: list[str] = []
    given = iter(argv)
    for each in given:
        if each == "--":
            rest += [each, *given]
        elif each in _GLOBAL:
            front += [each, *(value for value in [next(given, None)] if value is not None)]
        elif each.partition("=")[0] in _GLOBAL or (each.startswith("-o") and len(each) > 2):
            front.append(each)
        else:
            rest.append(each)
    return [*front, *rest]


def run(
    argv: Sequence[str], streams: Streams | None = None, extras: Sequence[Extra] = EXTRAS
) -> int:
    """Run one command and return its exit code."""
    streams = streams or Streams()
    command = typer.main.get_command(make_app(extras))
    try:
        result = command.main(hoist(argv), "gantry", standalone_mode=False, obj=streams)
    except GantryError as error:
        streams.printer().error(error)
        return exit_of(error)
    except typer.TyperException as error:
        _show_usage(error)
        return Exit.USAGE
    except (typer.Abort, KeyboardInterrupt):
        streams.printer().note("interrupted; what was asked for goes on")
        return Exit.INTERRUPTED
    except BrokenPipeError:  # the reader of our output left
        sys.stderr.close()
        return Exit.OK
    return result if isinstance(result, int) else Exit.OK


def _show_usage(error: typer.TyperException) -> None:
    show = getattr(error, "show", None)  # those about the line itself also tell how it is meant
    if show is not None:
        show()
    else:
        sys.stderr.write(f"{error.format_message()}\n")


def main() -> None:
    """The entry point of the `gantry` command."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
