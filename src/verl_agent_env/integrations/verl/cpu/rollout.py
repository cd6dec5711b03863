"""The rollout backend ``cpu``: a transformers model in an actor of Ray, its weights pushed by the trainer.

``actor_rollout_ref.rollout.engine_kwargs.cpu`` are the arguments of :class:`ModelServer`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import ray
import torch
from verl.workers.rollout.base import BaseRollout
from verl.workers.rollout.replica import RolloutReplica, TokenOutput

from verl_agent_env.integrations.verl.cpu.generator import GenerationRequest, Generator
from verl_agent_env.integrations.verl.cpu.plugin import ROLLOUT


class ModelServer:
    """A model server in tokens, which answers all waiting requests in one batch."""

    def __init__(
        self,
        model_path: str,
        max_model_len: int,
        max_batch: int = 256,
        gather_s: float = 0.01,
        threads: int = 1,
        seed: int = 0,
    ) -> None:
        """Load the model.

        Args:
            model_path: Its folder.
            max_model_len: Tokens that a conversation may have.
            max_batch: Answers that are written at once.
            gather_s: Seconds to wait for others when one request is there.
            threads: Of PyTorch.
            seed: Of what is sampled.
        """
        from transformers import AutoTokenizer

        torch.set_num_threads(threads)
        torch.manual_seed(seed)
        self._generator = Generator.from_pretrained(model_path)
        tokenizer = AutoTokenizer.from_pretrained(model_path)
        self._end_ids = frozenset({tokenizer.eos_token_id} - {None})
        self._max_model_len, self._max_batch, self._gather_s = max_model_len, max_batch, gather_s
        self._waiting: list[tuple[GenerationRequest, asyncio.Future[TokenOutput]]] = []
        self._writer: asyncio.Task[None] | None = None
        self._awake = asyncio.Event()
        self._awake.set()
        self._global_steps: int | None = None

    async def ping(self) -> None:
        """Return once the model is loaded."""

    async def generate(
        self, prompt_ids: list[int], sampling_params: dict[str, Any], **unused: Any
    ) -> TokenOutput:
        """Generate an answer. Of the sampling parameters, temperature, length and stop tokens are used."""
        params = sampling_params
        limit = params.get("max_tokens") or params.get("max_new_tokens") or self._max_model_len
        request = GenerationRequest(
            list(prompt_ids),
            max(1, min(int(limit), self._max_model_len - len(prompt_ids))),
            float(params.get("temperature", 1.0)),
            self._end_ids | frozenset(params.get("stop_token_ids") or ()),
        )
        future: asyncio.Future[TokenOutput] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, future))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write())
        return await future

    async def _write(self) -> None:
        while self._waiting:
            await asyncio.sleep(self._gather_s)
            await self._awake.wait()
            batch, self._waiting = self._waiting[: self._max_batch], self._waiting[self._max_batch :]
            try:
                answers = await asyncio.to_thread(self._generator.generate, [request for request, _ in batch])
            except Exception as error:  # noqa: BLE001 - every waiting request gets the error
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future), answer in zip(batch, answers, strict=True):
                if not future.done():
                    future.set_result(
                        TokenOutput(
                            token_ids=answer.token_ids,
                            log_probs=answer.log_probs,
                            stop_reason="completed" if answer.is_complete else "length",
                            extra_fields={
                                "global_steps": self._global_steps,
                                "min_global_steps": self._global_steps,
                                "max_global_steps": self._global_steps,
                            },
                        )
                    )

    async def load_weights(self, weights: dict[str, torch.Tensor], global_steps: int | None) -> None:
        """Load the trainer's weights of step ``global_steps``."""
        self._generator.load_weights(weights)
        if global_steps is not None:
            self._global_steps = global_steps

    async def set_global_steps(self, global_steps: int) -> None:
        """Set the step whose weights the answers are from."""
        self._global_steps = global_steps

    async def wake_up(self, tags: list[str] | None = None) -> None:
        """Resume answering."""
        self._awake.set()

    async def sleep(self) -> None:
        """Pause: requests wait."""
        self._awake.clear()

    async def resume_generation(self) -> None:
        """Resume answering."""
        self._awake.set()

    # What a device of its own would make necessary: the trainer only calls them between two batches.

    async def abort_all_requests(self, reject_request: bool = False) -> None: ...

    async def clear_kv_cache(self) -> None: ...

    async def release_kv_cache(self) -> None: ...

    async def resume_kv_cache(self) -> None: ...

    async def start_profile(self, **named: Any) -> None: ...

    async def stop_profile(self) -> None: ...


class CpuReplica(RolloutReplica):  # type: ignore[misc]
    """A replica with one model server."""

    async def launch_servers(self) -> None:
        """Start the server, and return when the model is loaded."""
        arguments = dict(self.config.engine_kwargs.get(ROLLOUT) or {})
        arguments.setdefault("max_model_len", self.config.prompt_length + self.config.response_length)
        name = server_name(self.replica_rank)
        options = {"name": name, "num_cpus": 0, "max_concurrency": self.max_concurrency}
        server = ray.remote(ModelServer).options(**options).remote(self.model_config.path, **arguments)
        await server.ping.remote()
        self.servers = [server]
        self._server_handle = server
        self._server_address = name


class CpuRollout(BaseRollout):  # type: ignore[misc]
    """The trainer's side: sends its weights to the model server."""

    def __init__(self, config: Any, model_config: Any, device_mesh: Any, *rest: Any, **named: Any) -> None:
        """Create the rollout, as verl does."""
        super().__init__(config, model_config, device_mesh)
        rank = torch.distributed.get_rank()
        ranks_per_replica = self.config.tensor_model_parallel_size * self.config.data_parallel_size
        self._replica_rank, place = divmod(rank, ranks_per_replica)
        self._speaks = place == 0

    def _server(self) -> Any:
        return ray.get_actor(server_name(self._replica_rank))

    async def resume(self, tags: list[str]) -> None:
        """Resume the server."""
        if self._speaks:
            await self._server().wake_up.remote(tags=tags)

    async def release(self) -> None:
        """Pause the server."""
        if self._speaks:
            await self._server().sleep.remote()

    async def update_weights(
        self,
        weights: Iterator[tuple[str, torch.Tensor]],
        wire_format: str = "named_tensors",
        global_steps: int | None = None,
        **named: Any,
    ) -> None:
        """Send the weights to the server.

        Raises:
            ValueError: They come in another form than names and whole tensors.
        """
        if wire_format != "named_tensors":
            raise ValueError(f"the rollout '{ROLLOUT}' takes whole tensors, not '{wire_format}'")
        # Every rank takes part in gathering each tensor, although one rank sends them.
        gathered = {name: tensor.detach().cpu().contiguous() for name, tensor in weights}
        if self._speaks:
            await self._server().load_weights.remote(ray.put(gathered), global_steps)


def server_name(replica_rank: int) -> str:
    """Return the name of the model server's actor."""
    return f"verl_agent_env_model_server_{replica_rank}"
