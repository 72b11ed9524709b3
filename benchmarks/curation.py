"""How fast photographs are measured and near duplicates found, and how much memory the choice of photographs takes.

    python -m benchmarks.curation --libraries /tmp/iqa/bin/python --cleanvision /tmp/iqa2/bin/python \\
        --pyiqa /tmp/iqa3/bin/python --imagededup /tmp/iqa3/bin/python --results benchmarks/results/curation.json

One thread, processor time, the median of the rounds. The photograph is a mosaic of scikit-image's, 1728 x 1152 pixels,
as JPEG of quality 92. Each part runs in a process of its own.

The libraries have environments of their own: how to make that of scikit-video and `brisque` is in
`tests/relume/curation/reference_scores.py`; that of CleanVision is `python -m venv /tmp/iqa2` and `/tmp/iqa2/bin/pip
install cleanvision==0.3.7`; that of pyiqa and imagededup, of 5 GB:

    python3.11 -m venv /tmp/iqa3
    /tmp/iqa3/bin/pip install torch==2.2.2 torchvision==0.17.2 "numpy<2" opencv-python-headless==4.10.0.84 \\
        scipy==1.14.1 scikit-image==0.24.0 pandas timm==1.0.9 einops facexlib addict future pyyaml requests tqdm yapf \\
        icecream PyWavelets scikit-learn matplotlib
    /tmp/iqa3/bin/pip install --no-deps pyiqa==0.1.16 openai-clip imagededup==0.3.3.post2

pyiqa, whose terms forbid commercial use, downloads its parameters. It is given those of relume instead, which change
nothing of the time. Its NIQE continues the image beyond the border, and its BRISQUE makes halves that do not alias, for
which relume's regression was not made: NIQE differs by that by a few percent, BRISQUE by up to about 15.
"""

import argparse
import csv
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

import cv2
import numpy as np
import psutil
import skimage

from benchmarks.data_loading import conditions
from relume.curation.collection import read_collection
from relume.curation.curate import choose, curate, write_tables
from relume.curation.diversity import covering, descriptor
from relume.curation.duplicates import fingerprint
from relume.curation.file_scores import look
from relume.curation.hashes import RADIUS, near_pairs, orientations, perceptual_hash
from relume.curation.measuring import Measured
from relume.curation.naturalness import brisque, niqe
from relume.curation.patches import Patch, Patches, PatchShardWriter
from relume.curation.quality import Quality, gray, quality
from relume.curation.records import Records
from relume.curation.scores import Scores, scores
from relume.curation.settings import CurateSettings, KeepBest, ValidateSettings
from relume.curation.validate import validate
from relume.files import sha256_folder, write_json, write_text
from relume.images import decode, encode, read_image, save_image
from relume.images.decoding import decode_gray
from relume.ingestion.ingest import Photograph, ingest
from relume.ingestion.sources import scan
from relume.params_file import load_section

PLANTED = 1000
FILES = 12  # that CleanVision looks at in a round
NAMES = ("astronaut.png", "brick.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")

# glibc gives large arrays back to the system when they are freed, and each new page of the next one costs.
KEPT_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 30)}
LIMITS = {
    "seed": 3, "patch": 512, "stride": 512, "flush": False, "min_sharpness": 30.0, "max_noise_sigma": 12.0,
    "max_flat_fraction": 0.5, "patches_per_cluster": None, "clusters": 4, "validation_fraction": 0.12,
    "test_fraction": 0.2, "min_validation": 1, "min_test": 1, "held_out_side": 1024, "shard_megabytes": 256.0,
    "scenes": "hashes",
}  # fmt: skip

