"""The pages about GPUs say what the program says: its messages, its table of MPI libraries, its options."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from gridnn.comm.transports.capabilities import TABLE

ROOT = Path(__file__).resolve().parent.parent
PAGES = (
    "gpu",
    "transports",
    "gpu-slurm",
    "troubleshooting",
    "precision",
    "cuda-aware-mpi",
    "results/cuda-aware-standin",
)
OURS, _, OTHERS = (ROOT / "docs/troubleshooting.md").read_text().partition("## What MPI, CUDA and NCCL say")
QUOTED = re.findall(r"^### `(.*)`$", OURS, re.MULTILINE)
EXPLAINED = (
    "kernels/cuda/setup.py",
    "kernels/cuda/backend.py",
    "comm/transports/",
)  # every refusal there is on the page
GAP = "\0"  # what differs in a message


def text_of(node: ast.AST) -> str | None:
    """A text of the source, with `GAP` where something is filled in; None if it is none."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part) or GAP for part in node.values)
    return None


def trees() -> dict[str, ast.Module]:
    files = sorted((ROOT / "gridnn").rglob("*.py"))
    return {path.relative_to(ROOT / "gridnn").as_posix(): ast.parse(path.read_text()) for path in files}


def fragments(quote: str) -> list[str]:
    """The fixed parts of a message that is quoted with dots for what differs."""
    return [part.strip() for part in quote.split("...") if re.search("[a-z]{3}", part)]


def stands(part: str) -> bool:
    """Whether the source has ``part``, in one text or in several that are put together."""
    if any(part in text for text in TEXTS):
        return True
    return any(part.startswith(piece) and stands(part[len(piece) :]) for piece in PIECES)


TREES = trees()
TEXTS = [text for tree in TREES.values() for node in ast.walk(tree) if (text := text_of(node))]
PIECES = {piece for text in TEXTS for piece in text.split(GAP) if len(piece) > 11 or piece == ": "}


def refusals() -> list[tuple[str, str]]:
    """(File, text) of what is refused in the files whose refusals are explained."""
    found = []
    for name, tree in TREES.items():
        calls = [node for node in ast.walk(tree) if name.startswith(EXPLAINED) and isinstance(node, ast.Call)]
        for call in calls:
            if getattr(call.func, "id", "") in ("UserError", "_refused") and call.args and text_of(call.args[0]):
                found.append((name, text_of(call.args[0])))
    return found


def test_there_is_something_to_compare():
    assert len(QUOTED) > 15 and len(refusals()) > 8


@pytest.mark.parametrize("quote", QUOTED, ids=lambda quote: quote[:50])
def test_a_quoted_message_stands_in_the_source(quote):
    for part in fragments(quote):
        assert stands(part), part


@pytest.mark.parametrize(("name", "text"), refusals())
def test_a_refusal_is_explained(name, text):
    parts = [part.strip() for part in text.split(GAP) if re.search("[a-z]{4}", part)]
    assert any(any(part[:40] in quote for part in parts) for quote in QUOTED), f"{name}: {text}"


def test_the_table_of_mpi_libraries():
    page = (ROOT / "docs/transports.md").read_text()
    for _, row in TABLE:
        answer = "yes" if row.vector_reduce_scatter else "no"
        assert re.search(rf"^\| {row.library} \| (yes|no) \| {answer} \| (yes|no) \|$", page, re.MULTILINE)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    path = ROOT / f"docs/{page}.md"
    for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
        assert (path.parent / target).exists(), target
