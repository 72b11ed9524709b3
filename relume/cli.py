"""The `relume` command: thin, and the only file of this package that imports the flows.

Everything heavy is imported inside the commands, so that `relume --help` answers at once.
"""

import contextlib
import io
import shlex
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import click

from relume import __version__
from relume.counts import counted
from relume.errors import RelumeError
from relume.files import as_relume_error
from relume.home import relume_home
from relume.interrupts import end_like_ctrl_c
from relume.user import give_name_and_home

if TYPE_CHECKING:
    from flows.data_versions import DataVersion
    from flows.restore import How, Opened
    from flows.restore_files import Job, Record
    from relume.images import Subsampling
    from relume.params import RunnerName
    from relume.recipes.check import Report
    from relume.serving.backends import Asked
    from relume.serving.mixed_precision import LowPrecision


class RelumeGroup(click.Group):
    """Prints a RelumeError, or what the disk refused, as one message on standard error; ends with its exit code."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except (RelumeError, OSError) as caught:
            if (error := as_relume_error(caught)) is None:
                raise
            click.echo(f"error: {error}", err=True)
            context.exit(error.exit_code)


class Level(click.ParamType):
    """A number, or `auto`."""

    name = "number|auto"

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> Any:
        return value if value == "auto" else click.FLOAT.convert(value, param, context)


class Minutes(click.ParamType):
    """A time in minutes, or with its unit: 90s, 15m, 2h."""

    name = "minutes"
    units: ClassVar = {"s": 1 / 60, "m": 1.0, "h": 60.0}

    def convert(self, value: Any, param: click.Parameter | None, context: click.Context | None) -> float:
        number, unit = (value[:-1], value[-1:]) if str(value)[-1:] in self.units else (value, "m")
        return click.FloatRange(min=0).convert(number, param, context) * self.units[unit]


@click.group(
    cls=RelumeGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="""\b
Examples:
  relume restore noisy.jpg -o clean.png
  relume pipeline run --source ~/Pictures
  relume release
  relume status
