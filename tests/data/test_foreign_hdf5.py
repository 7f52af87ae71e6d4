"""HDF5 files of others: links, virtual data sets, filters, and what was never written."""

from __future__ import annotations

import os
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from reading import read

from gridnn.data.datasets import open_dataset
from gridnn.errors import UserError

h5py = pytest.importorskip("h5py")

X, Y = np.random.default_rng(0).random((40, 8, 8, 1)).astype("f4"), np.arange(40) % 4


@pytest.fixture
def path(tmp_path):
    return tmp_path / "data.h5"


def write(path, **content):
    """A file of arrays, links, and data sets that functions make."""
    with h5py.File(path, "w") as file:
        for name, value in ({"x": X, "y": Y} | content).items():
            if callable(value):
                value(file)
            else:
                file[name] = value
    return str(path)


def virtual(*parts, shape=X.shape):
    """Makes x of ten samples from each of ``parts``, (file, name)."""

    def make(file):
        layout = h5py.VirtualLayout(shape, "f4")
        for k, (name, dataset) in enumerate(parts):
            layout[10 * k : 10 * k + 10] = h5py.VirtualSource(str(name), dataset, (10, 8, 8, 1))
        file.create_virtual_dataset("x", layout)

    return make


def check(path):
    data = open_dataset(str(path))
    everything = np.concatenate([read(part, range(len(part))) for part in (data.train, data.test)])
    np.testing.assert_array_equal(np.sort(everything.sum((1, 2, 3))), np.sort(X.astype("f8").sum((1, 2, 3))))


class TestNames:
    def test_after_many_others(self, path):
        check(write(path, **{f"a{i:02d}": np.arange(3) for i in range(25)}))

    def test_links(self, path, tmp_path, monkeypatch):
        (tmp_path / "raw").mkdir()
        write(tmp_path / "raw" / "raw.h5", images=X, labels=Y, chained=h5py.ExternalLink("raw.h5", "/images"))
        external = h5py.ExternalLink("raw/raw.h5", "labels")
        check(write(path, x=h5py.ExternalLink("raw/raw.h5", "/images"), y=external))
        check(write(path, x=h5py.ExternalLink("raw/raw.h5", "/chained"), y=external))
        check(write(path, x=h5py.SoftLink("group/images"), y=h5py.SoftLink("/group/labels"), **{"group/images": X},
                    **{"group/labels": h5py.SoftLink("numbers")}, **{"group/numbers": Y}))  # fmt: skip
        check(write(path, x=h5py.SoftLink("group/images"), group=h5py.ExternalLink("raw/raw.h5", "/")))
        monkeypatch.chdir(tmp_path / "raw")
        check(write(path, x=h5py.ExternalLink("raw.h5", "/images")))  # of the working directory

    def test_links_that_lead_nowhere(self, path, tmp_path):
        write(path, x=h5py.SoftLink("/y/of"))
        with pytest.raises(UserError, match=r"data.h5 lacks x_train"):
            open_dataset(str(path))
        write(path, x=h5py.SoftLink("/z"), z=h5py.SoftLink("/x"))
        with pytest.raises(UserError, match=r"the links of .*x.* go round"):
            open_dataset(str(path))
        write(path, x=h5py.ExternalLink("raw.h5", "/x"))
        with pytest.raises(UserError, match=r"raw.h5 cannot be read \(No such file or directory\): put it back"):
            open_dataset(str(path))
        os.mkfifo(tmp_path / "raw.h5")
        with pytest.raises(UserError, match=r"raw.h5: it is a pipe, not a file"):
            open_dataset(str(path))


class TestVirtual:
    @pytest.fixture
    def parts(self, tmp_path):
        for k in range(4):
            with h5py.File(tmp_path / f"part{k}.h5", "w") as file:
                file["d"] = X[10 * k : 10 * k + 10]
        return [(f"part{k}.h5", "d") for k in range(4)]

    def test_complete(self, path, parts):
        check(write(path, x=virtual(*parts)))
        write(path.with_name("above.h5"), x=virtual(*[(path, "x")] * 1, shape=(10, 8, 8, 1)), y=Y[:10])

    def test_a_missing_file(self, path, parts):
        write(path, x=virtual(*parts))
        for k in (1, 2, 3):
            os.remove(path.parent / f"part{k}.h5")
        with pytest.raises(UserError, match=r"data.h5: x is made of other files, of which .*part1.h5 is missing"):
            open_dataset(str(path))

    def test_incomplete(self, path, parts):
        write(path, x=virtual(*parts[:3]))
        with pytest.raises(UserError, match="x has 640 numbers that no file is named for"):
            open_dataset(str(path))
        write(path, x=virtual(*parts[:3], (parts[3][0], "e")))
        with pytest.raises(UserError, match=r"x is made of e in .*part3.h5, which has no such data set"):
            open_dataset(str(path))
        with h5py.File(path.parent / "part3.h5", "w") as file:
            file["d"] = X[:7]
        write(path, x=virtual(*parts))
        with pytest.raises(
            UserError, match=r"x needs 640 numbers of d in .*part3.h5, but not all are in \(7, 8, 8, 1\)"
        ):
            open_dataset(str(path))

    def test_of_itself(self, path):
        for name in (".", path):
            write(path, x=virtual(*[(name, "x")] * 4))
            with pytest.raises(UserError, match="x is made of parts of itself"):
                open_dataset(str(path))
        other = path.with_name("other.h5")
        write(path, x=virtual(*[(other, "x")] * 4))
        write(other, x=virtual(*[(path, "x")] * 4))
        with pytest.raises(UserError, match="x is made of parts of itself"):
            open_dataset(str(path))


