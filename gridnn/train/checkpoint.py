"""One checkpoint: a safetensors file of global tensors, which every rank writes and reads its own boxes of."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gridnn.comm.files import IndependentFile, Region, SharedFile, sum_modulo
from gridnn.comm.grid import Grid
from gridnn.errors import UserError
from gridnn.kernels.checksum import checksum
from gridnn.layout.layout import Box, Layout
from gridnn.layout.partition import Even
from gridnn.program.placed import PlacedLayer, group_of
from gridnn.runtime.optimizers import OptimizerState
from gridnn.runtime.parameters import Parameters
from gridnn.train.header import ITEMSIZES, NAMES, Damaged, Header, lay_out, read_header

LISTED = 4  # tensors that a refusal names
NO_RESERVE = (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)  # of file systems on which no place can be reserved


@dataclass(frozen=True)
class Tensor:
    """A global tensor and this rank's part of it.

    Attributes
    ----------
    layout : Layout
        Who has which part.
    array : array
        This rank's part, on its device; a view of what the run works with.
    """

    layout: Layout
    array: Any

    def box(self, grid: Grid) -> Box:
        """Which part this rank has."""
        return self.layout.box(grid.index)

    def share(self, grid: Grid) -> tuple[Box, Any] | None:
        """The part that this rank writes, and its array: of ranks that hold the same, each writes a piece."""
        members, box = group_of(self.layout, self.layout.replicas, grid.index), self.box(grid)
        long = [axis for axis, (start, stop) in enumerate(box) if stop - start > 1]
        if not long:
            return (box, self.array) if members[0] == grid.index else None
        axis = long[0]  # so that a piece is contiguous
        start, stop = box[axis]
        low, high = Even(stop - start, len(members)).interval(members.index(grid.index))
        if low == high:
            return None
        inside = (slice(None),) * axis + (slice(low, high),)
        return (*box[:axis], (start + low, start + high), *box[axis + 1 :]), self.array[inside]


def tensors_of(
    parameters: Parameters, steps: Sequence[PlacedLayer], optimizer: OptimizerState | None = None
) -> dict[str, Tensor]:
    """Everything of a run that changes from step to step, by name, in the same order on all ranks.

    Parameters are called ``layer.name``, running statistics likewise, and what the optimizer keeps for a parameter
    ``optimizer.array.layer.name``.
    """
    kept = optimizer.arrays if optimizer else {}
    flats = {"": parameters.all_values, **{f"optimizer.{name}.": flat for name, flat in kept.items()}}
    found = {
        f"{prefix}{step.name}.{name}": Tensor(layout, parameters.of(step.name, flat)[name])
        for prefix, flat in flats.items()
        for step in steps
        for name, (_, layout) in (step.trained if prefix else step.weights).items()
    }
    for step in steps:
        for name, (_, layout) in step.states.items():
            found[f"{step.name}.{name}"] = Tensor(layout, parameters.states[step.name][name])
    return found


def save(path: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], grid: Grid) -> None:
    """Write the file ``path``; it appears under this name when it is complete and on the disk.

    All ranks call it. What is written is read back and its digests are compared before the file is called complete,
    because MPI-IO does not report every failure (Open MPI 5.0 leaves out some of its collective writes).

    Raises
    ------
    UserError
        On all ranks, if it cannot be written; nothing but ``path`` + ``.partial`` is left then.
    """
    header = lay_out({name: (str(t.array.dtype), t.layout.shape) for name, t in tensors.items()}, facts)
    partial = path + ".partial"
    try:
        first_does(grid, path, _reserve, partial, header.size)
        _write(partial, header, tensors, grid)
        first_does(grid, path, _rename, partial, path)
    except UserError:
        if grid.index == 0:
            with contextlib.suppress(OSError):
                os.remove(partial)
        raise


def _write(path: str, header: Header, tensors: Mapping[str, Tensor], grid: Grid) -> None:
    backend, sums = grid.backend, []
    with _file(path, grid, write=True) as file:
        backend.synchronize()
        for name, tensor in tensors.items():
            box, part = tensor.share(grid) or (tensor.box(grid), None)
            file.write(_region(header, name, box), None if part is None else backend.to_host(part))
            sums.append(0 if part is None else checksum(backend, part, box, tensor.layout.shape))
        digests = sum_modulo(grid.all.comm, sums)
        file.sync()
        found = _read_back(file, header, tensors, grid)
        file.write_first(0, replace(header, digests=dict(zip(tensors, digests, strict=True))).encode())
        file.sync()
        failure = file.failure()
    if failure or found != digests:
        failure = failure or "what was read back is not what was written"
        raise UserError(f"checkpoint {path} cannot be written: {failure}; is the disk full, or the quota used up?")


def load(path: str, header: Header, tensors: Mapping[str, Tensor], grid: Grid, with_optimizer: bool = True) -> None:
    """Fill ``tensors`` from the file ``path``, whose header `open_header` has read.

    All ranks call it; each reads its own parts. What the optimizer keeps may be left out.

    Raises
    ------
    UserError
        On all ranks, if the file holds other tensors than these; `Damaged` if not those that were written.
    """
    _compare(path, header, tensors, with_optimizer)
    with _file(path, grid) as file:
        found = _fill(file, header, tensors, grid)
        failure = file.failure()
    if failure:
        raise Damaged(f"checkpoint {path} cannot be read: {failure}")
    wrong = [name for name, total in zip(tensors, found, strict=True) if total != header.digests.get(name)]
    if wrong:
        raise Damaged(f"checkpoint {path} is corrupted: what it holds of {_listed(wrong)} is not what was written")


def open_header(path: str, grid: Grid) -> Header:
    """The header of a checkpoint, read by the first rank and told to all (see `header.read_header`)."""
    return first_does(grid, path, read_header, path)


def _fill(file: SharedFile, header: Header, tensors: Mapping[str, Tensor], grid: Grid) -> list[int]:
    """Read this rank's part of every tensor; the digests of what all ranks have read."""
    backend, sums = grid.backend, []
    for name, tensor in tensors.items():
        array = tensor.array
        buffer = backend.host_buffer(array)
        file.read(_region(header, name, tensor.box(grid)), buffer)
        if buffer is not array:
            backend.from_host(buffer, array)
        mine = tensor.share(grid)
        sums.append(checksum(backend, mine[1], mine[0], tensor.layout.shape) if mine else 0)
    return sum_modulo(grid.all.comm, sums)


