"""Generator of solvable Sokoban levels, in about a millisecond, the same for a seed on every machine.

A level is made in three steps. A thick random walk carves the room. Several random sets of targets are compared by
how far lone boxes could be pulled away from them, which bit boards answer for all cells at once, and the best
set is kept. Then the level is played in reverse: all boxes start on targets, and one after the other is pulled
towards the cell that is farthest, counted in pushes, from every target, by a depth-first search that tries the
farthest neighbour first. Guided by these distances, a box arrives after a few dozen positions, and since each
pull is a push undone, the resulting start is solvable.
"""

from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from math import ceil
from random import Random

from verl_agent_env.envs.sokoban.boards import cells_of, flood, pull_layers, pull_masks
from verl_agent_env.envs.sokoban.level import MAX_SIDE, MIN_SIDE, Level, shifts_of
from verl_agent_env.envs.sokoban.solver import RoomSearchLimitError, lower_bound, solve

MAX_BOXES = 20
MAX_SEARCH_BUDGET = 10_000
DIFFICULTIES = {"easy": 0.0, "medium": 0.5, "hard": 1.0}

_ATTEMPTS = 48
"""Rooms tried for one level; after a third of them the walks get longer, the last ones fill the room."""

_LONG_TRIES = range(8, 41)
_LONG_WORK = 40_000
"""Levels made to satisfy ``min_pushes``: so many that cells × boxes × levels stays near this, within the range."""

_LONG_SOLVES = 4
_LONG_NODES = 200_000
"""How many of these levels are solved exactly if the bound is slightly too low, and the solver's nodes × cells."""

_BRUSHES: tuple[tuple[tuple[int, int], ...], ...] = (
    ((0, -1), (0, 1)),
    ((-1, 0), (1, 0)),
    ((0, 1), (1, 0), (1, 1)),
    ((0, -1), (1, 0)),
    ((0, 1), (1, 0)),
)
"""Shapes that the walk carves beside its own cell: bars, a block, two elbows. Each stays connected when the border clips it."""

_Uniform = Callable[[], float]
_Masks = tuple[int, int, int, int]


class LevelGenerationError(ValueError):
    """No level with these properties was found within the bounded effort.

    Use fewer boxes, a larger room or a smaller ``min_pushes``; the message says which.
    """


def default_num_gen_steps(height: int, width: int) -> int:
    """Return the length of the walk that carves a room, as gym-sokoban chooses it."""
    return int(1.7 * (height + width))


def generate_level(
    seed: int,
    height: int = 10,
    width: int = 10,
    num_boxes: int = 4,
    *,
    difficulty: str | float = "medium",
    min_pushes: int | None = None,
    num_gen_steps: int | None = None,
    change_direction_probability: float = 0.35,
    search_budget: int | None = None,
) -> Level:
    """Make the level of ``seed``: equal arguments give an equal level in every process and on every machine.

    Every level is solvable, has a closed border, connected floor and ``num_boxes`` boxes, none of them on a target.

    Args:
        seed: Any whole number from 0.
        height: Rows with the border, 3 to 40; ``width`` likewise.
        num_boxes: 1 to 20.
        difficulty: ``"easy"`` (0.0), ``"medium"`` (0.5), ``"hard"`` (1.0) or a number between: how many sets of
            targets are compared, ``16 ** difficulty``, and below 0.5 also how far boxes are pulled, from half of the
            possible distance at 0.0 to all of it.
        min_pushes: Every solution of the level needs at least this many pushes. That is proved for each level that
            is returned: by the solver's lower bound, or by the exact solver within a node limit.
        num_gen_steps: Length of the random walk; by default ``int(1.7 * (height + width))``. Rooms in which no
            level is found are carved longer.
        change_direction_probability: How often the walk turns.
        search_budget: Positions that the search may visit per box and round; by default ``2 * (height + width)``.

    Raises:
        ValueError: An argument is out of its range.
        LevelGenerationError: No level was found, for instance because the boxes do not fit the room.
    """
    strength = check_parameters(
        seed,
        height,
        width,
        num_boxes,
        difficulty=difficulty,
        min_pushes=min_pushes,
        num_gen_steps=num_gen_steps,
        change_direction_probability=change_direction_probability,
        search_budget=search_budget,
    )
    uniform = Random(seed).random
    steps = default_num_gen_steps(height, width) if num_gen_steps is None else num_gen_steps
    budget = 2 * (height + width) if search_budget is None else search_budget

    def make(force: float) -> tuple[Level, int]:
        return _make(uniform, height, width, num_boxes, force, steps, change_direction_probability, budget)

    if min_pushes is None:
        return make(strength)[0]
    return _make_long(make, strength, min_pushes)


