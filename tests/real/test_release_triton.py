"""Releases on the real embedded Triton server, with the registry on SQLite."""

import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import yaml

from flows.embedded_triton import EmbeddedTriton
from flows.platform.status import read_status
from flows.processes import free_port
from flows.release.anchor import check_anchors, read_anchors
from flows.release.ledger import Ledger
from flows.release.package import open_package
from flows.release.registry import Registry
from flows.release.release import gate, release_package
from flows.release.rollback import roll_back
from flows.release.served_product import release_lock, serve_champions
from flows.release.trial import CandidateFailedError
from flows.restore import restore_file
from relume.errors import (
    ConfigError,
    GateRefusedError,
    ModelMissingError,
    ParityError,
    ReleaseError,
    ServerUnreachableError,
    UserError,
)
from relume.images import read_image, save_image
from relume.inference.plan import Inference
from relume.reading import read_json
from relume.serving import repository as models
from relume.serving.backends import Served
from relume.serving.levels import LevelRange
from relume.serving.onnx_restorer import OnnxRestorer
from relume.serving.served_model import onnx_path
from relume.serving.signing import SIGNATURE, SignatureError, sign_release
from relume.serving.triton_client import TritonRestorer
from relume.serving.triton_control import TritonControl
from tests.flows.release.synthetic import doubling, make_package
from tests.real.clients import Clients
from tests.real.embedded_triton import link_server
from tests.real.releases import (
    BLURS,
    ENDS_THE_SERVER,
    LINEAGE,
    NO_START,
    OTHER_RESULTS,
    SLOW,
    add_to_model_py,
    die_at,
    events,
    expected,
    make_checkout,
    moved,
    put_package,
    release,
    restate,
    served,
    use_task,
)
from tests.tiny_onnx import write_tiny_model_of_format_1, write_tiny_model_of_format_2

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory) -> Path:
    """An MLflow store with its tables made: making them takes seconds, so each test gets a copy."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    Registry(path.parent, f"sqlite:///{path}")
    return path


@pytest.fixture
def home(tmp_path, monkeypatch, empty_store) -> Path:
    """A home with the embedded server's environment, which the environment does not name: all that runs here is given
    it. The server is stopped however the test ends."""
    folder = tmp_path / "home"
    (folder / "mlflow").mkdir(parents=True)
    shutil.copyfile(empty_store, folder / "mlflow" / "mlflow.db")
    link_server(folder)
    monkeypatch.setenv("RELUME_HOME", str(tmp_path / "another"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    yield folder
    EmbeddedTriton(folder).stop()
    assert not (tmp_path / "another").exists()


@pytest.fixture
def root(tmp_path) -> Path:
    """A checkout with settings and held-out photographs, and no package yet."""
    return make_checkout(tmp_path / "checkout")


@pytest.fixture
def picture() -> np.ndarray:
    """An image of noise, larger than a tile."""
    return np.random.default_rng(3).integers(0, 256, (90, 130, 3), np.uint8)


def rewrite(package: Path, write_older: Callable[[Path], Path]) -> None:
    """Rewrites the served model of a package, with tiles of 32 pixels, to that of an earlier format."""
    onnx = onnx_path(package / "serving").read_bytes()
    shutil.rmtree(package / "serving" / "triton")
    write_older(package / "serving")
    onnx_path(package / "serving").write_bytes(onnx)
    restate(package)


def test_the_first_release(home, root, picture):
    """A first release starts the server, serves the package's very results and writes both ledger lines."""
    outcome = release(root, home)
    assert outcome.promoted
    assert np.array_equal(served(home, picture), expected(root, picture))
    assert events(home) == ["registered", "promoting", "promoted"]
    registry = Registry(home)
    assert registry.by_alias("denoise", "champion").package == open_package(root / "package").sha256
    assert registry.by_alias("denoise", "previous") is None
    assert registry.by_alias("denoise", "candidate") is None
    remembered = read_anchors(registry)
    check_anchors(Ledger(home), remembered)
    assert remembered["denoise"].served == (outcome.release,)
    assert (home / "reports" / "gate" / f"{outcome.release.model}.txt").is_file()
    assert {row["max_difference"] for row in outcome.parity} <= {0, 1}
    assert len(outcome.parity) == 7


