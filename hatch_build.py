"""Build hook: what PyPI shows is README.md, with links and pictures that lead to the repository."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


class ReadmeHook(MetadataHookInterface):
    """Make the links of README.md absolute. Only ``Source`` of ``[project.urls]`` names the repository."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set the field ``readme``."""
        text = Path(self.root, "README.md").read_text()
        source = metadata["urls"]["Source"]
        text = re.sub(r"!\[([^]]*)\]\((?!https?:|#)([^)]+)\)", rf"![\1]({source}/raw/main/\2)", text)
        text = re.sub(r"(?<!!)\[([^]]*)\]\((?!https?:|#)([^)]+)\)", rf"[\1]({source}/blob/main/\2)", text)
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
