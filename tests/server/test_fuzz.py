"""Fuzzing over HTTP: no 500, no hang, every error a problem document.

``pytest tests/server/test_fuzz.py --depth 100`` looks longer than the suite does.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.children import run
from tests.conftest import ServerProcess, StartServer
from tests.depth import examples
from tests.waiting import HANG_S
from verl_agent_env.envs.registry import BUILT_IN

EXAMPLES = examples(15, at_most=2000)
API_EXAMPLES = examples(3, at_most=2000)
"""Of each operation and of each link, beside those that cover its schema."""
TOKEN = "fuzz"
ENV_NAMES = sorted({spec.entry_point: spec.name for spec in reversed(BUILT_IN)}.values())
# Fixtures here are shared by all examples: they hold a server and a connection, and nothing of an example.
FUZZ = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    database=None,
)

KNOWN_WORDS = st.sampled_from(
    ["up", "down", "left", "right", "move_up", "move_left", "noop", "submit", "answer", "1 + 2", "(3*4)-5", "9**9**9",
     "1/0", "role", "assistant", "user", "tool", "function", "{}", '{"direction": "up"}', '{"expression": "1+1"}', "{"]
)  # fmt: skip
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | KNOWN_WORDS,
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.text(max_size=8) | KNOWN_WORDS, inner, max_size=4),
    max_leaves=12,
)
WORD = KNOWN_WORDS | st.text(max_size=12)
TEXT = st.one_of(
    WORD,
    st.builds("<action>{}</action>".format, WORD),
    st.lists(WORD, max_size=5).map(lambda words: f"<answer>{' || '.join(words)}</answer>"),
    st.builds("\\boxed{{{}}}".format, WORD),
    st.builds('<tool_call>{{"name": "{}", "arguments": {}}}</tool_call>'.format, WORD, WORD),
    st.builds("<tool_call>{}".format, WORD),
)
CALL = st.fixed_dictionaries(
    {},
    optional={
        "id": st.text(max_size=5) | JSON,
        "type": st.just("function") | JSON,
        "function": st.fixed_dictionaries({}, optional={"name": WORD | JSON, "arguments": WORD | JSON})
        | JSON,
    },
)
PART = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "tool_use", "image_url"]) | WORD},
    optional={"text": TEXT | JSON, "id": WORD | JSON, "name": WORD | JSON, "input": JSON},
)
MESSAGE = st.fixed_dictionaries(
    {},
    optional={
        "role": st.just("assistant") | JSON,
        "content": TEXT | st.lists(PART, max_size=3) | JSON,
        "tool_calls": st.lists(CALL, max_size=3) | JSON,
    },
)
ACTION = JSON | TEXT | MESSAGE | st.lists(MESSAGE | TEXT, max_size=3)


@pytest.fixture(scope="module")
def fuzzed(server: ServerProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=HANG_S) as client:
        yield client


def make(client: httpx.Client, env_name: str, count: int) -> list[str]:
    answer = client.post(
        "/api/batch/initialize", json={"env_names": [env_name] * count, "seeds": [7] * count}
    )
    body = answer.json()
    assert body["errors"] == [], body["errors"][:1]
    env_ids: list[str] = body["env_ids"]
    return env_ids


def require_problem(answer: httpx.Response) -> str:
    """The code of an error, which is not the server's."""
    problem = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.status_code == problem["status"] < 500, problem
    return str(problem["code"])


@pytest.mark.parametrize("env_name", ENV_NAMES)
@FUZZ
@given(actions=st.lists(ACTION, min_size=1, max_size=4))
@example(actions=[{"tool_calls": [{"function": {"name": "up", "arguments": "[" * 2000}}]}])
@example(actions=["(" * 5000 + "1" + ")" * 5000, "9**9**9**9", "1e308*10"])
@example(actions=["<tool_call>" * 2000, "<answer>" * 2000, "\\boxed{" * 2000, "x" * 1_000_000])
@example(actions=[10**300, -(2**63), 2**64 - 1])
def test_any_action_is_an_answer_or_a_problem(
    env_name: str, fuzzed: httpx.Client, actions: list[Any]
) -> None:
    single, batch = make(fuzzed, env_name, 2)
    outcomes = []
    for action in actions:
        answer = fuzzed.post(f"/api/environment/{single}/step", json={"action": action})
        if answer.status_code == 200:
            outcomes.append(answer.json()["observation"])
        else:
            assert require_problem(answer) in ("episode_ended", "invalid_request", "action_too_large")
            outcomes.append(None)
    together = fuzzed.post("/api/batch/step", json={"env_ids": [batch] * len(actions), "actions": actions})
    assert together.status_code == 200
    codes = {error["code"] for error in together.json()["errors"]}
    assert codes <= {"episode_ended", "invalid_request", "action_too_large"}
    assert together.json()["observations"] == outcomes
    shown = fuzzed.get(f"/api/environment/{single}/trajectory")
    assert shown.status_code == 200
    steps = [step["observation"] for step in shown.json()["steps"]]
    if shown.json()["complete"]:
        assert steps == [outcome for outcome in outcomes if outcome is not None]
    assert fuzzed.post("/api/batch/close", json={"env_ids": [single, batch]}).json()["closed"] == 2


