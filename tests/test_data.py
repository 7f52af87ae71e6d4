from __future__ import annotations

import gzip
import pickle
import struct
import sys

import numpy as np
import pytest

from gridnn.errors import UserError
from gridnn.train.data import open_dataset
from gridnn.train.data.order import batches, epoch_order, split_in_two


def read(dataset, indices, box=None, dtype="float64"):
    """The box (default: all) of some samples."""
    box = box or tuple((0, size) for size in dataset.sample_shape)
    out = np.full((len(indices), *(stop - start for start, stop in box)), np.nan, dtype)
    dataset.read(np.asarray(indices, np.int64), box, out)
    return out


def check_boxes(dataset, *boxes):
    """Any box is that part of the whole samples, in any order, in both types."""
    indices = np.array([3, 0, len(dataset) - 1, 3], np.int64)
    for dtype in ("float32", "float64"):
        whole = read(dataset, indices, dtype=dtype)
        assert np.isfinite(whole).all()
        for box in boxes:
            part = whole[(slice(None), *(slice(*interval) for interval in box))]
            np.testing.assert_array_equal(read(dataset, indices, box, dtype), part)


ORDER_8_0_1 = [5, 3, 7, 2, 4, 1, 0, 6]
IMAGE_BOXES = [((0, 4), (0, 5), (0, 1)), ((3, 7), (1, 2), (0, 1)), ((2, 2), (0, 3), (0, 1))]