@pytest.mark.parametrize("backend", ["openvino_f32", pytest.param("auto", marks=pytest.mark.exhaustive)])
def test_a_release_for_a_backend(home, root, picture, backend):
    """The product is served by it, its parity with float32 and with the server is kept, and the next release can have
    another; the champion it is timed against runs as it serves."""
    release(root, home, blur=BLURS[0])
    values = yaml.safe_load((root / "params.yaml").read_text())
    values["release"]["backend"] = backend
    (root / "params.yaml").write_text(yaml.safe_dump(values))
    model = release(root, home, blur=BLURS[1]).release.model
    serves = models.backend_of_release(EmbeddedTriton(home).repository, model)
    assert serves == backend if backend != "auto" else serves in get_args(Served)
    assert np.abs(served(home, picture).astype(int) - expected(root, picture)).max() <= 1
    if serves != "onnxruntime":
        kept = read_json(home / "reports" / "backend_parity" / f"{model}.json")
        assert (kept["backend"], len(kept["pictures"])) == (serves, 5)


@pytest.mark.exhaustive
def test_the_same_package_for_another_backend(home, root, picture):
    """It is released as a new one when `release.backend` alone changes, and once; the rollback goes back to the backend
    before, and forth again after the repository was lost, each release by its own backend."""
    release(root, home)
    values = yaml.safe_load((root / "params.yaml").read_text())
    values["release"]["backend"] = "openvino_f32"
    (root / "params.yaml").write_text(yaml.safe_dump(values))
    repository = EmbeddedTriton(home).repository
    other = release_package(root, home, lineage=LINEAGE)
    assert other.promoted
    assert models.backend_of_release(repository, other.release.model) == "openvino_f32"
    assert not release_package(root, home, lineage=LINEAGE).promoted
    back = roll_back(root, home)
    assert models.backend_of_release(repository, back.model) == "onnxruntime"
    assert (back.package, back.version) == (other.release.package, other.release.version)
    assert release_package(root, home, lineage=LINEAGE).promoted
    EmbeddedTriton(home).stop()
    shutil.rmtree(repository)
    assert not release_package(root, home, lineage=LINEAGE).promoted
    assert np.abs(served(home, picture).astype(int) - expected(root, picture)).max() <= 1
    assert models.backend_of_release(repository, other.release.model) == "openvino_f32"


def test_an_adjustable_release(home, root, picture):
    """One follows a release without level and is followed by one: at each time the product takes what it should, and
    the served path of the adjustable one is proved at both ends of its range."""
    release(root, home, blur=BLURS[0])
    outcome = release(root, home, blur=BLURS[1], levels=LevelRange(kind="sigma", lowest=0, highest=55, default=20))
    assert {row["picture"].rpartition(", ")[2] for row in outcome.parity} == {"level 0", "level 55"}
    in_process = OnnxRestorer(root / "package" / "serving")
    with TritonRestorer(EmbeddedTriton(home).start().grpc, "denoise") as restorer:
        for level in (None, 0, 25):
            assert np.array_equal(
                restorer.restore(picture, level=level).image, in_process.restore(picture, level=level).image
            )
        assert np.array_equal(restorer.restore(picture, level=0).image, picture)
        release(root, home, blur=BLURS[2])
        assert np.array_equal(restorer.restore(picture).image, expected(root, picture))


@pytest.mark.exhaustive
def test_a_release_that_restores_in_eight_orientations(home, root, picture):
    """Its float tiles are tried out, proved and served; the gate says what they cost, and `relume status` how the
    champion restores. A release of uint8 tiles follows it, and a rollback serves it again."""
    plan = Inference(tile=64, halo=8, overlap=12, weight="cosine", orientations=8)
    outcome = release(root, home, blur=BLURS[1], inference=plan)
    first = expected(root, picture)
    assert max(row["max_difference"] for row in outcome.parity) <= 1
    report = (home / "reports" / "gate" / f"{outcome.release.model}.txt").read_text()
    assert f"{plan}; 6173 runs of the network a megapixel" in report
    assert [product.inference for product in read_status(root, home).products] == [str(plan)]
    assert np.abs(served(home, picture).astype(int) - first).max() <= 1
    release(root, home, blur=BLURS[2])
    assert np.array_equal(served(home, picture), expected(root, picture))
    assert roll_back(root, home) == outcome.release
    assert np.abs(served(home, picture).astype(int) - first).max() <= 1


