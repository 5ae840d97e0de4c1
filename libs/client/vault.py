"""Business units' secrets and registry logins: the words of the public API, and its calls. Answers hold no value."""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode
from typing import Self

from pydantic import Field, field_validator, model_validator
from pydantic.config import JsonDict

from libs.client.model import View
from libs.client.transport import Transport, read
from libs.common.http import Response
from libs.common.serve import segment
from libs.common.spec import Strict

MAX_VALUE_BYTES = 64 * 1024
MAX_BASE64 = (MAX_VALUE_BYTES + 2) // 3 * 4
REGISTRY_PATTERN = r"^[a-z0-9]([a-z0-9.-]{0,250}[a-z0-9])?(:[0-9]{1,5})?$"
"""A registry as images name it: host, and port unless it is the usual one."""
_HIDDEN: JsonDict = {"writeOnly": True, "format": "password"}


class SecretValue(Strict):
    """The body of `PUT /v1/bus/{bu}/secrets/{secret}`: text, or any bytes as base64."""

    value: str | None = Field(
        None, max_length=MAX_VALUE_BYTES, repr=False, json_schema_extra=_HIDDEN
    )
    base64: str | None = Field(None, max_length=MAX_BASE64, repr=False, json_schema_extra=_HIDDEN)

    @field_validator("base64")
    @classmethod
    def _decodes(cls, text: str | None) -> str | None:
        try:
            b64decode(text or "", validate=True)
        except (binascii.Error, ValueError):
            raise ValueError("is not base64") from None
        return text

    @model_validator(mode="after")
    def _one_value(self) -> Self:
        if (self.value is None) == (self.base64 is None):
            raise ValueError("give one of `value` (text) and `base64` (any bytes)")
        if not 1 <= len(self.content) <= MAX_VALUE_BYTES:
            raise ValueError(f"a value has 1 to {MAX_VALUE_BYTES} bytes")
        return self

    @property
    def content(self) -> bytes:
        """The bytes."""
        return b64decode(self.base64) if self.base64 is not None else (self.value or "").encode()


class RegistryLogin(Strict):
    """The body of `PUT /v1/bus/{bu}/registries/{registry}`: the unit's account there."""

    user: str = Field(min_length=1, max_length=255, pattern=r"^[^:\x00-\x1f\x7f]+$")
    password: str = Field(min_length=1, max_length=16_384, repr=False, json_schema_extra=_HIDDEN)


class SecretView(View):
    """A secret, without its value."""

    bu: str
    name: str
    version: int = Field(description="1 for the first value, one more for each other")
    text: bool = Field(True, description="may be an environment variable")
    created_at: float
    updated_at: float
    updated_by: str


class Secrets(View):
    """A business unit's secrets, by name."""

    secrets: tuple[SecretView, ...]


class RegistryView(View):
    """A registry login, without its password."""

    bu: str
    registry: str
    user: str
    version: int
    created_at: float
    updated_at: float
    updated_by: str


class Registries(View):
    """A business unit's registry logins, by registry."""

    registries: tuple[RegistryView, ...]


class VaultClient:
    """The calls, as `GantryClient.vault`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def put_secret(self, bu: str, name: str, value: bytes) -> SecretView:
        """Write a secret's value; a new version unless it is the same."""
        body = SecretValue(base64=b64encode(value).decode())
        path = f"{_unit(bu)}/secrets/{segment(name)}"
        return read(SecretView, await self._put(path, body))

    async def secrets(self, bu: str) -> Secrets:
        """A business unit's secrets, without their values."""
        return read(Secrets, await self._transport.call("GET", f"{_unit(bu)}/secrets"))

    async def remove_secret(self, bu: str, name: str, *, force: bool = False) -> SecretView:
        """Forget one. Raises Conflict while an app names it, unless forced."""
        path = f"{_unit(bu)}/secrets/{segment(name)}"
        query = {"force": "true"} if force else {}
        return read(SecretView, await self._transport.call("DELETE", path, query=query))

    async def put_registry(self, bu: str, registry: str, login: RegistryLogin) -> RegistryView:
        """Write the unit's login at a registry."""
        return read(RegistryView, await self._put(_registry(bu, registry), login))

    async def registries(self, bu: str) -> Registries:
        """A business unit's logins, without their passwords."""
        return read(Registries, await self._transport.call("GET", f"{_unit(bu)}/registries"))

    async def remove_registry(self, bu: str, registry: str) -> RegistryView:
        """Forget one."""
        return read(RegistryView, await self._transport.call("DELETE", _registry(bu, registry)))

    async def _put(self, path: str, body: Strict) -> Response:
        content = body.model_dump_json(exclude_none=True).encode()
        return await self._transport.call("PUT", path, body=content)


def _unit(bu: str) -> str:
    return f"/v1/bus/{segment(bu)}"


def _registry(bu: str, registry: str) -> str:
    return f"{_unit(bu)}/registries/{segment(registry)}"
