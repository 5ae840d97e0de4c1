"""What instances of one spec share is worked out once, and of the right one; a task's payload says what it should."""

from __future__ import annotations

from base64 import b64decode

from hypothesis import given
from hypothesis import strategies as st

from libs.common.spec import InstanceSpec, Resources
from libs.common.task import TaskPayload
from services.scheduler.model import EXECUTOR_AMOUNTS, AgentId, Amounts, Instance, InstanceId, State
from services.scheduler.per_spec import KEPT, PerSpec
from services.scheduler.tasks import Purse, TaskFactory


def spec_of(image: str, **more: object) -> InstanceSpec:
    """A small one."""
    return InstanceSpec.model_validate(
        {"image": image, "network": "n", "resources": Resources(), **more}
    )


def test_it_is_worked_out_once_for_each_object() -> None:
    made: list[str] = []

    @PerSpec
    def image(spec: InstanceSpec) -> str:
        made.append(spec.image)
        return spec.image

    for n in range(KEPT + 10):  # objects come and go: none is taken for another one of before
        spec = spec_of(f"i{n}")
        assert [image(spec), image(spec)] == [f"i{n}"] * 2
    assert made == [f"i{n}" for n in range(KEPT + 10)]


@given(st.text(), st.dictionaries(st.text(), st.text(), max_size=3), st.integers(0, 9), st.text())
def test_a_payload_is_read_as_it_was_meant(
    image: str, env: dict[str, str], priority: int, app: str
) -> None:
    spec = spec_of(image, env=env, priority=priority, spread=("zone",))
    instance = Instance(
        InstanceId('i"1'), app, 3, "d", spec, state=State.STAGED, generation=2, agent=AgentId("a")
    )
    factory = TaskFactory("c", "x")
    data = factory.task_info(instance, Purse((), Amounts() + EXECUTOR_AMOUNTS), "gantry")["data"]
    assert TaskPayload.model_validate_json(b64decode(data)) == TaskPayload(
        cluster="c",
        app=app,
        instance=instance.id,
        attempt=instance.attempt,
        generation=2,
        release=3,
        deployment="d",
        spec=spec.model_copy(update={"priority": 0, "spread": ()}),
    )
