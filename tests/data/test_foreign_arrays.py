"""Arrays that others wrote, or that were damaged: read as they are meant, or refused in one line."""

from __future__ import annotations

import errno
import io
import math
import os
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from reading import read

from gridnn.data.datasets import open_dataset
from gridnn.data.files import find, memory_left, open_regular, reading
from gridnn.data.labels import advise_labels
from gridnn.data.sources import Mapped
from gridnn.errors import UserError

X, Y = np.random.default_rng(0).random((12, 8, 6, 1)).astype("f4"), np.arange(12) % 4


def npy_bytes(array, shape=None):
    """A .npy file as bytes, which claims another shape if one is given."""
    file = io.BytesIO()
    np.save(file, array)
    content = file.getvalue()
    if shape is None:
        return content
    header = {"descr": array.dtype.str, "fortran_order": False, "shape": shape}
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + array.tobytes()


def write_npz(path, members, **options):
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return str(path)


class TestReading:
    @pytest.mark.parametrize(
        ("error", "message"),
        [
            (
                PermissionError(errno.EACCES, "Permission denied"),
                r"a: b cannot be read \(Permission denied\): give you",
            ),
            (FileNotFoundError(errno.ENOENT, "No such file"), r"a: b cannot be read \(No such file\): put it back"),
            (OSError(errno.EAGAIN, "unable to lock file"), "another program writes it"),
            (OSError(errno.EIO, "Input/output error"), r"\(Input/output error\): the system refuses it"),
            (OSError(errno.EINVAL, "Invalid argument"), r"a: b is no complete file \(.*Invalid argument\): write it"),
            (OSError("truncated"), r"a: b is no complete file \(truncated\): write it again"),
            (KeyError(), r"a: b is no complete file \(KeyError\)"),
            (zipfile.BadZipFile("one\ntwo"), r"\(one\): write"),
            (MemoryError("Unable to allocate"), r"a: b does not fit into memory \(Unable to allocate\): give a rank"),
            (UserError("as it is"), "^as it is$"),
        ],
    )
    def test_errors(self, error, message):
        with pytest.raises(UserError, match=message), reading("a", "b", "file"):
            raise error

    def test_our_own_mistakes_are_not_the_user_s(self):
        with pytest.raises(AssertionError), reading("a"):
            raise AssertionError

    def test_pipes_and_directories(self, tmp_path):
        os.mkfifo(tmp_path / "pipe.npz")
        for path, kind in ((tmp_path, "a directory"), (tmp_path / "pipe.npz", "a pipe"), (Path("/dev/null"), "a dev")):
            with pytest.raises(UserError, match=f"{path.name}: it is {kind}.*, not a file"):
                open_regular(path)
        with pytest.raises(UserError, match=r"pipe.npz: it is a pipe"):
            open_dataset(str(tmp_path / "pipe.npz"))
        with pytest.raises(UserError, match=r"pipe.npz: it is a pipe"):
            Mapped(tmp_path / "pipe.npz")

    def test_a_directory_that_may_not_be_entered(self, tmp_path, monkeypatch):
        def refuse(self):
            raise PermissionError(errno.EACCES, "Permission denied")

        monkeypatch.setattr(Path, "is_file", refuse)
        with pytest.raises(
            UserError, match=rf"{tmp_path} cannot be read \(Permission denied\): give yourself the right"
        ):
            find(tmp_path, ["."], ["a"])

    def test_a_pipe_among_arrays(self, tmp_path):
        np.save(tmp_path / "y.npy", Y)
        os.mkfifo(tmp_path / "x.npy")
        with pytest.raises(UserError, match=r"x.npy: it is a pipe"):
            open_dataset(str(tmp_path))


