"""The games of TextArena for one player that need no network, as the package registers them."""

from __future__ import annotations

from typing import Any

import textarena
from textarena.envs.registration import ENV_REGISTRY

from verl_agent_env.envs.catalogue.adapter import adapter_class
from verl_agent_env.envs.catalogue.family import Listing
from verl_agent_env.envs.catalogue.textarena.env import TextArenaEnv
from verl_agent_env.envs.spec import EnvSpec

_VARIANTS = ("-raw", "-train")
"""Endings of the names under which a game is registered again, with other wrappers."""
_OF_SEVERAL = "it is for two and more players"
_LEFT_OUT = {"Sokoban-v0-medium": "it looks for a room for up to a minute"}


def read() -> Listing:
    """Find all games for one player, and try to begin each of them."""
    _forbid_downloads()
    environments: dict[str, tuple[str, list[str]]] = {}
    left_out = dict(_LEFT_OUT)
    for game_id in sorted(ENV_REGISTRY):
        if game_id.endswith(_VARIANTS) or game_id in left_out:
            continue
        env = adapter_class(TextArenaEnv, EnvSpec(f"textarena/{game_id}", ""), game_id=game_id)()
        try:
            env.reset(seed=0)
            state = env.game.state
        except Exception as failed:  # noqa: BLE001 - whatever the package raises is the cause
            left_out[game_id] = _cause(failed)
            continue
        if isinstance(state, textarena.SinglePlayerState):
            environments[game_id] = (f"{_words(game_id)}, in plain text.", ["multi-turn", "1-player"])
        else:
            left_out[game_id] = _OF_SEVERAL
    return Listing(environments, left_out)


def _cause(failed: Exception) -> str:
    """Explain why a game cannot be begun, without what is specific to this machine."""
    said = str(failed)
    if "player" in said.casefold():
        return _OF_SEVERAL
    if "API" in said:
        return "it needs the key of an API"
    causes: tuple[tuple[type[Exception], str], ...] = (
        (SyntaxError, "it needs a newer Python"),
        (ConnectionError, "it downloads data of nltk"),
        (FileNotFoundError, "the package lacks files of it"),
        (ImportError, "it imports what the package does not bring"),
    )
    found = next((cause for kind, cause in causes if isinstance(failed, kind)), "")
    return found or f"it cannot be begun: {type(failed).__name__}"


def _forbid_downloads() -> None:
    import nltk

    def refuse(*_: Any, **__: Any) -> None:
        raise ConnectionError("it wants to download data of nltk")

    nltk.download = refuse


def _words(game_id: str) -> str:
    name, _, rest = game_id.partition("-v0")
    return f"{name} ({rest.strip('-').replace('-', ' ')})" if rest else name
