"""Random values of a JSON Schema, for ``action_space.sample()`` and random policies."""

from __future__ import annotations

from typing import Any

import numpy as np

_WORDS = ("alpha", "bravo", "charlie", "delta", "echo")


def sample_value(schema: Any, random: np.random.Generator) -> Any:
    """Sample a value that fits ``schema``: one of its ``examples``, ``enum`` or ``const`` if it has any, else by type.

    Covers what tool parameters use: objects, arrays, strings, numbers, booleans, ``anyOf``/``oneOf``.
    """
    if not isinstance(schema, dict):
        # ``true`` takes anything.
        schema = {}
    if "const" in schema:
        return schema["const"]
    for key in ("enum", "examples"):
        if schema.get(key):
            return schema[key][int(random.integers(len(schema[key])))]
    for key in ("anyOf", "oneOf"):
        if schema.get(key):
            return sample_value(schema[key][int(random.integers(len(schema[key])))], random)
    kind = schema.get("type", "string")
    if isinstance(kind, list):
        kind = kind[0]
    return _sample_of_type(kind, schema, random)


def _sample_of_type(kind: str, schema: dict[str, Any], random: np.random.Generator) -> Any:
    if kind == "object":
        required = set(schema.get("required", ()))
        properties = schema.get("properties", {})
        return {
            name: sample_value(inner, random)
            for name, inner in properties.items()
            if name in required or random.random() < 0.5
        }
    if kind == "array":
        low = schema.get("minItems", 0)
        length = int(random.integers(low, schema.get("maxItems", low + 3) + 1))
        return [sample_value(schema.get("items", {}), random) for _ in range(length)]
    if kind == "integer":
        low = schema.get("minimum", min(0, schema.get("maximum", 0)))
        return int(random.integers(low, schema.get("maximum", low + 100) + 1))
    if kind == "number":
        low = schema.get("minimum", min(0.0, schema.get("maximum", 0.0)))
        return float(random.uniform(low, schema.get("maximum", low + 1.0)))
    if kind == "boolean":
        return bool(random.integers(2))
    if kind == "null":
        return None
    word = _WORDS[int(random.integers(len(_WORDS)))]
    return word.ljust(schema.get("minLength", 0), "x")[: schema.get("maxLength", len(word) + 64)]
