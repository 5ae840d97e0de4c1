"""App and job files: `app: bu/name` (or `job:`) and the spec's fields, as YAML or JSON. Checked without a server."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from libs.common.errors import InvalidInput
from libs.common.jobs import JobSpec
from libs.common.problems import invalid
from libs.common.spec import NAME_PATTERN, AppSpec

SUFFIXES = (".yaml", ".yml", ".json")
MAX_BYTES = 1_000_000
_NAME = re.compile(NAME_PATTERN)
_A = {"app": "an app", "job": "a job"}


@dataclass(frozen=True)
class AppFile:
    """An app as a file says it. `app` is `bu/name`."""

    app: str
    spec: AppSpec


@dataclass(frozen=True)
class JobFile:
    """A job as a file says it. `job` is `bu/name`."""

    job: str
    spec: JobSpec


def is_file(argument: str) -> bool:
    """Does the argument mean a file (or standard input, `-`) rather than an app."""
    return argument == "-" or argument.endswith(SUFFIXES)


def read(argument: str, bu: str) -> AppFile:
    """The app in a file; `bu` is taken where the file names none. Raises InvalidInput naming each wrong field."""
    return parse(text_of(argument), argument, bu)


def parse(text: str, source: str, bu: str) -> AppFile:
    """The same from text; `source` is what messages call it."""
    content = mapping(text, source, "app")
    app = name_in(content, "app", bu)
    try:
        return AppFile(app, AppSpec.model_validate(content))
    except ValidationError as error:
        raise invalid(error) from None


def read_job(argument: str, bu: str) -> JobFile:
    """The job in a file. Raises InvalidInput naming each wrong field; what its schedule means is not read here."""
    return parse_job(text_of(argument), argument, bu)


def parse_job(text: str, source: str, bu: str) -> JobFile:
    """The same from text; `source` is what messages call it."""
    content = mapping(text, source, "job")
    job = name_in(content, "job", bu)
    try:
        return JobFile(job, JobSpec.model_validate(content))
    except ValidationError as error:
        raise invalid(error) from None


# -- parts -----------------------------------------------------------------------------------------


def text_of(argument: str) -> str:
    """What a file, or standard input, has. Raises InvalidInput."""
    try:
        return sys.stdin.read(MAX_BYTES) if argument == "-" else Path(argument).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput.of(argument, f"can't be read: {error}") from None


def mapping(text: str, source: str, what: str) -> dict[Any, Any]:
    """The YAML or JSON of an app or a job. Raises InvalidInput."""
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InvalidInput.of(source, f"is not YAML: {error}") from None
    if not isinstance(content, dict):
        expected = f"`{what}: bu/name` and the spec's fields"
        raise InvalidInput.of(source, "is not a mapping", expected)
    return content


def name_in(content: dict[Any, Any], what: str, bu: str) -> str:
    """The name that is given under `what`, taken out, with its business unit. Raises InvalidInput."""
    given, bu = content.pop(what, None), content.pop("bu", None) or bu
    if not isinstance(given, str) or not given:
        raise InvalidInput.of(what, "is missing", "bu/name")
    name = given if "/" in given else f"{bu}/{given}"
    unit, _, short = name.partition("/")
    if not _NAME.fullmatch(unit) or not _NAME.fullmatch(short):
        expected = f"bu/name, each {NAME_PATTERN}"
        raise InvalidInput.of(what, f"{name!r} is not the name of {_A[what]}", expected)
    return name