LIBRARIES = """
import json, sys, time
sys.path.insert(0, "tests/relume/curation")
import cv2
cv2.setNumThreads(1)
from reference_scores import libraries
pixels, found = cv2.imread(sys.argv[1], cv2.IMREAD_GRAYSCALE), {}
for name, measure in zip(("niqe", "brisque"), libraries()):
    found[name] = {"value": round(float(measure(pixels)), 3), "milliseconds": []}
    for _ in range(int(sys.argv[2])):
        start = time.process_time()
        measure(pixels)
        found[name]["milliseconds"].append(1e3 * (time.process_time() - start))
print(json.dumps(found))
"""
CLEANVISION = """
import json, sys, time
from cleanvision import Imagelab
found = []
for _ in range(int(sys.argv[2])):
    lab = Imagelab(data_path=sys.argv[1])
    start = time.process_time()
    lab.find_issues(n_jobs=1, verbose=False)
    found.append(1e3 * (time.process_time() - start))
print()
print(json.dumps({"all": found}))
"""
IMAGEDEDUP = """
import json, sys, time
from imagededup.methods import PHash
hasher, found = PHash(verbose=False), []
for _ in range(int(sys.argv[2]) + 1):
    start = time.process_time()
    hasher.encode_image(image_file=sys.argv[1])
    found.append(1e3 * (time.process_time() - start))
print(json.dumps({"all": found[1:]}))
"""
PYIQA = """
import json, sys, tempfile, time
import cv2, numpy as np, scipy.io, torch
from pyiqa.archs.brisque_arch import BRISQUE
from pyiqa.archs.niqe_arch import NIQE
torch.set_num_threads(1)
parameters = np.load("relume/curation/natural_scenes.npz")
image = torch.from_numpy(cv2.imread(sys.argv[1], cv2.IMREAD_GRAYSCALE))[None, None] / 255
with tempfile.TemporaryDirectory() as folder:
    model = {"mu_prisparam": parameters["niqe_mean"][None], "cov_prisparam": parameters["niqe_covariance"]}
    scipy.io.savemat(f"{folder}/niqe.mat", model)
    regression = [torch.from_numpy(parameters[f"brisque_{name}"]).float() for name in ("weights", "vectors")]
    torch.save(tuple(regression), f"{folder}/brisque.pth")
    niqe, brisque = (
        measure(pretrained_model_path=f"{folder}/{name}")
        for measure, name in ((NIQE, "niqe.mat"), (BRISQUE, "brisque.pth"))
    )
brisque.rho = float(parameters["brisque_rho"])
found = {}
with torch.no_grad():
    for name, measure in (("niqe", niqe), ("brisque", brisque)):
        found[name] = {"value": round(float(measure(image)), 3), "milliseconds": []}
        for _ in range(int(sys.argv[2])):
            start = time.process_time()
            measure(image)
            found[name]["milliseconds"].append(1e3 * (time.process_time() - start))
print(json.dumps(found))
"""


def images(rounds: int) -> dict[str, Any]:
    """Milliseconds of each part, and how many photographs a core measures in a second."""
    cv2.setNumThreads(1)
    pixels = mosaic()
    file, luma = encode(pixels, ".jpg", quality=92), gray(pixels)
    parts: dict[str, Callable[[], object]] = {
        "decode": lambda: decode(file),
        "sharpness, noise, flatness": lambda: quality(pixels),
        "all further scores": lambda: scores(pixels),
        "descriptor": lambda: descriptor(pixels),
        "hash": lambda: perceptual_hash(gray(pixels)),
        "niqe": lambda: niqe(luma),
        "brisque": lambda: brisque(luma),
        "keypoints": lambda: fingerprint(pixels),
        "first look": lambda: look(file),
        "hash of file": lambda: perceptual_hash(decode_gray(file).astype(np.float32)),
    }
    found: dict[str, list[float]] = {}
    for name, part in parts.items():
        part()  # warms up
        found[name] = []
        for _ in range(rounds):
            start = process_time()
            part()
            found[name].append(1e3 * (process_time() - start))
    took = {name: round(median(values), 1) for name, values in found.items()}
    sanity = took["decode"] + took["sharpness, noise, flatness"] + took["hash"]
    everything = sanity + took["all further scores"] + took["descriptor"]
    per_second = {
        "everything": round(1e3 / everything, 2),
        "decode, first figures, hash": round(1e3 / sanity, 1),
        "first look": round(1e3 / took["first look"], 1),
    }
    return {"milliseconds": took, "photographs_per_core_second": per_second}


