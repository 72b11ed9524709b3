"""The promotion ledger: the chain, the torn line, and what it says serves."""

import dataclasses
import hashlib
import json
import multiprocessing
import shutil
from pathlib import Path

import pytest

from flows.release.ledger import Ledger, Release
from relume.errors import LedgerError


def release(letter: str, product: str = "denoise") -> Release:
    """A release of a package whose hash is one letter, 64 times."""
    return Release(product=product, package=letter * 64, version="1", model=f"{product}-{letter * 8}")


A, B, C = release("a"), release("b"), release("c")


@pytest.fixture
def ledger(tmp_path) -> Ledger:
    """An empty ledger."""
    return Ledger(tmp_path)


def promote(ledger: Ledger, *releases: Release) -> None:
    """Writes whole promotions."""
    for one in releases:
        ledger.append("promoting", one)
        ledger.append("promoted", one)


def test_empty(ledger):
    """Before the first line nothing serves, nothing is unfinished and nothing is torn."""
    assert ledger.entries() == ()
    assert ledger.current("denoise") is None
    assert ledger.previous("denoise") is None
    assert ledger.unfinished() == ()
    assert not ledger.torn()


def test_each_line_holds_the_hash_of_the_line_before(ledger):
    """The chain can be recomputed from the documented rule alone: SHA-256 of the sorted JSON without `hash`."""
    promote(ledger, A, B)
    previous = "0" * 64
    for text in ledger.path.read_text().splitlines():
        line = json.loads(text)
        stated = line.pop("hash")
        assert line["previous"] == previous
        assert hashlib.sha256(json.dumps(line, sort_keys=True).encode()).hexdigest() == stated
        previous = stated


def test_current_and_previous_follow_promotions(ledger):
    """The last promoted release serves, the one before it is what a rollback goes to."""
    promote(ledger, A)
    assert (ledger.current("denoise"), ledger.previous("denoise")) == (A, None)
    promote(ledger, B)
    assert (ledger.current("denoise"), ledger.previous("denoise")) == (B, A)


def test_rollback_pops_and_a_second_rollback_goes_further(ledger):
    """Rolling back twice leads two releases back, and a later promotion starts from there."""
    promote(ledger, A, B, C)
    ledger.append("rolled_back", B)
    assert (ledger.current("denoise"), ledger.previous("denoise")) == (B, A)
    ledger.append("rolled_back", A)
    assert (ledger.current("denoise"), ledger.previous("denoise")) == (A, None)
    promote(ledger, C)
    assert (ledger.current("denoise"), ledger.previous("denoise")) == (C, A)


def test_products_do_not_mix(ledger):
    """A promotion of one product says nothing about another."""
    other = release("d", "deblur")
    promote(ledger, A, other)
    assert ledger.current("denoise") == A
    assert ledger.current("deblur") == other
    assert ledger.previous("deblur") is None


def test_a_home_of_one_product_goes_on_as_it_is(ledger, tmp_path):
    """The lines of an earlier relume, which knew one product, are read as they are; a second product's follow them in
    the same chain, and change nothing of what serves or what a rollback goes back to."""
    shutil.copy(Path(__file__).parent / "ledger_of_one_product.jsonl", ledger.path)
    assert ledger.products() == ["denoise"]
    assert (ledger.current("denoise"), ledger.previous("denoise")) == (
        dataclasses.replace(B, version="2"),
        dataclasses.replace(A, version="1"),
    )
    lines, other = ledger.path.read_bytes(), release("d", "dejpeg")
    promote(ledger, other)
    assert ledger.path.read_bytes().startswith(lines)
    assert ledger.products() == ["dejpeg", "denoise"]
    assert (ledger.current("dejpeg"), ledger.previous("dejpeg")) == (other, None)
    assert ledger.current("denoise").model == B.model
    ledger.append("rolled_back", A)
    assert ledger.current("denoise") == A
    assert ledger.current("dejpeg") == other


def test_unfinished_until_closed(ledger):
    """A `promoting` line without its end is unfinished; `promoted` and `abandoned` both end it."""
    promote(ledger, A)
    ledger.append("promoting", B)
    assert [entry.release for entry in ledger.unfinished()] == [B]
    assert ledger.current("denoise") == A
    ledger.append("abandoned", B, reason="crash")
    assert ledger.unfinished() == ()
    ledger.append("rolling_back", A)
    assert [entry.event for entry in ledger.unfinished()] == ["rolling_back"]


def test_candidate_is_the_newest_not_promoted(ledger):
    """A registered or refused release is the candidate until it is promoted."""
    ledger.append("registered", A)
    assert ledger.candidate("denoise").release == A
    promote(ledger, A)
    assert ledger.candidate("denoise") is None
    ledger.append("registered", B)
    ledger.append("refused", B, failed=["psnr"])
    assert (ledger.candidate("denoise").event, ledger.candidate("denoise").release) == ("refused", B)
    ledger.append("registered", C)
    ledger.append("promoting", C)
    ledger.append("abandoned", C)
    assert (ledger.candidate("denoise").event, ledger.candidate("denoise").release) == ("abandoned", C)


def test_a_rollback_that_failed_makes_no_candidate(ledger):
    """The target of a rollback that could not be served is an earlier release and no candidate."""
    promote(ledger, A, B)
    ledger.append("rolling_back", A)
    ledger.append("abandoned", A)
    assert ledger.candidate("denoise") is None
    assert ledger.current("denoise") == B


