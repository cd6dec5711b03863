"""The wheel alone, outside the repository: every command that the README begins with, and its first examples."""

from __future__ import annotations

import itertools
import re

import httpx
import pytest

import verl_agent_env
from tests.children import ROOT, run
from tests.conftest import StartServer
from tests.examples.model_server import serving_model
from tests.release.conftest import Installed
from tests.waiting import HANG_S

README = (ROOT / "README.md").read_text("utf-8")
EXAMPLES = [
    (code, printed)
    for code, printed in re.findall(
        r"^```python\n(.*?)^```\n\n```text\n(.*?)^```$", README, re.DOTALL | re.MULTILINE
    )
]


def serve(start_server: StartServer, installed: Installed) -> str:
    """The URL of a server that runs from the wheel."""
    command = ["env", "--chdir", str(installed.work), installed.command, "serve", "--port", "0"]
    return start_server(command=command).url


def test_nothing_of_the_repository_is_imported(installed: Installed) -> None:
    done = installed.python("import verl_agent_env as v; print(v.__file__, v.__version__)")
    assert done.returncode == 0, done.stderr
    path, version = done.stdout.split()
    assert path.startswith(str(installed.folder))
    assert version == verl_agent_env.__version__


def test_examples_of_the_readme_print_what_is_shown(installed: Installed) -> None:
    assert len(EXAMPLES) == 2
    for code, printed in EXAMPLES:
        done = installed.python(code)
        assert done.stdout == printed, done.stderr


def test_a_server_answers_the_session_of_the_readme_serves_its_page_and_lets_a_model_play(
    installed: Installed, start_server: StartServer
) -> None:
    url = serve(start_server, installed)
    (session,) = (
        block
        for block in re.findall(r"^```bash\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
        if "curl" in block
    )
    script = "set -euo pipefail\n" + session.replace("http://127.0.0.1:8000", url)
    done = run("bash", "-c", script, cwd=installed.work)
    assert done.returncode == 0, done.stderr
    assert '"reward":10.9' in done.stdout.replace(" ", "")
    for path in ("/web/app.js", "/web/vendor/preact.js", "/openapi.json"):
        assert httpx.get(url + path, timeout=HANG_S).status_code == 200, path
    answer = {"role": "assistant", "content": "<action>right</action>"}
    with serving_model(itertools.repeat(answer)) as endpoint:
        played = installed.run(
            *("eval", "--url", url, "--base-url", f"{endpoint.url}/v1", "--model", "m", "--episodes", "2"),
            *("--env", "frozen_lake", "--env-kwargs", '{"desc": ["SFG"], "is_slippery": false}'),
        )
    assert played.returncode == 0, played.stderr
    assert "100.0 % of 2" in played.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        "play sokoban --policy solver --seed 3",
        "check-env frozen_lake --steps 5",
    ],
)
def test_a_command_works(installed: Installed, arguments: str) -> None:
    done = installed.run(*arguments.split())
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_an_extra_is_missing_for_says_which(installed: Installed) -> None:
    done = installed.run("play", "minigrid/MiniGrid-Empty-5x5-v0")
    assert done.returncode == 1, done.stdout
    assert "verl-agent-env[minigrid]" in done.stderr
    assert "Traceback" not in done.stderr
