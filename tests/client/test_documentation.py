"""The page on the client tells the truth: its examples are run against a server."""

from __future__ import annotations

import inspect
import itertools
import re

import pytest

from tests.children import ROOT, forked_python
from tests.conftest import ServerProcess
from verl_agent_env.client import AsyncEnvClient
from verl_agent_env.client import errors as client_errors
from verl_agent_env.client.dispatch import Settings
from verl_agent_env.errors import VerlAgentEnvError

PAGE = (ROOT / "docs" / "client.md").read_text("utf-8")
README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", f"{PAGE}\n{README}", re.DOTALL | re.MULTILINE)
EXAMPLES = [
    (code, printed)
    for (language, code), (after, printed) in itertools.pairwise(BLOCKS)
    if (language, after) == ("py", "text")
]


def test_no_example_is_left_out() -> None:
    assert len(EXAMPLES) == sum(language == "py" for language, _ in BLOCKS) > 4


@pytest.mark.parametrize(("code", "printed"), EXAMPLES)
def test_example_prints_what_is_shown(server: ServerProcess, code: str, printed: str) -> None:
    done = forked_python("-W", "error", "-c", code.replace("http://127.0.0.1:8000", server.url))
    assert done.returncode == 0, done.stderr
    assert (done.stdout, done.stderr) == (printed, "")


def test_table_of_options_is_complete() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\S+) \| ", PAGE, re.MULTILINE)
    parameters = inspect.signature(AsyncEnvClient).parameters
    assert [name for name, _ in rows] == [name for name in parameters if name != "url"]
    for name, shown in rows:
        default = parameters[name].default
        told = {"none"} if default is None else {str(default)}
        if isinstance(default, int | float):
            told.add(f"{default:g}")
        assert shown.strip("`").replace('"', "") in told
        assert default == getattr(Settings(), name, default)


def test_table_of_errors_is_complete() -> None:
    own = {
        name
        for name, value in vars(client_errors).items()
        if isinstance(value, type) and issubclass(value, VerlAgentEnvError) and value is not VerlAgentEnvError
    }
    assert set(re.findall(r"^\| `(\w+Error)` \|", PAGE, re.MULTILINE)) == own
    assert all(f"{name} " in str(client_errors.__doc__) for name in own)
