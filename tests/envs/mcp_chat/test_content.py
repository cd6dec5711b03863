"""What a tool answers becomes the content of a message, whatever it is made of."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from mcp.types import (
    AudioContent,
    BlobResourceContents,
    CallToolResult,
    ContentBlock,
    EmbeddedResource,
    ImageContent,
    TextContent,
)

from tests.envs.mcp_chat.server_program import PNG, everything
from verl_agent_env.envs.mcp_chat.content import MAX_MEDIA_CHARS, content_of
from verl_agent_env.envs.mcp_chat.redaction import Redactor
from verl_agent_env.envs.spaces import is_message

NOTHING_HIDDEN = Redactor(())


def shown(*blocks: ContentBlock, max_chars: int = 1000, **fields: Any) -> Any:
    return content_of(CallToolResult(content=list(blocks), **fields), NOTHING_HIDDEN, max_chars)


def test_every_type_of_content_has_its_part() -> None:
    content = content_of(CallToolResult.model_validate(everything()), NOTHING_HIDDEN, 1000)
    assert is_message({"role": "tool", "tool_call_id": "c", "content": content})
    assert isinstance(content, list)
    url = f"data:image/png;base64,{PNG}"
    assert content == [
        {"type": "text", "text": "a text"},
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
        {"type": "text", "text": "[A sound (audio/ogg) of 4 bytes, which cannot be shown]"},
        {"type": "text", "text": "[Resource file:///a.txt]\nin a file"},
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": "[Resource file:///a.zip (application/zip), 3 bytes that are no text]"},
        {"type": "text", "text": "[Resource file:///b.txt (text/plain), 'b': more of it]"},
        {"type": "text", "text": '{\n  "kind": "everything"\n}'},
    ]


def test_text_alone_is_plain_text() -> None:
    assert shown(TextContent(text="a"), TextContent(text="b")) == "a\nb"


@pytest.mark.parametrize(
    ("text", "structured"),
    [
        ('{"a": 1}', {"a": 1}),
        ("3", {"result": 3}),
        ("sunny", {"content": "sunny"}),
        ("[1,2]", [1, 2]),
        (f'{{"a": {2**80}}}', {"a": 2**80}),
    ],
)
def test_structured_content_that_a_text_holds_is_not_said_twice(text: str, structured: Any) -> None:
    assert shown(TextContent(text=text), structured_content=structured) == text


def test_structured_content_that_no_text_holds_is_added() -> None:
    assert shown(TextContent(text="Done."), structured_content={"a": 1}) == 'Done.\n{\n  "a": 1\n}'


def test_structured_content_is_shown_where_there_is_nothing_else_however_long_its_numbers_are() -> None:
    assert shown(structured_content={"result": []}) == '{\n  "result": []\n}'
    assert shown(structured_content={"a": 2**80}) == f'{{\n  "a": {2**80}\n}}'


def test_nothing_at_all_is_empty_text() -> None:
    assert shown() == ""


def test_error_without_a_word_says_that_it_is_one() -> None:
    assert shown(is_error=True).startswith("Error:")


def test_text_is_cut_in_all_not_in_each_block() -> None:
    said = shown(TextContent(text="x" * 80), TextContent(text="y" * 80), max_chars=100)
    assert said.count("x") == 80
    assert said.count("y") == 20
    assert "60 more characters" in said


def test_secrets_are_hidden_before_text_is_cut() -> None:
    result = CallToolResult(content=[TextContent(text="12345 the-secret")])
    assert "the" not in content_of(result, Redactor(["the-secret"]), 12)


def test_picture_beyond_the_limit_is_named_only() -> None:
    said = shown(ImageContent(data="A" * (MAX_MEDIA_CHARS + 4), mime_type="image/png"))
    assert "too large" in said


@pytest.mark.parametrize(
    ("data", "mime_type"),
    [
        (PNG, "IMAGE/PNG"),
        (PNG, 'image/png; x=">'),
        (f"data:image/png;base64,{PNG}", "image/png"),
        (f"{PNG[:8]}\r\n{PNG[8:]}\n", "image/png"),
        (PNG.rstrip("="), "image/png"),
    ],
)
def test_a_picture_is_shown_as_decoders_take_it(data: str, mime_type: str) -> None:
    assert shown(ImageContent(data=data, mime_type=mime_type)) == [SHOWN_PICTURE]


@pytest.mark.parametrize("data", ["", "!!!", "A", "data:image/png;base64,", "QUJD=QUJD"])
def test_what_is_no_picture_is_named_only(data: str) -> None:
    assert shown(ImageContent(data=data, mime_type="image/png")).startswith(
        "[A picture (image/png), which is"
    )


def test_a_sound_is_shown_whatever_its_parameters_are() -> None:
    (part,) = shown(AudioContent(data="UklGRg==", mime_type="audio/wave; rate=8000"))
    assert part["input_audio"] == {"data": "UklGRg==", "format": "wav"}


@pytest.mark.parametrize(
    ("blob", "told"), [(b'{"a": 1}', '[Resource a:b]\n{"a": 1}'), (b"\xff", "1 bytes that are no text]")]
)
def test_a_file_of_text_in_base64_is_text(blob: bytes, told: str) -> None:
    file = BlobResourceContents(uri="a:b", mime_type="application/json", blob=base64.b64encode(blob).decode())
    assert shown(EmbeddedResource(resource=file)).endswith(told)


def test_half_characters_become_question_marks() -> None:
    assert shown(TextContent(text="a\ud800b")) == "a?b"


PICTURE = ImageContent(data=PNG, mime_type="image/png")
SHOWN_PICTURE = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}


@pytest.mark.parametrize(
    "structured",
    [
        {"result": PNG},
        PNG,
        {"image": f"data:image/png;base64,{PNG}"},
        {"result": {"type": "image", "data": PNG, "mimeType": "image/png"}},
        {"result": [{"type": "image", "data": PNG, "mimeType": "image/png"}]},
        [PNG],
    ],
)
def test_a_picture_is_not_shown_again_as_text(structured: Any) -> None:
    assert shown(PICTURE, structured_content=structured) == [SHOWN_PICTURE]


def test_a_picture_within_more_is_named_where_it_was() -> None:
    content = shown(PICTURE, structured_content={"caption": "a tree", "pictures": [PNG, "x"]})
    assert content[0] == SHOWN_PICTURE
    assert PNG not in content[1]["text"]
    assert '"caption": "a tree"' in content[1]["text"]
    assert "[shown above]" in content[1]["text"]


@pytest.mark.parametrize("structured", [{"result": ["a", "b"]}, ["a", "b"]])
def test_a_list_that_is_shown_block_by_block_is_not_shown_again(structured: Any) -> None:
    assert shown(TextContent(text="a"), TextContent(text="b"), structured_content=structured) == "a\nb"


@pytest.mark.parametrize(
    "structured", [{"result": ["a"]}, {"result": ["b", "a"]}, {"result": ["a", "b", "c"]}]
)
def test_a_list_that_is_not_shown_whole_is_added(structured: Any) -> None:
    assert str(shown(TextContent(text="a"), TextContent(text="b"), structured_content=structured)).startswith(
        "a\nb\n{"
    )


def test_values_that_are_shown_as_json_each_are_not_shown_again() -> None:
    blocks = TextContent(text='{"a": 1}'), TextContent(text="2")
    assert shown(*blocks, structured_content={"result": [{"a": 1}, 2]}) == '{"a": 1}\n2'
