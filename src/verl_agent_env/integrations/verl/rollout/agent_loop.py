"""verl's agent loop: plays the episode of a row in an environment on the server."""

from __future__ import annotations

import functools
import logging
import operator
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, ClassVar
from uuid import uuid4

from omegaconf import OmegaConf
from verl.experimental.agent_loop.agent_loop import AgentLoopBase, AgentLoopMetrics, AgentLoopOutput
from verl.utils.ray_utils import get_event_loop
from verl.utils.rollout_trace import rollout_trace_op

from verl_agent_env.client import AsyncEnvClient
from verl_agent_env.garbage import collect_seldom
from verl_agent_env.integrations.errors import DivergedError, EpisodeFailedError, TrainingSetupError
from verl_agent_env.integrations.rollout.episode import Episode
from verl_agent_env.integrations.rollout.options import DATA_KEY, RolloutOptions
from verl_agent_env.integrations.rollout.row import EpisodeSpec
from verl_agent_env.integrations.verl.rollout.answers import AnswerReader
from verl_agent_env.integrations.verl.rollout.player import Player
from verl_agent_env.integrations.verl.rollout.seats import play_seats
from verl_agent_env.integrations.verl.rollout.shared import shared
from verl_agent_env.integrations.verl.rollout.tally import RolloutTally

logger = logging.getLogger(__name__)

collect_seldom_once = functools.cache(collect_seldom)
"""Sets the garbage collector of the process at the first call, when verl and the model are loaded."""

_GREEDY = {"temperature": 0.0, "top_p": 1.0, "top_k": -1}


class _LastLoop:
    """The last loop that was made: verl makes one for each sample, all alike, and that takes longer than a turn."""

    given: ClassVar[tuple[object, ...]] = ()
    options: ClassVar[dict[str, Any]] = {}
    attributes: ClassVar[dict[str, Any]] = {}

    @classmethod
    def is_for(cls, given: tuple[object, ...], options: dict[str, Any]) -> bool:
        """Return true if it was made of the same objects and of equal options."""
        return (
            len(given) == len(cls.given)
            and all(map(operator.is_, given, cls.given))
            and options == cls.options
        )


