"""Every light extra, each in an environment of its own: it installs, and what it is for works. Minutes; ``make release-test``."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.release.conftest import Dist, install

PLAYED = """
import verl_agent_env.interface as interface
env_id = interface.initialize_environment({name!r}, seed=1)
observation, info = interface.reset(env_id)
assert observation[0]["content"]
interface.close_environment(env_id)
"""
USED = {
    "curate": """
from click.testing import CliRunner
from verl_agent_env.cli import cli
done = CliRunner().invoke(cli, ["curate", "frozen_lake", "--train", "4", "--test", "2", "--out", "data"])
assert done.exit_code == 0, done.output
import pyarrow.parquet
assert pyarrow.parquet.read_table("data/train.parquet").num_rows == 4
""",
    "examples": "import anthropic, openai",
    "math": """
import verl_agent_env.interface as interface
messages = [{"role": "user", "content": "What is a half?"}]
scorer = {"type": "math", "answer": "1/2"}
env_id = interface.initialize_environment("single_turn_chat", env_kwargs={"chat_history": messages, "scorer": scorer})
interface.reset(env_id)
assert interface.step(env_id, "<answer>0.5</answer>")[1] == 1.0
""",
    "mcp": """
import subprocess, sys, verl_agent_env.envs.mcp_chat.stdio
command = [sys.executable, "-m", "verl_agent_env.cli", "mcp"]
# Nothing to read: the server has nobody to serve, and ends.
assert subprocess.run(command, stdin=subprocess.DEVNULL, timeout=120).returncode == 0
""",
    "minigrid": PLAYED.format(name="minigrid/MiniGrid-Empty-5x5-v0"),
    "open-spiel": PLAYED.format(name="open_spiel/tic_tac_toe"),
    "otel": "import opentelemetry.sdk.trace, opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "ray": """
from verl_agent_env.integrations.errors import TrainingSetupError
from verl_agent_env.integrations.ray import start
try:
    start()
except TrainingSetupError as error:
    assert "ray.init()" in str(error)
else:
    raise AssertionError("servers without a Ray cluster")
""",
    "reasoning-gym": PLAYED.format(name="reasoning_gym/basic_arithmetic"),
    "skyrl": """
import skyrl_gym
from verl_agent_env.integrations.skyrl import register
register(url="http://127.0.0.1:9")
row = {"env_name": "frozen_lake", "seed": 1}
skyrl_gym.make("verl_agent_env", env_config={}, extras=row).close()
""",
    "textarena": PLAYED.format(name="textarena/Set-v0"),
}
"""By extra, code that fails where it is missing or does not fit. PyTorch and verifiers, of gigabytes, are those of other targets."""


@pytest.mark.parametrize("extra", USED)
def test_an_extra_installs_and_works(dist: Dist, tmp_path: Path, extra: str) -> None:
    installed = install(tmp_path / "installed", f"{dist.wheel}[{extra}]")
    done = installed.python(USED[extra])
    assert done.returncode == 0, done.stderr
