from __future__ import annotations

import numpy as np
import pytest
from reading import IMAGE_BOXES, check_boxes, read

from gridnn.data.datasets import open_dataset
from gridnn.errors import UserError


def arrays(samples=12, shape=(8, 6, 1), dtype="float32"):
    random = np.random.default_rng(0)
    out = {}
    for part, count in (("train", samples), ("test", 5)):
        out[f"x_{part}"] = (random.random((count, *shape)) * 200).astype(dtype)
        out[f"y_{part}"] = np.arange(count) % 4
    return out


def write(tmp_path, form, content):
    """The arrays as a .npz file or as a directory of .npy files; its path."""
    if form == "npz":
        np.savez(tmp_path / "data.npz", **content)
        return str(tmp_path / "data.npz")
    for name, array in content.items():
        np.save(tmp_path / f"{name}.npy", array)
    return str(tmp_path)


@pytest.mark.parametrize("form", ["npz", "npy"])
class TestArrays:
    def test_read(self, tmp_path, form):
        content = arrays()
        data = open_dataset(write(tmp_path, form, content))
        assert (len(data.train), len(data.test), data.train.sample_shape) == (12, 5, (8, 6, 1))
        assert (data.train.classes, data.test.classes) == (4, 4)
        np.testing.assert_array_equal(read(data.train, range(12), dtype="float32"), content["x_train"])
        np.testing.assert_array_equal(data.test.targets(np.arange(5)), content["y_test"])
        check_boxes(data.train, *[(box[0], (0, 3), (0, 1)) for box in IMAGE_BOXES])

    def test_bytes_become_fractions_and_grey_images_get_a_channel(self, tmp_path, form):
        content = arrays(shape=(8, 6), dtype="uint8")
        train = open_dataset(write(tmp_path, form, content)).train
        assert train.sample_shape == (8, 6, 1)
        np.testing.assert_allclose(read(train, range(12))[..., 0], content["x_train"] / 255, rtol=1e-15)

    def test_regression(self, tmp_path, form):
        content = arrays(shape=(3,))
        content |= {"y_train": np.arange(12) / 2, "y_test": np.arange(5) / 2}
        train = open_dataset(write(tmp_path, form, content), classes=10).train
        assert (train.sample_shape, train.classes, train.target_shape) == ((3,), None, (1,))
        np.testing.assert_array_equal(train.targets(np.array([3, 1])), [[1.5], [0.5]])

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_not_finite(self, tmp_path, form, bad):
        content = arrays()
        content["x_train"][7, 3, 2, 0] = bad
        train = open_dataset(write(tmp_path, form, content)).train
        read(train, range(7))
        read(train, [7], ((4, 8), (0, 6), (0, 1)))
        with pytest.raises(UserError, match=r"\(train\): sample 7 holds a number that is not finite"):
            read(train, [2, 7])

    def test_target_not_finite(self, tmp_path, form):
        content = arrays() | {"y_train": np.full((12, 2), np.nan), "y_test": np.zeros((5, 2))}
        train = open_dataset(write(tmp_path, form, content)).train
        with pytest.raises(UserError, match="targets: sample 4 holds a number that is not finite"):
            train.targets(np.array([4]))

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"y_train": np.array([0] * 11 + [3])}, "sample 11 has the label 3, but 3 classes have the labels 0 to 2"),
            ({"y_test": np.array([0, -1, 0, 0, 0])}, "sample 1 has the label -1"),
            ({"x_train": np.zeros((9, 8, 6, 1))}, "9 samples, but 12 targets"),
            ({"x_train": np.zeros((12, 7, 6, 1))}, "7x6x1 -> .* to test 8x6x1"),
            ({"x_train": np.zeros((12, 1, 1, 7, 6, 1))}, "have the shape 12x1x1x7x6x1; give"),
            ({"x_train": np.zeros(12)}, "have the shape 12; give"),
            ({"x_train": np.zeros((0, 8, 6, 1)), "y_train": np.zeros(0, int)}, "at least one"),
            ({"x_train": np.array(["a"] * 12)}, "the samples are of type <U1"),
            ({"y_train": np.zeros((12, 3), int)}, "labels must be integers in one dimension"),
            ({"y_test": np.zeros(5)}, "targets to train with are labels, those to test numbers"),
            ({"y_train": np.zeros(12)}, "targets to train with are numbers, those to test labels"),
        ],
    )
    def test_refused(self, tmp_path, form, change, message):
        content = {name: y % 3 if name[0] == "y" else y for name, y in arrays().items()} | change
        with pytest.raises(UserError, match=message):
            open_dataset(write(tmp_path, form, content), classes=3)

    def test_objects_are_refused(self, tmp_path, form):
        path = write(tmp_path, form, arrays() | {"y_train": np.array([None] * 12)})
        with pytest.raises(UserError, match=r"Object arrays cannot be loaded|Python objects in dtype"):
            open_dataset(path)

    def test_one_missing(self, tmp_path, form):
        content = arrays()
        del content["y_test"]
        with pytest.raises(UserError, match=r"lacks y_test; it has .*x_train.* should hold x_train"):
            open_dataset(write(tmp_path, form, content))


class TestPaths:
    def test_x_and_y_are_divided(self, tmp_path):
        x = np.arange(22.0).reshape(11, 2)
        data = open_dataset(write(tmp_path, "npz", {"x": x, "y": np.arange(11)}))
        assert (len(data.train), len(data.test), data.test.classes) == (8, 3, 11)
        labels = [*data.train.targets(np.arange(8)), *data.test.targets(np.arange(3))]
        assert sorted(labels) == list(range(11))
        np.testing.assert_array_equal(read(data.test, range(3)), x[data.test.targets(np.arange(3))])

    @pytest.mark.parametrize("keep", [0, 10, 300])
    def test_truncated_npz(self, tmp_path, keep):
        path = tmp_path / "data.npz"
        write(tmp_path, "npz", arrays())
        path.write_bytes(path.read_bytes()[:keep])
        with pytest.raises(UserError, match=r"data.npz is no complete .npz file"):
            open_dataset(str(path))

    @pytest.mark.parametrize(
        ("keep", "message"), [(0, "no complete .npy"), (150, r"150 bytes, but 128 \+ 576 elements")]
    )
    def test_truncated_npy(self, tmp_path, keep, message):
        path = tmp_path / "x_train.npy"
        write(tmp_path, "npy", arrays())
        path.write_bytes(path.read_bytes()[:keep])
        with pytest.raises(UserError, match=message):
            open_dataset(str(tmp_path))

    def test_one_array_is_no_data_set(self, tmp_path):
        np.save(tmp_path / "a.npy", np.zeros(3))
        with pytest.raises(UserError, match=r"a.npy holds one array.*give FILE.npz"):
            open_dataset(str(tmp_path / "a.npy"))

    def test_no_such_file(self):
        with pytest.raises(UserError, match="there is no such file or directory"):
            open_dataset("some/where.npz")