class EnvAgentLoop(AgentLoopBase):  # type: ignore[misc]
    """Plays one episode and returns one training sample: the whole conversation, with the environment's tokens masked.

    At several seats one model plays them all, and the sample is the conversation of one seat, with that seat's reward
    (:mod:`~verl_agent_env.integrations.verl.rollout.seats`). verl creates an instance for each sample. The sample's reward is the sum of the rewards of all turns, which
    ``extra_fields`` has one by one. No output of a model raises: the environment answers it. Failures of the server are
    retried, here or in the client; if that fails, the loop raises, and verl drops the sample.
    """

    continuous_token_builder: Any

    def __init__(
        self,
        trainer_config: Any,
        server_manager: Any,
        tokenizer: Any,
        processor: Any,
        dataset_cls: Any,
        data_config: Any,
        hf_model_type: str | None = None,
        tools: Any = None,
        name: str | None = None,
        **options: Any,
    ) -> None:
        """Create the agent loop, as verl does.

        Args:
            trainer_config, server_manager, tokenizer, processor, dataset_cls, data_config, hf_model_type: verl's.
            tools: verl's own tools, which are not used: an environment has its own.
            name: Name of the entry in the YAML file, which verl passes with the options.
            options: Options of :class:`RolloutOptions`, which override those in ``data.env``.

        Raises:
            TrainingSetupError: An option is wrong, or the model has no chat template.
        """
        configs = (trainer_config.config, data_config.config)
        given = (type(self), get_event_loop(), *configs, server_manager, tokenizer, processor, dataset_cls)
        if _LastLoop.is_for(given, {"hf_model_type": hf_model_type, **options}):
            self.__dict__.update(_LastLoop.attributes)
            return
        require_chat_template(tokenizer, processor)
        collect_seldom_once()
        super().__init__(
            trainer_config, server_manager, tokenizer, processor, dataset_cls, data_config, hf_model_type
        )
        self.options = RolloutOptions.from_mapping(options_in(self.data_config), options).located()
        rollout = self.rollout_config
        limits = (self.options.max_turns, rollout.multi_turn.max_assistant_turns)
        self.max_turns = min((limit for limit in limits if limit), default=None)
        self.prompt_budget, self.response_budget = int(rollout.prompt_length), int(rollout.response_length)
        self.is_deterministic = bool(rollout.full_determinism)
        self.reader = AnswerReader(self.options.parser_name(rollout.multi_turn.format), self.tokenizer)
        self.end_ids = {self.tokenizer.eos_token_id, *self.reader.stop_token_ids}
        if not self.reader.is_foreign:
            _LastLoop.given, _LastLoop.options = given, {"hf_model_type": hf_model_type, **options}
            _LastLoop.attributes = dict(vars(self))

    @rollout_trace_op  # type: ignore[untyped-decorator]
    async def run(self, sampling_params: dict[str, Any], **row: Any) -> AgentLoopOutput:
        """Play the episode of ``row``.

        Raises:
            TrainingSetupError, RequestError: The data or the configuration is wrong.
            EpisodeFailedError: The environment is lost after all retries; verl drops the sample.
        """
        # Not in the constructor: shared objects belong to the event loop that runs the episode.
        self.continuous_token_builder = shared().builder(self.continuous_token_builder)
        spec = EpisodeSpec.from_row(row)
        if spec.greedy:
            sampling_params = {**sampling_params, **_GREEDY}
        request_id = self._request_id(row)
        async with self._episode(spec) as episode:
            num_seats = episode.num_seats
            if num_seats == 1:
                (output,) = await self._play(episode, spec, sampling_params, request_id)
                return output

        async def play() -> list[AgentLoopOutput]:
            async with self._episode(spec) as game:
                return await self._play(game, spec, sampling_params, request_id)

        return await shared().games.sample_of(row.get("uid"), row.get("session_id"), num_seats, play)

    def client(self) -> AsyncEnvClient:
        """Return the client that all episodes of this process share."""
        return shared().client(self.options)

    @asynccontextmanager
    async def _episode(self, spec: EpisodeSpec) -> AsyncIterator[Episode]:
        """Begin an episode; its environment is closed afterwards."""
        episode = Episode(self.client(), spec, self.options)
        try:
            await episode.begin()
            yield episode
        finally:
            await episode.close()

    async def _play(
        self, episode: Episode, spec: EpisodeSpec, sampling_params: dict[str, Any], request_id: str
    ) -> list[AgentLoopOutput]:
        """Play an episode to its end, at all of its seats; returns the output of each."""
        tools: list[dict[str, Any]] = []
        if self.options.action_format == "auto":
            tools = spec.tools if spec.tools is not None else await episode.tools()
        names = (
            [request_id]
            if episode.num_seats == 1
            else [f"{request_id}-{n}" for n in range(episode.num_seats)]
        )
        attempts = 0
        while True:
            players = [Player(self, spec, tools, sampling_params, name) for name in names]
            try:
                if len(players) == 1:
                    await _play_alone(episode, players[0])
                else:
                    await play_seats(episode, players)
                return [self._output(player.tally, episode, attempts) for player in players]
            except DivergedError:
                # The conversation so far does not fit the new environment: play the episode from the beginning.
                attempts += 1
                if attempts >= self.options.max_attempts:
                    reason = "the environment gave other results each time."
                    raise EpisodeFailedError(spec.env_name, spec.seed, attempts, reason) from None
                logger.warning("an episode of '%s' is played again from its beginning", spec.env_name)
                await episode.start_over()

    def _output(self, tally: RolloutTally, episode: Episode, attempts: int) -> AgentLoopOutput:
        transcript = tally.transcript
        if not transcript.mask:
            # verl assigns the reward to the last token, so there must be one.
            transcript.close_answer(self.tokenizer.eos_token_id)
        budget = transcript.budget
        log_probs = transcript.known_log_probs
        return AgentLoopOutput(
            prompt_ids=transcript.prompt_ids,
            response_ids=transcript.response_ids[:budget],
            response_mask=transcript.mask[:budget],
            response_logprobs=log_probs[:budget] if log_probs is not None else None,
            routed_experts=tally.routed_experts_of(len(transcript.prompt_ids) + budget),
            multi_modal_data={"images": transcript.images} if transcript.images else {},
            reward_score=tally.reward,
            num_turns=tally.num_messages,
            metrics=AgentLoopMetrics(
                generate_sequences=tally.generated_s,
                tool_calls=episode.waited_s,
                num_preempted=tally.num_preempted,
            ),
            extra_fields=tally.extra_fields(
                episode.waited_s,
                episode.attempts + attempts,
                episode.num_retries,
                self.options.reward_parts,
            ),
        )

    def _request_id(self, row: Mapping[str, Any]) -> str:
        """Return an id of the conversation, which routes all its turns to the server with its prefix in the cache."""
        if self.is_deterministic:
            return f"det-{row.get('priority', row.get('index', 0))}-{row.get('session_id', 0)}"
        return uuid4().hex


async def _play_alone(episode: Episode, player: Player) -> None:
    """Play an episode without seats to its end, or until the player's budget is used up."""
    await player.begin(await episode.begin())
    tally = player.tally
    while tally.ended_by is None:
        action = await player.act()
        if action is None:
            break
        result = await episode.step(action)
        tally.note(result, len(tally.transcript.mask))
        if tally.ended_by is None:
            await player.hear(result.observation)


def require_chat_template(tokenizer: Any, processor: Any) -> None:
    """Check that the model has a chat template.

    Raises:
        TrainingSetupError: It has none.
    """
    if not any(getattr(one, "chat_template", None) for one in (tokenizer, processor)):
        raise TrainingSetupError(
            "The model has no chat template: take an instruction-tuned model, or set "
            "actor_rollout_ref.model.custom_chat_template."
        )


def options_in(data_config: Any) -> dict[str, Any]:
    """Return the options of the rollout in verl's ``data`` configuration.

    Raises:
        TrainingSetupError: The entry is not a mapping.
    """
    found = data_config.get(DATA_KEY)
    options = OmegaConf.to_container(found, resolve=True) if OmegaConf.is_config(found) else found or {}
    if not isinstance(options, dict):
        raise TrainingSetupError(f"data.{DATA_KEY} holds options, such as ++data.{DATA_KEY}.url=http://….")
    return {str(name): value for name, value in options.items()}
