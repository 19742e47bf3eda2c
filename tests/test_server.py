"""What strangers reach: the listed addresses alone, their own files alone, within limits, and headers on all of it."""

import asyncio
import http.client
import itertools
import os
import re
from pathlib import Path
from urllib.parse import quote, urlsplit

import httpx
import pytest
from helpers_browser import visiting
from helpers_models import shared_model_folder
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from blastlens import temp_files
from blastlens.ui import build, launch, server
from blastlens.ui.server import Door, Store

ROOT = Path(__file__).resolve().parents[1]

# Every route that answers a stranger; whatever else Gradio has, or comes to have, must be added here by somebody.
OPEN = set(
    """GET /
HEAD /
GET /assets/x
GET /config
GET /config/
GET /favicon.ico
GET /gradio_api/app_id
GET /gradio_api/app_id/
GET /gradio_api/call/v2/x/x
GET /gradio_api/call/x/x
GET /gradio_api/file=x
HEAD /gradio_api/file=x
GET /gradio_api/heartbeat/x
GET /gradio_api/info
GET /gradio_api/info/
DELETE /gradio_api/mcp
DELETE /gradio_api/mcp/
GET /gradio_api/mcp
GET /gradio_api/mcp/
POST /gradio_api/mcp
POST /gradio_api/mcp/
GET /gradio_api/mcp/schema
GET /gradio_api/mcp/sse
POST /gradio_api/mcp/messages/
GET /gradio_api/openapi.json
GET /gradio_api/queue/data
GET /gradio_api/queue/status
GET /gradio_api/startup-events
GET /gradio_api/theme.css
GET /gradio_api/upload_progress
GET /manifest.json
GET /pwa_icon
GET /robots.txt
GET /static/x
GET /theme.css
POST /gradio_api/call/v2/x
POST /gradio_api/call/v2/x/
POST /gradio_api/call/x
POST /gradio_api/call/x/
POST /gradio_api/cancel
POST /gradio_api/queue/join
POST /gradio_api/reset
POST /gradio_api/reset/
POST /gradio_api/run/x
POST /gradio_api/run/x/
POST /gradio_api/upload""".splitlines()
)


@pytest.fixture(scope="module")
def page():
    """A page with one throw-away model, launched as app.py does, and its address."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("BLASTLENS_DATA", raising=False)
        demo = build([shared_model_folder("cell")])
    _, address, _ = launch(demo, prevent_thread_lock=True, quiet=True)
    yield demo, address.rstrip("/")
    demo.close()


def upload(address, name, data, **more):
    return httpx.post(f"{address}/gradio_api/upload", files={"files": (name, data)}, timeout=60, **more)


def place_of(address, name, data=b"data"):
    return upload(address, name, data).json()[0]


def raw(address, path, method="GET", headers=()):
    """A request as it is written, with no body; its path is not put in order."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=20)
    connection.putrequest(method, path, skip_accept_encoding=True)
    for name, value in headers:
        connection.putheader(name, value)
    connection.endheaders()
    reply = connection.getresponse()
    streams = reply.getheader("content-type", "").startswith("text/event-stream")
    status, headers, body = reply.status, dict(reply.getheaders()), b"" if streams else reply.read()
    connection.close()
    return status, {name.lower(): value for name, value in headers.items()}, body


def routes_of(routes, above=""):
    """Method and path of each route, "x" for what is variable in it."""
    for route in routes:
        if hasattr(route, "original_router"):  # what FastAPI includes
            yield from routes_of(route.original_router.routes, above)
        elif isinstance(route, Mount):
            yield from routes_of(route.routes, above + route.path)
            yield from ((method, f"{above}{route.path}{end}") for method in METHODS for end in ("", "/"))
        else:
            path = re.sub(r"\{[^}]*\}", "x", above + route.path)
            yield from ((method, path) for method in route.methods)


METHODS = ("GET", "HEAD", "POST", "DELETE", "PUT", "PATCH", "OPTIONS", "TRACE")


def test_only_what_is_listed_answers_of_all_routes_that_the_page_has(page):
    demo, address = page
    there = set(routes_of(demo.app.routes))
    assert len(there) > 100  # Gradio has them, so the list below is not short for lack of routes
    closed = raw(address, "/nothing")[1]["content-length"]  # which is all that tells where a body is not asked for
    answering = set()
    for method, path in there:
        status, headers, _ = raw(address, path, method, [("Content-Length", "0")] * (method == "POST"))
        if (status, headers.get("content-length")) != (404, closed):
            answering.add(f"{method} {path}")
    assert answering == OPEN


