"""On whose behalf a service calls another: the gateway's caller, told to the owner, who decides.

Only calls signed by a service may carry these headers; the owner enforces role and business unit.
"""

from __future__ import annotations

from dataclasses import dataclass

from libs.common.errors import Forbidden, NotFound
from libs.common.http import Kind, Principal, Request, Role

_RANK = {Role.VIEWER: 0, Role.DEPLOYER: 1, Role.ADMIN: 2}


@dataclass(frozen=True, slots=True)
class Actor:
    """Who asked. `bu` "*" is every business unit."""

    name: str
    bu: str
    role: Role

    @classmethod
    def of(cls, request: Request) -> Actor:
        """The actor a request is made for; the calling service itself when it names none."""
        if request.principal.kind is not Kind.SERVICE:
            raise Forbidden("only services may act for somebody")
        headers = request.headers
        if "x-gantry-actor" not in headers:
            return cls(f"service:{request.principal.name}", "*", Role.ADMIN)
        return cls(
            headers["x-gantry-actor"],
            headers.get("x-gantry-bu", ""),
            Role(headers.get("x-gantry-role", Role.VIEWER)),
        )

    @classmethod
    def of_principal(cls, principal: Principal) -> Actor:
        """The holder of an API key, as an actor."""
        return cls(principal.name, principal.bu, principal.role)

    def headers(self) -> dict[str, str]:
        """The headers that carry this actor."""
        return {
            "x-gantry-actor": self.name,
            "x-gantry-bu": self.bu,
            "x-gantry-role": self.role.value,
        }

    def sees(self, bu: str) -> bool:
        """May the actor see things of `bu`."""
        return self.bu in ("*", bu)

    def may(self, bu: str, role: Role) -> bool:
        """Has the actor that role, or a higher one, in `bu`."""
        return self.sees(bu) and _RANK[self.role] >= _RANK[role]

    def require(self, bu: str, role: Role) -> None:
        """Raises NotFound for another BU's things (their existence is nobody else's business), Forbidden
        for a role that is too low."""
        if not self.sees(bu):
            raise NotFound(f"no business unit {bu!r} that {self.name} may see")
        if not self.may(bu, role):
            raise Forbidden(f"{self.name} is {self.role} in {bu}; this needs {role}")
