"""Checkpoints and weights of somebody else, their checksums right or not: read strictly, refused in one line."""

from __future__ import annotations

import hashlib
import json
import os
import struct

import numpy as np
import pytest
from safetensors.numpy import save_file

from gridnn.errors import UserError
from gridnn.models import get_model
from gridnn.models.torchvision import sources
from gridnn.train.header import UNKNOWN, Damaged, lay_out, read_header
from gridnn.train.resume import Facts, Progress
from gridnn.train.weights import check_weights

FACTS = {
    "step": 5,
    "samples": 60,
    "progress": {"done": 5, "epoch": 2, "loss": 1.5, "right": 4.0, "count": 26},
    "loss_scale": {"value": 65536.0, "good": 5, "skipped": 0},
    "ranks": 4,
    "config": {"model": "mlp", "lr": 0.1},
    "writer": "gridnn",
}
HEADER = lay_out({"fc.weight": ("float32", (3, 4)), "fc.bias": ("float64", (4,))}, FACTS)


def content() -> dict:
    return json.loads(HEADER.encode()[8:])


def forged(path, text: str | bytes, data: bytes = bytes(80)) -> str:
    """A file whose header is ``text`` with a checksum that is right."""
    text = text.encode() if isinstance(text, str) else text
    text += b" " * (-len(text) % 8)
    place = text.find(b'"checksum":"') + 12
    if place > 11:
        text = text[:place] + UNKNOWN + text[place + 64 :]
        text = text[:place] + hashlib.sha256(text).hexdigest().encode() + text[place + 64 :]
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return str(path)


def compact(entries: dict) -> str:
    return json.dumps(entries, separators=(",", ":"))


def test_a_sound_header_is_read(tmp_path):
    path = forged(tmp_path / "a", compact(content()))
    header = read_header(path)
    assert header.tensors == HEADER.tensors and header.facts == HEADER.facts
    assert Facts.of(path, header.facts).progress == Progress(**FACTS["progress"])


ENTRIES = [
    ("fc.weight", None, "is None, not its dtype"),
    ("fc.weight", {"dtype": "F32", "shape": [3, 4]}, "not its dtype, shape and data_offsets"),
    ("fc.weight", {"dtype": [], "shape": [3, 4], "data_offsets": [0, 48]}, "is of type []"),
    ("fc.weight", {"dtype": "F8", "shape": [3, 4], "data_offsets": [0, 48]}, "is of type 'F8', not one of F16"),
    ("fc.weight", {"dtype": "F32", "shape": 12, "data_offsets": [0, 48]}, "has the shape 12"),
    ("fc.weight", {"dtype": "F32", "shape": [-3, -4], "data_offsets": [0, 48]}, "is -3, but must be a whole number"),
    ("fc.weight", {"dtype": "F32", "shape": [3.0, 4], "data_offsets": [0, 48]}, "is 3.0, but must be a whole number"),
    ("fc.weight", {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 48]}, "but must be a whole number"),
    ("fc.weight", {"dtype": "F32", "shape": [3, 4], "data_offsets": [8, 56]}, "lies at [8, 56], not at 0 to 48"),
    ("fc.bias", {"dtype": "F64", "shape": [4], "data_offsets": [40, 72]}, "lies at [40, 72], not at 48 to 80"),
    ("fc.bias", {"dtype": "F64", "shape": [4], "data_offsets": None}, "lies at None"),
]


@pytest.mark.parametrize(("name", "entry", "text"), ENTRIES)
def test_entries_that_are_none_are_refused(tmp_path, name, entry, text):
    path = forged(tmp_path / "a", compact({**content(), name: entry}))
    with pytest.raises(Damaged) as raised:
        read_header(path)
    assert f"checkpoint {path} is not as gridnn writes it: " in str(raised.value) and text in str(raised.value)


METADATA = [
    ("digests", "[]", '"digests" is []'),
    ("digests", '{"fc.weight": "0"}', "its digests are not those of its tensors"),
    ("digests", "[" * 5000, "nested more than 64 levels"),
    ("step", "x", "step: no JSON"),
    ("ranks", "-4", '"ranks" is -4'),
    ("samples", "1.5", '"samples" is 1.5'),
]


@pytest.mark.parametrize(
    ("name", "value", "text"), METADATA, ids=[f"{name}={value[:9]}" for name, value, _ in METADATA]
)
def test_metadata_that_are_none_are_refused(tmp_path, name, value, text):
    entries = content()
    entries["__metadata__"][name] = value
    with pytest.raises(Damaged) as raised:
        read_header(forged(tmp_path / "a", compact(entries)))
    assert text in str(raised.value)


