"""The agent loop, with a fake model, against a real server."""

from __future__ import annotations

import asyncio
import gc
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.conftest import ServerProcess, StartServer
from tests.integrations.verl.conftest import RUN_ID, MakeLoop
from tests.waiting import HANG_S, no_hang
from verl_agent_env.client import AsyncEnvClient
from verl_agent_env.errors import UnknownEnvNameError
from verl_agent_env.integrations.errors import TrainingSetupError

pytest.importorskip("verl", reason="verl is not installed: pip install 'verl-agent-env[verl]'")
pytestmark = pytest.mark.usefixtures("verl")
transcript = pytest.importorskip("verl_agent_env.integrations.verl.rollout.transcript")

LAKE: dict[str, Any] = {"desc": ["SFFG"], "is_slippery": False}
PARAMS = {"temperature": 1.0, "top_p": 1.0, "top_k": -1}


def fakes() -> Any:
    from tests.integrations.verl import fakes as module

    return module


async def play(make_loop: MakeLoop, model: Any, row: dict[str, Any], **options: Any) -> Any:
    loop = make_loop(model, **options)
    return await loop.run(dict(PARAMS), **row)


async def left_open(server: ServerProcess) -> int:
    """How many environments of the test's loops are open; they are closed now."""
    async with AsyncEnvClient(server.url) as client:
        return await client.close_run(RUN_ID)


async def test_tool_calls_reach_the_goal_and_only_the_models_tokens_count(
    make_loop: MakeLoop, tokenizer: Any, server: ServerProcess
) -> None:
    said = fakes().call("move_right")
    model = fakes().FakeModel(said)
    output = await play(make_loop, model, fakes().row("frozen_lake", **LAKE))
    assert output.reward_score == 1.0
    assert output.extra_fields["turn_scores"] == [0.0, 0.0, 1.0]
    assert len(output.response_ids) == len(output.response_mask) == len(output.response_logprobs)
    written = [token for token, mask in zip(output.response_ids, output.response_mask, strict=True) if mask]
    assert tokenizer.decode(written) == (said + "<|im_end|>") * 3
    assert [output.response_logprobs[end - 1] for end in output.extra_fields["turn_ends"]] == [-0.5] * 3
    assert {
        p for p, mask in zip(output.response_logprobs, output.response_mask, strict=True) if not mask
    } == {0.0}
    # Prompt, three answers, two things said to them.
    assert output.num_turns == 6
    assert await left_open(server) == 0


async def test_a_kept_episode_names_its_training_step_and_the_tokens_of_each_turn(
    make_loop: MakeLoop, start_server: StartServer
) -> None:
    url = start_server("--keep-trajectories", "memory").url
    for said in (fakes().call("move_right"), "<answer>right</answer>"):
        model = fakes().FakeModel(said)
        output = await play(make_loop, model, fakes().row("frozen_lake", **LAKE), url=url)
        async with httpx.AsyncClient(base_url=url, timeout=HANG_S) as client:
            row, *_ = (await client.get(f"/api/episodes?run={RUN_ID}&training_step=5")).json()["episodes"]
            steps = (await client.get(f"/api/episodes/{row['id']}")).json()["steps"]
        # The fake model's weights are newer with each answer.
        assert row["training_step"] == output.extra_fields["max_global_steps"] == 5
        assert row["tokens"] == sum(output.response_mask) == sum(step["tokens"] for step in steps)
        assert [step["prompt_tokens"] for step in steps] == [
            len(asked["prompt_ids"]) for asked in model.requests
        ]


async def test_each_request_holds_the_tokens_of_the_one_before_unchanged(
    make_loop: MakeLoop, tokenizer: Any
) -> None:
    model = fakes().FakeModel(fakes().call("move_right"))
    output = await play(make_loop, model, fakes().row("frozen_lake", **LAKE))
    first, second, third = (request["prompt_ids"] for request in model.requests)
    assert first == output.prompt_ids
    assert second[: len(first)] == first
    assert third[: len(second)] == second
    assert [*output.prompt_ids, *output.response_ids][: len(third)] == third
    text = tokenizer.decode(third)
    assert text.count("<tool_response>\n") == 2
    assert text.endswith("<|im_start|>assistant\n")
    assert "move_right" in tokenizer.decode(first)
    assert len({request["request_id"] for request in model.requests}) == 1


