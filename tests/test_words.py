"""The words of messages, help, docstrings and documents: those that the glossary replaces by the field's terms."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Words that nobody searches for: an image is not a picture, an error is fixed, a level is given, a training resumes.
REPLACED = re.compile(r"\b(pictures?|mend(s|ed|ing)?|told|goes on|went on)\b", re.IGNORECASE)
# Code in backticks, paths and templates, and the name that begins the line of an attribute.
CODE = re.compile(r"`[^`\n]*`|\S*[/.]\S+|\{.*?\}|^\s*\w+:", re.MULTILINE)
# Hosts of package registries, which pip's and apt's own settings name; written so that none stands here.
REGISTRIES = re.compile(b"p[y]pi[.]|python[h]osted|deb[.]debian|download[.]pytorch", re.IGNORECASE)
NOT_OURS = {"glossary.md", "photographs.md"}  # the list of such words, and titles of photographs


def texts() -> Iterator[tuple[str, str]]:
    """Each text with its place. A string without a space is a key or the name of a file."""
    for path in [path for folder in ("relume", "components", "flows") for path in (ROOT / folder).rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
                yield f"{path.relative_to(ROOT)}:{node.lineno}", node.value
    for pattern in ("*.md", "docs/**/*.md", "recipes/*.yaml", "flows/*.j2"):
        for path in ROOT.glob(pattern):
            if path.name not in NOT_OURS:
                for number, line in enumerate(path.read_text().splitlines(), 1):
                    yield f"{path.relative_to(ROOT)}:{number}", line


def test_texts_use_the_terms_of_the_glossary():
    """No text has a word that a reader with no knowledge of this project would not search for."""
    found = [f"{place}: {match[0]}" for place, text in texts() if (match := REPLACED.search(CODE.sub("", text)))]
    assert not found, "\n".join(found)


def test_no_file_names_a_host_of_packages():
    """Neither code nor data nor documents: a machine may reach packages by other hosts than ours."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    files = [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]
    assert len(files) > 500
    assert [str(path) for path in files if REGISTRIES.search(path.read_bytes())] == []