def test_a_product_that_enlarges(home, root, picture, monkeypatch):
    """It is judged on small photographs, proved and served by a task of its own beside another product; `relume
    restore` makes its images twice as large, in process and by the server."""
    release(root, home)
    use_task(root, "super-resolution", "sr2", scale=[2])
    plan = Inference(tile=64, halo=8, overlap=4, scale=2)
    outcome = release(root, home, product="sr2", inference=plan, onnx_bytes=doubling(64))
    report = (home / "reports" / "gate" / f"{outcome.release.model}.txt").read_text()
    assert "gain over the bicubic enlargement, scale 2" in report
    assert {product.product: product.inference for product in read_status(root, home).products}["sr2"] == str(plan)
    doubled = picture.repeat(2, axis=0).repeat(2, axis=1)
    save_image(root / "small.png", picture)
    monkeypatch.setenv("RELUME_HOME", str(home))
    for server in (None, EmbeddedTriton(home).start().grpc):
        restored = restore_file(root / "small.png", root / "large.png", root=root, product="sr2", server=server)
        assert restored.restoration.release == outcome.release.model
        assert np.array_equal(read_image(root / "large.png").pixels, doubled)
    assert served(home, picture).shape == picture.shape


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "write_older", [write_tiny_model_of_format_1, write_tiny_model_of_format_2], ids=["format 1", "format 2"]
)
def test_rollback_to_a_release_of_an_earlier_relume(home, root, picture, monkeypatch, write_older):
    """A package as relume built it before is released; after the release of one of today a rollback serves it again,
    and `relume restore` finds it in process as well."""
    make_package(root / "package", blur=BLURS[0], tile=32)
    rewrite(root / "package", write_older)
    first = release_package(root, home, lineage=LINEAGE).release
    old = expected(root, picture)
    assert np.array_equal(served(home, picture), old)
    release(root, home, blur=BLURS[1])
    assert not np.array_equal(served(home, picture), old)
    assert roll_back(root, home) == first
    assert np.array_equal(served(home, picture), old)
    save_image(root / "noisy.png", picture)
    monkeypatch.setenv("RELUME_HOME", str(home))
    restored = restore_file(root / "noisy.png", root / "clean.png", root=root, product=first.product)
    assert restored.restoration.release == first.model
    assert np.array_equal(restored.restoration.image, old)


def test_releasing_the_same_package_again_moves_nothing(home, root):
    """A package that serves already is not released again, and that is no error."""
    release(root, home)
    before = moved(home)
    outcome = release_package(root, home, lineage=LINEAGE)
    assert not outcome.promoted
    assert moved(home) == before
    assert events(home) == ["registered", "promoting", "promoted"]


def test_a_release_under_load_fails_no_request(home, root, picture):
    """While two releases follow each other, four clients of the product get only whole results, none an error."""
    release(root, home, blur=BLURS[0])
    address = EmbeddedTriton(home).start().grpc
    with Clients([address] * 4, picture, {"first": expected(root, picture)}) as clients:
        for blur in BLURS[1:]:
            put_package(root, blur=blur)
            clients.answers[str(blur)] = expected(root, picture)
            outcome = release_package(root, home, lineage=LINEAGE)
        clients.wait_for(1)
    assert clients.errors == []
    assert set(clients.seen) == {"first", *map(str, BLURS[1:])}
    first = Ledger(home).entries()[0].release.model
    assert outcome.retired == [first]
    assert first not in models.releases(home / "triton" / "models")
    assert len(models.releases(home / "triton" / "models")) == 2


def test_a_refused_candidate_moves_nothing(home, root, picture):
    """A candidate that does not denoise is registered and refused, and what serves is what served."""
    release(root, home)
    good, before = expected(root, picture), moved(home)
    with pytest.raises(GateRefusedError, match="gain over the champion, sigma 50"):
        release(root, home, blur=0)
    assert moved(home) == before
    assert np.array_equal(served(home, picture), good)
    assert events(home)[3:] == ["registered", "refused"]
    assert Registry(home).by_alias("denoise", "candidate").package == open_package(root / "package").sha256


@pytest.mark.parametrize(
    ("lines", "error", "message", "refused"),
    [
        (OTHER_RESULTS, ParityError, "does not restore images as the package does", ["promoting", "abandoned"]),
        (NO_START, CandidateFailedError, "not today", ["refused"]),
        (ENDS_THE_SERVER, CandidateFailedError, "does not answer", ["refused"]),
        (SLOW, GateRefusedError, "latency of a pixel over the champion's, served", ["refused"]),
    ],
    ids=["other results", "cannot be loaded", "ends its server", "slow when served"],
)
def test_a_release_that_does_not_serve_right_is_undone(home, root, picture, lines, error, message, refused):
    """A release that serves other results than in process, or none, or late, is refused; the champion's server, which
    only a model sees that has run in another, serves on as the same process."""
    release(root, home, blur=BLURS[0])
    good, before, pid = expected(root, picture), moved(home), EmbeddedTriton(home).status().pid
    put_package(root, blur=BLURS[1])
    add_to_model_py(root, lines)
    with pytest.raises(error, match=message):
        release_package(root, home, lineage=LINEAGE)
    assert moved(home) == before
    assert EmbeddedTriton(home).status().pid == pid
    assert not (home / "triton" / "trial").exists()
    assert np.array_equal(served(home, picture), good)
    assert events(home)[3:] == ["registered", *refused]
    assert Ledger(home).unfinished() == ()