def of_libraries(options: argparse.Namespace, ours: dict[str, float]) -> dict[str, Any]:
    """Milliseconds of the same by other libraries, and how many times those of ours."""
    pixels = mosaic()
    luma = gray(pixels)
    found: dict[str, Any] = {"values of ours": {"niqe": round(niqe(luma), 3), "brisque": round(brisque(luma), 3)}}
    with tempfile.TemporaryDirectory(prefix="relume-benchmark-") as folder:
        file = f"{folder}/gray.png"
        save_image(Path(file), np.repeat(luma.astype(np.uint8)[..., None], 3, axis=2))
        scripts = {"scikit-video and brisque": (options.libraries, LIBRARIES), "pyiqa": (options.pyiqa, PYIQA)}
        for library, (python, script) in scripts.items():
            if python:
                took = json.loads(_run([python, "-c", script, file, str(options.rounds)]))
                found[library] = {
                    name: {
                        "value": values["value"],
                        "milliseconds": round(median(values["milliseconds"])),
                        "times_ours": round(median(values["milliseconds"]) / ours[name], 1),
                    }
                    for name, values in took.items()
                }
        if options.imagededup:
            save_image(Path(folder) / "photograph.jpg", pixels, quality=92)
            took = json.loads(
                _run([options.imagededup, "-c", IMAGEDEDUP, f"{folder}/photograph.jpg", str(options.rounds)])
            )
            each = median(took["all"])
            found["imagededup"] = {"milliseconds": round(each, 1), "times_ours": round(each / ours["hash of file"], 1)}
        if options.cleanvision:
            photographs = Path(folder) / "photographs"
            for number in range(FILES):  # shifted, so that no two files are the same
                save_image(photographs / f"{number}.jpg", np.roll(pixels, 37 * number, axis=1), quality=92)
            took = json.loads(_run([options.cleanvision, "-c", CLEANVISION, str(photographs), str(options.rounds)]))
            each = median(took["all"]) / FILES
            found["cleanvision"] = {"milliseconds": round(each), "times_ours": round(each / ours["first look"], 1)}
    return found


def _run(command: list[str], environment: dict[str, str] | None = None) -> str:
    quiet = os.environ | {"TQDM_DISABLE": "1"} | (environment or {})
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=quiet).stdout.splitlines()[-1]


def near_duplicates(count: int) -> dict[str, Any]:
    """Seconds, memory and what was found among so many random hashes, with turned copies of up to five other bits."""
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 1 << 63, count, dtype=np.uint64) << np.uint64(1)
    for number in range(PLANTED):
        copy = orientations(hashes[number : number + 1])[rng.integers(8), 0]
        for bit in rng.choice(np.arange(1, 64), rng.integers(RADIUS + 1), replace=False):
            copy ^= np.uint64(1) << np.uint64(bit)
        hashes[count - PLANTED + number] = copy
    start = process_time()
    pairs = near_pairs(hashes)
    return {
        "hashes": count,
        "seconds": round(process_time() - start, 1),
        "peak_gigabytes": _peak(),
        "planted": PLANTED,
        "planted_found": int((pairs[:, 1] - pairs[:, 0] == count - PLANTED).sum()),
        "pairs": len(pairs),
    }


def choice(count: int) -> dict[str, Any]:
    """Seconds and memory of the choice among so many synthetic photographs of 12 patches, whose records are on disk.

    Once by a rule and a cover of half, once without, where nearly all are left to be compared, clustered and split.
    """
    rng = np.random.default_rng(0)
    rule = KeepBest(fraction=0.3, by=("sharpness", "brisque", "niqe"))
    found: dict[str, Any] = {"photographs": count}
    with tempfile.TemporaryDirectory(prefix="relume-benchmark-") as temporary:
        folder = Path(temporary)
        records = Records(folder / "records.sqlite")
        _write_manifest(folder, records, count, rng)
        found["megabytes_before"] = _megabytes_now()
        for name, extra in (("rule and cover", {"keep": rule, "cover": 0.5}), ("no rule", {})):
            settings = CurateSettings.model_validate({**LIMITS, **extra})
            start = process_time()
            photographs = read_collection(folder, records, rule.by)
            chosen = choose(photographs, records, settings, progress=_silent)
            write_tables(folder, folder, photographs, records, chosen)
            found[name] = {
                "kept": len(photographs.left()),
                "seconds": round(process_time() - start, 1),
                "peak_megabytes": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3),
            }
        records.close()  # what it wrote last was beside the file
        found["bytes_on_disk"] = round((folder / "records.sqlite").stat().st_size / count)
    return found


