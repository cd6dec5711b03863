"""A seat in one of OpenSpiel's games: the model plays it, and the server plays the others."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, ClassVar

import orjson

from verl_agent_env.envs.base import EnvArguments
from verl_agent_env.envs.catalogue.adapter import CatalogueEnv, adapter_class
from verl_agent_env.envs.catalogue.open_spiel.arguments import GameArguments, arguments_of
from verl_agent_env.envs.catalogue.open_spiel.game import Game, State, load_game
from verl_agent_env.envs.spec import EnvSpec
from verl_agent_env.envs.turn import Outcome
from verl_agent_env.messages import Tool, ToolCall
from verl_agent_env.types import Action, Content

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


class OpenSpielEnv(CatalogueEnv):
    """Play one seat of a game of OpenSpiel; the other seats are the server's.

    ## Action Space

    The tool ``move(action)``: a legal move as the observation writes it. In plain text the move alone does as well.
    ``list_moves(start)`` lists legal moves that the observation leaves out.

    ## Observation

    What the model's seat may see: in games of perfect information the board and the others' moves, else the seat's own
    information as the package words it; then the legal moves.

    ## Rewards

    What the seat's return rises by, as the package counts it; usually all of it comes at the end.

    ## Episode End

    Terminated at the end of the game; ``success`` in the info if the seat's return is higher than any other's, or, where all
    players get the same or there is one only, the highest that there is. Truncated after ``max_steps`` moves.

    ## Arguments

    See :class:`GameArguments`.
    """

    Arguments: ClassVar[type[EnvArguments]] = GameArguments
    tools = (_move_tool([]), _LIST_MOVES)
    game: ClassVar[Game]
    arguments: GameArguments

    __slots__ = ("_moves", "_news", "seat", "state")

    @classmethod
    def cost_ms(cls, arguments: EnvArguments) -> float:
        measured = super().cost_ms(arguments)
        if isinstance(arguments, GameArguments) and arguments.opponent == "mcts":
            # An opponent may move several times before the model does.
            measured += _SEARCH_MS * arguments.mcts_simulations * cls.game.num_players
        return measured

    def task_prompt_text(self) -> str:
        game = self.game
        others = "alone" if game.num_players == 1 else f"as player {self.seat} of {game.num_players}, from 0"
        return (
            f"You play {game.kind.long_name} {others}. Each turn, call the tool move with one of the legal moves, exactly as it "
            "is written. Get the highest return that you can."
        )

    def begin_episode(self, options: Mapping[str, Any]) -> None:
        if options:
            raise self.invalid_arguments((["options"], "the games of OpenSpiel take no options"))
        seat = self.arguments.seat
        self.seat = self.rng.randrange(self.game.num_players) if seat is None else seat
        for _ in range(_MAX_STARTS):
            self.state: State = self.game.new_state(self.rng)
            self._news: list[str] = []
            self._advance()
            if not self.state.is_terminal():
                return
        raise self.invalid_arguments((["seat"], "the game is over before this seat has a move"))

    def observe(self) -> Content:
        news = [*self._news, self.game.seen_by(self.state, self.seat)]
        if self.state.is_terminal():
            returns = ", ".join(
                f"player {player}: {value:g}" for player, value in enumerate(self.state.returns())
            )
            return "\n".join([*news, f"The game is over. Returns: {returns}."])
        return "\n".join([*news, self._shown_moves(0)])

    def act(self, call: ToolCall) -> Outcome:
        self._news = []
        if call.name == "list_moves":
            start = call.arguments.get("start", self.arguments.max_shown_moves)
            return Outcome(self._shown_moves(max(0, start)), effective=False)
        action = self._action_of(call.arguments["action"])
        if action is None:
            shown = call.arguments["action"]
            shown = shown if len(shown) <= 60 else f"{shown[:60]}…"
            return Outcome(fault=f"'{shown}' is not a legal move.", effective=False)
        before = self.state.returns()[self.seat]
        self._play(action)
        self._advance()
        returns = self.state.returns()
        over = self.state.is_terminal()
        won = over and self.game.is_won(returns, self.seat)
        return Outcome(reward=returns[self.seat] - before, terminated=over, success=won)

    def call_from_word(self, word: str) -> ToolCall:
        name = super().call_from_word(word)
        return name if name.name == "list_moves" else ToolCall("move", {"action": word.strip()})

    def sample_action(self, dice: random.Random) -> Action:
        """A legal move, each as likely."""
        if self._seed is None or self.ended:
            return super().sample_action(dice)
        arguments = orjson.dumps({"action": dice.choice(list(self._moves))}).decode()
        call = {"id": f"call_{dice.getrandbits(32):08x}", "type": "function"}
        return {
            "role": "assistant",
            "content": "",
            "tool_calls": [{**call, "function": {"name": "move", "arguments": arguments}}],
        }

    def dump_state(self) -> Any:
        return [self.seat, self.game.dump(self.state), self._news]

    def load_state(self, state: Any) -> None:
        self.seat, dumped, self._news = state
        self.state = self.game.load(dumped)
        self._find_moves()

    # --- inner workings -------------------------------------------------------------------------------------

    def _play(self, action: int) -> None:
        """Carry out the model's move; in games of simultaneous moves those of the others, too."""
        state = self.state
        if not state.is_simultaneous_node():
            state.apply_action(action)
            return
        actions = []
        for player in range(self.game.num_players):
            legal = state.legal_actions(player)
            if player == self.seat:
                actions.append(action)
            else:
                actions.append(self._others_action(player) if legal else 0)
        state.apply_actions(actions)

    def _advance(self) -> None:
        """Play on, chance and the other seats, up to the model's next move or the end."""
        state = self.state
        while not state.is_terminal():
            if state.is_chance_node():
                state.apply_action(self._chance_action())
            elif state.is_simultaneous_node():
                if state.legal_actions(self.seat):
                    break
                self._play(0)
            elif state.current_player() == self.seat:
                break
            else:
                player = state.current_player()
                action = self._others_action(player)
                if self.game.is_perfect_information:
                    self._news.append(f"Player {player} plays {state.action_to_string(player, action)}.")
                state.apply_action(action)
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
        """Learn which moves are legal now, and offer them."""
        over = self.state.is_terminal()
        self._moves: dict[str, int] = {} if over else self.game.moves(self.state, self.seat)
        self._set_tools((_move_tool(list(self._moves)), _LIST_MOVES))

    def _action_of(self, text: str) -> int | None:
        action = self._moves.get(text.strip())
        if action is not None:
            return action
        plain = _plain(text)
        near = [action for word, action in self._moves.items() if _plain(word) == plain]
        return near[0] if len(near) == 1 else None

    def _shown_moves(self, start: int) -> str:
        most = self.arguments.max_shown_moves
        words = list(self._moves)
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