""",
)
@click.version_option(__version__, prog_name="relume")
def main() -> None:
    """Train, evaluate, release and serve image-restoration models."""
    from flows.home_schema import refuse_newer

    end_like_ctrl_c()
    refuse_newer(relume_home())
    give_name_and_home(relume_home())
    for stream in (sys.stdout, sys.stderr):  # a terminal that lacks a sign gets a substitute for it
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


@main.command()
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...", type=click.Path(allow_dash=True))
@click.option(
    "-o",
    "--output",
    type=click.Path(allow_dash=True),
    help="File to write, whose suffix sets the format; a folder for several images or a folder of them; - for standard "
    "output, in the format of the input. By default NAME-restored beside the image, the folder `restored` for several.",
)
@click.option("--server", help="Restore with the Triton server at this address: HOST:PORT (gRPC) or http://HOST:PORT.")
@click.option(
    "--product",
    help="Product to restore with; by default `default_product` in the home's config.yaml, else `photo`, which ships "
    "with relume. With --server: by default that of the checkout, else the only one released here.",
)
@click.option(
    "--model",
    type=click.Path(),
    help="What to restore with: the folder of a served model or a package, such as models/exported, the model.onnx of "
    "one, or the name of a product that ships.",
)
@click.option(
    "--level",
    type=Level(),
    help="Level for an adjustable model, such as the sigma of the noise; auto estimates it of each image.",
)
@click.option(
    "--self-ensemble",
    type=click.Choice(["1", "2", "4", "8"]),
    help="Restore in so many orientations and take the mean: a little better, in as many times the time. By default as "
    "the model says.",
)
@click.option(
    "--tile",
    type=click.IntRange(16),
    metavar="PIXELS",
    help="Side of the tiles that an image is cut into, a multiple of 16: larger ones are faster and take more memory. "
    "By default as the model says.",
)
@click.option(
    "--backend",
    type=click.Choice(["auto", "onnxruntime", "openvino_f32", "openvino_bf16", "torch", "cuda", "tensorrt"]),
    help="What computes here: auto measures once which is the fastest on this machine. By default ONNX Runtime for a "
    "release, and OpenVINO for a model that ships, in bf16 where the CPU has it.",
)
@click.option(
    "--blend",
    type=click.FloatRange(0, 1),
    default=1.0,
    show_default=True,
    help="Share of the restored image in the result; the rest is the input.",
)
@click.option(
    "--quality",
    type=click.IntRange(1, 100),
    help="Of a JPEG, WebP (100 is lossless) or AVIF; by default 95, of AVIF 90, or finer where the input is.",
)
@click.option(
    "--subsampling",
    type=click.Choice(["4:4:4", "4:2:2", "4:2:0"]),
    default="4:4:4",
    show_default=True,
    help="Of the colours of a JPEG or AVIF.",
)
@click.option(
    "--jobs",
    "parallel",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="Of several images, so many are read and so many written at a time, while the model restores one.",
)
@click.option("--strip", is_flag=True, help="Leave out all metadata: EXIF, XMP, colour profile, resolution.")
@click.option("--strip-place", is_flag=True, help="Leave out where the photograph was taken.")
@click.option(
    "--compare", is_flag=True, help="Write before and after in one image beside the result: NAME.compare.jpg."
)
@click.option("--dry-run", is_flag=True, help="Write nothing; show what would be restored, and the time and memory.")
@click.option("--strength", type=float, hidden=True)
def restore(
    sources: tuple[str, ...],
    output: str | None,
    server: str | None,
    product: str | None,
    model: str | None,
    level: float | Literal["auto"] | None,
    self_ensemble: str | None,
    tile: int | None,
    backend: "Asked | None",
    blend: float,
    quality: int | None,
    subsampling: "Subsampling",
    parallel: int,
    strip: bool,
    strip_place: bool,
    compare: bool,
    dry_run: bool,
    strength: float | None,
) -> None:
    """Restore images: files, folders, or patterns in quotes.

    Uses the product's champion (its released model) or, if nothing of that product was released, the model of that
    name that ships with relume. Depth, alpha and metadata are kept. Into a folder, images that are restored there
    already are skipped. Exit code 1 if an image of several failed.

    \b
    Examples:
      relume restore photo.jpg
      relume restore photo.jpg -o clean.png
      relume restore holiday/ -o restored/
      relume restore noisy.png -o clean.png --product denoise
      relume restore noisy.jpg -o clean.png --server 127.0.0.1:8001
      relume restore - -o - < noisy.png > clean.png
    """
    from flows.restore import STANDARD, How, open_restorer, restore_file
    from flows.restore_files import Job, Record, is_folder, jobs_of, usual_output
    from flows.restore_progress import RestoreProgress

    if strength is not None:
        click.echo(
            "note: --strength is now called --level, and the next version of relume accepts --level only", err=True
        )
        if level is not None:
            raise click.UsageError("--level and --strength cannot be used together; use --level")
        level = strength
    output = usual_output(sources) if output is None else output
    to_standard = Path(output) == STANDARD
    if compare and to_standard:
        raise click.UsageError("--compare writes beside the result, so --output must be a file or a folder")
    how = How(
        level=level,
        blend=blend,
        keep="none" if strip else "place" if strip_place else "all",
        compare=compare,
        quality=quality,
        subsampling=subsampling,
    )
    asked: dict[str, Any] = {
        "server": server,
        "product": product,
        "model": model,
        "orientations": int(self_ensemble) if self_ensemble else None,
        "tile": tile,
        "backend": backend,
    }
    several = is_folder(sources, output)
    jobs = jobs_of(sources, output) if several else [Job(Path(sources[0]), Path(output))]
    if several or dry_run:
        with open_restorer(Path(), **asked) as opened:
            if dry_run:
                _show_plan(jobs, opened, Record(Path(output), opened, how) if several else None, parallel)
            else:
                _restore_files(jobs, Path(output), opened, how, parallel)
        return
    progress = RestoreProgress([jobs[0].source])
    result = restore_file(
        sources[0],
        output,
        **asked,
        how=how,
        on_progress=lambda share, megapixels: progress(0, share, megapixels),
    )
    progress.ended(0, megapixels=0)
    for note in result.notes:
        click.echo(f"note: {note}", err=True)
    of = result.restoration
    default = level is None and of.levels and not of.estimated
    click.echo(f"{result}{' (default)' if default else ''}", err=to_standard)


def _restore_files(jobs: "list[Job]", output: Path, opened: "Opened", how: "How", parallel: int) -> None:
    """Restores images into a folder, a line for each; ends with 1 if one failed."""
    from flows.restore_files import restore_files
    from flows.restore_progress import RestoreProgress, speed
    from relume.durations import duration

    restored, skipped, failed = 0, 0, []
    progress = RestoreProgress([job.source for job in jobs])
    for number, outcome in enumerate(restore_files(jobs, output, opened, how, progress, parallel=parallel)):
        result = outcome.restored
        megapixels = result.restoration.image.shape[0] * result.restoration.image.shape[1] / 1e6 if result else 0.0
        progress.ended(number, megapixels=megapixels, skipped=not (result or outcome.failed))
        if outcome.failed:
            failed.append(outcome.job.source)
            click.echo(f"error: {outcome.failed}", err=True)
        elif result is None:
            skipped += 1
        else:
            restored += 1
            for note in result.notes:
                click.echo(f"note: {outcome.job.source}: {note}", err=True)
            click.echo(str(result))
    total = f"{progress.megapixels:.1f} megapixels in {duration(progress.seconds)}"
    pace = f"; {total}, {speed(progress.megapixels, progress.seconds)}" if restored else ""
    click.echo(f"{restored} restored, {skipped} done before, {len(failed)} failed{pace}")
    if failed:
        click.echo(f"failed: {', '.join(map(str, failed))}", err=True)
        raise click.exceptions.Exit(1)


def _show_plan(jobs: "list[Job]", opened: "Opened", record: "Record | None", parallel: int) -> None:
    """What restoring would take, a line for each image; ends with 1 if one would fail."""
    from flows.restore_files import in_memory
    from flows.restore_plan import plan
    from relume.durations import duration

    planned = plan(jobs, opened, record)
    for image in planned:
        if image.problem:
            click.echo(f"error: {image.problem}", err=True)
        elif image.header:
            size = f"{image.header.width}x{image.header.height}"
            cost = f"{counted(image.tiles, 'tile')}, about {duration(image.seconds)}, up to {image.bytes / 1e6:.0f} MB"
            click.echo(f"{image.job.source} -> {image.job.target}  {size}  {cost}")
    headers = [image.header for image in planned if image.header]
    megapixels = sum(header.megapixels for header in headers)
    memory = sum(sorted((image.bytes for image in planned), reverse=True)[: in_memory(parallel)])
    total = f"about {duration(sum(image.seconds for image in planned))}"
    click.echo(
        f"{counted(len(headers), 'image')}, {megapixels:.1f} megapixels: {total},"
        f" up to {memory / 1e6:.0f} MB beside the model; nothing was written"
    )
    if any(image.problem for image in planned):
        raise click.exceptions.Exit(1)


@main.command()
@click.option("--port", type=click.IntRange(0, 65535), default=8760, show_default=True, help="Port; 0 for any.")
def studio(port: int) -> None:
    """Restore images on a page in the browser, and look at them before and after.

    The page is served on this machine alone and needs no network. Ctrl-C ends it, and removes its copies of the images.
    """
    from flows.studio.app import run

    run(Path(), port=port, say=lambda address: click.echo(f"{address}/  (Ctrl-C ends the studio)"))


@main.group()
def data() -> None:
    """List, fetch and measure photographs, check test sets, upload curated data."""


@data.command("scan")
@click.argument("sources", nargs=-1)
@click.option(
    "--tracked",
    is_flag=True,
    help="Write to sources.json in the checkout (tracked by git, read by `dvc repro`); your own list is removed.",
)
def data_scan(sources: tuple[str, ...], tracked: bool) -> None:
    """Make a list of the photographs in SOURCES. It replaces the previous list.

    Without SOURCES, the listed ones are scanned again. The list is your own: it is stored in RELUME_HOME, pipeline
    runs read it, and git never sees it.

    A source is a place, and before it, if you like, the name of its set and the layout of its pairs of degraded and
    clean images, which the file docs/data.md lists: NAME=LAYOUT:PLACE.

    \b
    Examples:
      relume data scan                      the sources that are listed already
      relume data scan ~/Pictures           a folder
      relume data scan set.tar.gz           a tar or zip, which is not unpacked
      relume data scan set.zip#train        the part of it whose names begin with train
      relume data scan s3://bucket/prefix   an S3 prefix
      relume data scan dvc://~/registry@v2#photos   what another DVC repository tracks in a folder
      relume data scan package://           the photographs inside installed packages
      relume data scan gopro:~/GOPRO/train  pairs in the layout of GoPro
      relume data scan 'dark/*|light/*:~/Night'   pairs by two patterns of their names
      relume data scan own=~/Pictures sidd=sidd:~/SIDD_Medium   two sets with names
      relume data scan --tracked            copy your own list to sources.json, which git tracks
    """
    _scan(sources, tracked=tracked)


@data.command("upload")
@click.argument("address")
def data_upload(address: str) -> None:
    """Copy data/curated to ADDRESS on S3, for training on other machines.

    There, set `training.patches` in recipe.yaml to ADDRESS.

    \b
    Examples:
      relume data upload s3://bucket/curated
    """
    from relume.progress import Progress
    from relume.training.streaming import upload

    count = upload("data/curated", address, progress=Progress("upload", file=sys.stderr))
    click.echo(f"{address}: {counted(count, 'file')}")


@data.command("fetch")
@click.argument("name", required=False)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder to fill; by default data/NAME.")
def data_fetch(name: str | None, output: Path | None) -> None:
    """Fetch a set of photographs by NAME. Without one, the sets are listed with their licences.

    Most public sets forbid commercial use; the command says so. A download that broke off is resumed, and the checksum
    of each file is recorded at its first fetch and compared from then on. Without a network, put the files that the
    message names into the folder and run the same command again.

    debian-photographs: photographs from Debian packages whose licences allow training models that are distributed,
    downloaded with apt but not installed. Files already there are kept. A table beside them lists their licences.

    \b
    Examples:
      relume data fetch
      relume data fetch debian-photographs
      relume data fetch kodak24 -o ~/sets/kodak24
    """
    from relume.ingestion import debian, public_sets

    if name is None:
        click.echo("debian-photographs: public domain, CC0 and CC BY; commercial use is allowed")
        for known, public in public_sets.catalogue().items():
            click.echo(f"{known}: {public.title}\n    {public.terms}\n    {public.page}")
        return
    folder = output or Path("data", name)
    if name == "debian-photographs":
        fetched = debian.fetch(folder, progress=_progress("fetch", "photographs"))
        for photograph, reason in fetched.left_out:
            click.echo(f"note: {photograph.file} was left out: {reason}", err=True)
        click.echo(f"{folder}: {counted(len(fetched.present), 'photograph')}; their licences are in {debian.TABLE}")
        return
    from relume.progress import Progress

    wanted = public_sets.named(name)
    click.echo(f"{name}: {wanted.terms}", err=True)
    found = public_sets.fetch_set(name, wanted, folder, progress=Progress("fetch", file=sys.stderr))
    click.echo(f"{folder}: {counted(len(found.files), 'file')}; checksums are in {public_sets.RECORD}")
    if wanted.note:
        click.echo(f"note: {wanted.note}")
    if wanted.use == "test":
        click.echo(f"  next: relume data overlaps YOUR_PHOTOGRAPHS {folder}, so that no test image is trained on")
    else:
        click.echo(f"  next: relume data scan {shlex.join(found.sources)}")


@data.command("harvest")
@click.argument("folder", type=click.Path(path_type=Path))
def data_harvest(folder: Path) -> None:
    """Write the tiles that `relume gateway --keep-tiles` kept to the new FOLDER.

    They are tiles of what clients sent in which two restorations differ most. FOLDER/clean has those that are clean
    enough to train with, which then are a source like any other; FOLDER/degraded the others, to look at; tiles.csv what
    was measured, the hardest first.

    \b
    Examples:
      relume data harvest harvest && relume data scan ~/Pictures harvest/clean
    """
    from flows.monitoring.tiles import HardTiles

    clean, degraded = HardTiles(relume_home()).harvest(folder)
    click.echo(f"{folder}: {counted(clean, 'clean tile')}, {degraded} degraded")


@data.command("overlaps")
@click.argument("training", type=click.Path(exists=True, file_okay=False))
@click.argument("tests", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False))
def data_overlaps(training: str, tests: tuple[str, ...]) -> None:
    """List test images that are in TRAINING; exit code 1 if there are any.

    Copies, crops, resized, rotated and mirrored versions in the folders TESTS are found, by hash and by pixels.

    \b
    Examples:
      relume data overlaps data/debian-photographs ~/sets data/curated/held_out
    """
    from relume.curation.overlap import find_overlaps
    from relume.ingestion.sources import image_files

    photographs = image_files(training)
    images = [image for folder in tests for image in image_files(folder)]
    overlaps = find_overlaps(photographs, images, progress=_progress("overlaps", "photographs"))
    for overlap in overlaps:
        how = "is a copy of" if overlap.same_file else "shows the same scene as"
        click.echo(f"{overlap.test} {how} {overlap.training}")
    if overlaps:
        raise click.exceptions.Exit(1)
    click.echo(f"{counted(len(photographs), 'photograph')}, {counted(len(images), 'test image')}: no overlap")


@data.command("scores")
@click.argument("folder", type=click.Path(exists=True, file_okay=False))
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False), default="scores.csv", show_default=True, help="Table to write."
)
@click.option("--quick", is_flag=True, help="First figures and near duplicates only, 10 to 13 times as fast.")
def data_scores(folder: str, output: str, quick: bool) -> None:
    """Measure the images in FOLDER: NIQE, BRISQUE, sharpness, noise and more.

    What each score means, and how curation keeps the best by them, is in the file docs/data.md.

    \b
    Examples:
      relume data scores ~/Pictures
      relume data scores ~/Pictures --quick
      relume data scores ~/Pictures -o pictures.csv
    """
    import csv
    import io

    from relume import files
    from relume.curation.file_scores import file_scores, first_look, with_near_duplicates
    from relume.errors import ImageError
    from relume.ingestion.sources import image_files

    images, rows = image_files(folder), []
    progress = _progress("scores", "images")
    for done, row in enumerate((first_look if quick else file_scores)(images), start=1):
        progress(done, len(images))
        if isinstance(row, ImageError):
            click.echo(f"note: {row.where} was left out: {row.what}", err=True)
        else:
            rows.append(row)
    if quick:
        rows = with_near_duplicates(rows)
    table = io.StringIO()
    writer = csv.DictWriter(table, rows[0] if rows else ["file"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    files.write_text(Path(output), table.getvalue())
    click.echo(f"{output}: {counted(len(rows), 'image')}")


@data.command("log")
def data_log() -> None:
    """List the versions of the curated data, that of the working tree and the newest first.

    A version is named by the first digits of its hash in dvc.lock. Each line has the commits that brought it, and the
    packages and released models that it trained.

    \b
    Examples:
      relume data log
    """
    from flows.data_versions import data_versions, read_version
    from relume.errors import BrokenFileError

    for version in data_versions(Path(), relume_home()):
        try:
            tables = read_version(Path(), version)
            held = ", ".join(f"{count} {side}" for side, count in tables.counts.items())
            text = f"{held}, {tables.patches} patches"
        except BrokenFileError:
            text = "its tables are not in DVC's cache"
        where = "working tree" if version.here and not version.commits else version.date[:10]
        click.echo(f"{version.name}  {where}  {text}")
        for commit in version.commits:
            click.echo(f"    commit {commit[:10]}")
        for package in version.trained:
            click.echo(f"    package {package}")


@data.command("show")
@click.argument("version", required=False)
@click.option(
    "--bounds",
    type=click.FloatRange(min=0, max=1, min_open=True),
    help="Print validate.medians for params.yaml instead: each median, this share lower and higher.",
)
def data_show(version: str | None, bounds: float | None) -> None:
    """Show what a VERSION of the curated data holds; by default that of the working tree.

    A version is given by its first digits, by a commit, branch or tag, or by a package or released model that it
    trained.

    \b
    Examples:
      relume data show
      relume data show denoise-1a2b3c4d
      relume data show v1 --bounds 0.2
    """
    from flows.data_versions import read_version
    from relume.curation.comparison import QUANTILES, quantiles

    found = _data_version(version)
    tables = read_version(Path(), found)
    if bounds is not None:
        click.echo(f"# the medians of data version {found.name}, {bounds:.0%} lower and higher\nvalidate:\n  medians:")
        for name, values in tables.scores.items():
            median = quantiles(values)[QUANTILES.index(0.5)]
            low, high = sorted((median * (1 - bounds), median * (1 + bounds)))
            click.echo(f"    {name}: [{low:.6g}, {high:.6g}]")
        return
    click.echo(f"{found.name}  {counted(len(tables.sides), 'photograph')}, {tables.patches} patches")
    for side, count in tables.counts.items():
        click.echo(f"  {side:<20} {count:>8}")
    for of_set, count in tables.sets.items():
        click.echo(f"  set {of_set:<16} {count:>8}")
    click.echo(f"  {'score':<20} " + " ".join(f"{f'{quantile:.0%}':>10}" for quantile in QUANTILES))
    for name, values in tables.scores.items():
        click.echo(f"  {name:<20} " + " ".join(f"{value:>10.4g}" for value in quantiles(values)))
    for package in found.trained:
        click.echo(f"  trained package {package}")


@data.command("diff")
@click.argument("before")
@click.argument("after", required=False)
@click.option(
    "--most", type=click.IntRange(min=0), default=20, show_default=True, help="Photographs listed of each kind."
)
def data_diff(before: str, after: str | None, most: int) -> None:
    """Show what changed between two versions of the curated data; AFTER is by default that of the working tree.

    Counts on each side and by each reason, photographs that were added, removed or are on another side, and how the
    distribution of each score moved: its median, and the largest distance of the two distributions (Kolmogorov-Smirnov,
    0 to 1). A version is given as for `relume data show`.

    \b
    Examples:
      relume data diff main~3
      relume data diff 1a2b3c4d 5e6f7a8b
    """
    from flows.data_versions import read_version
    from relume.curation.comparison import QUANTILES, compare

    versions = [_data_version(before), _data_version(after)]
    change = compare(*(read_version(Path(), version) for version in versions))
    click.echo(" -> ".join(version.name for version in versions) + ("" if change else "  no change"))
    for name, (old, new) in change.counts.items():
        if old != new:
            click.echo(f"  {name:<20} {old:>8} -> {new:<8} {new - old:+d}")
    middle = QUANTILES.index(0.5)
    for name, shift in change.shifts.items():
        if shift.distance:
            medians = f"{shift.before[middle]:.4g} -> {shift.after[middle]:.4g}"
            click.echo(f"  {name:<20} median {medians}, distance {shift.distance:.3f}")
    for title, lines in (
        ("added", change.added),
        ("removed", change.removed),
        ("moved", [f"{address}: {old} -> {new}" for address, old, new in change.moved]),
    ):
        for line in lines[:most]:
            click.echo(f"  {title:<8} {line}")
        if len(lines) > most:
            click.echo(f"  {title:<8} {len(lines) - most} more; --most {len(lines)} lists them")


@data.command("report")
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder; by default reports/data in RELUME_HOME.",
)
def data_report(output: Path | None) -> None:
    """Write a report of the curated data: an HTML file that opens without a network, and its parts as PNG files.

    Contact sheets of the kept photographs and of those that each rule rejected, the near duplicates, histograms of the
    scores, and a map of what the photographs look like.

    \b
    Examples:
      relume data report
      relume data report -o report
    """
    from flows.data_report import write_data_report

    click.echo(_short(write_data_report(Path(), output or relume_home() / "reports" / "data")))


def _data_version(name: str | None) -> "DataVersion":
    from flows.data_versions import data_versions, find_version
    from relume.errors import UserError

    if name is not None:
        return find_version(Path(), relume_home(), name)
    here = [version for version in data_versions(Path(), relume_home()) if version.here]
    if not here:
        raise UserError(
            "There is no curated data in the working tree",
            where="dvc.lock",
            next_step="run `relume pipeline run curate`, or name a version of `relume data log`",
        )
    return here[0]


def _scan(sources: tuple[str, ...], *, tracked: bool = False) -> None:
    from relume.ingestion.lists import update_list

    change = update_list(Path(), relume_home(), sources or None, tracked=tracked)
    for source in change.replaced:
        click.echo(f"note: {source} is no longer listed; to keep it, name it together with the new sources", err=True)
    click.echo(
        f"{_short(change.path)}: {counted(change.files, 'photograph')},"
        f" {len(change.added)} new, {len(change.modified)} changed, {len(change.removed)} removed"
    )
    for address, problem in change.problems:
        click.echo(f"note: {address} will be quarantined: {problem}", err=True)


@main.group()
def pipeline() -> None:
    """Run or check the graph of dvc.yaml."""


@pipeline.command("run")
@click.argument("stages", nargs=-1)
@click.option(
    "--source",
    multiple=True,
    help="Your own photographs, in place of those listed before: a folder or s3://bucket/prefix; can be repeated.",
)
@click.option(
    "--runner",
    type=click.Choice(["subprocess", "docker", "kubernetes"]),
    help="Run stages as processes, in containers or as Jobs of a cluster; in place of `runner` in params.yaml.",
)
def pipeline_run(stages: tuple[str, ...], source: tuple[str, ...], runner: "RunnerName | None") -> None:
    """Run the graph with Prefect: the named STAGES and those before them.

    Without names, all stages. Finished stages whose inputs are the same are not repeated.

    \b
    Examples:
      relume pipeline run
      relume pipeline run --source ~/Pictures
      relume pipeline run evaluate
      relume pipeline run --runner docker
    """
    import flows.pipeline
    from flows.graph import SCHEMA
    from relume.params import load_params
    from relume.recipes.check import check_params

    if source:
        _scan(source)
    home = relume_home()
    if not stages and Path(SCHEMA).is_file():
        params = load_params(Path())
        _say_estimate(check_params(params), threads=params.training.threads)
    with _resumed_by("relume pipeline run", *(["--runner", runner] if runner else []), *stages):
        flows.pipeline.run(Path(), home, list(stages) or None, runner)
    if not stages:
        click.echo(f"report  {_short(home / 'reports' / 'index.html')}\nnext    relume release")


def _say_estimate(report: "Report", *, threads: int) -> None:
    """Says what the trainings of a recipe take on this machine."""
    from relume.recipes.estimate import estimate, summary

    if estimates := estimate(report, threads=threads):
        click.echo(f"trainings, if none is done yet: {summary(estimates)}")


@pipeline.command("lint")
@click.option("--fix", is_flag=True, help="Update the list of source files that each stage depends on, in dvc.yaml.")
def pipeline_lint(fix: bool) -> None:
    """Check dvc.yaml against the rules of the graph, without running anything."""
    import flows.lint
    from flows.graph import read_graph

    if fix and flows.lint.fix():
        click.echo("dvc.yaml: code deps were updated")
    graph = read_graph(Path())
    flows.lint.require_sound(graph)
    click.echo(f"dvc.yaml: {counted(len(graph.stages), 'stage')}, no problems")


server_option = click.option(
    "--server",
    envvar="RELUME_SERVER",
    help="gRPC address of a running Triton server; by default that of the variable RELUME_SERVER, or the embedded one,"
    " which is started if needed.",
)


@main.command()
@server_option
@click.option(
    "--canary",
    type=click.FloatRange(0, 100),
    help="Let the candidate restore this share of the images first, in percent; by default as release.rollout says.",
)
@click.option(
    "--shadow",
    type=click.FloatRange(0, 100),
    help="Before that, let it restore this share as well as the champion, whose result clients get.",
)
@click.option("--hold", type=Minutes(), help="How long each of the two lasts, such as 90s, 15m or 2h; 15 are minutes.")
@click.option("--dry-run", is_flag=True, help="Show what would happen, and do nothing.")
def release(server: str | None, canary: float | None, shadow: float | None, hold: float | None, dry_run: bool) -> None:
    """Register the package, check it against the champion, and serve it.

    The champion is the release that serves now; the checks, the gate, are whether the package is good enough
    compared with it. If the gate refuses the package, or Triton cannot be reached, the current release keeps serving.
    With a canary or a shadow it is tried on live images before it serves all of them; if it crosses a limit of
    release.rollout, or by Ctrl-C, the champion serves all images again.

    \b
    Examples:
      relume release
      relume release --shadow 10 --canary 5 --hold 15m
    """
    import flows.release

    asked = {"canary": canary, "shadow": shadow, "hold_minutes": hold}
    rollout = {name: value for name, value in asked.items() if value is not None}
    if dry_run:
        for line in flows.release.steps(Path(), relume_home(), rollout):
            click.echo(line)
        return
    outcome = flows.release.run(Path(), relume_home(), server=server, rollout=rollout)
    for sentence in outcome["repaired"]:
        click.echo(f"repaired: {sentence}")
    model = outcome["release"]["model"]
    click.echo(f"{model} {'serves now' if outcome['promoted'] else 'serves already'} at {outcome['server']}")
    click.echo(f"next    relume restore noisy.jpg -o clean.png --server {outcome['server']}")


@main.command()
@click.option("--backend", type=click.Choice(["tensorrt"]), required=True, help="What the model is made for.")
@click.option(
    "--model",
    type=click.Path(path_type=Path),
    default="package",
    show_default=True,
    help="Folder of a served model or a package.",
)
@click.option(
    "--precision",
    type=click.Choice(["fp16", "bf16"]),
    default="fp16",
    show_default=True,
    help="Of convolutions and matrix products; norms, softmax and means stay in float32.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Folder for the engine; by default one for the model below engines in RELUME_HOME.",
)
def export(backend: str, model: Path, precision: "LowPrecision", output: Path | None) -> None:
    """Make a model's engine for the machine that will serve it.

    The graph is written in mixed precision with a plan of what stays in float32 and why, and compared with float32 on
    the CPU. Where TensorRT and a GPU are, the engine is built, compared as well, and kept; one that is valid already is
    not built again. Elsewhere the command ends with exit code 2 after the comparison.

    \b
    Examples:
      relume export --backend tensorrt
      relume export --backend tensorrt --model models/exported --precision bf16 -o engine
    """
    from flows.release.engine import export_engine
    from relume.params import PRECISION_LIMITS, ReleaseSettings
    from relume.params_file import PARAMS, load_section
    from relume.serving.served_model import served_folder
    from relume.serving.tensorrt_engine import engine_folder

    serving = served_folder(model)
    here = Path(PARAMS).is_file()
    limits = load_section("release", ReleaseSettings).precision_parity if here else PRECISION_LIMITS
    folder = output or engine_folder(serving, relume_home())
    click.echo(f"{model} in {precision}")
    export_engine(serving, folder, precision, limits[precision], click.echo)
    click.echo(_short(folder))


@main.command()
@server_option
@click.option("--product", help="Product to roll back; by default that of the checkout. No other one is touched.")
@click.option("--to", help="Release to serve, by its name or version; by default the one before the current one.")
def rollback(server: str | None, product: str | None, to: str | None) -> None:
    """Roll back: serve the release of a product before the current one again, or any that ever served.

    \b
    Examples:
      relume rollback
      relume rollback --to denoise-3f2a91c0
    """
    from flows.release.rollback import roll_back

    click.echo(f"{roll_back(Path(), relume_home(), product=product, server=server, to=to).model} serves now")


@main.group()
def ledger() -> None:
    """Show, verify and repair the ledger, which says what serves, what served before, and what was refused."""


@ledger.command("show")
@click.option("--product", help="Only this product.")
def ledger_show(product: str | None) -> None:
    """Show the lines of the ledger, oldest first."""
    from flows.release.ledger import Ledger

    for entry in Ledger(relume_home()).entries():
        if product in (None, entry.release.product):
            details = "  ".join(f"{key} {value}" for key, value in entry.details.items())
            line = f"{entry.index + 1:>4}  {entry.time}  {entry.event:<12}  {entry.release.model}  {details}"
            click.echo(line.rstrip())


@ledger.command("verify")
def ledger_verify() -> None:
    """Compare the ledger with itself, and with what the registry and the signed releases remember of it."""
    from flows.release.anchor import check_anchors, check_releases, read_anchors
    from flows.release.ledger import Ledger
    from flows.release.registry import Registry

    home = relume_home()
    found, anchors = Ledger(home), read_anchors(Registry(home))
    check_anchors(found, anchors)
    releases = check_releases(found, home)
    remembered = max((anchor.lines for anchor in anchors.values()), default=0)
    sound = f"{counted(len(found.entries()), 'line')}, whole and in their order"
    beside = f", {counted(len(releases), 'signed release')} up to {max(releases.values())}" if releases else ""
    click.echo(f"{sound}; the registry remembers {remembered} of them{beside}")


@ledger.command("repair")
def ledger_repair() -> None:
    """Begin a new ledger where it is broken or lost, with the releases that the registry remembers.

    The present files are kept beside it. A sound ledger stays as it is, but for half a line that a crash left.
    """
    from flows.release.anchor import repair_ledger
    from flows.release.registry import Registry
    from flows.release.served_product import release_lock

    home = relume_home()
    with release_lock(home):
        for line in repair_ledger(home, Registry(home)) or ["there is nothing to repair"]:
            click.echo(line)


@main.command()
def serve() -> None:
    """Serve the champion of every product with the embedded Triton until Ctrl-C."""
    import signal
    import threading

    from flows.platform import services

    end = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: end.set())
    services.serve(relume_home(), end, click.echo)
    click.echo("stopped")


@main.command()
@click.option("--server", help="gRPC address of the Triton server; by default the embedded one, if that runs.")
@click.option("--product", help="Product that restores where a client names none; by default that of the checkout.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option("--port", type=click.IntRange(0, 65535), default=8770, show_default=True, help="Port; 0 for any.")
@click.option("--token-file", type=click.Path(path_type=Path), help="File with the token that clients must send.")
@click.option("--certificate", type=click.Path(path_type=Path), help="Certificate for HTTPS, in PEM.")
@click.option("--certificate-key", type=click.Path(path_type=Path), help="Its key, if that is a file of its own.")
@click.option(
    "--keep-tiles",
    type=click.FloatRange(0, 100),
    default=0.0,
    show_default=True,
    help="Percent of the images of clients who agree of which a tile may be kept, for `relume data harvest`.",
)
def gateway(
    server: str | None,
    product: str | None,
    host: str,
    port: int,
    token_file: Path | None,
    certificate: Path | None,
    certificate_key: Path | None,
    keep_tiles: float,
) -> None:
    """Restore images that clients send over HTTP, until Ctrl-C.

    Clients send an image and get the restored one; they need to know nothing of Triton or its tiles.

    \b
    Example:
      curl --data-binary @noisy.jpg http://127.0.0.1:8770/v1/restore -o clean.jpg
    """
    from flows.gateway.app import read_token, run
    from flows.gateway.start import connected

    token = read_token(token_file) if token_file else None
    run(
        connected(Path(), server=server, product=product, keep=keep_tiles),
        host=host,
        port=port,
        token=token,
        certificate=certificate,
        certificate_key=certificate_key,
        say=lambda address: click.echo(f"{address}/v1/restore  (Ctrl-C ends the gateway)"),
    )


@main.command()
def up() -> None:
    """Start MLflow, Prefect with its schedule, and Triton in the background.

    The schedule starts a retraining every night (see `relume retrain --help`).
    """
    from flows.platform import services

    reports = services.up(Path(), relume_home())
    _print_services(reports)
    if any(report.state == "failed" for report in reports):
        sys.exit(1)
    click.echo("next    relume status")


@main.command()
def down() -> None:
    """Stop everything that `relume up` or `relume release` left running."""
    from flows.platform import services

    _print_services(services.down(relume_home()))


def _print_services(reports: list) -> None:
    for report in reports:
        click.echo(f"{report.name:<10} {report.state:<9} {report.address or ''} {report.detail}".rstrip())


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def status(as_json: bool) -> None:
    """Show services, running and waiting runs, releases and the schedule."""
    from flows.platform.status import read_status, render

    found = read_status(Path(), relume_home())
    if as_json:
        import json

        click.echo(json.dumps(found.as_json(), indent=2))
    else:
        click.echo(render(found), nl=False)


@main.command()
def doctor() -> None:
    """Check the installation and print a fix for each problem."""
    from flows.platform import doctor

    findings = doctor.examine(Path(), relume_home())
    click.echo(doctor.render(findings), nl=False)
    sys.exit(doctor.exit_code(findings))


@main.command()
@click.option("--watch", is_flag=True, help="Print progress until the retraining ends. Exit code 1 if it fails.")
def retrain(watch: bool) -> None:
    """Start a retraining now, as the schedule does.

    A retraining scans the sources, runs the graph, and releases the package if it is new. It needs `relume up`. If
    another run is in progress, the retraining waits (see `relume status`); if that is a retraining, this one is not
    begun.
    """
    from flows.platform import retraining

    run = retraining.start(relume_home())
    click.echo(f"retrain {run}")
    if watch:
        retraining.follow(relume_home(), run, click.echo)
    else:
        click.echo("next    relume status")


@main.command()
def monitor() -> None:
    """Compare the gateway's last requests with the first ones after the release.

    The schedule does it every hour (see docs/monitoring.md). Exit code 4 if something has changed.
    """
    from flows.monitoring.monitor import check, require_unchanged
    from relume.params import load_params

    home = relume_home()
    reports = check(home, load_params().monitor)
    for found in reports:
        click.echo(str(found))
    if not reports:
        click.echo("nothing was released yet")
    require_unchanged(reports, home)


@main.command()
@click.option("--remove", is_flag=True, help="Remove it; without this it is only listed.")
def gc(remove: bool) -> None:
    """List, or remove, what nothing refers to any more: garbage collection.

    These are old pipeline runs, files of DVC's cache that no dvc.lock of any commit names, checkpoints of trainings
    that nobody resumed, half-written files that a kill left, and packages that no line of the ledger names. The section
    `garbage` of params.yaml says how many runs stay, and for how many days everything does. The deployment
    `garbage_collect` does it every week.

    \b
    Examples:
      relume gc
      relume gc --remove
    """
    from flows.garbage.collect import collect
    from relume.params import garbage_settings

    lines = collect(Path().resolve(), relume_home(), garbage_settings(Path()), remove=remove).lines()
    for line in lines or ["there is no garbage"]:
        click.echo(line)
    if lines:
        click.echo("removed" if remove else "nothing was removed; next: relume gc --remove")


@main.group()
def keys() -> None:
    """The keys that sign releases, in the folder `keys` of RELUME_HOME."""


@keys.command("rotate")
def keys_rotate() -> None:
    """Make a new key, sign with it all releases that can serve, and end the trust in the old one.

    Copy the new public key, in keys/trusted, to the machines that serve these releases. Clients notice nothing.
    """
    from flows.embedded_triton import EmbeddedTriton
    from flows.release.served_product import release_lock
    from relume.serving import repository
    from relume.serving.signing import keys_of, rotate_key

    home = relume_home()
    with release_lock(home):
        folder = EmbeddedTriton(home).repository
        names = repository.releases(folder)
        name = rotate_key([folder / each for each in names], keys_of(home))
    click.echo(f"the key {name} signs now; {counted(len(names), 'release')} signed with it")


@main.group()
def backup() -> None:
    """Back up all local state to one file, check such a file, and make a home of it again."""


@backup.command("write")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--with-key/--without-key",
    default=None,
    help="Whether the private key that signs releases is in it. Who has the file can sign with it; without it the "
    "next release makes another key.",
)
def backup_write(file: Path, with_key: bool | None) -> None:
    """Write a backup: ledger, registry, releases, monitoring, schedule, checkpoints, settings.

    Services may run meanwhile; a release may not. Data and code are not in it: git, DVC's remote and the sources keep
    those. A store on a server is not either; docs/operations.md says how to back that up.

    \b
    Examples:
      relume backup write relume-backup.tar --without-key
      relume backup write /mnt/safe/relume-backup.tar --with-key
    """
    from flows.backup import not_in_it, write_backup

    if with_key is None:
        raise click.UsageError("say whether the private key is in the backup: --with-key or --without-key")
    written = write_backup(relume_home(), file, keys=with_key)
    click.echo(f"{file}  {written}")
    for line in not_in_it(relume_home(), written):
        click.echo(f"warning: {line}")


@backup.command("check")
@click.argument("file", type=click.Path(path_type=Path))
def backup_check(file: Path) -> None:
    """Read a backup from end to end, and compare each file with its hash."""
    from flows.backup import read_backup

    click.echo(f"{file}  {read_backup(file)}, whole")


@backup.command("restore")
@click.argument("file", type=click.Path(path_type=Path))
def backup_restore(file: Path) -> None:
    """Make a home of a backup; one that has state of its own is refused.

    The next `relume up` serves what served when the backup was written.
    """
    from flows.backup import restore_backup

    click.echo(f"{relume_home()}  {restore_backup(relume_home(), file)}")
    click.echo("next    relume up")


@main.command("env")
def environment() -> None:
    """Print shell commands that set the addresses of MLflow and Prefect.

    \b
    Example:
      (eval "$(relume env)"; prefect flow-run ls; mlflow experiments search)
    """
    from flows.platform.services import addresses

    for name, value in addresses(relume_home()).items():
        click.echo(f"export {name}={shlex.quote(value)}")


@main.command()
def demo() -> None:
    """Run everything on the built-in photographs, from data to a served model."""
    from flows.demo import run_demo

    with _resumed_by("relume demo"):
        run_demo(Path(), relume_home())


@main.command()
@click.option(
    "-o", "--output", type=click.Path(), help="HTML file to write; by default reports/index.html in RELUME_HOME."
)
def report(output: str | None) -> None:
    """Write the report of the last run as one HTML file."""
    from flows.report import write_report

    click.echo(_short(write_report(output or relume_home() / "reports" / "index.html")))


@main.command()
@click.argument("models", nargs=-1, metavar="MODEL...")
@click.option(
    "--set",
    "sets",
    multiple=True,
    metavar="NAME|FOLDER",
    help="A set that --list shows, or a folder of your own images; can be repeated.",
)
@click.option(
    "--data", envvar="RELUME_DATA", help="Folder that contains the benchmark sets; by default the variable RELUME_DATA."
)
@click.option(
    "--protocol",
    "protocols",
    multiple=True,
    metavar="NAME[:LEVELS]",
    help="How inputs are made and measured, such as awgn:15,25,50; each set has a default. Can be repeated.",
)
@click.option(
    "-o", "--out", type=click.Path(), help="Folder to write the results to; an earlier result there is replaced."
)
@click.option(
    "--baseline",
    "baselines",
    multiple=True,
    type=click.Choice(["blur", "nlm", "bm3d"]),
    help="Also evaluate this baseline.",
)
@click.option(
    "--ask",
    metavar="LEVELS",
    help="Give adjustable models and baselines these levels, instead of the level of the noise that was added.",
)
@click.option(
    "--estimator",
    help="Model artifact of a level estimator, or a package that has one; its sigma is given, not the true one.",
)
@click.option(
    "--self-ensemble",
    is_flag=True,
    help="Restore in eight orientations and average (model artifacts only; eight times slower).",
)
@click.option(
    "--tile",
    type=click.IntRange(min=1),
    help="Run model artifacts in tiles of this side in pixels, not on whole images.",
)
@click.option("--halo", type=click.IntRange(min=0), default=16, show_default=True, help="Context of a tile in pixels.")
@click.option(
    "--overlap",
    type=click.IntRange(min=0),
    default=8,
    show_default=True,
    help="Pixels over which neighbouring tiles are blended.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the noise.")
@click.option("--limit", type=click.IntRange(min=1), help="Measure only this number of images of each set.")
@click.option("--list", "as_list", is_flag=True, help="List the benchmark sets and protocols, and measure nothing.")
def evaluate(
    models: tuple[str, ...],
    sets: tuple[str, ...],
    data: str | None,
    protocols: tuple[str, ...],
    out: str | None,
    as_list: bool,
    **options: Any,
) -> None:
    """Measure and compare models on benchmark sets.

    Each MODEL is the folder of a model artifact, a served model or a package. The first is compared with each of the
    others.

    \b
    Examples:
      relume evaluate --list
      relume evaluate models/final --set cbsd68 --data ~/sets -o results
      relume evaluate models/a models/b --set cbsd68 --set ~/Pictures --protocol awgn:15,25,50 -o results
      relume evaluate models/adjustable --set kodak24 --protocol awgn:15,25,50 --ask 5,15,25,35,50,65 -o results
    """
    from relume.evaluation.benchmark.request import benchmark_request, describe
    from relume.progress import Progress

    if as_list:
        click.echo(describe(data))
        return
    if not sets or out is None:
        raise click.UsageError("give --set and --out, or --list to see the benchmark sets and protocols")

    progress = Progress("evaluate", one_by_one=True, file=sys.stderr)
    try:
        table, notes = benchmark_request(
            models=models, sets=sets, data=data, protocols=protocols, out=out, on_progress=progress, **options
        )
    except KeyboardInterrupt as interrupt:
        click.echo(f"Interrupted. {interrupt}".rstrip(), err=True)
        sys.exit(130)
    for note in notes:
        click.echo(f"note: {note}", err=True)
    click.echo(f"{table}\n\n{_short(Path(out))}")


@main.group()
def models() -> None:
    """List and describe the networks, and import official weights."""


@models.command("list")
def models_list() -> None:
    """List all named models, with parameters and purpose."""
    from relume.models.table import list_models

    for entry in list_models():
        click.echo(f"{entry.name:<34} {entry.parameters:>13,}  {entry.about}")


@models.command("show")
@click.argument("name")
def models_show(name: str) -> None:
    """Show details of a model: size, cost, inputs, source, published metrics."""
    from relume.models.table import render_sheet, show_model

    click.echo(render_sheet(show_model(name)))


@models.command("import")
@click.argument("checkpoint", type=click.Path())
@click.option("--architecture", required=True, help="Model of `relume models list`, or an architecture.")
@click.option("-o", "--output", required=True, type=click.Path(), help="Folder to write the model artifact to.")
def models_import(checkpoint: str, architecture: str, output: str) -> None:
    """Convert an official .pth CHECKPOINT into a model artifact.

    \b
    Example:
      relume models import gaussian_color_denoising_blind.pth --architecture restormer-denoise -o models/restormer
    """
    from relume.files import sha256_folder
    from relume.models.checkpoint_import import import_checkpoint

    card = import_checkpoint(checkpoint, architecture=architecture, output=output)
    click.echo(f"{output}  {card.architecture}, recognised as {card.provenance['variant']}")
    click.echo(f"to train from it: initial: {{artifact: {output}, sha256: {sha256_folder(output)}}}")


@main.group()
def recipes() -> None:
    """List, check and use recipes, which say how published systems are trained."""


SCALE = click.Choice(["demo", "cpu", "gpu", "full"])


@recipes.command("list")
def recipes_list() -> None:
    """List all recipes."""
    from relume.recipes.recipe import find

    for recipe in find([]):
        click.echo(f"{recipe.name:<18} {recipe.task:<17} {recipe.title}")


@recipes.command("show")
@click.argument("name")
@click.option("--scale", type=SCALE, help="Show the settings that the recipe writes at this scale.")
def recipes_show(name: str, scale: str | None) -> None:
    """Show a recipe: source, open questions, and size at each scale.

    The open questions are what its publication does not say, with what is done here.
    """
    from relume.recipes.check import check, render
    from relume.recipes.recipe import SCALES, load, resolve
    from relume.recipes.text import dump

    if scale:
        click.echo(dump(resolve(name, scale)), nl=False)
        return
    recipe = load(name)
    click.echo(render(recipe, [check(name, each) for each in SCALES]), nl=False)


@recipes.command("check")
@click.argument("names", nargs=-1)
def recipes_check(names: tuple[str, ...]) -> None:
    """Check the recipes NAMES (all, if none is given) at every scale.

    Settings, networks, crops, tiles, and whether the stages fit together.
    """
    from relume.recipes.check import check
    from relume.recipes.recipe import SCALES, find

    wrong = 0
    for recipe in find(names):
        for scale in SCALES:
            report = check(recipe.name, scale)
            click.echo(report.line())
            for problem in report.problems:
                click.echo(f"    {problem}")
            wrong += bool(report.problems)
    if wrong:
        from relume.errors import ConfigError

        raise ConfigError(
            "Some recipes have problems",
            why=f"{wrong} of the lines above say wrong",
            next_step="correct them in recipes/",
        )


@recipes.command("use")
@click.argument("name")
@click.option(
    "--scale",
    type=SCALE,
    required=True,
    help="Size of networks, crops and training: demo (minutes) to full (as published).",
)
def recipes_use(name: str, scale: str) -> None:
    """Write a recipe to recipe.yaml, and the code of its stages to dvc.yaml.

    Trained base models of another recipe are removed from models/bases; DVC's cache keeps them.

    \b
    Example:
      relume recipes use pixel_purifiers --scale demo
    """
    import flows.lint
    from relume.recipes.check import require_sound
    from relume.recipes.estimate import has_gpu
    from relume.recipes.recipe import remove_other_bases, resolve, use

    report = require_sound(name, scale)
    changes = use(name, scale)
    for change in changes:
        click.echo(change)
    for path in remove_other_bases():
        click.echo(f"{path}: removed, because it belongs to another recipe; DVC's cache keeps it")
    click.echo(f"recipe.yaml: {name} at {scale}, {len(changes)} changes")
    click.echo(f"dvc.yaml: code deps {'were updated' if flows.lint.fix() else 'are unchanged'}")
    if scale in ("gpu", "full") and not has_gpu():
        click.echo(f"note: {scale} is meant for a GPU and there is none here", err=True)
    _say_estimate(report, threads=resolve(name, scale)["training"]["threads"])
    click.echo("next    relume pipeline run")


def _progress(command: str, what: str) -> Callable[[int, int], None]:
    """Shows on standard error how many of all are done."""
    from relume.progress import Progress

    return partial(Progress(command, file=sys.stderr), what)


@contextlib.contextmanager
def _resumed_by(command: str, *arguments: str) -> Iterator[None]:
    """Ends an interrupted command with the one that resumes it."""
    try:
        yield
    except KeyboardInterrupt:
        click.echo(f"Interrupted. To resume: {shlex.join([*command.split(), *arguments])}", err=True)
        sys.exit(130)


def _short(path: Path) -> Path:
    """A path relative to the current folder where that is shorter."""
    path, here = path.resolve(), Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
