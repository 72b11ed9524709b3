"""The training steps as processes: killed with SIGKILL at any moment, each ends like one that was not."""

import contextlib
import itertools
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
import skimage.data
import torch
import yaml

from components.tracking import _client
from relume.files import sha256_folder
from relume.home import relume_home
from relume.images import save_image
from relume.models.artifact import ModelCard, load_card, load_model, save_model
from relume.models.registry import build

ROOT = Path(__file__).parents[2]
OPTIMIZER = {"lr": 2e-3, "min_lr": 1e-5, "warmup": 5}
TINY = {
    "training": {
        "seed": 7,
        "threads": 1,
        "precision": "32-true",
        "degradation": {"steps": [{"kind": "gaussian_noise", "sigma": [0, 50], "clipped": 0.5}]},
        "checkpoint_seconds": 0.05,
        "validations": 4,
    },
    "pretrain": {
        "bases": {
            "nafnet": {
                "architecture": "nafnet",
                "arguments": {"width": 4, "encoder_blocks": [1], "middle_blocks": 1, "decoder_blocks": [1]},
                "loss": "psnr",
                "optimizer": OPTIMIZER,
                "phases": [{"steps": 80, "patch": 16, "batch": 4}, {"steps": 40, "patch": 32, "batch": 2}],
            },
            "restormer": {
                "architecture": "restormer",
                "arguments": {"width": 4, "blocks": [1, 1, 1, 1], "refinement_blocks": 1, "heads": [1, 1, 1, 1]},
                "loss": "charbonnier",
                "optimizer": OPTIMIZER,
                "phases": [{"steps": 20, "patch": 16, "batch": 2}],
            },
        }
    },
    "ensemble_head": {
        "fusion": {"architecture": "ensemble", "arguments": {"head": {"width": 4, "blocks": 1}}},
        "loss": "l1",
        "optimizer": OPTIMIZER,
        "phases": [{"steps": 60, "patch": 16, "batch": 2}],
    },
    "mine_hard": {
        "degradation": {"steps": [{"kind": "gaussian_noise", "sigma": [50, 50], "clipped": 1.0}]},
        "draws": 1,
        "fraction": 0.25,
        "batch": 8,
    },
    "finetune_hard": {
        "other_fraction": 0.5,
        "loss": "psnr",
        "optimizer": OPTIMIZER,
        "phases": [{"steps": 60, "patch": 16, "batch": 2}],
    },
}
STEPS = {
    "pretrain nafnet": (["pretrain", "--base", "nafnet"], "models/bases/nafnet"),
    "pretrain restormer": (["pretrain", "--base", "restormer"], "models/bases/restormer"),
    "ensemble_head": (["ensemble_head"], "models/ensemble"),
    "mine_hard": (["mine_hard"], "data/hard_patches"),
    "finetune_hard": (["finetune_hard"], "models/final"),
}


