"""Sessions of resumable servers: an episode goes on in them elsewhere, and they end with it and not before."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from pydantic import ValidationError

from tests.conftest import StartServer
from tests.envs.mcp_chat.conftest import Started
from tests.envs.mcp_chat.counting_server import CountingServer
from tests.envs.mcp_chat.support import message, probe, told
from tests.waiting import HANG_S, eventually, until
from verl_agent_env.envs.mcp_chat import McpChatEnv
from verl_agent_env.envs.mcp_chat.configuration import CONFIG_VARIABLE
from verl_agent_env.envs.mcp_chat.definition import ServerDefinition
from verl_agent_env.envs.mcp_chat.errors import ServerLostError, ServerStartError
from verl_agent_env.envs.mcp_chat.pool import pool_here
from verl_agent_env.envs.registry import default_registry
from verl_agent_env.errors import InvalidEnvArgumentsError

COUNT = message(("count", {}))


@pytest.fixture
def counting() -> Iterator[CountingServer]:
    server = CountingServer()
    yield server
    server.close()


class Recorded:
    """An episode as a cluster keeps it: each step with the outcomes of its calls to the outside."""

    def __init__(self, env: McpChatEnv) -> None:
        self.env = env
        self.steps: list[tuple[dict[str, Any], Any]] = []
        self.answers: list[Any] = []

    @classmethod
    async def begun(cls, **arguments: Any) -> Recorded:
        episode = cls(McpChatEnv(servers=["counting"], **arguments))
        episode.env.begin_effects(None)
        await episode.env.areset(seed=1)
        episode.beginning = episode.env.take_effects()
        return episode

    async def step(self, action: Any = COUNT) -> list[Any]:
        """Take a step, and return what the messages of the answer say."""
        self.env.begin_effects(None)
        answer = await self.env.astep(action)
        self.steps.append((action, self.env.take_effects()))
        self.answers.append(answer)
        return told(answer[0])

    async def elsewhere(self) -> Recorded:
        """The same episode, replayed by another environment."""
        other = Recorded(McpChatEnv(arguments=self.env.arguments))
        other.env.begin_effects(self.beginning)
        await other.env.areset(seed=1)
        other.env.take_effects()
        for action, outcomes in self.steps:
            other.env.begin_effects(outcomes)
            other.answers.append(await other.env.astep(action))
            other.env.take_effects()
        assert other.answers == self.answers
        other.beginning, other.steps = self.beginning, list(self.steps)
        return other

    beginning: Any = None


@pytest.fixture
async def episode(started: Started, counting: CountingServer, configured: Any) -> Recorded:
    """An episode with the counting server, in which nothing was counted yet."""
    configured(counting.defined())
    return await Recorded.begun()


async def test_an_episode_goes_on_elsewhere_in_the_same_session(
    episode: Recorded, counting: CountingServer
) -> None:
    assert await episode.step() == ["1"]
    assert await episode.step(message(("count", {}), ("count", {}))) in (["2", "3"], ["3", "2"])
    await episode.env.ahand_over()
    asked = len(counting.asked)
    other = await episode.elsewhere()
    assert len(counting.asked) == asked
    assert await other.step() == ["4"]
    third = await other.elsewhere()
    assert await third.step() == ["5"]
    assert third.answers[-1][4]["server_failures"] == 0
    # One handshake, one session, and no id of a request twice within it.
    assert [len(counting.of(rpc)) for rpc in ("initialize", "DELETE")] == [1, 0]
    assert len(counting.sessions) == 1
    ids = [each.id for each in counting.asked if each.id is not None]
    assert len(set(ids)) == len(ids)
    await third.env.aclose()
    await other.env.ahand_over()
    assert [each.session for each in counting.of("DELETE")] == counting.sessions


async def test_the_session_ends_with_the_episode(episode: Recorded, counting: CountingServer) -> None:
    await episode.step()
    await episode.step({"role": "assistant", "content": "done"})
    await until(lambda: len(counting.of("DELETE")) == 1, what="the end of the session")
    await episode.env.aclose()
    asked = len(counting.asked)
    # Played again it is over too, and nobody is called.
    await (await episode.elsewhere()).env.ahand_over()
    await pool_here().aclose()
    assert len(counting.asked) == asked
    assert len(counting.of("DELETE")) == 1


async def test_the_next_episode_has_a_session_of_its_own(episode: Recorded, counting: CountingServer) -> None:
    await episode.step()
    await episode.env.areset(seed=2)
    assert [each.session for each in counting.of("DELETE")] == counting.sessions
    observation, *_ = await episode.env.astep(COUNT)
    assert told(observation) == ["1"]
    await episode.env.aclose()
    assert len(counting.of("DELETE")) == 2


async def test_an_environment_that_was_only_played_again_ends_the_session_if_it_is_closed_for_good(
    episode: Recorded, counting: CountingServer
) -> None:
    await episode.step()
    await episode.env.ahand_over()
    twin = await episode.elsewhere()
    await twin.env.ahand_over()
    assert counting.of("DELETE") == []
    last = await episode.elsewhere()
    await last.env.aclose()
    assert [each.session for each in counting.of("DELETE")] == counting.sessions


async def test_a_session_that_the_server_has_forgotten_is_begun_anew_told_and_counted(
    episode: Recorded, counting: CountingServer
) -> None:
    await episode.step()
    await episode.step()
    await episode.env.ahand_over()
    counting.forget(counting.sessions[0])
    other = await episode.elsewhere()
    said = await other.step(message(("count", {}), ("count", {})))
    assert all(text.startswith("[A new session with the server 'counting' was begun") for text in said)
    assert sorted(text[-2:] for text in said) == ["\n1", "\n2"]
    assert other.answers[-1][4]["server_failures"] == 2
    # The new session is recorded: the next one goes on in it.
    third = await other.elsewhere()
    assert await third.step() == ["3"]
    await third.env.aclose()
    await other.env.ahand_over()
    assert counting.of("DELETE")[-1].session == counting.sessions[-1] != counting.sessions[0]


async def test_a_session_that_is_forgotten_under_way_is_recorded_as_the_new_one(
    episode: Recorded, counting: CountingServer
) -> None:
    await episode.step()
    counting.forget(counting.sessions[0])
    (said,) = await episode.step()
    assert said.endswith("\n1")
    await episode.env.ahand_over()
    other = await episode.elsewhere()
    assert await other.step() == ["2"]
    await other.env.aclose()


async def test_a_forgotten_session_is_a_failure_where_failures_are_raised(
    started: Started, counting: CountingServer, configured: Any
) -> None:
    configured(counting.defined())
    episode = await Recorded.begun(raise_on_server_failure=True)
    await episode.step()
    await episode.env.ahand_over()
    counting.forget(counting.sessions[0])
    other = await episode.elsewhere()
    with pytest.raises(ServerLostError):
        await other.env.astep(COUNT)
    await other.env.aclose()


async def test_a_server_that_begins_no_session_is_refused(started: Started, configured: Any) -> None:
    server = CountingServer(stateless=True)
    try:
        configured(server.defined())
        env = McpChatEnv(servers=["counting"])
        with pytest.raises(ServerStartError, match="begins no session that could be resumed"):
            await env.areset(seed=1)
        await env.aclose()
    finally:
        server.close()
    assert pool_here().num_sessions == 0


def kind_with(*servers: str) -> Any:
    kind = default_registry().kind("mcp_chat")
    return kind.fitting(kind.validate({"servers": list(servers)}))


def test_episodes_are_recorded_if_all_servers_are_stateless_or_resumable(configured: Any) -> None:
    url = "http://127.0.0.1:1/mcp"
    resumable = ServerDefinition(name="resumable", type="http", url=url, resumable=True)
    configured(resumable, probe(name="stateless", stateless=True), probe(name="other"))
    assert kind_with("resumable").durability == "journal"
    assert kind_with("resumable", "stateless").durability == "journal"
    assert kind_with("resumable", "other").durability == "none"
    # Its state is the server's: no snapshot has it.
    assert not kind_with("resumable").has_state


@pytest.mark.parametrize(
    "fields",
    [
        {"command": "program"},
        {"url": "http://localhost/sse"},
        {"url": "http://localhost/mcp", "shared": True},
        {"url": "http://localhost/mcp", "stateless": True},
    ],
)
def test_only_unshared_sessions_over_streamable_http_can_be_resumed(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="resumable"):
        ServerDefinition.model_validate({"name": "x", "resumable": True, **fields})


def test_only_the_operator_says_what_can_be_resumed(configured: Any) -> None:
    configured(commands_allowed=True)
    server = {"name": "mine", "url": "http://localhost/mcp", "resumable": True}
    with pytest.raises(InvalidEnvArgumentsError, match="operator"):
        McpChatEnv(servers=[server])


def test_over_the_api_a_session_ends_with_its_environment_or_with_the_server(
    start_server: StartServer, counting: CountingServer, tmp_path: Path
) -> None:
    file = tmp_path / "mcp.json"
    file.write_bytes(orjson.dumps({"mcpServers": {"counting": counting.definition}}))
    server = start_server(**{CONFIG_VARIABLE: str(file)})
    with httpx.Client(base_url=f"{server.url}/api/environment", timeout=HANG_S) as client:
        first, second = (
            client.post("/initialize", json={"env_name": "mcp_chat"}).json()["env_id"] for _ in range(2)
        )
        for seq in range(2):
            taken = client.post(f"/{first}/step", json={"action": COUNT, "seq": seq}).json()
            assert told(taken["observation"]) == [str(seq + 1)]
        # The session is nobody's to see.
        shown = client.get(f"/{first}/trajectory").text
        assert counting.sessions[0] not in shown + taken["info"].__repr__()
        assert counting.of("DELETE") == []
        client.post(f"/{first}/close")
        eventually(lambda: len(counting.of("DELETE")) == 1, what="the end of the first session")
        client.post(f"/{second}/step", json={"action": COUNT, "seq": 0})
    server.stop()
    assert [each.session for each in counting.of("DELETE")] == counting.sessions
    assert len(counting.sessions) == 2
    assert not any(session in line for session in counting.sessions for line in server.lines)
