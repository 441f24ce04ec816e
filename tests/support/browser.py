# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A real browser, and all that it is given to see."""

from __future__ import annotations

import base64
import contextlib
import shutil
from collections.abc import Callable, Iterable, Iterator
from urllib.parse import quote, urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Error, Page, Request, expect, sync_playwright

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
PATIENCE = 60_000
"""How long a page may take to show something, in milliseconds."""

NOTE_TOASTS = """
window.toasts = [];
new MutationObserver(() => {
    for (const toast of document.querySelectorAll("[data-scope=toast][data-part=root]")) {
        const text = toast.innerText.trim();
        if (text && toast.offsetHeight > 0 && !window.toasts.includes(text)) window.toasts.push(text);
    }
}).observe(document, {childList: true, subtree: true, characterData: true});
"""
"""Airflow shows some messages for two seconds only. A test that is kept waiting must not miss them."""


def find_chromium() -> str:
    """Give the path of Chromium. Playwright's own is not asked for: it would be downloaded."""
    for program in PROGRAMS:
        if found := shutil.which(program):
            return found
    pytest.fail(
        f"The tests of the user interface need Chromium, and none of {', '.join(PROGRAMS)} is there. Install it: "
        "apt-get install chromium (Debian), apt-get install chromium-browser (Ubuntu), dnf install chromium (Fedora).",
        pytrace=False,
    )


@contextlib.contextmanager
def open_browser() -> Iterator[Browser]:
    """Start Chromium with a profile of its own."""
    program = find_chromium()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, headless=True, args=list(FLAGS))
        yield browser
        browser.close()


@contextlib.contextmanager
def open_context(browser: Browser, *, base_url: str) -> Iterator[BrowserContext]:
    """Give what pages are opened in: one size, one language, one time zone."""
    context = browser.new_context(
        base_url=base_url,
        viewport={"width": 1280, "height": 800},
        color_scheme="light",
        locale="en-GB",
        timezone_id="UTC",
    )
    context.set_default_timeout(PATIENCE)
    expect.set_options(timeout=PATIENCE)
    context.add_init_script(NOTE_TOASTS)
    yield context
    context.close()


class Seen:
    """All that a browser was given: the answers to its requests, and pages as they looked.

    :param hidden: gives what must be nowhere among them.
    """

    def __init__(self, context: BrowserContext, *, hidden: Callable[[], Iterable[str]]) -> None:
        self._hidden = hidden
        self._texts: list[tuple[str, str]] = []
        self.unread: list[str] = []
        context.on("requestfinished", self._note)

    def _note(self, request: Request) -> None:
        path = urlsplit(request.url).path
        if path.startswith("/static/"):
            return
        try:
            response = request.response()
            if response is not None:
                headers = "\n".join(f"{name}: {value}" for name, value in response.all_headers().items())
                body = b"" if 300 <= response.status < 400 else response.body()
                self._texts.append((f"{request.method} {path}", f"{headers}\n{body.decode(errors='replace')}"))
        except Error as error:  # the page has gone on to another, and Chromium has forgotten the answer
            self.unread.append(f"{request.method} {path}: {error.message.splitlines()[0]}")

    @property
    def count(self) -> int:
        """How many answers and pages were looked at."""
        return len(self._texts)

    def look(self, page: Page) -> None:
        """Keep a page as it looks now: its HTML, its text, and what is in its fields."""
        fields = page.locator("input, textarea").evaluate_all("fields => fields.map(field => field.value)")
        text = "\n".join([page.content(), page.locator("body").inner_text(), *fields])
        self._texts.append((f"page {urlsplit(page.url).path}", text))

    def where(self, text: str) -> list[str]:
        """Name the answers and the pages that a text is in."""
        return sorted({place for place, seen in self._texts if text in seen})

    def leaks(self) -> list[str]:
        """Name the answers and the pages that anything hidden is in, in any form."""
        forms = {form for secret in self._hidden() for form in forms_of(secret)}
        return sorted({place for form in forms for place in self.where(form)})


def forms_of(secret: str) -> set[str]:
    """Give a secret as it is, as it stands in URLs, and in base64."""
    return {secret, quote(secret), quote(secret, safe=""), base64.b64encode(secret.encode()).decode().rstrip("=")}
