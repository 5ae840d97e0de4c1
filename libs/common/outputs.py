"""What runs in shared containers write: the executor says where it is, hostd reads it while they run.

A shared container has a place, a directory of root's alone that its init writes into: `out/<cell>` has what the task in
that cell writes, and `out/<cell>.1` what it wrote before, when that was much. `tasks/<task>` is a link to the first:
the executor makes it, and removes it when it has saved the task's end. So either may begin anew, and neither asks the
other. Of a task that wrote much the files stay beside that link for a moment: a reader may not have opened the last.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Collection
from contextlib import suppress
from io import FileIO
from pathlib import Path
from urllib.parse import quote, unquote

from libs.common.errors import NotFound

OUT, TASKS = "out", "tasks"
END = "end:"  # no task's name begins so: there is no colon in what is quoted
KEPT_S = 5.0
CHUNK = 64 * 1024
_CELL = re.compile(r"c[0-9]+")


def place_of(directory: Path, container: str) -> Path:
    """The place of a shared container, below the directory of all of them."""
    return directory / quote(container, safe="")


class Entries:
    """A place's `tasks`. Nothing depends on them: what can't be written is its reader's loss."""

    def __init__(self, place: Path) -> None:
        self._directory = place / TASKS
        self._ends: list[Path] = []

    def add(self, task: str, cell: str) -> None:
        """The task is in the cell."""
        link, target = self._directory / quote(task, safe=""), f"../{OUT}/{cell}"
        with suppress(OSError):
            if link.is_symlink() and str(link.readlink()) == target:
                return
            self._directory.mkdir(mode=0o700, exist_ok=True)
            link.unlink(missing_ok=True)
            link.symlink_to(target)
            if self._ends:
                self._clear(link.lstat().st_ctime)

    def remove(self, task: str) -> None:
        """The task is over, and its output about to go. Files that a reader may not know yet stay for KEPT_S."""
        link = self._directory / quote(task, safe="")
        with suppress(OSError):
            newest = self._directory / link.readlink()
            if _older(newest).exists():
                for end, file in zip(_ends(link), (_older(newest), newest), strict=True):
                    end.hardlink_to(file)
                    self._ends.append(end)
                self._clear(self._ends[-1].lstat().st_ctime)
        with suppress(OSError):
            link.unlink(missing_ok=True)

    def keep(self, tasks: Collection[str]) -> None:
        """These are all that there are."""
        kept = {quote(each, safe="") for each in tasks}
        self._ends.clear()
        with suppress(OSError):
            for each in list(self._directory.iterdir()):
                if each.name not in kept:
                    each.unlink(missing_ok=True)

    def _clear(self, now: float) -> None:
        old = [each for each in self._ends if each.lstat().st_ctime < now - KEPT_S]
        for each in old:
            each.unlink(missing_ok=True)
            self._ends.remove(each)


class Output:
    """What a run's newest try writes, from the first that is kept. Raises NotFound: there is none in this place."""

    def __init__(self, place: Path, run: str) -> None:
        self._link = _newest(place / TASKS, run)
        try:
            cell = self._link.readlink().name
        except OSError:
            raise NotFound(f"{run} has just ended") from None
        if not _CELL.fullmatch(cell):
            raise NotFound(f"{run} is in no cell")
        self._path = place / OUT / cell
        self._files: list[FileIO] = []
        self._doubtful: FileIO | None = None
        self.gaps = 0
        """How often so much was written between two reads that there may have been more before the last answer."""
        self._turned()

    def over(self) -> bool:
        """Is its end saved: nothing more is written. To be asked before a last `read`."""
        return not self._link.is_symlink()

    def read(self) -> bytes:
        """The next, at most CHUNK bytes; b"": there is no more now. See `gaps`."""
        while True:
            if self._files and (chunk := self._files[0].read(CHUNK)):
                return chunk
            if len(self._files) > 1:
                self._files.pop(0).close()
                if self._files[0] is self._doubtful:
                    self.gaps += 1
            elif not self._turned():
                return b""

    def _turned(self) -> bool:
        """Does it write into another file than the one that was read? That one is read to its end first."""
        older, newest = _ends(self._link) if self.over() else (_older(self._path), self._path)
        try:
            now = newest.lstat()
        except OSError:
            return False  # it is between two names; or over, and there never was another
        if self._files and _same(self._files[-1], now):
            return False
        before = len(self._files)
        for each in (older, newest):
            found = _open(each)
            if found is not None and not any(_is(found, known) for known in self._files):
                self._files.append(found)
            elif found is not None:
                found.close()
        # The one before the newest is neither read nor known: nobody can tell how many there were.
        if before and len(self._files) == before + 2:
            self._doubtful = self._files[before]
        return len(self._files) > before

    def close(self) -> None:
        """Close what is open."""
        while self._files:
            self._files.pop().close()


def _older(file: Path) -> Path:
    """Where the file is that was full."""
    return file.with_name(f"{file.name}.1")


def _ends(link: Path) -> tuple[Path, Path]:
    """Where the older and the newer file are for a moment when their task is over."""
    return link.with_name(f"{END}1:{link.name}"), link.with_name(f"{END}2:{link.name}")


def _newest(tasks: Path, run: str) -> Path:
    """The link of the run's newest try: a task is called `<run>.<number>`."""
    tries: dict[int, Path] = {}
    with suppress(OSError):
        for each in tasks.iterdir():
            name, _, number = unquote(each.name).rpartition(".")
            if name == run and number.isdecimal() and not each.name.startswith(END):
                tries[int(number)] = each
    if not tries:
        raise NotFound(f"{run} does not run in there")
    return tries[max(tries)]


def _open(file: Path) -> FileIO | None:
    """A plain file, and no link to one."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    opened = FileIO(descriptor)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        opened.close()
        return None
    return opened


def _same(file: FileIO, other: os.stat_result) -> bool:
    return os.path.samestat(os.fstat(file.fileno()), other)


def _is(file: FileIO, other: FileIO) -> bool:
    return _same(file, os.fstat(other.fileno()))
