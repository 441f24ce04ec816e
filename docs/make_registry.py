# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Write .airflow-registry.yaml, which registries of providers read: ``python docs/make_registry.py``. A test compares the two.

All of it comes from ``provider_info.py`` and from docstrings. Nothing is imported for them: some modules need Airflow 3.3.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

import limio_limitrail
from limio_limitrail.provider_info import get_provider_info

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / ".airflow-registry.yaml"
SOURCES = Path(limio_limitrail.__file__).parent.parent

HEAD = """\
# Licensed under the Apache License, Version 2.0. See the LICENSE file.
# Written by docs/make_registry.py.
"""

# What users import besides the classes that provider_info.py leads to.
OTHER = [
    "limio_limitrail.api.resource.Resource",
    "limio_limitrail.notifications.degraded.DegradedNotifier",
    "limio_limitrail.retry_policy.ApiRetryPolicy",
    "limio_limitrail.emulator.server.EmulatorServer",
]


def classes_of(module: str) -> Iterator[tuple[str, str]]:
    """Return the full names and the docstrings' first lines of the public classes that a module defines."""
    source = (SOURCES / module.replace(".", "/")).with_suffix(".py").read_text()
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            told = ast.get_docstring(node) or ""
            yield f"{module}.{node.name}", told.partition("\n")[0].replace("``", "`").rstrip(".")


def entries(modules: list[str], *, only: list[str] | None = None) -> list[dict[str, str]]:
    """Make a section of the file out of modules."""
    found = [found for module in modules for found in classes_of(module)]
    return [{"module": name, "description": told} for name, told in found if only is None or name in only]


def modules_of(names: list[str]) -> list[str]:
    """Return the modules of classes, each once."""
    return list(dict.fromkeys(name.rpartition(".")[0] for name in names))


def sections() -> dict[str, Any]:
    """Return the file's content."""
    info = get_provider_info()
    listed = {
        kind: [name for entry in info[kind] for name in entry["python-modules"]] for kind in ("operators", "sensors", "triggers")
    }
    hooks = [kind["hook-class-name"] for kind in info["connection-types"]]
    return {
        "package-name": info["package-name"],
        "display-name": info["name"],
        "description": info["description"],
        "operators": entries(listed["operators"]),
        "transfers": entries([entry["python-module"] for entry in info["transfers"]]),
        "sensors": entries(listed["sensors"]),
        "triggers": entries(listed["triggers"]),
        "hooks": entries(modules_of(hooks), only=hooks),
        "other": entries(modules_of(OTHER), only=OTHER),
    }


def page() -> str:
    """Write the file."""
    return HEAD + "".join(
        ("\n" if isinstance(value, list) else "") + yaml.safe_dump({key: value}, sort_keys=False, width=1000)
        for key, value in sections().items()
    )


if __name__ == "__main__":
    FILE.write_text(page())
