"""Configuration: defaults < file < environment < flags, and every unknown key is refused.

A configuration is a set of sections, each a pydantic model with `extra="forbid"`. The file is YAML with a mapping a
section; the environment has `GANTRY_<SECTION>__<FIELD>`; flags are `--<section>.<field>=<value>`. From the environment
and flags a field of text (a string, a path, a choice) takes its value as it stands, whatever YAML would make of
`memory:`, `8080` or `yes`; the others are read as YAML, so that lists and mappings can be given too. Secrets come from
files only (`*_file` fields), never by value, so that they can't show up in a process list; for the same reason a URL
with a password in it is taken from the file only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from libs.common.errors import FieldProblem, InvalidInput
from libs.common.problems import invalid

PREFIX = "GANTRY_"
ENVIRONMENT, FLAGS = "the environment", "the flags"
_WITH_PASSWORD = re.compile(r"[a-z+]+://[^/?#]*:[^/?#]*@", re.IGNORECASE)
# Read by the CLI and the tools, not settings of a section. Whole names: what only begins so is a mistake.
NOT_SETTINGS = frozenset(
    {"GANTRY_URL", "GANTRY_KEY", "GANTRY_KEY_FILE", "GANTRY_CONFIG", "GANTRY_CACHE"}
)
_OF_TESTS = "GANTRY_TEST_"
_NOTHING = frozenset({"", "~", "null"})
"""How an optional field of text is given no value."""

Sections = Mapping[str, type[BaseModel]]
Settings = dict[str, BaseModel]


def load(
    sections: Sections,
    *,
    file: Path | None = None,
    environ: Mapping[str, str] | None = None,
    flags: Sequence[str] = (),
) -> Settings:
    """All sections, validated. Raises InvalidInput naming each wrong or unknown key and where it stood."""
    given = _Given(sections)
    if file is not None:
        _from_file(given, file)
    _from_environ(given, environ or {})
    _from_flags(given, flags)
    problems = given.problems
    settings: Settings = {}
    for name, model in sections.items():
        try:
            settings[name] = model.model_validate(given.values[name])
        except ValidationError as error:
            found = invalid(error, prefix=f"{name}.").problems
            problems.extend(given.placed(each) for each in found)
    if problems:
        raise InvalidInput(*problems)
    return settings


@dataclass
class _Given:
    """Values by section and field, each with the place where it stood last, and what can't be any."""

    sections: Sections
    values: dict[str, dict[str, Any]] = field(init=False)
    places: dict[str, str] = field(default_factory=dict)
    problems: list[FieldProblem] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.values = {name: {} for name in self.sections}

    def put(self, section: str, name: str, value: Any, place: str) -> None:
        """Take a value that was read already."""
        if section not in self.values:
            known = ", ".join(sorted(self.values))
            self.wrong(f"{section} (in {place})", "unknown section", f"one of {known}")
            return
        self.values[section][name] = value
        self.places[f"{section}.{name}"] = place

    def put_text(self, section: str, name: str, text: str, where: str, place: str) -> None:
        """Take a value as the environment or a flag has it."""
        model = self.sections.get(section)
        known = model.model_fields.get(name) if model else None
        try:
            value = text.strip() if known is None else _read(text, known.annotation)
        except yaml.YAMLError as error:
            self.wrong(place, f"can't be read: {error}")
            return
        if any(_WITH_PASSWORD.search(each) for each in _texts(value)):
            self.wrong(
                f"{section}.{name}",
                f"a password in {where} can be read by others on this machine",
                "user@host and a file with the password, or the configuration file",
            )
            return
        self.put(section, name, value, place)

    def wrong(self, key: str, problem: str, expected: str = "") -> None:
        """Note what is wrong with a key."""
        self.problems.append(FieldProblem(key, problem, expected))

    def placed(self, problem: FieldProblem) -> FieldProblem:
        """A problem that pydantic found, with the place where the value stood."""
        key = ".".join(problem.field.split(".")[:2])
        place = self.places.get(key)
        text = f"{problem.problem} (in {place})" if place else problem.problem
        return FieldProblem(problem.field, text, problem.expected)


def _from_file(given: _Given, file: Path) -> None:
    try:
        content = yaml.safe_load(file.read_text()) or {}
    except (OSError, yaml.YAMLError) as error:
        raise InvalidInput.of(str(file), f"can't be read: {error}") from None
    if not isinstance(content, dict):
        raise InvalidInput.of(str(file), "is not a mapping of sections")
    for section, values in content.items():
        if not isinstance(values, dict):
            given.wrong(f"{section} (in {file})", "is not a mapping", "key: value lines")
            continue
        for name, value in values.items():
            given.put(str(section), str(name), value, str(file))


def _from_environ(given: _Given, environ: Mapping[str, str]) -> None:
    for name in sorted(environ):
        if not name.startswith(PREFIX) or name in NOT_SETTINGS or name.startswith(_OF_TESTS):
            continue
        section, found, key = name.removeprefix(PREFIX).lower().partition("__")
        if not found:
            given.wrong(name, "is not a setting", f"{PREFIX}<SECTION>__<FIELD>")
            continue
        given.put_text(section, key, environ[name], ENVIRONMENT, f"{ENVIRONMENT}: {name}")


def _from_flags(given: _Given, flags: Sequence[str]) -> None:
    for flag in flags:
        name, found, value = flag.removeprefix("--").partition("=")
        section, dotted, key = name.partition(".")
        if not flag.startswith("--") or not found or not dotted:
            given.wrong(flag, "is not a setting", "--<section>.<field>=<value>")
            continue
        given.put_text(section, key.replace("-", "_"), value, FLAGS, f"{FLAGS}: --{name}")


# -- values ----------------------------------------------------------------------------------------


def _read(text: str, annotation: Any) -> Any:
    """The value for a field of such a type. Raises YAMLError."""
    kinds = set(_kinds(annotation))
    if not _is_text(kinds):
        return yaml.safe_load(text)
    plain = text.strip()
    return None if NoneType in kinds and plain in _NOTHING else plain


def _is_text(kinds: set[Any]) -> bool:
    """Do all of the types take a string, so that it needs no reading."""
    taken = kinds - {NoneType}
    return bool(taken) and all(
        isinstance(each, type) and issubclass(each, str | PurePath) for each in taken
    )


def _kinds(annotation: Any) -> Iterator[Any]:
    """The plain types that a field's type is made of: of `Name | None` they are str and NoneType."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _kinds(get_args(annotation)[0])
    elif origin is Literal:
        yield from (type(each) for each in get_args(annotation))
    elif origin in (Union, UnionType):
        for each in get_args(annotation):
            yield from _kinds(each)
    else:
        yield origin or annotation


def _texts(value: Any) -> Iterator[str]:
    """All strings in a value, those of lists and mappings too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _texts(each)
    elif isinstance(value, Sequence):
        for each in value:
            yield from _texts(each)
