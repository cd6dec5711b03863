"""Other releases of the code, which take the place of the one that runs."""

from __future__ import annotations

import shutil
from pathlib import Path

import verl_agent_env
from loadtests.chaos.episode import RELEASE_MARK
from loadtests.chaos.load import Load
from loadtests.chaos.node_faults import rolling_restart
from verl_agent_env.cluster.local import LocalCluster

_BEFORE = "    def dump_state("


class Releases:
    """A folder that Python looks for packages in first, so that whatever stands there is what nodes start with."""

    def __init__(self, folder: Path) -> None:
        """Nothing is released: nodes start with what is installed.

        Args:
            folder: Of the packages; a path for ``PYTHONPATH``.
        """
        self.folder = folder
        self._newest = 0

    def release(self) -> int:
        """Put the next release there, which shows lakes in other words; gives its number."""
        self._newest += 1
        copy = self.folder / "verl_agent_env"
        if not copy.exists():
            shutil.copytree(Path(verl_agent_env.__file__).parent, copy)
        mark = RELEASE_MARK.format(self._newest)
        look = f'    def observe(self) -> Content:\n        return f"{mark}{{super().observe()}}"\n\n'
        name = Path("envs") / "frozen_lake.py"
        text = (Path(verl_agent_env.__file__).parent / name).read_text("utf-8")
        (copy / name).write_text(text.replace(_BEFORE, look + _BEFORE), "utf-8")
        # Python takes a file of the same second and size for the one that it has compiled.
        for compiled in (copy / name).parent.glob(f"__pycache__/{name.stem}.*.pyc"):
            compiled.unlink()
        return self._newest

    async def upgrade(self, cluster: LocalCluster, load: Load) -> None:
        """Every node stopped and started with the next release, one after the other."""
        number = self.release()
        await rolling_restart(cluster, load)
        await load.rounds(1)
        others = {episode.release for episode in load.episodes if episode.is_sampled and not episode.lost}
        if others != {number}:
            load.ledger.broken.append(f"releases {others} answer in place of {number}")
