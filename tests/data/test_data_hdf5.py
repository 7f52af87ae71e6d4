"""HDF5: hyperslabs of any box, and what is refused."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from reading import check_boxes, read

from gridnn.data.datasets import open_dataset
from gridnn.data.hdf5 import Hyperslabs, runs
from gridnn.errors import UserError

h5py = pytest.importorskip("h5py")

SHAPES = {"features": (11,), "signal": (13, 2), "image": (7, 6, 3), "volume": (5, 7, 6, 2)}
STORED = {
    "contiguous": {},
    "chunked": {"chunks": True},
    "compressed": {"chunks": True, "compression": "gzip", "shuffle": True},
}


def arrays(shape=(5, 7, 6, 2), samples=12, dtype="float32"):
    random = np.random.default_rng(0)
    content = {}
    for part, count in (("train", samples), ("test", 5)):
        content[f"x_{part}"] = (random.random((count, *shape)) * 200).astype(dtype)
        content[f"y_{part}"] = random.random((count, 3))
    return content


def write(tmp_path, content, name="data.h5", **options):
    path = tmp_path / name
    with h5py.File(path, "w") as file:
        for name, array in content.items():
            file.create_dataset(name, data=array, **options)
    return str(path)


def boxes(shape):
    """Parts from the middle, the end, and nothing at all."""
    middle = tuple((size // 3, size // 3 + max(1, size // 2)) for size in shape)
    end = tuple((size - 1, size) for size in shape)
    return middle, end, ((1, 1), *middle[1:]), (*middle[:-1], (0, shape[-1]))


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("kind", SHAPES)
def test_boxes_of_samples_of_one_to_four_dimensions(tmp_path, kind, stored):
    content = arrays(SHAPES[kind])
    data = open_dataset(write(tmp_path, content, **STORED[stored]))
    assert (len(data.train), len(data.test), data.train.sample_shape) == (12, 5, SHAPES[kind])
    assert (data.train.classes, data.train.target_shape) == (None, (3,))
    np.testing.assert_array_equal(read(data.train, range(12)), content["x_train"])
    np.testing.assert_array_equal(data.test.targets(np.array([4, 0, 1, 2])), content["y_test"][[4, 0, 1, 2]])
    check_boxes(data.train, *boxes(SHAPES[kind]))


@pytest.mark.parametrize("dtype", ["float16", "float64", "int16", "uint8", "uint16", "bool", ">f4"])
def test_types(tmp_path, dtype):
    content = arrays((4, 5, 1), dtype=dtype)
    train = open_dataset(write(tmp_path, content)).train
    expected = content["x_train"].astype("float64") / (255 if dtype == "uint8" else 1)
    np.testing.assert_allclose(read(train, range(12)), expected, rtol=1e-15)
    np.testing.assert_allclose(read(train, [3, 1], dtype="float32"), expected[[3, 1]], rtol=1e-6)


def test_runs_are_read_at_once():
    def found(*rows):
        return runs(np.array(rows), np.arange(len(rows)))

    assert found(3, 4, 5, 9, 8, 8) == [(0, 3), (3, 4), (4, 5), (5, 6)]
    assert found(2) == [(0, 1)]
    assert runs(np.array([3, 4, 5]), np.array([0, 2, 3])) == [(0, 1), (1, 3)]


def test_targets_like_the_sample_are_read_by_box(tmp_path):
    content = arrays()
    content |= {f"y_{part}": content[f"x_{part}"][..., :1] * 2 for part in ("train", "test")}
    train = open_dataset(write(tmp_path, content)).train
    assert train.target_shape == (5, 7, 6, 1)
    box = ((1, 4), (0, 7), (2, 2 + 3), (0, 1))
    part = content["y_train"][[7, 2], 1:4, :, 2:5]
    np.testing.assert_array_equal(train.targets(np.array([7, 2]), box), part)


def test_a_label_for_every_voxel(tmp_path):
    content = arrays()
    content |= {f"y_{part}": (content[f"x_{part}"][..., 0] > 99).astype("int8") for part in ("train", "test")}
    path = write(tmp_path, content)
    train = open_dataset(path, classes=2).train
    assert (train.classes, train.target_shape) == (2, (5, 7, 6))
    labels = train.targets(np.array([1, 0]), ((0, 5), (3, 4), (1, 6)))
    np.testing.assert_array_equal(labels, content["y_train"][[1, 0], :, 3:4, 1:6])
    assert labels.dtype == np.int64
    with pytest.raises(UserError, match=r"a label for every place of \(12, 5, 7, 6\); say with --classes how many"):
        open_dataset(path)
    content["y_train"][3, 1, 2, 3] = 2
    train = open_dataset(write(tmp_path, content, "other.h5"), classes=2).train
    train.targets(np.array([3]), ((2, 5), (0, 7), (0, 6)))
    with pytest.raises(UserError, match="sample 3 has the label 2, but 2 classes"):
        train.targets(np.array([0, 3]))


def test_names_and_groups(tmp_path):
    x, y = np.arange(22.0).reshape(11, 2), np.arange(11)
    path = write(tmp_path, {"runs/density": x, "runs/kind": y})
    data = open_dataset(path, called=("runs/density", "runs/kind"))
    assert (len(data.train), len(data.test), data.train.classes) == (8, 3, 11)
    labels = data.test.targets(np.arange(3))
    np.testing.assert_array_equal(read(data.test, range(3)), x[labels])
    with pytest.raises(UserError, match=r"lacks x_train, .*it has runs/density, runs/kind.*--names says"):
        open_dataset(path)
    with pytest.raises(UserError, match=r"data set runs is a group; the file has runs/density, runs/kind"):
        Hyperslabs(tmp_path / "data.h5", "runs")


@pytest.mark.parametrize("stored", STORED)
def test_a_number_that_is_not_finite(tmp_path, stored):
    content = arrays()
    content["x_train"][7, 3, 2, 0, 1] = np.nan
    train = open_dataset(write(tmp_path, content, **STORED[stored])).train
    read(train, [7], ((0, 3), (0, 7), (0, 6), (0, 2)))
    with pytest.raises(UserError, match=r"data.h5 \(train\): sample 7 holds a number that is not finite"):
        read(train, [2, 7])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x_train": np.zeros((9, 5, 7, 6, 2))}, "9 samples, but 12 targets"),
        ({"x_train": np.zeros((12, 5, 7, 6, 1))}, "to train with are 5x7x6x1 -> 3, those to test 5x7x6x2 -> 3"),
        ({"x_train": np.zeros((12, 1, 5, 7, 6, 2))}, r"have the shape 12x1x5x7x6x2; give .*\(samples, d, h, w, c\)"),
        ({"x_train": np.zeros(12)}, "have the shape 12; give"),
        ({"x_train": 3.0}, r"have the shape \(\); give"),
        ({"x_train": np.array([b"ab"] * 12)}, r"the samples are of type \|S2"),
        (
            {"y_train": np.zeros(12, [("a", "f4"), ("b", "i4")])},
            "the targets are of type .*'a'.*give integers or float",
        ),
        ({"x_train": np.zeros((12, 3), "c8")}, "the samples are of type complex64"),
        ({"x_train": None}, "data set x_train is empty"),
    ],
)
def test_refused(tmp_path, change, message):
    content = arrays() | change
    path = tmp_path / "data.h5"
    with h5py.File(path, "w") as file:
        for name, array in content.items():
            if array is None:
                file[name] = h5py.Empty("f4")
            else:
                file[name] = array
    with pytest.raises(UserError, match=message):
        open_dataset(str(path))


def test_texts_are_refused(tmp_path):
    path = write(tmp_path, arrays())
    with h5py.File(path, "a") as file:
        del file["x_train"]
        file["x_train"] = ["one", "two"]
    with pytest.raises(UserError, match="the samples are of type object"):
        open_dataset(path)


def test_one_missing(tmp_path):
    content = arrays()
    del content["y_test"]
    with pytest.raises(UserError, match=r"data.h5 lacks y_test; it has x_test, x_train, y_train, but should hold"):
        open_dataset(write(tmp_path, content))


@pytest.mark.parametrize("keep", [0, 100, 2500])
def test_truncated(tmp_path, keep):
    path = tmp_path / "data.h5"
    write(tmp_path, arrays())
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"data.h5 is no complete HDF5 file"):
        open_dataset(str(path))


def test_damaged_within(tmp_path):
    """A chunk that does not unpack is found when it is read, and named."""
    path = tmp_path / "data.h5"
    write(tmp_path, arrays())
    with h5py.File(path, "a") as file:
        x = file["x_train"][:]
        del file["x_train"]
        file.create_dataset("x_train", data=x, chunks=(1, 5, 7, 6, 2), compression="gzip")
    with h5py.File(path) as file:
        start = file["x_train"].id.get_chunk_info(4).byte_offset
    content = bytearray(path.read_bytes())
    content[start : start + 40] = bytes(40)
    path.write_bytes(content)
    train = open_dataset(str(path)).train
    read(train, [3, 5])
    with pytest.raises(UserError, match=r"data.h5: x_train\[4\] cannot be read \(.*\): write it again"):
        read(train, [6, 4])


def test_the_signature_tells_a_file_of_another_name(tmp_path):
    path = tmp_path / "data.nc"
    write(tmp_path, arrays())
    (tmp_path / "data.h5").rename(path)
    assert len(open_dataset(str(path)).train) == 12


def test_without_h5py(tmp_path, monkeypatch):
    path = write(tmp_path, arrays())
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UserError, match=r"h5py, which is not installed: pip install 'gridnn\[hdf5\]'"):
        open_dataset(path)


def test_the_file_is_opened_when_it_is_read(tmp_path):
    path = write(tmp_path, arrays())
    data = open_dataset(path)
    with h5py.File(path, "r+", locking=True) as file:  # nobody has it open
        file["x_train"][3] = 7
    assert (read(data.train, [3]) == 7).all()
