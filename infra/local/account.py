"""The login at a local cluster's own registry: drawn once, kept for root alone, given to the cluster's first units."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path

from infra.local.layout import Layout
from infra.local.processes import LocalError
from libs.client.api import GantryClient
from libs.client.vault import RegistryLogin
from libs.common.errors import GantryError, Unauthenticated
from libs.common.keys import write_private

USER = "gantry"
_SECRET_BYTES = 24


@dataclass(frozen=True)
class Account:
    """Who may push and pull."""

    layout: Layout

    @property
    def password_file(self) -> Path:
        """The password in one line, for `docker login --password-stdin` and `gantry bu-registry put`."""
        return self.layout.root / "registry.password"

    @property
    def logins_file(self) -> Path:
        """The same as the registry's script reads it."""
        return self.layout.root / "registry.logins"

    @property
    def login(self) -> tuple[str, str]:
        """User and password. Raises FileNotFoundError before `make`."""
        return USER, self.password_file.read_text().strip()

    def make(self) -> None:
        """Have both files; a password that is there stays."""
        if not self.password_file.exists():
            write_private(self.password_file, f"{secrets.token_urlsafe(_SECRET_BYTES)}\n")
        write_private(self.logins_file, f"{':'.join(self.login)}\n")

    async def give(self, registry: str, admin_key: str) -> None:
        """Have the layout's units pull by it from `registry` (host:port). Raises LocalError.

        Does nothing when the first admin key was revoked: whoever did that looks after the units' logins.
        """
        user, password = self.login
        async with GantryClient.open(self.layout.url, admin_key) as client:
            for unit in self.layout.units:
                login = RegistryLogin(user=user, password=password)
                try:
                    await client.vault.put_registry(unit, registry, login)
                except Unauthenticated:
                    return
                except GantryError as error:
                    raise LocalError(f"{unit} got no login at the registry: {error}") from None
