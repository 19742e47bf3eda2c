"""How much one client may ask for, and how much the page stores: counts and sums of a moving window. No Gradio, no I/O.

A client is the address that a request comes from. Behind a proxy that is the proxy's, unless the server trusts it to
say for whom it asks: uvicorn does so for the addresses in FORWARDED_ALLOW_IPS, which `trust_the_host` sets on a Space.
"""

import ipaddress
import os
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, MutableMapping

# More clients than these at a time are not told apart any further: whoever asked least recently starts anew.
CLIENTS = 10_000
# From where a proxy inside a host's own network asks. Taking the last address that is none of these, no visitor gains
# anything by sending a header of their own.
OWN_NETWORKS = "127.0.0.0/8,10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,100.64.0.0/10,::1,fc00::/7"


class Allowance:
    """So much for each client within so many seconds.

    Args:
        most: the sum that a client may come to; 0 for any.
        within: length of the window in seconds.
        now: a clock that never goes back, in seconds.
    """

    def __init__(self, most: int, within: float, now: Callable[[], float] = time.monotonic) -> None:
        self._most, self._within, self._now = most, within, now
        self._spent: OrderedDict[str, deque[tuple[float, int]]] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, client: str, amount: int = 1) -> float:
        """Take an amount; 0 if it was there, else nothing is taken and it is asked to wait so many seconds."""
        if not self._most:
            return 0.0
        with self._lock:
            now, spent = self._now(), self._spent.setdefault(client, deque())
            self._spent.move_to_end(client)
            while len(self._spent) > CLIENTS:
                self._spent.popitem(last=False)
            while spent and now - spent[0][0] >= self._within:
                spent.popleft()
            over = sum(one for _, one in spent) + amount - self._most
            if over <= 0:
                spent.append((now, amount))
                return 0.0
            for at, one in spent:
                over -= one
                if over <= 0:
                    return max(at + self._within - now, 1e-3)
            return self._within


def client_of(address: str | None) -> str:
    """The client behind an address: of IPv6, where anybody has billions of them, the network it belongs to."""
    try:
        there = ipaddress.ip_address(address or "")
    except ValueError:
        return address or "unknown"
    return str(there) if there.version == 4 else str(ipaddress.ip_network((there, 64), strict=False))


def trust_the_host(environment: MutableMapping[str, str] = os.environ) -> None:
    """On a Space, have the server believe the host's own proxies about whom they ask for; call it before the launch.

    Elsewhere nobody but this computer is believed, unless FORWARDED_ALLOW_IPS names who is.
    """
    if environment.get("SPACE_ID"):
        environment.setdefault("FORWARDED_ALLOW_IPS", OWN_NETWORKS)
