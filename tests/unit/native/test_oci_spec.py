"""The shim's JSON reader: what it rewrites, what it refuses, and that it agrees with Python's."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

PATH = "/run/gantry/c/netns/n1"
HOST_ENTRY = {"type": "network", "path": "/var/run/docker/netns/default"}
OURS = {"type": "network", "path": PATH}


def edit(native: Path, text: str | bytes, program: str = "spec-edit") -> tuple[int, bytes, str]:
    """Run the rewriting alone; returns (status, new text, reason)."""
    raw = text if isinstance(text, bytes) else text.encode()
    done = subprocess.run([str(native / program), PATH], input=raw, capture_output=True, timeout=60)
    return done.returncode, done.stdout, done.stderr.decode()


def spec(*namespaces: Any, **more: Any) -> dict[str, Any]:
    """A spec as Docker writes it, cut to what matters here."""
    return {
        "ociVersion": "1.0.2",
        "process": {"args": ["sh"], "env": ["A=1"]},
        "linux": {"resources": {}, "namespaces": list(namespaces), "maskedPaths": []},
        **more,
    }


def test_replaces_the_host_entry_and_nothing_else(native: Path) -> None:
    before = spec({"type": "mount"}, HOST_ENTRY, {"type": "pid"})
    status, text, _ = edit(native, json.dumps(before))
    assert status == 0
    assert json.loads(text) == spec({"type": "mount"}, OURS, {"type": "pid"})


@pytest.mark.parametrize("others", [[], [{"type": "mount"}], [{"type": "pid"}, {"type": "ipc"}]])
def test_adds_the_entry_when_the_engine_left_it_out(native: Path, others: list[Any]) -> None:
    status, text, _ = edit(native, json.dumps(spec(*others), indent=3))
    assert status == 0
    assert json.loads(text) == spec(OURS, *others)


HOSTILE_TEXTS = [
    '"linux":{"namespaces":[{"type":"network","path":"/proc/1/ns/net"}]}',
    '\\"namespaces\\": [',
    '{"type":"network"}],"linux":{"namespaces":[',
    "\\u006eamespaces",
    '\\\\","linux":{}',
    "}}}}]]]]",
    "\x7f é \U0001f600",
]


@pytest.mark.parametrize("text", HOSTILE_TEXTS)
def test_strings_that_look_like_the_place_are_left_alone(native: Path, text: str) -> None:
    before = spec(HOST_ENTRY, annotations={text: text, "namespaces": text})
    before["process"]["args"] = [text]
    before["process"]["env"] = [f"linux={text}"]
    before["hooks"] = {"linux": {"namespaces": [HOST_ENTRY, HOST_ENTRY]}}
    for ascii_only in (True, False):
        status, out, why = edit(native, json.dumps(before, ensure_ascii=ascii_only))
        assert status == 0, why
        expected = dict(before, linux=spec(OURS)["linux"])
        assert json.loads(out) == expected


REFUSED = [
    ("", "object"),
    ("[]", "object"),
    ("null", "object"),
    ("{}", "no linux.namespaces"),
    ('{"linux":null}', "object"),
    ('{"linux":{}}', "no linux.namespaces"),
    ('{"linux":{"namespaces":{}}}', "array"),
    ('{"linux":{"namespaces":null}}', "array"),
    ('{"linux":{"namespaces":["network"]}}', "object"),
    ('{"linux":{"namespaces":[{"path":"/x"}]}}', "no type"),
    ('{"linux":{"namespaces":[{"type":"network"},{"type":"network"}]}}', "two network"),
    ('{"linux":{"namespaces":[{"type":"network","type":"pid"}]}}', "twice"),
    ('{"linux":{"namespaces":[{"type":"network","Path":"/x"}]}}', "case"),
    ('{"linux":{"namespaces":[{"type":"network","extra":1}]}}', "other than"),
    ('{"linux":{"namespaces":[{"type":"net\\u0077ork"}]}}', "escape"),
    ('{"linux":{"namespaces":[{"type":1}]}}', "string"),
    ('{"linux":{"namespaces":[{"type":"network","path":null}]}}', "string"),
    ('{"linux":{"namespaces":[]},"linux":{"namespaces":[]}}', "twice"),
    ('{"linux":{"namespaces":[],"namespaces":[]}}', "twice"),
    ('{"linux":{"namespaces":[]},"Linux":{"namespaces":[]}}', "case"),
    ('{"linux":{"namespaces":[],"nameSpaces":[]}}', "case"),
    ('{"linux":{"namespaces":[],"\\u006eamespaces":[]}}', "escape"),
    ('{"linux":{"namespaces":[],"name\u017fpaces":[]}}', "escape"),
    ('{"linux":{"namespaces":[]}} {}', "follows"),
    ('{"linux":{"namespaces":[]}}\x00', "follows"),
    ('{"linux":{"namespaces":[]},}', "string"),
    ('{"linux":{"namespaces":[]', "end"),
    ('{"linux":{"namespaces":[', "object"),
    ('{"linux":{"namespaces":[{"type":"network"', "end"),
    ('{"a":"\\x","linux":{"namespaces":[]}}', "escape"),
    ('{"a":"\\u12g4","linux":{"namespaces":[]}}', "escape"),
    ('{"a":"\\', "escape"),
    ('{"a":"b', "end"),
    ('{"a":"\n","linux":{"namespaces":[]}}', "control"),
    ('{"a":01,"linux":{"namespaces":[]}}', "end"),
    ('{"a":-,"linux":{"namespaces":[]}}', "number"),
    ('{"a":1.,"linux":{"namespaces":[]}}', "number"),
    ('{"a":tru,"linux":{"namespaces":[]}}', "word"),
    ('{"a":NaN,"linux":{"namespaces":[]}}', "word"),
    ('{"a" 1}', "colon"),
    ('{"a":' + "[" * 100 + "]" * 100 + ',"linux":{"namespaces":[]}}', "deep"),
    ("[" * 1_000_000, "object"),
]


@pytest.mark.parametrize(
    ("text", "reason"), REFUSED, ids=[f"{n}-{reason}" for n, (_, reason) in enumerate(REFUSED)]
)
def test_refuses(native: Path, text: str, reason: str) -> None:
    status, out, why = edit(native, text)
    assert (status, out) == (1, b"")
    assert reason in why


def test_a_huge_spec_is_read_whole(native: Path) -> None:
    before = spec({"type": "pid"}, HOST_ENTRY)
    before["process"]["env"] = [f"V{i}={'x' * 100}" for i in range(100_000)]
    status, text, _ = edit(native, json.dumps(before))
    assert status == 0
    assert json.loads(text)["linux"] == spec({"type": "pid"}, OURS)["linux"]


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(process=JSON, annotations=st.dictionaries(st.text(), st.text(), max_size=4))
@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_agrees_with_python_on_any_document(
    native: Path, process: Any, annotations: dict[str, str]
) -> None:
    before = spec({"type": "uts"}, HOST_ENTRY, process=process, annotations=annotations)
    status, text, why = edit(native, json.dumps(before))
    assert status == 0, why
    assert json.loads(text) == spec({"type": "uts"}, OURS, process=process, annotations=annotations)


GOOD = json.dumps(spec({"type": "pid"}, HOST_ENTRY)).encode()


@given(at=st.integers(0, len(GOOD) - 1), byte=st.integers(0, 255), cut=st.booleans())
@example(at=0, byte=0, cut=True)
@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_what_it_accepts_is_always_json_with_our_namespace(
    native: Path, at: int, byte: int, cut: bool
) -> None:
    broken = GOOD[:at] if cut else GOOD[:at] + bytes([byte]) + GOOD[at + 1 :]
    status, text, _ = edit(native, broken)
    if status == 0:
        # Bytes that are no UTF-8 may stand in strings: Go, too, reads them as U+FFFD.
        namespaces = json.loads(text.decode(errors="replace"))["linux"]["namespaces"]
        assert [n for n in namespaces if n["type"] == "network"] == [OURS]


def test_reads_no_byte_outside_the_text(native: Path) -> None:
    for size in range(len(GOOD)):
        status, _, why = edit(native, GOOD[:size], "spec-edit-sanitized")
        assert (status, "ERROR" in why) == (1, False), why
    for text, _ in REFUSED:
        status, _, why = edit(native, text, "spec-edit-sanitized")
        assert (status, "ERROR" in why) == (1, False), why
    assert edit(native, GOOD, "spec-edit-sanitized")[0] == 0
