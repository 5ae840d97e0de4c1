"""Configuration: defaults < file < environment < flags; every unknown key is refused."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from libs.common.config import NOT_SETTINGS, Sections, Settings, load
from libs.common.errors import InvalidInput


class Alpha(BaseModel, extra="forbid"):
    port: int = Field(1, ge=0, le=65535)
    names: tuple[str, ...] = ()
    table: dict[str, int] = {}
    grace_s: float = 1.5


class Beta(BaseModel, extra="forbid"):
    on: bool = False


SECTIONS: Sections = {"alpha": Alpha, "beta": Beta}


def alpha(settings: Settings) -> Alpha:
    """The section."""
    section = settings["alpha"]
    assert isinstance(section, Alpha)
    return section


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file that sets the port to 2."""
    made = tmp_path / "gantry.yaml"
    made.write_text("alpha:\n  port: 2\n  names: [x, y]\n")
    return made


def test_defaults_hold_where_nothing_is_said() -> None:
    assert load(SECTIONS) == {"alpha": Alpha(), "beta": Beta()}


def test_each_source_beats_the_one_before(file: Path) -> None:
    environ = {"GANTRY_ALPHA__PORT": "3"}
    assert alpha(load(SECTIONS, file=file)).port == 2
    assert alpha(load(SECTIONS, file=file, environ=environ)).port == 3
    found = load(SECTIONS, file=file, environ=environ, flags=["--alpha.port=4"])
    assert (alpha(found).port, alpha(found).names) == (4, ("x", "y"))


def test_values_are_read_as_yaml() -> None:
    environ = {"GANTRY_ALPHA__TABLE": "{a: 1}", "GANTRY_BETA__ON": "yes"}
    found = load(SECTIONS, environ=environ, flags=["--alpha.names=[a, b]", "--alpha.grace-s=3"])
    assert alpha(found) == Alpha(table={"a": 1}, names=("a", "b"), grace_s=3.0)
    assert found["beta"] == Beta(on=True)


def test_other_peoples_environment_is_left_alone() -> None:
    environ = {"PATH": "/bin", "GANTRYX": "1", "GANTRY_TEST_MESOS": "http://x"}
    environ |= dict.fromkeys(NOT_SETTINGS, "y")
    assert load(SECTIONS, environ=environ) == load(SECTIONS)


@pytest.mark.parametrize("name", sorted(NOT_SETTINGS))
def test_what_only_begins_like_such_a_name_is_refused(name: str) -> None:
    for longer in (f"{name}S", f"{name}_X", f"{name}__X"):
        with pytest.raises(InvalidInput) as raised:
            load(SECTIONS, environ={longer: "1"})
        (problem,) = raised.value.problems
        assert longer in f"{problem.field} {problem.problem}"


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("gamma: {x: 1}", "gamma"),
        ("alpha: {prot: 1}", "alpha.prot"),
        ("alpha: {port: 70000}", "alpha.port"),
        ("alpha: {port: x}", "alpha.port"),
        ("alpha: 7", "alpha"),
        ("[1, 2]", "gantry.yaml"),
        ("alpha: {port: [", "gantry.yaml"),
    ],
)
def test_a_wrong_file_is_refused_and_the_key_named(
    tmp_path: Path, content: str, named: str
) -> None:
    file = tmp_path / "gantry.yaml"
    file.write_text(content)
    with pytest.raises(InvalidInput) as raised:
        load(SECTIONS, file=file)
    assert any(named in each.field for each in raised.value.problems)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GANTRY_GAMMA__X", "1"),
        ("GANTRY_ALPHA__PROT", "1"),
        ("GANTRY_ALPHA_PORT", "1"),
        ("GANTRY_PORT", "1"),
        ("GANTRY_ALPHA__PORT", "-1"),
        ("GANTRY_ALPHA__NAMES", "["),
    ],
)
def test_a_wrong_variable_is_refused(name: str, value: str) -> None:
    with pytest.raises(InvalidInput):
        load(SECTIONS, environ={name: value})


@pytest.mark.parametrize(
    "flag",
    ["alpha.port=1", "--alpha.port", "--port=1", "--gamma.x=1", "--alpha.prot=1", "--alpha.port=x"],
)
def test_a_wrong_flag_is_refused(flag: str) -> None:
    with pytest.raises(InvalidInput):
        load(SECTIONS, flags=[flag])


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(InvalidInput) as raised:
        load(SECTIONS, flags=["--alpha.port=x", "--alpha.prot=1", "--beta.on=7"])
    assert {each.field for each in raised.value.problems} == {"alpha.port", "alpha.prot", "beta.on"}


