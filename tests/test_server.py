"""What clients reach: the listed routes and their own files, within limits and with security headers."""

import asyncio
import itertools
import os
import re
import socket
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote, urlsplit

import gradio as gr
import httpx
import pytest
from gradio import processing_utils
from helpers_files import encoded
from helpers_models import shared_model_folder
from helpers_page import launched
from starlette.responses import PlainTextResponse
from starlette.routing import Mount

from blastlens import temp_files
from blastlens.errors import BlastlensError
from blastlens.synthetic_images import synthetic_image
from blastlens.ui import build, launch, server
from blastlens.ui.server import FAILED, FULL, Page, Shield

ROOT = Path(__file__).resolve().parents[1]
METHODS = ("GET", "HEAD", "POST", "DELETE", "PUT", "PATCH", "OPTIONS", "TRACE")
OPEN = set(
    """GET / | HEAD / | GET /assets/x | GET /config | GET /config/ | GET /favicon.ico | GET /gradio_api/app_id
    GET /gradio_api/app_id/ | GET /gradio_api/call/v2/x/x | GET /gradio_api/call/x/x | GET /gradio_api/file=x
    HEAD /gradio_api/file=x | GET /gradio_api/heartbeat/x | GET /gradio_api/info | GET /gradio_api/info/
    DELETE /gradio_api/mcp | DELETE /gradio_api/mcp/ | GET /gradio_api/mcp | GET /gradio_api/mcp/ | POST /gradio_api/mcp
    POST /gradio_api/mcp/ | GET /gradio_api/mcp/schema | GET /gradio_api/mcp/sse | POST /gradio_api/mcp/messages/
    GET /gradio_api/openapi.json | GET /gradio_api/queue/data | GET /gradio_api/queue/status
    GET /gradio_api/startup-events | GET /gradio_api/theme.css | GET /gradio_api/upload_progress | GET /manifest.json
    GET /pwa_icon | GET /robots.txt | GET /static/x | GET /theme.css | POST /gradio_api/call/v2/x
    POST /gradio_api/call/v2/x/ | POST /gradio_api/call/x | POST /gradio_api/call/x/ | POST /gradio_api/cancel
    POST /gradio_api/queue/join | POST /gradio_api/reset | POST /gradio_api/reset/ | POST /gradio_api/run/x
    POST /gradio_api/run/x/ | POST /gradio_api/upload""".replace("\n   ", " |").split(" | ")
)


@pytest.fixture(scope="module")
def page():
    """A page with one small model, launched as app.py does, and its address."""
    with launched(shared_model_folder("cell")) as page:
        yield page


def upload(address, name, data, **more):
    return httpx.post(f"{address}/gradio_api/upload", files={"files": (name, data)}, timeout=60, **more)


def get(address, path, **headers):
    """A GET whose path is sent as it is written."""
    host, port = urlsplit(address).hostname, urlsplit(address).port
    lines = [f"GET {path} HTTP/1.1", f"Host: {host}:{port}", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    with socket.create_connection((host, port), timeout=20) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        reply = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body = reply.partition(b"\r\n\r\n")
    first, *rest = head.decode("latin-1").split("\r\n")
    return int(first.split()[1]), {line.partition(": ")[0].lower(): line.partition(": ")[2] for line in rest}, body


def routes_of(routes, above=""):
    """Method and path of each route, "x" for each variable in it."""
    for route in routes:
        if hasattr(route, "original_router"):  # what FastAPI includes
            yield from routes_of(route.original_router.routes, above)
        elif isinstance(route, Mount):
            yield from routes_of(route.routes, above + route.path)
            yield from ((method, f"{above}{route.path}{end}") for method in METHODS for end in ("", "/"))
        else:
            yield from ((method, re.sub(r"\{[^}]*\}", "x", above + route.path)) for method in route.methods)


def test_only_the_listed_routes_answer(page):
    demo, _ = page
    there = set(routes_of(demo.app.routes))
    assert len(there) > 100
    reached = []

    async def app(scope, receive, send):
        reached.append(f"{scope['method']} {scope['path']}")
        await PlainTextResponse("")(scope, receive, send)

    async def ask():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(Shield(app)), base_url="http://page") as client:
            for method, path in there:
                await client.request(method, path)

    asyncio.run(ask())
    assert set(reached) == OPEN