def test_what_is_not_the_candidates_fault_does_not_refuse_it(home, root, picture, monkeypatch):
    """With no room for the trial server the release fails, and the next one releases the package; a package that is
    replaced after the gate is not served under the hash that was measured."""
    release(root, home, blur=BLURS[0])
    good, before = expected(root, picture), moved(home)
    put_package(root, blur=BLURS[1])
    (home / "triton" / "trial").write_text("in the way")
    with pytest.raises(FileExistsError):
        release_package(root, home, lineage=LINEAGE)
    assert events(home)[3:] == ["registered"]
    (home / "triton" / "trial").unlink()

    def replaced(product, candidate):
        report = gate(product, candidate)
        put_package(root, blur=BLURS[0])
        return report

    monkeypatch.setattr("flows.release.release.gate", replaced)
    with pytest.raises(ReleaseError, match="released was"):
        release_package(root, home, lineage=LINEAGE)
    assert moved(home) == before
    assert np.array_equal(served(home, picture), good)
    assert events(home)[4:] == ["registered", "promoting", "abandoned"]
    monkeypatch.undo()


def test_a_first_release_that_fails_leaves_nothing_served(home, root):
    """When the very first release fails on the server, the product is not served and not in the repository."""
    put_package(root)
    add_to_model_py(root, OTHER_RESULTS)
    with pytest.raises(ParityError):
        release_package(root, home, lineage=LINEAGE)
    assert models.products(home / "triton" / "models") == {}
    assert models.releases(home / "triton" / "models") == []
    assert Registry(home).by_alias("denoise", "champion") is None


def test_an_unreachable_server_moves_nothing(home, root):
    """A given server that does not answer stops the release before the package is even registered."""
    put_package(root)
    with pytest.raises(ServerUnreachableError, match="nothing was changed"):
        release_package(root, home, server=f"grpc://127.0.0.1:{free_port()}", lineage=LINEAGE)
    assert events(home) == []
    assert Registry(home).find("denoise", open_package(root / "package").sha256) is None
    assert EmbeddedTriton(home).status().server is None
    with pytest.raises(ConfigError, match="gRPC"):
        release_package(root, home, server="http://127.0.0.1:8000", lineage=LINEAGE)


def test_a_given_server_is_used(home, root, picture):
    """A running server named by its address is released to."""
    put_package(root)
    outcome = release_package(root, home, server=EmbeddedTriton(home).start().grpc, lineage=LINEAGE)
    assert outcome.server == EmbeddedTriton(home).start().grpc
    assert np.array_equal(served(home, picture), expected(root, picture))


def test_a_crash_before_promoted_is_undone_by_the_next_release(home, root, picture):
    """Killed after the switch, before `promoted`: the next release first serves the champion again, then its own."""
    release(root, home, blur=BLURS[0])
    champion, good = Ledger(home).current("denoise"), expected(root, picture)
    put_package(root, blur=BLURS[1])
    die_at(root, home, "promoted")
    assert [entry.event for entry in Ledger(home).unfinished()] == ["promoting"]
    assert not np.array_equal(served(home, picture), good)
    assert Ledger(home).current("denoise") == champion
    with pytest.raises(GateRefusedError):
        release(root, home, blur=0)
    assert np.array_equal(served(home, picture), good)
    assert Registry(home).by_alias("denoise", "champion").number == champion.version
    assert events(home)[3:] == ["registered", "promoting", "abandoned", "registered", "refused"]
    outcome = release(root, home, blur=BLURS[1])
    assert outcome.promoted
    assert np.array_equal(served(home, picture), expected(root, picture))


