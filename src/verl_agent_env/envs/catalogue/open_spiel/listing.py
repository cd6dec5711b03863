"""The games of OpenSpiel that can be played here, as the package lists them."""

from __future__ import annotations

import random

import pyspiel

from verl_agent_env.envs.catalogue.family import Listing
from verl_agent_env.envs.catalogue.open_spiel.game import Game, load_game

_MAX_TRIED_MOVES = 60
_LEFT_OUT = {
    "bridge_uncontested_bidding": "its last step takes seconds, in which the package lets no other thread run",
}


def read() -> Listing:
    """Find all games that can be loaded and played to the end of a few moves."""
    environments: dict[str, tuple[str, list[str]]] = {}
    left_out = dict(_LEFT_OUT)
    for kind in pyspiel.registered_games():
        if kind.short_name in left_out:
            continue
        cause = _obstacle(kind)
        if cause:
            left_out[kind.short_name] = cause
        else:
            environments[kind.short_name] = _row(load_game(kind.short_name))
    return Listing(environments, left_out)


def _obstacle(kind: pyspiel.GameType) -> str:
    """Explain why a game cannot be offered; empty if it can."""
    if not kind.default_loadable:
        return "it has no default parameters"
    if kind.dynamics == pyspiel.GameType.Dynamics.MEAN_FIELD:
        return "a mean-field game, played by distributions"
    has_words = kind.provides_information_state_string or kind.provides_observation_string
    if kind.information != pyspiel.GameType.Information.PERFECT_INFORMATION and not has_words:
        return "it has no words for what a player may see"
    try:
        _play(load_game(kind.short_name))
    except Exception as failed:  # noqa: BLE001 - whatever the package raises is the cause
        return f"it fails when it is played: {str(failed).splitlines()[0][:100]}"
    return ""


def _play(game: Game) -> None:
    """Make random moves, and read and write down each state on the way."""
    dice = random.Random(0)
    state = game.new_state(dice)
    for _ in range(_MAX_TRIED_MOVES):
        if state.is_terminal():
            return
        if state.is_chance_node():
            outcomes, weights = zip(*state.chance_outcomes(), strict=True)
            state.apply_action(dice.choices(outcomes, weights)[0])
            continue
        for seat in range(game.num_players):
            game.seen_by(state, seat)
        if state.is_simultaneous_node():
            players = range(game.num_players)
            state.apply_actions([dice.choice(state.legal_actions(player) or [0]) for player in players])
        else:
            state.apply_action(dice.choice(list(game.moves(state, state.current_player()).values())))
        again = game.load(game.dump(state))
        if str(again) != str(state):
            raise ValueError("its states do not come back as they were written down")


def _row(game: Game) -> tuple[str, list[str]]:
    tags = ["multi-turn", f"{game.num_players}-player"]
    tags.append("perfect-information" if game.is_perfect_information else "hidden-information")
    if game.is_simultaneous:
        tags.append("simultaneous")
    if game.kind.chance_mode != pyspiel.GameType.ChanceMode.DETERMINISTIC:
        tags.append("chance")
    if game.allows_search:
        tags.append("search-opponent")
    name = game.kind.long_name
    count = game.num_players
    return f"{name}, a game for {'one player' if count == 1 else f'{count} players'}.", tags
