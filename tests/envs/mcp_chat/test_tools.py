"""Tools of several servers get names of their own, which every API takes."""

from __future__ import annotations

import re
from typing import Any

import pytest
from mcp.types import Tool

from tests.envs.mcp_chat.support import probe
from verl_agent_env.envs.mcp_chat.tools import Offer, Target, listing_of, offer_of


def offered(**servers: list[str]) -> Offer:
    return offer_of(
        listing_of([(probe(name=name), [tool(each) for each in tools]) for name, tools in servers.items()])
    )


def tool(name: str, schema: Any = None) -> Tool:
    return Tool(name=name, description=f"To {name}.", input_schema=schema or {"type": "object"})


def test_names_that_do_not_clash_stay() -> None:
    offer = offered(time=["now"], files=["read"])
    assert offer.targets == {"now": Target("time", "now"), "read": Target("files", "read")}


def test_a_property_with_a_default_need_not_be_given() -> None:
    # As Playwright's server lists them.
    properties = {"scale": {"type": "string", "default": "css"}, "url": {"type": "string"}}
    schema = {"type": "object", "properties": properties, "required": ["scale", "url"]}
    (only,) = offer_of(listing_of([(probe(), [tool("shoot", schema)])])).tools
    assert only.parameters["required"] == ["url"]
    assert only.parameters["properties"] == properties


def test_names_that_clash_get_the_servers_name_in_all_servers() -> None:
    offer = offered(time=["now", "zone"], clock=["now"])
    assert offer.targets == {
        "time_now": Target("time", "now"),
        "zone": Target("time", "zone"),
        "clock_now": Target("clock", "now"),
    }


def test_order_of_the_servers_changes_no_name() -> None:
    assert set(offered(a=["x", "y"], b=["x"]).targets) == set(offered(b=["x"], a=["x", "y"]).targets)


def test_prefixed_name_that_is_another_tools_own_still_leads_to_both() -> None:
    offer = offered(time=["now"], clock=["now", "time_now"])
    assert sorted(offer.targets.values()) == [("clock", "now"), ("clock", "time_now"), ("time", "now")]
    assert offer.targets["time_now"] == Target("clock", "time_now")


@pytest.mark.parametrize("name", ["a.b/c d", "x" * 200, "größe", "-", "a" * 64])
def test_every_name_is_one_that_apis_take(name: str) -> None:
    offer = offered(one=[name, "other"], two=[name])
    assert len(offer.targets) == 3
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,64}", each) for each in offer.targets)
    assert {target.tool for target in offer.targets.values()} == {name, "other"}


def test_names_that_differ_only_in_what_is_replaced_lead_to_different_tools() -> None:
    offer = offered(one=["a.b", "a/b"])
    assert {target.tool for target in offer.targets.values()} == {"a.b", "a/b"}


def test_equal_listings_share_their_tools() -> None:
    assert offered(a=["x"]) is offered(a=["x"])


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"a": {"type": "text"}}, "required": ["a"]},
        {"type": "object", "properties": {"a": {"type": ["string", "blob"]}}},
        {"type": "object", "properties": {"a": {"type": []}}},
        {"type": "object", "properties": {"a": 3}, "required": "a"},
        {"type": "object", "properties": [], "required": [1]},
    ],
)
def test_schema_that_is_none_spoils_no_call(schema: dict[str, Any]) -> None:
    (made,) = offer_of(listing_of([(probe(), [tool("x", schema)])])).tools
    assert made.fault({"a": "text"}) is None


def test_rest_of_a_schema_stays() -> None:
    schema = {
        "type": "object",
        "$defs": {"p": {"type": "string"}},
        "properties": {"a": {"$ref": "#/$defs/p"}},
    }
    (made,) = offer_of(listing_of([(probe(), [tool("x", schema)])])).tools
    assert made.parameters["$defs"] == schema["$defs"]
    assert made.parameters["properties"] == schema["properties"]


def test_secrets_in_descriptions_are_hidden() -> None:
    server = probe(env={"TOKEN": "very-secret"})
    said = Tool(
        name="x", description="Uses very-secret.", input_schema={"type": "object", "title": "very-secret"}
    )
    (made,) = offer_of(listing_of([(server, [said])])).tools
    assert "very-secret" not in f"{made.description}{made.parameters}"
