"""The pages: links lead to what is there, commands are those of make and pytest, and Sphinx builds all of it."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from launch import BIN, ROOT, clean_environment, run

TOP = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")]
PAGES = [*TOP, *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "scripts").rglob("*.md"))]
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
BLOCK = re.compile(r"^```(?:sh)?\n(.*?)^```", re.MULTILINE | re.DOTALL)
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
PAPERS = ("1712.04432", "1802.04924", "1805.04170", "2112.15317")
# No machine, registry or tool of the place where the text was written.
PRIVATE = re.compile(r"/work/|/root/|/home/|/opt/pypi|\bpypi\.org|localhost", re.IGNORECASE)


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def prose(text: str) -> str:
    """The text without its blocks of code."""
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(path: Path) -> set[str]:
    """What the headings of a page are called in links."""
    headings = re.findall(r"^#+ +(.*?) *$", prose(path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_to_files_and_headings(page):
    for link in LINK.findall(prose(page.read_text())):
        if re.match(r"https?:|mailto:", link):
            continue
        file, _, heading = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), f"{name(page)}: {link}"
        assert not heading or heading in anchors(target), f"{name(page)}: {link}"


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CITATION.cff", ROOT / "docs" / "conf.py"], ids=name)
def test_no_page_names_a_place_of_its_writers(page):
    assert not PRIVATE.search(page.read_text())


@pytest.mark.parametrize("page", TOP, ids=name)
def test_files_that_are_named_exist(page):
    paths = re.findall(r"`((?:tests|docs|scripts|gridnn|examples|benchmarks)/[\w./-]*)`", page.read_text())
    assert [path for path in paths if not (ROOT / path).exists()] == []


def commands(page: Path) -> list[str]:
    """The lines of a page's blocks, without their comments."""
    lines = [
        line.partition(" #")[0].strip() for block in BLOCK.findall(page.read_text()) for line in block.splitlines()
    ]
    return list(filter(None, lines))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_targets_of_make_exist(page):
    for line in commands(page):
        if line.startswith("make "):
            target = next(word for word in shlex.split(line)[1:] if "=" not in word)
            assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE), line


@pytest.mark.parametrize("line", [line for line in commands(TOP[1]) if line.startswith(".venv")])
def test_commands_for_contributors(line):
    """They run as they stand, with this Python in place of the virtual environment's."""
    command = shlex.split(line.replace(".venv/bin", str(BIN)))
    done = run(command, 110, clean_environment())
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"\d+ passed", done.stdout)


def test_the_tests_that_contributors_name_are_there():
    (names,) = re.findall(r'^make test TESTS="(.*)"$', CONTRIBUTING, re.MULTILINE)
    assert all((ROOT / path).is_dir() for path in names.split())


def test_the_citation_is_of_this_version_and_of_the_four_papers():
    citation = (ROOT / "CITATION.cff").read_text()
    (version,) = re.findall(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert f"\nversion: {version}\n" in citation
    assert citation.startswith("cff-version: 1.2.0\n")
    assert tuple(re.findall(r"arXiv:([\d.]+)", citation)) == PAPERS
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text()


def test_the_packages_of_the_picture_are_named_in_the_readme():
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        from house_picture import FLOORS
    finally:
        sys.path.remove(str(ROOT / "scripts"))
    text = (ROOT / "README.md").read_text().partition("## Architecture")[2].partition("\n## ")[0]
    assert [room for floor in FLOORS for room, _ in floor if f"`{room}`" not in text] == []


def test_the_picture_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    pictures = [tmp_path / "one.png", tmp_path / "two.png"]
    for picture in pictures:
        script = str(ROOT / "scripts" / "house_picture.py")
        subprocess.run([sys.executable, script, str(picture)], check=True, capture_output=True, timeout=60)
    one, two = (picture.read_bytes() for picture in pictures)
    assert one == two
    assert one.startswith(b"\x89PNG")


def test_sphinx_builds_the_pages(tmp_path):
    for package in ("sphinx", "myst_parser", "numpydoc"):
        pytest.importorskip(package, reason="make docs installs it")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-E", str(ROOT / "docs"), str(tmp_path)]
    done = run(command, 110, clean_environment())
    assert done.returncode == 0, done.stderr
    assert "gridnn.layout.split.Split" in (tmp_path / "api.html").read_text()
