"""The documents' site: each page is in its menu, and links lead to pages of the site or to the repository."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docs.make_site import ABOVE, ROOT, gather, pages, with_links_of_the_site

REPOSITORY = "https://github.com/a/b"


def test_every_page_is_in_the_menu_once() -> None:
    menu = re.findall(r": ([a-z-]+\.md)$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.MULTILINE)
    assert sorted(menu) == sorted(pages(ROOT))


@pytest.mark.parametrize(
    ("page", "link", "expected"),
    [
        ("README.md", "[a](docs/client.md)", "[a](client.md)"),
        ("README.md", "[a](docs/environments.md#sokoban)", "[a](environments.md#sokoban)"),
        ("README.md", "![a](docs/images/sokoban.svg)", "![a](images/sokoban.svg)"),
        ("README.md", "[a](LICENSE)", f"[a]({REPOSITORY}/blob/main/LICENSE)"),
        ("README.md", "[a](CONTRIBUTING.md)", "[a](contributing.md)"),
        ("docs/install.md", "[a](../CONTRIBUTING.md#gates)", "[a](contributing.md#gates)"),
        ("docs/install.md", "[a](client.md)", "[a](client.md)"),
        ("docs/install.md", "[a](../examples/verl)", f"[a]({REPOSITORY}/tree/main/examples/verl)"),
        ("docs/install.md", "[a](#extras)", "[a](#extras)"),
        ("docs/install.md", "[a](https://example.org/x.md)", "[a](https://example.org/x.md)"),
    ],
)
def test_links_lead_to_pages_of_the_site_or_to_the_repository(page: str, link: str, expected: str) -> None:
    assert with_links_of_the_site(link, ROOT / page, ROOT, REPOSITORY) == expected


def test_all_pages_and_pictures_are_gathered_and_nothing_old_is_left(tmp_path: Path) -> None:
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "old.md").touch()
    gather(ROOT, folder)
    assert {path.name for path in folder.glob("*.md")} == set(pages(ROOT))
    assert set(ABOVE.values()) <= set(pages(ROOT))
    for page in folder.glob("*.md"):
        text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
        for target in re.findall(r"\]\((?![a-z]+:|#)([^)#\s]+)", text):
            assert (folder / target).exists(), (page.name, target)
