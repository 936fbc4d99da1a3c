"""Settings of Sphinx. The build downloads nothing: the theme is installed, and intersphinx is not used."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import figures

from airflow_provider_rtisms import __version__

project = "airflow-provider-rtisms"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton", "sphinx_design"]
myst_enable_extensions = ["colon_fence", "substitution"]
myst_heading_anchors = 3
myst_substitutions = figures.substitutions()

autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
maximum_signature_line_length = 100

# Every reference to a public name of this package must resolve. Names of other projects cannot, since nothing is
# downloaded. Private names appear in signatures, but the reference does not document them.
nitpicky = True
PRIVATE = (
    *(
        "api.aio",
        "api.calls",
        "api.client",
        "api.auth",
        "api.retrying",
        "api.values",
        "bulk",
        "hooks.connection",
        "sending",
        "waiting",
    ),
    *("hooks.templates", "sandbox.client.RunningSandbox", "sensors.rtisms.DeferrableSensor", "triggers.polling"),
)
nitpick_ignore_regex = [
    ("py:.*", r"(?!airflow_provider_rtisms\b).*"),
    ("py:.*", r".*\.T"),  # type variables
    ("py:.*", rf"airflow_provider_rtisms\.({'|'.join(map(re.escape, PRIVATE))})(\..*)?"),
]

urls = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]["urls"]
html_theme = "furo"
html_theme_options = {
    "source_repository": urls["Source"],
    "source_branch": "main",
    "source_directory": "docs/",
}
html_logo = html_favicon = "integration-logos/realtime-sms.svg"
html_title = f"{project} {version}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_copy_source = html_show_copyright = False
