"""The files of the platform: each kind is damaged, and every command that reads it is run in this process.

A command may refuse with exit code 1 or 2 and one message that names the file; where it can go on it may, but after a
damage that no reader can take for a whole file it must name it. A traceback, a hang, or silence is wrong.
"""

import contextlib
import dataclasses
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from flows.embedded_triton import TritonServer
from flows.processes import ProcessRecord, start_process, stop_process
from flows.release.gate import measure
from flows.release.ledger import Ledger, Release
from flows.release.package import open_package
from relume.curation.curate import curate
from relume.curation.expectations import load_tables
from relume.files import write_json
from relume.images import save_image
from relume.ingestion.ingest import Photographs
from relume.ingestion.sources import write_sources
from relume.models.artifact import ModelCard, save_model
from relume.models.registry import build, variants
from relume.params import load_params
from relume.serving import repository as models
from relume.serving.route import Route
from relume.serving.signing import keys_of, sign_release
from relume.training.checkpoint import Checkpoint
from relume.training.mining import read_ranking, write_ranking
from relume.training.patches import PatchShards
from tests.abuse.damage import UNUSABLE, damages
from tests.abuse.rows import Command, Ended, Row, Setting, inside, printed, python, relume, step, watched
from tests.flows.release.synthetic import make_package, make_photographs
from tests.flows.tiny import make_tiny
from tests.relume.curation.photographs import ingest_arrays, skimage_photograph
from tests.relume.curation.test_split import settings

