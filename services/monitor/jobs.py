"""Whose jobs are in trouble, by the scheduler's word."""

from __future__ import annotations

from libs.common.errors import Unavailable
from libs.common.http import ServiceClient, call_json


async def ask(client: ServiceClient, timeout_s: float) -> dict[str, str]:
    """Why, by job. Raises Unavailable when the scheduler does not tell."""
    answer = await call_json(client, "scheduler", "GET", "/v1/job-trouble", timeout_s=timeout_s)
    try:
        return {str(job): str(why) for job, why in answer["jobs"].items()}
    except (AttributeError, KeyError, TypeError) as error:
        raise Unavailable(f"the scheduler's answer can't be read: {error!r}") from None