def expectations(count: int) -> dict[str, Any]:
    """Seconds and memory of `validate` for so many synthetic photographs, those that train with 4 patches each.

    Patches have one pixel, since their tables are what is looked at.
    """
    rng = np.random.default_rng(0)
    settings = CurateSettings.model_validate(LIMITS)
    with tempfile.TemporaryDirectory(prefix="relume-benchmark-") as temporary:
        folder = Path(temporary)
        records = Records(folder / "records.sqlite")
        _write_manifest(folder, records, count, rng)
        write_text(folder / "quarantine.csv", "address,reason,detail\n")
        photographs = read_collection(folder, records, ())
        chosen = choose(photographs, records, settings, progress=_silent)
        write_tables(folder, folder, photographs, records, chosen)
        with open(folder / "images.csv", encoding="utf-8", newline="") as file:
            trained = [row["image_id"] for row in csv.DictReader(file) if row["split"] == "train"]
        writer = PatchShardWriter(folder, 4 * len(trained), side=1, shard_megabytes=256)
        for name in trained:
            for x in range(4):
                patch = Patch(image_id=name, y=0, x=x, sharpness=40.0, flat_fraction=0.1)
                writer.add(patch, np.zeros((1, 1, 3), np.uint8), of_set="photographs")
        writer.close()
        before, start = _megabytes_now(), process_time()
        bounds = load_section("validate", ValidateSettings)
        outcomes = validate(folder, folder, bounds, split=settings, docs=folder / "docs")
    return {
        "photographs": count,
        "patches": 4 * len(trained),
        "failed": [f"{outcome.table}.{outcome.column}" for outcome in outcomes if not outcome.success],
        "seconds": round(process_time() - start, 1),
        "megabytes_before": before,
        "peak_megabytes": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3),
    }


