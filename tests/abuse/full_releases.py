"""A disk that fills midway through a release: one message, the champion serves on, and a second release completes.

The disk has the checkout and its home with everything that is running: Triton, the registry and Prefect's server.
"""

import contextlib
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

import flows.release
from flows.embedded_triton import EmbeddedTriton
from flows.platform.status import read_status
from flows.release import release as steps
from flows.release.ledger import Ledger
from flows.release.registry import Registry
from relume.serving import repository as models
from tests.abuse.kills import TURNS
from tests.abuse.rows import Ended, Row, printed, watched
from tests.abuse.served_home import IMAGE, own_home, restored
from tests.real.releases import LINEAGE, expected, make_checkout, put_package

# Prefect's client may write of its server's full disk before it, in a line that it does not end.
_MESSAGE = re.compile(r"(?:^|\d)error: ", re.MULTILINE)
SECONDS = 180.0  # after which a release counts as hanging
# By the moment, what is called then, and the event where it is a line of the ledger.
MOMENTS: dict[str, tuple[object, str, str | None]] = {
    "the package goes into the registry": (Registry, "_log", None),
    "it gets a version": (Registry, "_create_version", None),
    "the ledger's line registered": (Ledger, "append", "registered"),
    "the gate has measured": (Registry, "note", None),
    "the ledger's line promoting": (Ledger, "append", "promoting"),
    "it goes into the model repository": (models, "publish_release", None),
    "the product is switched": (models, "write_product", None),
    "the ledger's line promoted": (Ledger, "append", "promoted"),
}


def attack(folder: Path, fill: Callable[[], None], mend: Callable[[], None]) -> Iterator[Row]:
    """A row for each moment.

    Args:
        folder: A folder on the disk.
        fill: Fills it to the last byte.
        mend: Gives it room again.
    """
    with own_home(folder) as (root, home), patch.object(steps, "read_lineage", lambda *_: LINEAGE):
        release = printed(partial(flows.release.run, make_checkout(root), home))
        put_package(root, blur=TURNS[0])
        release()
        for turn, (kind, (owner, name, event)) in enumerate(MOMENTS.items(), 1):
            row = Row(family="disks", kind=f"release, full home when {kind}", tried=1)
            champion, before = Ledger(home).current("denoise"), expected(root, IMAGE)
            put_package(root, blur=TURNS[turn % 2])
            after = expected(root, IMAGE)
            with _called_first(fill, owner, name, event):
                ended = watched(release, seconds=SECONDS)
            if ended.code == 0 and not ended.failure:  # there was room for what was left to do
                served, row.survived = [after], 1
            else:
                # The line promoted is written after the switch; the next command puts right what is served.
                served, row.refused = [before, after] if event == "promoted" else [before], 1
                row.wrong += _wrong_message(ended)
                if Ledger(home).current("denoise") != champion:
                    served = [
                        after
                    ]  # the line had room in the last page of its file, and what is written next had none
                    if event != "promoted":
                        row.wrong.append("the ledger names another champion")
            row.wrong += _wrong_service(home, served)
            mend()
            again = watched(release, seconds=SECONDS)
            if again.code or again.failure:
                row.wrong.append(f"the second release: {again.failure or again.output}")
            row.wrong += _wrong_service(home, [after])
            row.wrong += read_status(root, home).problems
            yield row


@contextlib.contextmanager
def _called_first(act: Callable[[], None], owner: Any, name: str, event: str | None) -> Iterator[None]:
    """Acts before each call of a function, of `Ledger.append` only where it writes that event."""
    original = getattr(owner, name)

    def acting(*arguments: Any, **options: Any) -> Any:
        if event is None or event in arguments:
            act()
        return original(*arguments, **options)

    with patch.object(owner, name, acting):
        yield


def _wrong_message(ended: Ended) -> Iterator[str]:
    if ended.failure or ended.code not in (1, 2) or len(_MESSAGE.findall(ended.output)) != 1:
        yield ended.failure or f"exit code {ended.code}: {ended.output}"
    elif "disk is full" not in ended.output:
        yield f"the disk is not named: {ended.output}"


def _wrong_service(home: Path, images: list[np.ndarray]) -> Iterator[str]:
    server = EmbeddedTriton(home).running()
    if server is None or not any(np.array_equal(restored(server), image) for image in images):
        yield "the product does not restore as its champion"
