"""Bodies of the responses about kept episodes and their runs, as the OpenAPI document describes them."""

from __future__ import annotations

from typing import Any

from verl_agent_env.wire.episodes import Ending
from verl_agent_env.wire.responses import Observation, ReadActionResponse, ResponseBody, StepResponse


class KeptEpisodeRow(ResponseBody):
    """Facts about a kept episode by which it is found."""

    id: str
    """``env_id`` and the number of the episode, with a dot between them."""
    env_id: str
    """Its environment."""
    episode: int
    """Number of the episode in its environment, from 0."""
    env_name: str
    """Registered name of the environment."""
    run_id: str | None
    """Name of its training job."""
    group: str
    """The same for all samples of one problem: equal name, arguments and seed."""
    seed: int
    """The episode's seed."""
    worker: str
    """The worker that held the environment at the episode's end."""
    began_at: float
    """Seconds since the epoch."""
    ended_at: float
    """Seconds since the epoch."""
    num_steps: int
    """Number of steps."""
    reward: float
    """Sum of the rewards."""
    success: bool | None
    """``null`` if the environment judges nothing."""
    ending: Ending
    """``success`` or ``failure``, as the environment judged it; ``ended`` where it judges nothing; ``time_limit``; ``unfinished``:
    closed or reset before its end; ``lost``."""
    num_invalid: int
    """Steps with an invalid action."""
    complete: bool
    """False if steps are missing."""
    training_step: int | None = None
    """Training step whose weights wrote the last action; ``null`` if the actions do not say."""
    tokens: int | None = None
    """Sum of the tokens that the model wrote; ``null`` if the actions do not say."""


class EpisodesResponse(ResponseBody):
    """A page of kept episodes."""

    kept: bool
    """False if the server keeps no episodes."""
    episodes: list[KeptEpisodeRow]
    """Those of the page, in order."""
    total: int
    """How many fit the parameters; with a text, how many were found in the time for it."""
    next_offset: int | None
    """Where the next page begins; ``null`` at the end."""
    is_whole: bool
    """False if the time for finding a text was over before all episodes were looked at."""
    endings: dict[str, int]
    """How many there are of each ending, whatever ``ending``, ``success`` and ``invalid`` ask for."""
    invalid: int
    """How many of these have an invalid action."""
    silent_workers: list[str]
    """Workers that did not answer: their episodes are missing here."""


class KeptStepShown(StepResponse):
    """One step of a kept episode."""

    seq: int
    """Its number, from 0."""
    at: float | None
    """Seconds since the epoch; ``null`` if it is not known."""
    action: Any
    """The action, as it was sent."""
    reading: ReadActionResponse | None
    """How the action is read; ``null`` if its environment is not installed."""
    prompt_tokens: int | None
    """Tokens that the model read for the action; ``null`` if the action does not say."""
    tokens: int | None
    """Tokens that it wrote, likewise."""
    drawing: str | None = None
    """The state after the step as SVG, where it was asked for."""


class KeptEpisodeResponse(KeptEpisodeRow):
    """A kept episode."""

    env_kwargs: dict[str, Any]
    """Keyword arguments of the environment."""
    options: dict[str, Any] | None
    """Options of the reset."""
    lost: str | None
    """Reason why the environment was lost, if it was."""
    observation: Observation | None
    """The first observation; ``null`` if it is not known."""
    info: dict[str, Any] | None
    """The info of the reset."""
    drawing: str | None = None
    """The beginning as SVG, where it was asked for; ``null`` if the episode cannot be drawn."""
    steps: list[KeptStepShown]
    """The steps, in order."""


class EpisodeSums(ResponseBody):
    """Sums over some episodes."""

    episodes: int
    """How many there are."""
    judged: int
    """Those whose environment judges them."""
    successes: int
    """Those that were a success."""
    reward: float
    """Sum of their rewards."""
    num_steps: int
    """Sum of their steps."""
    seconds: float
    """Sum of the times that they took."""


class EnvironmentSums(EpisodeSums):
    """Sums over the episodes of one environment."""

    env_name: str
    """Its registered name."""


class CurvePoint(EpisodeSums):
    """Sums over the episodes that ended within ten seconds."""

    at: int
    """Beginning of the ten seconds, in seconds since the epoch."""


class TrainingStepSums(EpisodeSums):
    """Sums over the episodes that were played with the weights of one training step."""

    training_step: int
    """The step."""


class RunShown(ResponseBody):
    """A run, summed up."""

    run_id: str | None
    """Its name; ``null`` for episodes without one."""
    episodes: int
    """Number of kept episodes."""
    judged: int
    """Those whose environment judges them."""
    successes: int
    """Those that were a success."""
    mean_reward: float
    """Mean of their rewards."""
    num_steps: int
    """Sum of their steps."""
    invalid: int
    """Those with an invalid action."""
    began_at: float
    """Beginning of the first one, in seconds since the epoch."""
    ended_at: float
    """End of the last one."""
    endings: dict[str, int]
    """How many there are of each ending."""
    environments: list[EnvironmentSums]
    """By environment."""
    points: list[CurvePoint]
    """By tens of seconds, if one ``run`` was asked for."""
    training_steps: list[TrainingStepSums]
    """By training step, likewise, where the actions say which."""


class RunsResponse(ResponseBody):
    """Runs, the one with the latest episode first."""

    kept: bool
    """False if the server keeps no episodes."""
    runs: list[RunShown]
    """Those of the page."""
    total: int
    """How many there are."""
    silent_workers: list[str]
    """Workers that did not answer: their episodes are missing here."""