FAMILY = "files of the platform"
CHECKOUT = Path(__file__).parents[2]
SECONDS = 60.0  # after which a command counts as hanging; the slowest takes five on an idle machine
VARIANT = "nafnet-demo"
NAFNET = {"width": 4, "encoder_blocks": [1], "middle_blocks": 1, "decoder_blocks": [1]}
# No server is installed in the attacked checkout, and what its ledger names is in no registry.
WITHOUT_SERVER = {"doctor": 1, "rollback": 1, "serve": 1, "restore": 1}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of file.

    Attributes:
        path: One of it, relative to the checkout, or below `home`.
        commands: What reads it, by name.
        goes_on: Commands that may go on without a word: the file does not matter to them.
        undamaged: Exit codes over the whole file, where it is not 0.
    """

    path: str
    commands: dict[str, Command]
    goes_on: tuple[str, ...] = ()
    undamaged: dict[str, int] = dataclasses.field(default_factory=dict)


def attack(setting: Setting) -> Iterator[Row]:
    """Damages each kind of file; a row for each."""
    place = setting.folder / "files"
    root, home = place / "checkout", place / "checkout" / "home"
    with inside(root, home):
        build_place(root, home, with_graph=setting.thorough)
        kept = place / "kept"
        shutil.copytree(home, kept)
        for kind in _kinds(root, home, thorough=setting.thorough):
            yield _attack_kind(kind, root, home, kept, setting)


def _attack_kind(kind: Kind, root: Path, home: Path, kept: Path, setting: Setting) -> Row:
    row = Row(family=FAMILY, kind=kind.path.removeprefix("home/"))
    path = root / kind.path
    whole = path.read_bytes()
    usual = {name: watched(command, seconds=SECONDS) for name, command in kind.commands.items()}
    row.wrong += [
        f"{name}, undamaged: {ended.failure or f'exit code {ended.code}: {ended.output}'}"
        for name, ended in usual.items()
        if ended.failure or ended.code != kind.undamaged.get(name, 0)
    ]
    _mend(path, whole, home, kept)
    chance = setting.random(kind.path)
    ways = list(damages(whole, path.suffix, chance, thorough=setting.thorough))
    if not setting.thorough:
        ways = chance.sample(ways, 3)
    # The beginning of a YAML file is one as well.
    unusable = set(UNUSABLE) - ({"first half"} if path.suffix == ".yaml" else set())
    for damage, do in ways:
        for name, command in kind.commands.items():
            do(path)
            ended = watched(command, seconds=SECONDS)
            _mend(path, whole, home, kept)
            row.tried += 1
            named = _names(ended, path, root)
            if ended.failure:
                row.wrong.append(f"{name}, {damage}: {ended.failure}")
            elif ended.code in (1, 2) and named:
                row.refused += 1
            elif ended.code != usual[name].code and not (ended.code == 0 and name in kind.goes_on):
                row.wrong.append(f"{name}, {damage}: exit code {ended.code} without the file's name: {ended.output}")
            elif damage in unusable and not named and name not in kind.goes_on:
                row.wrong.append(f"{name}, {damage}: it went on without a word: {ended.output}")
            else:
                row.survived += 1
    return row


def _names(ended: Ended, path: Path, root: Path) -> bool:
    """Whether an output names a file; a refusal may name the package or the model instead, which is read as a whole."""
    if path.name in ended.output:
        return True
    folder = next((root / name for name in ("package", "models/final") if path.is_relative_to(root / name)), None)
    if folder is None or ended.code == 0:
        return False
    names = rf": ({re.escape(str(folder))}|{folder.relative_to(root)})$|the {folder.name} of this checkout$"
    return re.search(names, ended.output, re.MULTILINE) is not None


def _mend(path: Path, whole: bytes, home: Path, kept: Path) -> None:
    """Puts everything back as it was."""
    shutil.rmtree(home)
    shutil.copytree(kept, home)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.write_bytes(whole)


def build_place(root: Path, home: Path, *, with_graph: bool) -> None:
    """A checkout with the results of a pipeline, and a home with a release, all as small as they can be."""
    if with_graph:
        make_tiny(root, home)
    else:
        home.mkdir()
        for name in ("params.yaml", "recipe.yaml", "prefect.yaml", "constraints.txt", "recipes"):
            source = CHECKOUT / name
            (shutil.copytree if source.is_dir() else shutil.copyfile)(source, root / name)
    package = make_package(root / "package")
    served = home / "triton" / "models"
    sign_release(models.publish_release(root / "package" / "serving", served, "denoise-2"), keys_of(home))
    models.write_product(served, "denoise", Route(champion="denoise-2"))
    shutil.copytree(root / "package" / "serving", root / "models" / "exported")
    ledger = Ledger(home)
    for number, package_hash in enumerate(("a" * 64, package.sha256), 1):
        release = Release(product="denoise", package=package_hash, version=str(number), model=f"denoise-{number}")
        ledger.append("promoting", release)
        ledger.append("promoted", release)
    for name in ("mlflow", "prefect"):
        record = ProcessRecord(name=name, pid=2**22 - 1, started="none:1", command=("x",), address=None, log="x")
        write_json(home / "services" / f"{name}.json", dataclasses.asdict(record))
    (home / "config.yaml").write_text("default_product: denoise\n")
    save_image("noisy.png", np.random.default_rng(8).integers(0, 256, (40, 50, 3), np.uint8))
    make_photographs(root / "photographs", count=1, side=64)
    write_sources([root / "photographs"], root / "sources.json")
    network = build("nafnet", NAFNET)
    save_model(root / "models" / "final", network, _card())
    import torch

    variant = variants()[VARIANT]
    torch.save({"params": build(variant.architecture, variant.arguments).state_dict()}, root / "official.pth")
    names = ("astronaut", "chelsea", "coffee", "ihc", "motorcycle_left")
    ingest_arrays({f"{name}.png": skimage_photograph(f"{name}.png")[:128, :128] for name in names}, root / "data")
    (root / "data" / "curated").mkdir()
    small = settings(patch=64, stride=64, min_test=1, max_flat_fraction=1.0)
    curate(root / "data" / "ingested", root / "data" / "curated", small, progress=lambda *_: None)
    ranking = root / "data" / "hard_patches" / "hard.parquet"
    ranking.parent.mkdir()
    write_ranking(ranking, np.arange(8), 2, np.linspace(1, 0, 8, dtype=np.float32))
    Checkpoint(home / "checkpoints", "training").save({"weights": torch.zeros(8)}, {"step": 3})
    _evaluation(root)


def _card() -> ModelCard:
    return ModelCard(architecture="nafnet", arguments=NAFNET, trained_for={}, provenance={"stage": "test"})


def _evaluation(root: Path) -> None:
    """What `evaluate` and `validate` write, for two photographs."""
    systems = ("noisy", "blur", "nlm", "average", "ensemble", "final")
    protocols = ("clipped", "unclipped", "jpeg95", "jpeg85")
    one = {"sigma_50": {"psnr": 27.5, "ssim": 0.8}}
    write_json(root / "reports" / "metrics.json", {protocol: dict.fromkeys(systems, one) for protocol in protocols})
    images = ("0123456789abcdef", "fedcba9876543210")
    rows = [f"{s},{i},50,{p},27.5,0.8" for s in systems for i in images for p in protocols]
    folder = root / "reports" / "evaluation"
    folder.mkdir()
    (folder / "per_image.csv").write_text("\n".join(["system,image_id,level,protocol,psnr,ssim", *rows]) + "\n")
    for image in images:
        for shown in ("noisy", "nlm", "final", "clean"):
            save_image(folder / "pictures" / f"{image}_{shown}.png", np.zeros((32, 32, 3), np.uint8))
    (root / "reports" / "curves").mkdir()
    (root / "reports" / "curves" / "training_final.csv").write_text("step,psnr\n1,20.0\n2,21.0\n")
    write_json(root / "data" / "validation" / "validation.json", [{"success": True}])


def _kinds(root: Path, home: Path, *, thorough: bool) -> Iterator[Kind]:
    restore = relume("restore", "noisy.png", "-o", "clean.png", "--product", "denoise")
    restore_model = relume("restore", "noisy.png", "-o", "clean.png", "--model", "models/exported")
    looks = {"status": relume("status"), "doctor": relume("doctor")}
    report, gate = relume("report", "-o", "report.html"), printed(lambda: _gate(root))
    package = {
        "restore": restore,
        "gate": gate,
        "restore --model": relume(*["restore", "noisy.png", "-o", "c.png", "--model", "package"]),
    }
    yield Kind(path="package/package.json", commands={**package, "report": report})
    yield Kind(path="package/lineage.json", commands={"restore": restore, "gate": gate})
    for name in ("serving.json", "parity.json"):
        yield Kind(path=f"package/serving/{name}", commands={"gate": gate, "report": report})
    yield Kind(path="package/serving/triton/model/1/model.onnx", commands=package)
    yield Kind(path="package/serving/triton/model/config.pbtxt", commands=package)
    yield Kind(path="package/evaluation/per_image.csv", commands={"gate": gate})
    yield Kind(path="models/exported/serving.json", commands={"restore --model": restore_model})
    for name in ("1/model.onnx", "config.pbtxt"):
        yield Kind(path=f"models/exported/triton/model/{name}", commands={"restore --model": restore_model})
    yield Kind(path="home/triton/models/denoise/config.pbtxt", commands=looks, undamaged=WITHOUT_SERVER)
    with _silent_server(home, root.parent / "kept"):
        yield Kind(path="home/triton/server.json", commands=looks, undamaged=WITHOUT_SERVER)
    evaluate = relume("evaluate", "models/final", "--set", "photographs", "--limit", "1", "-o", "results")
    for name in ("model.json", "model.safetensors"):
        yield Kind(path=f"models/final/{name}", commands={"evaluate": evaluate})
    yield Kind(
        path="official.pth",
        commands={"models import": relume("models", "import", "official.pth", "--architecture", VARIANT, "-o", "new")},
    )
    yield Kind(path="sources.json", commands={"data scan": relume("data", "scan"), "ingest": step("ingest")})
    yield Kind(path="data/ingested/manifest.csv", commands={"curate": _photographs(root)})
    shard = next((root / "data" / "ingested").glob("images-*.tar"))
    yield Kind(path=str(shard.relative_to(root)), commands={"curate": _photographs(root)})
    training = printed(lambda: print(PatchShards(root / "data" / "curated").read([0])[0].mean()))
    yield Kind(path="data/curated/train-00000.npy", commands={"training": training})
    yield Kind(path="data/curated/patches.parquet", commands={"validate": _tables(root)})
    ranking = root / "data" / "hard_patches" / "hard.parquet"
    yield Kind(
        path=str(ranking.relative_to(root)), commands={"finetune_hard": printed(lambda: print(read_ranking(ranking)))}
    )
    yield Kind(
        path="home/checkpoints/training.safetensors",
        commands={"training": printed(lambda: print(Checkpoint(home / "checkpoints", "training").load()))},
    )
    for path in (
        "reports/metrics.json",
        "reports/evaluation/per_image.csv",
        "reports/curves/training_final.csv",
        "data/curated/images.csv",
        "data/ingested/quarantine.csv",
        "data/validation/validation.json",
    ):
        package_step = {"package": step("package")} if path.endswith("metrics.json") else {}
        yield Kind(path=path, commands={"report": report, **package_step})
    ledger = {**looks, "restore": restore, "rollback": relume("rollback"), "serve": relume("serve")}
    yield Kind(path="home/ledger.jsonl", commands=ledger, undamaged=WITHOUT_SERVER)
    yield Kind(path="home/ledger.head.json", commands=ledger, undamaged=WITHOUT_SERVER)
    for name in ("mlflow", "prefect"):
        ends = {**looks, "down": relume("down")}
        yield Kind(path=f"home/services/{name}.json", commands=ends, goes_on=("down",), undamaged=WITHOUT_SERVER)
    by_default = {"restore": relume("restore", "noisy.png", "-o", "clean.png")}
    yield Kind(path="home/config.yaml", commands=by_default, goes_on=("restore",), undamaged=WITHOUT_SERVER)
    yield Kind(path="prefect.yaml", commands=looks, undamaged=WITHOUT_SERVER)
    lint = {"pipeline lint": relume("pipeline", "lint")} if thorough else {}
    for name in ("params.yaml", "recipe.yaml"):
        yield Kind(path=name, commands={"ingest": step("ingest"), "gate": gate, **lint}, goes_on=("ingest",))
    yield Kind(
        path="recipes/defaults.yaml", commands={"recipes show": relume("recipes", "show", "photo", "--scale", "demo")}
    )
    if thorough:
        doctor = {"doctor": relume("doctor")}
        yield Kind(path="constraints.txt", commands=doctor, goes_on=("doctor",), undamaged=WITHOUT_SERVER)
        yield Kind(path="dvc.yaml", commands=lint)
        # In processes of their own: in this one MLflow keeps databases open whose files were replaced.
        look = f"""