def _write_manifest(folder: Path, records: Records, count: int, rng: np.random.Generator) -> None:
    with open(folder / "manifest.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(field.name for field in fields(Photograph))
        for number in range(count):
            item = _synthetic(number, rng)
            records.add(item)
            writer.writerow(asdict(item.photograph).values())


def _silent(*counted: object) -> None:
    """No progress."""


def _megabytes_now() -> int:
    return round(psutil.Process().memory_info().rss / 1e6)


def _synthetic(number: int, rng: np.random.Generator) -> Measured:
    name = f"{int(rng.integers(1 << 63)):016x}"
    photograph = Photograph(
        image_id=name, set="photographs", address=f"file:///photographs/{number:016x}.jpg", degraded="", width=1728,
        height=1152, channels=3, bit_depth=8, mode="RGB", bytes=500_000, sha256=4 * name, shard="images-00000.tar",
    )  # fmt: skip
    figures = rng.random(13).tolist()
    return Measured(
        photograph=photograph,
        quality=Quality(**dict(zip(Quality.__annotations__, figures[:3], strict=True))),
        scores=Scores(**dict(zip(Scores.__annotations__, figures[3:], strict=True))),
        patches=Patches(name, [Patch(image_id=name, y=0, x=x, sharpness=1.0, flat_fraction=0.0) for x in range(12)]),
        fingerprint=int(rng.integers(1 << 63)),
        descriptor=rng.random(152, np.float32),
        reason="",
    )


def more(count: int) -> dict[str, Any]:
    """Seconds of both steps for so many photographs from nothing, for a tenth more, and for these all from nothing."""
    cv2.setNumThreads(1)
    rng = np.random.default_rng(0)
    settings = CurateSettings.model_validate({**LIMITS, "keep": KeepBest(fraction=1.0, by=("niqe",))})
    found: dict[str, Any] = {"photographs": count, "new": count // 10}
    with tempfile.TemporaryDirectory(prefix="relume-benchmark-") as temporary:
        folder = Path(temporary)

        def run(name: str, cache: Path | None) -> None:
            (folder / name / "ingested").mkdir(parents=True)
            (folder / name / "curated").mkdir()
            start = process_time()
            ingest(
                scan([folder / "photographs"]), folder / name / "ingested", max_megapixels=100, min_side=64,
                shard_megabytes=256, progress=_silent, cache=cache and cache / "ingest",
            )  # fmt: skip
            curate(folder / name / "ingested", folder / name / "curated", settings, progress=_silent, cache=cache)
            found[name] = round(process_time() - start, 2)

        def add(numbers: range) -> None:
            for number in numbers:
                pixels = mosaic(rng.permutation(len(NAMES)).tolist())
                save_image(folder / "photographs" / f"{number}.jpg", pixels, quality=92)

        add(range(count))
        run("seconds_from_nothing", folder / "cache")
        add(range(count, count + count // 10))
        run("seconds_with_more", folder / "cache")
        run("seconds_with_more_from_nothing", None)
        found["same_bytes"] = sha256_folder(folder / "seconds_with_more") == sha256_folder(
            folder / "seconds_with_more_from_nothing"
        )
    return found


def steps(count: int) -> dict[str, Any]:
    """How many photographs a core takes in a second through scan, ingest and curate, and the megabytes of each."""
    cv2.setNumThreads(1)
    rng = np.random.default_rng(0)
    rule = {"keep": KeepBest(fraction=1.0, by=("sharpness", "brisque", "niqe"))}
    with tempfile.TemporaryDirectory(prefix="relume-benchmark-") as folder:
        photographs, ingested = Path(folder) / "photographs", Path(folder) / "ingested"
        for number in range(count):
            save_image(photographs / f"{number}.jpg", mosaic(rng.permutation(len(NAMES)).tolist()), quality=92)
        start = process_time()
        listing = scan([photographs])
        found: dict[str, Any] = {"scan": round(count / (process_time() - start))}
        ingested.mkdir()
        start = process_time()
        ingest(listing, ingested, max_megapixels=100, min_side=64, shard_megabytes=256, progress=_silent)
        found["ingest"] = round(count / (process_time() - start), 2)
        for name, extra in (("curate", {}), ("curate with a rule", rule)):
            curated = Path(folder) / name
            curated.mkdir()
            start = process_time()
            settings = CurateSettings.model_validate({**LIMITS, **extra})
            counts = curate(ingested, curated, settings, progress=_silent)
            found[name] = round(count / (process_time() - start), 2)
        found["patches_of_a_photograph"] = round(counts["patches"] / counts["train"], 1)
        found["megabytes"] = {
            "file": _megabytes(photographs, "*.jpg") / count,
            "ingested": _megabytes(ingested, "*.tar") / count,
            "patch": _megabytes(curated, "*.npy") / counts["patches"],
        }
    vectors = rng.random((8000, 152), np.float32)
    start = process_time()
    covering(vectors, 4000)
    found["cover_half_of_8000_seconds"] = round(process_time() - start, 2)
    return found


def _megabytes(folder: Path, pattern: str) -> float:
    return sum(path.stat().st_size for path in folder.glob(pattern)) / 1e6


def mosaic(order: Sequence[int] = range(6)) -> np.ndarray:
    """Six photographs of 576 x 576 pixels, (1152, 1728, 3) uint8."""
    folder = Path(skimage.__file__).parent / "data"
    tiles = [cv2.resize(read_image(folder / name).pixels, (576, 576), interpolation=cv2.INTER_CUBIC) for name in NAMES]
    tiles = [tiles[number] for number in order]
    return np.vstack([np.hstack(tiles[:3]), np.hstack(tiles[3:])])


def _peak() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2)


def main() -> None:
    """Runs the parts, prints the figures, and writes them with date, hardware and versions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--hashes", type=int, default=1_000_000)
    parser.add_argument("--photographs", type=int, nargs="*", default=[1_000, 10_000, 100_000])
    parser.add_argument("--files", type=int, default=24, help="photographs that go through the steps")
    parser.add_argument("--libraries", help="Python that has scikit-video and brisque")
    parser.add_argument("--cleanvision", help="Python that has CleanVision")
    parser.add_argument("--imagededup", help="Python that has imagededup")
    parser.add_argument("--pyiqa", help="Python that has pyiqa")
    parser.add_argument("--results", type=Path, help="a JSON file to write")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    options = parser.parse_args()
    parts = {"images": images, "near_duplicates": near_duplicates, "choice": choice, "expectations": expectations}
    parts |= {"steps": steps, "more": more}
    if options.part:
        name, _, size = options.part.partition("=")
        print(json.dumps(parts[name](int(size))))
        return

    def part(name: str, size: int, **environment: str) -> dict[str, Any]:
        return json.loads(_run([sys.executable, "-m", "benchmarks.curation", "--part", f"{name}={size}"], environment))

    found: dict[str, Any] = {"images": part("images", options.rounds)}
    found["images_with_freed_memory_kept"] = part("images", options.rounds, **KEPT_MEMORY)
    found["libraries"] = of_libraries(options, found["images"]["milliseconds"])
    found["near_duplicates"] = part("near_duplicates", options.hashes)
    found["steps"] = part("steps", options.files)
    found["more"] = part("more", options.files)
    found["choice"] = [part("choice", count) for count in options.photographs]
    found["expectations"] = [part("expectations", count) for count in options.photographs]
    print(json.dumps(found, indent=1))
    if options.results:
        write_json(options.results, {**found, **conditions(1, options.rounds), "numpy": np.__version__})


if __name__ == "__main__":
    main()
