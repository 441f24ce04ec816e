# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""What leads from an error's message to the page that says what to do about it."""

from __future__ import annotations

PAGE = "docs/troubleshooting"
_LEADS = "More: "

_site = ""


def set_site(url: str) -> None:
    """Say where the site of the docs is, so that messages hold URLs.

    :param url: what ``make docs`` has built is there; empty: messages name the page in the package's source.
    """
    global _site
    _site = url.strip().rstrip("/")


def address_of(anchor: str) -> str:
    """Give the address of a part of the page."""
    page = f"{_site}/troubleshooting.html" if _site else f"{PAGE}.md"
    return f"{page}#{anchor}"


def explained(message: str, *, error: type[BaseException]) -> str:
    """Put the address of an error's explanation behind its message, unless an error that it quotes has put its own there."""
    if _LEADS in message:
        return message
    end = "" if message.endswith((".", "?", "!")) else "."
    return f"{message}{end} {_LEADS}{address_of(error.__name__.lower())}"


class ExplainedError(Exception):
    """An error with a part of its own on the page. Stands before the other base of a class."""

    @property
    def what(self) -> str:
        """The message alone."""
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
