"""The description of the package: README.md, with links that also work on the page of a package index."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

#: The target of a link or a picture that is neither a URL nor a place on the same page.
RELATIVE_LINK = re.compile(r"(?P<picture>!\[[^][]*)?\]\((?P<path>(?![a-z]+:|#|/)[^)\s]+)")


class DescriptionHook(MetadataHookInterface):
    """Makes the relative links of README.md absolute: into the tag of the release, below ``project.urls.Source``."""

    def update(self, metadata: dict[str, Any]) -> None:
        source, tag = metadata["urls"]["Source"], f"v{metadata['version']}"

        def absolute(link: re.Match[str]) -> str:
            view = "raw" if link["picture"] else "blob"
            return f"{link['picture'] or ''}]({source}/{view}/{tag}/{link['path']}"

        readme = RELATIVE_LINK.sub(absolute, (Path(self.root) / "README.md").read_text(encoding="utf-8"))
        metadata["readme"] = {"content-type": "text/markdown", "text": readme}
