"""Plans and machines of somebody else: read strictly, refused in one line, and nothing of them is run."""

from __future__ import annotations

import json
import os

import pytest

from gridnn.cost.machines import content_of, load_machine
from gridnn.errors import UserError
from gridnn.records import parse_json, read_json

BAD_JSON = {
    "nested deep": ("[" * 5000 + "]" * 5000, "nested more than 64 levels"),
    "nested less deep": ("[" * 66 + "]" * 66, "nested more than 64 levels"),
    "a key twice": ('{"a": {"b": 1, "b": 2}}', "the key 'b' is there twice"),
    "NaN": ('{"a": NaN}', "NaN is no number of JSON"),
    "infinity": ("[-Infinity]", "-Infinity is no number of JSON"),
    "a large float": ("[1e999]", "is too large"),
    "a large integer": ("[1" + 400 * "0" + "]", "is too large"),
    "a larger integer": (5000 * "9", "is too large"),
    "half a pair": (r'["\ud800"]', "no JSON"),
    "nothing": ("", "no JSON"),
}


@pytest.mark.parametrize("name", BAD_JSON)
def test_json_is_read_strictly(tmp_path, name):
    text, reason = BAD_JSON[name]
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError) as raised:
        read_json("thing", tmp_path / "a.json")
    told = str(raised.value)
    assert told.startswith(f"thing {tmp_path / 'a.json'}: ") and reason in told and "\n" not in told and len(told) < 300


def test_json_that_is_sound_is_read(tmp_path):
    data = {"a": [1, -2.5, None, True, "\U0001f600"], "b": {"c": {}}}
    (tmp_path / "a.json").write_text(json.dumps(data))
    assert read_json("thing", tmp_path / "a.json") == data
    assert parse_json("thing", "[" * 64 + "]" * 64)
    with pytest.raises(UserError, match=r"a\.json: it has \d+ bytes, but at most 9 are read"):
        read_json("thing", tmp_path / "a.json", 9)


def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    for path in (tmp_path / "pipe.json", tmp_path, "/dev/zero"):
        with pytest.raises(UserError, match=rf"thing {path}: it is no regular file"):
            read_json("thing", path)
    with pytest.raises(UserError, match=r"no regular file.*gridnn calibrate"):
        load_machine(tmp_path / "pipe.json")


@pytest.mark.parametrize(
    ("path", "value", "text"),
    [
        ("compute/memory", 5e-324, "compute.memory = 5e-324: a number from 1e-30 to 1e+30, so that times are finite"),
        ("compute/overhead", 1e300, "compute.overhead = 1e+300: a number from 1e-30"),
        ("levels/0/alpha", 1e-300, "a number from 1e-30"),
        ("levels/0/ranks", 10**30, "at most 1,000,000,000 ranks"),
        ("version", True, "this gridnn reads version 1"),
    ],
)
def test_a_machine_whose_times_are_not_finite_is_refused(tmp_path, path, value, text):
    data = content_of(load_machine("generic-cpu"))
    *way, last = path.split("/")
    place = data
    for step in way:
        place = place[int(step) if step.isdigit() else step]
    place[last] = value
    (tmp_path / "m.json").write_text(json.dumps(data))
    with pytest.raises(UserError) as raised:
        load_machine(tmp_path / "m.json")
    assert text in str(raised.value)
