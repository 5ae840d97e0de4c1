"""Validity of roles and of a FrameworkInfo, in Mesos' words."""

from __future__ import annotations

from collections.abc import Iterable

from libs.minimesos.schema import Json

_FORBIDDEN = frozenset(" \t\n\v\f\r\b\x7f")


def role_error(role: str) -> str | None:
    """Why `role` is not a valid role, or None."""
    if not role:
        return "Empty role name is invalid"
    if role == "*":
        return None
    if role.startswith("/"):
        return f"Role '{role}' cannot start with a slash"
    if role.endswith("/"):
        return f"Role '{role}' cannot end with a slash"
    for part in role.split("/"):
        if not part:
            return f"Role '{role}' cannot contain two adjacent slashes"
        if part in (".", "..", "*"):
            return f"Role '{role}' cannot include '{part}' as a component"
        if part.startswith("-"):
            return f"Role component '{part}' is invalid because it begins with a dash"
        if _FORBIDDEN & set(part):
            return f"Role component '{part}' is invalid because it contains backspace or whitespace"
    return None


def framework_error(info: Json, suppressed: Iterable[str]) -> str | None:
    """Why a framework with this FrameworkInfo may not subscribe, or None."""
    capabilities = {c.get("type") for c in info.get("capabilities", [])}
    roles: list[str] = info.get("roles", [])
    if "MULTI_ROLE" in capabilities:
        if "role" in info:
            return "'FrameworkInfo.role' must not be set when the framework is MULTI_ROLE capable"
        duplicates = sorted({role for role in roles if roles.count(role) > 1})
        if duplicates:
            names = ", ".join(duplicates)
            return f"'FrameworkInfo.roles' contains duplicate items: {names}"
        for role in roles:
            why = role_error(role)
            if why:
                return f"'FrameworkInfo.roles' contains invalid role: {why}"
    else:
        if roles:
            return (
                "'FrameworkInfo.roles' must not be set when the framework is not MULTI_ROLE capable"
            )
        why = role_error(info.get("role", "*"))
        if why:
            return f"'FrameworkInfo.role' is not a valid role: {why}"
        roles = [info.get("role", "*")]
    if info.get("failover_timeout", 0.0) < 0:
        return "The framework failover_timeout is invalid"
    strange = [role for role in suppressed if role not in roles]
    if strange:
        names = ", ".join(strange)
        return f"Suppressed roles {{ {names} }} are not contained in the set of roles"
    return None
