"""What is in an HDF5 file: links followed, and data sets that HDF5 would fill up with made-up numbers refused."""

from __future__ import annotations

import contextlib
import math
import posixpath
from pathlib import Path
from typing import Any

from gridnn.data.files import open_regular, reading
from gridnn.errors import UserError

FORM = "HDF5 file"
LISTED = 20  # names in a message at the most
HOPS = 16  # links, or virtual data sets made of virtual ones, that are followed at the most, as HDF5 does


def open_file(path: Path) -> Any:
    """The file, open for reading; `UserError` if h5py is not installed, or the file is no HDF5 file, or truncated."""
    h5py = _h5py(path)
    open_regular(path).close()
    with reading(path, form=FORM):
        return h5py.File(path, "r", locking="best-effort")


def _h5py(path: Path) -> Any:
    try:
        import h5py
    except ImportError:
        raise UserError(f"{path} is read with h5py, which is not installed: pip install 'gridnn[hdf5]'") from None
    with contextlib.suppress(ImportError):
        import hdf5plugin  # noqa: F401  (HDF5 knows its filters from here on)
    return h5py


def names(path: Path) -> list[str]:
    """The data sets in the file, `LISTED` at the most and without links; `UserError` as in `open_file`."""
    found: list[str] = []

    def visit(name: str, item: Any) -> bool | None:
        if hasattr(item, "shape"):
            found.append(name)
        return True if len(found) == LISTED else None

    with open_file(path) as file, reading(path, form=FORM):
        file.visititems(visit)
    return found


def locate(path: Path, name: str, hops: int = HOPS) -> tuple[Path, str] | None:
    """Where ``name`` leads to when its links are followed: a file and a name in it; None if there is no such name.

    `UserError` if a link leads to a file that is missing, cannot be read or is no regular file, or links go round.
    """
    h5py = _h5py(path)
    if not hops:
        raise UserError(f"{path}: the links of {name} go round, or are more than {HOPS}: link to the data set itself")
    parts = posixpath.normpath(name).strip("/").split("/")
    with open_file(path) as group, reading(path, name, FORM):
        for i, part in enumerate(parts):
            link = group.get(part, getlink=True) if hasattr(group, "keys") else None
            if link is None:
                return None
            rest = "/".join(parts[i + 1 :])
            if isinstance(link, h5py.ExternalLink):
                return locate(resolve_file(path, link.filename), posixpath.join(link.path, rest), hops - 1)
            if isinstance(link, h5py.SoftLink):
                return locate(path, posixpath.join(group.name, link.path, rest), hops - 1)
            if rest:
                group = group[part]
    return path, "/".join(parts)


def resolve_file(path: Path, other: str) -> Path:
    """The file that ``path`` calls ``other``: relative to its directory, or else to the working directory."""
    places = [path.parent / other, Path(other)]
    return next((place for place in places if place.exists()), places[0])


def check_storage(path: Path, dataset: Any, hops: int = HOPS) -> None:
    """Refuse a data set of which not all numbers are there, and can be unpacked: HDF5 fills up what is not there.

    The `UserError` names the file that is missing, the filter that is not installed, or how much was never written.
    """
    h5py, where = _h5py(path), f"{path}: {dataset.name.lstrip('/')}"
    if dataset.is_virtual:
        _check_sources(path, dataset, where, hops)
        return
    if dataset.external:
        files = ", ".join(str(name) for name, *_ in dataset.external[:3])
        raise UserError(f"{where} has its numbers outside of the file, in {files}: write them into the file")
    filters = dataset.id.get_create_plist()
    for i in range(filters.get_nfilters()):
        code, _, _, label = filters.get_filter(i)
        if not h5py.h5z.filter_avail(code):
            raise UserError(
                f"{where} is packed with the filter {label.decode(errors='replace') or code} ({code}), which HDF5 does "
                "not have here: pip install hdf5plugin"
            )
    if dataset.chunks:
        chunks = math.prod(-(-size // chunk) for size, chunk in zip(dataset.shape, dataset.chunks, strict=True))
        there = dataset.id.get_num_chunks() if chunks else 0
        if there < chunks:
            raise UserError(f"{where}: {chunks - there} of its {chunks} chunks were never written: write them")
        return
    each, size = dataset.id.get_type().get_size(), dataset.id.get_storage_size()
    if size < math.prod(dataset.shape) * each:
        raise UserError(
            f"{where} has {size} bytes in the file, but its shape {dataset.shape} x {each} bytes = "
            f"{math.prod(dataset.shape) * each}: its numbers were never written, or the file is damaged"
        )


def _check_sources(path: Path, dataset: Any, where: str, hops: int) -> None:
    """The same for a data set made of others, here or in other files."""
    mapped, checked = 0, set()
    for source in dataset.virtual_sources():
        mapped += source.vspace.get_select_npoints()
        file = path if source.file_name == "." else resolve_file(path, source.file_name)
        if not file.exists():
            raise UserError(f"{where} is made of other files, of which {file} is missing: put it there")
        if file.samefile(path) or not hops:
            raise UserError(f"{where} is made of parts of itself, or of its own file: copy them to another file")
        if (file, source.dset_name) in checked:
            continue
        checked.add((file, source.dset_name))
        found = locate(file, source.dset_name)
        if found is None:
            raise UserError(f"{where} is made of {source.dset_name} in {file}, which has no such data set")
        with open_file(found[0]) as there, reading(*found, FORM):
            part, needed = there[found[1]], source.vspace.get_select_npoints()
            if part.size < needed or _is_outside(source.src_space, part.shape):
                raise UserError(
                    f"{where} needs {needed} numbers of {source.dset_name} in {file}, but not all are in {part.shape}"
                )
            check_storage(found[0], part, hops - 1)
    if mapped < math.prod(dataset.shape):
        raise UserError(f"{where} has {math.prod(dataset.shape) - mapped} numbers that no file is named for")


def _is_outside(selection: Any, shape: tuple[int, ...]) -> bool:
    """Whether a part of a data set reaches beyond ``shape``; a selection of everything has no bounds."""
    if not selection.shape:
        return False
    _, last = selection.get_select_bounds()
    return len(last) != len(shape) or any(index >= size for index, size in zip(last, shape, strict=True))
