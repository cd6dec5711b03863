"""Environments of several seats: players of one episode, each of whom sees what its own seat may see.

The contract is Gymnasium's with one addition. An action may name its seat, ``{"seat": 1, "action": …}``; the step's observation
is then that seat's. An action without a seat acts for the first seat in turn, and the observation is that of the seat in turn
afterwards: so one client plays all seats with ordinary steps. The info says who acted, whose turn it is, and what each
seat got.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from pydantic import Field

from verl_agent_env.envs.base import ChatEnv, EnvArguments
from verl_agent_env.envs.reward_parts import TASK
from verl_agent_env.envs.turn import Outcome
from verl_agent_env.errors import NotYourTurnError, UnknownSeatError
from verl_agent_env.messages import ToolCall, tool_message, user_message
from verl_agent_env.types import Action, Content, Info, Message, Observation

_ONE_ACTION = "Not carried out: only the first action of a turn counts."
_WAIT = "It is not your turn. Wait for the others."


class SeatOutcome(NamedTuple):
    """Outcome of the move of one seat."""

    rewards: Sequence[float] = ()
    """Reward of each seat; empty for zeros."""
    content: str = ""
    """Answer for the seat that acted, before what it sees."""
    terminated: bool = False
    successes: Sequence[bool] = ()
    """At the end, whether each seat succeeded; empty where none did."""
    effective: bool = True
    """True if the move changed anything."""
    fault: str | None = None
    """Reason why the move could not be carried out; the action then counts as invalid, and the seat is still to act."""


class SeatedArguments(EnvArguments):
    """Keyword arguments of environments with seats."""

    max_actions_per_turn: int = Field(default=1, ge=1, le=1)
    """Always one: the next move may be another seat's."""


