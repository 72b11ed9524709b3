"""Reading the files that relume wrote: whatever is wrong with a file becomes one error with one message.

The message names the file, what is wrong with it and the next command. Text is UTF-8 whatever the locale is, and values
are of the type that was written: nothing is converted.
"""

import contextlib
import csv
import errno
import functools
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from relume.errors import BrokenFileError, RelumeError

if TYPE_CHECKING:
    from pydantic import TypeAdapter

T = TypeVar("T")
_SHOWN = 300  # characters of a reason; some libraries put the whole file into theirs


@contextlib.contextmanager
def reading(path: str | Path, *, next_step: str) -> Iterator[None]:
    """Makes of whatever is raised while a file is read one error that names the file.

    Any exception counts, because a decoder raises nearly any of them over bytes that it does not expect. Only the
    reading of that one file belongs inside.

    Args:
        path: The file.
        next_step: What writes or restores the file.

    Raises:
        BrokenFileError: The file is missing, cannot be read, or does not hold what it should.
    """
    try:
        yield
    except (RelumeError, MemoryError, ImportError):  # the latter two are not the file's fault
        raise
    except FileNotFoundError:
        raise BrokenFileError("A file is missing", where=path, next_step=next_step) from None
    except OSError as error:
        what = "A file is damaged" if error.errno in (None, errno.EINVAL) else "A file cannot be read"
        raise BrokenFileError(what, where=path, why=_why(error), next_step=next_step) from error
    except Exception as error:
        raise BrokenFileError("A file is damaged", where=path, why=_why(error), next_step=next_step) from error


def read_text(path: str | Path, *, next_step: str) -> str:
    """The text of a file.

    Raises:
        BrokenFileError: As `reading`; also for a file that is not UTF-8.
    """
    with reading(path, next_step=next_step):
        return Path(path).read_bytes().decode()


def read_as(kind: type[T], path: str | Path, *, next_step: str) -> T:
    """Reads a file of JSON as a value of a type.

    Args:
        kind: Anything that pydantic knows: a dataclass, a model, `dict[str, float]`. What a dataclass does not name is
            left out.
        path: The file.
        next_step: As for `reading`.

    Raises:
        BrokenFileError: As `reading`; names each value that is missing or of another type.
    """
    adapter = _adapter(kind)  # type: ignore[arg-type]
    with reading(path, next_step=next_step):
        return adapter.validate_json(Path(path).read_bytes(), strict=True)


def read_json(
    path: str | Path, *, like: Any = Any, next_step: str = "write it again with the command that wrote it"
) -> Any:
    """Reads a file of JSON as plain values.

    Args:
        path: The file.
        like: A type, as for `read_as`, that the values must fit.
        next_step: As for `reading`.

    Raises:
        BrokenFileError: As `read_as`.
    """
    with reading(path, next_step=next_step):
        value = json.loads(Path(path).read_bytes().decode())
        if like is not Any:
            as_kind(like, value)
        return value


def as_kind(kind: type[T], value: Any) -> T:
    """A plain value, as JSON gives it, as a value of a type; to be used inside `reading`.

    Raises:
        ValidationError: A value is missing or of another type.
    """
    return _adapter(kind).validate_json(json.dumps(value), strict=True)  # type: ignore[arg-type]


@functools.cache
def _adapter(kind: Any) -> "TypeAdapter":
    """Made once for each type: making one takes a millisecond, and the ledger reads a value a line."""
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def read_table(
    path: str | Path, columns: Mapping[str, Callable[[str], Any]], *, next_step: str
) -> list[dict[str, Any]]:
    """Reads a CSV file as a whole; see `table_rows`."""
    return list(table_rows(path, columns, next_step=next_step))


def table_rows(
    path: str | Path, columns: Mapping[str, Callable[[str], Any]], *, next_step: str
) -> Iterator[dict[str, Any]]:
    """Reads a CSV file row by row.

    Args:
        path: The file, with a header.
        columns: The columns that it must have, each with what its texts are converted by: `str`, `int` or `float`.
            Further columns are texts.
        next_step: As for `reading`.

    Yields:
        A dictionary for each row.

    Raises:
        BrokenFileError: As `reading`; also for a missing column, a row of another length, or a text that is no number.
    """
    with reading(path, next_step=next_step), open(path, newline="", encoding="utf-8") as file:
        rows = csv.reader(file, strict=True)
        header = next(rows, [])
        if missing := [name for name in columns if name not in header]:
            raise ValueError(f"its header lacks {', '.join(missing)}")
        for row in rows:
            if len(row) != len(header):
                raise ValueError(f"line {rows.line_num} has {len(row)} values, the header {len(header)}")
            yield {name: columns.get(name, str)(text) for name, text in zip(header, row, strict=True)}


def _why(error: Exception) -> str:
    """The reason in one line."""
    from pydantic import ValidationError

    if isinstance(error, ValidationError):
        found = [f"{'.'.join(map(str, entry['loc']))}: {entry['msg']}" for entry in error.errors(include_url=False)]
        return "; ".join(text.removeprefix(": ") for text in found)[:_SHOWN]
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, KeyError) and error.args:
        return f"it has no {error.args[0]!r}"
    return " ".join(str(error).split())[:_SHOWN] or type(error).__name__
