"""TRL's own ``GRPOTrainer`` plays on a server and learns, on a CPU."""

from __future__ import annotations

import signal
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from tests.bridges.cluster import kill_a_worker
from tests.conftest import ServerProcess, StartServer
from verl_agent_env.client import EnvClient
from verl_agent_env.cluster.local import LocalCluster
from verl_agent_env.integrations.errors import EpisodeFailedError
from verl_agent_env.integrations.trl import EnvironmentClass, environment

trl = pytest.importorskip("trl", reason="make bridges-test installs trl")

LAKE: dict[str, Any] = {"size": 4, "is_slippery": False, "include_task_prompt": False}
CALLS = [
    f'<tool_call>\n{{"name": "move_{way}", "arguments": {{}}}}\n</tool_call>'
    for way in ("left", "down", "right", "up")
]
PROMPTS, SAMPLES, STEPS = 2, 4, 2


def trainer(factory: Any, folder: Path, **settings: Any) -> Any:
    """A trainer of a tiny random model, whose every token is a whole call of a tool, or the end of its turn."""
    import torch
    from datasets import Dataset
    from transformers import Qwen2Config, Qwen2ForCausalLM
    from trl.chat_template_utils import qwen3_instruct_2507_chat_template

    from verl_agent_env.integrations.verl.tiny.tokenizer import byte_tokenizer

    torch.manual_seed(0)
    tokenizer = byte_tokenizer(CALLS)
    # TRL knows how to read the calls of some templates, byte for byte.
    tokenizer.chat_template = qwen3_instruct_2507_chat_template
    tokenizer.padding_side = "left"
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=8192,
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip
    spoken = {tokenizer.convert_tokens_to_ids(call) for call in CALLS} | {tokenizer.eos_token_id}
    rows = [{"prompt": [{"role": "user", "content": ""}], "seed": seed} for seed in range(PROMPTS * STEPS)]
    config = trl.GRPOConfig(
        output_dir=str(folder), max_steps=STEPS, per_device_train_batch_size=PROMPTS * SAMPLES,
        num_generations=SAMPLES, max_completion_length=2000, max_tool_calling_iterations=6, learning_rate=1e-3,
        use_cpu=True, bf16=False, activation_checkpointing=False, report_to="none", save_strategy="no",
        logging_steps=1, disable_tqdm=True, shuffle_dataset=False, dataloader_pin_memory=False,
        generation_kwargs={"suppress_tokens": [i for i in range(len(tokenizer)) if i not in spoken]},
        **settings,
    )  # fmt: skip
    return trl.GRPOTrainer(
        model=model, args=config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer,
        environment_factory=factory,
    )  # fmt: skip


class Watch:
    """Makes instances of a class that tell what TRL did with them."""

    def __init__(self, base: EnvironmentClass) -> None:
        self.boards: dict[int, list[str]] = defaultdict(list)
        """First observations of each seed."""
        self.calls = 0
        self.before_call: Any = lambda _: None
        watch = self

        class FrozenLake(base):  # type: ignore[misc, valid-type]
            def reset(self, **row: Any) -> Any:
                shown = super().reset(**row)
                watch.boards[row["seed"]].append(shown)
                return shown

            def _act(self, action: Any) -> Any:
                watch.calls += 1
                watch.before_call(watch.calls)
                return super()._act(action)

        self.factory = FrozenLake


def test_two_steps_of_grpo(server: ServerProcess, tmp_path: Path) -> None:
    import torch

    with environment("frozen_lake", url=server.url, **LAKE) as lake:
        watch = Watch(lake)
        trained = trainer(watch.factory, tmp_path)
        before = [weights.detach().clone() for weights in trained.model.parameters()]
        trained.train()
        run_id = lake.definition.run_id
    assert sorted(tool.__name__ for tool in trained.tools) == [
        "move_down",
        "move_left",
        "move_right",
        "move_up",
    ]
    # The samples of a group begin alike, and the groups do not.
    assert set(watch.boards) == set(range(PROMPTS * STEPS))
    assert all(len(boards) == SAMPLES and len(set(boards)) == 1 for boards in watch.boards.values())
    assert len({boards[0] for boards in watch.boards.values()}) > 1
    assert watch.calls > PROMPTS * SAMPLES
    logged = [line for line in trained.state.log_history if "rewards/FrozenLake/mean" in line]
    assert len(logged) == STEPS
    assert all(line["tools/failure_frequency"] == 0.0 for line in logged)
    assert any(not torch.equal(old, new) for old, new in zip(before, trained.model.parameters(), strict=True))
    with EnvClient(server.url) as client:
        assert client.close_run(run_id) == 0


def test_the_class_itself_is_a_factory(server: ServerProcess, tmp_path: Path) -> None:
    with environment("frozen_lake", url=server.url, **LAKE) as lake:
        trained = trainer(lake, tmp_path)
        from transformers.utils import get_json_schema

        schemas = {tool.__name__: get_json_schema(tool)["function"] for tool in trained.tools}
    with EnvClient(server.url) as client, client.make("frozen_lake", **LAKE) as env:
        tools = {tool["function"]["name"]: tool["function"] for tool in env.tools()}
    assert {name: schema["description"] for name, schema in schemas.items()} == {
        name: tool["description"] for name, tool in tools.items()
    }


def test_a_lost_server_stops_the_training(start_server: StartServer, tmp_path: Path) -> None:
    away = start_server()
    lake = environment("frozen_lake", url=away.url, deadline_s=5, **LAKE)
    watch = Watch(lake)

    def before_call(number: int) -> None:
        if number == 3:
            away.stop(signal.SIGKILL)

    watch.before_call = before_call
    trained = trainer(watch.factory, tmp_path)
    with pytest.raises(EpisodeFailedError) as caught:
        trained.train()
    assert caught.value.attempts == 1
    # The other calls of the batch were answered, and waited for nobody.
    assert watch.calls > 3
    assert trained.state.global_step == 0


def test_a_killed_worker_is_not_noticed(server: ServerProcess, tmp_path: Path) -> None:
    with LocalCluster(tmp_path / "cluster", nodes=2, workers=1) as cluster:
        rewards = []
        for url, kills in ((server.url, False), (cluster.url, True)):
            with environment("frozen_lake", url=url, **LAKE) as lake:
                watch = Watch(lake)
                if kills:
                    watch.before_call = lambda number, cluster=cluster: (
                        kill_a_worker(cluster.url) if number == 5 else None
                    )
                trained = trainer(watch.factory, tmp_path)
                trained.train()
                rewards.append([line.get("rewards/FrozenLake/mean") for line in trained.state.log_history])
                assert watch.calls > 5
        assert rewards[0] == rewards[1]
