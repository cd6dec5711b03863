"""How the files of the web page are served."""

from __future__ import annotations

import gzip

import httpx
import pytest

from tests.server.conftest import MakeClient, Problem
from verl_agent_env.server.http.web_pages import CONTENT_SECURITY_POLICY, FOLDER

PLAIN = {"accept-encoding": "identity"}
BROWSER = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".LICENSE": "text/plain; charset=utf-8",
}
NAMES = sorted(path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*") if path.is_file())


@pytest.mark.parametrize("name", NAMES)
async def test_every_file_is_served_as_it_is_with_its_type_and_policy(
    client: httpx.AsyncClient, name: str
) -> None:
    answer = await client.get(f"/web/{name}", headers=PLAIN)
    path = FOLDER / name
    assert answer.status_code == 200
    assert answer.content == path.read_bytes()
    assert answer.headers["content-type"] == MEDIA_TYPES[path.suffix]
    assert answer.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-cache"


def test_the_policy_lets_nothing_come_from_elsewhere() -> None:
    directives = dict(part.strip().split(" ", 1) for part in CONTENT_SECURITY_POLICY.split(";"))
    assert directives == {
        "default-src": "'self'",
        "img-src": "'self' blob: data:",
        "object-src": "'none'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }


async def test_the_folder_is_the_page(client: httpx.AsyncClient) -> None:
    page, index = await client.get("/web/"), await client.get("/web/index.html")
    assert page.content == index.content
    assert 'src="app.js"' in page.text


@pytest.mark.parametrize(
    ("path", "location"),
    [("/", "web/"), ("/web", "web/"), ("/docs", "web/#/api"), ("/docs?x=1", "web/#/api")],
)
async def test_what_leads_to_the_page_is_relative_so_that_it_holds_below_a_proxys_path(
    client: httpx.AsyncClient, path: str, location: str
) -> None:
    answer = await client.get(path, headers=BROWSER)
    assert answer.is_redirect
    assert answer.headers["location"] == location


async def test_compressed_for_those_who_take_it(client: httpx.AsyncClient) -> None:
    answer = await client.get("/web/app.js", headers={"accept-encoding": "br, gzip"})
    assert answer.headers["content-encoding"] == "gzip"
    assert answer.headers["vary"] == "Accept-Encoding"
    assert answer.content == (FOLDER / "app.js").read_bytes()
    assert int(answer.headers["content-length"]) == len(gzip.compress(answer.content, mtime=0))


async def test_a_file_that_the_browser_has_is_not_sent_again(client: httpx.AsyncClient) -> None:
    first = await client.get("/web/app.js")
    again = await client.get("/web/app.js", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    other = await client.get("/web/style.css", headers={"if-none-match": first.headers["etag"]})
    assert other.status_code == 200


async def test_head_says_how_long_a_file_is_and_sends_nothing(client: httpx.AsyncClient) -> None:
    answer = await client.head("/web/app.js", headers=PLAIN)
    assert (answer.status_code, answer.content) == (200, b"")
    assert int(answer.headers["content-length"]) == (FOLDER / "app.js").stat().st_size


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
@pytest.mark.parametrize("path", ["/web/", "/web/app.js", "/docs"])
async def test_no_other_method_is_taken(client: httpx.AsyncClient, method: str, path: str) -> None:
    answer = await client.request(method, path)
    assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed")


@pytest.mark.parametrize(
    "path",
    [
        "/web/nothing.js", "/web/vendor", "/web/vendor/", "/web//app.js", "/redoc",
        "/web/%2e%2e/server/app.py", "/web/..%2f..%2fserver/app.py", "/web/%2fetc/passwd", "/web/vendor/..%5c..%5capp.py",
        "/web/app.js%00.html",
    ],
)  # fmt: skip
async def test_nothing_but_the_files_is_there(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.get(path)
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert "/docs" in answer.json()["detail"]


async def test_the_page_needs_no_token_and_what_it_calls_does(
    make_client: MakeClient, problem: Problem
) -> None:
    client = await make_client(auth_tokens=("a",))
    for path in ("/web/", "/web/app.js", "/openapi.json", "/healthz"):
        assert (await client.get(path)).status_code == 200
    assert (await client.get("/docs")).is_redirect
    problem(await client.get("/api/environments"), 401, "unauthorized")


async def test_a_page_of_another_site_gets_no_file(client: httpx.AsyncClient, problem: Problem) -> None:
    answer = await client.get("/web/app.js", headers={"sec-fetch-site": "cross-site"})
    problem(answer, 403, "origin_not_allowed")
