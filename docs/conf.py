"""How Sphinx builds the documentation: ``make docs``."""

from __future__ import annotations

import re
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

project = "gridnn"
author = "The gridnn developers"
copyright = f"2026, {author}"
version = release = version_of("gridnn")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "numpydoc"]
default_role = "py:obj"  # `Name` in a docstring
html_theme = "alabaster"
html_theme_options = {"description": "Neural networks on a Pr x Pc grid of MPI processes", "fixed_sidebar": True}

# The pages that are files at the top of the repository.
TOP = ("README", "CONTRIBUTING", "CHANGELOG", "SECURITY")

# A link to a heading (page.md#heading) is checked, too.
myst_heading_anchors = 4
myst_enable_extensions = ["deflist"]

autodoc_typehints = "none"  # numpydoc's sections say them
autodoc_member_order = "bysource"
autosummary_generate = False  # the tables of api.md; the members stand on the page itself
numpydoc_show_class_members = False


def setup(app: Any) -> None:
    """Connect what follows."""
    app.connect("source-read", link_to_pages)
    app.connect("autodoc-process-docstring", escape_stars)


def link_to_pages(app: Any, name: str, source: list[str]) -> None:
    """Take the text of the files at the top of the repository, and let links to these lead to their pages here."""
    text = source[0]
    if name.upper() in TOP:
        path = ROOT / f"{name.upper()}.md"
        app.env.note_dependency(str(path))
        text = path.read_text()
        text = re.sub(r"\]\((?=[\w.]+[)#])", "](../", text).replace("](docs/", "](")
    source[0] = re.sub(rf"\]\(\.\./({'|'.join(TOP)})\.md", lambda file: f"]({file[1].lower()}.md", text)


def escape_stars(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Let a shape such as [n, *space, c] be no emphasis."""
    lines[:] = [re.sub(r"(?<=[\[(, ])\*(?=\w+[,\])])", r"\\*", line) for line in lines]
