"""The supported versions of verl."""

from __future__ import annotations

from verl_agent_env.integrations import requirements
from verl_agent_env.integrations.errors import VerlVersionError

SUPPORTED = requirements.SUPPORTED["verl"]


def require_verl() -> None:
    """Check that verl is installed in a supported version.

    Raises:
        VerlVersionError: verl is missing, or of another version.
    """
    requirements.require("verl", "verl", VerlVersionError)


def check_version(version: str) -> None:
    """Check that a version of verl is supported.

    Raises:
        VerlVersionError: The version is not supported.
    """
    requirements.check_version("verl", version, VerlVersionError)