class TestNpz:
    @pytest.mark.parametrize(
        ("x", "message"),
        [
            (npy_bytes(X, (2**40, 8)), r"data.npz: x is no complete .npz file .*2432 bytes, but 128 \+ 8796093022208"),
            (npy_bytes(X, (-12, -48)), r"data.npz: x is no complete .npz file of numbers \(the shape is"),
            (npy_bytes(X)[:200], "200 bytes, but 128"),
            (b"", "x is no complete .npz file"),
        ],
    )
    def test_headers_that_claim_too_much(self, tmp_path, x, message):
        with pytest.raises(UserError, match=message):
            open_dataset(write_npz(tmp_path / "data.npz", {"x": x, "y": npy_bytes(Y)}))

    def test_sizes_that_claim_too_much(self, tmp_path):
        """The directory of the archive has the sizes of a member at offsets 20 (packed) and 24 of its entry."""
        path = tmp_path / "data.npz"
        write_npz(path, {"x": npy_bytes(X), "y": npy_bytes(Y)})
        content = bytearray(path.read_bytes())
        entry = content.index(b"PK\x01\x02")
        content[entry + 24 : entry + 28] = (2**31).to_bytes(4, "little")
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"x is no complete .* claims 2,147,483,648 bytes, but has 2,432 in"):
            open_dataset(str(path))

        content[entry + 20 : entry + 24] = (2**31).to_bytes(4, "little")
        path.write_bytes(content)
        with pytest.raises(UserError, match=rf"claims 2,147,483,648 bytes, but has {len(content):,} in"):
            open_dataset(str(path))

    def test_more_than_there_is_memory(self, tmp_path, monkeypatch):
        path = tmp_path / "data.npz"
        np.savez_compressed(path, x=np.zeros((12, 50_000), "f4"), y=Y)
        open_dataset(str(path))
        monkeypatch.setattr(Path, "read_text", lambda self: "MemAvailable:  1000 kB\n")
        with pytest.raises(UserError, match=r"data.npz: x takes 2,400,128 bytes of memory, but 1,024,000 are left"):
            open_dataset(str(path))

    def test_other_packings(self, tmp_path):
        path = write_npz(tmp_path / "data.npz", {"x": npy_bytes(X), "y": npy_bytes(Y)}, compression=zipfile.ZIP_BZIP2)
        with pytest.raises(UserError, match=r"x is packed by method 12: write it with np.savez_compressed"):
            open_dataset(path)


class TestNpy:
    @pytest.fixture
    def folder(self, tmp_path):
        np.save(tmp_path / "x.npy", X)
        np.save(tmp_path / "y.npy", Y)
        return tmp_path

    def test_a_header_that_claims_to_be_long(self, folder):
        (folder / "x.npy").write_bytes(b"\x93NUMPY\x02\x00" + (2**31).to_bytes(4, "little") + bytes(2000))
        with pytest.raises(
            UserError, match=r"x.npy is no .* \(version \(2, 0\) with a header of 2,147,483,648 bytes\)"
        ):
            open_dataset(str(folder))

    def test_more_labels_of_no_bytes_than_there_is_memory(self, folder):
        (folder / "y.npy").write_bytes(npy_bytes(Y[:0], (2**50, 0)))
        with pytest.raises(UserError, match="labels must be integers in one dimension"):
            open_dataset(str(folder))

    def test_a_header_that_claims_too_much(self, folder):
        (folder / "x.npy").write_bytes(npy_bytes(X, (2**40, 8)))
        with pytest.raises(UserError, match=r"x.npy is no complete .npy file of numbers \(2432 bytes, but"):
            open_dataset(str(folder))

    @pytest.mark.parametrize("order", ["C", "F"])
    def test_a_file_that_is_removed_or_replaced_is_read_on(self, folder, order):
        np.save(folder / "x.npy", np.asarray(X, order=order))
        source, out = Mapped(folder / "x.npy"), np.zeros((2, 8, 6, 1))
        (folder / "x.npy").unlink()
        np.save(folder / "x.npy", np.zeros(3))
        source.read(np.array([3, 7]), ((0, 8), (0, 6), (0, 1)), out, np.array([0, 1]))
        np.testing.assert_array_equal(out, X[[3, 7]])

    @pytest.mark.parametrize("keep", [0, 500])
    def test_a_file_that_is_cut_off_is_named(self, folder, keep):
        train = open_dataset(str(folder)).train
        os.truncate(folder / "x.npy", keep)
        with pytest.raises(UserError, match=r"x.npy: samples \d+ to \d+ cannot be read"):
            read(train, [7, 2])

    def test_the_file_is_closed_with_its_source(self, folder):
        source = Mapped(folder / "x.npy")
        file = source._file
        del source
        assert file.closed