def test_an_unknown_endpoint_is_refused_in_one_sentence(page):
    reply = httpx.post(f"{page[1]}/gradio_api/call/x", json={"data": []})
    assert (reply.status_code, reply.json()["detail"]) == (404, "There is no endpoint of this name.")


# Files


def test_uploads_of_the_same_file_have_addresses_of_their_own(page):
    one, other = (Path(upload(page[1], name, b"same").json()[0]) for name in ("patient-7.png", "x.png"))
    assert one.parent != other.parent
    assert get(page[1], f"/gradio_api/file={other.parent / one.name}")[0] == 403
    assert get(page[1], f"/gradio_api/file={one}")[2] == b"same"


ELSEWHERE = [
    "/etc/passwd", "//etc/passwd", "/proc/self/environ", "/proc/self/cwd/app.py", "app.py", "./app.py", "models",
    "models/mobilenetv1-cnmc2019/config.json", f"{ROOT}/app.py", "blastlens/ui/logo.svg", ".git/config", "~/.bashrc",
    "\\etc\\passwd", "\\\\host\\share", "x\0.png", "{uploads}", "{uploads}/.", "{uploads}/link/passwd",
    "{uploads}/../lock", "{uploads}/x/../../lock", "{root}/examples/drawn-ALL-1.png", "{uploads}\\..\\lock",
    "{uploads}/%2e%2e/lock", "{uploads}/..;/lock", "http://127.0.0.1/x.png", "https://example.invalid/x.png",
]  # fmt: skip


@pytest.mark.parametrize("written", ["as is", "quoted", "quoted twice"])
def test_no_address_leads_to_a_file_that_was_not_uploaded(page, written):
    uploads = Path(os.environ["GRADIO_TEMP_DIR"])
    (uploads / "link").symlink_to("/etc")
    try:
        for place in ELSEWHERE:
            path = place.format(uploads=uploads, root=uploads.parent)
            if written != "as is" or not path.isprintable():
                path = quote(path, safe="")
            path = quote(path) if written == "quoted twice" else path
            status, _, body = get(page[1], f"/gradio_api/file={path}")
            assert status in (403, 404) and b"root:" not in body, place
    finally:
        (uploads / "link").unlink()


def call(address, name, **arguments):
    """The event stream with which an endpoint answers."""
    event = httpx.post(f"{address}/gradio_api/call/v2/{name}", json=arguments, timeout=30).json()["event_id"]
    return httpx.get(f"{address}/gradio_api/call/{name}/{event}", timeout=60).text


@pytest.fixture
def fetched(monkeypatch):
    """The addresses that Gradio fetches; none is."""
    addresses = []

    async def fetch(address):
        addresses.append(address)
        raise OSError("no network")

    monkeypatch.setattr(processing_utils, "async_ssrf_protected_get", fetch)
    return addresses


FILE_OF = {"classify": "image", "noise_curve": "image", "score_images": "files", "test_on_labelled_images": "archive"}


@pytest.mark.parametrize("name", FILE_OF)
@pytest.mark.parametrize("as_file", [True, False])
@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/etc/passwd", "not uploaded here"),
        ("{root}/examples/drawn-ALL-1.png", "not uploaded here"),
        ("{address}/gradio_api/file=/etc/passwd", "not uploaded here"),
        ("http://localhost:9/cell.png", "not fetched from addresses"),
        ("https://example.invalid/cell.png", "not fetched from addresses"),
    ],
)
def test_no_endpoint_reads_another_file_or_fetches_an_address(page, fetched, name, as_file, path, reason):
    path = path.format(root=temp_files.root(), address=page[1])
    file = {"path": path, "meta": {"_type": "gradio.FileData"}} if as_file else path
    told = call(page[1], name, **{FILE_OF[name]: [file] if name == "score_images" else file})
    assert told.startswith("event: error")
    assert reason in told or (not as_file and "not uploaded here" in told)
    assert fetched == []


def test_no_event_of_the_page_fetches_an_address(page, fetched):
    demo, _ = page
    file = {"path": "http://example.invalid/x.png", "url": "http://example.invalid/x.png"}
    file["meta"] = {"_type": "gradio.FileData"}
    for number, fn in demo.fns.items():
        for value in (file, [file]):
            with suppress(Exception):
                asyncio.run(demo.process_api(number, [value] * len(fn.inputs)))
    assert fetched == []


