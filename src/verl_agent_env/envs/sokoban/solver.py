"""Exact solver: the fewest pushes that bring every box onto a target."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from verl_agent_env.envs.sokoban.boards import cells_of, flood, pull_layers, pull_masks
from verl_agent_env.envs.sokoban.level import Level, shifts_of

DEFAULT_NODE_LIMIT = 200_000

_MATCHED_BOXES = 6
"""Up to this many boxes the bound is a perfect matching; beyond, each box counts to its nearest target."""

_IMPOSSIBLE = 1 << 20

_Node = tuple[int, int]
"""Box board and the region of cells that the player can walk to."""


@dataclass(frozen=True, slots=True)
class Solution:
    """Solution of a level with the fewest pushes."""

    actions: tuple[int, ...]
    """Action codes 1 to 4 (see `rules.advance`), walking included; between pushes the walk is a shortest one."""
    pushes: int
    """Number of pushes, the minimum."""
    explored: int
    """Number of positions that the search expanded."""


class RoomSearchLimitError(RuntimeError):
    """The search exceeded its node limit; the level may or may not be solvable. Raise ``node_limit``."""

    def __init__(self, node_limit: int) -> None:
        super().__init__(f"no answer within {node_limit} positions; raise node_limit or take a smaller level")
        self.node_limit = node_limit


def solve(level: Level, node_limit: int = DEFAULT_NODE_LIMIT) -> Solution | None:
    """Solve ``level`` from its positions of boxes and player, with the fewest pushes.

    A* over (boxes, region that the player reaches) with the bound of `make_bound`, which never overestimates and
    changes by one push at most, so the first time a position is expanded its number of pushes is final.

    Returns:
        A solution, or None if it is proved that there is none.

    Raises:
        RoomSearchLimitError: ``node_limit`` positions were expanded without a result.
    """
    width, floor = level.width, level.floor
    bound = make_bound(level)
    player = 1 << level.player
    start: _Node = (level.boxes, flood(player, floor & ~level.boxes, width))
    estimate = bound(level.boxes)
    if estimate >= _IMPOSSIBLE:
        return None
    successors = _successors(level, bound)
    parents: dict[_Node, tuple[_Node, int, int] | None] = {}
    # One stack per estimated total; entries are (node, pushes so far, parent link).
    stacks: dict[int, list[tuple[_Node, int, tuple[_Node, int, int] | None]]] = {estimate: [(start, 0, None)]}
    explored = 0
    while stacks:
        lowest = min(stacks)
        stack = stacks[lowest]
        node, pushes, link = stack.pop()
        if not stack:
            del stacks[lowest]
        if node in parents:
            continue
        parents[node] = link
        if node[0] == level.targets:
            return Solution(_actions(level, parents, node), pushes, explored)
        if explored >= node_limit:
            raise RoomSearchLimitError(node_limit)
        explored += 1
        for child, remaining, box, direction in successors(node):
            if child not in parents:
                entry = (child, pushes + 1, (node, box, direction))
                stacks.setdefault(pushes + 1 + remaining, []).append(entry)
    return None


def lower_bound(level: Level) -> int | None:
    """Return a number of pushes that every solution needs, without a search; None if no solution can exist."""
    estimate = make_bound(level)(level.boxes)
    return None if estimate >= _IMPOSSIBLE else estimate


def make_bound(level: Level) -> Callable[[int], int]:
    """Return a function from a box board to a number of pushes that is never above the true one.

    With up to 6 boxes it is the cheapest assignment of boxes to targets, each box pushed as if it were alone
    and the player could reach every cell; with more it is the sum of the distances to the nearest targets. `_IMPOSSIBLE`
    or more means a dead position.
    """
    width, masks = level.width, pull_masks(level.floor, level.width)
    area = level.height * width
    if level.num_boxes > _MATCHED_BOXES:
        nearest = _distances(level.targets, masks, width, area)
        return lambda boxes: sum(nearest[box] for box in cells_of(boxes))
    by_target = [_distances(1 << target, masks, width, area) for target in cells_of(level.targets)]
    rows = [tuple(table[cell] for table in by_target) for cell in range(area)]

    @cache
    def bound(boxes: int) -> int:
        return _assign(tuple(rows[box] for box in cells_of(boxes)))

    return bound


def _distances(goals: int, masks: tuple[int, int, int, int], width: int, area: int) -> list[int]:
    distances = [_IMPOSSIBLE] * area
    for pushes, layer in enumerate(pull_layers(goals, masks, width)):
        for cell in cells_of(layer):
            distances[cell] = pushes
    return distances


def _assign(costs: tuple[tuple[int, ...], ...]) -> int:
    """Return the cost of the cheapest assignment of rows to columns, by dynamic programming over used columns."""
    best = {0: 0}
    for row in costs:
        following: dict[int, int] = {}
        for used, cost in best.items():
            for column, extra in enumerate(row):
                bit = 1 << column
                if extra < _IMPOSSIBLE and not used & bit:
                    total = cost + extra
                    key = used | bit
                    if total < following.get(key, _IMPOSSIBLE):
                        following[key] = total
        best = following
    return min(best.values(), default=_IMPOSSIBLE)


def _successors(
    level: Level, bound: Callable[[int], int]
) -> Callable[[_Node], list[tuple[_Node, int, int, int]]]:
    """Return a function that lists (position after a push, its bound, cell of the box, direction) of a node."""
    width, walls, floor, targets = level.width, level.walls, level.floor, level.targets
    directions = tuple(enumerate(shifts_of(width)))
    square = 1 | 2 | 1 << width | 2 << width
    alive = 0
    for layer in pull_layers(targets, pull_masks(floor, width), width):
        alive |= layer

    def successors(node: _Node) -> list[tuple[_Node, int, int, int]]:
        boxes, region = node
        found = []
        landing = alive & ~boxes
        for box in cells_of(boxes):
            for direction, shift in directions:
                if not (region >> box - shift & 1 and landing >> box + shift & 1):
                    continue
                ahead = box + shift
                moved = boxes ^ (1 << box | 1 << ahead)
                if not targets >> ahead & 1:
                    # Four walls or boxes in a square never move again.
                    solid = walls | moved
                    corner = ahead - width - 1
                    if (
                        solid >> corner & square == square
                        or solid >> corner + 1 & square == square
                        or solid >> corner + width & square == square
                        or solid >> corner + width + 1 & square == square
                    ):
                        continue
                remaining = bound(moved)
                if remaining < _IMPOSSIBLE:
                    after = flood(1 << box, floor & ~moved, width)
                    found.append(((moved, after), remaining, box, direction))
        return found

    return successors


def _actions(
    level: Level, parents: dict[_Node, tuple[_Node, int, int] | None], goal: _Node
) -> tuple[int, ...]:
    pushes = []
    link = parents[goal]
    while link is not None:
        node, box, direction = link
        pushes.append((node[0], box, direction))
        link = parents[node]
    shifts = shifts_of(level.width)
    actions: list[int] = []
    player = level.player
    for boxes, box, direction in reversed(pushes):
        actions += _walk(level, boxes, player, box - shifts[direction])
        actions.append(direction + 1)
        player = box
    return tuple(actions)


def _walk(level: Level, boxes: int, start: int, goal: int) -> list[int]:
    """Return the actions of a shortest walk between two cells of one region, by breadth-first search."""
    free = level.floor & ~boxes
    shifts = shifts_of(level.width)
    came: dict[int, int] = {goal: -1}
    queue = [goal]
    for cell in queue:
        if cell == start:
            break
        for direction, shift in enumerate(shifts):
            before = cell - shift
            if free >> before & 1 and before not in came:
                came[before] = direction
                queue.append(before)
    actions = []
    while start != goal:
        direction = came[start]
        actions.append(direction + 1)
        start += shifts[direction]
    return actions
