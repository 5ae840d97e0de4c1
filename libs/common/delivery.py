"""What an attempt needs to start besides its spec: from the deployer, sealed, by hostd, to the executor of its host."""

from __future__ import annotations

from base64 import b64decode, b64encode

from pydantic import BaseModel, ConfigDict, Field

ATTEMPT_PURPOSE = "attempt-delivery"
"""What the boxes between deployer and hostd are sealed for."""


class _Carried(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)


class DeliveredSecret(_Carried):
    """A secret's value, and where it goes: one of `env` and `file`."""

    name: str
    env: str | None = None
    file: str | None = None
    value: str = Field(repr=False, description="base64")

    @classmethod
    def of(cls, name: str, env: str | None, file: str | None, value: bytes) -> DeliveredSecret:
        """With its value in the form that is carried."""
        return cls(name=name, env=env, file=file, value=b64encode(value).decode())

    @property
    def content(self) -> bytes:
        """The value."""
        return b64decode(self.value)


class DeliveredLogin(_Carried):
    """The business unit's account at the registry of the attempt's image."""

    user: str
    password: str = Field(repr=False)


class Delivery(_Carried):
    """All of an attempt's values. `login` None: the image is pulled as anybody."""

    secrets: tuple[DeliveredSecret, ...] = ()
    login: DeliveredLogin | None = None


class Sealed(BaseModel):
    """The deployer's answer: a Delivery as JSON, sealed under the host's keys."""

    boxes: tuple[str, ...]


def about_attempt(host: str, attempt: str) -> str:
    """What the boxes are bound to."""
    return f"{host}/{attempt}"


def is_text(content: bytes) -> bool:
    """May it be an environment variable's value: UTF-8 without NUL."""
    try:
        return "\0" not in content.decode()
    except UnicodeDecodeError:
        return False
