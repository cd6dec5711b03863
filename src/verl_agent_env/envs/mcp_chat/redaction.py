"""Removal of secrets from texts, in all forms in which a program is likely to print them."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import quote, quote_plus

HIDDEN = "[hidden]"
MIN_SECRET_CHARS = 6
"""Shortest value that counts as a secret: hiding ``true`` or ``8080`` would only spoil results."""

_COMMON_WORDS = frozenset(
    {"default", "development", "disabled", "enabled", "production", "stderr", "stdout", "warning"}
)


class Redactor:
    """Replaces each secret by ``[hidden]``."""

    def __init__(self, secrets: Iterable[str]) -> None:
        found = {form for secret in secrets if _is_secret(secret) for form in _forms(secret)}
        # The longest first: one secret may be a part of another.
        self._forms = sorted(found, key=lambda form: (-len(form), form))

    def hide(self, text: str) -> str:
        """Return ``text`` without secrets."""
        for form in self._forms:
            if form in text:
                text = text.replace(form, HIDDEN)
        return text

    def hide_in(self, value: Any) -> Any:
        """Return a JSON value without secrets in its texts and keys."""
        if not self._forms:
            return value
        if isinstance(value, str):
            return self.hide(value)
        if isinstance(value, list):
            return [self.hide_in(inner) for inner in value]
        if isinstance(value, dict):
            return {self.hide(key): self.hide_in(inner) for key, inner in value.items()}
        return value


def _is_secret(text: str) -> bool:
    return len(text) >= MIN_SECRET_CHARS and text.casefold() not in _COMMON_WORDS


def _forms(secret: str) -> Iterator[str]:
    """Return the secret itself, in the escapes of JSON and URLs, and in base64."""
    yield secret
    yield json.dumps(secret)[1:-1]
    yield json.dumps(secret, ensure_ascii=False)[1:-1]
    encoded = secret.encode("utf-8", "surrogatepass")
    yield quote(encoded, safe="")
    yield quote_plus(encoded)
    yield base64.b64encode(encoded).decode().rstrip("=")
    yield base64.urlsafe_b64encode(encoded).decode().rstrip("=")
