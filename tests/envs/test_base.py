"""The base class: turns of one and several moves, refusals, faults, time limits, seeds, snapshots."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest

from verl_agent_env.envs.base import ChatEnv, EnvArguments
from verl_agent_env.envs.frozen_lake import FrozenLakeEnv
from verl_agent_env.envs.turn import Outcome
from verl_agent_env.errors import (
    EpisodeEndedError,
    EpisodeNotStartedError,
    InvalidEnvArgumentsError,
    RenderModeError,
)
from verl_agent_env.messages import Tool, ToolCall, assistant_message
from verl_agent_env.types import Content

ADD = Tool(
    "add",
    "Add a number.",
    {"type": "object", "properties": {"number": {"type": "integer"}}, "required": ["number"]},
)


class CounterArguments(EnvArguments):
    """Keyword arguments of Counter."""

    goal: int = 3
    """The sum that ends the episode."""
    noisy: bool = False
    """Whether each step draws from both random generators."""


class CounterEnv(ChatEnv):
    """Count up to the goal."""

    env_name = "test/counter-v0"
    Arguments: ClassVar[type[EnvArguments]] = CounterArguments
    tools = (Tool("up", "Count one up."), Tool("say", "Say something."), ADD)
    word_aliases: ClassVar[Mapping[str, str]] = {"more": "up"}
    arguments: CounterArguments

    def task_prompt_text(self) -> str:
        return "Count."

    def begin_episode(self, options: Mapping[str, Any]) -> None:
        if "start" in options and options["start"] < 0:
            raise self.invalid_arguments((["options", "start"], "too low"))
        self._count = int(options.get("start", 0))

    def observe(self) -> Content:
        return f"count {self._count}"

    def act(self, call: ToolCall) -> Outcome:
        if call.name == "say":
            return Outcome("said", reward=0.25, effective=False)
        number = call.arguments.get("number", 1)
        if number < 0:
            return Outcome(reward=-0.5, fault="no negative numbers")
        if self.arguments.noisy:
            self._count += int(self.rng.random() * 3) + int(self.np_random.integers(3))
        self._count += number
        done = self._count >= self.arguments.goal
        return Outcome(reward=1.0, terminated=done, success=done)

    def dump_state(self) -> Any:
        return self._count

    def load_state(self, state: Any) -> None:
        self._count = state


def started(**kwargs: Any) -> CounterEnv:
    env = CounterEnv(include_task_prompt=False, **kwargs)
    env.reset(seed=1)
    return env


def calls(*named: str, **arguments: Any) -> dict[str, Any]:
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": f"id{n}",
                "type": "function",
                "function": {"name": name, "arguments": json.dumps(arguments)},
            }
            for n, name in enumerate(named)
        ],
    }


def contents(observation: Any) -> list[Any]:
    return [message["content"] for message in observation]


# --- turns --------------------------------------------------------------------------------------------------


def test_tool_call_is_answered_by_its_tool_message() -> None:
    observation, reward, terminated, truncated, info = started().step(calls("up"))
    assert observation == [{"role": "tool", "tool_call_id": "id0", "content": "count 1"}]
    assert (reward, terminated, truncated) == (1.0, False, False)
    assert info == {"num_steps": 1, "action_is_valid": True, "action_is_effective": True, "success": False}


def test_text_is_answered_by_a_user_message() -> None:
    assert started().step("more")[0] == [{"role": "user", "content": "count 1"}]
    assert started().step('<tool_call>{"name": "up"}</tool_call>')[0] == [
        {"role": "user", "content": "count 1"}
    ]


@pytest.mark.parametrize(
    "word", ["up", "UP", " Up. ", '"up"', "**up**", "more", "\\boxed{up}", "<answer>More!</answer>"]
)
def test_words_are_read_generously(word: str) -> None:
    assert started().step(word)[4]["action_is_valid"] is True


def test_anthropic_tool_use_is_answered_under_its_id() -> None:
    content = [{"type": "tool_use", "id": "toolu_1", "name": "add", "input": {"number": 2}}]
    [message] = started().step({"role": "assistant", "content": content})[0]
    assert (message["tool_call_id"], message["content"]) == ("toolu_1", "count 2")


def test_parallel_calls_are_answered_one_by_one_in_order() -> None:
    env = started(max_actions_per_turn=3, goal=9)
    observation, reward, _, _, info = env.step(calls("up", "say", "up"))
    assert contents(observation) == ["count 1", "said", "count 2"]
    assert [message["tool_call_id"] for message in observation] == ["id0", "id1", "id2"]
    assert reward == 2.25
    assert (info["num_steps"], info["action_is_effective"]) == (3, True)


def test_calls_beyond_the_limit_are_refused_each_under_its_id() -> None:
    env = started(goal=9)
    observation, reward, _, _, info = env.step(calls("up", "up", "up"))
    assert [message["tool_call_id"] for message in observation] == ["id0", "id1", "id2"]
    assert contents(observation)[0] == "count 1"
    assert all("Not carried out" in content for content in contents(observation)[1:])
    assert (reward, info["num_steps"]) == (1.0, 1)


@pytest.mark.parametrize("call_id", [None, 7, "", "id0"])
def test_every_call_is_answered_under_an_id_of_its_own(call_id: Any) -> None:
    env = started(max_actions_per_turn=3, goal=9)
    env.step("up")
    action = calls("up", "up", "up")
    action["tool_calls"][1]["id"] = action["tool_calls"][2]["id"] = call_id
    observation = env.step(action)[0]
    assert [message["tool_call_id"] for message in observation] == ["id0", "call_1_1", "call_1_2"]
    assert contents(observation) == ["count 2", "count 3", "count 4"]


def test_a_conversation_with_ids_of_ours_is_answered_by_them() -> None:
    action = calls("up", "say")
    for call in action["tool_calls"]:
        del call["id"]
    said = assistant_message(action, turn=5)
    observation = started(max_actions_per_turn=2).step(said)[0]
    assert [m["tool_call_id"] for m in observation] == [call["id"] for call in said["tool_calls"]]
    assert [m["tool_call_id"] for m in observation] == ["call_5_0", "call_5_1"]


def test_a_malformed_call_beside_a_good_one_is_told() -> None:
    action = calls("up", "add")
    action["tool_calls"][1]["function"]["arguments"] = "{no"
    observation, reward, *_ = started().step(action)
    assert reward == 1.0
    assert "not a JSON object" in observation[1]["content"]
    [message] = started().step('<tool_call>{"name": "up"}</tool_call><tool_call>{"name": </tool_call>')[0]
    assert "cannot be read" in message["content"]


@pytest.mark.parametrize("name", ["functions.up", " up ", "up<|channel|>commentary", "up()"])
def test_what_runs_into_the_name_of_a_tool_does_not_matter(name: str) -> None:
    assert started().step(calls(name))[0] == [{"role": "tool", "tool_call_id": "id0", "content": "count 1"}]


def test_values_in_bare_text_get_the_types_of_the_tool() -> None:
    for text in (
        "<tool_call><function=add><parameter=number>\n2\n</parameter></function></tool_call>",
        "<tool_call>add<arg_key>number</arg_key><arg_value>2</arg_value></tool_call>",
        '<invoke name="add"><parameter name="number">2</parameter></invoke>',
    ):
        assert contents(started().step(text)[0]) == ["count 2"]


def test_only_the_chosen_formats_of_text_are_read() -> None:
    text = '<answer>say</answer> <action>up</action> <tool_call>{"name": "add", "arguments": {"number": 2}}</tool_call>'
    assert contents(started().step(text)[0]) == ["count 2"]
    assert contents(started(action_format="answer").step(text)[0]) == ["said"]
    assert contents(started(action_format=["boxed", "action"]).step(text)[0]) == ["count 1"]
    refused = started(action_format="boxed").step(text)
    assert refused[4]["action_is_valid"] is False
    assert "\\boxed{up}" in contents(refused[0])[0]
    # A structured call is no text.
    assert contents(started(action_format="boxed").step(calls("up"))[0]) == ["count 1"]


@pytest.mark.parametrize("action_format", ["xml", [], ["answer", "xml"], 5, None])
def test_a_format_that_does_not_exist_is_refused(action_format: Any) -> None:
    with pytest.raises(InvalidEnvArgumentsError):
        CounterEnv(action_format=action_format)


def test_an_action_can_be_read_without_being_carried_out() -> None:
    env = started()
    parsed = env.read_action("<think>2?</think><answer>up</answer>")
    assert (parsed.words, parsed.form, parsed.thought) == (["up"], "answer", "2?")
    assert env.num_steps == 0


def test_moves_in_text_show_the_last_view_and_one_note() -> None:
    env = started(max_actions_per_turn=2, goal=9)
    [message] = env.step("<answer>up || up || up || up</answer>")[0]
    shown, note = message["content"].split("\n")
    assert shown == "count 2"
    assert "first 2 actions" in note


def test_what_a_move_says_is_kept_among_the_views() -> None:
    env = started(max_actions_per_turn=4, goal=9)
    assert env.step("<answer>up || say || up || up</answer>")[0][0]["content"] == "count 1\nsaid\ncount 3"


def test_moves_after_the_end_are_refused() -> None:
    env = started(max_actions_per_turn=5, goal=2)
    observation, reward, terminated, truncated, info = env.step(calls("up", "up", "up"))
    assert (reward, terminated, truncated, info["success"]) == (2.0, True, False, True)
    assert "ended" in contents(observation)[2]


def test_moves_after_the_last_step_are_refused() -> None:
    env = started(max_actions_per_turn=5, goal=9, max_steps=2)
    observation, reward, terminated, truncated, info = env.step(calls("up", "up", "up"))
    assert (reward, terminated, truncated, info["num_steps"]) == (2.0, False, True, 2)
    assert "last step" in contents(observation)[2]


def test_many_words_cost_no_more_than_the_limit() -> None:
    env = started(goal=9)
    observation = env.step("up||" * 100_000)[0]
    assert len(observation[0]["content"]) < 200


# --- faults -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "action",
    [
        *(None, 5, "", "fly", [], {}, {"role": "assistant", "content": None}, calls("fly"), calls("add")),
        *(
            calls("add", number="1"),
            calls("add", number=1.5),
            "<tool_call>{</tool_call>",
            "<answer></answer>",
        ),
        *([{"role": "user", "content": "up"}], {"role": "assistant", "tool_calls": "up"}),
    ],
)
def test_what_cannot_be_carried_out_is_explained_and_costs_a_step(action: Any) -> None:
    env = started(invalid_action_reward=-0.125)
    observation, reward, terminated, truncated, info = env.step(action)
    [content] = contents(observation)
    assert content.startswith("Invalid action: ")
    assert "up, say, add" in content
    assert content.endswith("\ncount 0")
    assert (reward, terminated, truncated) == (-0.125, False, False)
    assert info == {"num_steps": 1, "action_is_valid": False, "action_is_effective": False, "success": False}


def test_environments_own_fault_adds_its_reward() -> None:
    env = started(invalid_action_reward=-0.25)
    observation, reward, _, _, info = env.step(calls("add", number=-1))
    assert "no negative numbers" in contents(observation)[0]
    assert (reward, info["action_is_valid"]) == (-0.75, False)


def test_invalid_action_may_end_the_episode() -> None:
    env = started(invalid_action_ends_episode=True, max_actions_per_turn=3)
    observation, _, terminated, truncated, info = env.step(calls("up", "fly", "up"))
    assert (terminated, truncated, info["success"], info["action_is_valid"]) == (True, False, False, False)
    assert "ended" in contents(observation)[2]
    assert env.ended


def test_one_bad_move_among_good_ones_makes_the_action_invalid_but_effective() -> None:
    env = started(max_actions_per_turn=3, goal=9)
    *_, info = env.step(calls("up", "fly", "up"))
    assert (info["action_is_valid"], info["action_is_effective"], info["num_steps"]) == (False, True, 3)


def test_what_comes_back_is_json_also_with_lone_surrogates() -> None:
    env = started(max_steps=9)
    for action in ("\ud800", calls("\ud800"), {**calls("up")}):
        json.dumps(env.step(action)[0], ensure_ascii=False).encode()


# --- episodes -----------------------------------------------------------------------------------------------


def test_step_outside_an_episode_is_refused() -> None:
    env = CounterEnv(goal=1)
    for refused in (env.snapshot, lambda: env.step("up"), lambda: env.episode_seed):
        with pytest.raises(EpisodeNotStartedError):
            refused()
    env.reset(seed=1)
    env.step("up")
    with pytest.raises(EpisodeEndedError):
        env.step("up")
    assert env.num_steps == 1
    env.reset()
    assert (env.num_steps, env.ended) == (0, False)


@pytest.mark.parametrize("seed", [-1, 1 << 63, 1.5, "1", [1]])
def test_impossible_seed_is_refused_and_the_episode_goes_on(seed: Any) -> None:
    env = started()
    env.step("up")
    with pytest.raises(InvalidEnvArgumentsError) as caught:
        env.reset(seed=seed)
    assert caught.value.errors[0]["loc"] == ["seed"]
    assert (env.episode_seed, env.step("up")[4]["num_steps"]) == (1, 2)


@pytest.mark.parametrize("seed", [0, (1 << 63) - 1, np.int64(7)])
def test_any_seed_in_range_is_taken(seed: Any) -> None:
    env = CounterEnv()
    assert env.reset(seed=seed)[1] == {"seed": int(seed)}
    assert type(env.episode_seed) is int


def test_refused_options_leave_the_episode_as_it_was() -> None:
    env = started(noisy=True, goal=99)
    env.step("up")
    before = env.snapshot()
    with pytest.raises(InvalidEnvArgumentsError):
        env.reset(seed=5, options={"start": -1})
    assert env.snapshot() == before
    assert contents(env.reset(options={"start": 2})[0]) == ["count 2"]


def test_first_seed_determines_all_later_episodes() -> None:
    seeds = []
    for _ in range(2):
        env = CounterEnv()
        seeds.append([env.reset(seed=4)[1]["seed"], *(env.reset()[1]["seed"] for _ in range(3))])
    assert seeds[0] == seeds[1]
    assert len(set(seeds[0])) == 4


def test_without_any_seed_episodes_differ() -> None:
    assert CounterEnv().reset()[1]["seed"] != CounterEnv().reset()[1]["seed"]


def test_prompt_comes_first_unless_told_otherwise() -> None:
    assert contents(CounterEnv().reset(seed=1)[0]) == ["Count.\n\ncount 0"]
    assert contents(CounterEnv(task_prompt="Go!").reset(seed=1)[0]) == ["Go!\n\ncount 0"]
    assert contents(CounterEnv(include_task_prompt=False).reset(seed=1)[0]) == ["count 0"]
    assert CounterEnv(task_prompt="").task_prompt() == ""


# --- snapshots and randomness -------------------------------------------------------------------------------


@pytest.mark.parametrize("num_before", range(5))
def test_restored_environment_goes_on_exactly(num_before: int) -> None:
    env = started(noisy=True, goal=1000)
    for _ in range(num_before):
        env.step("up")
    other = CounterEnv(include_task_prompt=False, noisy=True, goal=1000)
    other.restore(env.snapshot())
    for _ in range(10):
        assert other.step("up") == env.step("up")
    assert other.reset() == env.reset()


def test_generator_of_another_kind_survives_a_snapshot() -> None:
    env = started(noisy=True, goal=1000)
    env.np_random = np.random.Generator(np.random.MT19937(5))
    env.step("up")
    other = CounterEnv(include_task_prompt=False, noisy=True, goal=1000)
    other.restore(env.snapshot())
    assert [other.step("up") for _ in range(5)] == [env.step("up") for _ in range(5)]


@pytest.mark.parametrize("snapshot", [b"", b"{}", b"[]", b"[2,1,0,false,null,null,0]", b"[1]", b"\xff"])
def test_what_is_no_snapshot_is_refused(snapshot: bytes) -> None:
    env = started()
    with pytest.raises(ValueError):  # noqa: PT011 - also JSON's own error, which is one
        env.restore(snapshot)
    assert env.step("up")[4]["num_steps"] == 1


def test_both_generators_follow_the_seed() -> None:
    env = started()
    assert env.np_random.random() == env.rng.random() == np.random.default_rng(1).random()
    env.reset(seed=2)
    assert env.np_random.random() == np.random.default_rng(2).random()


# --- arguments ----------------------------------------------------------------------------------------------


def test_given_arguments_are_shared_and_come_alone() -> None:
    arguments = CounterEnv.validate_arguments({"goal": 5})
    assert CounterEnv(arguments=arguments).arguments is arguments
    with pytest.raises(InvalidEnvArgumentsError):
        CounterEnv(arguments=arguments, goal=6)


def test_faults_of_arguments_name_place_and_environment() -> None:
    with pytest.raises(InvalidEnvArgumentsError) as caught:
        CounterEnv(goal="many", nope=1)
    assert caught.value.env_name == "test/counter-v0"
    assert sorted(error["loc"] for error in caught.value.errors) == [["goal"], ["nope"]]
    assert all(set(error) == {"loc", "msg"} for error in caught.value.errors)


def test_unknown_render_mode_is_refused() -> None:
    with pytest.raises(RenderModeError):
        CounterEnv(render_mode="human")
    env = CounterEnv(render_mode="ansi")
    env.reset(seed=1)
    assert env.render() == "count 0"


def test_parallel_calls_are_allowed_where_a_turn_holds_several() -> None:
    assert not CounterEnv().allow_parallel_tool_calls
    assert CounterEnv(max_actions_per_turn=2).allow_parallel_tool_calls


def test_gymnasium_makes_it_and_passes_arguments_on() -> None:
    made = gymnasium.make("verl_env/frozen_lake-v1", size=5, render_mode="ansi")
    assert isinstance(made.unwrapped, FrozenLakeEnv)
    observation, _ = made.reset(seed=1)
    assert made.observation_space.contains(observation)
    assert len(str(made.render()).split("\n")) == 5
    made.close()


# --- one call, and the turn that it makes ---------------------------------------------------------------------


def called(*calls: tuple[str, str]) -> dict[str, Any]:
    """An assistant message that calls these tools, each with the JSON of its arguments."""
    functions = [{"name": name, "arguments": arguments} for name, arguments in calls]
    tool_calls = [
        {"id": f"call-{number}", "type": "function", "function": function}
        for number, function in enumerate(functions)
    ]
    return {"role": "assistant", "content": "", "tool_calls": tool_calls}


@pytest.mark.parametrize("observation_mode", ["text", "both"])
@pytest.mark.parametrize(
    "action",
    [
        "<action>right</action>",
        "<action>sideways</action>",
        "I do not know.",
        "<action>right | down</action>",
        {"role": "assistant", "content": "right"},
        called(("move_right", "{}")),
        called(("move_right", '{"far": true}')),
        called(("fly", "{}")),
        called(("move_right", "{}"), ("move_down", "{}")),
    ],
)
def test_a_step_is_the_turn_of_its_calls(action: Any, observation_mode: str) -> None:
    stepped, turned = (
        FrozenLakeEnv(
            desc=["SFFFFF", "FFFFFF", "FFFFFF", "FFFFFG"],
            is_slippery=False,
            observation_mode=observation_mode,
            max_actions_per_turn=2,
        )
        for _ in range(2)
    )
    for env in (stepped, turned):
        env.reset(seed=5)
    for _ in range(3):
        assert stepped.step(action) == turned.take_turn(turned.calls_of(action))


def test_calls_keep_no_argument_that_their_tool_excludes() -> None:
    env = FrozenLakeEnv()
    assert env.calls_of(called(("move_right", '{"why": "' + "x" * 60_000 + '"}'))) == env.calls_of(
        called(("move_right", "{}"))
    )
