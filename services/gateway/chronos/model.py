"""A job as Chronos' JSON has it, read as leniently as Chronos reads it: numbers and flags may be strings, null is as
left out, what is not known is passed over. The defaults are those of Chronos.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from libs.common.problems import invalid


class Version(IntEnum):
    """The major version whose API is spoken."""

    V2 = 2
    V3 = 3


def _text(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int | float) else value


def _flag(value: Any) -> Any:
    if isinstance(value, str):
        return value.strip() == "true"
    return bool(value) if isinstance(value, int | float) else value


def _number(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return float(value)
    except ValueError:
        return 0.0


def _whole(value: Any) -> Any:
    number = _number(value)
    return int(number) if isinstance(number, float) and abs(number) < 2**53 else number


def _upper(value: Any) -> Any:
    return value.upper() if isinstance(value, str) else value


Text = Annotated[str, BeforeValidator(_text)]
Flag = Annotated[bool, BeforeValidator(_flag)]
Number = Annotated[float, BeforeValidator(_number), Field(ge=-1e12, le=1e12, allow_inf_nan=False)]
Whole = Annotated[int, BeforeValidator(_whole), Field(ge=-(2**31), lt=2**31)]


class Loose(BaseModel):
    """Base: camel case on the wire, null as left out, unknown fields passed over."""

    model_config = ConfigDict(
        frozen=True, extra="ignore", alias_generator=to_camel, populate_by_name=True
    )

    @model_validator(mode="before")
    @classmethod
    def _nulls(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        return {name: each for name, each in value.items() if each is not None}

    def wire(self) -> dict[str, Any]:
        """As JSON; what is None is left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class Fetch(Loose):
    """A file that Mesos is to fetch before a task starts."""

    uri: Text = ""
    executable: Flag = False
    cache: Flag = False
    extract: Flag = True
    output_file: Text | None = Field(None, alias="output_file")


class Variable(Loose):
    """An environment variable."""

    name: Text
    value: Text = ""


class Parameter(Loose):
    """An option of `docker run`, or of a volume driver; a label."""

    key: Text
    value: Text = ""


class External(Loose):
    """A volume of a driver."""

    name: Text
    provider: Text
    options: tuple[Parameter, ...] = ()


class Volume(Loose):
    """A volume of a container."""

    host_path: Text | None = None
    container_path: Text
    mode: Annotated[Literal["RW", "RO"], BeforeValidator(_upper)] | None = None
    external: External | None = None


class PortMapping(Loose):
    """A port of the host that leads into a container. Chronos writes the numbers as strings."""

    host_port: Text
    container_port: Text
    protocol: Text | None = None


class Network(Loose):
    """A network by name, for Mesos' CNI isolator."""

    name: Text
    protocol: Text | None = None
    labels: tuple[Parameter, ...] = ()
    port_mappings: tuple[PortMapping, ...] = ()


class Container(Loose):
    """What a job runs in."""

    type: Annotated[Literal["DOCKER", "MESOS"], BeforeValidator(_upper)] = "DOCKER"
    image: Text
    network: Annotated[Literal["BRIDGE", "HOST", "USER"], BeforeValidator(_upper)] = "HOST"
    network_name: Text | None = None
    network_infos: tuple[Network, ...] = ()
    volumes: tuple[Volume, ...] = ()
    force_pull_image: Flag = False
    parameters: tuple[Parameter, ...] = ()


DEFAULT_EPSILON = "PT60S"  # the flag --task_epsilon of 2.x
DEFAULT_USER = "root"  # the flag --user


class ChronosJob(Loose):
    """What somebody wrote about a job, in the order in which Chronos writes it.

    It has `parents`, or else a `schedule`. `epsilon` and `async` are of 2.x, `concurrent` is of 3.x.
    """

    name: Text
    command: Text = ""
    shell: Flag = True
    epsilon: Text = DEFAULT_EPSILON
    executor: Text = ""
    executor_flags: Text = ""
    task_info_data: Text = ""
    retries: Whole = 2
    owner: Text = ""
    owner_name: Text = ""
    description: Text = ""
    # As `async` is no name in Python.
    asynchronous: Flag = Field(False, alias="async")
    cpus: Number = 0.0
    disk: Number = 0.0
    mem: Number = 0.0
    disabled: Flag = False
    soft_error: Flag = False
    data_processing_job_type: Flag = False
    fetch: tuple[Fetch, ...] = ()
    uris: tuple[Text, ...] = ()
    environment_variables: tuple[Variable, ...] = ()
    arguments: tuple[Text, ...] = ()
    high_priority: Flag = False
    run_as_user: Text = DEFAULT_USER
    concurrent: Flag = False
    container: Container | None = None
    constraints: tuple[tuple[Text, ...], ...] = ()
    parents: tuple[Text, ...] | None = None
    schedule: Text | None = None
    schedule_time_zone: Text = ""

    @model_validator(mode="before")
    @classmethod
    def _without_image(cls, value: Any) -> Any:
        """A container that names no image is none."""
        if not isinstance(value, Mapping) or not isinstance(value.get("container"), Mapping):
            return value
        kept = (
            value if value["container"].get("image") is not None else {**value, "container": None}
        )
        return kept


class TaskNotification(Loose):
    """How a task of an `async` job ended, 0: well; as Chronos reads it, so where it says nothing."""

    status_code: int = Field(0, ge=-(2**31), lt=2**31)


def read_notification(body: bytes) -> TaskNotification:
    """What a callback says. Raises InvalidInput."""
    try:
        return TaskNotification.model_validate_json(body)
    except ValidationError as error:
        raise invalid(error) from None
