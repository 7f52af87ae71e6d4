from __future__ import annotations

import gzip
import pickle
import struct

import numpy as np
import pytest
from reading import IMAGE_BOXES, check_boxes, python_2_pickle, read

from gridnn.data.datasets import open_dataset
from gridnn.errors import UserError


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

    @pytest.mark.parametrize("written", ["python 2", "protocol 2", "protocol 4", "protocol 5"])
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
            "empty": (b"", "is no CIFAR-10 batch"),
            "other": (pickle.dumps([1, 2]), "no dictionary with data and labels"),
            "shape": (
                pickle.dumps({b"data": rows[:, :9], b"labels": [0, 1]}),
                r"2 labels.*should be uint8.*\(2, 3072\)",
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
            (lambda c: idx(np.zeros((5, 28, 28), np.uint8)), r"5 images, but train-labels-idx1-ubyte\S* 6 labels"),
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
