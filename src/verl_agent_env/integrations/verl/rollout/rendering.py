"""Rendering with chat templates: a cache of renderings, and the tokens between two turns.

verl renders and tokenizes the conversation twice for each message, without and with it, both times with the tools; with a few
thousand concurrent episodes that takes longer than anything else in an agent loop. Here a text is tokenized in pieces, and most
pieces, such as the tools, were tokenized before.
"""

from __future__ import annotations

import dataclasses
import re
import threading
from collections import OrderedDict
from typing import Any

import orjson
from verl.utils.tokenizer.chat_template import apply_chat_template
from verl.utils.tokenizer.continuous_token import ContinuousTokenBuilder

_MAX_RENDERED = 8192
_COMPARED = 8
"""Renderings that are tokenized as a whole too, before pieces are trusted."""


class RememberedRenderings:
    """Mixin of verl's token builders for text, with a cache: a rendering depends on nothing but its arguments."""

    _memory: OrderedDict[bytes, list[int]]
    _lock: threading.Lock
    _pieces: re.Pattern[str] | None
    """Where a text is cut; ``None`` if it is tokenized as a whole."""
    _num_compared: int
    tokenizer: Any
    chat_template_kwargs: dict[str, Any]

    def _render_tokens(
        self,
        messages: list[dict[str, Any]],
        *,
        add_generation_prompt: bool,
        tools: list[dict[str, Any]] | None = None,
    ) -> list[int]:
        # Whole conversations are rendered once; the few messages before an answer are rendered every time.
        if add_generation_prompt:
            return self._tokens_of(messages, add_generation_prompt=True, tools=tools)
        key = orjson.dumps(["prefix", messages, tools])
        return self._recall(key) or self._remember(
            key, self._tokens_of(messages, add_generation_prompt=False, tools=tools)
        )

    def render_delta_token_id(
        self,
        prefix_messages: list[dict[str, Any]],
        appended_messages: list[dict[str, Any]],
        *,
        add_generation_prompt: bool = False,
        tools: list[dict[str, Any]] | None = None,
    ) -> list[int]:
        """Return the tokens that ``appended_messages`` add to the conversation."""
        key = orjson.dumps(["delta", prefix_messages, appended_messages, add_generation_prompt, tools])
        return self._recall(key) or self._remember(
            key,
            self._anew(
                "render_delta_token_id",
                prefix_messages,
                appended_messages,
                add_generation_prompt=add_generation_prompt,
                tools=tools,
            ),
        )

    def _tokens_of(self, messages: list[dict[str, Any]], **named: Any) -> list[int]:
        """Render and tokenize a conversation, piece by piece where that gives the same tokens."""
        if self._pieces is None:
            return self._anew("_render_tokens", messages, **named)
        text = apply_chat_template(
            self.tokenizer, messages, tokenize=False, **named, **self.chat_template_kwargs
        )
        ids: list[int] = []
        for piece in filter(None, self._pieces.split(text)):
            # No JSON begins so, as the other keys are.
            key = b"\0" + piece.encode("utf-8", "surrogatepass")
            ids += self._recall(key) or self._remember(
                key, self.tokenizer.encode(piece, add_special_tokens=False)
            )
        if self._num_compared < _COMPARED:
            self._num_compared += 1
            whole = self._anew("_render_tokens", messages, **named)
            if ids != whole:
                self._pieces = None
            return whole
        return ids

    def _anew(self, name: str, *arguments: Any, **options: Any) -> list[int]:
        """Call the builder's own method."""
        ids: list[int] = getattr(super(), name)(*arguments, **options)
        return ids

    def _recall(self, key: bytes) -> list[int] | None:
        with self._lock:
            found = self._memory.get(key)
            if found is None:
                return None
            self._memory.move_to_end(key)
            return list(found)

    def _remember(self, key: bytes, ids: list[int]) -> list[int]:
        with self._lock:
            self._memory[key] = ids
            if len(self._memory) > _MAX_RENDERED:
                self._memory.popitem(last=False)
        return list(ids)


class TurnGaps:
    """Mixin of verl's builder for unknown model types: inserts the tokens that the template has after the end of a turn.

    A model stops at ``<|im_end|>``; most templates have a line break after it. verl inserts it for the model types that it
    knows, but others, such as ``llama``, can have such a template too.
    """

    _render_tokens: Any

    def _merge_context_token_ids(self, runtime: list[int], appended: list[int], **named: Any) -> Any:
        gap = self._gap_after(runtime[-1]) if runtime else []
        merged = super()._merge_context_token_ids([*runtime, *gap], appended, **named)  # type: ignore[misc]
        return dataclasses.replace(merged, inserted_token_ids=[*gap, *merged.inserted_token_ids])

    def _gap_after(self, end_id: int) -> list[int]:
        """Return the tokens that the template has between the end of an answer and the next message."""
        gaps = []
        for text in ("1", "2"):
            messages = [{"role": "user", "content": "0"}, {"role": "assistant", "content": text}]
            ids = self._render_tokens(messages, add_generation_prompt=False)
            if end_id not in ids:
                return []
            gaps.append(ids[len(ids) - ids[::-1].index(end_id) :])
        # If the template does not end answers with this token, the tokens after its last occurrence contain the answer.
        return gaps[0] if gaps[0] == gaps[1] else []


_classes: dict[type, type] = {}


def remembering(builder: Any) -> Any:
    """Return a builder like ``builder`` with a cache of renderings; a multimodal one is returned unchanged."""
    if builder.supports_multimodal():
        return builder
    kind = type(builder)
    made = _classes.get(kind)
    if made is None:
        mixed = (
            (RememberedRenderings, TurnGaps) if kind is ContinuousTokenBuilder else (RememberedRenderings,)
        )
        made = _classes[kind] = type(f"Remembering{kind.__name__}", (*mixed, kind), {})
    new = made(builder.tokenizer, chat_template_kwargs=builder.chat_template_kwargs)
    new._memory, new._lock = OrderedDict(), threading.Lock()  # noqa: SLF001 - of the mixin above
    is_plain = kind._render_tokens is ContinuousTokenBuilder._render_tokens  # noqa: SLF001 - verl's own
    new._pieces, new._num_compared = pieces_of(builder.tokenizer) if is_plain else None, 0  # noqa: SLF001
    return new


def pieces_of(tokenizer: Any) -> re.Pattern[str] | None:
    """Return where a tokenizer cuts every text before anything else, so that no piece changes the tokens of another.

    That is before a special token that takes no blanks from the text before it, and into which no other token reaches.
    """
    added = list(getattr(tokenizer, "added_tokens_decoder", {}).values())
    contents = [token.content for token in added]
    openings = [
        token.content
        for token in added
        if token.special
        and not (token.normalized or token.lstrip or token.single_word)
        and not any(_reaches_into(content, token.content) for content in contents)
    ]
    return re.compile(f"(?={'|'.join(map(re.escape, openings))})") if openings else None


def _reaches_into(content: str, opening: str) -> bool:
    """Return true if ``content`` can begin before ``opening`` and end within it or after it."""
    ends = (content[start:] for start in range(1, len(content)))
    return any(opening.startswith(end) or end.startswith(opening) for end in ends)
