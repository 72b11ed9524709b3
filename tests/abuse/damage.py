"""What can become of a file: cut off, emptied, overwritten, of another type inside, or no file any more."""

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Damage = tuple[str, Callable[[Path], None]]
UNUSABLE = ("emptied", "noise", "zeros", "a folder", "a link to nothing", "first half")
"""After these, no reader can take the file for whole."""


def damages(content: bytes, suffix: str, chance: random.Random, *, thorough: bool) -> Iterator[Damage]:
    """Ways to damage a file.

    Args:
        content: Of the whole file.
        suffix: By which its format is known.
        chance: Chooses places and values.
        thorough: Every way, several times; else each once.

    Yields:
        The name of the damage, and what does it to a path.
    """
    yield "emptied", _written(b"")
    yield "noise", _written(chance.randbytes(max(64, min(len(content), 4096))))
    yield "zeros", _written(bytes(len(content)))
    yield "first half", _written(content[: len(content) // 2])
    yield "a folder", _folder
    yield "a link to nothing", _dangling
    for _ in range(2 if thorough else 1):
        yield "cut", _written(content[: chance.randrange(len(content))])
        place = chance.randrange(len(content))
        flipped = bytes([content[place] ^ 1 << chance.randrange(8)])
        yield "a bit flipped", _written(content[:place] + flipped + content[place + 1 :])
    if suffix in (".json", ".jsonl"):
        yield from _json(content, chance, count=8 if thorough else 3)
    elif suffix in (".yaml", ".lock"):
        yield from _yaml(content)
    elif suffix == ".csv":
        yield from _csv(content, chance, count=6 if thorough else 3)


def _written(content: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(content)

    return write


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.with_name("nothing"))


_OTHER_VALUES: tuple[Any, ...] = (None, True, -1, 0, 10**30, 2.5, "", "text", "\u0000", [], ["text"], {}, {"text": 1})


def _json(content: bytes, chance: random.Random, *, count: int) -> Iterator[Damage]:
    for name, text in {
        "a list of nothing": "[]",
        "a number": "7",
        "null": "null",
        "nested deeply": "[" * 100_000,
        "not UTF-8": None,
        "a number too long": "9" * 10_000,
        "twice": content.decode() * 2,
    }.items():
        yield name, _written(text.encode() if text is not None else b'{"\xe9": "\xff"}')
    lines = content.decode().splitlines() if content.count(b"\n{") else [content.decode()]
    for _ in range(count):
        number = chance.randrange(len(lines))
        value = json.loads(lines[number])
        what = _retype(value, chance)
        changed = [*lines[:number], json.dumps(value), *lines[number + 1 :]]
        yield what, _written("\n".join(changed).encode() + b"\n")


def _retype(value: Any, chance: random.Random) -> str:
    """Gives one value inside another type, or takes it away."""
    places = list(_places(value))
    keys, parent, key = chance.choice(places)
    if chance.random() < 0.25:
        del parent[key]
        return f"without {keys}"
    parent[key] = other = chance.choice([one for one in _OTHER_VALUES if type(one) is not type(parent[key])])
    return f"{keys} is {other!r}"


def _places(value: Any, keys: str = "") -> Iterator[tuple[str, Any, Any]]:
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(entries):
        yield f"{keys}.{key}".lstrip("."), value, key
        yield from _places(inner, f"{keys}.{key}")


_BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9)
)


def _yaml(content: bytes) -> Iterator[Damage]:
    text = content.decode()
    for name, changed in {
        "a list": "- text\n",
        "a text": "text\n",
        "a tab": f"{text}\nadded:\n\tvalue: 1\n",
        "a tag": f"{text}\nadded: !!python/object/apply:os.getcwd []\n",
        "references without end": f"{text}\n{_BOMB}",
        "a reference to itself": f"{text}\nadded: &added [*added]\n",
        "nested deeply": f"{text}\nadded: {'[' * 20_000}\n",
        "a key that is a mapping": f"{text}\n? {{a: 1}}\n: 2\n",
    }.items():
        yield name, _written(changed.encode())
    yield "Latin-1", _written(content + "\nadded: größer\n".encode("latin-1"))
    yield "a NUL", _written(content + b"\nadded: \0\n")


def _csv(content: bytes, chance: random.Random, *, count: int) -> Iterator[Damage]:
    lines = content.decode().splitlines()
    yield "without its header", _written("\n".join(lines[1:]).encode() + b"\n")
    yield "not UTF-8", _written(content + b"\xff\xfe,\n")
    yield "a quote without end", _written(content + b'"' + b"x" * 200_000)
    for _ in range(count):
        number = chance.randrange(len(lines))
        cells = lines[number].split(",")
        cell = chance.randrange(len(cells))
        cells[cell : cell + 1] = chance.choice([[], ["text"], ["nan"], ["-1"], ["1", "2"], ["9" * 400], ["\0"]])
        yield (
            f"line {number + 1} changed",
            _written("\n".join([*lines[:number], ",".join(cells), *lines[number + 1 :]]).encode() + b"\n"),
        )
