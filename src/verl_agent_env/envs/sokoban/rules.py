"""The rules of gym-sokoban on bit boards: one function per step, one for its reward."""

from dataclasses import dataclass

from verl_agent_env.envs.sokoban.level import Level, shifts_of

NO_OP = 0
PUSH_UP, PUSH_DOWN, PUSH_LEFT, PUSH_RIGHT = 1, 2, 3, 4
MOVE_UP, MOVE_DOWN, MOVE_LEFT, MOVE_RIGHT = 5, 6, 7, 8
NUM_ACTIONS = 9


@dataclass(frozen=True, slots=True)
class Rewards:
    """Rewards of a step; the parts add up. The defaults are gym-sokoban's."""

    step: float = -0.1
    """Added on every step, also when nothing moves."""
    box_on_target: float = 1.0
    """Added if more boxes are on targets than before the step."""
    box_off_target: float = -1.0
    """Added if fewer boxes are on targets than before the step."""
    solved: float = 10.0
    """Added if every box is on a target."""

    def of(self, level: Level, before: int, after: int) -> float:
        """Return the reward of a step that turned the box board ``before`` into ``after``."""
        reward = self.step
        if before != after:
            gained = (after & level.targets).bit_count() - (before & level.targets).bit_count()
            if gained > 0:
                reward += self.box_on_target
            elif gained < 0:
                reward += self.box_off_target
        return reward + self.solved if after == level.targets else reward


def advance(level: Level, boxes: int, player: int, action: int) -> tuple[int, int]:
    """Return the box board and the player's cell after one action; an impossible action changes nothing.

    ``action`` is gym-sokoban's code: 0 waits, 1 to 4 push up, down, left or right (a plain move where there is no
    box), 5 to 8 move in these directions and never push. Of ``level`` only the walls are used.
    """
    if not action:
        return boxes, player
    shift = shifts_of(level.width)[action - 1 & 3]
    ahead = player + shift
    cell = 1 << ahead
    if level.walls & cell:
        return boxes, player
    if not boxes & cell:
        return boxes, ahead
    beyond = 1 << ahead + shift
    if action > 4 or (level.walls | boxes) & beyond:
        return boxes, player
    return boxes ^ cell ^ beyond, ahead