def check_parameters(
    seed: int,
    height: int,
    width: int,
    num_boxes: int,
    *,
    difficulty: str | float = "medium",
    min_pushes: int | None = None,
    num_gen_steps: int | None = None,
    change_direction_probability: float = 0.35,
    search_budget: int | None = None,
) -> float:
    """Check the arguments of `generate_level` without making anything, and return the difficulty as a number.

    Raises:
        ValueError: An argument is out of its range; the sentence names it and the range.
        LevelGenerationError: The room has too few cells for the boxes, their targets and the player.
    """
    whole = {"seed": seed, "height": height, "width": width, "num_boxes": num_boxes, "min_pushes": min_pushes}
    for name, value in (whole | {"num_gen_steps": num_gen_steps, "search_budget": search_budget}).items():
        # NumPy's whole numbers overflow in shifts, so they are refused here rather than wrong there.
        if type(value) is not int and value is not None:
            raise ValueError(f"{name} is {value!r}; give a whole number as a Python int")
    if seed < 0:
        raise ValueError(f"seed is {seed}; give a whole number from 0")
    _check_range("height", height, MIN_SIDE, MAX_SIDE)
    _check_range("width", width, MIN_SIDE, MAX_SIDE)
    _check_range("num_boxes", num_boxes, 1, MAX_BOXES)
    if min_pushes is not None:
        _check_range("min_pushes", min_pushes, 1, 10_000)
    if num_gen_steps is not None:
        _check_range("num_gen_steps", num_gen_steps, 1, 10_000)
    if search_budget is not None:
        _check_range("search_budget", search_budget, 1, MAX_SEARCH_BUDGET)
    _check_range("change_direction_probability", change_direction_probability, 0, 1)
    inside, needed = (height - 2) * (width - 2), 2 * num_boxes + 1
    if inside < needed:
        raise LevelGenerationError(
            f"{num_boxes} boxes, their targets and the player need {needed} cells, but a {height}x{width} room has "
            f"{inside} inside its border; use fewer boxes or a larger room"
        )
    if isinstance(difficulty, str):
        if difficulty not in DIFFICULTIES:
            raise ValueError(f"difficulty is {difficulty!r}; use easy, medium, hard or a number from 0 to 1")
        return DIFFICULTIES[difficulty]
    _check_range("difficulty", difficulty, 0, 1)
    return float(difficulty)


