"""App files: `app: bu/name` and the fields of the spec, as YAML or JSON. Read and checked without a server."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from libs.common.errors import InvalidInput
from libs.common.problems import invalid
from libs.common.spec import NAME_PATTERN, AppSpec

SUFFIXES = (".yaml", ".yml", ".json")
MAX_BYTES = 1_000_000
_NAME = re.compile(NAME_PATTERN)


@dataclass(frozen=True)
class AppFile:
    """An app as a file says it. `app` is `bu/name`."""

    app: str
    spec: AppSpec


def is_file(argument: str) -> bool:
    """Does the argument mean a file (or standard input, `-`) rather than an app."""
    return argument == "-" or argument.endswith(SUFFIXES)


def read(argument: str, bu: str) -> AppFile:
    """The app in a file; `bu` is taken where the file names none. Raises InvalidInput naming each wrong field."""
    try:
        text = sys.stdin.read(MAX_BYTES) if argument == "-" else Path(argument).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput.of(argument, f"can't be read: {error}") from None
    return parse(text, argument, bu)


def parse(text: str, source: str, bu: str) -> AppFile:
    """The same from text; `source` is what messages call it."""
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InvalidInput.of(source, f"is not YAML: {error}") from None
    if not isinstance(content, dict):
        raise InvalidInput.of(source, "is not a mapping", "`app: bu/name` and the spec's fields")
    app = _name(content.pop("app", None), content.pop("bu", None) or bu)
    try:
        return AppFile(app, AppSpec.model_validate(content))
    except ValidationError as error:
        raise invalid(error) from None


def _name(app: Any, bu: Any) -> str:
    if not isinstance(app, str) or not app:
        raise InvalidInput.of("app", "is missing", "bu/name")
    name = app if "/" in app else f"{bu}/{app}"
    unit, _, short = name.partition("/")
    if not _NAME.fullmatch(unit) or not _NAME.fullmatch(short):
        raise InvalidInput.of(
            "app", f"{name!r} is not an app's name", f"bu/name, each {NAME_PATTERN}"
        )
    return name
