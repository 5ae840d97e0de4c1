"""Configuration: defaults < file < environment < flags, and every unknown key is refused.

A configuration is a set of sections, each a pydantic model with `extra="forbid"`. The file is YAML with a mapping a
section; the environment has `GANTRY_<SECTION>__<FIELD>`; flags are `--<section>.<field>=<value>`. Values from the
environment and flags are read as YAML, so lists and mappings can be given too. Secrets come from files only
(`*_file` fields), never by value, so that they can't show up in a process list; for the same reason a URL with a
password in it is taken from the file only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from libs.common.errors import FieldProblem, InvalidInput
from libs.common.problems import invalid

PREFIX = "GANTRY_"
ENVIRONMENT, FLAGS = "the environment", "the flags"
_SEEN_BY_OTHERS = (ENVIRONMENT, FLAGS)
_WITH_PASSWORD = re.compile(r"[a-z+]+://[^/?#]*:[^/?#]*@")
# Read by the CLI and the tests, not settings of a section.
_NOT_SETTINGS = ("GANTRY_TEST_", "GANTRY_CACHE", "GANTRY_URL", "GANTRY_KEY", "GANTRY_CONFIG")

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
    raw: dict[str, dict[str, Any]] = {name: {} for name in sections}
    if file is not None:
        _from_file(raw, file)
    _from_environ(raw, environ or {})
    _from_flags(raw, flags)
    problems: list[FieldProblem] = []
    settings: Settings = {}
    for name, model in sections.items():
        try:
            settings[name] = model.model_validate(raw[name])
        except ValidationError as error:
            problems.extend(invalid(error, prefix=f"{name}.").problems)
    if problems:
        raise InvalidInput(*problems)
    return settings


def _from_file(raw: dict[str, dict[str, Any]], file: Path) -> None:
    try:
        content = yaml.safe_load(file.read_text()) or {}
    except (OSError, yaml.YAMLError) as error:
        raise InvalidInput.of(str(file), f"can't be read: {error}") from None
    if not isinstance(content, dict):
        raise InvalidInput.of(str(file), "is not a mapping of sections")
    for section, values in content.items():
        if not isinstance(values, dict):
            raise InvalidInput.of(f"{section} (in {file})", "is not a mapping", "key: value lines")
        for field, value in values.items():
            _put(raw, str(section), str(field), value, str(file))


def _from_environ(raw: dict[str, dict[str, Any]], environ: Mapping[str, str]) -> None:
    for name in sorted(environ):
        if not name.startswith(PREFIX) or name.startswith(_NOT_SETTINGS):
            continue
        section, found, field = name.removeprefix(PREFIX).lower().partition("__")
        if not found:
            raise InvalidInput.of(name, "is not a setting", f"{PREFIX}<SECTION>__<FIELD>")
        _put(raw, section, field, _value(name, environ[name]), ENVIRONMENT)


def _from_flags(raw: dict[str, dict[str, Any]], flags: Sequence[str]) -> None:
    for flag in flags:
        name, found, value = flag.removeprefix("--").partition("=")
        section, dotted, field = name.partition(".")
        if not flag.startswith("--") or not found or not dotted:
            raise InvalidInput.of(flag, "is not a setting", "--<section>.<field>=<value>")
        _put(raw, section, field.replace("-", "_"), _value(flag, value), FLAGS)


def _value(name: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InvalidInput.of(name, f"can't be read: {error}") from None


def _put(raw: dict[str, dict[str, Any]], section: str, field: str, value: Any, where: str) -> None:
    if section not in raw:
        raise InvalidInput.of(
            f"{section} (in {where})", "unknown section", f"one of {', '.join(sorted(raw))}"
        )
    if where in _SEEN_BY_OTHERS and isinstance(value, str) and _WITH_PASSWORD.match(value):
        raise InvalidInput.of(
            f"{section}.{field}",
            f"a password in {where} can be read by others on this machine",
            "user@host and a file with the password, or the configuration file",
        )
    raw[section][field] = value
