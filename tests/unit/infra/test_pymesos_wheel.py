"""The wheel that pip can't build: made of an sdist's Python files, the same everywhere, and pinned."""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
import tomllib
import zipfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import pytest
from http_parser.http import HttpParser

from infra.pymesos import wheel
from tests.unit.infra.compose import REPOSITORY

LOCK = (REPOSITORY / "requirements.lock").read_text()
TOP = "http-parser-0.9.0/"
FILES = {
    "PKG-INFO": b"Metadata-Version: 1.1\nName: http-parser\nVersion: 0.9.0\n",
    "LICENSE": b"MIT\n",
    "setup.py": b"raise SystemExit('nothing of it is run')\n",
    "http_parser/__init__.py": b"",
    "http_parser/pyparser.py": b"class HttpParser: ...\n",
    "http_parser/parser.c": b"#error\n",
    "http_parser/parser.cpython-37m-darwin.so": b"\x00",
    "http_parser/__pycache__/pyparser.cpython-37.pyc": b"\x00",
    "../../outside.py": b"",
}


def _sdist(files: Mapping[str, bytes], mtime: int = 0) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(TOP + name)
            entry.size, entry.mtime = len(content), mtime
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def test_it_holds_the_python_files_and_nothing_else() -> None:
    made = zipfile.ZipFile(io.BytesIO(wheel.wheel(_sdist(FILES))))
    about = {f"http_parser-0.9.0.dist-info/{each}" for each in ("METADATA", "LICENSE", "WHEEL", "RECORD")}  # fmt: skip
    assert set(made.namelist()) == {"http_parser/__init__.py", "http_parser/pyparser.py", *about}
    recorded = made.read("http_parser-0.9.0.dist-info/RECORD").decode().splitlines()
    assert {line.partition(",")[0] for line in recorded} == set(made.namelist())


def test_it_does_not_depend_on_when_and_in_which_order() -> None:
    again = dict(reversed(FILES.items()))
    assert wheel.wheel(_sdist(FILES)) == wheel.wheel(_sdist(again, mtime=1_000_000))


def _nothing() -> bytes:
    raise AssertionError("nothing was to be fetched")


def test_what_is_there_already_is_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And what only seems to be it is not."""
    expected = hashlib.sha256(b"one").hexdigest()
    (tmp_path / wheel.WHEEL).write_bytes(b"one")
    assert wheel.main(tmp_path, _nothing, expected) == 0
    assert capsys.readouterr().out == f"{tmp_path}\n"
    (tmp_path / wheel.WHEEL).write_bytes(b"another")
    with pytest.raises(AssertionError, match="fetched"):
        wheel.main(tmp_path, _nothing, expected)


def test_it_is_put_there_if_it_is_what_it_should_be(tmp_path: Path) -> None:
    packed = _sdist(FILES)
    assert wheel.main(tmp_path / "a", lambda: packed) == 1
    assert not (tmp_path / "a").exists()
    expected = hashlib.sha256(wheel.wheel(packed)).hexdigest()
    assert wheel.main(tmp_path / "a", lambda: packed, expected) == 0
    assert (tmp_path / "a" / wheel.WHEEL).read_bytes() == wheel.wheel(packed)


def test_it_is_what_the_lock_and_the_extra_name() -> None:
    pinned = re.search(rf"^{wheel.NAME}==(\S+) \\\n +--hash=sha256:(\w+)$", LOCK, re.MULTILINE)
    assert pinned and pinned.groups() == (wheel.VERSION, wheel.WHEEL_SHA256)
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    for each in project["optional-dependencies"]["pymesos"]:
        assert f"\n{each} \\\n" in LOCK
        name, _, version = each.partition("==")
        assert metadata.version(name) == version


def test_the_parser_in_use_is_the_one_in_python() -> None:
    assert HttpParser.__module__ == "http_parser.pyparser"
