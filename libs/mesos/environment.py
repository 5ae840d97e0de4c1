"""What an agent tells its executor by MESOS_* variables (Mesos 1.12, docs executor-http-api)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from libs.mesos.errors import EnvironmentInvalid

_UNIT_S = {
    "ns": 1e-9,
    "us": 1e-6,
    "ms": 1e-3,
    "secs": 1.0,
    "mins": 60.0,
    "hrs": 3600.0,
    "days": 86400.0,
    "weeks": 604800.0,
}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|us|ms|secs|mins|hrs|days|weeks)")


def duration_s(text: str) -> float:
    """Seconds of a Mesos duration such as `15mins` or `1.5secs`. Raises `ValueError`."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"not a duration: {text!r}")
    return float(match[1]) * _UNIT_S[match[2]]


@dataclass(frozen=True, slots=True)
class ExecutorEnvironment:
    """The agent's side of the contract; times in seconds.

    `recovery_timeout_s` only counts with `checkpoint`: without, a lost agent ends the executor.
    """

    agent_url: str
    framework_id: str
    executor_id: str
    agent_id: str
    sandbox: str
    checkpoint: bool = False
    recovery_timeout_s: float = 900.0
    subscription_backoff_max_s: float = 2.0
    shutdown_grace_s: float = 5.0
    token: str | None = field(default=None, repr=False)

    @classmethod
    def parse(cls, environ: Mapping[str, str]) -> ExecutorEnvironment:
        """From `environ`. Raises `EnvironmentInvalid` naming the variable."""

        def need(name: str) -> str:
            if not environ.get(name):
                raise EnvironmentInvalid(f"{name} is missing")
            return environ[name]

        def seconds(name: str, default_s: float) -> float:
            try:
                return duration_s(environ[name]) if name in environ else default_s
            except ValueError as error:
                raise EnvironmentInvalid(f"{name}: {error}") from error

        endpoint = need("MESOS_AGENT_ENDPOINT")
        # libprocess agents with TLS say so by this variable only, the endpoint has no scheme.
        tls = environ.get("LIBPROCESS_SSL_ENABLED", "") in ("1", "true")
        return cls(
            agent_url=endpoint if "//" in endpoint else f"http{'s' * tls}://{endpoint}",
            framework_id=need("MESOS_FRAMEWORK_ID"),
            executor_id=need("MESOS_EXECUTOR_ID"),
            agent_id=need("MESOS_SLAVE_ID"),
            sandbox=environ.get("MESOS_SANDBOX") or need("MESOS_DIRECTORY"),
            checkpoint=environ.get("MESOS_CHECKPOINT") == "1",
            recovery_timeout_s=seconds("MESOS_RECOVERY_TIMEOUT", 900.0),
            subscription_backoff_max_s=seconds("MESOS_SUBSCRIPTION_BACKOFF_MAX", 2.0),
            shutdown_grace_s=seconds("MESOS_EXECUTOR_SHUTDOWN_GRACE_PERIOD", 5.0),
            token=environ.get("MESOS_EXECUTOR_AUTHENTICATION_TOKEN"),
        )
