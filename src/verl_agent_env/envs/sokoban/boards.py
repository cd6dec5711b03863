"""Bit boards: a set of grid cells held in one Python int, cell ``(r, c)`` at bit ``r * width + c``.

Rooms have a closed border, so shifting a board of floor cells by one row or one column never wraps around.
"""


def cells_of(board: int) -> list[int]:
    """List the cells of ``board`` in reading order."""
    cells = []
    while board:
        low = board & -board
        cells.append(low.bit_length() - 1)
        board ^= low
    return cells


def flood(start: int, free: int, width: int) -> int:
    """Return every cell of ``free`` that is connected to ``start`` (a board inside ``free``) by straight steps."""
    region = start
    while True:
        grown = region | ((region << 1 | region >> 1) & free)
        grown |= (grown << width | grown >> width) & free
        if grown == region:
            return region
        region = grown


def pull_masks(floor: int, width: int) -> tuple[int, int, int, int]:
    """Return, for up, down, left and right, the cells that a box can be pulled onto in that direction.

    A box pulled onto cell ``c`` needs ``c`` and the cell behind it, where the player steps, to be floor.
    """
    return (
        floor & floor << width,
        floor & floor >> width,
        floor & floor << 1,
        floor & floor >> 1,
    )


def pull_layers(goals: int, masks: tuple[int, int, int, int], width: int) -> list[int]:
    """Sort cells by the number of pushes that bring a lone box from them to the nearest of ``goals``.

    Where the player can walk is ignored, so the numbers never exceed the true ones. ``masks`` comes from
    `pull_masks`; entry ``k`` of the result is the board of cells that need ``k`` pushes, and cells that are
    in no entry are dead: a box on them never reaches a goal.
    """
    up, down, left, right = masks
    layers = [goals]
    unseen = ~goals
    frontier = goals
    while True:
        frontier = (
            (frontier >> width & up)
            | (frontier << width & down)
            | (frontier >> 1 & left)
            | (frontier << 1 & right)
        ) & unseen
        if not frontier:
            return layers
        unseen ^= frontier
        layers.append(frontier)
