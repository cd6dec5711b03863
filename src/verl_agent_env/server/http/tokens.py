"""Bearer tokens with names and scopes, as an operator writes them down.

One token a line, in three words: the name of its holder, its scopes, and the token itself or its SHA-256::

    # name     scopes    token, or sha256:<64 hex digits>
    trainer    run       d2f1…
    dashboard  read      sha256:9b74c989…
    ops        admin     sha256:4e07408…
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, get_args

from verl_agent_env.types import tag_of, tag_of_holder

Scope = Literal["read", "run", "admin"]

_INCLUDED: Final[Mapping[str, frozenset[str]]] = {
    "read": frozenset({"read"}),
    "run": frozenset({"read", "run"}),
    "admin": frozenset({"read", "run", "admin"}),
}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}")
_TOKEN = re.compile(r"[!-~]{1,512}")
_DIGEST_PREFIX = "sha256:"
_DIGEST = re.compile(r"[0-9a-fA-F]{64}")
_WORDS_OF_A_LINE = 3


@dataclass(frozen=True, slots=True)
class Principal:
    """Holder of a token, and the scopes of that token."""

    name: str = ""
    """Of the token's holder; empty for one without a name, which sees all environments."""
    scopes: frozenset[str] = _INCLUDED["admin"]
    key_scope: bytes = b""
    """Idempotency keys of one holder are none of another's."""
    is_forwarded: bool = False
    """Whether another worker says so, which has seen the token."""
    tag: str = field(init=False)
    """Marks the ids of the holder's environments; empty without a name."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "tag", tag_of_holder(self.name) if self.name else "")

    @classmethod
    def holder(cls, name: str, scopes: Iterable[str]) -> Principal:
        """Make the holder of a token that is written down with these scopes."""
        included = frozenset(scope for given in scopes for scope in _INCLUDED[given])
        return cls(name, included, b"holder:" + name.encode())

    @property
    def is_admin(self) -> bool:
        """True if the token has the scope ``admin``, which covers environments of all holders."""
        return "admin" in self.scopes

    def sees(self, env_id: str) -> bool:
        """Tell whether this holder may see an environment, should it exist."""
        return "admin" in self.scopes or tag_of(env_id) == self.tag

    def positions_of_own(self, env_ids: Sequence[str]) -> list[int] | None:
        """Positions of the environments that are there for this holder; None for all of them."""
        if "admin" in self.scopes:
            return None
        tag = self.tag
        own = [position for position, env_id in enumerate(env_ids) if tag_of(env_id) == tag]
        return None if len(own) == len(env_ids) else own

    @property
    def run_tag(self) -> str | None:
        """Tag of the holder whose environments belong to a run's name; None for those of all holders."""
        return None if self.is_admin else self.tag

    def to_text(self) -> str:
        """Give the holder as one worker names it to another."""
        return f"{','.join(sorted(self.scopes))} {self.name}".rstrip()

    @classmethod
    def from_text(cls, text: str) -> Principal:
        """Make the holder that another worker named.

        Raises:
            ValueError: It is not written so.
        """
        scopes, _, name = text.partition(" ")
        given = [scope for scope in scopes.split(",") if scope in _INCLUDED]
        if not given or (not _NAME.fullmatch(name) if name else "admin" not in given):
            raise ValueError("no holder of a token")
        return dataclasses.replace(cls.holder(name, given), is_forwarded=True)


ANYBODY = Principal()
"""Whose requests are where nobody is asked for a token, and holders of tokens without a name: they may do everything."""


def digest_of(token: bytes) -> bytes:
    """Return the digest under which a token is kept."""
    return hashlib.sha256(token).digest()


def read_token_file(path: str) -> dict[bytes, Principal]:
    """Holders by the digest of their tokens.

    Raises:
        ValueError: The file cannot be read, or a line is wrong; says which one, and never holds a token.
    """
    try:
        text = Path(path).read_text("utf-8")
    except OSError as refused:
        raise ValueError(f"the token file {path} cannot be read: {refused.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"the token file {path} is no UTF-8 text") from None
    try:
        return parse_tokens(text)
    except ValueError as fault:
        raise ValueError(f"the token file {path} is wrong: {fault}") from None


def parse_tokens(text: str) -> dict[bytes, Principal]:
    """Holders by the digest of their tokens, from the lines of a file.

    Raises:
        ValueError: Says which line is wrong, and why; never holds a token.
    """
    found: dict[bytes, Principal] = {}
    names: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            digest, principal = _parse_line(words)
            if names.setdefault(principal.tag, principal.name) != principal.name:
                raise ValueError(f"the name '{principal.name}' cannot be told from '{names[principal.tag]}'")
            if digest in found:
                raise ValueError(f"'{principal.name}' has the same token as '{found[digest].name}'")
        except ValueError as fault:
            raise ValueError(f"line {number}: {fault}") from None
        found[digest] = principal
    if not found:
        raise ValueError("it holds no tokens")
    return found


def _parse_line(words: list[str]) -> tuple[bytes, Principal]:
    if len(words) != _WORDS_OF_A_LINE:
        raise ValueError(f"not three words (name, scopes, token), but {len(words)}")
    name, scopes, token = words
    if not _NAME.fullmatch(name):
        raise ValueError("a name is up to 64 letters, digits and _.@-, and begins with a letter or a digit")
    given = scopes.split(",")
    if not all(scope in _INCLUDED for scope in given):
        # Not the text itself: it may be the token, at the wrong place.
        raise ValueError(f"scopes are {', '.join(get_args(Scope))}, with commas between them")
    principal = Principal.holder(name, given)
    if token.startswith(_DIGEST_PREFIX):
        digits = token.removeprefix(_DIGEST_PREFIX)
        if not _DIGEST.fullmatch(digits):
            raise ValueError("after 'sha256:' come 64 hex digits")
        return bytes.fromhex(digits), principal
    if not _TOKEN.fullmatch(token):
        raise ValueError("a token is up to 512 visible ASCII characters")
    return digest_of(token.encode()), principal
