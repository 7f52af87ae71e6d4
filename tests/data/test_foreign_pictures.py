"""Files of somebody else's with images: what would break a reader, or would be read as something else."""

from __future__ import annotations

import gzip
import pickle
import struct
import time
import tracemalloc

import numpy as np
import pytest
from test_data_images import CIFAR_NAMES, python_2_pickle, write_cifar_binary, write_mnist

from gridnn.data.datasets import open_dataset
from gridnn.data.pickles import Call, load_plain
from gridnn.errors import UserError

ROWS = np.arange(2 * 3072, dtype=np.int64).reshape(2, 3072).astype("uint8")


def protocol_2(text):
    return b"\x80\x02" + text + b"."


def ndarray(args):
    return b"cnumpy\nndarray\n(" + args + b"tR"


ASKS = {
    "objects at an address": protocol_2(
        b"}(U\x06labels" + ndarray(b"K\x03\x85U\x01OU\x18" + bytes(24)) + b"U\x04dataNu"
    ),
    "set state of a type": protocol_2(
        b"}U\x04datacnumpy\ndtype\n(U\x02V8K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffK\x01tbs"
    ),
    "code": b"cos\nsystem\n(S'false'\ntR.",
    "instance": b"(S'false'\nios\nsystem\n.",
    "object": b"(cos\nsystem\nS'false'\no.",
    "persistent": b"Ppath\n.",
    "dotted": b"\x80\x04\x8c\x05numpy\x8c\x08f2py.run\x93.",
    "attributes of a name": protocol_2(b"cnumpy\nndarray\n}U\x01aNsb"),
    "keys that are slow to hash": protocol_2(b"}" + b")" + b"2\x86" * 64 + b"Ns"),
    "memo bomb": b"K\x01r" + (2**28).to_bytes(4, "little") + b".",
    "length bomb": protocol_2(b"T" + (2**30).to_bytes(4, "little") + b"x"),
    "no mark": protocol_2(b"]e"),
    "empty stack": b".",
    "many operations": b"N" * 1_000_001 + b".",
}


@pytest.fixture
def batches(tmp_path):
    for name in CIFAR_NAMES:
        (tmp_path / name).write_bytes(pickle.dumps({b"data": ROWS, b"labels": [0, 9]}, protocol=2))
    return tmp_path


def refused_batch(folder, content, message="is no CIFAR-10 batch of the Python version"):
    (folder / "data_batch_4").write_bytes(content)
    start = time.monotonic()
    with pytest.raises(UserError, match=f"data_batch_4 {message}") as caught:
        open_dataset("cifar10", data_dir=folder)
    assert time.monotonic() - start < 10
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


