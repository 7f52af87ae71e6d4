"""Every reader of files that somebody else may have made: sound ones, how they are read, how checksums are mended."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import pickle
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
from reading import python_2_pickle, read

from gridnn.data.datasets import open_dataset
from gridnn.train.header import CHECKSUM, UNKNOWN

X, Y = np.random.default_rng(0).random((10, 6, 5, 2)).astype("f4"), np.arange(10) % 4
BYTES = np.random.default_rng(1).integers(0, 256, (10, 3072), np.uint8)


def as_it_is(content: bytes, sound: bytes = b"") -> bytes:
    return content


@dataclass(frozen=True)
class Reader:
    """How to try one: ``make`` writes sound files into a folder and returns those to damage, ``read`` reads them.

    What is damaged is what ``open`` takes out of a file, and ``seal`` makes a file of it again, whose checksums are
    right, beside the sound one.
    """

    make: Callable[[Path], Sequence[Path]]
    read: Callable[[Path, Path], None]
    seal: Callable[[bytes, bytes], bytes] = as_it_is
    open: Callable[[bytes], bytes] = as_it_is
    json: bool = False


def read_all(name: str, folder: Path | None, data) -> None:
    for part in (data.train, data.test):
        read(part, range(len(part)))
        part.targets(np.arange(len(part)))


# -- JSON


@cache
def request():
    from gridnn.train.config import RunConfig
    from gridnn.train.planning import make_priced_plan

    options = {"dataset": None, "model": "mlp", "shape": "5", "classes": 4, "batch": 8, "grid": "2x2"}
    return make_priced_plan(RunConfig.of(**options), 4, "generic-cpu", None)


def make_plan(folder: Path) -> list[Path]:
    request().plan.save(folder / "plan.json")
    return [folder / "plan.json"]


def read_plan(folder: Path, path: Path) -> None:
    from gridnn.planning import plan
    from gridnn.train.planning import open_priced_plan

    made = request()
    plan.read_provenance(path, plan.read_plan(path))
    plan.load_plan(path, made.request.network, made.plan.grid, 8)
    if zlib.crc32(path.read_bytes()) % 8 == 0:  # which takes longer
        open_priced_plan(str(path), None, None)


def make_machine(folder: Path) -> list[Path]:
    from gridnn.cost.machines import load_machine, save_machine

    save_machine(load_machine("generic-cpu"), folder / "machine.json")
    return [folder / "machine.json"]


def read_machine(folder: Path, path: Path) -> None:
    from gridnn.cost.machines import load_machine

    load_machine(path)


def make_lock(folder: Path) -> list[Path]:
    from gridnn.train import lock

    (folder / lock.NAME).write_text(json.dumps({**lock._mine(), "job": "4711"}))
    return [folder / lock.NAME]


def read_lock(folder: Path, path: Path) -> None:
    from gridnn.errors import UserError
    from gridnn.train.lock import Lock

    lock = Lock(str(folder))
    lock.release()
    if lock.left:
        raise UserError(f"{path} was left by {lock.left}")  # a note of the run


# -- checkpoints and weights


@cache
def trainer(folder: Path):
    from mpi4py import MPI
    from running import MLP, job_of

    from gridnn.train.trainer import Trainer

    config = MLP.replaced(checkpoint=str(folder / "checkpoints"), kernels="reference", widths="5", shape="3x2x1")
    return Trainer(config, job_of(MPI.COMM_SELF))


def make_checkpoint(folder: Path) -> list[Path]:
    one = trainer(folder)
    one.checkpoints.newest = 0
    return [Path(one.checkpoints.save(one.progress))]


def read_checkpoint(folder: Path, path: Path) -> None:
    from gridnn.train.resume import Progress

    trainer(folder).checkpoints.resume(Progress())


def header_of(content: bytes) -> bytes:
    return content[8 : 8 + int.from_bytes(content[:8], "little")].rstrip()


def forged(text: bytes, sound: bytes) -> bytes:
    """A checkpoint whose header is ``text``, with a checksum that is right, and the data of the sound one."""
    text = re.sub(rb'"(checksum)": "', rb'"\1":"', text)
    text += b" " * (-len(text) % 8)
    if found := CHECKSUM.search(text):
        unknown = text.replace(found[1], UNKNOWN, 1)
        text = text.replace(found[1], hashlib.sha256(unknown).hexdigest().encode(), 1)
    return struct.pack("<Q", len(text)) + text + sound[8 + int.from_bytes(sound[:8], "little") :]


@cache
def weights():
    """Some tensors of a network of torchvision, as many as a small file has."""
    from gridnn.models import get_model
    from gridnn.models.torchvision import sources

    wanted = sources("resnet18", get_model("resnet18", (32, 32, 3), 4))
    return {key: one for key, one in wanted.items() if np.prod(one.shape) < 10_000}


def make_weights(folder: Path) -> list[Path]:
    from safetensors.numpy import save_file

    save_file({one.name: np.zeros(one.shape, np.float16) for one in weights().values()}, folder / "w.safetensors")
    return [folder / "w.safetensors"]


def read_weights(folder: Path, path: Path) -> None:
    """What `check_weights` and `fill` do, of these tensors."""
    from gridnn.errors import UserError
    from gridnn.train import weights as module

    with module._opened(str(path)) as file:
        if faults := module._faults(weights(), {name: file.get_slice(name) for name in list(file.keys())}):
            raise UserError(f"--weights {path} does not fit: {faults[0]}")
        for one in weights().values():
            box = tuple((0, one.shape[axis]) for axis in one.order)
            list(module.pieces(file.get_slice(one.name), one, box))


# -- arrays


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def make_npy(folder: Path) -> list[Path]:
    paths = [folder / "set" / "x.npy", folder / "set" / "y.npy"]
    paths[0].parent.mkdir()
    for path, array in zip(paths, (X, Y), strict=True):
        path.write_bytes(npy(array))
    return paths


def read_set(folder: Path, path: Path) -> None:
    read_all(str(folder / "set"), None, open_dataset(str(folder / "set"), crop=None))


def read_file(folder: Path, path: Path) -> None:
    read_all(str(path), None, open_dataset(str(path)))


def archive(x: bytes, sound: bytes = b"", packed: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", packed) as made:
        made.writestr("x.npy", x)
        made.writestr("y.npy", npy(Y))
    return file.getvalue()


def make_npz(folder: Path, packed: int = zipfile.ZIP_DEFLATED) -> list[Path]:
    (folder / "data.npz").write_bytes(archive(npy(X), packed=packed))
    return [folder / "data.npz"]


def x_of(content: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as made:
        return made.read("x.npy")


def make_hdf5(folder: Path) -> list[Path]:
    import h5py

    with h5py.File(folder / "other.h5", "w") as file:
        file["d"] = X[:5]
    with h5py.File(folder / "packed.h5", "w") as file:
        file.create_dataset("x", data=X, chunks=(4, 6, 5, 1), compression="gzip", shuffle=True, fletcher32=True)
        file["y"] = Y
    with h5py.File(folder / "plain.h5", "w") as file:
        file["group/x"], file["y"] = X, Y
        file["x"] = h5py.SoftLink("group/x")
    with h5py.File(folder / "virtual.h5", "w", libver="latest") as file:
        layout = h5py.VirtualLayout(X.shape, "f4")
        for k in range(2):
            layout[5 * k : 5 * k + 5] = h5py.VirtualSource("other.h5", "d", X[:5].shape)
        file.create_virtual_dataset("x", layout)
        file["z"] = Y
        file["y"] = h5py.ExternalLink("packed.h5", "y")
    return [folder / "packed.h5", folder / "plain.h5", folder / "virtual.h5"]


# -- images


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def make_mnist(folder: Path, packed: bool) -> list[Path]:
    paths = []
    for part, count in (("train", 6), ("t10k", 4)):
        for name, array in (
            ("images-idx3", BYTES[:count, :784].reshape(-1, 28, 28)),
            ("labels-idx1", BYTES[:count, 0] % 10),
        ):
            path = folder / f"{part}-{name}-ubyte{'.gz' * packed}"
            path.write_bytes(gzip.compress(idx(array)) if packed else idx(array))
            paths.append(path)
    return paths


def packed_again(content: bytes, sound: bytes) -> bytes:
    return gzip.compress(content, 1)


def make_cifar(folder: Path, protocol: int | None) -> list[Path]:
    """The binary version, or the Python version: protocol 1 is how Python 2 wrote it."""
    paths = []
    for name in (*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"):
        paths.append(folder / (name if protocol is not None else f"{name}.bin"))
        content = {b"batch_label": b"x", b"labels": [1, 2], b"data": BYTES[:2]}
        records = np.concatenate([np.array([[1], [2]], np.uint8), BYTES[:2]], axis=1).tobytes()
        old = python_2_pickle(BYTES[:2], np.array([1, 2]))
        paths[-1].write_bytes(
            records if protocol is None else old if protocol == 1 else pickle.dumps(content, protocol)
        )
    return paths[-2:]


def read_named(name: str, folder: Path, path: Path) -> None:
    read_all(name, folder, open_dataset(name, data_dir=folder))


PICTURES = {
    "a.png": {}, "b.jpg": {"quality": 90}, "c.bmp": {}, "d.tif": {"compression": "tiff_lzw"}, "e.webp": {},
    "f.ppm": {}, "g.jpg": {"progressive": True}, "h.tif": {},
}  # fmt: skip


def make_pictures(folder: Path) -> list[Path]:
    from PIL import Image

    paths = []
    for number, (name, options) in enumerate(PICTURES.items()):
        path = folder / "set" / f"class{number % 2}" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(BYTES[number, :2340].reshape(30, 26, 3))
        exif = image.getexif()
        exif[274] = 6
        image.save(path, exif=exif, **options) if name[-3:] in ("jpg", "png", "ebp") else image.save(path, **options)
        paths.append(path)
    return paths


def read_pictures(folder: Path, path: Path) -> None:
    read_all("set", None, open_dataset(str(folder / "set"), resize=12, crop=9))


def png(content: bytes, sound: bytes) -> bytes:
    """A PNG whose chunks have checksums that are right, as far as they are chunks."""
    out, at = bytearray(content[:8]), 8
    while at + 12 <= len(content):
        length = int.from_bytes(content[at : at + 4], "big")
        body = content[at + 4 : at + 8 + length]
        out += content[at : at + 4] + body + zlib.crc32(body).to_bytes(4, "big")
        at += 12 + length
    return bytes(out)


def make_png(folder: Path) -> list[Path]:
    return [path for path in make_pictures(folder) if path.suffix == ".png"]


READERS = {
    "plan": Reader(make_plan, read_plan, json=True),
    "machine": Reader(make_machine, read_machine, json=True),
    "lock": Reader(make_lock, read_lock, json=True),
    "checkpoint": Reader(make_checkpoint, read_checkpoint),
    "checkpoint header": Reader(make_checkpoint, read_checkpoint, forged, header_of, json=True),
    "weights": Reader(make_weights, read_weights),
    "npy": Reader(make_npy, read_set),
    "npz": Reader(make_npz, read_file),
    "npz stored": Reader(partial(make_npz, packed=zipfile.ZIP_STORED), read_file),
    "npz inside": Reader(make_npz, read_file, archive, x_of),
    "hdf5": Reader(make_hdf5, read_file),
    "mnist": Reader(partial(make_mnist, packed=False), partial(read_named, "mnist")),
    "mnist gz": Reader(partial(make_mnist, packed=True), partial(read_named, "mnist")),
    "mnist inside": Reader(
        partial(make_mnist, packed=True), partial(read_named, "mnist"), packed_again, gzip.decompress
    ),
    "cifar10 binary": Reader(partial(make_cifar, protocol=None), partial(read_named, "cifar10")),
    "cifar10 pickle 1": Reader(partial(make_cifar, protocol=1), partial(read_named, "cifar10")),
    "cifar10 pickle 2": Reader(partial(make_cifar, protocol=2), partial(read_named, "cifar10")),
    "cifar10 pickle 5": Reader(partial(make_cifar, protocol=5), partial(read_named, "cifar10")),
    "pictures": Reader(make_pictures, read_pictures),
    "png": Reader(make_png, read_pictures, png),
}