@pytest.mark.parametrize("action_format", ["auto", "text"])
async def test_actions_in_text_are_played(make_loop: MakeLoop, action_format: str) -> None:
    model = fakes().FakeModel("I go. <answer>right || right || right</answer>")
    row = fakes().row("frozen_lake", max_actions_per_turn=3, **LAKE)
    output = await play(make_loop, model, row, action_format=action_format)
    assert (output.reward_score, output.num_turns) == (1.0, 2)
    assert ("<tools>" in model.prompts()[0]) is (action_format == "auto")


async def test_parallel_tool_calls_are_answered_one_by_one(make_loop: MakeLoop) -> None:
    call = fakes().call
    model = fakes().FakeModel(call("move_right") + call("move_left"), call("move_right") * 3)
    output = await play(make_loop, model, fakes().row("frozen_lake", max_actions_per_turn=3, **LAKE))
    assert (output.reward_score, len(model.requests)) == (1.0, 2)
    assert model.prompts()[1].count("<tool_response>") == 2


@pytest.mark.parametrize(
    "nonsense",
    [
        '<tool_call>{"name": "move_right", "arguments": </tool_call>',
        '<tool_call>{"name": "fly", "arguments": {"high": "\\ud800"}}</tool_call>',
        "",
        "no idea",
    ],
)
async def test_nonsense_is_told_to_the_model_and_the_episode_goes_on(
    make_loop: MakeLoop, nonsense: str
) -> None:
    model = fakes().FakeModel(nonsense, "right")
    output = await play(make_loop, model, fakes().row("frozen_lake", **LAKE))
    assert output.reward_score == 1.0
    assert "Invalid action" in model.prompts()[1]
    assert output.extra_fields["reward_extra_info"]["valid_turns"] == 0.75


async def test_the_turn_budget_ends_the_episode_with_what_was_earned(make_loop: MakeLoop) -> None:
    row = fakes().row("frozen_lake", reward_schedule=[1.0, 0.0, 0.25], **LAKE)
    output = await play(make_loop, fakes().FakeModel("right"), row, max_turns=2)
    facts = output.extra_fields["reward_extra_info"]
    assert (output.reward_score, facts["turns"], facts["out_of_turns"], facts["success"]) == (
        0.5,
        2.0,
        1.0,
        0.0,
    )
    assert output.response_mask[-1] == 1


async def test_verls_own_turn_budget_counts_as_well(make_loop: MakeLoop) -> None:
    verls = {"multi_turn": {"format": "hermes", "max_assistant_turns": 1}}
    output = await play(
        make_loop, fakes().FakeModel("right"), fakes().row("frozen_lake", **LAKE), rollout=verls, max_turns=2
    )
    assert output.extra_fields["reward_extra_info"]["turns"] == 1.0


async def test_the_token_budget_is_kept_and_half_an_answer_is_no_action(make_loop: MakeLoop) -> None:
    model = fakes().FakeModel("right", "right, " * 200)
    row = fakes().row("frozen_lake", **LAKE)
    output = await play(make_loop, model, row, rollout={"response_length": 120})
    assert len(output.response_ids) == len(output.response_mask) == 120
    facts = output.extra_fields["reward_extra_info"]
    assert (facts["turns"], facts["out_of_tokens"]) == (1.0, 1.0)
    assert model.requests[1]["sampling_params"]["max_tokens"] < 120


async def test_no_turn_is_begun_without_room_for_an_answer(make_loop: MakeLoop) -> None:
    model = fakes().FakeModel("right")
    row = fakes().row("frozen_lake", **LAKE)
    output = await play(make_loop, model, row, rollout={"response_length": 60}, min_tokens_per_turn=50)
    assert len(model.requests) == 1
    assert output.response_mask == [1] * 6
    assert output.extra_fields["ended_by"] == "tokens"