@pytest.mark.parametrize("victim", [0, 1, 3])
def test_a_changed_line_is_named(ledger, victim):
    """Changing any line, the last included, breaks the chain at that line and stops reading and appending."""
    promote(ledger, A, B)
    lines = ledger.path.read_text().splitlines(keepends=True)
    lines[victim] = lines[victim].replace(lines[victim].split('"model": "')[1][:16], "denoise-ffffffff")
    ledger.path.write_text("".join(lines))
    with pytest.raises(LedgerError, match=f"line {victim + 1}"):
        ledger.entries()
    size = ledger.path.stat().st_size
    with pytest.raises(LedgerError):
        ledger.append("promoting", C)
    assert ledger.path.stat().st_size == size


def test_a_removed_line_is_seen(ledger):
    """Taking a line out of the middle is seen at the line that followed it."""
    promote(ledger, A, B)
    lines = ledger.path.read_text().splitlines(keepends=True)
    ledger.path.write_text("".join(lines[:1] + lines[2:]))
    with pytest.raises(LedgerError, match="line 2"):
        ledger.current("denoise")


@pytest.mark.parametrize("kept", [1, 40, -1])
def test_a_torn_last_line_is_no_line(ledger, kept):
    """However much of the last line reached the disk, it counts as not written and the next append replaces it."""
    promote(ledger, A)
    whole, head = ledger.path.read_bytes(), ledger.head.read_bytes()
    ledger.append("promoting", B)
    ledger.path.write_bytes(whole + ledger.path.read_bytes()[len(whole) :][:kept])
    ledger.head.write_bytes(head)
    assert ledger.torn()
    assert ledger.unfinished() == ()
    ledger.append("promoting", C)
    assert not ledger.torn()
    assert [entry.release for entry in ledger.unfinished()] == [C]


def test_garbage_is_refused_with_its_line(ledger):
    """A whole line that is no JSON object is a broken chain, not a crash."""
    promote(ledger, A)
    with open(ledger.path, "a") as file:
        file.write("[1, 2]\n")
    with pytest.raises(LedgerError, match="line 3"):
        ledger.entries()


def _append_many(home: Path, letter: str, count: int) -> None:
    for _ in range(count):
        Ledger(home).append("registered", release(letter))


def test_concurrent_writers_keep_the_chain(ledger):
    """Four processes appending at once leave every line, in one unbroken chain."""
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_append_many, args=(ledger.path.parent, letter, 10)) for letter in "abcd"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0, 0]
    assert len(ledger.entries()) == 40


@pytest.mark.parametrize("lines", [0, 1, None])
def test_a_ledger_that_lost_its_end_is_refused(ledger, lines):
    """Emptied, cut after a whole line or removed, it does not read as a shorter history; nothing is appended to it."""
    promote(ledger, A, B)
    text = ledger.path.read_text().splitlines(keepends=True)
    if lines is None:
        ledger.path.unlink()
    else:
        ledger.path.write_text("".join(text[:lines]))
    for use in (ledger.entries, lambda: ledger.append("promoting", C)):
        with pytest.raises(LedgerError, match=rf"{len(text)} lines were written, {lines or 0} are there"):
            use()


def test_a_crash_before_the_head_was_written(ledger):
    """The line counts, and the next one brings the head up to date."""
    promote(ledger, A)
    head = ledger.head.read_bytes()
    ledger.append("promoting", B)
    ledger.head.write_bytes(head)
    assert [entry.release for entry in ledger.unfinished()] == [B]
    ledger.append("promoted", B)
    assert ledger.current("denoise") == B
    assert json.loads(ledger.head.read_text())["lines"] == len(ledger.entries())


def test_a_ledger_of_an_earlier_relume_has_no_head(ledger):
    """It is read as it stands, and guarded from its next line on."""
    promote(ledger, A)
    ledger.head.unlink()
    assert ledger.current("denoise") == A
    ledger.append("promoting", B)
    ledger.path.write_text("")
    with pytest.raises(LedgerError, match="the end was cut off"):
        ledger.entries()


def test_what_can_serve_is_of_every_product(ledger):
    """Each product's current and previous release, not those before, and not one that was rolled back from."""
    other = release("d", "deblur")
    promote(ledger, A, B, C, other)
    assert ledger.can_serve() == {B, C, other}
    ledger.append("rolled_back", B)
    assert ledger.can_serve() == {A, B, other}


def test_a_head_of_another_ledger_is_named(ledger, tmp_path):
    """With the head of another ledger of the same length nothing is said to be cut off."""
    promote(ledger, A)
    other = Ledger(tmp_path / "other")
    promote(other, B)
    ledger.head.write_bytes(other.head.read_bytes())
    with pytest.raises(LedgerError, match=r"line 2 is not the one that ledger\.head\.json names"):
        ledger.entries()


def test_a_rollback_to_any_release_that_served(ledger):
    """Also over several, and to one that had been rolled back from; what is before it is what served before."""
    promote(ledger, A, B, C)
    ledger.append("rolled_back", A)
    assert (ledger.previous("denoise"), ledger.current("denoise")) == (None, A)
    ledger.append("rolled_back", C)
    assert (ledger.previous("denoise"), ledger.current("denoise")) == (A, C)
    assert ledger.promoted("denoise") == (A, B, C)
    ledger.append("rolled_back", A)
    assert (ledger.previous("denoise"), ledger.current("denoise")) == (None, A)