class TestStorage:
    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda f: f.create_dataset("x", X.shape, "f4"), r"has 0 bytes in the file, but .* = 10240: its numbers"),
            (lambda f: f.create_dataset("x", X.shape, "f4", chunks=(7, 8, 8, 1)), "6 of its 6 chunks were never"),
            (
                lambda f: f.create_dataset("x", (10**9, 8, 8, 1), "f4", chunks=(7, 8, 8, 1), compression="gzip"),
                "chunks were never written",
            ),
            (lambda f: f.create_dataset("x", X.shape, "u1", external=[("/etc/passwd", 0, 2560)]), "in /etc/passwd: wr"),
        ],
    )
    def test_numbers_that_are_not_there(self, path, make, message):
        with pytest.raises(UserError, match=rf"data.h5: x.*{message}"):
            open_dataset(write(path, x=make))

    @pytest.mark.parametrize("options", [{"maxshape": (None, 8, 8, 1)}, {"compression": "lzf"}, {"fletcher32": True}])
    def test_complete(self, path, options):
        check(write(path, x=lambda file: file.create_dataset("x", data=X, chunks=(7, 3, 8, 1), **options)))

    def test_a_chunk_left_out(self, path):
        def make(file):
            x = file.create_dataset("x", X.shape, "f4", chunks=(10, 8, 8, 1))
            x[:10], x[20:] = X[:10], X[20:]

        with pytest.raises(UserError, match="x: 1 of its 4 chunks were never written"):
            open_dataset(write(path, x=make))

    def test_a_filter_that_is_not_there(self, path):
        def make(file):
            plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            plan.set_chunk((10, 8, 8, 1))
            plan.set_filter(32999, h5py.h5z.FLAG_OPTIONAL, ())
            space = h5py.h5s.create_simple(X.shape)
            h5py.Dataset(h5py.h5d.create(file.id, b"x", h5py.h5t.NATIVE_FLOAT, space, plan))[...] = X

        with pytest.raises(UserError, match=r"x is packed with the filter .*32999.*: pip install hdf5plugin"):
            open_dataset(write(path, x=make))

    def test_hdf5plugin_is_imported_where_it_is(self, path, monkeypatch):
        write(path)
        monkeypatch.setitem(sys.modules, "hdf5plugin", types.ModuleType("hdf5plugin"))
        check(path)


def test_more_labels_than_there_is_memory(path, monkeypatch):
    labels = {"shape": (10**7,), "dtype": "i8", "chunks": (10**7,), "compression": "gzip"}
    write(path, y=lambda file: file.create_dataset("y", **labels).id.write_direct_chunk((0,), b"none"))
    monkeypatch.setattr(Path, "read_text", lambda self: "MemAvailable:  9000 kB\n")
    with pytest.raises(UserError, match=r"data.h5: y takes 80,000,000 bytes of memory, but 9,216,000 are left"):
        open_dataset(str(path))


class TestDamage:
    def test_a_file_that_is_replaced(self, path):
        write(path)
        train = open_dataset(str(path)).train
        write(path, x=X[:30])
        with pytest.raises(UserError, match=r"x was float32 of shape \(40, .* but is now float32 of shape \(30, "):
            read(train, [0])

    def test_a_file_that_is_cut_off_or_removed(self, path):
        write(path)
        train = open_dataset(str(path)).train
        content = path.read_bytes()
        path.write_bytes(content[:3000])
        with pytest.raises(UserError, match=r"data.h5 is no complete HDF5 file \(.*truncated"):
            read(train, [0])
        path.unlink()
        with pytest.raises(UserError, match=r"data.h5 cannot be read \(No such file"):
            read(train, [0])

    def test_no_hdf5_file(self, path):
        path.write_bytes(b"text" * 500)
        with pytest.raises(UserError, match=r"data.h5 is no complete HDF5 file \(.*signature not found"):
            open_dataset(str(path))
