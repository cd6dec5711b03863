"""A game of OpenSpiel: the model plays a seat against the server, or all seats are played by models."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, ClassVar

import orjson

from verl_agent_env.envs.base import EnvArguments
from verl_agent_env.envs.catalogue.adapter import CatalogueEnv, adapter_class
from verl_agent_env.envs.catalogue.open_spiel.arguments import GameArguments, arguments_of
from verl_agent_env.envs.catalogue.open_spiel.game import Game, State, load_game
from verl_agent_env.envs.seats import SeatedEnv, SeatOutcome
from verl_agent_env.envs.spec import EnvSpec
from verl_agent_env.messages import Tool, ToolCall
from verl_agent_env.types import Action

_MAX_ENUM = 64
_MAX_STARTS = 100
_SEARCH_MS = 0.1
"""What a simulation of tree search costs at most, about, for each move of an opponent."""


def _move_tool(words: list[str]) -> Tool:
    action: dict[str, Any] = {"type": "string", "description": "One of the legal moves, as they are written."}
    if 0 < len(words) <= _MAX_ENUM:
        action["enum"] = words
    schema = {
        "type": "object",
        "properties": {"action": action},
        "required": ["action"],
        "additionalProperties": False,
    }
    return Tool("move", "Make a move.", schema)


_LIST_MOVES = Tool(
    "list_moves",
    "List legal moves that the observation does not show. It takes a step, and makes no move.",
    {
        "type": "object",
        "properties": {
            "start": {"type": "integer", "minimum": 0, "description": "Number of the first one, from 0."}
        },
        "required": [],
        "additionalProperties": False,
    },
)


class OpenSpielEnv(SeatedEnv, CatalogueEnv):
    """Play one seat of a game of OpenSpiel; the other seats are the server's, or with ``opponent="self"`` the model's, too.

    ## Action Space

    The tool ``move(action)``: a legal move as the observation writes it. In plain text the move alone does as well.
    ``list_moves(start)`` lists legal moves that the observation leaves out.

    ## Observation

    What the model's seat may see: in games of perfect information the board and the others' moves, else the seat's own
    information as the package words it; then the legal moves.

    ## Rewards

    What the seat's return rises by, as the package counts it; usually all of it comes at the end. With ``opponent="self"`` the
    info has the ``rewards`` of all seats; see [seats](#seats). Where all move at the same time, each seat acts in a step of its
    own, and the moves count when the last one has acted.

    ## Episode End

    Terminated at the end of the game; ``success`` in the info if the seat's return is higher than any other's, or, where all
    players get the same or there is one only, the highest that there is. Truncated after ``max_steps`` moves.

    ## Arguments

    See :class:`GameArguments`.
    """

    Arguments: ClassVar[type[EnvArguments]] = GameArguments
    state_version: ClassVar[int] = 2
    tools = (_move_tool([]), _LIST_MOVES)
    game: ClassVar[Game]
    arguments: GameArguments

    __slots__ = ("_chosen", "_moves", "_news", "seat", "state")

    @classmethod
    def cost_ms(cls, arguments: EnvArguments) -> float:
        measured = super().cost_ms(arguments)
        if isinstance(arguments, GameArguments) and arguments.opponent == "mcts":
            # An opponent may move several times before the model does.
            measured += _SEARCH_MS * arguments.mcts_simulations * cls.game.num_players
        return measured

    @property
    def num_seats(self) -> int:
        return self.game.num_players if self.arguments.opponent == "self" else 1

    def turn(self) -> tuple[int, ...]:
        return tuple(self._moves)

    def task_prompt_text(self) -> str:
        game = self.game
        if game.num_players == 1:
            others = "alone"
        elif self.num_seats > 1:
            others = f"with {game.num_players} players, from 0; you are the player of your seat's number"
        else:
            others = f"as player {self.seat} of {game.num_players}, from 0"
        return (
            f"You play {game.kind.long_name} {others}. Each turn, call the tool move with one of the legal moves, exactly as it "
            "is written. Get the highest return that you can."
        )

    def begin_game(self, options: Mapping[str, Any]) -> None:
        if options:
            raise self.invalid_arguments((["options"], "the games of OpenSpiel take no options"))
        self.seat: int | None = None
        if self.num_seats == 1:
            seat = self.arguments.seat
            self.seat = self.rng.randrange(self.game.num_players) if seat is None else seat
        for _ in range(_MAX_STARTS):
            self.state: State = self.game.new_state(self.rng)
            self._news: list[list[str]] = [[] for _ in range(self.num_seats)]
            self._chosen: dict[int, int] = {}
            self._advance()
            if not self.state.is_terminal():
                return
        raise self.invalid_arguments((["seat"], "the game is over before this seat has a move"))

    def observe_seat(self, seat: int) -> str:
        lines = [*self._news[seat], self.game.seen_by(self.state, self._player(seat))]
        if self.state.is_terminal():
            returns = ", ".join(
                f"player {player}: {value:g}" for player, value in enumerate(self.state.returns())
            )
            lines.append(f"The game is over. Returns: {returns}.")
        elif seat in self._moves:
            lines.append(self._shown_moves(seat, 0))
        return "\n".join(lines)

    def act_at(self, seat: int, call: ToolCall) -> SeatOutcome:
        self._news[seat] = []
        if call.name == "list_moves":
            start = call.arguments.get("start", self.arguments.max_shown_moves)
            return SeatOutcome(content=self._shown_moves(seat, max(0, start)), effective=False)
        action = self._action_of(seat, call.arguments["action"])
        if action is None:
            shown = call.arguments["action"]
            shown = shown if len(shown) <= 60 else f"{shown[:60]}…"
            return SeatOutcome(fault=f"'{shown}' is not a legal move.", effective=False)
        before = self.state.returns()
        self._choose(self._player(seat), action)
        returns = self.state.returns()
        over = self.state.is_terminal()
        players = [self._player(each) for each in range(self.num_seats)]
        return SeatOutcome(
            [returns[player] - before[player] for player in players],
            terminated=over,
            successes=[over and self.game.is_won(returns, player) for player in players],
        )

    def call_from_word(self, word: str) -> ToolCall:
        name = super().call_from_word(word)
        return name if name.name == "list_moves" else ToolCall("move", {"action": word.strip()})

    def sample_action(self, dice: random.Random) -> Action:
        """A legal move, each as likely."""
        if self._seed is None or self.ended:
            return super().sample_action(dice)
        legal = self._moves[self.turn()[0]]
        arguments = orjson.dumps({"action": dice.choice(list(legal))}).decode()
        call = {"id": f"call_{dice.getrandbits(32):08x}", "type": "function"}
        return {
            "role": "assistant",
            "content": "",
            "tool_calls": [{**call, "function": {"name": "move", "arguments": arguments}}],
        }

    def dump_game(self) -> Any:
        return [self.seat, self.game.dump(self.state), self._news, list(self._chosen.items())]

    def load_game(self, state: Any) -> None:
        self.seat, dumped, self._news, chosen = state
        self._chosen = dict(chosen)
        self.state = self.game.load(dumped)
        self._find_moves()

    # --- inner workings -------------------------------------------------------------------------------------

    def _player(self, seat: int) -> int:
        """Return the game's player at a seat of the environment."""
        return seat if self.seat is None else self.seat

    def _is_model(self, player: int) -> bool:
        return self.seat is None or player == self.seat

    def _choose(self, player: int, action: int) -> None:
        """Carry out a model's move; where all move at the same time, when the last of them has chosen."""
        if not self.state.is_simultaneous_node():
            self._apply(player, action)
            self._advance()
            return
        self._chosen[player] = action
        if self._missing():
            self._find_moves()
        else:
            self._apply_chosen()
            self._advance()

    def _missing(self) -> list[int]:
        """Return the players of models that have yet to choose, where all move at the same time."""
        return [
            player
            for player in range(self.game.num_players)
            if self._is_model(player) and player not in self._chosen and self.state.legal_actions(player)
        ]

    def _apply(self, player: int, action: int) -> None:
        if self.game.is_perfect_information:
            said = f"Player {player} plays {self.state.action_to_string(player, action)}."
            for seat, news in enumerate(self._news):
                if self._player(seat) != player:
                    news.append(said)
        self.state.apply_action(action)

    def _apply_chosen(self) -> None:
        """Carry out the moves of all players at the same time."""
        actions = []
        for player in range(self.game.num_players):
            if player in self._chosen:
                actions.append(self._chosen[player])
            else:
                actions.append(self._others_action(player) if self.state.legal_actions(player) else 0)
        self._chosen = {}
        self.state.apply_actions(actions)

    def _advance(self) -> None:
        """Play on, chance and the server's seats, up to the next move of a model or the end."""
        state = self.state
        while not state.is_terminal():
            if state.is_chance_node():
                state.apply_action(self._chance_action())
            elif state.is_simultaneous_node():
                if self._missing():
                    break
                self._apply_chosen()
            elif self._is_model(state.current_player()):
                break
            else:
                player = state.current_player()
                self._apply(player, self._others_action(player))
        self._find_moves()

    def _chance_action(self) -> int:
        outcomes = self.state.chance_outcomes()
        left = self.rng.random()
        for action, probability in outcomes:
            left -= probability
            if left < 0.0:
                return int(action)
        return int(outcomes[-1][0])

    def _others_action(self, player: int) -> int:
        legal = self.state.legal_actions(player)
        opponent = self.arguments.opponent
        if opponent == "first":
            return int(legal[0])
        if opponent == "mcts":
            seed = self.rng.randrange(1 << 31)
            return self.game.searched_action(self.state, self.arguments.mcts_simulations, seed)
        return int(self.rng.choice(legal))

    def _find_moves(self) -> None:
        """Learn which moves are legal now, for each seat that is to act, and offer them."""
        state = self.state
        if state.is_terminal():
            players = []
        elif state.is_simultaneous_node():
            players = self._missing()
        else:
            players = [state.current_player()]
        self._moves: dict[int, dict[str, int]] = {
            player if self.seat is None else 0: self.game.moves(state, player) for player in players
        }
        offered: list[str] = []
        if len(self._moves) == 1 and (self.num_seats == 1 or self.game.is_perfect_information):
            # Else a seat's legal moves would tell the others what only that seat may know.
            (offered,) = map(list, self._moves.values())
        self._set_tools((_move_tool(offered), _LIST_MOVES))

    def _action_of(self, seat: int, text: str) -> int | None:
        moves = self._moves[seat]
        action = moves.get(text.strip())
        if action is not None:
            return action
        plain = _plain(text)
        near = [action for word, action in moves.items() if _plain(word) == plain]
        return near[0] if len(near) == 1 else None

    def _shown_moves(self, seat: int, start: int) -> str:
        most = self.arguments.max_shown_moves
        words = list(self._moves[seat])
        shown = words[start : start + most]
        rest = len(words) - start - len(shown)
        more = f" … and {rest} more: list_moves(start={start + len(shown)})" if rest > 0 else ""
        counted = "" if start == 0 else f" from number {start}"
        return f"Legal moves{counted}: {' | '.join(shown)}{more}"


def _plain(word: str) -> str:
    return "".join(word.split()).casefold()


def make_class(short: str, spec: EnvSpec) -> type[OpenSpielEnv]:
    """The class of the game of this name."""
    game = load_game(short)
    return adapter_class(OpenSpielEnv, spec, game=game, Arguments=arguments_of(game))
