"""Text is read and written as UTF-8, whatever the user's locale says."""

import ast
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
    if name != "open" or getattr(owner, "id", "") in ("os", "Image", "tarfile", "opener", "zipped", "av"):
        return False
    place = 1 if isinstance(call.func, ast.Name) else 0
    modes = [arg.value for arg in call.args[place : place + 1] if isinstance(arg, ast.Constant)]
    modes += [k.value.value for k in call.keywords if k.arg == "mode" and isinstance(k.value, ast.Constant)]
    return not any(isinstance(mode, str) and "b" in mode for mode in modes)


def test_every_text_file_has_its_encoding():
    """No module of relume, components and flows leaves the encoding of a file to the locale."""
    left = []
    for path in [path for folder in ("relume", "components", "flows") for path in (ROOT / folder).rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and opens_text_without_encoding(node):
                left.append(f"{path}:{node.lineno}: {ast.unparse(node)[:80]}")
    assert left == []


def test_a_file_without_an_encoding_is_found():
    """Text that is read, written or opened without one; bytes and what names an encoding are left alone."""
    lines = ["path.read_text()", "path.write_text(x)", "open(p)", "open(p, 'w')", "path.open('a')"]
    fine = ["open(p, 'rb')", "path.open('wb')", "open(p, encoding='utf-8')", "os.open(p, 0)"]
    calls = [ast.parse(line, mode="eval").body for line in lines + fine]
    assert [opens_text_without_encoding(call) for call in calls] == [True] * len(lines) + [False] * len(fine)