class Checkout:
    """A folder with what the training steps read, in which they are run as processes."""

    def __init__(self, folder: Path):
        self.folder = folder
        curated = folder / "data" / "curated"
        photograph = skimage.data.astronaut()
        patches = [photograph[y : y + 32, x : x + 32] for y in range(0, 192, 32) for x in range(0, 192, 32)]
        curated.mkdir(parents=True)
        np.save(curated / "train-00000.npy", np.stack(patches))
        save_image(curated / "held_out" / "validation" / "00ff.png", photograph[300:364, 200:264])
        (folder / "params.yaml").write_text(yaml.safe_dump(TINY))

    def change(self, section: str, **values) -> None:
        """Changes a section of params.yaml."""
        params = yaml.safe_load((self.folder / "params.yaml").read_text())
        params[section] |= values
        (self.folder / "params.yaml").write_text(yaml.safe_dump(params))

    def start(self, step: str, **environment: str) -> subprocess.Popen:
        """Starts a step's process, with variables on top of this one's."""
        return subprocess.Popen(
            [sys.executable, "-m", f"components.{STEPS[step][0][0]}", *STEPS[step][0][1:]],
            cwd=self.folder,
            env=os.environ | {"PYTHONPATH": str(ROOT), "RELUME_HOME": str(self.folder / "home")} | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, step: str) -> str:
        """Runs a step to its end and returns what it printed."""
        process = self.start(step)
        output = process.communicate(timeout=300)[0]
        assert process.returncode == 0, output
        return output

    def killed(self, step: str, kill: Callable[[subprocess.Popen], None]) -> tuple[int, str]:
        """Starts a step that `kill` ends in its training, after the first checkpoint; anew where it ended before that.

        Returns:
            Its exit code and what it printed.
        """
        out, home = self.folder / STEPS[step][1], self.folder / "home"
        for _ in range(10):
            process = self.start(step)
            while not self.checkpoints() and process.poll() is None:
                time.sleep(0.01)
            kill(process)
            output = process.communicate(timeout=120)[0]
            if not out.exists():
                return process.returncode, output
            shutil.rmtree(out)
            shutil.rmtree(home / "checkpoints")
        raise AssertionError("kills came after the end")

    def checkpoints(self) -> list[Path]:
        """The checkpoints of unfinished trainings."""
        return list((self.folder / "home" / "checkpoints").glob("[!.]*.safetensors"))

    def result(self, step: str) -> str:
        """The hash of what a step wrote."""
        return sha256_folder(self.folder / STEPS[step][1])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A checkout in which every training step ran without being disturbed."""
    checkout = Checkout(tmp_path_factory.mktemp("whole"))
    outputs = {step: checkout.run(step) for step in STEPS}
    assert "\nmine_hard  36/36 patches  " in f"\n{outputs['mine_hard']}"
    return checkout


@pytest.mark.slow
@pytest.mark.parametrize("step", ["pretrain nafnet", "ensemble_head", "finetune_hard"])
def test_a_killed_training_ends_with_the_same_bytes(whole, tmp_path, step):
    """Killed at a random moment after its first checkpoint and started again, the artifact is the same."""
    checkout = Checkout(tmp_path)
    for other in ("data/hard_patches", "models"):
        source = whole.folder / other
        subprocess.run(["cp", "-r", source, checkout.folder / other], check=True)
    shutil.rmtree(checkout.folder / STEPS[step][1])
    moments, latest = random.Random(step), (0.4 / 2**number for number in itertools.count())

    def kill(process):
        time.sleep(moments.uniform(0, next(latest)))
        process.kill()

    code, output = checkout.killed(step, kill)
    assert code == -signal.SIGKILL, output
    output = checkout.run(step)
    assert "resumed from step" in output
    assert checkout.result(step) == whole.result(step)
    assert not checkout.checkpoints()


@pytest.mark.slow
def test_a_killed_training_is_one_run_in_mlflow(tmp_path, monkeypatch):
    """Killed in its second phase and started again: a run of the stage, two of phases, closed, with all validations."""
    checkout = Checkout(tmp_path)
    base = TINY["pretrain"]["bases"]["nafnet"]
    phases = [{"steps": 40, "patch": 16, "batch": 2}, {"steps": 360, "patch": 16, "batch": 2}]
    checkout.change("pretrain", bases={"nafnet": base | {"phases": phases}})
    checkout.change("training", validations=10)
    process = checkout.start("pretrain nafnet")
    next(line for line in process.stdout if "  80/400  " in line)
    process.kill()
    process.communicate()
    assert "resumed from step" in checkout.run("pretrain nafnet")
    monkeypatch.setenv("RELUME_HOME", str(checkout.folder / "home"))
    client, experiment = _client(relume_home())
    steps = {}
    for run in client.search_runs([experiment]):
        assert run.info.status == "FINISHED"
        assert run.info.run_name not in steps
        steps[run.info.run_name] = {m.step for m in client.get_metric_history(run.info.run_id, "psnr")}
    assert steps == {
        "pretrain@nafnet": set(range(40, 401, 40)),
        "pretrain@nafnet phase 1": {40},
        "pretrain@nafnet phase 2": set(range(80, 401, 40)),
    }
    assert not list((checkout.folder / "home" / "checkpoints").glob("*.json"))


@pytest.mark.slow
def test_the_ensemble_holds_its_bases_unchanged(whole):
    """The head's training leaves the weights of the base models as they were, bit for bit."""
    ensemble = load_model(whole.folder / "models" / "ensemble").state_dict()
    for number, base in enumerate(["nafnet", "restormer"]):
        state = load_model(whole.folder / "models" / "bases" / base).state_dict()
        assert state
        assert all(value.equal(ensemble[f"bases.{number}.{key}"]) for key, value in state.items())


