"""Restores many image files with one loaded model: which files, what is done already, and what became of each.

While an image is restored, the next ones are decoded and those before are encoded.
"""

import dataclasses
import glob
import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from flows.restore import STANDARD, How, Opened, RestoredFile, decode_source
from relume.errors import ConfigError, ImageError, SourceError
from relume.images import DecodedImage, check_suffix, read_bytes
from relume.images.header import out_of_memory
from relume.ingestion.sources import image_files

RECORD = ".relume-restored.jsonl"  # in the output folder: of each file what it was made from, and how


@dataclasses.dataclass(frozen=True)
class Job:
    """An image to restore, and the file to write."""

    source: Path
    target: Path


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of an image: `restored`, or why it `failed`; neither if it was done before."""

    job: Job
    restored: RestoredFile | None = None
    failed: ImageError | None = None


def usual_output(sources: Sequence[str | Path]) -> str:
    """Where results go that were given no place: beside an image with `-restored` in its name, else into `restored/`.

    An image of standard input goes to standard output.
    """
    source = Path(sources[0])
    if _are_several(sources):
        return "restored/"
    return str(source if source == STANDARD else writable(source.with_stem(f"{source.stem}-restored")))


def is_folder(sources: Sequence[str | Path], output: str | Path) -> bool:
    """Whether the output is a folder: there are several sources or a folder of them, or it is one or ends like one."""
    return _are_several(sources) or Path(output).is_dir() or str(output).endswith(("/", os.sep))


def _are_several(sources: Sequence[str | Path]) -> bool:
    pattern = not os.path.lexists(sources[0]) and glob.has_magic(str(sources[0]))
    return len(sources) > 1 or pattern or Path(sources[0]).is_dir()


def jobs_of(sources: Sequence[str | Path], output: str | Path) -> list[Job]:
    """What is to be restored into a folder.

    Args:
        sources: Image files, folders, whose structure is kept, and patterns such as `*.jpg`.
        output: The folder. Names are kept; formats that are not written become PNG.

    Raises:
        SourceError: There is nothing to restore.
        ConfigError: Two images would be written to one file, or an image over an original.
    """
    output = Path(output)
    within = output.resolve()
    jobs: dict[Path, Job] = {}
    for source in map(Path, sources):
        if source == STANDARD:
            raise ConfigError(
                "Standard input has no name to save its image by", where=output, next_step="name a file with --output"
            )
        if source.is_dir():
            found = image_files(source)
            if within != source.resolve():  # an output folder inside of the source holds earlier results
                found = [path for path in found if not path.resolve().is_relative_to(within)]
            named = {path: path.relative_to(source) for path in found}
        elif os.path.lexists(source) or not glob.has_magic(str(source)):
            named = {source: Path(source.name)}
        else:
            named = {path: Path(path.name) for path in map(Path, sorted(glob.glob(str(source), recursive=True)))}
        if not named:
            raise SourceError("There are no images to restore", where=source, next_step="check the path")
        for path, name in named.items():
            target = output / writable(name)
            if target in jobs:
                raise ConfigError(
                    "Two images would be written to one file",
                    where=target,
                    why=f"{jobs[target].source} and {path}",
                    next_step="restore them into different folders",
                )
            jobs[target] = Job(path, target)
    originals = {job.source.resolve() for job in jobs.values()}
    if over := next((job for job in jobs.values() if job.target.resolve() in originals), None):
        raise ConfigError(
            "An original would be overwritten", where=over.target, next_step="give another folder with --output"
        )
    return list(jobs.values())


def writable(name: Path) -> Path:
    """The name of the file for an image of this name; one whose format is not written gets `.png` after it."""
    try:
        check_suffix(name)
    except ImageError:
        return name.with_name(f"{name.name}.png")
    return name


class Record:
    """Of each result in a folder what it was made from, and how.

    Args:
        output: The folder.
        opened: The restorer.
        how: The level, and what the results hold.
    """

    def __init__(self, output: Path, opened: Opened, how: How):
        self._output, self._made = output, {"model": opened.model, **dataclasses.asdict(how)}
        self._done = _read_record(output / RECORD)

    def entry(self, job: Job, data: bytes) -> dict:
        """What the result of an image, whose file has these bytes, is made from and how."""
        target = os.path.relpath(job.target, self._output)
        return {"target": target, "source": hashlib.sha256(data).hexdigest(), **self._made}

    def holds(self, entry: dict) -> bool:
        """Whether that very result is there."""
        return self._done.get(entry["target"]) == entry and (self._output / entry["target"]).is_file()

    def add(self, entry: dict) -> None:
        """Notes a result that is written."""
        with open(self._output / RECORD, "a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")


def restore_files(
    jobs: Sequence[Job],
    output: Path,
    opened: Opened,
    how: How,
    on_progress: Callable[[int, float, float], None] | None = None,
    *,
    parallel: int = 1,
) -> Iterator[Outcome]:
    """Restores images one after the other; one that cannot be read or written does not end the others.

    What an earlier call restored from the same bytes, by the same model in the same way, is left as it is.

    Args:
        jobs: The images.
        output: The folder that keeps the record of what is done.
        opened: The restorer.
        how: The level, and what the results hold.
        on_progress: Called with the number of the image, the share of it that is done, and its megapixels.
        parallel: Images that are decoded at a time, and as many that are encoded; the model restores one at a time. See
            `in_memory`.

    Yields:
        What became of each, in their order.
    """
    record = Record(output, opened, how)

    def read(job: Job) -> tuple[DecodedImage | None, dict]:
        data = read_bytes(job.source)
        entry = record.entry(job, data)
        return None if record.holds(entry) else decode_source(data, job.source, job.target, opened), entry

    def restored(number: int, job: Job, image: Future) -> Callable[[], Outcome]:
        def progress(share: float, megapixels: float) -> None:
            if on_progress:
                on_progress(number, share, megapixels)

        try:
            decoded, entry = image.result()
            if decoded is None:
                return lambda: Outcome(job)
            write = opened.restored(decoded, job.target, how, progress)
        except (ImageError, MemoryError) as error:
            failed = Outcome(job, failed=_as_image_error(error, job))
            return lambda: failed

        def finish() -> Outcome:
            stem = glob.escape(job.target.stem)
            for unfinished in job.target.parent.glob(f".{stem}.????????{job.target.suffix}"):  # left by a kill
                unfinished.unlink(missing_ok=True)
            try:
                result = write()
            except (ImageError, MemoryError) as error:
                return Outcome(job, failed=_as_image_error(error, job))
            record.add(entry)
            return Outcome(job, restored=result)

        return finish

    output.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(parallel) as reader, ThreadPoolExecutor(parallel) as writer:
        reading = deque(reader.submit(read, job) for job in jobs[:parallel])
        writing: deque[Future[Outcome]] = deque()
        for number, job in enumerate(jobs):
            image = reading.popleft()
            reading.extend(reader.submit(read, later) for later in jobs[number + parallel : number + parallel + 1])
            finish = restored(number, job, image)
            if len(writing) == parallel:
                yield writing.popleft().result()
            writing.append(writer.submit(finish))
        while writing:
            yield writing.popleft().result()


def in_memory(parallel: int) -> int:
    """How many images are in memory at a time: that which is restored, and those before and after it."""
    return 2 * parallel + 1


def _as_image_error(error: ImageError | MemoryError, job: Job) -> ImageError:
    return error if isinstance(error, ImageError) else out_of_memory(job.source)


def _read_record(path: Path) -> dict[str, dict]:
    """By target how it was made; a line that a kill cut off counts for nothing."""
    done = {}
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    for line in lines:
        try:
            entry = json.loads(line)
            done[entry["target"]] = entry
        except (ValueError, KeyError, TypeError):
            continue
    return done