def test_it_is_told_where_a_wrong_key_stood(file: Path) -> None:
    file.write_text("alpha: {prot: 1}\nbeta: {'on': perhaps}\n")
    environ = {"GANTRY_ALPHA__PROTO": "1", "GANTRY_ALHPA__PORT": "1"}
    with pytest.raises(InvalidInput) as raised:
        load(SECTIONS, file=file, environ=environ, flags=["--alpha.p=1", "--beta.o-f=1"])
    told = {each.field: each.problem for each in raised.value.problems}
    assert told == {
        "alhpa (in the environment: GANTRY_ALHPA__PORT)": "unknown section",
        "alpha.prot": f"unknown field (in {file})",
        "alpha.proto": "unknown field (in the environment: GANTRY_ALPHA__PROTO)",
        "alpha.p": "unknown field (in the flags: --alpha.p)",
        "beta.on": told["beta.on"],
        "beta.o_f": "unknown field (in the flags: --beta.o-f)",
    }
    assert told["beta.on"].endswith(f"(in {file})")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="can't be read"):
        load(SECTIONS, file=tmp_path / "none.yaml")


class Urls(BaseModel, extra="forbid"):
    store: str = ""


@pytest.mark.parametrize("url", ["mongodb://u:p@h/db", "kafka://u:p%40@a:1,b:2?x=1"])
def test_a_password_is_taken_from_no_place_that_others_can_read(url: str, tmp_path: Path) -> None:
    sections = {"places": Urls}
    with pytest.raises(
        InvalidInput, match=r"places\.store: a password in the environment"
    ) as raised:
        load(sections, environ={"GANTRY_PLACES__STORE": url})
    assert url not in str(raised.value)
    with pytest.raises(InvalidInput, match="a password in the flags"):
        load(sections, flags=[f"--places.store={url}"])
    file = tmp_path / "f.yaml"
    file.write_text(f"places: {{store: '{url}'}}\n")
    assert load(sections, file=file)["places"] == Urls(store=url)
    good = "mongodb://u@h/db?passwordFile=/x&a=b:c@d"
    assert load(sections, flags=[f"--places.store={good}"])["places"] == Urls(store=good)
    with pytest.raises(InvalidInput, match=r"peers\.all: a password in the environment"):
        load({"peers": Peers}, environ={"GANTRY_PEERS__ALL": f"{{a: 'http://x,{url}'}}"})


class Peers(BaseModel, extra="forbid"):
    all: dict[str, str] = {}


class Colour(StrEnum):
    RED = "red"


class Words(BaseModel, extra="forbid"):
    text: str = "-"
    bounded: Annotated[str, Field(max_length=100)] | None = None
    path: Path | None = None
    choice: Literal["on", "off"] = "off"
    colour: Colour = Colour.RED
    number: int | str = 0


WORDS = {"words": Words}


@pytest.mark.parametrize(
    "text", ["memory:", "8080", "0x1f", "yes", "null", "~", "2024-01-01", "[a", "'a'", "a: b", "a #b", "1e3", ""]
)  # fmt: skip
def test_text_stays_text(text: str) -> None:
    for settings in (
        load(WORDS, environ={"GANTRY_WORDS__TEXT": text}),
        load(WORDS, flags=[f"--words.text={text}"]),
    ):
        assert settings["words"] == Words(text=text)


@given(st.text(st.characters(codec="utf-8"), max_size=30))
def test_any_text_stays_text_but_for_the_blanks_around_it(text: str) -> None:
    found = load(WORDS, environ={"GANTRY_WORDS__TEXT": text})["words"]
    assert found == Words(text=text.strip())


def test_choices_paths_and_optional_texts_are_text_too() -> None:
    environ = {
        "GANTRY_WORDS__CHOICE": "on",
        "GANTRY_WORDS__COLOUR": "red",
        "GANTRY_WORDS__PATH": "1:2",
        "GANTRY_WORDS__BOUNDED": "12",
        "GANTRY_WORDS__NUMBER": "12",
    }
    expected = Words(choice="on", path=Path("1:2"), bounded="12", number=12)
    assert load(WORDS, environ=environ)["words"] == expected
    for nothing in ("", "null", "~"):
        unset = {**environ, "GANTRY_WORDS__PATH": nothing, "GANTRY_WORDS__BOUNDED": nothing}
        assert load(WORDS, environ=unset)["words"] == expected.model_copy(
            update={"path": None, "bounded": None}
        )