def test_the_address_of_an_upload_stands_for_it(page):
    (place,) = upload(page[1], "cell.png", encoded(synthetic_image("ALL", 0))).json()
    address = f"{page[1]}/gradio_api/file={place}"
    for file in ({"path": address, "meta": {"_type": "gradio.FileData"}}, {"path": place, "meta": {}}):
        assert "event: complete" in call(page[1], "classify", image=file)


def test_answers_go_only_to_the_session_that_asked(page):
    demo, address = page
    number = next(n for n, fn in demo.fns.items() if fn.api_name == "list_models")
    body = {"data": [], "fn_index": number, "session_hash": "mine-and-secret"}
    httpx.post(f"{address}/gradio_api/queue/join", json=body).raise_for_status()

    def stream(name):
        with httpx.stream("GET", f"{address}/gradio_api/queue/data", params={"session_hash": name}) as reply:
            return next(reply.iter_lines())

    for name in ("", "mine", "mine-and-secre", "mine-and-secret2", "*", "null"):
        assert 'session_not_found":true' in stream(name)
    assert "session_not_found" not in stream("mine-and-secret")


@pytest.mark.parametrize("name", ["x.html", "x.svg", "x.js", "x.pdf", "x", "x.png"])
def test_nothing_in_an_uploaded_file_runs(page, name):
    (place,) = upload(page[1], name, b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>").json()
    for asked in ({}, {"Range": "bytes=0-9", "Content_Type": "text/html"}):
        status, headers, _ = get(page[1], f"/gradio_api/file={place}", **asked)
        image = name == "x.png"
        assert (status, headers["content-type"]) == (200, "image/png" if image else "application/octet-stream")
        assert headers["content-disposition"].startswith("inline" if image else "attachment")
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["content-security-policy"] == "default-src 'none'; sandbox; frame-ancestors 'none'"
        assert headers["cache-control"] == "private, no-store"


# Headers and other sites


@pytest.mark.parametrize("path", ["/", "/config", "/gradio_api/info", "/theme.css", "/nothing"])
def test_every_response_has_security_headers(page, path):
    _, headers, _ = get(page[1], path, Origin="https://elsewhere.example")
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == headers["cross-origin-resource-policy"] == "same-origin"
    assert "access-control-allow-origin" not in headers
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == policy["base-uri"] == "'self'" and policy["object-src"] == "'none'"
    assert policy["frame-ancestors"] == "'self' https://huggingface.co https://*.hf.space"


@pytest.mark.parametrize("path", ["/", "/config", "/gradio_api/info", "/gradio_api/openapi.json", "/theme.css"])
def test_no_response_names_a_folder_of_the_server(page, path):
    text, models = httpx.get(page[1] + path).text, shared_model_folder("cell").parent
    assert [part for part in (ROOT, f"{Path.home()}/", temp_files.root(), models) if str(part) in text] == []


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),  # not a browser
        ({"Sec-Fetch-Site": "same-origin", "Origin": "https://else.example"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "{address}"}, 200),
        ({"Origin": "https://page.example", "X-Forwarded-Host": "page.example"}, 200),
        ({"Origin": "https://else.example"}, 403),
        ({"Origin": "null"}, 403),
    ],
)
def test_pages_of_other_sites_cannot_send_requests(page, headers, status):
    given = {name: value.format(address=page[1]) for name, value in headers.items()}
    assert upload(page[1], "x.png", b"x", headers=given).status_code == status


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:1", 200),
        ("[::1]:1", 200),
        ("lab.example", 200),
        ("evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("0123abcd.gradio.live", 200),
        ("gradio.live.evil.example", 421),
    ],
)
def test_a_local_page_answers_only_to_known_host_names(monkeypatch, host, status):
    monkeypatch.setenv("BLASTLENS_HOSTS", "lab.example other.example")
    assert asked_by_name(host) == status


def test_a_page_that_other_computers_may_open_answers_to_any_host_name(monkeypatch):
    monkeypatch.setenv("GRADIO_SERVER_NAME", "0.0.0.0")
    assert asked_by_name("hospital.example") == 200


def asked_by_name(host):
    """Status of a request that reaches the loopback under a host name."""
    shield = Shield(PlainTextResponse(""))

    async def local(scope, receive, send):
        await shield({**scope, "server": ("127.0.0.1", 80)}, receive, send)

    async def ask():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(local), base_url="http://page") as client:
            return (await client.get("/config", headers={"Host": host})).status_code

    return asyncio.run(ask())