async def test_an_answer_cut_off_within_the_budget_is_ended_and_played(
    make_loop: MakeLoop, tokenizer: Any
) -> None:
    model = fakes().FakeModel("right and much more")
    row = fakes().row("frozen_lake", **LAKE)
    output = await play(make_loop, model, row, max_tokens_per_turn=5)
    assert output.reward_score == 1.0
    # The end is not the model's: masked, without a log probability.
    assert tokenizer.decode(output.response_ids[:6]) == "right<|im_end|>"
    assert (output.response_mask[:6], output.response_logprobs[5]) == ([1, 1, 1, 1, 1, 0], 0.0)


async def test_the_last_token_of_the_budget_may_end_an_answer(make_loop: MakeLoop) -> None:
    row = fakes().row("frozen_lake", **LAKE)
    for budget, turns in ((5, 0), (6, 1)):
        output = await play(
            make_loop,
            fakes().FakeModel("right and much more"),
            row,
            max_tokens_per_turn=5,
            rollout={"response_length": budget},
        )
        assert output.extra_fields["reward_extra_info"]["turns"] == turns
        assert output.extra_fields["ended_by"] == "tokens"
        assert len(output.response_ids) == budget


async def test_a_server_without_log_probabilities_gives_none(make_loop: MakeLoop) -> None:
    model = fakes().FakeModel("right")
    model.gives_log_probs = False
    output = await play(make_loop, model, fakes().row("frozen_lake", **LAKE))
    assert output.response_logprobs is None
    assert output.reward_score == 1.0


async def test_a_model_that_says_nothing_at_all_still_gives_a_sample(make_loop: MakeLoop) -> None:
    class Mute(fakes().FakeModel):  # type: ignore[misc]
        async def generate(self, **request: Any) -> Any:
            output = await super().generate(**request)
            output.token_ids, output.log_probs = [], []
            return output

    output = await play(make_loop, Mute(""), fakes().row("frozen_lake", max_steps=1))
    assert len(output.response_ids) == len(output.response_mask) == 1
    assert output.response_mask == [0]


async def test_samples_of_a_group_play_the_same_episode(make_loop: MakeLoop) -> None:
    models = [fakes().FakeModel("left") for _ in range(8)]
    row = fakes().row("sokoban", seed=11, dim_room=[6, 6], num_boxes=1, max_steps=2)
    outputs = await asyncio.gather(*(play(make_loop, model, row) for model in models))
    assert len({tuple(output.prompt_ids) for output in outputs}) == 1
    assert len({tuple(output.response_ids) for output in outputs}) == 1
    other = await play(
        make_loop, fakes().FakeModel("left"), fakes().row("sokoban", seed=12, dim_room=[6, 6], num_boxes=1)
    )
    assert other.prompt_ids != outputs[0].prompt_ids


async def test_a_row_without_seed_takes_its_index(make_loop: MakeLoop) -> None:
    row = fakes().row("frozen_lake", seed=5, max_steps=1)
    bare = fakes().row("frozen_lake", max_steps=1)
    del bare["extra_info"]["seed"]
    bare["extra_info"]["index"] = 5
    outputs = [await play(make_loop, fakes().FakeModel("left"), each) for each in (row, bare)]
    assert outputs[0].prompt_ids == outputs[1].prompt_ids


async def test_greedy_rows_are_sampled_greedily(make_loop: MakeLoop) -> None:
    model = fakes().FakeModel("right")
    row = fakes().row("frozen_lake", **LAKE)
    row["extra_info"]["greedy"] = True
    await play(make_loop, model, row)
    params = model.requests[0]["sampling_params"]
    assert (params["temperature"], params["top_k"]) == (0.0, -1)


async def test_system_prompt_of_the_row_wins_over_that_of_the_options(make_loop: MakeLoop) -> None:
    model = fakes().FakeModel("right")
    row = fakes().row("frozen_lake", **LAKE)
    await play(make_loop, model, row, system_prompt="Be quick.")
    assert "Be quick." in model.prompts()[0]
    row["extra_info"]["system_prompt"] = "Be wise."
    model = fakes().FakeModel("right")
    await play(make_loop, model, row, system_prompt="Be quick.")
    assert "Be wise." in model.prompts()[0]
    assert "Be quick." not in model.prompts()[0]


