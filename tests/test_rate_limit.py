"""How much one client may ask for: counted by its own address, whatever it says of itself, and told in one sentence."""

import asyncio

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from blastlens.errors import BlastlensError
from blastlens.ui.rate_limit import CLIENTS, OWN_NETWORKS, Allowance, client_of, trust_the_host
from blastlens.ui.server import Door, Limits


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def door(monkeypatch, requests):
    monkeypatch.setenv("BLASTLENS_RATE", str(requests))
    paths = ("/config", "/assets/x.js", "/gradio_api/upload")
    return Door(Starlette(routes=[Route(path, lambda _: PlainTextResponse("in"), methods=["GET"]) for path in paths]))


def statuses(app, *asked):
    """Statuses of requests, each (address, path, headers) one after the other."""

    async def ask():
        found = []
        for address, path, headers in asked:
            transport = httpx.ASGITransport(app, client=(address, 1))
            async with httpx.AsyncClient(transport=transport, base_url="http://page") as client:
                found.append(await client.get(path, headers=headers))
        return found

    return asyncio.run(ask())


def test_an_allowance_is_spent_and_comes_back_with_time():
    clock = Clock()
    allowance = Allowance(10, 60, clock)
    assert [allowance.take("a", 4), allowance.take("a", 6)] == [0, 0]
    clock.now = 15
    assert allowance.take("a") == 45
    assert allowance.take("b") == 0
    clock.now = 60
    assert [allowance.take("a", 10), allowance.take("a")] == [0, 60]


def test_what_is_refused_is_not_taken():
    allowance = Allowance(10, 60, Clock())
    assert allowance.take("a", 11) == 60
    assert allowance.take("a", 10) == 0


def test_no_allowance_means_any_number():
    allowance = Allowance(0, 60)
    assert {allowance.take("a", 10**9) for _ in range(100)} == {0}


def test_a_flood_of_addresses_takes_no_more_memory_than_its_share():
    allowance = Allowance(1, 60, Clock())
    for number in range(CLIENTS + 100):
        allowance.take(str(number))
    assert len(allowance._spent) == CLIENTS


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("203.0.113.7", "203.0.113.8", False),
        ("2001:db8::1", "2001:db8::ffff:1", True),  # one customer's network
        ("2001:db8::1", "2001:db8:0:1::1", False),
        (None, "not an address", False),
    ],
)
def test_a_client_is_an_address_or_a_network_of_them(one, other, same):
    assert (client_of(one) == client_of(other)) == same


def test_beyond_the_limit_one_sentence_says_when_to_come_back(monkeypatch):
    app = door(monkeypatch, 3)
    me, they = ("203.0.113.7", "/config", {}), ("203.0.113.8", "/config", {})
    *first, refused, theirs = statuses(app, me, me, me, me, they)
    assert [reply.status_code for reply in first] == [200, 200, 200]
    assert (refused.status_code, theirs.status_code) == (429, 200)
    assert (
        refused.json()["detail"]
        == refused.json()["error"]
        == ("Too many requests came from your address; please try again in 60 s.")
    )
    assert refused.headers["retry-after"] == "60"


def test_what_is_the_same_for_everybody_does_not_count(monkeypatch):
    replies = statuses(door(monkeypatch, 1), *[("203.0.113.7", "/assets/x.js", {})] * 5, ("203.0.113.7", "/config", {}))
    assert {reply.status_code for reply in replies} == {200}


def test_a_browser_gets_the_sentence_as_plain_text(monkeypatch):
    app, me = door(monkeypatch, 1), "203.0.113.7"
    asked = [(me, "/config", {}), (me, "/config", {"accept": "text/html"})]
    assert statuses(app, *asked)[-1].text.startswith("Too many requests")


def test_behind_a_host_s_proxies_the_visitor_counts_and_cannot_pose_as_another(monkeypatch):
    app = ProxyHeadersMiddleware(door(monkeypatch, 1), trusted_hosts=OWN_NETWORKS)
    told = ["9.9.9.9, 10.0.0.7", "1.2.3.4, 9.9.9.9, 10.0.0.7", "8.8.8.8"]
    replies = statuses(app, *[("10.0.0.5", "/config", {"x-forwarded-for": one}) for one in told])
    assert [reply.status_code for reply in replies] == [200, 429, 200]


def test_where_nobody_is_trusted_the_header_changes_nothing(monkeypatch):
    app = ProxyHeadersMiddleware(door(monkeypatch, 1), trusted_hosts="127.0.0.1")
    replies = statuses(app, *[("203.0.113.7", "/config", {"x-forwarded-for": f"8.8.8.{n}"}) for n in range(2)])
    assert [reply.status_code for reply in replies] == [200, 429]


def test_only_a_space_trusts_its_host_s_proxies():
    desk, space, told = {}, {"SPACE_ID": "you/page"}, {"SPACE_ID": "you/page", "FORWARDED_ALLOW_IPS": "10.1.1.1"}
    for environment in (desk, space, told):
        trust_the_host(environment)
    assert [one.get("FORWARDED_ALLOW_IPS") for one in (desk, space, told)] == [None, OWN_NETWORKS, "10.1.1.1"]


def test_the_limits_are_the_operator_s():
    assert Limits.of({}) == Limits(0, 10_000, frozenset())
    assert Limits.of({"SPACE_ID": "you/page"}).requests == 600
    assert Limits.of({"SPACE_ID": "you/page", "BLASTLENS_RATE": "0", "BLASTLENS_STORE_MB": "50"}) == Limits(
        0, 50, frozenset()
    )


@pytest.mark.parametrize("given", ["-1", "many", "1e3", "1000001", "6.5"])
def test_a_limit_that_is_none_is_refused_in_one_sentence(given):
    with pytest.raises(BlastlensError, match=r"BLASTLENS_RATE is .*; a whole number from 0 to 1000000 is accepted\."):
        Limits.of({"BLASTLENS_RATE": given})
