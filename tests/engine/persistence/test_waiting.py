"""Nobody waits without end for an environment that is being brought back; whoever stops waiting stops nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator, Sequence
from typing import Any, TypeVar

import pytest

from tests import batch_calls
from tests.engine.awaiting import ask
from tests.engine.persistence.hosts import Cluster
from tests.engine.persistence.ledger import SPECS
from tests.sim.virtual_loop import VirtualLoop
from verl_agent_env import waits
from verl_agent_env.engine import CreateRequest, Host
from verl_agent_env.engine.host.batches import Batches
from verl_agent_env.errors import RecoveryPendingError
from verl_agent_env.wire.records import Saved
from verl_agent_env.wire.results import EncodedStep

T = TypeVar("T")
LEDGER = CreateRequest("ledger/inline-v0", 1, run_id="run")


class Moved:
    """Environments whose host has just changed, and a log that takes its time; times are made up."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.loop = loop
        self.cluster = Cluster()
        self.first = self._make_host()
        created = self.run(batch_calls.create(self.first, [LEDGER] * 6))
        self.env_ids = [result[0] for result in created if isinstance(result, tuple)]
        self.run(batch_calls.step(self.first, self.env_ids, [1] * 6, [0] * 6))
        self.host = self._make_host()
        self.load = self.cluster.log.load

    def _make_host(self) -> Host:
        made: Host = self.run(self.cluster.host(specs=SPECS))
        # Loaded here: a loop of made-up time waits for no thread.
        made.registry.kind(LEDGER.env_name)
        return made

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(call)

    def reads_take(self, seconds: float, at_once: int = 256) -> None:
        """Let the log read some environments at once, each time for so long."""

        async def load(env_ids: Sequence[str], *, whole: bool = False) -> list[Saved]:
            await asyncio.sleep(seconds)
            return await self.load(env_ids[:at_once], whole=whole)

        self.cluster.log.load = load  # type: ignore[method-assign]

    async def timed(self, call: Coroutine[Any, Any, T]) -> tuple[T | RecoveryPendingError, float]:
        began = self.loop.time()
        outcome: T | RecoveryPendingError
        try:
            outcome = await call
        except RecoveryPendingError as raised:
            outcome = raised
        return outcome, self.loop.time() - began


@pytest.fixture
def moved() -> Iterator[Moved]:
    loop = VirtualLoop()
    made = Moved(loop)
    yield made
    made.run(made.cluster.aclose())
    loop.end()


def test_single_call_is_told_that_its_environment_is_on_its_way_and_finds_it_later(moved: Moved) -> None:
    moved.reads_take(3 * waits.RECOVERY_S)
    env_id = moved.env_ids[0]
    outcome, took_s = moved.run(moved.timed(ask(moved.host.step, env_id, 1, 1)))
    assert isinstance(outcome, RecoveryPendingError)
    assert (outcome.status, outcome.retryable, outcome.may_have_run) == (503, True, False)
    assert took_s == waits.RECOVERY_S
    moved.run(asyncio.sleep(2 * waits.RECOVERY_S))
    assert moved.host.env_table.get(env_id) is not None
    assert isinstance(moved.run(ask(moved.host.step, env_id, 1, 1)), EncodedStep)


def test_batch_waits_as_long_as_its_environments_come_back(moved: Moved) -> None:
    moved.reads_take(waits.RECOVERY_S * 0.6, at_once=1)
    answers, took_s = moved.run(moved.timed(batch_calls.step(moved.host, moved.env_ids, [1] * 6, [1] * 6)))
    assert isinstance(answers, list)
    assert all(isinstance(answer, EncodedStep) for answer in answers)
    assert took_s > 3 * waits.RECOVERY_S


def test_batch_goes_on_without_those_that_do_not_come_back(moved: Moved) -> None:
    here, *others = moved.env_ids
    moved.run(ask(moved.host.step, here, 1, 1))
    moved.reads_take(3 * waits.RECOVERY_S)
    batch = batch_calls.step(moved.host, [others[0], here, others[1]], [1] * 3, [1, 2, 1])
    answers, took_s = moved.run(moved.timed(batch))
    assert isinstance(answers, list)
    assert [type(answer) for answer in answers] == [RecoveryPendingError, EncodedStep, RecoveryPendingError]
    assert took_s < waits.MAX_WAIT_S


def test_run_is_not_closed_before_all_that_may_belong_to_it_is_back(moved: Moved) -> None:
    moved.reads_take(3 * waits.RUN_S)
    outcome, took_s = moved.run(moved.timed(Batches(moved.host).close_run_of_slots("run")))
    assert isinstance(outcome, RecoveryPendingError)
    assert took_s == waits.RUN_S
    moved.run(asyncio.sleep(3 * waits.RUN_S))
    assert moved.run(Batches(moved.host).close_run_of_slots("run")).closed == 6
