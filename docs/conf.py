# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""The site: ``make docs``."""

from __future__ import annotations

from limio_limitrail import __version__

project = "airflow-provider-limio-limitrail"
author = "the maintainers"
copyright = "the maintainers. Licensed under the Apache License, Version 2.0"  # noqa: A001 - Sphinx's name
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
html_theme = "alabaster"
html_theme_options = {"page_width": "1100px", "fixed_sidebar": True}
html_title = "Limio and LimitRail for Airflow"
html_static_path: list[str] = []
exclude_patterns = ["_build"]
# The page that people begin with is written for those who read the sources, too: the contents are a page of their own.
root_doc = "site"

myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]

# A name in single backticks is code, as it is in the sources.
default_role = "code"
autodoc_typehints = "none"
autodoc_class_signature = "separated"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "undoc-members": False, "show-inheritance": False, "exclude-members": "__init__"}
nitpicky = False
