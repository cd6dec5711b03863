"""verifiers' command ``vf-eval``, and what it writes."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import orjson

from tests.children import run
from tests.waiting import HANG_S


def vf_eval(model: Any, folder: Path, *arguments: str, **variables: str) -> list[dict[str, Any]]:
    """The episodes of a whole run of the command, as it writes them."""
    scripts = Path(sys.executable).parent
    done = run(
        str(scripts / "vf-eval"), *arguments, "--client.base-url", f"{model.url}/v1", "--model", "m",
        "--no-push", "--no-rich", "--output-dir", str(folder),
        variables={
            "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}",
            # uv, which installs the player's packages, trusts what the system trusts.
            "UV_SYSTEM_CERTS": "1", "SSL_CERT_DIR": "/etc/ssl/certs", **variables,
        },
        timeout_s=4 * HANG_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    [file] = folder.rglob("traces.jsonl")
    return [orjson.loads(line) for line in file.read_bytes().splitlines()]


def traces_of(episodes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The traces of episodes, none of which failed: one of each, for one player."""
    assert [error for episode in episodes for error in episode["errors"]] == []
    return [trace for episode in episodes for trace in episode["traces"]]


def plugin_arguments(
    url: str, env_name: str, env_kwargs: dict[str, Any], *, tasks: int, rollouts: int
) -> list[str]:
    """Arguments of the command for the plugin of this project, whose first task has the seed 0."""
    return [
        "verl-agent-env", "--env.url", url, "--env.taskset.env-name", env_name,
        "--env.taskset.env-kwargs", orjson.dumps(env_kwargs).decode(),
        "--env.player.runtime.type", "subprocess", "-n", str(tasks), "-r", str(rollouts),
    ]  # fmt: skip


def user_texts(trace: dict[str, Any]) -> list[str]:
    """What the environment said, message by message."""
    messages = [node["message"] for node in trace["nodes"] if node["message"]["role"] == "user"]
    return [text_in(message["content"]) for message in messages]


def text_in(content: Any) -> str:
    """The text of a message, whichever form its content has."""
    return content if isinstance(content, str) else "\n".join(part["text"] for part in content)