@pytest.mark.parametrize(
    "path", ["/docs", "/redoc", "/openapi.json", "/app.py", "/models", "/space.json", "/.git/config"]
)
def test_nothing_else_answers(page, path):
    assert raw(page[1], path)[0] == 404


def test_two_who_give_the_same_file_learn_nothing_of_each_other(page):
    """Gradio 6.31 put both into one folder: a guess at a name told whether another visitor had given that file."""
    one, other = (Path(place_of(page[1], name, b"the same bytes")) for name in ("patient-7.png", "x.png"))
    assert one.parent != other.parent
    assert raw(page[1], f"/gradio_api/file={other.parent / one.name}")[0] == 403
    assert raw(page[1], f"/gradio_api/file={one}")[2] == b"the same bytes"


def elsewhere():
    """Paths under which a stranger could look for files that are not theirs; {uploads} and {root} are filled in."""
    return [
        "/etc/passwd", "//etc/passwd", "///etc//passwd", "/proc/self/environ", "/proc/self/cwd/app.py", "app.py",
        "./app.py", "space.json", "models", "models/mobilenetv1-cnmc2019/config.json", f"{ROOT}/app.py",
        f"{ROOT}/README.md", "blastlens/ui/logo.svg", ".git/config", ".gradio/certificate.pem", "~/.bashrc", "C:/x",
        "\\etc\\passwd", "\\\\host\\share", "x\0.png", "\0", "{uploads}", "{uploads}/", "{uploads}/.",
        "{uploads}/link/passwd",
        "{uploads}/../lock", "{uploads}/../examples/drawn-ALL-1.png", "{uploads}/x/../../lock", "{root}/lock",
        "{root}/examples/drawn-ALL-1.png", "{uploads}\\..\\lock", "{uploads}/%2e%2e/lock", "{uploads}/..;/lock",
    ]  # fmt: skip


@pytest.mark.parametrize("written", ["as is", "percent", "twice"])
def test_no_address_leads_to_a_file_that_was_not_uploaded(page, written):
    uploads = Path(os.environ["GRADIO_TEMP_DIR"])
    link = uploads / "link"
    link.symlink_to("/etc")
    try:
        found = []
        for place in elsewhere():
            path = place.format(uploads=uploads, root=uploads.parent)
            if written != "as is" or not path.isprintable():
                path = quote(path, safe="")
            path = quote(path) if written == "twice" else path
            status, _, body = raw(page[1], f"/gradio_api/file={path}")
            if status == 200 or b"root:" in body:
                found.append(place)
        assert found == []
    finally:
        link.unlink()


@pytest.mark.parametrize("place", ["/etc/passwd", f"{ROOT}/blastlens/ui/logo.svg", "{root}/examples/drawn-ALL-1.png"])
@pytest.mark.parametrize("as_file", [True, False])
def test_no_endpoint_reads_a_file_that_was_not_uploaded(page, place, as_file):
    path = place.format(root=temp_files.root())
    file = {"path": path, "meta": {"_type": "gradio.FileData"}} if as_file else path
    for name, given in (("classify", file), ("score_images", [file]), ("test_on_labelled_images", file)):
        asked = httpx.post(f"{page[1]}/gradio_api/call/v2/{name}", json={KEYS[name]: given})
        told = httpx.get(f"{page[1]}/gradio_api/call/{name}/{asked.json()['event_id']}").text
        assert told.startswith("event: error")
        assert "not uploaded here; upload it first." in told


KEYS = {"classify": "image", "score_images": "files", "test_on_labelled_images": "archive"}


def test_answers_go_to_whoever_asked_and_to_no_other_name(page):
    _, address = page
    asked = {"data": [], "fn_index": next(n for n, fn in page[0].fns.items() if fn.api_name == "list_models")}
    httpx.post(f"{address}/gradio_api/queue/join", json={**asked, "session_hash": "mine-and-secret"}).raise_for_status()
    for name in ("", "mine", "mine-and-secre", "mine-and-secret2", "*", "None", "null"):
        told = httpx.get(f"{address}/gradio_api/queue/data", params={"session_hash": name}).text
        assert "models" not in told and 'session_not_found":true' in told
    assert "tiny-cell" in httpx.get(f"{address}/gradio_api/queue/data?session_hash=mine-and-secret").text


