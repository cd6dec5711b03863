"""The supported versions of verl."""

from __future__ import annotations

import importlib.metadata
import re

from verl_agent_env.integrations.errors import VerlVersionError

SUPPORTED = ">=0.9.1,<0.10"
_LOWEST, _ABOVE = (0, 9, 1), (0, 10, 0)


def require_verl() -> None:
    """Check that verl is installed in a supported version.

    Raises:
        VerlVersionError: verl is missing, or of another version.
    """
    try:
        version = importlib.metadata.version("verl")
    except importlib.metadata.PackageNotFoundError:
        raise VerlVersionError(
            f"verl is not installed; this integration needs verl{SUPPORTED}: pip install 'verl-agent-env[verl]'."
        ) from None
    check_version(version)


def check_version(version: str) -> None:
    """Check that a version of verl is supported.

    Raises:
        VerlVersionError: The version is not supported.
    """
    numbers = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", version)
    parts = tuple(int(part or 0) for part in numbers.groups()) if numbers else (0, 0, 0)
    if not _LOWEST <= parts < _ABOVE:
        raise VerlVersionError(
            f"verl {version} is installed, this integration needs verl{SUPPORTED}: pip install 'verl{SUPPORTED}'."
        )