def test_a_crash_after_promoted_leaves_the_aliases_to_the_next_command(home, root):
    """Killed after the line `promoted`: the release serves, status names the aliases, the next command sets them."""
    first = release(root, home, blur=BLURS[0]).release
    put_package(root, blur=BLURS[1])
    die_at(root, home, "after promoted")
    second = Ledger(home).current("denoise")
    assert f"the ledger says version {second.version}" in "\n".join(read_status(root, home).problems)
    serve_champions(home)
    assert read_status(root, home).problems == []
    assert Registry(home).by_alias("denoise", "champion").number == second.version
    assert Registry(home).by_alias("denoise", "previous").number == first.version


@pytest.mark.exhaustive
def test_the_trial_of_a_killed_release_is_ended(home, root):
    """The next command that holds the lock on releases ends the server of a trial that nobody waits for."""
    release(root, home)
    trial = EmbeddedTriton(home, trial=True)
    trial.start(grpc_port=None, http_port=None, metrics_port=None)
    serve_champions(home)
    assert trial.running() is None
    assert not trial.folder.exists()


@pytest.mark.exhaustive
def test_a_crash_of_the_first_promotion_is_undone(home, root):
    """Killed before the first `promoted`: the package is released anew by the same command."""
    put_package(root)
    die_at(root, home, "promoted")
    outcome = release_package(root, home, lineage=LINEAGE)
    assert outcome.promoted
    (undone,) = outcome.repaired  # the aliases follow the line `promoted`
    assert "was undone" in undone
    assert events(home) == ["registered", "promoting", "abandoned", "registered", "promoting", "promoted"]


def test_rollback_undoes_a_promotion_that_was_cut_short(home, root, picture):
    """After a crash in a promotion, rollback leads to the champion, not behind it."""
    release(root, home, blur=BLURS[0])
    release(root, home, blur=BLURS[1])
    champion, good = Ledger(home).current("denoise"), expected(root, picture)
    put_package(root, blur=BLURS[2])
    die_at(root, home, "promoted")
    assert roll_back(root, home) == champion
    assert np.array_equal(served(home, picture), good)


@pytest.mark.exhaustive
def test_a_rollback_that_was_cut_short_is_finished(home, root, picture):
    """Killed before `rolled_back`: the same command finishes the rollback and goes no further back."""
    release(root, home, blur=BLURS[0])
    first, good = Ledger(home).current("denoise"), expected(root, picture)
    release(root, home, blur=BLURS[1])
    die_at(root, home, "rolled_back")
    assert roll_back(root, home) == first
    assert np.array_equal(served(home, picture), good)
    assert Ledger(home).unfinished() == ()


@pytest.mark.parametrize("look", ["rollback", pytest.param("serve", marks=pytest.mark.exhaustive)])
def test_a_rollback_killed_after_its_line_is_finished(home, root, picture, look):
    """Killed after `rolled_back`: status says which aliases and folders do not agree with the ledger. The next command
    makes the aliases agree, also one that ends with an error, and goes no further back; `serve` the folders too."""
    first, good = release(root, home, blur=BLURS[0]).release, expected(root, picture)
    second = release(root, home, blur=BLURS[1]).release
    die_at(root, home, "after rolled_back")
    assert Registry(home).by_alias("denoise", "champion").number == second.version
    problems = "\n".join(read_status(root, home).problems)
    assert (
        f"champion of denoise in MLflow is version {second.version}, the ledger says version {first.version}"
        in problems
    )
    assert f"{second.model} is left" in problems
    if look == "rollback":
        with pytest.raises(ModelMissingError, match="no earlier release"):
            roll_back(root, home)
    else:
        serve_champions(home)
        assert second.model not in models.releases(home / "triton" / "models")
        assert read_status(root, home).problems == []
    assert Registry(home).by_alias("denoise", "champion").number == first.version
    assert Registry(home).by_alias("denoise", "previous") is None
    assert np.array_equal(served(home, picture), good)


def test_rollback(home, root, picture):
    """Rollback serves the release before, moves the aliases, unloads what it left, and then has nowhere to go."""
    first = release(root, home, blur=BLURS[0]).release
    good = expected(root, picture)
    second = release(root, home, blur=BLURS[1]).release
    assert not np.array_equal(served(home, picture), good)
    assert roll_back(root, home) == first
    assert np.array_equal(served(home, picture), good)
    registry = Registry(home)
    assert registry.by_alias("denoise", "champion").number == first.version
    assert registry.by_alias("denoise", "previous") is None
    server = EmbeddedTriton(home).start()
    with TritonControl(server.grpc, key=server.key) as control:
        assert control.models().get(second.model) != "READY"
    with pytest.raises(ModelMissingError, match="no earlier release"):
        roll_back(root, home)
    assert np.array_equal(served(home, picture), good)
    assert release(root, home, blur=BLURS[1]).release == second


