"""Gather the pages of the documents' site in a folder: those of ``docs/``, and README, CONTRIBUTING and CHANGELOG.

    python docs/make_site.py out/site-source

On GitHub the three lie above ``docs/``, and links lead to them and to sources. On the site all pages lie in one folder, and what is no
page is shown by the repository.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
ABOVE = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Pages that do not lie in ``docs/``, and their names on the site."""
_LINK = re.compile(r"(\]\()(?![a-z]+:|#)([^)#\s]+)(#[^)\s]*)?\)")


def pages(root: Path) -> dict[str, Path]:
    """Names of the site's pages, and their files below ``root``."""
    inside = {path.name: path for path in sorted((root / "docs").glob("*.md"))}
    return {**{name: root / path for path, name in ABOVE.items()}, **inside}


def with_links_of_the_site(text: str, page: Path, root: Path, repository: str) -> str:
    """A page's text, its relative links leading to pages of the site, or to the repository.

    Args:
        text: Markdown.
        page: File that it is from: its links begin there.
        root: Folder of the project.
        repository: URL that shows the files of the project.
    """
    names = {path: name for name, path in pages(root).items()}

    def replaced(link: re.Match[str]) -> str:
        target = Path(os.path.normpath(page.parent / link[2]))
        anchor = link[3] or ""
        if target in names:
            return f"{link[1]}{names[target]}{anchor})"
        path = target.relative_to(root)
        if path.parts[:2] == ("docs", "images"):
            return f"{link[1]}{path.relative_to('docs')}{anchor})"
        return f"{link[1]}{repository}/{'tree' if target.is_dir() else 'blob'}/main/{path}{anchor})"

    return _LINK.sub(replaced, text)


def gather(root: Path, folder: Path) -> None:
    """Write all pages and pictures into ``folder``, which is emptied before."""
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(root / "docs" / "images", folder / "images")
    for name, page in pages(root).items():
        text = with_links_of_the_site(page.read_text("utf-8"), page, root, project["urls"]["Repository"])
        (folder / name).write_text(text, "utf-8")


if __name__ == "__main__":
    gather(ROOT, Path(sys.argv[1]))
