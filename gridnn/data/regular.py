"""Opening what others wrote: regular files only, and what the system says against it in one line."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from gridnn.errors import UserError, cause_of


@contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """Inside, where ``path`` or what is in it is read, an `OSError` is the user's mistake."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{error.filename or path} cannot be read: {error.strerror or cause_of(error)}") from None


def open_regular(path: str | Path, most: int | None = None) -> BinaryIO:
    """A file opened to be read; a FIFO, which would be waited for, and a device are not.

    Parameters
    ----------
    path : path
    most : int, optional
        The bytes that it may have.

    Raises
    ------
    UserError
        If it is no regular file, or is larger.
    OSError
        If it cannot be opened.
    """
    # Without O_NONBLOCK, opening a FIFO waits for its writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise UserError(f"{path} is no regular file")
        if most is not None and found.st_size > most:
            raise UserError(f"{path} has {found.st_size} bytes, but should have at most {most}: not the right one")
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise
