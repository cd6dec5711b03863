"""Say what is wrong with a release before anything of it is published, for what is published stays.

    python deploy/release/check_release.py --tag v1.2.3 --repository https://github.com/OWNER/NAME

Without a tag (``--tag ""``) the version and the changelog need not fit: that is a trial.
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
_VERSION = re.compile(r'^__version__ = "([^"]+)"$', re.MULTILINE)
_DATED = r"^## \[{version}\] - \d{{4}}-\d\d-\d\d$"


def version_of(root: Path) -> str:
    """The version of the sources below ``root``."""
    found = _VERSION.search((root / "src" / "verl_agent_env" / "__init__.py").read_text("utf-8"))
    if found is None:
        raise ValueError("src/verl_agent_env/__init__.py has no __version__")
    return found[1]


def faults_of(root: Path, tag: str, repository: str) -> Iterator[str]:
    """What must not be published: one sentence for each fault, which says what to do.

    Args:
        root: Folder of the project.
        tag: That the release is made of; empty for a trial.
        repository: URL of the repository that it is made in.
    """
    version = version_of(root)
    if tag:
        if tag != f"v{version}":
            yield f"The tag is {tag} and the version {version}: set __version__ in src/verl_agent_env/__init__.py, or tag v{version}."
        if (
            re.search(
                _DATED.format(version=re.escape(version)),
                (root / "CHANGELOG.md").read_text("utf-8"),
                re.MULTILINE,
            )
            is None
        ):
            yield f"CHANGELOG.md has no line '## [{version}] - YYYY-MM-DD': give the changes of {version} their date."
    named = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]["urls"]["Repository"]
    for path in ("pyproject.toml", "Dockerfile", "mkdocs.yml"):
        if named != repository and named in (root / path).read_text("utf-8"):
            yield f"{path} names {named}, and this is {repository}: replace the former by the latter."


def main() -> None:
    """Print ``version=…`` for the next steps of the workflow, or what is wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tag", required=True)
    parser.add_argument("--repository", required=True)
    arguments = parser.parse_args()
    faults = list(faults_of(ROOT, arguments.tag, arguments.repository))
    if faults:
        sys.exit("\n".join(faults))
    sys.stdout.write(f"version={version_of(ROOT)}\n")


if __name__ == "__main__":
    main()