@pytest.mark.parametrize(
    ("name", "kind", "shown"),
    [
        ("x.html", "application/octet-stream", "attachment"),
        ("x.svg", "application/octet-stream", "attachment"),
        ("x.xhtml", "application/octet-stream", "attachment"),
        ("x.js", "application/octet-stream", "attachment"),
        ("x.pdf", "application/octet-stream", "attachment"),
        ("x", "application/octet-stream", "attachment"),
        ("x.png", "image/png", "inline"),
    ],
)
def test_a_file_of_a_stranger_runs_nothing(page, name, kind, shown):
    place = place_of(page[1], name, b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>")
    # Asked for a part with a type of the asker's own choice, Gradio 6.31 answered with that type.
    for asked in ([], [("Range", "bytes=0-9"), ("Content-Type", "text/html")]):
        status, headers, _ = raw(page[1], f"/gradio_api/file={place}", headers=asked)
        assert (status, headers["content-type"]) == (200, kind)
        assert headers["content-disposition"].startswith(shown)
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["content-security-policy"] == "default-src 'none'; sandbox; frame-ancestors 'none'"
        assert headers["cache-control"] == "private, no-store"


@pytest.mark.parametrize("path", ["/", "/config", "/gradio_api/info", "/theme.css", "/nothing", "/gradio_api/file=x"])
def test_every_answer_carries_its_headers(page, path):
    _, headers, _ = raw(page[1], path, headers=[("Origin", "https://elsewhere.example")])
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert not re.search(r"\d", headers["server"])
    assert [name for name in headers if name.startswith("access-control")] == []
    if "file=" not in path:
        policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
        assert policy["default-src"] == policy["base-uri"] == "'self'"
        assert policy["object-src"] == "'none'"
        assert policy["frame-ancestors"] == "'self' https://huggingface.co https://*.hf.space"


@pytest.mark.parametrize("path", ["/", "/config", "/gradio_api/info", "/gradio_api/openapi.json", "/theme.css"])
def test_nothing_that_everybody_is_sent_names_a_folder_of_this_computer_or_an_address_elsewhere(page, path):
    text = httpx.get(page[1] + path).text
    assert [part for part in (str(ROOT), str(Path.home()) + "/", str(temp_files.root())) if part in text] == []
    if path == "/theme.css":
        assert re.findall(r"url\(['\"]?(?:https?:)?//[^)]*\)|@import", text) == []


SITES = [
    ({}, 200),  # no browser
    ({"Sec-Fetch-Site": "same-origin", "Origin": "https://else.example"}, 200),
    ({"Sec-Fetch-Site": "none"}, 200),
    ({"Sec-Fetch-Site": "cross-site"}, 403),
    ({"Sec-Fetch-Site": "same-site"}, 403),
    ({"Origin": "{address}"}, 200),
    ({"Origin": "https://page.example", "X-Forwarded-Host": "page.example"}, 200),
    ({"Origin": "https://else.example"}, 403),
    ({"Origin": "null"}, 403),
    ({"Origin": "http://localhost"}, 403),
]


@pytest.mark.parametrize(("headers", "status"), SITES)
def test_pages_of_other_sites_can_send_nothing_in_a_visitor_s_name(page, headers, status):
    given = {name: value.format(address=page[1]) for name, value in headers.items()}
    assert upload(page[1], "x.png", b"x", headers=given).status_code == status


def test_pages_of_other_sites_get_no_leave_to_ask(page):
    headers = {"Origin": "https://else.example", "Access-Control-Request-Method": "POST"}
    reply = httpx.options(f"{page[1]}/gradio_api/queue/join", headers=headers)
    assert reply.status_code == 404
    assert "access-control-allow-origin" not in reply.headers


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:1", 200),
        ("127.0.0.1", 200),
        ("[::1]:1", 200),
        ("evil.example", 421),
        ("127.0.0.1.evil.example", 421),
    ],
)
def test_a_page_on_this_computer_is_not_led_to_by_a_name_of_somebody_else(page, host, status):
    assert httpx.get(f"{page[1]}/config", headers={"Host": host}).status_code == status


def test_an_operator_may_name_the_page(monkeypatch):
    monkeypatch.setenv("BLASTLENS_HOSTS", "lab.example other.example")
    door = Door(PlainTextResponse(""))

    async def on_this_computer(scope, receive, send):
        await door({**scope, "server": ("127.0.0.1", 80)}, receive, send)

    async def statuses():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(on_this_computer)) as client:
            return [(await client.get(f"http://{name}/config")).status_code for name in ("lab.example", "evil.example")]

    assert asyncio.run(statuses()) == [200, 421]


# Limits


def test_a_file_that_is_too_large_is_refused(page):
    reply = upload(page[1], "x.bmp", bytes(101 * 2**20))
    assert (reply.status_code, reply.text) == (413, "File size exceeded maximum allowed size of 104857600 bytes.")


