"""What of a text is said aloud, and what is thought."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.messages.reading.timing import assert_linear
from verl_agent_env.messages.reading import opened_thought, separate_thoughts, strip_thoughts, strip_turn_ends

ANALYSIS = "<|channel|>analysis<|message|>left<|end|><|start|>assistant"


@pytest.mark.parametrize(
    ("text", "visible"),
    [
        ("plain", "plain"),
        ("<think>a</think> b <think>c</think> d", "b  d"),
        ("a <think> b", "a"),
        ("<think></think>", ""),
        ("<Think >left</THINK>up", "up"),
        ('<think type="deep">left</think>up', "up"),
        ("<thinking>left</thinking>up", "up"),
        ("<think>left</thinking>up", "up"),
        ("<reasoning>left</reasoning>up", "up"),
        ("<thought>left</thought>up", "up"),
        ("<reflection>left</reflection>up", "up"),
        ("<seed:think>left</seed:think>up", "up"),
        ("[THINK]left[/THINK]up", "up"),
        ("◁think▷left◁/think▷up", "up"),
        ("<|begin_of_thought|>left<|end_of_thought|>up", "up"),
        ("<|START_THINKING|>left<|END_THINKING|>up", "up"),
        ("<|channel>thought\nleft<channel|>up", "up"),
        ("<think>left< /think>up", "up"),
        ("<think>left<\\/think>up", "up"),
        ("<think/>up", "up"),
        ("<think />up<think/> right", "up right"),
        ("<longcat_think>left</longcat_think>up", "up"),
        ("<inner_thoughts>left</inner_thoughts>up", "up"),
        ("<thought_process>left</thought_process>up", "up"),
        ("<think_never_used_51bce0>left</think_never_used_51bce0>up", "up"),
        ("<rationale>left</rationale>up", "up"),
        ("[THINKING]left[/THINKING]up", "up"),
        ("[unused16]left[unused17]up", "up"),
        ("<unused94>thought\nleft<unused95>up", "up"),
        ("<|think|>left<|/think|>up", "up"),
        ("<|think_start|>left<|think_end|>up", "up"),
        ("<|thinking_start|>left<|thinking_end|>up", "up"),
        ("<think duration=3>left</think>up", "up"),
        ("<reasoning effort='high'>left</reasoning>up", "up"),
        ('<thought id="1">left</thought><thought id="2">right</thought>up', "up"),
        ("<thinking_process>left</thinking_process>up", "up"),
        ("<internal_reasoning>left</internal_reasoning>up", "up"),
        ("<chain-of-thought>left</chain-of-thought>up", "up"),
        ("<inner-monologue>left</inner-monologue>up", "up"),
        ("Here is my thought process:\nleft\nHere is my response:\nup", "up"),
        ("Here's my thought process: left", ""),
        ("Here are my reasoning steps:\nleft\n[BEGIN FINAL RESPONSE]up[END FINAL RESPONSE]", "up"),
        ("Here is my thought about it: up", "Here is my thought about it: up"),
        ("<|begin_of_thought|>left<|end_of_thought|><|begin_of_solution|>up<|end_of_solution|>", "up"),
        ("<|START_RESPONSE|>up<|END_RESPONSE|>", "up"),
    ],
)
def test_thoughts_are_taken_out(text: str, visible: str) -> None:
    assert strip_thoughts(text) == visible


@pytest.mark.parametrize(
    "opening",
    [
        '<details type="reasoning">',
        '<details type="reasoning" done="true" duration="3">\n<summary>Thought for 3 seconds</summary>',
        "<DETAILS open done='true' type='reasoning'>",
        "<details type = thinking open>",
        '<details class="thinking-block collapsed">',
        "<details>\n<summary>Thought for 3 seconds</summary>",
        "<details><summary>💭 Thinking process</summary>",
        '<div class="thinking">',
        '<section data-type="thought">',
    ],
)
def test_an_element_that_says_that_it_holds_a_thought_is_one(opening: str) -> None:
    closing = f"</{opening[1:].split()[0].partition('>')[0]}>"
    assert strip_thoughts(f"{opening}\n> left\n{closing}\nup") == "up"
    assert strip_thoughts(f"up {opening}left{closing}\nand {opening}right{closing}down") == "up \nand down"
    assert strip_thoughts(f"up {opening} left") == "up"
    within = f"{closing.replace('/', '')}a{closing}{closing.replace('</', '<').replace('>', '/>')}"
    assert strip_thoughts(f"{opening}{within}left{closing}up{closing}") == f"up{closing}"
    assert strip_thoughts(f"<think>{opening}</think>up") == "up"
    assert strip_thoughts(f"{opening}<think>a</think>left{closing}up") == "up"
    assert opened_thought(f"<|assistant|>{opening}") == (
        opening if opening.endswith(('">', "'>", "n>")) else ""
    )


@pytest.mark.parametrize(
    "text",
    [
        "<details>up</details>",
        "<details><summary>More</summary>up</details>",
        "<details><summary>The reasoning of Kant</summary>up</details>",
        '<details type="tool_calls" name="reasoning">up</details>',
        '<details summary="type of reasoning">up</details>',
        '<div id="thinking" subtype="reasoning">up</div></details>',
        '<details type="reasoning"/>up',
        "</details>up</div>",
        '{"html": "<details type=\'reasoning\'>left</details>"}',
    ],
)
def test_other_elements_are_said(text: str) -> None:
    assert strip_thoughts(text) == text


@pytest.mark.parametrize("closing", ["</think>", "</reasoning>", "[/THINK]", "◁/think▷", "</seed:think>"])
def test_closing_tag_alone_closes_a_thought_that_the_prompt_opened(closing: str) -> None:
    assert strip_thoughts(f"go left{closing}up") == "up"
    assert strip_thoughts(f"a{closing}left{closing}up") == "up"


@pytest.mark.parametrize("opening", ["<think>", "<thinking>", "[THINK]", "◁think▷", "<seed:think>"])
def test_thought_that_is_cut_off_reaches_to_the_end(opening: str) -> None:
    assert strip_thoughts(f"{opening}I go <answer>left</answer>") == ""
    assert strip_thoughts(f"up {opening}left") == "up"


@pytest.mark.parametrize(
    "text",
    [
        "<think>a <think>b</think> left</think> up",
        "<think>a <reasoning>b</reasoning> left</think> up",
        "<think>the tag <think> opens it</think> up",
        "<think>`</think>` closes it: left</think> up",
        "<think>a</think> left</think> up",
    ],
)
def test_thoughts_within_thoughts_are_thoughts(text: str) -> None:
    assert strip_thoughts(text) == "up"


def test_tag_in_code_ticks_is_only_mentioned() -> None:
    assert strip_thoughts("I use no `<think>` here: up") == "I use no `<think>` here: up"


@pytest.mark.parametrize(
    ("text", "visible"),
    [
        (f"{ANALYSIS}<|channel|>final<|message|>up<|return|>", "up"),
        ("left<|end|><|start|>assistant<|channel|>final<|message|>up", "up"),
        ("analysis<|message|>left<|end|><|start|>assistant<|channel|>final<|message|>up", "up"),
        ("<|channel|>analysis<|message|>left", ""),
        ("<|channel|>analysis<|message|>left<|channel|>final<|message|>up", "up"),
        (f"{ANALYSIS}<|channel|>commentary<|message|>so<|end|><|channel|>final<|message|>up", "up"),
        (f"{ANALYSIS}<|channel|>commentary<|message|>up<|end|>", "up"),
        ("analysisgo left assistantfinalup", "up"),
        ("analysisWe go left", ""),
        ("analysis of the room: up", "analysis of the room: up"),
    ],
)
def test_the_analysis_channel_of_harmony_is_thought(text: str, visible: str) -> None:
    assert strip_thoughts(text) == visible


def test_a_message_of_harmony_with_a_recipient_is_said_with_its_header() -> None:
    call = "commentary to=functions.analysis <|constrain|>json<|message|>{}"
    visible = separate_thoughts(f"{ANALYSIS}<|channel|>{call}<|call|>")
    assert (visible.text, visible.thought) == (f"assistant<|channel|>{call}", "left")


@pytest.mark.parametrize(
    "end",
    [
        *("<|im_end|>", "</s>", "<|eot_id|>", "<|endoftext|>", "<end_of_turn>", "<｜end▁of▁sentence｜>"),
        *("<|role_end|>", "<|pad|>", "[/INST]", "<|im_start|>", "<|start_header_id|>"),
    ],
)
def test_the_turn_ends_with_its_token(end: str) -> None:
    for text in (f"up{end}", f"up {end}\n{end}", f"<think>left</think>up{end}"):
        assert strip_thoughts(text) == "up"
    assert strip_turn_ends(f"<think>a</think> up{end}") == "<think>a</think> up"
    assert strip_thoughts(end) == ""


def test_what_follows_the_end_of_the_turn_is_not_the_models_word() -> None:
    assert strip_thoughts("up<|im_end|>\n<|im_start|>user\nYou won.<|im_end|>") == "up"
    assert strip_thoughts("<|im_start|>assistant\nup<|im_end|>") == "up"
    assert strip_thoughts("<s>up</s>") == "up"
    assert strip_thoughts("not <s>left</s> but up") == "not <s>left</s> but up"


def test_places_are_those_of_the_whole_text() -> None:
    text = "<think>a</think> up and <think>b</think> down<|im_end|>"
    visible = separate_thoughts(text)
    for word in ("up", "and", "down"):
        assert text.startswith(word, visible.place(visible.text.index(word)))


@pytest.mark.parametrize(
    ("prompt", "opened"),
    [
        ("<|im_start|>assistant\n<think>\n", "<think>"),
        ("[THINK]", "[THINK]"),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", ""),
        ("Think in <think> tags.\n", ""),
        ("<|im_start|>assistant\n", ""),
        ("", ""),
    ],
)
def test_a_thought_that_a_prompt_opens_is_seen(prompt: str, opened: str) -> None:
    assert opened_thought(prompt) == opened


PIECES = [
    *("<think>", "</think>", "<THINK ", "[THINK]", "[/THINK]", "◁think▷", "◁/think▷", "</s>", "<s>", "`"),
    *(
        "<|im_end|>",
        "<|im_start|>assistant",
        "<|channel|>",
        "<|message|>",
        "<|start|>",
        "<|end|>",
        "<|call|>",
    ),
    *(
        '{"a": "',
        '"}',
        "<parameter=x>",
        "</parameter>",
        '<|"|>',
        "<think/>",
        "\n<tool_response>",
        "[unused16]",
        '<details type="reasoning">',
        "<details>",
        "</details>",
    ),
    *(
        "Here is my thought process:",
        "analysis",
        "final",
        "commentary",
        "assistantfinal",
        "to=f",
        " ",
        "<",
        "up",
        "\n",
        "X",
    ),
]


@given(st.lists(st.sampled_from(PIECES), max_size=30).map("".join))
def test_places_fit_whatever_is_written(text: str) -> None:
    visible = separate_thoughts(text)
    assert visible.text == visible.text.strip()
    assert sum(size for _, size in visible.pieces) >= len(visible.text)
    for position, character in enumerate(visible.text):
        assert text[visible.place(position)] == character


@pytest.mark.parametrize(
    "piece", [*PIECES, "<think></think>", "think_", "type=", "x`<think>`", "<|start|>to=<|message|>"]
)
def test_time_is_linear(piece: str) -> None:
    assert_linear(separate_thoughts, piece)
    assert_linear(lambda text: separate_thoughts(f"{text}</think>"), piece)
    assert_linear(lambda text: separate_thoughts(f"analysisX{text}"), piece)
    assert_linear(lambda text: separate_thoughts(f"<details {text}>"), piece)
    assert_linear(lambda text: separate_thoughts(f"<{text}"), piece)


def test_many_thoughts_in_a_text_of_wide_characters_take_linear_time() -> None:
    # A search of the whole text at each thought is fast enough not to be seen in a shorter one.
    assert_linear(separate_thoughts, "<think/>😀", length=40_000)
