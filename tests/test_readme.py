"""What the README and the docs promise to be there is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "bootstrap/README.md"]


def test_the_readme_is_short_and_has_the_two_lines() -> None:
    """At most 80 lines; one line runs the demo, one the tests, both from nothing but Python."""
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 80
    lines = re.findall(r"^python3 -m venv \.venv && .*$", text, re.MULTILINE)
    assert [line.split("&&")[-1].strip() for line in lines] == [
        ".venv/bin/allod demo",
        ".venv/bin/pytest",
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link of a page names a file that is there."""
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_every_page_is_linked() -> None:
    """No page of the docs is lost: the README, or a page, links to it."""
    linked = {
        (page.parent / target).resolve()
        for page in PAGES
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text())
        if "://" not in target
    }
    lost = [page for page in PAGES if page.name != "README.md" and page.resolve() not in linked]
    assert lost == []