from pathlib import Path
from components.step import run_component
from flows.release.registry import Registry
run_component(lambda: print(Registry(Path({str(home)!r})).find("denoise", "a" * 64)))
"""
        python(look)()
        shutil.copytree(home / "mlflow", root.parent / "kept" / "mlflow", dirs_exist_ok=True)
        yield Kind(path="home/mlflow/mlflow.db", commands={"release": python(look)}, goes_on=("release",))


@contextlib.contextmanager
def _silent_server(home: Path, kept: Path) -> Iterator[None]:
    """The records of a server that runs and does not answer."""
    folder = home / "triton"
    server = TritonServer(grpc_port=9, http_port=9, metrics_port=9, repository=str(folder / "models"))
    start_process("triton", ["sleep", "3600"], folder=folder, ready=lambda: True, timeout=10)
    write_json(folder / "server.json", dataclasses.asdict(server))
    names = ("triton.json", "server.json")
    for name in names:
        shutil.copyfile(folder / name, kept / "triton" / name)
    try:
        yield
    finally:
        stop_process(folder, "triton")
        for name in names:
            for place in (folder, kept / "triton"):
                (place / name).unlink(missing_ok=True)


def _tables(root: Path) -> Command:
    return printed(lambda: print(load_tables(root / "data" / "ingested", root / "data" / "curated")["patches"].shape))


def _gate(root: Path) -> None:
    params = load_params(root)
    report = measure(open_package(root / "package"), None, params.release, params.evaluate, root / "photographs")
    print(report.table())


def _photographs(root: Path) -> Command:
    def read() -> None:
        photographs = Photographs(root / "data" / "ingested")
        for photograph in photographs.manifest:
            print(photographs.pixels(photograph).shape)

    return printed(read)
