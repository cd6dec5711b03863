"""The file that says whose tokens are which."""

from __future__ import annotations

import hashlib

import pytest

from verl_agent_env.server.http.tokens import ANYBODY, Principal, parse_tokens
from verl_agent_env.types import NUM_SLOTS, new_env_id, slot_of, tag_of, tag_of_holder, tagged_env_id

DIGEST = hashlib.sha256(b"secret").hexdigest()


def test_a_line_is_a_name_scopes_and_a_token() -> None:
    found = parse_tokens(
        f"# comment\n\n  alice  run  secret-#1 \n\tbob@example.org read,run sha256:{DIGEST.upper()}\nalice read other\n"
    )
    assert {digest.hex(): (who.name, sorted(who.scopes)) for digest, who in found.items()} == {
        hashlib.sha256(b"secret-#1").hexdigest(): ("alice", ["read", "run"]),
        DIGEST: ("bob@example.org", ["read", "run"]),
        hashlib.sha256(b"other").hexdigest(): ("alice", ["read"]),
    }


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("alice run", "three words"),
        ("alice run the secret", "three words"),
        ("alice secret run", "scopes are read, run, admin"),
        ("alice run, secret", "scopes are"),
        ("alice RUN secret", "scopes are"),
        ("secret! run secret", "a name is"),
        (".alice run secret", "a name is"),
        (f"{'a' * 65} run secret", "a name is"),
        ("alice run sha256:abc", "64 hex digits"),
        ("alice run s\u00e9cret", "visible ASCII"),
        (f"alice run {'s' * 513}", "visible ASCII"),
    ],
)
def test_a_wrong_line_is_named_without_its_token(line: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault) as caught:
        parse_tokens(f"# first\nops admin ops-token\n{line}\n")
    assert str(caught.value).startswith("line 3: ")
    assert "secret" not in str(caught.value)


def test_a_token_has_one_holder() -> None:
    with pytest.raises(ValueError, match="line 2: 'bob' has the same token as 'alice'"):
        parse_tokens(f"alice run secret\nbob run sha256:{DIGEST}\n")


@pytest.mark.parametrize("text", ["", "\n \n", "# alice run secret"])
def test_a_file_without_tokens_is_no_open_server(text: str) -> None:
    with pytest.raises(ValueError, match="no tokens"):
        parse_tokens(text)


def test_an_id_says_whose_its_environment_is() -> None:
    alice, bob = Principal.holder("alice", ["run"]), Principal.holder("bob", ["run", "read"])
    admin = Principal.holder("ops", ["admin"])
    ids = {who.name: new_env_id(0xABC, who.tag) for who in (alice, bob, admin)}
    ids[""] = new_env_id(0xABC)
    assert {name: tag_of(env_id) for name, env_id in ids.items()} == {
        "alice": tag_of_holder("alice"), "bob": tag_of_holder("bob"), "ops": tag_of_holder("ops"), "": "",
    }  # fmt: skip
    assert {slot_of(env_id) for env_id in ids.values()} == {0xABC}
    assert [name for name, env_id in ids.items() if alice.sees(env_id)] == ["alice"]
    assert [name for name, env_id in ids.items() if bob.sees(env_id)] == ["bob"]
    for all_seeing in (admin, ANYBODY):
        assert all(map(all_seeing.sees, ids.values()))
    assert alice.positions_of_own([ids["bob"], ids["alice"], ids[""], "elsewhere", ids["alice"]]) == [1, 4]
    assert alice.positions_of_own([ids["alice"]] * 3) is None
    assert admin.positions_of_own(list(ids.values())) is None


def test_tagged_ids_are_uuids_and_differ() -> None:
    tag = tag_of_holder("alice")
    made = {new_env_id(slot, tag) for slot in range(NUM_SLOTS)}
    assert len(made) == NUM_SLOTS
    for env_id in made:
        digits = env_id.partition("-")[2]
        assert (len(digits), digits[:12], digits[12]) == (32, tag, "8")
        assert digits[16] in "89ab"
    assert tagged_env_id(7, tag, 2**128 - 1) == f"007-{tag}8fffbfffffffffffffff"
    assert tagged_env_id(7, tag, 0) == f"007-{tag}80008000000000000000"


@pytest.mark.parametrize(
    "who", [ANYBODY, Principal.holder("alice", ["read"]), Principal.holder("ops", ["admin"])]
)
def test_a_holder_is_passed_on_as_text(who: Principal) -> None:
    there = Principal.from_text(who.to_text())
    assert (there.name, there.scopes, there.tag, there.is_forwarded) == (who.name, who.scopes, who.tag, True)