@pytest.mark.parametrize("port", ["http", "0", "70000", "-1"])
def test_an_invalid_port_is_one_sentence(monkeypatch, port):
    monkeypatch.setenv("GRADIO_SERVER_PORT", port)
    with pytest.raises(BlastlensError, match="a port from 1 to 65535 is accepted"):
        launch(gr.Blocks())


def test_a_busy_port_is_not_replaced_by_another_one(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setenv("GRADIO_SERVER_PORT", str(port))
        with gr.Blocks() as demo:
            pass
        with pytest.raises(BlastlensError, match=f"Port {port} is in use"):
            launch(demo, prevent_thread_lock=True)


# Limits


@pytest.mark.slow
def test_a_file_that_is_too_large_is_refused(page):
    reply = upload(page[1], "x.bmp", bytes(101 * 2**20))
    assert (reply.status_code, reply.text) == (413, "File size exceeded maximum allowed size of 104857600 bytes.")


@pytest.mark.parametrize("path", ["upload", "queue/join", "call/classify", "mcp/"])
@pytest.mark.parametrize("declared", [True, False])
def test_a_body_that_is_too_large_is_refused(page, monkeypatch, path, declared):
    monkeypatch.setattr(server, "MAX_BODY_MB", 1)
    monkeypatch.setattr(server, "MAX_UPLOAD_MB", 1)
    form = path == "upload"
    start = b'--b\r\nContent-Disposition: form-data; name="files"; filename="x"\r\n\r\n' if form else b'{"a": "'
    headers = {"Content-Type": "multipart/form-data; boundary=b" if form else "application/json"}
    headers["Accept"] = "application/json, text/event-stream"
    body = itertools.chain([start], itertools.repeat(bytes(100_000), 20))
    content = b"".join(body) if declared else body
    try:
        reply = httpx.post(f"{page[1]}/gradio_api/{path}", content=content, headers=headers, timeout=20)
    except httpx.WriteError:  # the server has closed the connection before all was sent
        return
    assert reply.status_code in ((413, 500) if path == "mcp/" else (413,))
    assert declared is False or ("more than 1 MB" if form else "larger than 1 MB") in reply.text


@pytest.mark.parametrize("full", ["bytes", "declared", "files"])
def test_stored_uploads_are_limited(tmp_path, monkeypatch, full):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    monkeypatch.setenv("BLASTLENS_STORE_MB", "10")
    monkeypatch.setattr(server, "MAX_FILES", 3)
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "x").write_bytes(bytes(9_000_000 if full == "bytes" else 0))
    for name in "yz" if full == "files" else "":
        (tmp_path / name).touch()
    shield = Shield(PlainTextResponse("in"))

    async def send(size):
        async with httpx.AsyncClient(transport=httpx.ASGITransport(shield), base_url="http://page") as client:
            return await client.post("/gradio_api/upload", content=bytes(size))

    reply = asyncio.run(send(20_000_000 if full == "declared" else 2_000_000))
    assert (reply.status_code, reply.text) == (507, FULL)
    assert full == "files" or asyncio.run(send(500_000)).status_code == 200


@pytest.mark.parametrize("given", ["-1", "many", "1e3", "6.5", "9"])
def test_an_invalid_limit_is_refused_before_the_start(monkeypatch, given):
    monkeypatch.setenv("BLASTLENS_STORE_MB", given)
    with pytest.raises(BlastlensError, match=r"BLASTLENS_STORE_MB is .* from 10 to 100000000 is accepted"):
        build([shared_model_folder("cell")])


# Errors


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (BlastlensError("cell.png is empty."), "cell.png is empty."),
        (gr.Error("Too dark."), "Too dark."),
        (RuntimeError("secret /home/me/patient.png"), FAILED),
    ],
)
def test_an_error_is_one_sentence_and_an_internal_one_names_neither_cause_nor_path(
    caplog, monkeypatch, error, sentence
):
    monkeypatch.delenv("BLASTLENS_LOG", raising=False)
    with Page(analytics_enabled=False) as demo:
        box = gr.Textbox()

        def fail(_):
            raise error

        box.change(fail, box, box)
    with pytest.raises(gr.Error) as raised:
        asyncio.run(demo.process_api(0, ["x"]))
    assert raised.value.message == sentence
    assert "secret" not in caplog.text and "patient" not in caplog.text
    assert ("RuntimeError at test_server.py" in caplog.text) == (sentence == FAILED)