@pytest.mark.parametrize("text", ["[]", "null", '{"__metadata__":null}', '{"__metadata__":{"gridnn":1}}', 5000 * "["])
def test_a_header_that_is_no_object_of_texts_is_refused(tmp_path, text):
    with pytest.raises(Damaged, match="its header is no JSON object"):
        read_header(forged(tmp_path / "a", text, b""))


@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_what_is_no_regular_file_is_refused_at_once(tmp_path, kind):
    path = tmp_path / "step-00000009.safetensors"
    os.mkfifo(path) if kind == "pipe" else path.mkdir()
    with pytest.raises(Damaged, match=r"step-00000009.safetensors cannot be read: it is a .*, not a file"):
        read_header(str(path))


def said(**changes) -> dict[str, str]:
    """The facts of a header, with some of them changed; None: left out."""
    facts = {**FACTS, **changes}
    return {name: json.dumps(value) for name, value in facts.items() if value is not None}


PROGRESS = FACTS["progress"]
BAD_FACTS = [
    ({"config": None}, 'it lacks "config"'),
    ({"config": []}, 'its "config" is []'),
    ({"progress": None}, 'it lacks "progress"'),
    ({"progress": []}, 'its "progress" is []'),
    ({"progress": {"done": 5}}, "but must be an object of done, epoch, loss, right, count"),
    ({"progress": {**PROGRESS, "more": 1}}, "but must be an object of"),
    ({"progress": {**PROGRESS, "done": 2.5}}, '"done" is 2.5'),
    ({"progress": {**PROGRESS, "done": -4}}, '"done" is -4'),
    ({"progress": {**PROGRESS, "done": 4}}, 'its "step" is 5, but its progress 4'),
    ({"progress": {**PROGRESS, "epoch": 0}}, '"epoch" is 0'),
    ({"progress": {**PROGRESS, "epoch": True}}, '"epoch" is True'),
    ({"progress": {**PROGRESS, "count": float("nan")}}, "NaN is no number of JSON"),
    ({"progress": {**PROGRESS, "loss": "1"}}, "\"loss\" is '1'"),
    ({"loss_scale": {"value": 0, "good": 0, "skipped": 0}}, '"value" is 0'),
    ({"loss_scale": {"value": 2, "good": 0, "skipped": 9}}, '"skipped" is 9'),
    ({"ranks": 0}, '"ranks" is 0'),
    ({"step": "5"}, "\"step\" is '5'"),
]


@pytest.mark.parametrize(("changes", "text"), BAD_FACTS, ids=[text for _, text in BAD_FACTS])
def test_facts_that_are_none_are_refused(changes, text):
    with pytest.raises(Damaged) as raised:
        Facts.of("c", said(**changes))
    assert str(raised.value).startswith("checkpoint c is not one of gridnn train: ") and text in str(raised.value)


@pytest.mark.parametrize(
    ("done", "epoch", "count", "sound"),
    [
        *[(0, 1, 0, True), (2, 1, 26, True), (3, 1, 34, True), (3, 2, 0, True), (5, 2, 26, True)],
        *[(5, 1, 26, False), (5, 4, 26, False), (5, 2, 35, False), (5, 2, 0, False), (3, 2, 4, False)],
    ],
)
def test_progress_is_that_of_its_epoch(done, epoch, count, sound):
    progress = Progress(done, epoch, 1.0, 1.0, count)
    if sound:
        progress.check(3, 34)
    else:
        with pytest.raises(UserError, match=r"are not"):
            progress.check(3, 34)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_weights_of_a_wrapped_model_are_refused_with_the_remedy(tmp_path, prefix):
    network, path = get_model("resnet18", (32, 32, 3), 7), tmp_path / "w.safetensors"
    arrays = {one.name: np.zeros(one.shape, np.float32) for one in sources("resnet18", network).values()}
    save_file({prefix + name: array for name, array in arrays.items()}, path)
    told = f"all of its names begin with '{prefix}', .* write model.{prefix}state_dict\\(\\) into it instead"
    with pytest.raises(UserError, match=told):
        check_weights(str(path), "resnet18", network)
    save_file(arrays, path)
    check_weights(str(path), "resnet18", network)


def test_weights_are_read_from_regular_files(tmp_path):
    os.mkfifo(tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=r"w\.safetensors cannot be read: it is a .*, not a file"):
        check_weights(str(tmp_path / "w.safetensors"), "resnet18", get_model("resnet18", (32, 32, 3), 7))
