"""What runs write, read while they write it: across renames, restarts of the executor, and to the last byte."""

from __future__ import annotations

from pathlib import Path

import pytest

from libs.common import outputs
from libs.common.errors import NotFound
from libs.common.outputs import CHUNK, Entries, Output, place_of


class Cell:
    """A cell's output as `native/cells.c` keeps it."""

    def __init__(self, place: Path, cell: str = "c1") -> None:
        self.file = place / "out" / cell
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.touch()

    def write(self, text: str) -> None:
        with self.file.open("a") as file:
            file.write(text)

    def rename(self) -> None:
        self.file.rename(self.file.with_name(f"{self.file.name}.1"))
        self.file.touch()

    def forget(self) -> None:
        for each in self.file.parent.iterdir():
            each.unlink()


@pytest.fixture
def cell(tmp_path: Path) -> Cell:
    return Cell(tmp_path)


@pytest.fixture
def entries(tmp_path: Path, cell: Cell) -> Entries:
    found = Entries(tmp_path)
    found.add("run.1", cell.file.name)
    return found


def rest(output: Output) -> str:
    """All there is now."""
    return b"".join(iter(output.read, b"")).decode()


def test_it_is_read_as_it_is_written_and_to_its_end(
    tmp_path: Path, cell: Cell, entries: Entries
) -> None:
    cell.write("one ")
    output = Output(tmp_path, "run")
    assert (rest(output), rest(output)) == ("one ", "")
    cell.write("two ")
    assert rest(output) == "two "
    cell.write("last")
    assert not output.over()
    entries.remove("run.1")
    assert output.over()
    cell.forget()
    assert (rest(output), rest(output)) == ("last", "")
    output.close()
    with pytest.raises(NotFound):
        Output(tmp_path, "run")


def test_nothing_is_left_out_or_told_twice_when_files_are_renamed(
    tmp_path: Path, cell: Cell, entries: Entries
) -> None:
    cell.write("a" * CHUNK)
    cell.rename()
    cell.write("b")
    output = Output(tmp_path, "run")
    assert rest(output) == "a" * CHUNK + "b"
    cell.write("c")
    cell.rename()
    assert rest(output) == "c"  # into the old one, before it was renamed
    assert output.gaps == 0
    cell.write("d")
    cell.rename()
    cell.write("e")
    cell.rename()
    cell.write("f")
    assert rest(output) == "def"  # twice since: it may have been more often
    assert output.gaps == 1
    for text in ("g", "h", "i"):
        cell.rename()
        cell.write(text)
    assert rest(output) == "hi" and output.gaps == 2
    output.close()
    late = Output(tmp_path, "run")
    assert rest(late) == "hi" and late.gaps == 0
    late.close()


def test_the_last_file_is_read_though_nobody_had_opened_it(
    tmp_path: Path, cell: Cell, entries: Entries, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell.write("a")
    output = Output(tmp_path, "run")
    assert rest(output) == "a"
    cell.write("b")
    for text in ("c", "d"):
        cell.rename()
        cell.write(text)
    entries.remove("run.1")
    cell.forget()
    assert output.over() and (rest(output), rest(output)) == ("bcd", "")
    output.close()
    for number in (2, 3):
        Cell(tmp_path, f"c{number}")
        entries.add(f"run.{number}", f"c{number}")
    left = {each.name for each in (tmp_path / "tasks").iterdir()}
    assert left == {"end:1:run.1", "end:2:run.1", "run.2", "run.3"}
    entries.remove("run.2")  # it wrote little: there is nothing to keep of it
    monkeypatch.setattr(outputs, "KEPT_S", -1.0)
    entries.add("run.4", "c1")
    left = {each.name for each in (tmp_path / "tasks").iterdir()}
    assert left == {"run.3", "run.4"}


def test_a_file_between_two_names_is_waited_for(
    tmp_path: Path, cell: Cell, entries: Entries
) -> None:
    output = Output(tmp_path, "run")
    cell.write("a")
    older = cell.file.with_name("c1.1")
    cell.file.rename(older)
    assert rest(output) == "a"
    cell.write("b")
    assert (rest(output), rest(output)) == ("b", "")
    output.close()


def test_entries_say_which_try_is_in_which_cell(
    tmp_path: Path, cell: Cell, entries: Entries
) -> None:
    for number, (task, text) in enumerate(
        {"run.9": "nine", "run.10": "ten", "run-2.1": "2"}.items()
    ):
        other = Cell(tmp_path, f"c{number + 2}")
        other.write(text)
        entries.add(task, other.file.name)
    entries.add("run.10", "c3")  # as a worker does that begins anew
    for run, text in (("run", "ten"), ("run-2", "2")):
        output = Output(tmp_path, run)
        assert rest(output) == text
        output.close()
    entries.keep({"run.9"})
    assert [each.name for each in (tmp_path / "tasks").iterdir()] == ["run.9"]
    assert (tmp_path / "tasks").stat().st_mode & 0o077 == 0
    with pytest.raises(NotFound, match="run-2"):
        Output(tmp_path, "run-2")


def test_nothing_else_is_read(tmp_path: Path, cell: Cell, entries: Entries) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hush")
    (tmp_path / "out/c7").symlink_to(secret)
    entries.add("link.1", "c7")
    (tmp_path / "tasks/away.1").symlink_to(secret)
    (tmp_path / "tasks/file.1").write_text("c1")
    output = Output(tmp_path, "link")
    assert rest(output) == ""
    for name in ("away", "file", "nobody", "", "..", "."):
        with pytest.raises(NotFound):
            Output(tmp_path, name)
    with pytest.raises(NotFound):
        Output(place_of(tmp_path, "../x"), "run")
    assert place_of(tmp_path, "a/../b").parent == tmp_path
