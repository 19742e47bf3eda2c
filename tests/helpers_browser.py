"""A visit to the demo in Chromium: console errors and requests to other hosts fail every test."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from axe_playwright_python.sync_playwright import Axe
from helpers_machine import lacking
from playwright.sync_api import Browser, Page, sync_playwright

# Names resolve to nothing, so that even what Chromium asks on its own account ends on this machine.
_QUIET = (
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
# Of the impacts that axe reports; "moderate" and "minor" ones are advice, mostly on parts of Gradio.
SERIOUS = ("critical", "serious")


# No prediction is pending: until then it is dimmed, and its contrast low.
_SHOWN = """() => {
  const verdict = document.querySelector('.verdict');
  return !verdict || (!verdict.querySelector('[data-testid="status-tracker"]:not(.hide)')
    && verdict.getAnimations({subtree: true}).every(one => one.playState !== 'running'));
}"""


@dataclass
class Visit:
    """One open page.

    Attributes:
        page: Playwright's page.
        complaints: console errors and uncaught exceptions so far.
        elsewhere: addresses asked for that are not the demo's.
    """

    page: Page
    complaints: list[str] = field(default_factory=list)
    elsewhere: set[str] = field(default_factory=set)

    def tab(self, name: str) -> None:
        """Open a tab by its name."""
        self.page.get_by_role("tab", name=name, exact=True).click()
        self.page.get_by_role("tab", name=name, exact=True, selected=True).wait_for()

    def fits(self) -> bool:
        """Whether nothing sticks out of the page to the right."""
        return self.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth + 1")

    def barriers(self, context: str | None = None) -> list[str]:
        """What axe finds serious or worse: rule, help and the first places."""
        self.page.wait_for_function(_SHOWN)
        found = Axe().run(self.page, context).response["violations"]
        return [
            f"{v['id']} ({v['impact']}): {v['help']}: {[n['target'] for n in v['nodes'][:3]]}"
            for v in found
            if v["impact"] in SERIOUS
        ]


def chromium_path() -> str:
    """Where Debian's Chromium is; a missing one skips the test visibly, and fails it where it is required."""
    path = os.environ.get("BLASTLENS_CHROMIUM") or shutil.which("chromium")
    if not path:
        lacking("there is no chromium: tests in a browser cannot run", "BLASTLENS_REQUIRE_BROWSER")
    return path


@contextmanager
def chromium() -> Iterator[Browser]:
    """Chromium without a window."""
    path = chromium_path()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(_QUIET))
        yield browser
        browser.close()


@contextmanager
def visiting(browser: Browser, address: str) -> Iterator[Callable[..., Visit]]:
    """A function that opens pages of the demo at `address`, and at the end the check that they kept to it.

    It takes a path with query, the width in pixels, and whether the visitor prefers a dark page.
    """
    visits = []

    def visit(path: str = "/", width: int = 1280, dark: bool = False) -> Visit:
        context = browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme="dark" if dark else "light",
            has_touch=width < 600,
            permissions=["clipboard-read", "clipboard-write"],
            reduced_motion="reduce",
        )
        context.set_default_timeout(60_000)
        one = Visit(context.new_page())
        one.page.on("console", lambda message: message.type == "error" and one.complaints.append(message.text))
        one.page.on("pageerror", lambda error: one.complaints.append(str(error)))
        one.page.on("request", lambda request: _note(request.url, address, one.elsewhere))
        one.page.goto(address + path)
        one.page.locator("footer").last.wait_for()
        visits.append(one)
        return one

    yield visit
    for one in visits:
        one.page.context.close()
    assert [one.complaints for one in visits if one.complaints] == []
    assert [one.elsewhere for one in visits if one.elsewhere] == []


def _note(url: str, address: str, elsewhere: set[str]) -> None:
    if urlsplit(url).scheme not in ("data", "blob") and not url.startswith(address):
        elsewhere.add(url)