@pytest.mark.slow
def test_hard_patches_are_those_with_the_largest_loss(whole):
    """The quarter marked hard has larger losses than all others, and ranks follow the losses."""
    import pyarrow.parquet as pq

    table = pq.read_table(whole.folder / "data/hard_patches/hard.parquet").to_pandas()
    assert table["hard"].sum() == 9
    assert table.loc[table["hard"], "loss"].min() >= table.loc[~table["hard"], "loss"].max()
    assert table.sort_values("rank")["loss"].is_monotonic_decreasing


@pytest.mark.slow
def test_an_artifact_says_where_it_comes_from(whole):
    """The card names the stage and the settings, and nothing of time, machine or place."""
    card = load_card(whole.folder / "models" / "final")
    assert card.provenance["stage"] == "finetune_hard"
    (phase,) = card.provenance["settings"]["stage"]["phases"]
    assert phase.items() >= TINY["finetune_hard"]["phases"][0].items()
    assert card.trained_for["description"] == "Gaussian noise, sigma 0 to 50"
    assert str(whole.folder) not in json.dumps(vars(card))


def test_a_wrong_setting_is_refused_before_anything_is_trained(tmp_path):
    """An unknown key ends with exit code 2 and a message that names it."""
    checkout = Checkout(tmp_path)
    params = json.loads(json.dumps(TINY))
    params["pretrain"]["bases"]["nafnet"]["optimizer"]["learning_rate"] = 1
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    process = checkout.start("pretrain nafnet")
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 2
    assert "pretrain.bases.nafnet.optimizer.learning_rate is unknown" in output
    assert "learning_rate" in output
    assert "Traceback" not in output


def history(checkout: Checkout, step: str) -> np.ndarray:
    """The training history that a step wrote: step, loss, lr, psnr."""
    return np.loadtxt(checkout.folder / STEPS[step][1] / "history.csv", delimiter=",", skiprows=1)


