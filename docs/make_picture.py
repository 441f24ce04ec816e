# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""Draw what a command printed as docs/images/demo.svg: ``make demo | python docs/make_picture.py``."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import DIMMED_MONOKAI

PICTURE = Path(__file__).with_name("images") / "demo.svg"
WIDTH = 150


def main() -> None:
    """Read the output, show it, and draw it."""
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    for line in sys.stdin:
        print(line, end="", flush=True)
        style = "bold cyan" if line.startswith("==") else ""
        console.print(line.rstrip("\n"), style=style, markup=False, highlight=False, no_wrap=True)
    drawing = console.export_svg(title="make demo", theme=DIMMED_MONOKAI)
    # The fonts that rich names are on somebody's server; any monospaced font will do.
    drawing = re.sub(r"@font-face \{.*?\}", "", drawing, flags=re.DOTALL).replace("Fira Code, ", "")
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_text(re.sub(r"[ \t]+$", "", drawing, flags=re.MULTILINE))


if __name__ == "__main__":
    main()
