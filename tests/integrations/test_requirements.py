"""Packages of trainers: nothing imports them before they are used, and what is missing is said with what to install."""

from __future__ import annotations

import importlib.util

import pytest

from tests.children import python
from verl_agent_env.integrations.errors import FrameworkVersionError
from verl_agent_env.integrations.requirements import SUPPORTED, check_version, require
from verl_agent_env.integrations.skyrl import register
from verl_agent_env.integrations.verifiers import plugin_class

FRAMEWORKS = ("ray", "skyrl_gym", "trl", "verifiers", "torch", "transformers")


def test_bridges_are_imported_without_their_trainers() -> None:
    code = (
        "import sys, verl_agent_env.integrations.trl, verl_agent_env.integrations.skyrl\n"
        "import verl_agent_env.integrations.verifiers\n"
        f"print(sorted(set({FRAMEWORKS!r}) & set(sys.modules)))"
    )
    done = python("-c", code)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.skipif(importlib.util.find_spec("skyrl_gym") is not None, reason="it is installed")
def test_a_missing_package_is_named_with_its_extra() -> None:
    with pytest.raises(FrameworkVersionError, match=r"verl-agent-env\[skyrl\]"):
        register()


@pytest.mark.skipif(importlib.util.find_spec("verifiers") is not None, reason="it is installed")
def test_the_package_is_a_plugin_only_where_verifiers_is() -> None:
    import verl_agent_env

    assert verl_agent_env.__all__ == ["__version__"]
    with pytest.raises(FrameworkVersionError, match=r"verl-agent-env\[verifiers\]"):
        plugin_class("VerifiersEnv")
    with pytest.raises(FrameworkVersionError):
        _ = verl_agent_env.VerifiersTaskset
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = verl_agent_env.no_such_name


@pytest.mark.parametrize("package", SUPPORTED)
def test_versions_beyond_the_supported_ones_are_refused(package: str) -> None:
    for version in ("0.0.1", "99.0", "nightly"):
        with pytest.raises(FrameworkVersionError, match="pip install") as caught:
            check_version(package, version)
        assert version in str(caught.value)


def test_a_package_that_is_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SUPPORTED, "no-such-package", ">=1")
    with pytest.raises(FrameworkVersionError, match=r"verl-agent-env\[none\]"):
        require("no-such-package", "none")
