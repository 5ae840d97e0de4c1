"""Results as tables, wide tables or JSON; errors in words, with the request id."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson
from pydantic import BaseModel
from rich.console import Console
from rich.table import Table
from rich.text import Text

from libs.cli.settings import Output
from libs.common.errors import GantryError, InvalidInput

STYLES = {
    "healthy": "green",
    "succeeded": "green",
    "up": "green",
    "running": "green",
    "unhealthy": "red",
    "failed": "red",
    "firing": "red",
    "lost": "red",
    "quarantined": "red",
    "allocated": "green",
    "held": "cyan",
    "cooling": "blue",
    "reserved": "magenta",
    "exited": "red",
    "rolled_back": "yellow",
    "aborted": "yellow",
    "rolling_back": "yellow",
    "paused": "yellow",
    "requested": "yellow",
    "draining": "yellow",
    "stopping": "yellow",
}


@dataclass(frozen=True)
class Column:
    """A column: its head and what it shows of a row. `wide` ones are left out of plain tables."""

    head: str
    show: Callable[[Any], object]
    wide: bool = False
    right: bool = False


class Printer:
    """Prints to `out`; what is said about results goes to `err`."""

    def __init__(self, output: Output, out: Console, err: Console) -> None:
        self.output = output
        self.out = out
        self.err = err

    @property
    def is_json(self) -> bool:
        """Results go to a program."""
        return self.output is Output.JSON

    def json(self, content: BaseModel | Mapping[str, Any] | Sequence[Any]) -> None:
        """JSON, indented, as it is: no colours, no folding."""
        plain = content.model_dump(mode="json") if isinstance(content, BaseModel) else content
        text = orjson.dumps(plain, option=orjson.OPT_INDENT_2).decode()
        self.out.file.write(text + "\n")

    def line(self, content: BaseModel | Mapping[str, Any]) -> None:
        """JSON on one line, for streams."""
        plain = content.model_dump(mode="json") if isinstance(content, BaseModel) else content
        self.out.file.write(orjson.dumps(plain).decode() + "\n")
        self.out.file.flush()

    def rows(
        self, answer: BaseModel, rows: Sequence[Any], columns: Sequence[Column], empty: str
    ) -> None:
        """A table of rows, or the whole answer as JSON."""
        missing = getattr(answer, "incomplete", ())
        if missing:
            self.note(f"no answer from {', '.join(missing)}: this may be incomplete")
        if self.is_json:
            self.json(answer)
            return
        if not rows:
            self.note(empty)
            return
        shown = [each for each in columns if not each.wide or self.output is Output.WIDE]
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in shown:
            last = column is shown[-1]
            table.add_column(
                column.head,
                justify="right" if column.right else "left",
                overflow="fold" if last else "ellipsis",
                no_wrap=not last,
            )
        for row in rows:
            table.add_row(*(cell(column.show(row)) for column in shown))
        self.out.print(table)

    def say(self, text: str) -> None:
        """A result in words."""
        if not self.is_json:
            self.out.print(Text(text))

    def tell(self, content: BaseModel | Mapping[str, Any], text: str) -> None:
        """A result: its data for a program, in words for a person."""
        if self.is_json:
            self.json(content)
        self.say(text)

    def note(self, text: str) -> None:
        """Something about the results."""
        self.err.print(Text(text, style="dim"))

    def error(self, error: GantryError) -> None:
        """What went wrong, and what would be right."""
        if self.is_json:
            self.err.file.write(orjson.dumps(_as_data(error)).decode() + "\n")
            return
        if isinstance(error, InvalidInput):
            for each in error.problems:
                said = not each.expected or each.expected in each.problem
                hint = "" if said else f" (expected: {each.expected})"
                self.err.print(
                    Text.assemble(("error: ", "bold red"), f"{each.field}: {each.problem}{hint}")
                )
        else:
            self.err.print(
                Text.assemble(("error: ", "bold red"), str(error) or type(error).__name__)
            )
        for note in getattr(error, "__notes__", ()):
            self.note(note)


def _as_data(error: GantryError) -> Mapping[str, Any]:
    data: dict[str, Any] = {"error": type(error).__name__, "detail": str(error)}
    if isinstance(error, InvalidInput):
        data["errors"] = [
            {"field": p.field, "problem": p.problem, "expected": p.expected} for p in error.problems
        ]
    for note in getattr(error, "__notes__", ()):
        name, found, value = note.partition(": ")
        if found:
            data[name.replace(" ", "_")] = value
    return data


def cell(value: object) -> Text:
    """A value as a table shows it."""
    if value is None or value == "":
        return Text("-", style="dim")
    text = str(value)
    return Text(text, style=STYLES.get(text, ""))


def time_of(seconds: float | None) -> str:
    """A time, UTC."""
    if not seconds:
        return ""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def number(value: float | None, digits: int = 1) -> str:
    """A number without needless digits."""
    return "" if value is None else f"{value:,.{digits}f}".removesuffix("." + "0" * digits)
