"""Files of somebody else's with images: what would break a reader, or would be read as something else."""

from __future__ import annotations

import gzip
import os
import pickle
import struct
import time
import tracemalloc

import numpy as np
import pytest
from reading import read
from test_data_images import CIFAR_NAMES, write_cifar_binary, write_mnist

from gridnn.data.datasets import open_dataset
from gridnn.data.images import open_images
from gridnn.data.pickles import Call, load_plain
from gridnn.data.pictures import decode
from gridnn.errors import UserError

Image = pytest.importorskip("PIL.Image")

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

    def test_too_large(self, batches):
        with (batches / "data_batch_4").open("r+b") as file:
            file.truncate(2**27)
        with pytest.raises(UserError, match=r"data_batch_4 has 134,217,728 bytes, but should have 67,108,864"):
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
    with pytest.raises(UserError, match=rf"{tmp_path}/\S+ cannot be read \({denied.strerror}\): "):
        open_dataset(name, data_dir=tmp_path)


def save(path, image, count=1, **options):
    path.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        image.save(path / f"{i}.{options.get('suffix', 'png')}", **{k: v for k, v in options.items() if k != "suffix"})


def colours(path, resize=64):
    """The picture of a file as the reader makes it."""
    return np.asarray(decode(path, resize)).astype(int)


RAMP = np.add.outer(np.arange(64), np.arange(64)) * 400 + 300  # 300 to 50,700
DARK = Image.fromarray(np.full((40, 30), 51, "uint8"))


class TestModes:
    @pytest.mark.parametrize(
        ("suffix", "kind"),
        [("png", "<u2"), ("tif", "<u2"), ("tif", ">u2"), ("pgm", "<u2"), ("pgm", "i4")],
    )
    def test_sixteen_bits_are_scaled(self, tmp_path, suffix, kind):
        Image.fromarray(RAMP.astype(kind)).save(tmp_path / f"a.{suffix}")
        expected = np.round(RAMP / 257)
        np.testing.assert_array_equal(colours(tmp_path / f"a.{suffix}"), np.stack([expected] * 3, -1))

    def test_other_maxima_of_pgm(self, tmp_path):
        (tmp_path / "a.pgm").write_bytes(b"P5 2 1 1023\n" + np.array([1023, 512], ">u2").tobytes())
        np.testing.assert_array_equal(colours(tmp_path / "a.pgm", 1)[0, :, 0], [255, 128])

    @pytest.mark.parametrize(("tag", "was", "value", "expected"), [(262, 1, 0, 0), (258, 16, 12, 255)])
    def test_tiffs_with_white_as_zero_and_of_twelve_bits(self, tmp_path, tag, was, value, expected):
        Image.fromarray(np.full((32, 32), 65535, "uint16")).save(tmp_path / "a.tif")
        content = (tmp_path / "a.tif").read_bytes()
        entry = struct.pack("<HHI", tag, 3, 1)
        assert content.count(entry + struct.pack("<H", was)) == 1
        content = content.replace(entry + struct.pack("<H", was), entry + struct.pack("<H", value))
        (tmp_path / "a.tif").write_bytes(content)
        assert (colours(tmp_path / "a.tif") == expected).all()

    def test_signed_bytes_are_refused(self, tmp_path):
        Image.fromarray(np.full((32, 32), 200, "uint8")).save(tmp_path / "a.tif", tiffinfo={339: 2})
        with pytest.raises(ValueError, match="mode L, signed"):
            decode(tmp_path / "a.tif", 8)

    @pytest.mark.parametrize(("kind", "mode"), [("f4", "F"), ("i4", "I, signed")])
    def test_unknown_ranges_are_refused(self, tmp_path, kind, mode):
        save(tmp_path / "one", Image.fromarray(RAMP.astype(kind)), 5, suffix="tif")
        test = open_dataset(str(tmp_path), crop=24).test
        with pytest.raises(
            UserError, match=rf"image 0 \(.*tif\) cannot be read \(the range .*mode {mode}\): save it with"
        ):
            read(test, [0])

    @pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA", "CMYK", "YCbCr"])
    def test_eight_bits_are_as_pillow_converts_them(self, tmp_path, mode):
        image = Image.fromarray(np.stack([RAMP >> 8, RAMP >> 9, 255 - (RAMP >> 8)], -1).astype("uint8")).convert(mode)
        suffix = "tif" if mode in ("CMYK", "YCbCr") else "png"
        image.save(tmp_path / f"a.{suffix}")
        expected = Image.open(tmp_path / f"a.{suffix}").convert("RGB")
        np.testing.assert_array_equal(colours(tmp_path / f"a.{suffix}"), np.asarray(expected))

    @pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
    @pytest.mark.parametrize("orientation", [1, 3, 6, 8])
    def test_the_orientation_of_exif(self, tmp_path, suffix, orientation):
        image = Image.fromarray((RAMP[:40] >> 8).astype("uint8")).convert("RGB")
        exif = image.getexif()
        exif[274] = orientation
        image.save(tmp_path / f"a.{suffix}", exif=exif)
        turned = {1: 0, 3: 2, 6: 3, 8: 1}[orientation]
        found = colours(tmp_path / f"a.{suffix}", 40)
        assert np.abs(found - np.rot90(np.asarray(image).astype(int), turned)).max() < 12

    @pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
    def test_a_damaged_exif_block(self, tmp_path):
        DARK.save(tmp_path / "a.jpg", exif=b"Exif\0\0" + b"II*\0\xff\xff\xff\xff")
        assert colours(tmp_path / "a.jpg", 8).shape == (10, 8, 3)


