"""What the tests of the rollout share: a tiny tokenizer, a fake model server, and verl's configuration around them."""

from __future__ import annotations

import warnings
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import ServerProcess

if TYPE_CHECKING:
    from tests.integrations.verl.fakes import FakeModel
    from verl_agent_env.integrations.verl.rollout.agent_loop import EnvAgentLoop

MakeLoop = Callable[..., "EnvAgentLoop"]
RUN_ID = "rollout-tests"
VERL_REASON = "verl is not installed: pip install 'verl-agent-env[verl]'"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # verl and what it brings warn of their own affairs while they are imported and used.
    for item in items:
        if "integrations/verl/rollout" in item.nodeid:
            item.add_marker(pytest.mark.filterwarnings("ignore"))


@pytest.fixture(scope="session")
def verl() -> None:
    """verl, imported; the test is skipped without it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("verl.experimental.agent_loop", reason=VERL_REASON)


@pytest.fixture(scope="session")
def tokenizer(verl: None) -> Any:
    """A tokenizer of bytes, with Qwen's scaffold and a chat template that takes tools."""
    from tests.integrations.verl.fakes import byte_tokenizer

    return byte_tokenizer()


@pytest.fixture
async def make_loop(server: ServerProcess, tokenizer: Any) -> AsyncIterator[MakeLoop]:
    """A function that gives an agent loop around a fake model; its options are those of ``data.env``."""
    from tests.integrations.verl.fakes import agent_loop
    from verl_agent_env.integrations.verl.rollout.shared import shared

    def make(model: FakeModel, hf_model_type: str = "qwen2", **options: Any) -> EnvAgentLoop:
        return agent_loop(
            model,
            tokenizer,
            {"url": server.url, "run_id": RUN_ID, "min_tokens_per_turn": 1, **options},
            hf_model_type=hf_model_type,
        )

    yield make
    await shared().close()