def test_rollback_before_any_release(home, root):
    """With nothing released there is one clear message, and no server is started for it."""
    with pytest.raises(ModelMissingError, match="relume release"):
        roll_back(root, home)
    assert EmbeddedTriton(home).status().server is None


def test_rollback_without_the_registry(home, root, picture, monkeypatch):
    """An MLflow server that does not answer does not hold a rollback up; the next release sets the aliases."""
    first = release(root, home, blur=BLURS[0]).release
    good = expected(root, picture)
    release(root, home, blur=BLURS[1])
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
        assert roll_back(root, home) == first
    assert np.array_equal(served(home, picture), good)
    with pytest.raises(GateRefusedError):
        release(root, home, blur=0)
    assert Registry(home).by_alias("denoise", "champion").number == first.version


def test_only_what_a_trusted_key_signed_is_loaded(home, root, picture):
    """A release that was changed is not gone back to, and one of a foreign key is not loaded after a restart; what
    serves goes on. A release older than signatures is signed when its files are those of its package."""
    first = release(root, home, blur=BLURS[0]).release.model
    second = release(root, home, blur=BLURS[1]).release.model
    right, repository = expected(root, picture), EmbeddedTriton(home).repository
    EmbeddedTriton(home).stop()
    program = repository / first / "1" / "model.py"
    program.write_text(program.read_text() + "# changed\n")
    with pytest.raises(SignatureError, match=r"1/model\.py"):
        roll_back(root, home)
    assert events(home)[-2:] == ["rolling_back", "abandoned"]
    assert Ledger(home).current("denoise").model == second
    assert np.array_equal(served(home, picture), right)

    EmbeddedTriton(home).stop()
    signature = repository / second / SIGNATURE
    own = signature.read_bytes()
    signature.unlink()
    sign_release(signature.parent, root / "foreign")
    EmbeddedTriton(home).start()
    assert EmbeddedTriton(home).status().products["denoise"].served is None
    with pytest.raises(SignatureError, match="not among the trusted"):
        serve_champions(home)

    signature.unlink()
    serve_champions(home)
    assert np.array_equal(served(home, picture), right)
    assert signature.is_file()
    assert signature.read_bytes() != own


def test_a_lost_repository_comes_back_from_the_registry(home, root, picture):
    """With the model repository deleted, rollback fetches the earlier package from the registry and serves it."""
    release(root, home, blur=BLURS[0])
    good = expected(root, picture)
    release(root, home, blur=BLURS[1])
    EmbeddedTriton(home).stop()
    shutil.rmtree(home / "triton" / "models")
    shutil.rmtree(home / "packages", ignore_errors=True)
    roll_back(root, home)
    assert np.array_equal(served(home, picture), good)


def test_a_restarted_server_serves_the_champion(home, root, picture):
    """Stopped and started again, the server serves the product with no other step."""
    release(root, home)
    EmbeddedTriton(home).stop()
    EmbeddedTriton(home).start()
    assert np.array_equal(served(home, picture), expected(root, picture))


def test_one_release_at_a_time(home, root):
    """While another process holds the release lock, a release is refused at once and moves nothing."""
    put_package(root)
    with release_lock(home), pytest.raises(ReleaseError, match="in progress"):
        release_package(root, home, lineage=LINEAGE)
    assert events(home) == []


def test_a_damaged_package_is_refused(home, root):
    """A package whose files do not have the hash that it states is refused before anything starts."""
    put_package(root)
    (root / "package" / "model" / "model.json").write_text("{}")
    with pytest.raises(ReleaseError, match="damaged"):
        release_package(root, home, lineage=LINEAGE)
    assert EmbeddedTriton(home).status().server is None


def test_a_package_of_another_product_is_refused(home, root):
    """A package whose product is not the one that recipe.yaml names is refused before anything starts."""
    put_package(root, product="dejpeg")
    with pytest.raises(UserError, match=r"dejpeg, and package\.product in recipe\.yaml is denoise"):
        release_package(root, home, lineage=LINEAGE)
    assert EmbeddedTriton(home).status().server is None
    assert events(home) == []


def test_home_and_databases_are_for_one_user(home, root):
    """After a release the home is 0700, and its databases are 0600, also where they were open before."""
    home.chmod(0o755)
    (home / "mlflow" / "mlflow.db").chmod(0o644)
    release(root, home)
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert [path.name for path in home.rglob("*.db") if stat.S_IMODE(path.stat().st_mode) != 0o600] == []