class TestBombs:
    @pytest.mark.parametrize(
        ("size", "resize", "message"),
        [
            ((1, 65535), 256, "1 x 65535 pixels: one side is more than 100 times the other"),
            ((101, 1), 256, "101 x 1 pixels: one side is"),
            ((3, 300), 4096, "3 x 300 pixels, 4096 x 409600 scaled: more than"),
            ((20000, 9000), 256, "decompression bomb"),
            ((1, 100), 8, None),
        ],
    )
    def test_sides_are_bounded(self, tmp_path, size, resize, message):
        path = tmp_path / "a.png"
        Image.new("1", size).save(path)
        if message is None:
            assert decode(path, resize).size == (8, 800)
            return
        with pytest.raises(Exception, match=message):
            decode(path, resize)

    def test_programs_are_not_run(self, tmp_path):
        (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n")
        with pytest.raises(OSError, match="cannot identify"):
            decode(tmp_path / "a.png", 8)


TRAIN, VAL = ["train/a/0", "train/b/0"], ["val/a/0", "val/b/0"]


class TestFolders:
    @pytest.mark.parametrize(
        ("files", "message"),
        [
            (["train/cat.0", "test1/0"], r"set has test1 beside train, which is neither"),
            (["train/cat.0"], r"set/train has neither .* nor subfolders .*; its 1 pictures have no class"),
            (["train/cat.0", *VAL], r"set/train has neither .* nor subfolders"),
            ([*TRAIN, "validation/a/0"], "set has validation beside train"),
            ([*TRAIN, *VAL, "extra/a/0"], "set has extra beside train"),
            ([*TRAIN, "val/0"], "set/val has neither .* nor subfolders .*; its 1 pictures have no class"),
            ([*TRAIN, "train/2"], r"set/train has 1 pictures in no class, beside the subfolders \(2.png\)"),
            ([*TRAIN, *VAL, "val/2"], r"set/val has 1 pictures in no class"),
            (["Train/a/0", "Test/a/0"], "set has Test, Train, which is no class but a set"),
            (["train_1/a/0", "b/0"], "set has train_1, which is no class but a set"),
            (VAL, "set has val, which is no class but a set"),
            (["0"], "set has neither .* nor subfolders .*; its 1 pictures have no class"),
        ],
    )
    def test_what_is_neither_class_nor_set_is_refused(self, tmp_path, files, message):
        for file in files:
            path = tmp_path / "set" / f"{file}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            DARK.save(path)
        with pytest.raises(UserError, match=message) as caught:
            open_dataset(str(tmp_path / "set"), crop=24)
        assert "\n" not in str(caught.value)

    def test_one_of_several_sets_to_test_with_is_taken_and_the_others_told(self, tmp_path):
        for name, count in (("train/a", 3), ("val/a", 2), ("test/a", 4)):
            save(tmp_path / name, DARK, count)
        data = open_dataset(str(tmp_path), crop=24)
        assert len(data.test) == 2 and data.class_names == ("a",)
        assert data.notes == [f"{tmp_path}/test is not read: {tmp_path}/val is what is tested with"]

    @pytest.mark.parametrize("root", ["", "train"])
    def test_hidden_folders_and_files_are_left_out(self, tmp_path, root):
        for name in ("a", "b", ".ipynb_checkpoints", "a/.thumbnails"):
            save(tmp_path / root / name, DARK, 5)
        DARK.save(tmp_path / root / "a" / "._0.png")
        DARK.save(tmp_path / root / ".hidden.png")
        (tmp_path / ".git").mkdir()
        data = open_dataset(str(tmp_path), crop=24)
        assert (data.train.classes, len(data.train) + len(data.test)) == (2, 10)

    @pytest.mark.parametrize("kind", ["fifo", "link to nothing", "link to itself"])
    def test_what_is_no_regular_file(self, tmp_path, kind):
        save(tmp_path / "a", DARK, 5)
        path = tmp_path / "a" / "7.png"
        if kind == "fifo":
            os.mkfifo(path)
        else:
            path.symlink_to(path if kind == "link to itself" else tmp_path / "gone")
        with pytest.raises(UserError, match=r"a/7.png (is no regular file|cannot be read \(Too many levels)"):
            open_dataset(str(tmp_path), crop=24)

    @pytest.mark.parametrize("put", [os.mkfifo, os.mkdir])
    def test_what_becomes_something_else_later(self, tmp_path, put):
        save(tmp_path / "a", DARK, 5)
        data = open_dataset(str(tmp_path), crop=24)
        for i in range(5):
            (tmp_path / "a" / f"{i}.png").unlink()
            put(tmp_path / "a" / f"{i}.png")
        with pytest.raises(UserError, match=r"cannot be read \(.*png: it is a (pipe|directory), not a file"):
            read(data.train, [0])

    def test_links_that_lead_back(self, tmp_path):
        save(tmp_path / "set" / "a", DARK, 5)
        save(tmp_path / "set" / "a" / "deep", DARK, 2)
        save(tmp_path / "elsewhere", DARK, 3)
        for name, target in {"self": "a", "up": ".", "root": "/", "again": "a/deep", "other": "../elsewhere"}.items():
            (tmp_path / "set" / "a" / "deep" / name).symlink_to((tmp_path / "set" / target).resolve())
        data = open_dataset(str(tmp_path / "set"), crop=24)
        assert len(data.train) + len(data.test) == 10

    @pytest.mark.parametrize("denied", ["set", "set/train", "set/train/a", "set/train/a/deep", "set/val/a"])
    @pytest.mark.parametrize("reason", [PermissionError(13, "Permission denied"), OSError(5, "Input/output error")])
    def test_a_folder_that_cannot_be_listed(self, tmp_path, monkeypatch, denied, reason):
        for name in ("train/a/deep", "train/a", "val/a"):
            save(tmp_path / "set" / name, DARK)
        original = os.scandir

        def scandir(path):
            if str(path) == str(tmp_path / denied):
                raise type(reason)(*reason.args, str(path))
            return original(path)

        monkeypatch.setattr("gridnn.data.folders.os.scandir", scandir)
        with pytest.raises(UserError, match=rf"{denied} cannot be read \({reason.strerror}\): "):
            open_images(tmp_path / "set", crop=24)

    def test_a_picture_that_cannot_be_read(self, tmp_path, monkeypatch):
        save(tmp_path / "a", DARK, 5)
        data = open_dataset(str(tmp_path), crop=24)

        def refuse(path, *rest):
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr("gridnn.data.files.os.open", refuse)
        with pytest.raises(UserError, match=r"image 0 \(.*png\) cannot be read \(Permission denied\): mend or remove"):
            read(data.train, [0])


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_a_file_that_is_cut_off_while_a_run_reads_it(tmp_path, name):
    write_mnist(tmp_path) if name == "mnist" else write_cifar_binary(tmp_path)
    train = open_dataset(name, data_dir=tmp_path).train
    path = tmp_path / {"mnist": "train-images-idx3-ubyte", "cifar10": "data_batch_1.bin"}[name]
    os.truncate(path, 100)
    with pytest.raises(UserError, match=rf"{path}: samples 0 to 2 cannot be read"):
        read(train, [0, 2])
