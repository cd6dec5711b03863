"""Secrets are found in every form in which a program is likely to print them."""

from __future__ import annotations

import base64
import json
from urllib.parse import quote, quote_plus

import pytest

from verl_agent_env.envs.mcp_chat.redaction import Redactor

SECRET = 'päss "word"/+line\nbreak'


@pytest.mark.parametrize(
    "form",
    [
        SECRET,
        json.dumps(SECRET),
        json.dumps(SECRET, ensure_ascii=False),
        quote(SECRET, safe=""),
        quote_plus(SECRET),
        base64.b64encode(SECRET.encode()).decode(),
        base64.urlsafe_b64encode(SECRET.encode()).decode(),
    ],
)
def test_every_form_is_hidden(form: str) -> None:
    hidden = Redactor([SECRET]).hide(f"before {form} after")
    assert hidden.startswith("before ")
    assert hidden.endswith(" after")
    assert "[hidden]" in hidden
    assert "word" not in hidden


def test_secret_inside_another_leaves_nothing_of_it() -> None:
    assert Redactor(["abcdef", "abcdef-ghijkl"]).hide("abcdef-ghijkl abcdef") == "[hidden] [hidden]"


@pytest.mark.parametrize("value", ["true", "8080", "debug", "production", ""])
def test_short_and_common_values_are_no_secrets(value: str) -> None:
    assert Redactor([value]).hide(f"it is {value}") == f"it is {value}"


def test_json_values_are_cleaned_in_texts_and_keys() -> None:
    assert Redactor(["abcdef"]).hide_in({"abcdef": ["x abcdef", 1, None]}) == {
        "[hidden]": ["x [hidden]", 1, None]
    }
