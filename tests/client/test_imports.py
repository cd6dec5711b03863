"""What importing the client brings along."""

from __future__ import annotations

import verl_agent_env.client
from tests.children import python


def run_python(code: str) -> list[str]:
    done = python("-W", "error", "-c", code)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_client_brings_neither_the_server_nor_environments() -> None:
    loaded = run_python("import sys, verl_agent_env.client; print(*sys.modules, sep='\\n')")
    roots = {name.partition(".")[0] for name in loaded}
    assert roots.isdisjoint({"fastapi", "starlette", "uvicorn", "redis", "pydantic", "gunicorn", "PIL"})
    ours = {name for name in loaded if name.startswith("verl_agent_env.")}
    packages = {name.split(".")[1] for name in ours}
    assert packages <= {
        "addresses",
        "client",
        "cluster",
        "envs",
        "errors",
        "messages",
        "moved",
        "proxies",
        "seeds",
        "spans",
        "types",
        "wire",
    }
    # The results of a run, which the server gives in the same form.
    assert {name for name in ours if name.startswith("verl_agent_env.wire.")} == {
        "verl_agent_env.wire.task_results"
    }
    # The hash that tells where an environment lives.
    assert {name for name in ours if name.startswith("verl_agent_env.cluster.")} == {
        "verl_agent_env.cluster.ring"
    }
    # The list of names, for gymnasium.make; none of the environments themselves.
    assert {name for name in ours if name.startswith("verl_agent_env.envs.")} == {
        "verl_agent_env.envs.catalogue",
        "verl_agent_env.envs.catalogue.families",
        "verl_agent_env.envs.catalogue.family",
        "verl_agent_env.envs.presets",
        "verl_agent_env.envs.registry",
        "verl_agent_env.envs.spec",
    }


def test_gymnasium_knows_the_environments_after_the_package_is_imported() -> None:
    code = """
import gymnasium, verl_agent_env
env = gymnasium.make("verl_env/frozen_lake-v1")
env.reset(seed=1)
print(env.spec.id, "verl_env/remote-v0" in gymnasium.registry)
"""
    assert run_python(code) == ["verl_env/frozen_lake-v1", "True"]


def test_exported_names_exist_and_are_sorted() -> None:
    names = verl_agent_env.client.__all__
    assert names == sorted(names, key=lambda name: (name.islower(), name))
    assert all(hasattr(verl_agent_env.client, name) for name in names)
