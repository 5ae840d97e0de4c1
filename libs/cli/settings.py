"""Which server, which key, which business unit: flags, then environment, then the configuration file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from libs.common.errors import InvalidInput
from libs.common.problems import invalid

DEFAULT_URL = "http://127.0.0.1:8080"


class Output(StrEnum):
    """How results are printed."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"


class ConfigFile(BaseModel):
    """`~/.config/gantry/config.yaml`; an unknown key is refused by name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str = ""
    key_file: Path | None = None
    bu: str = ""
    output: Output = Output.TABLE


@dataclass(frozen=True)
class Flags:
    """What was given on the command line."""

    url: str = ""
    key_file: Path | None = None
    bu: str = ""
    output: Output | None = None


@dataclass(frozen=True)
class Settings:
    """What a command goes by."""

    url: str
    key: str = field(repr=False)
    bu: str
    output: Output

    def app(self, name: str, what: str = "app") -> str:
        """The app (or the job) that `name` means, `bu/app`. Raises InvalidInput."""
        if "/" in name:
            return name
        if not self.bu:
            text, expected = f"{name!r} names no business unit", f"bu/{what}, or --bu BU"
            raise InvalidInput.of(what.upper(), text, expected)
        return f"{self.bu}/{name}"

    def job(self, name: str) -> str:
        """The job that `name` means, `bu/job`. Raises InvalidInput."""
        return self.app(name, "job")


def config_path(environ: Mapping[str, str]) -> Path:
    """Where the configuration file is."""
    home = environ.get("XDG_CONFIG_HOME") or str(Path(environ.get("HOME", "~")) / ".config")
    return Path(home).expanduser() / "gantry" / "config.yaml"


def resolve(flags: Flags, environ: Mapping[str, str]) -> Settings:
    """The settings of this call. Raises InvalidInput naming what is wrong and where it stood."""
    file = _read_config(config_path(environ))
    return Settings(
        url=flags.url or environ.get("GANTRY_URL", "") or file.url or DEFAULT_URL,
        key=_key(flags, environ, file),
        bu=flags.bu or file.bu,
        output=flags.output or file.output,
    )


def _key(flags: Flags, environ: Mapping[str, str], file: ConfigFile) -> str:
    if flags.key_file is not None:
        return _read_key(flags.key_file)
    if environ.get("GANTRY_KEY"):
        return environ["GANTRY_KEY"].strip()
    path = environ.get("GANTRY_KEY_FILE", "") or file.key_file
    return _read_key(Path(path).expanduser()) if path else ""


def _read_key(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError as error:
        raise InvalidInput.of("key file", f"{path}: {error.strerror}") from None


def _read_config(path: Path) -> ConfigFile:
    try:
        content = yaml.safe_load(path.read_text()) or {}
    except FileNotFoundError:
        return ConfigFile()
    except (OSError, yaml.YAMLError) as error:
        raise InvalidInput.of(str(path), f"can't be read: {error}") from None
    if not isinstance(content, dict):
        raise InvalidInput.of(str(path), "is not a mapping", "lines such as `url: http://…`")
    try:
        return ConfigFile.model_validate(content)
    except ValidationError as error:
        raise invalid(error, prefix=f"{path}: ") from None
