"""Scripts, styles and fonts of other projects, so that pages which other tools generate work without a network.

The files are as their projects publish them; LICENCES.md has their versions and licences.
"""

import re
import shutil
from functools import partial
from pathlib import Path

from relume.files import write_text

_HERE = Path(__file__).parent
_TAG = re.compile(r"""<(link|script|img)\b[^>]*?\b(?:href|src)\s*=\s*["'](https?:)?//([^"']+)["'][^>]*>""")
# What has another name here than in the address; all else has the same.
_NAMES = {
    "all.min.css": "fontawesome.min.css",
    "bootstrap-prefers-dark.css": "bootstrap-prefers-dark.min.css",
    "bootstrap-table-filter-control.css": "bootstrap-table-filter-control.min.css",
    "vega@5": "vega.min.js",
    "vega-lite@5": "vega-lite.min.js",
    "vega-embed@6": "vega-embed.min.js",
}


def make_offline(site: Path) -> None:
    """Makes all pages of a site load scripts and styles from its folder `offline`, and no image from elsewhere.

    Args:
        site: Folder with the pages, which are changed.
    """
    shutil.copytree(_HERE, site / "offline", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    for page in site.rglob("*.html"):
        folder = "../" * (len(page.relative_to(site).parts) - 1) + "offline/"
        write_text(page, _TAG.sub(partial(_local, folder), page.read_text(encoding="utf-8")))


def _local(folder: str, tag: re.Match[str]) -> str:
    name = tag[3].partition("?")[0].rpartition("/")[2]
    name = _NAMES.get(name, name)
    if not (_HERE / name).is_file():
        return "<script>" if tag[1] == "script" else ""  # such as a logo whose address says when the page was made
    return f'<script src="{folder}{name}">' if tag[1] == "script" else f'<link rel="stylesheet" href="{folder}{name}">'