def with_children(process: subprocess.Popen) -> list[psutil.Process]:
    """A process and all that it started, as far as they have not ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        started = psutil.Process(process.pid)
        return [started, *started.children(recursive=True)]
    return []


def kill_second_rank(process: subprocess.Popen) -> None:
    """Kills the second of the training processes that torchrun started for a step."""
    for child in with_children(process):
        with contextlib.suppress(psutil.NoSuchProcess):
            if child.environ().get("RANK") == "1":
                child.kill()


def listening(*processes: subprocess.Popen) -> set[str]:
    """The addresses at which processes and all that they start listen, from now until they end."""
    found = set()
    while any(process.poll() is None for process in processes):
        for each in itertools.chain.from_iterable(map(with_children, processes)):
            with contextlib.suppress(psutil.NoSuchProcess):
                sockets = each.net_connections(kind="inet")
                found |= {one.laddr.ip for one in sockets if one.status == psutil.CONN_LISTEN}
        time.sleep(0.05)
    return found


@pytest.mark.slow
def test_two_processes_train_like_one(whole, tmp_path):
    """With the same batches over all, two ranks follow one's losses and end with its weights, up to rounding.

    Gradients are summed in another order, so bits differ; 120 steps of a small network do not carry that far. Nothing
    listens but on loopback.
    """
    checkout = Checkout(tmp_path)
    checkout.change("training", processes=2)
    process = checkout.start("pretrain nafnet")
    addresses = listening(process)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    assert addresses == {"127.0.0.1"}
    np.testing.assert_allclose(history(checkout, "pretrain nafnet"), history(whole, "pretrain nafnet"), rtol=2e-3)


@pytest.mark.exhaustive
def test_two_machines_train_like_one_and_listen_at_the_named_address_alone(whole, tmp_path):
    """One process on each of two machines, which loopback's addresses stand for; torchrun's variables join them."""
    checkout = Checkout(tmp_path)
    with socket.create_server(("127.0.0.2", 0)) as free:
        port = str(free.getsockname()[1])
    place = {"PET_NNODES": "2", "PET_MASTER_ADDR": "127.0.0.2", "PET_MASTER_PORT": port}
    machines = [checkout.start("pretrain nafnet", PET_NODE_RANK=str(number), **place) for number in (0, 1)]
    addresses = listening(*machines)
    for machine in machines:
        output = machine.communicate(timeout=300)[0]
        assert machine.returncode == 0, output
    assert addresses == {"127.0.0.2", "127.0.0.1"}  # the store, and the ranks on the interface that leads to it
    np.testing.assert_allclose(history(checkout, "pretrain nafnet"), history(whole, "pretrain nafnet"), rtol=2e-3)


@pytest.mark.slow
def test_a_killed_rank_ends_the_step_and_one_process_goes_on(whole, tmp_path):
    """The message names what to do; started with another number of processes the training ends as one would."""
    checkout = Checkout(tmp_path)
    checkout.change("training", processes=2)
    code, output = checkout.killed("pretrain nafnet", kill_second_rank)
    assert code == 1, output
    assert "One of the 2 training processes ended early" in output
    assert "it is resumed from its checkpoint" in output
    checkout.change("training", processes=1)
    assert "resumed from step" in checkout.run("pretrain nafnet")
    np.testing.assert_allclose(history(checkout, "pretrain nafnet"), history(whole, "pretrain nafnet"), rtol=2e-3)


def test_a_mistake_is_reported_once_by_the_ranks(tmp_path):
    """What a user can fix is one message and exit code 2 with two processes too."""
    checkout = Checkout(tmp_path)
    base = TINY["pretrain"]["bases"]["nafnet"]
    checkout.change("pretrain", bases={"nafnet": base | {"phases": [{"steps": 2, "patch": 16, "batch": 3}]}})
    checkout.change("training", processes=2)
    process = checkout.start("pretrain nafnet")
    output = process.communicate(timeout=200)[0]
    assert process.returncode == 2, output
    assert output.count("A batch cannot be divided evenly: phases[0].batch: 3") == 1
    assert "Traceback" not in output
    assert "run the same command again" not in output


@pytest.mark.parametrize("processes", [1, 2])
def test_divergence_has_an_exit_code_of_its_own(tmp_path, processes):
    """A loss that is not finite ends the step with 3 and one message, however many processes train."""
    checkout = Checkout(tmp_path)
    base = TINY["pretrain"]["bases"]["nafnet"]
    optimizer = OPTIMIZER | {"lr": 1e30, "warmup": 0, "clip": 1e30}
    checkout.change("pretrain", bases={"nafnet": base | {"optimizer": optimizer, "loss": "mse"}})
    checkout.change("training", processes=processes)
    process = checkout.start("pretrain nafnet")
    output = process.communicate(timeout=200)[0]
    assert process.returncode == 3, output
    assert output.count("error: The loss is") == 1
    assert "lower optimizer.lr" in output


@pytest.mark.slow
def test_stages_without_phases_pass_on(whole, tmp_path):
    """One base, no fusion, nothing trained: the final model is the base, weight for weight."""
    checkout = Checkout(tmp_path)
    shutil.copytree(whole.folder / "models/bases/nafnet", checkout.folder / "models/bases/nafnet")
    checkout.change("ensemble_head", fusion=None, phases=[])
    checkout.change("finetune_hard", phases=[])
    for step in ("ensemble_head", "mine_hard", "finetune_hard"):
        checkout.run(step)
    base, final = (load_model(checkout.folder / f"models/{name}") for name in ("bases/nafnet", "final"))
    assert load_card(checkout.folder / "models/final").architecture == "nafnet"
    assert all(value.equal(final.state_dict()[key]) for key, value in base.state_dict().items())


@pytest.mark.slow
def test_several_bases_need_a_fusion(whole, tmp_path):
    """Without one the step ends with exit code 2 and names the bases."""
    checkout = Checkout(tmp_path)
    shutil.copytree(whole.folder / "models/bases", checkout.folder / "models/bases")
    checkout.change("ensemble_head", fusion=None)
    process = checkout.start("ensemble_head")
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 2
    assert "nafnet, restormer" in output


@pytest.mark.exhaustive
def test_biases_alone_are_trained(whole, tmp_path):
    """Bias adaptation leaves every weight of the frozen model as it was and moves the biases that it added."""
    checkout = Checkout(tmp_path)
    shutil.copytree(whole.folder / "models/bases/restormer", checkout.folder / "models/ensemble")
    shutil.copytree(whole.folder / "data/hard_patches", checkout.folder / "data/hard_patches")
    checkout.change("finetune_hard", adapt="biases")
    checkout.run("finetune_hard")
    before = load_model(checkout.folder / "models/ensemble").state_dict()
    after = load_model(checkout.folder / "models/final").state_dict()
    assert all(value.equal(after[f"network.{key}"]) for key, value in before.items())
    added = after.keys() - {f"network.{key}" for key in before}
    assert added
    assert all(key.endswith(".bias") for key in added)
    assert all(after[key].abs().max() > 0 for key in added)


@pytest.mark.slow
def test_the_small_network_is_chosen_after_the_pretraining(tmp_path):
    """From one DyNet's weights each network is passed on or fine-tuned, and its artifact is of that network."""
    checkout = Checkout(tmp_path)
    large = {"reuse": [1, 2, 1, 2], "width": 4, "refinement_blocks": 1, "heads": [1, 1, 1, 1]}
    large |= {"prompt_channels": [4, 4, 8], "prompt_sizes": [8, 4, 4]}
    torch.manual_seed(1)
    card = ModelCard(architecture="dynet", arguments=large, trained_for={}, provenance={})
    save_model(checkout.folder / "models/ensemble", build("dynet", large), card)
    checkout.change("finetune_hard", phases=[], adapt={"reuse": [1, 1, 1, 1]})
    checkout.run("finetune_hard")
    before, after = (load_model(checkout.folder / f"models/{name}") for name in ("ensemble", "final"))
    assert load_card(checkout.folder / "models/final").arguments == large | {"reuse": [1, 1, 1, 1]}
    assert all(value.equal(after.state_dict()[key]) for key, value in before.state_dict().items())
    image = torch.rand(1, 3, 16, 24)
    with torch.no_grad():
        assert torch.equal(after(image), before(image, reuse=(1, 1, 1, 1)))
        assert not torch.equal(after(image), before(image))


