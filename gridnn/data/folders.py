"""Which pictures a folder with one subfolder a class has; what is neither a class nor a set is refused."""

from __future__ import annotations

import os
from pathlib import Path

from gridnn.errors import UserError

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
TRAIN, TESTS = "train", ("val", "valid", "test")
SETS = (TRAIN, *TESTS, "training", "validation", "testing", "dev", "eval")  # also with numbers, in capitals


def find_sets(path: Path) -> tuple[Path, Path | None, list[Path]]:
    """Where the classes to train with and to test with are: DIR/train and DIR/val; or DIR itself, and None.

    Last come other sets to test with, which are not read. `UserError` if there are folders that are no sets.
    """
    folders, _ = listed(path)
    if TRAIN not in folders:
        if sets := [name for name in folders if name.lower().rstrip("0123456789-_ ") in SETS]:
            raise UserError(
                f"{path} has {', '.join(sets)}, which is no class but a set, and no {TRAIN}: call them {TRAIN} and "
                f"{' or '.join(TESTS)}; a class of this name goes below {path / TRAIN}"
            )
        return path, None, []
    if others := [name for name in folders if name not in (TRAIN, *TESTS)]:
        raise UserError(
            f"{path} has {', '.join(others[:10])} beside {TRAIN}, which is neither {TRAIN} nor {', '.join(TESTS)}: "
            "rename it, or move it out"
        )
    tests = [path / name for name in TESTS if name in folders]
    return path / TRAIN, tests[0] if tests else None, tests[1:]


def find_classes(root: Path) -> list[str]:
    """The sorted names of the subfolders; `UserError` if there are none, or pictures beside them."""
    folders, loose = listed(root)
    if not folders:
        pictures = f"; its {len(loose)} pictures have no class" if loose else ""
        raise UserError(
            f"{root} has neither .npy files (x_train.npy ...) nor subfolders (of images, one for every class){pictures}"
        )
    if loose:
        text = ", ".join(loose[:3])
        raise UserError(f"{root} has {len(loose)} pictures in no class, beside the subfolders ({text}): move them")
    return folders


def find_pictures(root: Path, classes: list[str]) -> list[tuple[str, int]]:
    """Every picture below the folders of the classes, with its label, in the order of their names."""
    folders = find_classes(root)
    if others := sorted(set(folders) - set(classes)):
        raise UserError(f"{root} has classes that there are no images to train with for: {', '.join(others[:10])}")
    return [
        (file, label)
        for label, name in enumerate(classes)
        if name in folders
        for file in _below(root, str(root / name))
    ]


def _below(root: Path, folder: str) -> list[str]:
    """The pictures below a folder. Links are followed, but to no folder twice, nor to one that ``root`` lies in."""
    seen = {_identity(path) for path in (root, *root.resolve().parents)}
    found, waiting = [], [folder]
    while waiting:
        current = waiting.pop()
        if (identity := _identity(current)) not in seen:
            seen.add(identity)
            folders, pictures = listed(current)
            found.append((current, pictures))
            waiting += [os.path.join(current, name) for name in reversed(folders)]
    return [os.path.join(current, name) for current, pictures in sorted(found) for name in pictures]


def _identity(path: str | Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def listed(path: str | Path) -> tuple[list[str], list[str]]:
    """The sorted names of the folders and of the pictures in a folder; hidden ones are left out.

    `UserError` if a link leads to nothing, or what is called as a picture is a FIFO or a device.
    """
    folders, pictures = [], []
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            is_picture = entry.name.lower().endswith(SUFFIXES)
            if entry.is_dir():
                folders.append(entry.name)
            elif entry.is_file():
                pictures += [entry.name] * is_picture
            elif is_picture or entry.is_symlink():
                raise UserError(f"{entry.path} is no regular file, or a link to nothing: remove it")
    return sorted(folders), sorted(pictures)
