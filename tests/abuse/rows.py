"""What became of the attacks of one kind, and how an attacked command is watched."""

import contextlib
import dataclasses
import os
import random
import runpy
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from io import StringIO
from pathlib import Path
from unittest.mock import patch

from click.testing import CliRunner

from relume.cli import main

Command = Callable[[], tuple[int, str]]  # gives an exit code and what was printed


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """How an attack is carried out.

    Attributes:
        folder: An empty folder to work in.
        seed: Of everything that is drawn.
        thorough: All of it, in minutes; else a sample, in seconds.
    """

    folder: Path
    seed: int = 0
    thorough: bool = False

    def random(self, *names: object) -> random.Random:
        """A generator of its own for each kind, so that a further kind changes no other."""
        return random.Random(repr((self.seed, *names)))


@dataclasses.dataclass(kw_only=True)
class Row:
    """The attacks of one kind.

    Attributes:
        family: Such as `files of the platform`.
        kind: Of what was attacked.
        tried: Attacks.
        refused: Those that ended in one message that names what is wrong, and in a failing exit code.
        survived: Those that did no harm: the command did its work, or said what is wrong and went on.
        wrong: A sentence for each of the others; there must be none.
    """

    family: str
    kind: str
    tried: int = 0
    refused: int = 0
    survived: int = 0
    wrong: list[str] = dataclasses.field(default_factory=list)


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown, with their sum."""
    total = Row(family="**all**", kind="")
    lines = ["| attacked | kind | tried | refused well | no harm | wrong |", "|---|---|--:|--:|--:|--:|"]
    for row in rows:
        total.tried += row.tried
        total.refused += row.refused
        total.survived += row.survived
        total.wrong += row.wrong
    for row in (*rows, total):
        counts = f"{row.tried} | {row.refused} | {row.survived} | {len(row.wrong)}"
        lines.append(f"| {row.family} | {row.kind} | {counts} |")
    return "\n".join(lines)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ended:
    """How a command ended.

    Attributes:
        code: Its exit code; None when it did not end by itself.
        output: What it printed, both streams.
        failure: A traceback, or that it hung; empty when it ended as commands should.
    """

    code: int | None
    output: str
    failure: str = ""


class _Hang(BaseException):
    pass


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Ends what runs longer, in the main thread."""

    def ring(*_: object) -> None:
        raise _Hang

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def watched(run: Command, *, seconds: float) -> Ended:
    """Runs what returns an exit code and an output, and catches how it ends otherwise."""
    try:
        with limited(seconds):
            code, output = run()
    except _Hang:
        return Ended(code=None, output="", failure=f"it hung for {seconds:.0f} s")
    except Exception as error:
        return Ended(code=None, output="", failure="".join(traceback.format_exception(error)))
    return Ended(code=code, output=output, failure=output if "Traceback (most recent" in output else "")


def relume(*arguments: str) -> Command:
    """A command of the command line, in this process."""

    def run() -> tuple[int, str]:
        result = CliRunner().invoke(main, arguments)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.output

    return run


def python(code: str) -> Command:
    """A program in a process of its own."""

    def run() -> tuple[int, str]:
        ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, errors="replace")
        return ended.returncode, ended.stdout + ended.stderr

    return run


def step(name: str) -> Command:
    """A component, in this process."""
    return printed(lambda: runpy.run_module(f"components.{name}", run_name="__main__"))


def printed(work: Callable[[], object]) -> Command:
    """What a component or a part of a flow does, ended as the command around it ends."""
    from components.step import run_component

    def run() -> tuple[int, str]:
        output = StringIO()
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            try:
                run_component(lambda: work() and None)
            except SystemExit as end:
                return int(end.code or 0), output.getvalue()
        return 0, output.getvalue()

    return run


@contextlib.contextmanager
def inside(root: Path, home: Path) -> Iterator[None]:
    """The current folder and the environment of a user of that checkout."""
    root.mkdir(parents=True)
    own = {"RELUME_HOME": str(home), "XDG_STATE_HOME": str(root.parent / "state"), "DVC_NO_ANALYTICS": "1"}
    foreign = ("MLFLOW_TRACKING_URI", "PREFECT_API_URL", "DVC_STAGE", "RELUME_DRIVER_PID")
    with contextlib.chdir(root), patch.dict(os.environ, own):
        for name in foreign:
            os.environ.pop(name, None)
        yield
