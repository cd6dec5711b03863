"""Tells formulas that are safe to be evaluated from other text: known names, few operations, small powers."""

from __future__ import annotations

import ast
import re

_MAX_CHARS = 2_000
_MAX_NODES = 600
_MAX_DEPTH = 40
_MAX_POWER = 64
_MAX_POWERS_OVER_EACH_OTHER = 2
_MAX_NUMBER = 10**15
_FUNCTIONS = frozenset(
    [
        "sin",
        "cos",
        "tan",
        "cot",
        "sec",
        "csc",
        "asin",
        "acos",
        "atan",
        "sinh",
        "cosh",
        "tanh",
        "asinh",
        "acosh",
        "atanh",
        "exp",
        "log",
        "ln",
        "sqrt",
        "Abs",
    ]
)
_NAMES = frozenset({"pi", "E", "e"})
_VARIABLE = re.compile(r"[A-Za-z]")
_OPERATORS = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow)


def is_small_formula(text: str) -> bool:
    """Tell whether ``text`` is a formula of numbers, one-letter variables and usual functions that is quick to evaluate."""
    if len(text) > _MAX_CHARS:
        return False
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    nodes = list(ast.walk(tree))
    return len(nodes) <= _MAX_NODES and _is_small(tree.body, _MAX_DEPTH, _MAX_POWERS_OVER_EACH_OTHER)


def _is_small(node: ast.expr, depth: int, powers: int) -> bool:
    """Tell whether a part of a formula is small.

    Args:
        node: The part.
        depth: How many levels of operations it may have.
        powers: How many powers may stand within each other.
    """
    if depth == 0:
        return False
    match node:
        case ast.Constant(value=value):
            return _is_number_up_to(value, _MAX_NUMBER)
        case ast.Name(id=name):
            return name in _NAMES or _VARIABLE.fullmatch(name) is not None
        case ast.UnaryOp(op=ast.UAdd() | ast.USub(), operand=operand):
            return _is_small(operand, depth - 1, powers)
        case ast.BinOp(left=base, op=ast.Pow(), right=power):
            # Powers of numbers are written out, those of variables are not.
            within = powers - 1 if _has_variable(base) else min(powers - 1, 0)
            return powers > 0 and _is_small(base, depth - 1, within) and _is_small_power(power, depth)
        case ast.BinOp(left=left, op=op, right=right) if isinstance(op, _OPERATORS):
            return _is_small(left, depth - 1, powers) and _is_small(right, depth - 1, powers)
        case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]) if name in _FUNCTIONS:
            return _is_small(argument, depth - 1, powers)
    return False


def _is_small_power(node: ast.expr, depth: int) -> bool:
    """Tell whether an exponent is small: a number up to 64, a quotient of such, or a formula of variables without powers."""
    match node:
        case ast.Constant(value=value):
            return _is_number_up_to(value, _MAX_POWER)
        case ast.UnaryOp(op=ast.UAdd() | ast.USub(), operand=operand):
            return _is_small_power(operand, depth)
        case ast.BinOp(left=left, op=ast.Div(), right=right) if not _has_variable(node):
            return _is_small_power(left, depth) and _is_small_power(right, depth)
    return _has_variable(node) and _is_small(node, depth - 1, 0)


def _has_variable(node: ast.expr) -> bool:
    return any(isinstance(part, ast.Name) and part.id not in _FUNCTIONS for part in ast.walk(node))


def _is_number_up_to(value: object, largest: int) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= largest
