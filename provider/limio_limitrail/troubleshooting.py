# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Links from error messages to the page that says what to do."""

from __future__ import annotations

PAGE = "docs/troubleshooting"
_LINK_PREFIX = "More: "

_site = ""


def set_site(url: str) -> None:
    """Set the URL of the docs, which messages then link to.

    :param url: where the output of ``make docs`` is published; if empty, messages name the page in the package's source.
    """
    global _site
    _site = url.strip().rstrip("/")


def address_of(anchor: str) -> str:
    """Return the address of a section of the page."""
    page = f"{_site}/troubleshooting.html" if _site else f"{PAGE}.md"
    return f"{page}#{anchor}"


def explained(message: str, *, error: type[BaseException]) -> str:
    """Append the address of an error's section to its message, unless it quotes an error that has appended its own."""
    if _LINK_PREFIX in message:
        return message
    end = "" if message.endswith((".", "?", "!")) else "."
    return f"{message}{end} {_LINK_PREFIX}{address_of(error.__name__.lower())}"


class ExplainedError(Exception):
    """An error with a section on the page. It must be the first base of a class."""

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
