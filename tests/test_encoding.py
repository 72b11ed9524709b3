"""Text is read and written as UTF-8, whatever the user's locale says."""

import ast
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]


def opens_text_without_encoding(call: ast.Call) -> bool:
    """Whether a call opens a text file and leaves its encoding to the locale."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if any(keyword.arg == "encoding" for keyword in call.keywords):
        return False
    owner = call.func.value if isinstance(call.func, ast.Attribute) else None
    if name in ("read_text", "write_text"):
        return owner is not None and getattr(owner, "id", "") != "files"  # relume.files writes UTF-8
    if name != "open" or getattr(owner, "id", "") in ("os", "Image", "tarfile", "opener"):
        return False
    place = 1 if isinstance(call.func, ast.Name) else 0
    modes = [arg.value for arg in call.args[place : place + 1] if isinstance(arg, ast.Constant)]
    modes += [k.value.value for k in call.keywords if k.arg == "mode" and isinstance(k.value, ast.Constant)]
    return not any(isinstance(mode, str) and "b" in mode for mode in modes)


def test_every_text_file_has_its_encoding():
    """No module of relume, components and flows leaves the encoding of a file to the locale."""
    listed = subprocess.run(
        ["git", "ls-files", "relume/*.py", "components/*.py", "flows/*.py"], cwd=ROOT, capture_output=True, text=True
    )
    left = []
    for name in listed.stdout.split():
        for node in ast.walk(ast.parse((ROOT / name).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and opens_text_without_encoding(node):
                left.append(f"{name}:{node.lineno}: {ast.unparse(node)[:80]}")
    assert left == []
