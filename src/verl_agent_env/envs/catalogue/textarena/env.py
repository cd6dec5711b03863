"""A game of TextArena, played in plain text: by one player, or by models at all of its seats."""

from __future__ import annotations

import functools
import importlib
import random
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from pydantic import Field
from textarena import ObservationType
from textarena.envs.registration import ENV_REGISTRY
from textarena.state import FFAMultiPlayerState

from verl_agent_env.envs.base import ChatEnv, EnvArguments
from verl_agent_env.envs.catalogue.adapter import CatalogueEnv, adapter_class
from verl_agent_env.envs.catalogue.chance import RandomStandIn
from verl_agent_env.envs.catalogue.quiet import silence
from verl_agent_env.envs.seats import SeatedEnv, SeatOutcome
from verl_agent_env.envs.spec import EnvSpec
from verl_agent_env.messages import Tool, ToolCall
from verl_agent_env.types import Action

_PACKAGE = "textarena"
_MAX_MOVE_CHARS = 2_000
"""Limit of a move: the games look for it with expressions whose time grows with the square of its length and more."""
_chance = RandomStandIn()
_GUESSED_WORDS = (
    "up",
    "down",
    "left",
    "right",
    "w",
    "a",
    "s",
    "d",
    "hit",
    "stand",
    "red",
    "blue",
    "e",
    "continue",
    "accept",
)


class TextArenaArguments(EnvArguments):
    """Keyword arguments of TextArena's games."""

    max_steps: int = Field(default=1_000, ge=1, le=1_000_000)
    """Moves after which the episode is truncated, if the game's own limit is not reached before."""


