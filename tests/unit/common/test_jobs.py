"""What a job may say of itself, besides its schedule."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from libs.common.jobs import JobSpec, Retry
from libs.common.spec import AppSpec, InstanceSpec
from libs.common.workload import Workload

PLAIN = {"image": "web:1", "network": "web"}


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"image": "web 1"}, "image reference"),
        ({"env": {"a-b": "1"}}, "environment variable name"),
        ({"env": {"A": "1"}, "secrets": [{"name": "a", "env": "A"}]}, "A is given twice"),
        ({"schedule": "@daily", "parents": ["a"]}, "one of `schedule` and `parents`"),
        ({"parents": ["a", "a"]}, "a parent is given twice"),
        ({"success_codes": [256]}, "0 to 255"),
        ({"timeout_s": 0}, "greater than 0"),
        ({"retries": 2}, "Extra inputs"),
    ],
)
def test_what_is_wrong_is_refused_by_name(fields: dict[str, Any], what: str) -> None:
    with pytest.raises(ValidationError, match=what):
        JobSpec.model_validate({**PLAIN, **fields})


def test_all_of_a_workload_travels_to_the_host() -> None:
    """A field that is added to what apps and jobs have in common is not forgotten on the way."""
    assert Workload.model_fields.keys() <= InstanceSpec.model_fields.keys()
    said = {**PLAIN, "user": "7", "labels": {"a": "b"}, "stop_grace_s": 3, "class": "fat"}
    for made in (
        JobSpec.model_validate(said).instance("web@sha256:1"),
        InstanceSpec.of(AppSpec.model_validate(said), "web@sha256:1"),
    ):
        assert (made.image, made.user, made.labels) == ("web@sha256:1", "7", {"a": "b"})
        assert (made.stop_grace_s, made.instance_class) == (3, "fat")


def test_waits_between_tries_grow_up_to_a_bound() -> None:
    same = Retry(delay_s=60)
    assert [same.wait_s(n) for n in (1, 2, 1000)] == [60, 60, 60]
    growing = Retry(delay_s=1, factor=10, max_delay_s=500)
    assert [growing.wait_s(n) for n in (1, 2, 3, 4, 1000)] == [1, 10, 100, 500, 500]
