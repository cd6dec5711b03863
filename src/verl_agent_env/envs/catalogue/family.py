"""A family of environments that another package holds: names that are known, code that is imported at first use."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from verl_agent_env.envs.spec import Costs, EnvSpec
from verl_agent_env.errors import ExtraNotInstalledError

if TYPE_CHECKING:
    from verl_agent_env.envs.base import ChatEnv


class Listing(NamedTuple):
    """Contents of a package, as ``listing.py`` of its family finds them; ``docs/make_catalogue.py`` adds the costs."""

    environments: dict[str, tuple[str, list[str]]]
    """Description and tags, by the name within the family."""
    left_out: dict[str, str]
    """Causes, by the names of those that are not taken."""


_HERE = Path(__file__).parent
_PACKAGE = __name__.rpartition(".")[0]


@dataclass(frozen=True)
class Family:
    """The environments of one package.

    A folder of this package holds ``environments.json``, the names, tags and costs for one version of the package, and
    ``env.py``, whose ``make_class(short, spec)`` gives the class of one of them, and ``listing.py``, whose ``read()`` finds
    them in the package.
    """

    name: str
    """The folder, and the namespace of the names: ``reasoning_gym`` of ``reasoning_gym/chain_sum``."""
    title: str
    """What its users call it."""
    summary: str
    """What its environments are, in one sentence."""
    extra: str
    """The extra of this project that installs the package."""
    distribution: str
    """The package's name where it is installed from."""
    module: str
    """The module whose presence shows that it is installed."""
    licence: str
    """Of the package, by its SPDX identifier."""
    sample: str
    """The environment of which the documentation shows an episode."""

    @functools.cached_property
    def _data(self) -> dict[str, Any]:
        data: dict[str, Any] = orjson.loads((_HERE / self.name / "environments.json").read_bytes())
        return data

    @property
    def version(self) -> str:
        """The version of the package that the names and costs are from, and the only one that is used."""
        return str(self._data["version"])

    @property
    def left_out(self) -> dict[str, str]:
        """Environments of the package that are not part of the catalogue, each with the cause."""
        return dict(self._data["left_out"])

    @property
    def sample_episode(self) -> str:
        """The beginning of an episode of the sample, as the model sees it, its actions behind ``>``."""
        return str(self._data["sample_episode"])

    @functools.cached_property
    def specs(self) -> dict[str, EnvSpec]:
        """All environments, by the name within the family."""
        return {short: self._spec(short, row) for short, row in self._data["environments"].items()}

    def _spec(self, short: str, row: dict[str, Any]) -> EnvSpec:
        return EnvSpec(
            f"{self.name}/{short}",
            f"{_PACKAGE}.{self.name}:{short}",
            description=row["description"],
            tags=tuple(row["tags"]),
            costs=Costs(**row["costs"]),
            family=self,
        )

    @property
    def is_installed(self) -> bool:
        """True if the package is installed, in whatever version; nothing is imported."""
        return importlib.util.find_spec(self.module) is not None

    def env_class(self, short: str) -> type[ChatEnv]:
        """The class of an environment, its package imported.

        Raises:
            AttributeError: The family has no environment of this name.
            ExtraNotInstalledError: The package is not installed, or in another version.
        """
        spec = self.specs.get(short)
        if spec is None:
            raise AttributeError(f"the family '{self.name}' has no environment '{short}'")
        self._require_package(spec.name)
        return _made_class(self, short)

    def _require_package(self, env_name: str) -> None:
        try:
            found = importlib.metadata.version(self.distribution)
        except importlib.metadata.PackageNotFoundError:
            found = ""
        if found != self.version:
            raise ExtraNotInstalledError(env_name, self.extra, f"{self.distribution}=={self.version}", found)


@functools.cache
def _made_class(family: Family, short: str) -> type[ChatEnv]:
    adapter = importlib.import_module(f"{_PACKAGE}.{family.name}.env")
    made: type[ChatEnv] = adapter.make_class(short, family.specs[short])
    return made