class TextArenaEnv(SeatedEnv, CatalogueEnv):
    """Play a game of TextArena: alone, or in a game of several players at [all of its seats](#seats).

    ## Action Space

    The tool ``play(move)``, or plain text: a move as the game asks for it, usually in square brackets; around a move without
    brackets they are put. A move of more than 2,000 characters is invalid.

    ## Observation

    What the game says: its rules at first, then what came of the move, and the board where there is one. At one of several seats,
    what was said to it since it acted.

    ## Rewards

    What the game gives at its end; 0 before. In a game of several players the info has the ``rewards`` of all seats.

    ## Episode End

    Terminated as the game says, also after moves that it does not take; ``success`` in the info if the game gives 1;
    in a game of several players, to the seat that gets most, and more than nothing.

    ## Arguments

    See :class:`TextArenaArguments`.
    """

    Arguments: ClassVar[type[EnvArguments]] = TextArenaArguments
    tools = (
        Tool(
            "play",
            "Make a move.",
            {
                "type": "object",
                "properties": {
                    "move": {"type": "string", "description": "The move, as the game asks for it."},
                },
                "required": ["move"],
                "additionalProperties": False,
            },
        ),
    )
    game_id: ClassVar[str]
    num_players: ClassVar[int] = 1
    arguments: TextArenaArguments

    __slots__ = ("_generator", "_heard", "game")

    # The game's own objects are the state: a lost instance is replayed.
    dump_state = ChatEnv.dump_state
    load_state = ChatEnv.load_state

    @property
    def num_seats(self) -> int:
        return self.num_players

    def turn(self) -> tuple[int, ...]:
        return (self.game.state.current_player_id,)

    def task_prompt_text(self) -> str:
        return "Play the game. Each turn, make one move in the form that the game asks for."

    def begin_game(self, options: Mapping[str, Any]) -> None:
        if options:
            raise self.invalid_arguments((["options"], "the games of TextArena take no options"))
        self._generator = random.Random(self.episode_seed)
        self._heard: list[list[_Said]] = [[] for _ in range(self.num_players)]
        with _chance.drawing_from(self._generator):
            self.game: Any = _make_game(self.game_id)
            self.game.reset(num_players=self.num_players, seed=self.episode_seed)
            _end_without_players(self.game.state)
            self._listen()

    def observe_seat(self, seat: int) -> str:
        return "\n".join(each.text for each in self._heard[seat])

    def act_at(self, seat: int, call: ToolCall) -> SeatOutcome:
        move = call.arguments["move"].strip()
        if len(move) > _MAX_MOVE_CHARS:
            return SeatOutcome(
                fault=f"A move has at most {_MAX_MOVE_CHARS} characters, not {len(move)}.", effective=False
            )
        if "[" not in move:
            move = f"[{move}]"
        self._heard[seat] = []
        with _chance.drawing_from(self._generator):
            done, _ = self.game.step(move)
            self._listen()
        if not done:
            return SeatOutcome()
        state = self.game.state
        for player, heard in enumerate(self._heard):
            reason = state.game_info[player].get("reason")
            heard.append(_Said(f"The game is over. {reason or ''}".strip()))
        # Some games hand over the reason in the place of the reward, of moves that they do not take.
        found = [(state.rewards or {}).get(player, 0.0) for player in range(self.num_players)]
        paid = [float(each) if isinstance(each, int | float) else 0.0 for each in found]
        best = 1.0 if self.num_players == 1 else max(paid)
        successes = [each >= best and each > 0.0 for each in paid]
        return SeatOutcome(paid, terminated=True, successes=successes)

    def dump_game(self) -> Any:
        raise NotImplementedError

    def load_game(self, state: Any) -> None:
        raise NotImplementedError

    def call_from_word(self, word: str) -> ToolCall:
        return ToolCall("play", {"move": word})

    def sample_action(self, dice: random.Random) -> Action:
        """A move that some game or other takes."""
        numbers = [dice.randrange(8) for _ in range(2)]
        move = dice.choice([f"{numbers[0]} {numbers[1]}", f"{numbers[0]}", dice.choice(_GUESSED_WORDS)])
        return f"[{move}]"

    def _listen(self) -> None:
        """Take what the game has said to each player since the last time, without the player's own moves."""
        # It may draw the board as well.
        current, messages = self.game.get_observation()
        unheard = self.game.state.observations
        for player, heard in enumerate(self._heard):
            said = messages if player == current else unheard[player]
            if player != current:
                unheard[player] = []
            for speaker, text, kind in said:
                is_move = kind is ObservationType.PLAYER_ACTION
                if is_move and speaker == player:
                    continue
                is_board = kind is ObservationType.GAME_BOARD
                if is_board and self.num_players > 1:
                    # Of the boards that others saw, the last one.
                    heard[:] = [each for each in heard if not each.is_board]
                shown = f"[Player {speaker}] {str(text).strip()}" if is_move else str(text).strip()
                heard.append(_Said(shown, is_board))


class _Said(NamedTuple):
    text: str
    is_board: bool = False


def _make_game(game_id: str) -> Any:
    """The package's game, without its wrappers, which write the whole conversation into each observation."""
    spec = ENV_REGISTRY[game_id]
    return _game_class(spec.entry_point)(**spec.kwargs)


def _end_without_players(state: Any) -> None:
    """Have the game end when all of its players are eliminated: the package looks for the next one in an endless loop."""
    if not isinstance(state, FFAMultiPlayerState):
        return
    take_turn = state.step

    def take_turn_of_some_player(*args: Any, **kwargs: Any) -> Any:
        if not state.done and not any(map(state.is_player_alive, range(state.num_players))):
            state.set_winners([], "All players are eliminated.")
        return take_turn(*args, **kwargs)

    state.step = take_turn_of_some_player


@functools.cache
def _game_class(entry_point: str) -> Any:
    module, _, name = entry_point.partition(":")
    found = getattr(importlib.import_module(module), name)
    _chance.install(_PACKAGE)
    silence(_PACKAGE)
    return found


def make_class(short: str, spec: EnvSpec) -> type[TextArenaEnv]:
    """The class of the game of this id."""
    return adapter_class(TextArenaEnv, spec, game_id=short, num_players=_players_in(spec.tags))


def _players_in(tags: Sequence[str]) -> int:
    """Return the number of players that the tag of a listed game says."""
    return next((int(tag.removesuffix("-player")) for tag in tags if tag.endswith("-player")), 1)
