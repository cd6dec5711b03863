"""One game of OpenSpiel, and how its states are read: whose turn it is, what a seat may see, what moves are called."""

from __future__ import annotations

import functools
import random
from collections import Counter
from typing import Any

import orjson
import pyspiel

from verl_agent_env.envs.rng import EpisodeRandom

State = Any
"""A ``pyspiel.State``."""

_MAX_SEARCH_MB = 16
_NUM_DEALS = 1 << 31
_SEARCH_EXPLORATION = 2.0


class Game:
    """A game with its default parameters."""

    def __init__(self, name: str) -> None:
        """Load the game.

        Raises:
            pyspiel.SpielError: There is none of this name.
        """
        self.name = name
        self.spiel = pyspiel.load_game(name)
        self.kind = self.spiel.get_type()
        self.num_players: int = self.spiel.num_players()
        self.is_simultaneous = self.kind.dynamics == pyspiel.GameType.Dynamics.SIMULTANEOUS
        self.is_perfect_information = (
            self.kind.information == pyspiel.GameType.Information.PERFECT_INFORMATION
        )
        self.max_length: int = self.spiel.max_game_length()
        self._deals_by_itself = self.kind.chance_mode == pyspiel.GameType.ChanceMode.SAMPLED_STOCHASTIC

    def new_state(self, rng: random.Random | EpisodeRandom) -> State:
        """Begin an episode; what chance does in it follows from ``rng``, and from later choices at nodes of chance."""
        if self._deals_by_itself:
            return self._dealt_by(rng.randrange(_NUM_DEALS))
        return self.spiel.new_initial_state()

    def _dealt_by(self, seed: int) -> State:
        """Begin an episode of a game that draws from a generator of its own, which each episode gets anew."""
        return pyspiel.load_game(self.name, {"rng_seed": seed}).new_initial_state()

    def dump(self, state: State) -> str:
        """Write a state down.

        The package cannot write down the generator of a game beside the state: of such games it is the seed, and all moves.
        """
        if self._deals_by_itself:
            seed = state.get_game().get_parameters()["rng_seed"]
            return orjson.dumps([seed, state.history()]).decode()
        return str(state.serialize())

    def load(self, dumped: str) -> State:
        """Make the state that :meth:`dump` wrote down."""
        if not self._deals_by_itself:
            return self.spiel.deserialize_state(dumped)
        seed, moves = orjson.loads(dumped)
        state = self._dealt_by(seed)
        for move in moves:
            state.apply_action(move)
        return state

    @property
    def allows_search(self) -> bool:
        """True if an opponent may search: in other games it would look at what it must not see."""
        turns = self.kind.dynamics == pyspiel.GameType.Dynamics.SEQUENTIAL
        return self.num_players > 1 and turns and self.is_perfect_information

    def seen_by(self, state: State, seat: int) -> str:
        """Return what the player at ``seat`` may know of the state, in the package's words."""
        if self.is_perfect_information and not self.is_simultaneous:
            return str(state)
        if self.kind.provides_information_state_string:
            return str(state.information_state_string(seat))
        return str(state.observation_string(seat))

    def moves(self, state: State, seat: int) -> dict[str, int]:
        """The legal moves of ``seat``, by the package's words for them; with its number where two have the same words."""
        actions = list(state.legal_actions(seat))
        words = [state.action_to_string(seat, action).strip() for action in actions]
        times = Counter(words)
        return {
            word if times[word] == 1 and word else f"{word} #{action}".strip(): action
            for word, action in zip(words, actions, strict=True)
        }

    def searched_action(self, state: State, simulations: int, seed: int) -> int:
        """The move that Monte Carlo tree search finds; the same for the same seed."""
        evaluator = pyspiel.RandomRolloutEvaluator(1, seed)
        bot = pyspiel.MCTSBot(
            self.spiel, evaluator, _SEARCH_EXPLORATION, simulations, _MAX_SEARCH_MB, True, seed, False
        )
        return int(bot.step(state))

    def is_won(self, returns: list[float], seat: int) -> bool:
        """Tell whether returns are a success of ``seat``: the best possible alone, else more than all others get."""
        own = returns[seat]
        others = returns[:seat] + returns[seat + 1 :]
        if not others or (all(other == own for other in others) and own > 0):
            return bool(own >= self.spiel.max_utility())
        return own > max(others)


@functools.cache
def load_game(name: str) -> Game:
    """The game of this name, loaded once."""
    return Game(name)