class TestCifarPickles:
    @pytest.mark.parametrize("case", ASKS)
    def test_nothing_is_built(self, batches, case):
        refused_batch(batches, ASKS[case])

    @pytest.mark.parametrize(
        "labels",
        [[[0, 1]], "01", [2**70, 0], 3, {0: 1}, [0], [0, 10], [0, -1], [0, 1.0], [True, 0], [b"0", 1], None,
         np.array([0, 1]), [np.int64(1), np.int64(2)]],
        ids=str,
    )  # fmt: skip
    @pytest.mark.parametrize("protocol", [2, 5])
    def test_labels_are_a_list_of_whole_numbers(self, batches, labels, protocol):
        refused_batch(batches, pickle.dumps({b"data": ROWS, b"labels": labels}, protocol=protocol))

    @pytest.mark.parametrize(
        "data",
        [None, [1, 2], b"x" * 6144, ROWS.astype("int8"), ROWS.astype("f4"), ROWS[:1], ROWS.ravel(), ROWS[:, :-1],
         ROWS.astype("O"), ROWS.view("V1"), np.uint8(1)],
        ids=lambda data: str(getattr(data, "dtype", data))[:9],
    )  # fmt: skip
    @pytest.mark.parametrize("protocol", [2, 5])
    def test_data_are_rows_of_bytes(self, batches, data, protocol):
        refused_batch(batches, pickle.dumps({b"data": data, b"labels": [0, 1]}, protocol=protocol))

    @pytest.mark.parametrize("protocol", [2, 4, 5])
    @pytest.mark.parametrize("order", ["C", "F"])
    def test_both_orders(self, batches, protocol, order):
        content = {b"labels": [3, 4], b"data": np.asarray(ROWS, order=order)}
        (batches / "test_batch").write_bytes(pickle.dumps(content, protocol=protocol))
        pixels = np.zeros((2, 32, 32, 3))
        open_dataset("cifar10", data_dir=batches).test.read(np.arange(2), ((0, 32), (0, 32), (0, 3)), pixels)
        expected = ROWS.reshape(2, 3, 32, 32).transpose(0, 2, 3, 1) / 255
        mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
        np.testing.assert_allclose(pixels, (expected - mean) / std, atol=1e-13)

    def test_damages_are_refused_or_harmless(self, batches):
        good = python_2_pickle(ROWS, np.array([1, 2]))
        random = np.random.default_rng(0)
        places = [*range(150), *range(len(good) - 30, len(good))]
        for place, byte in zip(places, random.integers(0, 256, len(places)), strict=True):
            (batches / "test_batch").write_bytes(good[:place] + bytes([byte]) + good[place + 1 :])
            try:
                open_dataset("cifar10", data_dir=batches)
            except UserError as error:
                assert "test_batch" in str(error)

    def test_too_large(self, batches):
        with (batches / "data_batch_4").open("r+b") as file:
            file.truncate(2**27)
        with pytest.raises(UserError, match=r"data_batch_4 has 134217728 bytes, but should have at most"):
            open_dataset("cifar10", data_dir=batches)

    def test_calls_are_recorded(self):
        value = load_plain(pickle.dumps([np.dtype("u1"), (1, None, True)], protocol=4), {"numpy.dtype"})
        assert value == [
            Call("numpy.dtype", ("u1", False, True), (3, "|", None, None, None, -1, -1, 0)),
            (1, None, True),
        ]


def one_header(*sizes):
    return struct.pack(f">BBBB{len(sizes)}I", 0, 0, 8, len(sizes), *sizes)


class TestIdx:
    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (one_header(6, 28, 28) + bytes(2**26), r"has 4721 bytes, but 16 \+ 6 items x 784 bytes = 4720"),
            (one_header(2**32 - 1, 28, 28), "holds 3367254359280 bytes .*: unpack it"),
            (one_header(2**31, 1, 0), "holds no items"),
            (one_header(10**6, 28, 28) + bytes(9), "has 25 bytes, but 16 .* = 784000016"),
        ],
    )
    def test_no_more_is_unpacked_than_the_header_says(self, tmp_path, content, message):
        write_mnist(tmp_path, packed=True)
        (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(content, 1))
        tracemalloc.start()
        try:
            with pytest.raises(UserError, match=f"train-images-idx3-ubyte.gz {message}"):
                open_dataset("mnist", data_dir=tmp_path)
            assert tracemalloc.get_traced_memory()[1] < 2**25
        finally:
            tracemalloc.stop()

    def test_bytes_that_are_wrong(self, tmp_path):
        write_mnist(tmp_path, packed=True)
        path = tmp_path / "t10k-images-idx3-ubyte.gz"
        content = bytearray(path.read_bytes())
        content[-6] ^= 1  # of the checksum
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"t10k-images-idx3-ubyte.gz is no complete gzip file .*CRC"):
            open_dataset("mnist", data_dir=tmp_path)


@pytest.mark.parametrize("kind", ["mnist", "mnist.gz", "cifar10", "cifar10.bin"])
@pytest.mark.parametrize("denied", [PermissionError(13, "Permission denied"), OSError(5, "Input/output error")])
def test_what_cannot_be_read_is_one_line(tmp_path, monkeypatch, batches, kind, denied):
    name, packed, suffix = *kind.partition(".")[:2], kind.partition(".")[2]
    if name == "mnist":
        write_mnist(tmp_path, packed=bool(packed))
    elif suffix:
        write_cifar_binary(tmp_path)

    def refuse(path, *rest):
        raise type(denied)(*denied.args, str(path))

    monkeypatch.setattr("os.open", refuse)
    monkeypatch.setattr("gridnn.data.cifar10.map_bytes", refuse)
    with pytest.raises(UserError, match=rf"{tmp_path}/\S+ cannot be read: {denied.strerror}$"):
        open_dataset(name, data_dir=tmp_path)