async def test_every_sample_has_the_same_keys_with_numbers(make_loop: MakeLoop) -> None:
    rows = [fakes().row("frozen_lake", **LAKE), fakes().row("countdown", max_attempts=1)]
    outputs = [await play(make_loop, fakes().FakeModel("1 + 1"), row, max_turns=3) for row in rows]
    facts = [output.extra_fields["reward_extra_info"] for output in outputs]
    assert facts[0].keys() == facts[1].keys()
    assert all(isinstance(value, float) for one in facts for value in one.values())
    assert facts[0]["env_seconds"] > 0
    assert outputs[0].metrics.tool_calls == facts[0]["env_seconds"]


async def test_versions_of_the_weights_are_those_of_first_and_last_turn(make_loop: MakeLoop) -> None:
    output = await play(make_loop, fakes().FakeModel("right"), fakes().row("frozen_lake", **LAKE))
    assert (output.extra_fields["min_global_steps"], output.extra_fields["max_global_steps"]) == (3, 5)


async def test_a_failing_model_server_leaves_no_environment_behind(
    make_loop: MakeLoop, server: ServerProcess
) -> None:
    with pytest.raises(ConnectionError):
        await play(
            make_loop, fakes().FakeModel("right", ConnectionError()), fakes().row("frozen_lake", **LAKE)
        )
    assert await left_open(server) == 0


async def test_a_cancelled_episode_leaves_no_environment_behind(
    make_loop: MakeLoop, server: ServerProcess
) -> None:
    asked = asyncio.Event()

    class Slow(fakes().FakeModel):  # type: ignore[misc]
        async def generate(self, **request: Any) -> Any:
            asked.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(play(make_loop, Slow("right"), fakes().row("frozen_lake", **LAKE)))
    async with no_hang():
        await asked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await left_open(server) == 0


async def test_an_unknown_environment_is_said_with_a_suggestion(make_loop: MakeLoop) -> None:
    with pytest.raises(UnknownEnvNameError) as caught:
        await play(make_loop, fakes().FakeModel("right"), fakes().row("frozen_lak"))
    assert caught.value.suggestions[0] == "verl_env/frozen_lake-v1"


async def test_a_prompt_beyond_the_budget_names_the_number_to_set(make_loop: MakeLoop) -> None:
    row = fakes().row("frozen_lake", **LAKE)
    with pytest.raises(TrainingSetupError, match=r"data\.max_prompt_length=\d+"):
        await play(make_loop, fakes().FakeModel("right"), row, rollout={"prompt_length": 64})


async def test_pictures_for_a_model_that_takes_none_are_a_fault_of_the_setup(make_loop: MakeLoop) -> None:
    with pytest.raises(TrainingSetupError, match="observation_mode"):
        await play(
            make_loop, fakes().FakeModel("right"), fakes().row("frozen_lake", observation_mode="both", **LAKE)
        )


async def test_options_and_parsers_that_do_not_exist_are_named(make_loop: MakeLoop) -> None:
    with pytest.raises(TrainingSetupError, match="did you mean 'max_turns'"):
        make_loop(fakes().FakeModel(""), max_turn=3)
    with pytest.raises(TrainingSetupError, match=r"multi_turn\.format"):
        make_loop(
            fakes().FakeModel(""), rollout={"multi_turn": {"format": "elvish", "max_assistant_turns": 1}}
        )
    with pytest.raises(TrainingSetupError, match=r"'elvish'.*data\.env\.tool_format"):
        make_loop(fakes().FakeModel(""), tool_format="elvish")


async def test_a_model_without_chat_template_is_refused(server: ServerProcess, verl: None) -> None:
    tokenizer = fakes().byte_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(TrainingSetupError, match="chat template"):
        fakes().agent_loop(fakes().FakeModel(""), tokenizer, {"url": server.url})