def test_too_many_files_at_once_are_refused(page):
    reply = httpx.post(f"{page[1]}/gradio_api/upload", files=[("files", ("x", b""))] * 1001, timeout=60)
    assert (reply.status_code, reply.text) == (400, "Too many files. Maximum number of files is 1000.")


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("upload", "This is more than 1000 MB at once; send fewer files at a time, each of up to 100 MB."),
        ("queue/join", "This request is larger than 32 MB; upload files first and give their paths."),
        ("call/classify", "This request is larger than 32 MB; upload files first and give their paths."),
        ("mcp/", "This request is larger than 32 MB; upload files first and give their paths."),
    ],
)
def test_a_request_that_is_too_large_is_refused_before_it_is_sent(page, path, sentence):
    status, _, body = raw(page[1], f"/gradio_api/{path}", "POST", [("Content-Length", "1000000001")])
    assert status == 413
    assert sentence in body.decode()


@pytest.mark.parametrize("path", ["upload", "queue/join", "call/classify"])
def test_a_request_that_does_not_say_how_large_it_is_is_cut_off(page, path, monkeypatch):
    monkeypatch.setattr(server, "MAX_BODY_MB", 1)
    monkeypatch.setattr(server, "MAX_UPLOAD_MB", 1)
    start = (
        b'--b\r\nContent-Disposition: form-data; name="files"; filename="x"\r\n\r\n' if path == "upload" else b'{"a": "'
    )
    kind = "multipart/form-data; boundary=b" if path == "upload" else "application/json"
    body = itertools.chain([start], itertools.repeat(bytes(100_000), 20))
    reply = httpx.post(f"{page[1]}/gradio_api/{path}", content=body, headers={"Content-Type": kind}, timeout=20)
    assert reply.status_code == 413
    assert "more than 1 MB at once" in reply.text or "larger than 1 MB" in reply.text


@pytest.fixture
def uploads(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    return tmp_path


def test_one_visitor_fills_half_of_the_room_and_all_of_them_no_more_than_all(uploads):
    store = Store(1000)
    assert store.refuse("one", 500) == ""
    assert store.refuse("one", 1).startswith("You have sent as much as this page keeps for one visitor; try again in")
    assert store.refuse("two", 500) == ""
    assert store.refuse("three", 1) == (
        "This page has no room for more files now; what is old is deleted soon, so try again later."
    )


def test_what_lies_there_already_counts(uploads):
    (uploads / "deep").mkdir()
    (uploads / "deep" / "x").write_bytes(bytes(990))
    assert "no room" in Store(1000).refuse("one", 11)
    assert Store(1000).refuse("one", 10) == ""


def test_files_of_no_size_count_too(uploads, monkeypatch):
    monkeypatch.setattr(server, "MAX_FILES", 3)
    for name in "abc":
        (uploads / name).touch()
    assert "no room" in Store(1000).refuse("one", 1)


def test_a_visitor_reads_that_there_is_no_room(uploads, monkeypatch):
    monkeypatch.setenv("BLASTLENS_STORE_MB", "10")
    app = Door(Starlette(routes=[Route("/gradio_api/upload", lambda _: PlainTextResponse("in"), methods=["POST"])]))

    async def send(size):
        transport = httpx.ASGITransport(app, client=("203.0.113.7", 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://page") as client:
            return await client.post("/gradio_api/upload", content=bytes(size))

    first, second = (asyncio.run(send(size)) for size in (4_000_000, 2_000_000))
    assert first.status_code == 200
    assert (second.status_code, second.text[:16]) == (507, "You have sent as")


# In Chromium; that the page itself keeps to its policy, all the visits of test_page.py show: none may complain.


def test_a_visitor_who_asks_too_much_reads_so_on_the_page(browser, monkeypatch):
    monkeypatch.delenv("BLASTLENS_DATA", raising=False)
    monkeypatch.setenv("BLASTLENS_RATE", "100")
    demo = build([shared_model_folder("cell")])
    _, address, _ = launch(demo, prevent_thread_lock=True, quiet=True)
    try:
        with visiting(browser, address.rstrip("/")) as visit:
            one = visit("/")
            one.page.locator(".notes", has_text="Answered in").wait_for()
            spent = [httpx.get(f"{address}gradio_api/app_id").status_code for _ in range(100)]
            assert spent[-1] == 429
            one.page.locator(".examples button").nth(1).click()
            one.page.get_by_text("Too many requests came from your address; please try again in").first.wait_for()
            one.complaints.clear()  # the browser's own, of the refused request
    finally:
        demo.close()