class SeatedEnv(ChatEnv):
    """Base class of environments with several seats.

    A subclass has ``num_seats`` and the hooks ``turn``, ``observe_seat``, ``act_at``, ``dump_game`` and ``load_game`` in place of
    ``observe``, ``act``, ``dump_state`` and ``load_state``. With one seat it is an environment like any other: its actions need
    not name the seat, and may hold several moves.

    Moves at the same time: ``turn`` names several seats, each of them acts in a step of its own, in any order, and is then out
    of turn; what they do is shown and counts when the last one has acted.
    """

    Arguments: ClassVar[type[EnvArguments]] = SeatedArguments

    __slots__ = ("_acted", "_returns")

    # --- hooks: what an environment's author writes ---------------------------------------------------------

    @property
    @abstractmethod
    def num_seats(self) -> int:
        """Number of seats, the same for the whole episode."""

    @abstractmethod
    def turn(self) -> tuple[int, ...]:
        """Return the seats that are to act, from 0, in order; at least one until the episode ends."""

    @abstractmethod
    def observe_seat(self, seat: int) -> str:
        """Describe the present state as this seat may see it."""

    @abstractmethod
    def act_at(self, seat: int, call: ToolCall) -> SeatOutcome:
        """Carry out one valid call of a seat that is to act."""

    @abstractmethod
    def begin_game(self, options: Mapping[str, Any]) -> None:
        """Set up a new episode; as :meth:`ChatEnv.begin_episode`."""

    @abstractmethod
    def dump_game(self) -> Any:
        """Return the state of the game; as :meth:`ChatEnv.dump_state`."""

    @abstractmethod
    def load_game(self, state: Any) -> None:
        """Set the state that :meth:`dump_game` returned."""

    # --- for servers and trainers ---------------------------------------------------------------------------

    def seat_view(self, seat: int) -> dict[str, Any]:
        """Return what a seat's player has to know now, as JSON values; the same until somebody acts.

        Returns:
            ``seat``, ``num_seats``, ``turn`` (seats to act), ``observation`` (with the task prompt until the seat has acted),
            ``reward`` (all that the seat got in this episode), ``num_steps`` and ``ended``.

        Raises:
            UnknownSeatError: There is no such seat.
        """
        self._require_seat(seat)
        return {
            "seat": seat,
            "num_seats": self.num_seats,
            "turn": [] if self._ended else list(self.turn()),
            "observation": [user_message(self._seen_from(seat))],
            "reward": self._returns[seat],
            "num_steps": self._steps,
            "ended": self._ended,
        }

    # --- ChatEnv's hooks and Gymnasium's interface ----------------------------------------------------------

    def begin_episode(self, options: Mapping[str, Any]) -> None:
        self.begin_game(options)
        self._acted = [False] * self.num_seats
        self._returns = [0.0] * self.num_seats

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, Info]:
        """Begin an episode, as :meth:`ChatEnv.reset`; the observation is that of the first seat in turn."""
        observation, info = super().reset(seed=seed, options=options)
        if self.num_seats > 1:
            info |= {"num_seats": self.num_seats, "turn": list(self.turn())}
        return observation, info

    def first_observation(self) -> Observation:
        return [user_message(self._seen_from(self.turn()[0]))]

    def step(self, action: Action) -> tuple[Observation, float, bool, bool, Info]:
        """Carry out the action of one seat, as :meth:`ChatEnv.step`; the reward is that of the seat that acts.

        Raises:
            EpisodeNotStartedError, EpisodeEndedError: No episode is running.
            UnknownSeatError, NotYourTurnError: The action's seat cannot act now; nothing was changed.
        """
        self._require_running()
        seat, said = _seat_of(action)
        turn = self.turn()
        if seat is not None:
            self._require_seat(seat)
            if seat not in turn:
                raise NotYourTurnError("", seat, list(turn))
        if self.num_seats == 1:
            return super().step(said)
        acting = turn[0] if seat is None else seat
        return self._act(acting, self.calls_of(said), said, is_named=seat is not None)

    def take_turn(
        self, calls: list[ToolCall], action: object = None
    ) -> tuple[Observation, float, bool, bool, Info]:
        self._require_running()
        if self.num_seats == 1:
            return super().take_turn(calls, action)
        return self._act(self.turn()[0], calls, action, is_named=False)

    def observe(self) -> Content:
        """Return what the first seat in turn sees; at the end, seat 0."""
        return self.observe_seat(0 if self._ended or self.num_seats == 1 else self.turn()[0])

    def act(self, call: ToolCall) -> Outcome:
        """Carry out a move of the only seat."""
        rewards, content, terminated, successes, effective, fault = self.act_at(0, call)
        return Outcome(
            content or None,
            sum(rewards),
            terminated=terminated,
            success=any(successes),
            effective=effective,
            fault=fault,
        )

    def dump_state(self) -> Any:
        return [self._returns, self._acted, self.dump_game()]

    def load_state(self, state: Any) -> None:
        self._returns, self._acted, game = state
        self.load_game(game)

    # --- inner workings -------------------------------------------------------------------------------------

    def _finish(self, *args: Any, **kwargs: Any) -> tuple[Observation, float, bool, bool, Info]:
        result = super()._finish(*args, **kwargs)
        if self.num_seats == 1:
            self._acted, self._returns = [True], [self._returns[0] + result[1]]
        return result

    def _act(
        self, seat: int, calls: list[ToolCall], action: object, *, is_named: bool
    ) -> tuple[Observation, float, bool, bool, Info]:
        call = calls[0]
        self._steps += 1
        self._acted[seat] = True
        fault = self._fault_of(call)
        outcome = self.act_at(seat, call) if fault is None else SeatOutcome(fault=fault, effective=False)
        rewards = list(outcome.rewards) or [0.0] * self.num_seats
        successes = list(outcome.successes) or [False] * self.num_seats
        last = self._penalized(
            Outcome(
                reward=rewards[seat],
                terminated=outcome.terminated,
                success=successes[seat],
                effective=outcome.effective,
                fault=outcome.fault,
            )
        )
        _, reward, terminated, truncated, info = self._finish(
            [], last.reward, last, last.fault is None, last.effective, action
        )
        parts = self.arguments.reward_parts
        if parts is not None:
            # What the move is worth to the others is their part of the task.
            rewards = [parts.weights.get(TASK, 1.0) * paid for paid in rewards]
        rewards[seat] = reward
        for each, paid in enumerate(rewards):
            self._returns[each] += paid
        info |= {
            "seat": seat,
            "turn": [] if self._ended else list(self.turn()),
            "rewards": rewards,
            "successes": successes,
        }
        return self._shown(seat, calls, outcome, is_named=is_named), reward, terminated, truncated, info

    def _shown(
        self, seat: int, calls: list[ToolCall], outcome: SeatOutcome, *, is_named: bool
    ) -> Observation:
        """Answer the calls of the seat that acted, and show it, or the seat in turn, what it sees."""
        call, *others = calls
        said = outcome.content
        if outcome.fault is not None:
            said = f"Invalid action: {outcome.fault}{self._tool_hint()}"
        turn = () if self._ended else self.turn()
        refused: list[Message] = [
            tool_message(other.id, _ONE_ACTION) for other in others if other.id is not None
        ]
        # Who plays without names acts next for the first seat in turn, also where others may act at the same time.
        if self._ended or (seat in turn if is_named else seat == turn[0]):
            said = "\n".join(filter(None, [said, self._seen_from(seat)]))
        elif is_named:
            said = "\n".join(filter(None, [said, _WAIT]))
        else:
            seen = user_message(self._seen_from(turn[0]))
            # Who wrote its move as text reads nothing of it before its next turn.
            answer = [] if call.id is None else [tool_message(call.id, said or "Done.")]
            return [*answer, *refused, seen]
        if call.id is None:
            return [*refused, user_message(said)]
        return [tool_message(call.id, said), *refused]

    def _seen_from(self, seat: int) -> str:
        parts = []
        if self.arguments.include_task_prompt and not self._acted[seat]:
            parts.append(f"{self.task_prompt()}\n")
        if self.num_seats > 1:
            parts.append(self._whose_turn(seat))
        return "\n".join([*parts, self.observe_seat(seat)])

    def _whose_turn(self, seat: int) -> str:
        if self._ended:
            return f"You have seat {seat}. The episode has ended."
        turn = self.turn()
        if seat in turn:
            return f"You have seat {seat}. It is your turn."
        return f"You have seat {seat}. It is the turn of seat {' and '.join(map(str, turn))}."

    def _require_seat(self, seat: int) -> None:
        if not 0 <= seat < self.num_seats:
            raise UnknownSeatError("", seat, self.num_seats)


def _seat_of(action: Action) -> tuple[int | None, Action]:
    """Return the seat that an action names, if it names one, and the action.

    Raises:
        UnknownSeatError: The seat is no number.
    """
    if not (isinstance(action, Mapping) and action.keys() == {"seat", "action"}):
        return None, action
    seat = action["seat"]
    if isinstance(seat, bool) or not isinstance(seat, int):
        raise UnknownSeatError("", -1, 0)
    return seat, action["action"]
