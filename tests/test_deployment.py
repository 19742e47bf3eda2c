"""The page behind the reverse proxies of docs/deployment.md: pages, uploads and predictions, as a browser asks them."""

import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import pytest
from gradio_client import Client, handle_file
from helpers_files import encoded
from helpers_machine import lacking
from helpers_models import shared_model_folder
from helpers_page import launched

from blastlens.synthetic_images import synthetic_image

ROOT = Path(__file__).resolve().parents[1]
RECIPES = re.findall(r"```nginx\n(.+?)```", (ROOT / "docs" / "deployment.md").read_text(), re.DOTALL)
PATHS = [re.match(r"location (\S*)/ ", recipe)[1] for recipe in RECIPES]
HOST = "lenses.example"

NGINX = """
daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    server {{ listen 127.0.0.1:{port}; {recipe} }}
}}
"""


@contextmanager
def page_below(path: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Address of a page that is started as the recipe for this path says."""
    monkeypatch.setenv("BLASTLENS_HOSTS", HOST)
    monkeypatch.setenv("GRADIO_ROOT_PATH", path)
    with launched(shared_model_folder("cell")) as (_, address):
        yield address.removesuffix(path)


def classified(client: httpx.Client) -> str:
    """The events with which the page answers an upload that is classified, or the refusal of the upload."""
    reply = client.post("gradio_api/upload", files={"files": ("cell.png", encoded(synthetic_image("ALL", 0)))})
    if reply.status_code != 200:
        return f"{reply.status_code}"
    file = {"path": reply.json()[0], "meta": {"_type": "gradio.FileData"}}
    event = client.post("gradio_api/call/v2/classify", json={"image": file}).json()["event_id"]
    return client.get(f"gradio_api/call/classify/{event}").text


def test_the_recipes_are_for_the_root_and_for_a_path():
    assert PATHS == ["", "/blastlens"]


@pytest.mark.parametrize("path", PATHS)
def test_the_page_works_with_what_a_proxy_sends(path, monkeypatch):
    """What reaches the page: the path is removed, and the Host header kept or named in another one."""
    with page_below(path, monkeypatch) as address:
        for headers in ({"Host": f"{HOST}:8080"}, {"X-Forwarded-Host": f"{HOST}:8080"}):
            origin = {"Origin": f"http://{HOST}:8080"}
            with httpx.Client(base_url=address, headers=headers | origin, timeout=60) as client:
                assert client.get("config").json()["root"] == f"http://{HOST}:8080{path}"
                assert "event: complete" in classified(client)
        # Why the recipes do not use $host: it has no port, and the browser's origin has one.
        with httpx.Client(base_url=address, headers={"Host": HOST} | origin, timeout=60) as client:
            assert classified(client) == "403"


@pytest.mark.long
@pytest.mark.parametrize(("path", "recipe"), list(zip(PATHS, RECIPES, strict=True)))
def test_the_nginx_recipes_serve_the_page(path, recipe, tmp_path, monkeypatch):
    if not (nginx := shutil.which("nginx", path="/usr/sbin:/usr/local/sbin") or shutil.which("nginx")):
        lacking("there is no nginx: its recipes cannot be tried", "BLASTLENS_REQUIRE_BROWSER")
    resolve = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *a, **k: resolve("127.0.0.1", *a, **k))
    with closing(socket.create_server(("127.0.0.1", 0))) as probe:
        port = probe.getsockname()[1]
    with page_below(path, monkeypatch) as address:
        recipe = recipe.replace("http://127.0.0.1:7860", address)
        (tmp_path / "conf").write_text(NGINX.format(folder=tmp_path, port=port, recipe=recipe))
        running = subprocess.Popen([nginx, "-p", tmp_path, "-c", tmp_path / "conf", "-e", tmp_path / "error.log"])
        site = f"http://{HOST}:{port}{path}/"
        try:
            with httpx.Client(base_url=site, headers={"Origin": f"http://{HOST}:{port}"}, timeout=60) as client:
                wait_for(client)
                assert client.get("").status_code == 200
                assert client.get("config").json()["root"] == site.rstrip("/")
                assert "event: complete" in classified(client)
                # Larger than what nginx accepts unless it is told.
                assert client.post("gradio_api/upload", files={"files": ("x.bmp", bytes(5_000_000))}).status_code == 200
            image = tmp_path / "cell.png"
            synthetic_image("ALL", 0).save(image)
            answer = Client(site, verbose=False).predict(image=handle_file(image), api_name="/classify")
            assert set(answer["probabilities"]) == {"ALL", "HEM"}
        finally:
            running.terminate()
            running.wait(timeout=20)


def wait_for(client: httpx.Client) -> None:
    for _ in range(100):
        try:
            client.get("config")
            return
        except httpx.ConnectError:
            time.sleep(0.1)