@pytest.mark.parametrize("env_name", ENV_NAMES)
@FUZZ
@given(data=st.data())
def test_any_arguments_make_an_environment_or_a_problem(
    env_name: str, fuzzed: httpx.Client, data: Any
) -> None:
    case = data.draw(_initialize_strategy(fuzzed, env_name))
    answer = fuzzed.post("/api/environment/initialize", json=case.body)
    if answer.status_code == 200:
        env_id = answer.json()["env_id"]
        assert fuzzed.post(f"/api/environment/{env_id}/close").status_code == 200
    else:
        assert require_problem(answer) in ("invalid_env_arguments", "invalid_request")


@FUZZ
@given(
    path=st.text(max_size=40) | st.lists(KNOWN_WORDS, max_size=4).map("/".join), body=st.binary(max_size=200)
)
@example(path="api/environment/%2e%2e/step", body=b"\x00")
def test_any_path_and_body_is_an_answer_or_a_problem(fuzzed: httpx.Client, path: str, body: bytes) -> None:
    for method in ("GET", "POST", "DELETE"):
        answer = fuzzed.request(method, f"/{quote(path)}", content=body)
        if answer.status_code >= 400:
            require_problem(answer)


def test_the_api_does_what_its_document_says(start_server: StartServer, tmp_path: Path) -> None:
    server = start_server(VERL_AGENT_ENV_AUTH_TOKENS=TOKEN)
    # Not "ignored_auth": it guesses tokens for each call, and who does so is soon told to wait (429).
    # Valid by the schema, refused all the same: columns of different length, arguments of another environment,
    # a batch that is too large. No JSON Schema can say that.
    (tmp_path / "schemathesis.toml").write_text(
        "[checks.positive_data_acceptance]\n"
        'expected-statuses = ["2xx", "401", "404", "409", "413", "422", "429", "503"]\n'
    )
    done = run(
        shutil.which("schemathesis", path=str(Path(sys.executable).parent)) or "schemathesis",
        "run", f"{server.url}/openapi.json", "--checks", "all", "--exclude-checks", "ignored_auth", "--header", f"Authorization: Bearer {TOKEN}",
        "--max-examples", str(API_EXAMPLES), "--seed", "1", "--request-timeout", str(HANG_S),
        # A stream: it would be waited for until it ends.
        "--exclude-path", "/api/cluster/events",
        "--max-response-time", str(HANG_S), "--generation-database", "none", "--no-color", "--warnings", "off",
        cwd=tmp_path, timeout_s=600 + API_EXAMPLES * 5,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    for phase in ("Examples", "Coverage", "Fuzzing", "Stateful"):
        assert phase in done.stdout
    assert "34 selected / 35 total" in done.stdout
    assert not any("traceback" in line for line in server.lines)


def _initialize_strategy(client: httpx.Client, env_name: str) -> st.SearchStrategy[Any]:
    """Bodies of initialize whose arguments fit, or nearly fit, what the catalogue says of the environment."""
    if env_name not in _strategies:
        # Not above, where each process that runs tests would import it; it takes longer than any of their other packages.
        import schemathesis

        catalogue = client.get("/api/environments").json()["environments"]
        (kwargs,) = [dict(kind["kwargs_schema"]) for kind in catalogue if kind["name"] == env_name]
        document = {
            "openapi": "3.1.0",
            "info": {"title": env_name, "version": "0"},
            "$defs": kwargs.pop("$defs", {}),
            "paths": {
                "/initialize": {
                    "post": {
                        "requestBody": {
                            "required": True,
                            "content": {
                                "application/json": {
                                    "schema": {
                                        "type": "object",
                                        "properties": {"env_name": {"const": env_name}, "env_kwargs": kwargs},
                                        "required": ["env_name", "env_kwargs"],
                                        "additionalProperties": False,
                                    }
                                }
                            },
                        },
                        "responses": {"200": {"description": "made"}},
                    }
                }
            },
        }
        _strategies[env_name] = schemathesis.openapi.from_dict(document)["/initialize"]["POST"].as_strategy()
    return _strategies[env_name]


_strategies: dict[str, st.SearchStrategy[Any]] = {}
