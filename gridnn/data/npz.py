"""Arrays in .npz files, which are zip archives of .npy files."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np

from gridnn.data.files import check_unpacked, open_regular, read_header, reading
from gridnn.errors import UserError

FORM = ".npz file of numbers"


class Npz:
    """The arrays of a .npz file by name; `UserError` if it is damaged, or is something else.

    Attributes
    ----------
    names : list of str
    """

    def __init__(self, path: Path):
        self.path = path
        with open_regular(path) as file, reading(path, form=FORM):
            if file.read(len(np.lib.format.MAGIC_PREFIX)) == np.lib.format.MAGIC_PREFIX:
                raise UserError(f"{path} holds one array, but a data set needs more: give FILE.npz")
            with zipfile.ZipFile(file) as archive:
                self._members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        self.names = list(self._members)

    def load(self, name: str) -> np.ndarray:
        """An array, in memory.

        Raises
        ------
        UserError
            If it is damaged or holds Python objects, or claims more than what its bytes in the file can hold or than
            what there is of memory.
        """
        what, info = f"{self.path}: {name}", self._members[name]
        with open_regular(self.path) as file, reading(self.path, name, FORM):
            _check_size(what, info, os.fstat(file.fileno()).st_size)
            with zipfile.ZipFile(file) as archive, archive.open(info) as member:
                read_header(member, what, info.file_size)
            with zipfile.ZipFile(file) as archive, archive.open(info) as member:
                return np.lib.format.read_array(member, allow_pickle=False)


def _check_size(what: str, info: zipfile.ZipInfo, available: int) -> None:
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise UserError(f"{what} is packed by method {info.compress_type}: write it with np.savez_compressed")
    packed = min(info.compress_size, available)
    if info.compress_type == zipfile.ZIP_STORED and info.file_size > packed:
        raise ValueError(f"it claims {info.file_size:,} bytes, but has {packed:,} in the file")
    check_unpacked(what, info.file_size, packed)