def cost_ms(
    height: int,
    width: int,
    num_boxes: int,
    *,
    difficulty: str | float = "medium",
    min_pushes: int | None = None,
    num_gen_steps: int | None = None,
    search_budget: int | None = None,
) -> float:
    """Estimate the milliseconds that `generate_level` computes at most with these parameters, rarely more."""
    strength = DIFFICULTIES[difficulty] if isinstance(difficulty, str) else difficulty
    steps = default_num_gen_steps(height, width) if num_gen_steps is None else num_gen_steps
    budget = 2 * (height + width) if search_budget is None else search_budget
    places = height * width * num_boxes
    # Measured: comparing sets of targets, pulling boxes apart, and rooms that are carved in vain.
    level_ms = places * (6e-4 * 16**strength + 2e-5 * budget) + steps * 0.03
    if min_pushes is None:
        return level_ms
    return level_ms * max(_LONG_TRIES[0], min(_LONG_TRIES[-1], _LONG_WORK // places))


def _check_range(name: str, value: float, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name} is {value}; give a number from {low} to {high}")


def _make_long(make: Callable[[float], tuple[Level, int]], strength: float, min_pushes: int) -> Level:
    """Make levels of increasing difficulty until one provably needs ``min_pushes`` pushes."""
    tries, solves, longest = 0, _LONG_SOLVES, 0
    while True:
        # Beyond 1.0, the largest value of callers, still more sets of targets are compared.
        level, pulls = make(max(strength, min(1.25, tries / 8)))
        tries += 1
        proved = lower_bound(level) or 0
        # The pulls undone are a solution, so the minimum lies between the bound and their number.
        if pulls >= min_pushes > proved >= 0.8 * min_pushes and solves:
            solves -= 1
            with suppress(RoomSearchLimitError):
                solution = solve(level, _LONG_NODES // (level.height * level.width))
                proved = solution.pushes if solution else proved
        if proved >= min_pushes:
            return level
        longest = max(longest, proved)
        work = tries * level.num_boxes * level.height * level.width
        if tries >= _LONG_TRIES[-1] or (tries >= _LONG_TRIES[0] and work > _LONG_WORK):
            raise LevelGenerationError(
                f"no level was proved to need {min_pushes} pushes; the best of {tries} needs at least {longest}. "
                "Use a smaller min_pushes, a larger room or more boxes"
            )


def _make(
    uniform: _Uniform,
    height: int,
    width: int,
    num_boxes: int,
    strength: float,
    steps: int,
    turn: float,
    budget: int,
) -> tuple[Level, int]:
    """Make one level and return it with the number of pulls that led to it."""
    candidates = round(16**strength)
    reach = min(1.0, 0.5 + strength)
    for attempt in range(_ATTEMPTS):
        late = attempt - _ATTEMPTS // 3
        if attempt >= _ATTEMPTS - 4:
            floor = _inside_and_stamps(height, width)[0]
        else:
            floor = _carve(
                uniform, height, width, steps if late < 0 else steps + steps * late // 4 + late, turn
            )
        if floor.bit_count() <= 2 * num_boxes:
            continue
        layers = _choose_targets(uniform, floor, width, num_boxes, candidates)
        if layers is None:
            continue
        pulled = _pull_apart(uniform, floor, width, layers, reach, budget)
        if pulled is not None:
            boxes, player, pulls = pulled
            walls = ((1 << height * width) - 1) ^ floor
            return Level(height, width, walls, layers[0], boxes, player), pulls
    raise LevelGenerationError(
        f"no {height}x{width} level with {num_boxes} boxes was found in {_ATTEMPTS} rooms; "
        "use fewer boxes or a larger room"
    )


@lru_cache(maxsize=64)
def _inside_and_stamps(height: int, width: int) -> tuple[int, tuple[tuple[int, ...], ...]]:
    """Return the board inside the border and, for each of its cells, what each brush carves there."""
    inside = 0
    for row in range(1, height - 1):
        inside |= ((1 << width - 2) - 1) << row * width + 1
    stamps = []
    for cell in range(height * width):
        boards = []
        for brush in _BRUSHES if inside >> cell & 1 else ():
            board = 1 << cell
            for down, right in brush:
                board |= 1 << cell + down * width + right
            boards.append(board & inside)
        stamps.append(tuple(boards))
    return inside, tuple(stamps)


def _carve(uniform: _Uniform, height: int, width: int, steps: int, turn: float) -> int:
    """Return the floor that a random walk with changing brushes carves; it is connected."""
    inside, stamps = _inside_and_stamps(height, width)
    shifts = shifts_of(width)
    cell = (1 + int(uniform() * (height - 2))) * width + 1 + int(uniform() * (width - 2))
    shift = shifts[int(uniform() * 4)]
    kinds = len(_BRUSHES)
    floor = 0
    for _ in range(steps):
        if uniform() < turn:
            shift = shifts[int(uniform() * 4)]
        if inside >> cell + shift & 1:
            cell += shift
        floor |= stamps[cell][int(uniform() * kinds)]
    return floor


def _choose_targets(
    uniform: _Uniform, floor: int, width: int, num_boxes: int, candidates: int
) -> list[int] | None:
    """Draw sets of targets and return the `pull_layers` of the one from which boxes can be pulled farthest."""
    masks = pull_masks(floor, width)
    up, down, left, right = masks
    pool = cells_of((up << width | down >> width | left << 1 | right >> 1) & floor)
    size = len(pool)
    if size < num_boxes:
        return None
    best = None
    best_score = 0
    for _ in range(candidates):
        targets = 0
        # The head of a partial Fisher-Yates shuffle; the pool stays shuffled, which keeps the next draw uniform.
        for i in range(num_boxes):
            j = i + int(uniform() * (size - i))
            pool[i], pool[j] = pool[j], pool[i]
            targets |= 1 << pool[i]
        layers = pull_layers(targets, masks, width)
        score = _farthest_sum(layers, num_boxes)
        if score > best_score:
            best, best_score = layers, score
    return best


def _farthest_sum(layers: list[int], num_boxes: int) -> int:
    """Sum the distances of the ``num_boxes`` farthest cells; 0 if there are not as many off the targets."""
    score = 0
    missing = num_boxes
    for distance in range(len(layers) - 1, 0, -1):
        here = layers[distance].bit_count()
        if here >= missing:
            return score + distance * missing
        score += distance * here
        missing -= here
    return 0


def _pull_apart(
    uniform: _Uniform, floor: int, width: int, layers: list[int], reach: float, budget: int
) -> tuple[int, int, int] | None:
    """Pull every box off the targets, as far as it goes; two rounds, because the later boxes make room.

    Returns:
        Box board, player's cell and number of pulls; None if a box cannot leave its target.
    """
    boxes = layers[0]
    distances = {cell: pushes for pushes, layer in enumerate(layers) for cell in cells_of(layer)}
    order = cells_of(boxes)
    for i in range(len(order) - 1, 0, -1):
        j = int(uniform() * (i + 1))
        order[i], order[j] = order[j], order[i]
    player = _any_cell(uniform, floor & ~boxes)
    pulls = 0
    cells = (floor & ~boxes).bit_count()
    for last in (False, True):
        # Boxes stuck on targets come first, so that a hopeless room is rejected early.
        order.sort(key=distances.__getitem__)
        for i, box in enumerate(order):
            others = boxes ^ 1 << box
            goal = len(layers) - 1
            while goal and not layers[goal] & ~others:
                goal -= 1
            goal = ceil(reach * goal)
            if distances[box] >= goal:
                continue
            # While other boxes wait on targets, the player must not be shut in behind this one.
            room = cells // 2 if others & layers[0] else 0
            cell, stand, made = _drag(box, player, floor & ~others, width, distances, goal, room, budget)
            if made:
                order[i], player = cell, stand
                boxes = others | 1 << cell
                pulls += made
            elif last and not distances[box]:
                return None
    return boxes, _any_cell(uniform, flood(1 << player, floor & ~boxes, width)), pulls


def _drag(
    box: int, player: int, free: int, width: int, distances: dict[int, int], goal: int, room: int, budget: int
) -> tuple[int, int, int]:
    """Pull one box, the others standing still, to a cell at ``goal`` pushes from the targets or as near to that.

    Depth first, farthest neighbour first, at most ``budget`` positions.

    Returns:
        The box's cell, the player's cell after the last pull, and the number of pulls.
    """
    shifts = shifts_of(width)
    stack = [(0, box, player, 0)]
    seen: set[tuple[int, int]] = set()
    best = (box, player, 0)
    best_distance = distances[box]
    while stack and budget:
        distance, box, player, pulls = stack.pop()
        open_cells = free & ~(1 << box)
        region = flood(1 << player, open_cells, width)
        if (box, region) in seen:
            continue
        seen.add((box, region))
        if distance > best_distance and region.bit_count() >= room:
            best_distance, best = distance, (box, player, pulls)
            if distance >= goal:
                break
        budget -= 1
        found = [
            (distances[box + shift], box + shift, box + 2 * shift, pulls + 1)
            for shift in shifts
            if region >> box + shift & 1 and open_cells >> box + 2 * shift & 1
        ]
        found.sort()
        stack += found
    return best


def _any_cell(uniform: _Uniform, board: int) -> int:
    cells = cells_of(board)
    return cells[int(uniform() * len(cells))]
