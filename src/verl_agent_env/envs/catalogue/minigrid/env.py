"""A world of MiniGrid or BabyAI, seen in words or pictures and acted in with seven tools."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import gymnasium
import minigrid.envs  # noqa: F401 - makes its worlds known to Gymnasium
from gymnasium.envs.registration import load_env_creator
from minigrid.core.actions import Actions
from minigrid.utils.baby_ai_bot import BabyAIBot
from pydantic import Field

from verl_agent_env.envs.base import EnvArguments
from verl_agent_env.envs.catalogue.adapter import TimedEnv, adapter_class
from verl_agent_env.envs.catalogue.minigrid.view import LEGEND, View, World, picture
from verl_agent_env.envs.catalogue.quiet import silence
from verl_agent_env.envs.demonstrations import actions_of_calls
from verl_agent_env.envs.spec import EnvSpec
from verl_agent_env.envs.turn import Outcome
from verl_agent_env.messages import Tool, ToolCall, image_part, text_part
from verl_agent_env.types import Action, Content

_DESCRIPTIONS = {
    "left": "Turn left.",
    "right": "Turn right.",
    "forward": "Move one cell forward.",
    "pickup": "Pick up the thing in front of you.",
    "drop": "Put down what you carry in front of you.",
    "toggle": "Open or close the door or box in front of you; a locked door needs a key of its color.",
    "done": "Declare the mission done.",
}
_PICTURE_MS = 8.0

# Its generators print what they reject.
silence("minigrid")


class WorldArguments(EnvArguments):
    """Keyword arguments of MiniGrid's worlds."""

    max_steps: int = Field(default=10_000, ge=1, le=1_000_000)
    """Moves after which the episode is truncated, if the world's own limit is not reached before."""
    observation_mode: Literal["text", "image", "both"] = "text"
    """Whether an observation holds text, a PNG picture (an ``image_url`` content part), or both."""
    observation_style: Literal["words", "grid", "both"] = "words"
    """How text shows what the agent sees: in ``words`` (what lies how far and to which side), as a ``grid`` of glyphs, or
    ``both``."""
    tile_px: int = Field(default=16, ge=4, le=64)
    """Side of a cell in pictures, in pixels."""


class MiniGridEnv(TimedEnv):
    """Carry out a mission in a world of MiniGrid.

    World, mission, rewards and time limit are the package's, with the same seed the same ones.

    ## Action Space

    Seven tools without arguments: ``left`` and ``right`` turn, ``forward`` moves, ``pickup``, ``drop``, ``toggle`` (doors and
    boxes), ``done``. In plain text their names do as well.

    ## Observation

    What the agent sees of the world, a square in front of it that walls hide parts of: things and how far they lie forward
    and to which side, or a grid of glyphs, or a picture; and what it carries.

    ## Rewards

    The world's own: usually 1 - 0.9 * steps / limit for the mission, else 0.

    ## Episode End

    Terminated as the world says, ``success`` in the info if that paid; truncated at the world's own limit.

    ## Arguments

    See :class:`WorldArguments`.
    """

    Arguments: ClassVar[type[EnvArguments]] = WorldArguments
    tools = tuple(Tool(name, description) for name, description in _DESCRIPTIONS.items())
    word_aliases: ClassVar[Mapping[str, str]] = {
        "turn_left": "left",
        "turn_right": "right",
        "move_forward": "forward",
        "go_forward": "forward",
        "pick_up": "pickup",
        "open": "toggle",
    }
    world_id: ClassVar[str]
    arguments: WorldArguments

    __slots__ = ("_world",)

    @classmethod
    def cost_ms(cls, arguments: EnvArguments) -> float:
        measured = super().cost_ms(arguments)
        shows_text = isinstance(arguments, WorldArguments) and arguments.observation_mode == "text"
        return measured + (0.0 if shows_text else _PICTURE_MS)

    def task_prompt_text(self) -> str:
        legend = "" if self.arguments.observation_style == "words" else f" {LEGEND}"
        return (
            f"Mission: {self.mission}.\nYou are in a grid world and see only what is in front of you. Each turn, call "
            f"one of the tools {', '.join(_DESCRIPTIONS)}.{legend}"
        )

    def begin_episode(self, options: Mapping[str, Any]) -> None:
        if options:
            raise self.invalid_arguments((["options"], "the worlds of MiniGrid take no options"))
        self._world: World = _make_world(self.world_id)
        self._world.reset(seed=self.episode_seed)
        self.timed_out = False

    def observe(self) -> Content:
        mode = self.arguments.observation_mode
        if mode == "text":
            return self._text()
        shown = image_part(picture(self._world, self.arguments.tile_px))
        return [shown] if mode == "image" else [text_part(self._text()), shown]

    @property
    def mission(self) -> str:
        """The mission, in MiniGrid's words."""
        return str(self._world.mission)

    def act(self, call: ToolCall) -> Outcome:
        if self.timed_out:
            return Outcome(fault="The world's time limit is reached.", effective=False)
        world = self._world
        before = _standing(world)
        _, reward, terminated, truncated, _ = world.step(Actions[call.name])
        self.timed_out = truncated and not terminated
        won = bool(terminated and reward > 0)
        effective = won or _standing(world) != before
        return Outcome(reward=float(reward), terminated=bool(terminated), success=won, effective=effective)

    def solution(self) -> list[Action] | None:
        """The moves of BabyAI's bot; ``None`` in other worlds, and where it finds no way."""
        if self.ended or "solver" not in self.row.tags:
            return None
        world = copy.deepcopy(self._world)
        names = []
        # The bot asserts and raises where it is at a loss.
        with contextlib.suppress(Exception):
            bot = BabyAIBot(world)
            while True:
                action = bot.replan()
                names.append(Actions(action).name)
                _, reward, terminated, truncated, _ = world.step(action)
                if terminated or truncated:
                    return actions_of_calls(names) if terminated and reward > 0 else None
        return None

    # --- inner workings -------------------------------------------------------------------------------------

    def _text(self) -> str:
        view = View(self._world)
        style = self.arguments.observation_style
        if style == "words":
            return view.words()
        return view.grid() if style == "grid" else f"{view.grid()}\n{view.words()}"


def _make_world(world_id: str) -> World:
    spec = gymnasium.spec(world_id)
    return load_env_creator(str(spec.entry_point))(**spec.kwargs)


def _standing(world: World) -> tuple[Any, ...]:
    """Return the part of the state that a move can change, as far as the agent knows it."""
    front = world.grid.get(*world.front_pos)
    return tuple(world.agent_pos), world.agent_dir, world.carrying, None if front is None else front.encode()


def make_class(short: str, spec: EnvSpec) -> type[MiniGridEnv]:
    """The class of the world of this id."""
    return adapter_class(MiniGridEnv, spec, world_id=short)