def _read_back(file: SharedFile, header: Header, tensors: Mapping[str, Tensor], grid: Grid) -> list[int]:
    """The digests of what all ranks have written, as it is in the file."""
    backend, sums = grid.backend, []
    for name, tensor in tensors.items():
        box, part = tensor.share(grid) or (tensor.box(grid), None)
        buffer = None if part is None else backend.host_empty(part.shape, part.dtype)
        file.read(_region(header, name, box), buffer, together=False)
        sums.append(0 if buffer is None else checksum(backend, backend.asarray(buffer), box, tensor.layout.shape))
    return sum_modulo(grid.all.comm, sums)


def _compare(path: str, header: Header, tensors: Mapping[str, Tensor], with_optimizer: bool) -> None:
    """Refuse a file that holds other tensors than ``tensors``."""
    stored = {n: one for n, one in header.tensors.items() if with_optimizer or not n.startswith("optimizer.")}
    told = []
    missing, extra = [n for n in tensors if n not in stored], [n for n in stored if n not in tensors]
    if missing:
        told.append(f"it lacks {_listed(missing)}")
    if extra:
        told.append(f"it has {_listed(extra)}, which this run lacks")
    wanted = {name: (NAMES[str(t.array.dtype)], t.layout.shape) for name, t in tensors.items() if name in stored}
    differ = [name for name, described in wanted.items() if (stored[name].dtype, stored[name].shape) != described]
    if differ:
        there, here = stored[differ[0]], wanted[differ[0]]
        told.append(
            f"{differ[0]} is {there.dtype} {list(there.shape)} there and {here[0]} {list(here[1])} here "
            f"(of other shape or type: {_listed(differ)})"
        )
    if told:
        raise UserError(f"checkpoint {path} is of another network or optimizer: {'; '.join(told)}")


def _listed(names: Sequence[str]) -> str:
    """The first few of ``names`` and how many there are; of the optimizer's only if there are no others."""
    names = [name for name in names if not name.startswith("optimizer.")] or names
    more = f", ... ({len(names)} tensors)" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


@contextlib.contextmanager
def _file(path: str, grid: Grid, write: bool = False) -> Iterator[SharedFile]:
    """A file that the ranks of a grid share, open."""
    file = (IndependentFile if grid.survives else SharedFile)(grid.all.comm, path, write=write)
    try:
        yield file
    except BaseException:
        file.drop()
        raise
    file.close()


def _region(header: Header, name: str, box: Box) -> Region:
    stored = header.tensors[name]
    return Region(header.data + stored.start, stored.shape, box, ITEMSIZES[stored.dtype])


def first_does(grid: Grid, path: str, function: Any, *args: Any) -> Any:
    """What ``function`` returns on the first rank, on all ranks; its errors are raised on all of them."""
    result, mistake = None, None
    if grid.index == 0:
        try:
            result = function(*args)
        except UserError as error:
            mistake = error
        except OSError as error:
            mistake = UserError(f"checkpoint {path} cannot be written: {error.strerror}")
    result, mistake = grid.all.gather_values((result, mistake))[0]
    if mistake:
        raise mistake
    return result


def _reserve(path: str, size: int) -> None:
    """Make the file and take its place on the disk: a disk too small is found before anything is written."""
    with contextlib.suppress(FileNotFoundError):
        os.remove(path)
    file = os.open(path, os.O_CREAT | os.O_WRONLY, 0o666)
    try:
        os.posix_fallocate(file, 0, size)
    except OSError as error:
        if error.errno not in NO_RESERVE:
            raise UserError(f"checkpoint {path} of {size:,} bytes cannot be written: {error.strerror}") from error
    finally:
        os.close(file)


def _rename(partial: str, path: str) -> None:
    """Give a file that is written its name, such that either all of it is on the disk or the name is not."""
    _flush(partial)
    os.replace(partial, path)
    _flush(os.path.dirname(path) or ".")


def _flush(path: str) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
