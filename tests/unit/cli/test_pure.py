"""The command's own decisions: options, settings, app files, progress, exit codes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from libs.cli import spec_file
from libs.cli.apps_cmd import changes
from libs.cli.exits import HELP, DeployFailed, Exit, exit_of
from libs.cli.main import Streams, hoist, run
from libs.cli.output import Column, Printer
from libs.cli.progress import Progress
from libs.cli.settings import DEFAULT_URL, Flags, Output, resolve
from libs.client.model import Apps, EventView
from libs.common import errors
from libs.common.errors import InvalidInput
from libs.common.spec import AppSpec

GOOD = "app: acme/web\nimage: registry.test/web:1\nnetwork: blue\ninstances: 2\n"


@pytest.mark.parametrize(
    ("given", "hoisted"),
    [
        (["ps", "-o", "json"], ["-o", "json", "ps"]),
        (["ps", "-ojson", "web"], ["-ojson", "ps", "web"]),
        (["ps", "--output=wide", "--bu", "acme"], ["--output=wide", "--bu", "acme", "ps"]),
        (["logs", "--", "-o"], ["logs", "--", "-o"]),
        (["ps", "-o"], ["-o", "ps"]),
        (["--url", "u", "deploy", "f", "--detach"], ["--url", "u", "deploy", "f", "--detach"]),
    ],
)
def test_global_options_may_stand_anywhere(given: list[str], hoisted: list[str]) -> None:
    assert hoist(given) == hoisted


def test_settings_flags_before_environment_before_file(tmp_path: Path) -> None:
    environ = {"XDG_CONFIG_HOME": str(tmp_path)}
    assert resolve(Flags(), environ).url == DEFAULT_URL
    (tmp_path / "gantry").mkdir()
    (tmp_path / "key").write_text("gk_file\n")
    config = tmp_path / "gantry" / "config.yaml"
    config.write_text(f"url: http://file\nbu: filebu\noutput: wide\nkey_file: {tmp_path}/key\n")
    settings = resolve(Flags(), environ)
    assert (settings.url, settings.key, settings.bu, settings.output) == (
        "http://file", "gk_file", "filebu", Output.WIDE,
    )  # fmt: skip
    (tmp_path / "other").write_text("gk_other")
    environ |= {"GANTRY_URL": "http://env", "GANTRY_KEY_FILE": str(tmp_path / "other")}
    assert (resolve(Flags(), environ).url, resolve(Flags(), environ).key) == (
        "http://env",
        "gk_other",
    )
    environ |= {"GANTRY_KEY": "gk_env"}
    assert resolve(Flags(), environ).key == "gk_env"
    flags = Flags("http://flag", tmp_path / "key", "flagbu", Output.JSON)
    settings = resolve(flags, environ)
    assert (settings.url, settings.key, settings.bu, settings.output) == (
        "http://flag", "gk_file", "flagbu", Output.JSON,
    )  # fmt: skip
    assert "gk_" not in repr(settings)


@pytest.mark.parametrize(
    ("text", "said"), [("urll: x", "unknown field"), ("- a", "not a mapping"), ("a: [", "can't be read"),
                       ("output: xml", "output")]
)  # fmt: skip
def test_wrong_config_files_are_told(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "gantry").mkdir()
    (tmp_path / "gantry" / "config.yaml").write_text(text)
    with pytest.raises(InvalidInput, match=said):
        resolve(Flags(), {"XDG_CONFIG_HOME": str(tmp_path)})


def test_a_missing_key_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="nothing-here"):
        resolve(Flags(key_file=tmp_path / "nothing-here"), {"HOME": str(tmp_path)})


@pytest.mark.parametrize(
    ("text", "bu", "app"),
    [
        (GOOD, "", "acme/web"),
        (GOOD.replace("acme/web", "web"), "other", "other/web"),
        (GOOD.replace("acme/web", "web\nbu: third"), "other", "third/web"),
    ],
)
def test_app_files(text: str, bu: str, app: str) -> None:
    found = spec_file.parse(text, "app.yaml", bu)
    assert found.app == app and found.spec.instances == 2


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("- a", "app.yaml"),
        ("a: [", "app.yaml"),
        (GOOD.replace("app: acme/web", "x: y"), "app"),
        (GOOD.replace("acme/web", "web"), "app"),
        (GOOD.replace("acme/web", "Acme/web"), "app"),
        (GOOD.replace("acme/web", "acme/web/x"), "app"),
        (GOOD + "instnces: 3\n", "instnces"),
        (GOOD.replace("instances: 2", "instances: two"), "instances"),
        (GOOD.replace("network: blue\n", ""), "network"),
        (GOOD + "resources: {cpus: 0}\n", "resources.cpus"),
    ],
)
def test_wrong_app_files_name_the_field(text: str, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        spec_file.parse(text, "app.yaml", "")
    assert field in [each.field for each in caught.value.problems]


def test_what_a_spec_changes() -> None:
    spec = spec_file.parse(GOOD, "f", "").spec
    known = spec.model_dump(mode="json", by_alias=True)
    assert changes(known, spec) == {}
    assert changes(known, spec.model_copy(update={"instances": 5})) == {"instances": (2, 5)}
    assert isinstance(spec, AppSpec)
    secrets = [{"name": "db", "env": "DB"}]  # not there at all as long as there are none
    with_one = AppSpec.model_validate({**known, "secrets": secrets})
    assert list(changes(known, with_one)) == ["secrets"]
    after = with_one.model_dump(mode="json", by_alias=True)
    assert list(changes(after, spec)) == ["secrets"]


def event(topic: str, sequence: int, source: str = "/gantry/scheduler", **data: Any) -> EventView:
    content = {"app": "acme/web", **data}
    return EventView(
        id="x", topic=topic, subject="s", time=0.0, sequence=sequence, source=source, data=content
    )


def test_progress_tells_each_step_once_and_in_order() -> None:
    progress = Progress("d1", "acme/web")
    told = [
        progress.observe(each)
        for each in (
            event("instance.requested", 9, "/gantry/deployer", instance="i1", release=2),
            event("placement.delayed", 1, instance="i1", message="no cpu on 3 of 3"),
            event("placement.delayed", 2, instance="i1", message="no cpu on 3 of 3"),
            event("offer.accepted", 3, instance="i1", hostname="h1"),
            event("container.healthy", 5, instance="i1", address="10.0.0.1", hostname="h1"),
            event("container.started", 4, instance="i1", address="10.0.0.1", hostname="h1"),
            event("container.started", 4, instance="i2", app="acme/other"),
            event("instance.stop_requested", 10, "/gantry/deployer", instance="i1", reason="old"),
            event("container.unhealthy", 6, instance="i1"),
            event("container.exited", 7, instance="i1", wanted=True, exit_code=0),
        )
    ]
    assert told == [
        "i1  requested",
        "i1  waiting  (no cpu on 3 of 3)",
        "",
        "i1  placed  on h1",
        "i1  healthy  10.0.0.1 on h1",
        "",
        "",
        "i1  stopping  (old)",
        "",
        "i1  stopped",
    ]


def test_progress_counts_the_deployment() -> None:
    progress = Progress("d1", "acme/web")
    counts = {"wanted": 4, "ready": 1, "old": 3, "failed": 0}
    other = event("deploy.progressed", 1, deployment="d0", state="rolling", counts=counts)
    mine = event("deploy.progressed", 2, deployment="d1", state="rolling", counts=counts)
    assert (
        progress.observe(other) == "" and progress.observe(mine) == "rolling: 1 of 4 ready, 3 old"
    )
    assert progress.observe(mine) == ""
    crashed = event("container.exited", 8, instance="i1", exit_code=1, message="boom")
    assert progress.observe(crashed) == "i1  exited  (exit code 1 boom)"


def test_every_refusal_has_its_exit_code() -> None:
    assert exit_of(errors.InvalidInput.of("a", "b")) is Exit.USAGE
    assert exit_of(errors.Unauthenticated("x")) is exit_of(errors.Forbidden("x")) is Exit.FORBIDDEN
    assert exit_of(errors.NotFound("x")) is Exit.NOT_FOUND
    assert exit_of(errors.TimedOut("x")) is Exit.TIMED_OUT
    assert exit_of(errors.Unavailable("x")) is Exit.UNAVAILABLE
    for kind in (errors.Conflict, errors.Stale, errors.TooMany):
        assert exit_of(kind("x")) is Exit.REFUSED
    assert exit_of(DeployFailed("x")) is Exit.FAILED
    for code in Exit:
        assert f"{code.value} " in HELP


def printer(output: Output) -> tuple[Printer, io.StringIO, io.StringIO]:
    out, err = io.StringIO(), io.StringIO()
    return Printer(output, Console(file=out, width=10_000), Console(file=err, width=200)), out, err


def test_pipes_get_whole_lines() -> None:
    shown, out, err = printer(Output.TABLE)
    answer = Apps.model_validate(
        {"apps": [{"app": "a/b", "image": "x" * 300}], "incomplete": ["ipam"]}
    )
    columns = (
        Column("APP", lambda a: a.app),
        Column("IMAGE", lambda a: a.image),
        Column("W", str, wide=True),
    )
    shown.rows(answer, answer.apps, columns, "none")
    lines = out.getvalue().splitlines()
    assert len(lines) == 2 and lines[1].split() == ["a/b", "x" * 300]
    assert "ipam" in err.getvalue()
    shown.rows(answer, [], columns, "no apps")
    assert "no apps" in err.getvalue() and len(out.getvalue().splitlines()) == 2


def test_errors_tell_field_expectation_and_request() -> None:
    error = InvalidInput.of("instances", "is -1", "0 to 10000")
    error.add_note("request id: r-1")
    shown, _, err = printer(Output.TABLE)
    shown.error(error)
    assert "instances: is -1 (expected: 0 to 10000)" in err.getvalue()
    assert "request id: r-1" in err.getvalue()
    shown, _, err = printer(Output.TABLE)
    shown.error(InvalidInput.of("port", "must be 1 to 9", "1 to 9"))
    assert err.getvalue() == "error: port: must be 1 to 9\n"  # once is enough
    shown, _, err = printer(Output.JSON)
    shown.error(error)
    assert '"request_id":"r-1"' in err.getvalue() and '"expected":"0 to 10000"' in err.getvalue()


def test_validate_needs_no_server(tmp_path: Path) -> None:
    file = tmp_path / "app.yaml"
    out, err = io.StringIO(), io.StringIO()
    environ = {"HOME": str(tmp_path), "GANTRY_URL": "http://127.0.0.1:1"}
    file.write_text(GOOD)
    assert run(["validate", str(file)], Streams(out, err, environ)) == 0
    assert out.getvalue() == "acme/web: good\n"
    file.write_text(GOOD + "instnces: 3\n")
    assert run(["validate", str(file)], Streams(out, err, environ)) == 2
    assert "instnces: unknown field" in err.getvalue()
    assert run(["validate", str(tmp_path / "none.yaml")], Streams(out, err, environ)) == 2
    assert run(["version"], Streams(out, err, environ)) == 0


@pytest.mark.parametrize(
    "argv", [["nonsense"], ["scale", "acme/web"], ["scale", "a/b", "-1"], ["ps", "-o", "xml"]]
)
def test_wrong_usage_exits_2(argv: list[str], tmp_path: Path, capsys: Any) -> None:
    assert run(argv, Streams(io.StringIO(), io.StringIO(), {"HOME": str(tmp_path)})) == 2
    assert capsys.readouterr().err


def test_no_server_exits_5(tmp_path: Path) -> None:
    err = io.StringIO()
    environ = {"HOME": str(tmp_path), "GANTRY_URL": "http://127.0.0.1:1", "GANTRY_KEY": "gk_x"}
    assert run(["apps"], Streams(io.StringIO(), err, environ)) == 5
    assert "can't be reached" in err.getvalue()