class TestOrder:
    def test_an_epoch_visits_all_and_depends_on_seed_and_epoch(self):
        order = epoch_order(100, 5, 1, True)
        assert (order.dtype, sorted(order)) == (np.int64, list(range(100)))
        np.testing.assert_array_equal(order, epoch_order(100, 5, 1, True))
        assert any(order != epoch_order(100, 5, 2, True))
        assert any(order != epoch_order(100, 6, 1, True))
        assert list(epoch_order(4, 5, 1, False)) == [0, 1, 2, 3]

    def test_the_order_never_changes(self):
        assert list(epoch_order(8, 0, 1, True)) == ORDER_8_0_1
        assert list(epoch_order(8, 2**63 - 1, 1, True)) != ORDER_8_0_1

    def test_batches_use_the_short_one_unless_told(self):
        order = np.arange(10)
        assert [list(b) for b in batches(order, 4)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
        assert [list(b) for b in batches(order, 4, drop_last=True)] == [[0, 1, 2, 3], [4, 5, 6, 7]]
        assert [len(b) for b in batches(order, 5, drop_last=True)] == [5, 5]

    def test_split_in_two(self):
        train, test = split_in_two(11)
        assert (len(train), len(test), sorted([*train, *test])) == (8, 3, list(range(11)))


class TestDigits:
    def test_sizes_and_split(self):
        data = open_dataset("digits")
        assert (len(data.train), len(data.test)) == (1437, 360)
        assert (data.train.sample_shape, data.train.classes, data.train.target_shape) == ((8, 8, 1), 10, ())
        np.testing.assert_array_equal(
            data.test.targets(np.arange(360)), open_dataset("digits", seed=9).test.targets(np.arange(360))
        )
        counts = np.bincount(data.train.targets(np.arange(1437)))
        assert counts.min() > 120

    def test_samples_are_centered(self):
        samples = read(open_dataset("digits").train, range(1437))
        assert abs(samples.mean()) < 0.02
        assert abs(samples.std() - 1) < 0.02

    def test_boxes(self):
        check_boxes(open_dataset("digits").train, *IMAGE_BOXES)

    def test_without_scikit_learn(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
        with pytest.raises(UserError, match=r"scikit-learn, which is not installed: pip install 'gridnn\[data\]'"):
            open_dataset("digits")

    def test_classes_are_fixed(self):
        with pytest.raises(UserError, match="digits has 10 classes, not 7: leave --classes out"):
            open_dataset("digits", classes=7)


class TestSynthetic:
    def open(self, **options):
        return open_dataset("synthetic", **{"shape": (9, 7, 2), "classes": 5, "samples": 40, "seed": 3, **options})

    def test_sizes(self):
        data = self.open()
        assert (len(data.train), len(data.test), data.train.classes) == (40, 8, 5)
        assert list(data.train.targets(np.array([0, 6, 39]))) == [0, 1, 4]

    @pytest.mark.parametrize("shape", [(9, 7, 2), (11,)])
    def test_boxes(self, shape):
        boxes = [((2, 5), (0, 7), (1, 2)), ((8, 9), (6, 7), (0, 2))] if len(shape) == 3 else [((3, 9),)]
        check_boxes(self.open(shape=shape).train, *boxes)

    def test_seed_and_part_name_the_numbers(self):
        here, other = self.open(), self.open(seed=4)
        assert not np.array_equal(read(here.train, [1]), read(other.train, [1]))
        assert not np.array_equal(read(here.train, [1]), read(here.test, [1]))

    def test_it_can_be_learned(self):
        data = self.open(samples=200)
        x, y = read(data.train, range(200)), data.train.targets(np.arange(200))
        means = np.stack([x[y == label].mean(0).ravel() for label in range(5)])
        test = read(data.test, range(40)).reshape(40, -1)
        distances = ((test[:, None] - means) ** 2).sum(-1)
        assert (distances.argmin(1) == data.test.targets(np.arange(40))).mean() > 0.95

    def test_refused(self):
        with pytest.raises(UserError, match="synthetic: samples 0 must be at least 1"):
            self.open(samples=0)


def write_cifar_binary(folder, records=4):
    """The six files of the binary version, with ``records`` records each; pixels (file, record, h, w, c) and labels."""
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (6, records, 3, 32, 32), np.uint8)
    labels = random.integers(0, 10, (6, records), np.uint8)
    for name, images, classes in zip(CIFAR_NAMES, pixels, labels, strict=True):
        rows = np.concatenate([classes[:, None], images.reshape(records, -1)], axis=1)
        (folder / f"{name}.bin").write_bytes(rows.tobytes())
    return pixels.transpose(0, 1, 3, 4, 2), labels


def python_2_pickle(pixels, labels):
    """What Python 2 wrote: its strings become bytes."""

    def text(value):
        return b"T" + struct.pack("<i", len(value)) + value

    def integer(value):
        return b"J" + struct.pack("<i", value)

    def class_(module, name):
        return b"c" + module + b"\n" + name + b"\n"

    array = class_(b"numpy.core.multiarray", b"_reconstruct") + class_(b"numpy", b"ndarray")
    array += integer(0) + b"\x85" + text(b"b") + b"\x87R"
    dtype = class_(b"numpy", b"dtype") + text(b"u1") + integer(0) + integer(1) + b"\x87R"
    dtype += b"(" + integer(3) + text(b"|") + b"NNN" + integer(-1) + integer(-1) + integer(0) + b"tb"
    shape = b"".join(integer(size) for size in pixels.shape) + b"\x86"
    array += b"(" + integer(1) + shape + dtype + b"\x89" + text(pixels.tobytes()) + b"tb"
    numbers = b"](" + b"".join(integer(int(label)) for label in labels) + b"e"
    return b"\x80\x02}(" + text(b"data") + array + text(b"labels") + numbers + b"u."


CIFAR_NAMES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
CIFAR_BOXES = [((0, 16), (8, 32), (0, 3)), ((31, 32), (0, 1), (1, 3))]


class TestCifar10:
    @pytest.mark.parametrize("folder", [".", "cifar-10-batches-bin"])
    def test_binary_version(self, tmp_path, folder):
        pixels, labels = write_cifar_binary(tmp_path / folder)
        data = open_dataset("cifar10", data_dir=tmp_path)
        assert (len(data.train), len(data.test), data.train.sample_shape) == (20, 4, (32, 32, 3))
        expected = (pixels / 255 - CIFAR_MEAN) / CIFAR_STD
        np.testing.assert_allclose(read(data.train, range(20)), expected[:5].reshape(20, 32, 32, 3), atol=1e-13)
        np.testing.assert_allclose(read(data.test, range(4)), expected[5], atol=1e-13)
        np.testing.assert_array_equal(data.train.targets(np.arange(20)), labels[:5].ravel())
        check_boxes(data.train, *CIFAR_BOXES)

    @pytest.mark.parametrize("written", ["python 2", "protocol 2", "protocol 4"])
    def test_python_version(self, tmp_path, written):
        pixels, labels = write_cifar_binary(tmp_path / "binary")
        folder = tmp_path / "cifar-10-batches-py"
        folder.mkdir()
        for name, images, classes in zip(CIFAR_NAMES, pixels, labels, strict=True):
            rows = np.ascontiguousarray(images.transpose(0, 3, 1, 2)).reshape(len(images), -1)
            content = {b"data": rows, b"labels": classes.tolist(), b"batch_label": b"x"}
            old = written == "python 2"
            pickled = python_2_pickle(rows, classes) if old else pickle.dumps(content, protocol=int(written[-1]))
            (folder / name).write_bytes(pickled)
        ours, binary = (open_dataset("cifar10", data_dir=d) for d in (tmp_path, tmp_path / "binary"))
        np.testing.assert_array_equal(read(ours.train, range(20)), read(binary.train, range(20)))
        np.testing.assert_array_equal(ours.test.targets(np.arange(4)), binary.test.targets(np.arange(4)))
        check_boxes(ours.train, *CIFAR_BOXES)

    def test_missing(self, tmp_path):
        with pytest.raises(UserError) as caught:
            open_dataset("cifar10", data_dir=tmp_path)
        for word in ("data_batch_1.bin", "test_batch", str(tmp_path), "cifar-10-batches-bin", "cs.toronto.edu/~kriz"):
            assert word in str(caught.value)

    def test_one_missing(self, tmp_path):
        write_cifar_binary(tmp_path)
        (tmp_path / "data_batch_3.bin").unlink()
        with pytest.raises(UserError, match=r"5 of 6 files; missing: data_batch_3.bin"):
            open_dataset("cifar10", data_dir=tmp_path)

    @pytest.mark.parametrize(("size", "ratio"), [(0, "0.00"), (3073 * 3 + 100, "3.03")])
    def test_empty_or_truncated(self, tmp_path, size, ratio):
        write_cifar_binary(tmp_path)
        path = tmp_path / "data_batch_2.bin"
        path.write_bytes(path.read_bytes()[:size])
        with pytest.raises(UserError, match=f"data_batch_2.bin has {size} bytes.*x 3073 bytes.*= {ratio}"):
            open_dataset("cifar10", data_dir=tmp_path)

    def test_label_out_of_range(self, tmp_path):
        write_cifar_binary(tmp_path)
        path = tmp_path / "data_batch_2.bin"
        content = bytearray(path.read_bytes())
        content[3073] = 77
        path.write_bytes(bytes(content))
        train = open_dataset("cifar10", data_dir=tmp_path).train
        assert len(train.targets(np.arange(5))) == 5
        with pytest.raises(UserError, match="sample 5 has the label 77, but 10 classes have the labels 0 to 9"):
            train.targets(np.arange(4, 8))

    @pytest.mark.parametrize("content", ["code", "truncated", "empty", "other", "shape"])
    def test_bad_pickle(self, tmp_path, content):
        rows = np.zeros((2, 3072), np.uint8)
        good = pickle.dumps({b"data": rows, b"labels": [0, 1]}, protocol=2)
        bad = {
            "code": (b"cos\nsystem\n(S'false'\ntR.", "asks for os.system"),
            "truncated": (good[:-100], "is no CIFAR-10 batch"),
            "empty": (b"", "EOFError"),
            "other": (pickle.dumps([1, 2]), "TypeError"),
            "shape": (
                pickle.dumps({b"data": rows[:, :9], b"labels": [0, 1]}),
                r"\(2, 9\).*should be uint8.*\(2, 3072\)",
            ),
        }
        for name in CIFAR_NAMES:
            (tmp_path / name).write_bytes(good)
        (tmp_path / "data_batch_4").write_bytes(bad[content][0])
        with pytest.raises(UserError, match=f"data_batch_4.*{bad[content][1]}"):
            open_dataset("cifar10", data_dir=tmp_path)


def idx(array):
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_mnist(folder, packed=False):
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    sets = {}
    for part, count in (("train", 6), ("t10k", 4)):
        sets[part] = random.integers(0, 256, (count, 28, 28), np.uint8), random.integers(0, 10, count, np.uint8)
        for name, array in zip((f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte"), sets[part], strict=True):
            if packed:
                (folder / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
            else:
                (folder / name).write_bytes(idx(array))
    return sets


class TestMnist:
    @pytest.mark.parametrize("packed", [False, True])
    @pytest.mark.parametrize("folder", [".", "MNIST/raw"])
    def test_read(self, tmp_path, packed, folder):
        sets = write_mnist(tmp_path / folder, packed)
        data = open_dataset("mnist", data_dir=tmp_path)
        assert (len(data.train), len(data.test), data.train.sample_shape) == (6, 4, (28, 28, 1))
        expected = (sets["t10k"][0][..., None] / 255 - 0.1307) / 0.3081
        np.testing.assert_allclose(read(data.test, range(4)), expected, atol=1e-13)
        np.testing.assert_array_equal(data.train.targets(np.arange(6)), sets["train"][1])
        check_boxes(data.train, *IMAGE_BOXES)

    def test_missing(self, tmp_path):
        with pytest.raises(UserError, match=r"none of train-images-idx3-ubyte.*in .*MNIST/raw; .*lecun.*--data-dir"):
            open_dataset("mnist", data_dir=tmp_path)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda c: c[:-1], r"has 4719 bytes, but 16 \+ 6 items x 784 bytes = 4720"),
            (lambda c: b"", "has 0 bytes, but the header of an idx file has 16"),
            (lambda c: b"\0\0\x0b" + c[3:], "starts with 00 00 0b 03, but .* with 00 00 08 03"),
            (lambda c: idx(np.zeros((0, 28, 28), np.uint8)), "holds no items"),
            (lambda c: idx(np.zeros((5, 28, 28), np.uint8)), "5 samples, but 6 targets"),
        ],
    )
    @pytest.mark.parametrize("packed", [False, True])
    def test_damaged(self, tmp_path, change, message, packed):
        write_mnist(tmp_path, packed)
        path = tmp_path / ("train-images-idx3-ubyte" + ".gz" * packed)
        content = change(gzip.decompress(path.read_bytes()) if packed else path.read_bytes())
        path.write_bytes(gzip.compress(content) if packed else content)
        with pytest.raises(UserError, match=message):
            open_dataset("mnist", data_dir=tmp_path)

    @pytest.mark.parametrize("keep", [0, 50])
    def test_truncated_gzip(self, tmp_path, keep):
        write_mnist(tmp_path, packed=True)
        path = tmp_path / "t10k-labels-idx1-ubyte.gz"
        path.write_bytes(path.read_bytes()[:keep][:-12])
        with pytest.raises(UserError, match=r"t10k-labels-idx1-ubyte.gz (is no complete gzip|has 0 bytes)"):
            open_dataset("mnist", data_dir=tmp_path)

    def test_label_out_of_range(self, tmp_path):
        write_mnist(tmp_path)
        (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(np.array([0, 1, 2, 10, 3, 4], np.uint8)))
        with pytest.raises(UserError, match="sample 3 has the label 10, but 10 classes"):
            open_dataset("mnist", data_dir=tmp_path)


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

    def test_bytes_become_fractions_and_gray_images_get_a_channel(self, tmp_path, form):
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
            ({"x_train": np.zeros((12, 1, 7, 6, 1))}, "have the shape 12x1x7x6x1; give"),
            ({"x_train": np.zeros(12)}, "have the shape 12; give"),
            ({"x_train": np.zeros((0, 8, 6, 1)), "y_train": np.zeros(0, int)}, "at least one"),
            ({"x_train": np.array(["a"] * 12)}, "the samples are of type <U1"),
            ({"y_train": np.zeros((12, 3), int)}, "labels must be integers in one dimension"),
            ({"y_test": np.zeros(5)}, "labels must be integers in one dimension"),
            ({"y_train": np.zeros(12)}, "the targets are int64, but floating-point numbers elsewhere"),
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
        with pytest.raises(UserError, match=r"lacks y_test.*it should hold x_train"):
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

    def test_unknown_name(self):
        with pytest.raises(UserError, match="unknown dataset 'cifar-10': did you mean cifar10"):
            open_dataset("cifar-10")
