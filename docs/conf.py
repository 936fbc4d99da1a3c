"""Sphinx's settings. Nothing is fetched while it builds: the theme is local, and there is no intersphinx."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import figures

from airflow_provider_rtisms import __version__

project = "airflow-provider-rtisms"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
myst_enable_extensions = ["colon_fence", "substitution"]
myst_heading_anchors = 3
myst_substitutions = figures.substitutions()

autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
maximum_signature_line_length = 100

# References into this package have to resolve, type variables aside; those to other projects cannot, since nothing is
# fetched.
nitpicky = True
nitpick_ignore_regex = [("py:.*", r"(?!airflow_provider_rtisms).*|.*\.T")]

html_theme = "furo"
html_title = f"{project} {version}"
html_copy_source = False