async def test_loops_that_are_made_alike_take_over_what_was_made_and_others_do_not(
    server: ServerProcess, tokenizer: Any
) -> None:
    from loadtests.verl_stand_ins import agent_loop, data_config, trainer_config

    model, trainer, data = fakes().FakeModel("right"), trainer_config(), data_config({"url": server.url})

    def made(**changed: Any) -> Any:
        given = {"model": model, "tokenizer": tokenizer, "trainer": trainer, "data": data, **changed}
        return agent_loop(**given)

    first = made()
    again = made()
    assert again is not first
    assert (again.options, again.reader) == (first.options, first.reader)
    row = fakes().row("frozen_lake", **LAKE)
    model.tokenizer = tokenizer
    outputs = [await loop.run(dict(PARAMS), **row) for loop in (first, again)]
    assert outputs[0].response_ids == outputs[1].response_ids
    other = fakes().FakeModel("right")
    assert made(model=other).server_manager is other
    assert made(trainer=trainer_config(response_length=77)).response_budget == 77
    assert made(data=data_config({"url": server.url, "max_turns": 5})).max_turns == 5
    assert made().max_turns is None
    class_of_its_own = type("Other", (type(first),), {})
    assert type(made(loop_class=class_of_its_own)) is class_of_its_own


async def test_a_parser_that_is_not_known_here_reads_for_one_loop_alone(
    server: ServerProcess, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from verl.experimental.agent_loop.tool_parser import HermesToolParser, ToolParser

    from loadtests.verl_stand_ins import agent_loop, data_config, trainer_config

    monkeypatch.setitem(ToolParser._registry, "of-a-plugin", HermesToolParser)
    model, data = fakes().FakeModel("right"), data_config({"url": server.url})
    for name, is_shared in (("hermes", True), ("of-a-plugin", False)):
        trainer = trainer_config(multi_turn={"format": name, "max_assistant_turns": None})
        first, second = (agent_loop(model, tokenizer, trainer=trainer, data=data) for _ in range(2))
        assert (first.reader is second.reader) is is_shared


class CountingExecutor(ThreadPoolExecutor):
    """Counts what is given to threads."""

    count = 0

    def submit(self, *args: Any, **kwargs: Any) -> Any:
        self.count += 1
        return super().submit(*args, **kwargs)


@pytest.mark.parametrize(("short_chars", "turns_in_threads"), [(8_192, 0), (-1, 2)])
async def test_only_long_observations_are_read_in_a_thread(
    make_loop: MakeLoop,
    tokenizer: Any,
    monkeypatch: pytest.MonkeyPatch,
    short_chars: int,
    turns_in_threads: int,
) -> None:
    monkeypatch.setattr(transcript, "_SHORT_CHARS", short_chars)
    with CountingExecutor() as threads:
        asyncio.get_running_loop().set_default_executor(threads)
        output = await play(make_loop, fakes().FakeModel("right"), fakes().row("frozen_lake", **LAKE))
        # The prompt is always rendered in one.
        assert threads.count == 1 + turns_in_threads
    assert output.reward_score == 1.0
    assert tokenizer.decode(output.response_ids).count("right<|im_end|>") == 3


async def test_the_first_loop_of_a_process_has_what_is_loaded_left_alone_by_the_garbage_collector(
    make_loop: MakeLoop,
) -> None:
    from verl_agent_env.integrations.verl.rollout.agent_loop import collect_seldom_once

    before = gc.get_threshold()
    gc.set_threshold(700, 10, 10)
    collect_seldom_once.cache_clear()
    gc.unfreeze()
    try:
        make_loop(fakes().FakeModel("right"))
        left_alone = gc.get_freeze_count()
        assert left_alone > 100_000
        assert gc.get_threshold()[0] > 10_000
        # What a later one finds is collected as ever.
        later = [[number] for number in range(1_000)]
        make_loop(fakes().FakeModel("left"))
        assert gc.get_freeze_count() <= left_alone
        assert any(each is later[0] for each in gc.get_objects())
    finally:
        gc.set_threshold(*before)
