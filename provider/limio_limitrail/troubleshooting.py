# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Links from error messages to the pages of the docs that explain them.

The wheel holds the pages in ``limio_limitrail/docs``. In a checkout they are in the folder ``docs`` of the project.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import ClassVar

TROUBLESHOOTING = "how-to/troubleshooting"
SETTLE_USAGE = "how-to/settle-usage"
_LINK_PREFIX = "More: "

_site = ""


def set_site(url: str) -> None:
    """Set where the site that ``make docs`` built is served. Empty: messages link to the pages installed with the package."""
    global _site
    _site = url.strip().rstrip("/")


@cache
def installed_docs() -> Path:
    """Return the folder with the pages: the wheel's, or the checkout's."""
    package = Path(__file__).resolve().parent
    in_the_wheel = package / "docs"
    return in_the_wheel if in_the_wheel.is_dir() else package.parent.parent / "docs"


def address_of(anchor: str, *, page: str = TROUBLESHOOTING) -> str:
    """Return the URL of a section of a page, which is named from the root of the docs and without its ending."""
    url = f"{_site}/{page}.html" if _site else (installed_docs() / f"{page}.md").as_uri()
    return f"{url}#{anchor}"


def explained(message: str, *, error: type[BaseException]) -> str:
    """Append the URL of an error's explanation to its message, unless an error that it quotes has appended its own."""
    if _LINK_PREFIX in message:
        return message
    end = "" if message.endswith((".", "?", "!")) else "."
    return f"{message}{end} {_LINK_PREFIX}{address_of(error.__name__.lower())}"


class ExplainedError(Exception):
    """An error with a section of its own on the page. Must stand before the other base of a class."""

    permanent: ClassVar[bool] = False
    """True where retrying cannot help until a person changes something."""

    @property
    def what(self) -> str:
        """The message without the link."""
        return super().__str__()

    def __str__(self) -> str:
        return explained(self.what, error=type(self))


_driver_messages_shown = False


def show_driver_messages(shown: bool) -> None:
    """Set whether the text of database drivers, which may quote rows, goes to the log."""
    global _driver_messages_shown
    _driver_messages_shown = shown


def driver_messages_shown() -> bool:
    """Return what `show_driver_messages` has set; off by default."""
    return _driver_messages_shown
