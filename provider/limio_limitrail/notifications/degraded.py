# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""DegradedNotifier."""

from __future__ import annotations

import copy
import html
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from airflow.sdk.bases.notifier import BaseNotifier

if TYPE_CHECKING:
    from airflow.sdk import Context

Callback: TypeAlias = Callable[["Context"], Any]
"""A notifier of any provider, or a function of the context."""

_OF_COMMITS = {"rejected", "parked", "denied", "changed", "no_rows", "fewer_rows", "slower"}
_OF_RECONCILIATIONS = {
    *("different", "only_ours", "only_theirs", "twice_there", "unexpected_there", "not_compared", "uncertain"),
    "no_rows",
}

WARNINGS = frozenset(_OF_COMMITS | _OF_RECONCILIATIONS)
"""Names of warnings."""


class DegradedNotifier(BaseNotifier):
    """Call other notifiers if a usage task is green but degraded: an ``on_success_callback`` of the task.

    Their templates have one more name, ``degraded``, with these members: ``title``, one line; ``text``, all warnings with their
    reasons, query and page of the docs; ``html``, the same as HTML; ``warnings``, a list of
    `limio_limitrail.usage.UsageWarning`; ``summary``, the task's `limio_limitrail.usage.UsageCommitSummary` or
    `limio_limitrail.usage.UsageReconciliationSummary`; ``log_url``, the task's log.

    If a notifier fails, the log says so, and the next one is called. The task stays green.

    :param notifier: a notifier of any provider, such as ``SmtpNotifier``; a function that takes the context; or a list of them.
    :param warnings: names of warnings, such as ``["denied", "no_rows"]``; notifiers are called for these only. None: for all.
    :raises ValueError: there is no notifier, or it cannot be called; or there are no such warnings.
    :raises TypeError: ``warnings`` is a text.
    """

    def __init__(self, notifier: Callback | Sequence[Callback], *, warnings: Iterable[str] | None = None) -> None:
        super().__init__()
        self.notifiers = list(notifier) if isinstance(notifier, list | tuple) else [cast("Callback", notifier)]
        if not self.notifiers or not all(map(_is_callback, self.notifiers)):
            raise ValueError(
                "notifier must be a notifier, such as SmtpNotifier(...), a function of the context that is not async, or a list "
                "of them"
            )
        if isinstance(warnings, str):
            raise TypeError(f'warnings must be a list of names, got a text; write ["{warnings}"]')
        self.warnings = WARNINGS if warnings is None else frozenset(warnings)
        if not self.warnings or not self.warnings <= WARNINGS:
            wrong = ", ".join(sorted(map(repr, self.warnings - WARNINGS))) or "none"
            raise ValueError(f"warnings must be some of {', '.join(sorted(WARNINGS))}, got {wrong}")

    def notify(self, context: Context) -> None:
        """Call the notifiers if the task of a context is degraded."""
        summary = self._summary(context)
        if summary is None or summary.get("status") != "degraded":
            return
        warnings = [one for one in summary["warnings"] if one["name"] in self.warnings]
        if not warnings:
            return
        message = _message(summary, warnings=warnings, ti=context.get("ti"))
        for notifier in self.notifiers:
            try:
                # A copy, because a notifier renders its templates in place, once.
                copy.copy(notifier)(cast("Context", {**context, "degraded": message}))
            except Exception as error:  # noqa: BLE001 - the task is done, whether anybody hears of it or not
                name = getattr(notifier, "__qualname__", type(notifier).__name__)
                self.log.warning("%s could not tell that the task is degraded (%s).", name, type(error).__name__)

    def _summary(self, context: Context) -> Mapping[str, Any] | None:
        """Return the task's summary; None if it has none."""
        ti: Any = context.get("ti")
        try:
            found = ti.xcom_pull(task_ids=ti.task_id, map_indexes=ti.map_index, key="return_value")
        except Exception as error:  # noqa: BLE001 - as above
            self.log.warning("Whether the task is degraded is not known: its summary cannot be read (%s).", type(error).__name__)
            return None
        return found if isinstance(found, Mapping) else None


def _is_callback(value: object) -> bool:
    """Return whether a value tells somebody when it is called: a class makes an object, and a coroutine would not be awaited."""
    return callable(value) and not isinstance(value, type) and not inspect.iscoroutinefunction(value)


def _message(summary: Mapping[str, Any], *, warnings: Sequence[Mapping[str, Any]], ti: Any) -> dict[str, Any]:
    task = f"{getattr(ti, 'dag_id', '')}.{getattr(ti, 'task_id', '')}"
    copy_ = getattr(ti, "map_index", None)
    task += f"[{copy_}]" if isinstance(copy_, int) and copy_ >= 0 else ""
    title = f"{task} is degraded: {', '.join(str(one['name']).replace('_', ' ') for one in warnings)}"
    run, log_url = getattr(ti, "run_id", ""), str(getattr(ti, "log_url", "") or "")
    head = f"{title}\nRun {run}: {_about(summary)}, the task is green."
    return {
        "title": title,
        "text": "\n\n".join([head, *map(_text, warnings), *([f"Log: {log_url}"] if log_url else [])]),
        "html": "".join(
            [f"<p>{_html(head)}</p>", *map(_section, warnings), f'<p><a href="{_html(log_url)}">Log</a></p>' if log_url else ""]
        ),
        "warnings": list(warnings),
        "summary": dict(summary),
        "log_url": log_url,
    }


def _about(summary: Mapping[str, Any]) -> str:
    if "rows" in summary:
        return f"{summary['operation']}, {summary['rows']:,} rows"
    sides = f"{summary['ledger_rows']:,} rows of {summary['table']}, {summary['list_records']:,} records of {summary['resource']}"
    return f"{sides} from {summary['since']} to {summary['until']}"


def _text(warning: Mapping[str, Any]) -> str:
    reasons = [f"- {reason}" for reason in warning["reasons"]]
    return "\n".join([f"{warning['message']}.", *reasons, f"Rows: {warning['query']}", f"More: {warning['docs']}"])


def _section(warning: Mapping[str, Any]) -> str:
    reasons = "".join(f"<li>{_html(reason)}</li>" for reason in warning["reasons"])
    return (
        f"<p>{_html(warning['message'])}.</p>{f'<ul>{reasons}</ul>' if reasons else ''}<pre>{_html(warning['query'])}</pre>"
        f'<p><a href="{_html(warning["docs"])}">More</a></p>'
    )


def _html(text: object) -> str:
    return html.escape(str(text)).replace("\n", "<br>")
