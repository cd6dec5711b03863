"""Self-play: one model plays all seats of a game, each seat as a conversation of its own."""

from __future__ import annotations

from collections.abc import Sequence

from verl_agent_env.integrations.rollout.episode import Episode
from verl_agent_env.integrations.verl.rollout.player import Player
from verl_agent_env.types import Message


async def play_seats(episode: Episode, players: Sequence[Player]) -> None:
    """Play a game to its end, or until a player's budget is used up, which ends it for all.

    Each player sees what its seat sees: answers, their outcomes, and the game at the seat's next turn.
    """
    unheard: list[list[Message]] = [[] for _ in players]
    is_shown = [False] * len(players)
    turn = episode.turn
    while turn:
        seat = turn[0]
        player = players[seat]
        if not player.has_begun:
            await player.begin((await episode.seat_view(seat))["observation"])
        else:
            if not is_shown[seat]:
                unheard[seat] += (await episode.seat_view(seat))["observation"]
            await player.hear(unheard[seat])
            if player.tally.ended_by is not None:
                break
        action = await player.act()
        if action is None:
            break
        result = await episode.step({"seat": seat, "action": action})
        player.tally.note(result, len(player.tally.transcript.mask))
        for number, other in enumerate(players):
            if number != seat:
                other.tally.note_other(result, number)
        turn = result.info["turn"]
        # Who is to act again is shown the game with what came of the action.
        unheard[seat], is_shown[seat] = list(result.observation), seat in turn
    await _end(players, episode)


async def _end(players: Sequence[Player], episode: Episode) -> None:
    """Tell all players how the game has ended."""
    last = episode.last
    for seat, player in enumerate(players):
        tally = player.tally
        if last is not None and last.is_over:
            tally.ended_by = "terminated" if last.terminated else "truncated"
            tally.success = bool(last.info["successes"][seat])
        elif tally.ended_by is None:
            tally.ended_by = "others"
        if not player.has_begun:
            # It never acted, and learns nothing.
            for other in players:
                tally.share_server_fields(other.tally)
            await player.begin((await episode.seat_view(seat))["observation"])
