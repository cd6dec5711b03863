"""Messages and the text inside them."""

from __future__ import annotations

import base64

import pytest

from verl_agent_env.messages import content_text, image_part, text_part, tool_message, user_message
from verl_agent_env.messages.content import well_formed


def test_messages_have_role_content_and_id() -> None:
    assert user_message("a") == {"role": "user", "content": "a"}
    assert tool_message("c", [text_part("a")]) == {
        "role": "tool",
        "tool_call_id": "c",
        "content": [{"type": "text", "text": "a"}],
    }


def test_picture_travels_as_data_url() -> None:
    url = image_part(b"\x89PNG")["image_url"]["url"]
    head, _, data = url.partition(",")
    assert head == "data:image/png;base64"
    assert base64.b64decode(data) == b"\x89PNG"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("a", "a"),
        (None, ""),
        (5, ""),
        ({"type": "text", "text": "a"}, ""),
        ([text_part("a"), image_part(b""), text_part("b")], "a\nb"),
        (
            ["a", 5, None, {"text": "b"}, {"type": "text", "text": 7}, {"type": "output_text", "text": "c"}],
            "a\nb\nc",
        ),
    ],
)
def test_text_of_a_content_is_all_its_parts(content: object, text: str) -> None:
    assert content_text(content) == text


@pytest.mark.parametrize(("text", "mended"), [("a", "a"), ("é🙂", "é🙂"), ("\ud800a\udfffé", "?a?é")])
def test_lone_surrogates_become_question_marks(text: str, mended: str) -> None:
    assert well_formed(text) == mended
    assert mended.encode()
