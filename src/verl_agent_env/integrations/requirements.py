"""The supported versions of the trainers' packages, which are imported only when they are used."""

from __future__ import annotations

import importlib.metadata

from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from verl_agent_env.integrations.errors import FrameworkVersionError

SUPPORTED = {
    "ray": ">=2.41,<3",
    "skyrl-gym": ">=0.4,<0.5",
    "verifiers": ">=0.4,<0.5",
    "verl": ">=0.9.1,<0.10",
}
"""Supported versions by the name of the package; the extras of this project are of the same ones."""


def require(package: str, extra: str, error: type[FrameworkVersionError] = FrameworkVersionError) -> None:
    """Check that a package is installed in a supported version.

    Args:
        package: A key of :data:`SUPPORTED`.
        extra: Extra of this project that installs it.
        error: Class of the error.

    Raises:
        FrameworkVersionError: It is missing, or of another version.
    """
    supported = SUPPORTED[package]
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        raise error(
            f"{package} is not installed; this integration needs {package}{supported}: "
            f"pip install 'verl-agent-env[{extra}]'."
        ) from None
    check_version(package, version, error)


def check_version(
    package: str, version: str, error: type[FrameworkVersionError] = FrameworkVersionError
) -> None:
    """Check that a version of a package is supported.

    Raises:
        FrameworkVersionError: It is not.
    """
    supported = SUPPORTED[package]
    try:
        fits = Version(version) in SpecifierSet(supported)
    except InvalidVersion:
        fits = False
    if not fits:
        raise error(
            f"{package} {version} is installed, this integration needs {package}{supported}: "
            f"pip install '{package}{supported}'."
        )