class TestLabels:
    def open(self, tmp_path, y, classes=None, x=X):
        np.savez(tmp_path / "data.npz", x=x, y=y)
        return open_dataset(str(tmp_path / "data.npz"), classes=classes)

    def test_a_column(self, tmp_path):
        train = self.open(tmp_path, Y[:, None]).train
        assert (train.classes, train.target_shape) == (4, ())
        expected = self.open(tmp_path, Y).train.targets(np.arange(9))
        np.testing.assert_array_equal(train.targets(np.arange(9)), expected)

    def test_a_column_in_both_parts(self, tmp_path):
        np.savez(tmp_path / "data.npz", x_train=X, y_train=Y[:, None], x_test=X[:2], y_test=Y[:2])
        data = open_dataset(str(tmp_path / "data.npz"))
        assert (data.train.classes, data.test.classes, data.train.target_shape) == (4, 4, ())

    def test_a_label_for_every_place_of_a_column(self, tmp_path):
        assert self.open(tmp_path, Y[:, None], 4, np.zeros((12, 1, 3))).train.target_shape == (1,)

    def test_rows_that_are_one_hot(self, tmp_path):
        with pytest.raises(UserError, match=r"int64 of shape \(12, 4\) .*: they are one-hot, but .*: y.argmax\(-1\)"):
            self.open(tmp_path, np.eye(4, dtype=int)[Y])

    @pytest.mark.parametrize(
        ("y", "advice"),
        [
            (Y.astype("f4"), "labels must be integers: y.astype(int)"),
            (Y[:, None].astype("f8"), "labels must be integers: y.astype(int)"),
            (np.eye(4)[Y], "they are one-hot, but labels must be one integer each: y.argmax(-1)"),
            (Y / 2, ""),
            (Y - 1.0, ""),
            (np.ones((12, 3)) / 3, ""),
        ],
    )
    def test_numbers_that_look_like_labels(self, tmp_path, y, advice):
        train = self.open(tmp_path, y).train
        assert train.classes is None
        assert advise_labels(train) == advice

    def test_gaps(self, tmp_path):
        message = (
            r"data.npz: 4 of 300,008 classes occur \(the labels are 7, 100007, 200007, 300007\): number them 0 to 3, "
            "or say --classes 300008"
        )
        with pytest.raises(UserError, match=message):
            self.open(tmp_path, Y * 100_000 + 7)
        assert self.open(tmp_path, Y * 100_000 + 7, 300_008).train.classes == 300_008
        with pytest.raises(UserError, match=r"6 of 256 classes occur \(the labels are 0, 1, 2, 3, ...\)"):
            self.open(tmp_path, np.array([*range(5), 255] * 2))

    @pytest.mark.parametrize(("y", "classes"), [(Y * 2, 7), (np.zeros(12, int), 1), (Y > 1, 2)])
    def test_few_gaps_are_as_they_are(self, tmp_path, y, classes):
        assert self.open(tmp_path, y).train.classes == classes

    def test_classes_of_both_parts_count(self, tmp_path):
        np.savez(tmp_path / "data.npz", x_train=X, y_train=Y, x_test=X[:4], y_test=Y[:4] + 4)
        assert open_dataset(str(tmp_path / "data.npz")).train.classes == 8


@pytest.mark.parametrize(
    ("shape", "note"),
    [
        ((3, 32, 32), r"samples of 3x32x32 have 32 channels, .* first one, 3, write x.transpose\(0, 2, 3, 1\)"),
        ((1, 8, 6, 5), r"write x.transpose\(0, 2, 3, 4, 1\)"),
        ((32, 32, 3), None),
        ((3, 5, 4), None),
        ((3, 32), None),
        ((8, 3, 32), None),
    ],
)
def test_channels_first(tmp_path, shape, note):
    np.savez(tmp_path / "data.npz", x=np.zeros((12, *shape), "u1"), y=Y)
    notes = open_dataset(str(tmp_path / "data.npz")).notes
    assert len(notes) == (note is not None) and all(re.search(note, text) for text in notes)


def test_what_the_cgroup_of_a_job_has_left_counts(tmp_path):
    """Of both versions, with the limit on a folder above; what is cached is free."""

    def write(name: str, text: str) -> None:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    assert memory_left(tmp_path) == math.inf
    write("proc/meminfo", "MemTotal: 9 kB\nMemAvailable:    1000 kB\n")
    write("proc/self/cgroup", "0::/job_7/step_0\n")
    assert memory_left(tmp_path) == 1_024_000
    write("sys/fs/cgroup/job_7/step_0/memory.max", "max\n")
    write("sys/fs/cgroup/job_7/memory.max", "700000\n")
    write("sys/fs/cgroup/job_7/memory.current", "600000\n")
    write("sys/fs/cgroup/job_7/memory.stat", "anon 5\nfile 250000\n")
    assert memory_left(tmp_path) == 350_000
    write("proc/self/cgroup", "9:memory:/slurm/job_8\n0::/\n")
    write("sys/fs/cgroup/memory/slurm/job_8/memory.limit_in_bytes", "800000\n")
    write("sys/fs/cgroup/memory/slurm/job_8/memory.usage_in_bytes", "900000\n")
    assert memory_left(tmp_path) == 0
