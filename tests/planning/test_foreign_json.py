"""Plans and machines of somebody else: read strictly, refused in one line, and nothing of them is run."""

from __future__ import annotations

import json
import os

import pytest

from gridnn.cost.machines import content_of, load_machine
from gridnn.errors import UserError
from gridnn.records import parse_json, read_json
from gridnn.train.config import RunConfig
from gridnn.train.planning import make_priced_plan, open_priced_plan

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
        with pytest.raises(UserError, match=rf"thing {path}: it is .*, not a file"):
            read_json("thing", path)
    with pytest.raises(UserError, match=r"not a file.*gridnn calibrate"):
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


@pytest.fixture
def made(tmp_path):
    """A plan in ``plan.json``, priced."""
    options = {"dataset": None, "model": "mlp", "shape": "5", "classes": 4, "batch": 8, "grid": "2x2"}
    found = make_priced_plan(RunConfig.of(**options), 4, "generic-cpu", None)
    found.plan.save(tmp_path / "plan.json")
    return found


def changed(path, **values) -> str:
    """The plan in a file with other values, ``provenance__batch=3`` further inside."""
    data = json.loads(path.read_text())
    for name, value in values.items():
        *way, last = name.split("__")
        place = data
        for step in way:
            place = place[step]
        place[last] = value
    path.write_text(json.dumps(data))
    return str(path)


WRONG = [
    ("version", True, "version True, but this gridnn reads version 1"),
    ("strategy", [], '"strategy" is [], but must be a text'),
    ("grid", 4, '"grid" is 4: write the rows x columns'),
    ("grid", 5000 * "9" + "x1", '"grid" is'),
    ("grid", "99999999x99999999", "more than 10,000,000 ranks"),
    ("recompute", 1, "recompute 1 is not one of False, True"),
    ("halo", ["auto"], "halo ['auto'] is not one of"),
    ("microbatches", 2**31, "but must be a whole number from 1 to 4,096"),
    ("microbatches", 9, '"microbatches" is 9, but a pass has only 8 samples'),
    ("rounds", 2, '"rounds" is an older name of "microbatches", which it has, too'),
    ("made_for", {}, '"made_for" is an older name of "provenance"'),
    ("splits__fc1", "n=" + 5000 * "9", "not a text of up to 200 letters"),
    ("provenance", 3, '"provenance" is not complete'),
    ("provenance__batch", 8.5, '"batch" is 8.5, but must be a whole number of at least 1'),
    ("provenance__batch", "8", "\"batch\" is '8'"),
    ("provenance__machine__name", [], "but must have a text, or null, for name"),
    ("provenance__network__layers__fc1", None, '"layers" has None'),
    ("provenance__network__fingerprint", 0, '"fingerprint" is 0, but must be a text'),
    ("provenance__options", [], '"options" is [], but must be an object'),
    ("provenance__options__dataset", 3, "the option dataset of its provenance is 3, which is of the wrong type"),
    ("provenance__options__dataset", "a\0b", "the option dataset"),
    ("provenance__options__model", None, "the option model"),
    ("provenance__options__seed", 1.5, "the option seed"),
    ("provenance__options__recompute", 1, "the option recompute"),
    ("provenance__options__widths", 5000 * "9", "which is no text of up to 4,096 letters"),
    ("provenance__options__widths", 200 * "9", "which has a number that is too large"),
    ("provenance__options__classes", 10**300, "but at most 9,223,372,036,854,775,807 is priced"),
    ("provenance__options__accumulate", 10**8, "but at most 10,000 is priced"),
]


@pytest.mark.parametrize(
    ("name", "value", "text"), WRONG, ids=[f"{name}={str(value)[:12]!r}" for name, value, _ in WRONG]
)
def test_values_that_a_plan_cannot_have_are_refused_by_name(made, tmp_path, name, value, text):
    path = changed(tmp_path / "plan.json", **{name: value})
    with pytest.raises(UserError) as raised:
        open_priced_plan(path, None, None)
    assert str(raised.value).startswith(f"plan {path}") and text in str(raised.value)


@pytest.mark.parametrize(("option", "name"), [("model", "mine.py:net"), ("loss", "mine.py:Loss")])
def test_a_file_of_python_is_not_run_because_a_plan_names_it(made, tmp_path, option, name):
    (tmp_path / "mine.py").write_text("raise SystemExit('it was run')")
    own = str(tmp_path / name)
    path = changed(tmp_path / "plan.json", **{f"provenance__options__{option}": own})
    with pytest.raises(UserError) as raised:
        open_priced_plan(path, None, None)
    told = str(raised.value)
    assert f"names the file {tmp_path / 'mine.py'} as its {option}" in told and "\n" not in told
    assert f"gridnn plan --plan {path} --ranks 4 --{option} {own}" in told