@pytest.mark.slow
def test_a_training_can_start_from_given_weights(whole, tmp_path):
    """From an artifact the first validation is where it ended; without phases it is passed on, by one of the ranks."""
    checkout = Checkout(tmp_path)
    artifact = whole.folder / "models/bases/nafnet"
    base = yaml.safe_load((tmp_path / "params.yaml").read_text())["pretrain"]["bases"]["nafnet"]
    initial = {"artifact": str(artifact), "sha256": sha256_folder(artifact)}
    phases = [{"steps": 2, "patch": 16, "batch": 2}]
    base |= {"optimizer": OPTIMIZER | {"lr": 4e-4, "warmup": 1}}
    checkout.change("pretrain", bases={"nafnet": base | {"phases": phases, "initial": initial}})
    checkout.run("pretrain nafnet")
    reached, first = history(whole, "pretrain nafnet")[-1, 3], np.atleast_2d(history(checkout, "pretrain nafnet"))[0, 3]
    assert abs(first - reached) < 1
    checkout.change("pretrain", bases={"nafnet": base | {"phases": [], "initial": initial}})
    checkout.change("training", processes=2)
    assert checkout.run("pretrain nafnet").count("is written untrained") == 1
    handed = load_model(checkout.folder / "models/bases/nafnet").state_dict()
    assert all(value.equal(handed[key]) for key, value in load_model(artifact).state_dict().items())
    checkout.change("pretrain", bases={"nafnet": base | {"phases": phases, "initial": initial | {"sha256": "0" * 64}}})
    checkout.change("training", processes=1)
    process = checkout.start("pretrain nafnet")
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 2
    assert "The initial weights have changed" in output
    wider = base | {"phases": phases, "initial": initial, "arguments": base["arguments"] | {"width": 6}}
    checkout.change("pretrain", bases={"nafnet": wider})
    process = checkout.start("pretrain nafnet")
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 2
    assert "The initial weights are of another network" in output
    assert "Traceback" not in output


def test_workers_in_a_small_shared_memory(tmp_path):
    """Where /dev/shm is smaller than the batches that workers prepare, as in a container, the training ends at once."""
    checkout = Checkout(tmp_path)
    checkout.change("training", workers=2)
    mounted = "mount -t tmpfs -o size=64k tmpfs /dev/shm"
    isolated = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    if subprocess.run([*isolated, mounted], capture_output=True).returncode:
        pytest.skip("nothing may be mounted here")
    done = subprocess.run(
        [*isolated, f'{mounted} && exec "$0" -m components.pretrain --base nafnet', sys.executable],
        cwd=checkout.folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "RELUME_HOME": str(checkout.folder / "home")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert "training.workers: 2" in done.stdout + done.stderr
