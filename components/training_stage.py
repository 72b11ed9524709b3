"""What the training steps share: processes, data, validation, tracking, checkpoint, progress, and the artifact."""

import contextlib
import functools
import hashlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from components.step import load_params
from components.tracking import StageRun
from relume.errors import RelumeError, StageFailedError
from relume.files import read_json, sha256_folder, write_json
from relume.home import relume_home
from relume.models.artifact import ModelCard, save_model
from relume.training.batches import TrainingCrops
from relume.training.checkpoint import Checkpoint, checkpoint_key
from relume.training.config import EveryLevel, StageSettings, TrainingSettings
from relume.training.patches import Patches, PatchShards
from relume.training.schedule import position_at
from relume.training.streaming import open_streamed
from relume.training.validation import validation

CURATED = Path("data/curated")
# What does not change what is trained: another value of these goes on from the same checkpoint.
NOT_TRAINED = {"checkpoint_seconds", "patch_cache_mb", "patches", "processes", "strategy", "workers"}

RANK_ERRORS = "RELUME_RANK_ERRORS"  # the folder in which ranks leave their errors for the step that started them


def prepared_processes(main: Callable[[], None]) -> Callable[[], None]:
    """Lets a training step run as `training.processes` ranks of this machine, started by torchrun.

    On many machines torchrun is started by hand on each, `torchrun ... -m components.pretrain --base NAME`; a step
    that finds itself in its process group joins it.

    Args:
        main: The step.

    Returns:
        What `run_step` is given. An error of a rank is raised here, once and with its exit code; a rank that ended
        without one, killed or by a defect, as a StageFailedError.
    """

    @functools.wraps(main)
    def start() -> None:
        processes = load_params("training", TrainingSettings).processes
        if RANK_ERRORS in os.environ:
            _hand_up_errors(main, Path(os.environ[RANK_ERRORS]))
        elif processes == 1 or "RANK" in os.environ:
            main()
        else:
            _start_ranks(processes)

    return start


def _start_ranks(processes: int) -> None:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    module = sys.modules["__main__"].__spec__.name.removesuffix(".__main__")  # type: ignore[union-attr]
    for name, value in {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}.items():
        os.environ.setdefault(name, value)  # the ranks talk over loopback
    with tempfile.TemporaryDirectory(prefix="relume-ranks-") as folder:
        os.environ[RANK_ERRORS] = folder
        try:
            run(parse_args(["--standalone", f"--nproc-per-node={processes}", "-m", module, *sys.argv[1:]]))
        except ChildFailedError as failed:
            told = sorted(Path(folder).glob("rank*.json"), key=lambda file: file.stat().st_mtime_ns)
            if told:  # the first one: the others may have failed of it
                facts = read_json(told[0])
                error = StageFailedError(**facts["message"])
                error.exit_code = facts["exit_code"]
                raise error from None
            rank, failure = failed.get_first_failure()
            raise StageFailedError(
                f"One of the {processes} training processes ended early",
                where=module,
                why=f"rank {rank} ended with exit code {failure.exitcode} {failure.signal_name()}",
                next_step="run the step again: it goes on from its checkpoint, with any number of processes",
            ) from None


def _hand_up_errors(main: Callable[[], None], folder: Path) -> None:
    """Runs the step as a rank. torchrun ends with 1 whatever a rank ends with, so an error goes by a file."""
    try:
        main()
    except RelumeError as error:
        message = {"what": error.what, "where": error.where, "why": error.why, "next_step": error.next_step}
        facts = {"message": {key: value and str(value) for key, value in message.items()}, "exit_code": error.exit_code}
        write_json(folder / f"rank{os.environ['RANK']}.json", facts)
        sys.exit(error.exit_code)


class Curated:
    """data/curated on this machine, or its copy on S3 when `training.patches` names one.

    Args:
        training: Where it is, and how much of local disk may hold patches from S3.

    Raises:
        SourceError: The copy is missing or not as it was made, or S3 does not answer or refuses.
    """

    def __init__(self, training: TrainingSettings):
        self._streamed = None if training.patches is None else open_streamed(training.patches)
        self._megabytes = training.patch_cache_mb
        self._cache = relume_home() / "cache" / "curated"
        if self._streamed and not training.workers:
            print("note: patches are waited for: training.workers above 0 reads them from S3 ahead", flush=True)

    @property
    def sha256(self) -> str:
        """Of the folder; the same here and on S3."""
        return self._streamed.sha256 if self._streamed else sha256_folder(CURATED)

    def patches(self) -> Patches:
        """Those of training."""
        return self._streamed.patches(self._cache, self._megabytes) if self._streamed else PatchShards(CURATED)

    def validation(self) -> Path:
        """Folder of the validation photographs."""
        if self._streamed is None:
            return CURATED / "held_out" / "validation"
        return self._streamed.copy("held_out/validation", self._cache / self._streamed.sha256)


def train_stage(
    name: str,
    network: Any,
    *,
    out: str | Path,
    architecture: str,
    arguments: dict[str, Any],
    stage: StageSettings,
    training: TrainingSettings,
    inputs: Sequence[str | Path] = (),
    indices: Sequence[int] | None = None,
) -> None:
    """Trains a network on the curated patches and writes its artifact.

    Args:
        name: The stage's name, such as `pretrain@nafnet`.
        network: Its parameters that require gradients are trained.
        out: The artifact's folder.
        architecture: For the artifact, with `arguments`.
        arguments: The network's constructor arguments.
        stage: What is trained and how long.
        training: What all training stages share.
        inputs: Further folders that the training reads, such as its base models.
        indices: The patches that make an epoch; all by default.
    """
    # Fabric takes a second to import, which steps that train nothing need not wait for.
    from relume.training.loop import train

    configuration = {
        "stage": stage.model_dump(mode="json"),
        "training": training.model_dump(mode="json", exclude=NOT_TRAINED),
        "model": {"architecture": architecture, "arguments": arguments},
        "indices": None if indices is None else hashlib.sha256(str(list(indices)).encode()).hexdigest(),
    }
    curated = Curated(training)
    data_hash = _hash_of(curated.sha256, *map(sha256_folder, inputs))
    checkpoint = Checkpoint(relume_home() / "checkpoints", checkpoint_key([name, configuration], data_hash))
    crops = TrainingCrops(curated.patches(), seed=training.seed, indices=indices)
    degradation = stage.phases[-1].degradation or training.degradation
    with contextlib.ExitStack() as stack:
        run = None
        if _is_first_rank():
            stack.enter_context(checkpoint.lock())
            run = stack.enter_context(StageRun(name, configuration, record=checkpoint.tracked))
            run.log_text("params.yaml", Path("params.yaml").read_text())
        history = train(
            network,
            crops,
            stage=stage,
            training=training,
            checkpoint=checkpoint,
            validate=validation(curated.validation(), degradation, training.seed),
            report=_reporter(name, run, stage) if run else _silent,
        )
        if run is None:
            return
        card = ModelCard(
            architecture=architecture,
            arguments=arguments,
            trained_for=_trained_for(stage, training),
            provenance={"stage": name, "data_sha256": data_hash, "settings": configuration},
        )
        save_model(out, network, card, files={"history.csv": _history_csv(history)})
        run.log_files(Path(out) / "history.csv")
        checkpoint.discard()


def hand_on(name: str, network: Any, *, out: str | Path, card: ModelCard, inputs: Sequence[str | Path]) -> None:
    """Writes the artifact of a stage that trains nothing.

    Args:
        name: The stage's name.
        network: As it came, or fused of what came.
        out: The artifact's folder.
        card: Architecture, arguments and what it was trained for.
        inputs: Folders that it was made of.
    """
    if not _is_first_rank():
        return
    provenance = {"stage": name, "data_sha256": _hash_of(*map(sha256_folder, inputs)), "settings": {"phases": []}}
    save_model(out, network, replace(card, provenance=provenance), files={"history.csv": _history_csv([])})
    print(f"{name}  no phases: handed on untrained", flush=True)


def _is_first_rank() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _trained_for(stage: StageSettings, training: TrainingSettings) -> dict[str, Any]:
    """The degradation of the last phase, and the lowest and highest level of all phases."""
    degradations = [phase.degradation or training.degradation for phase in stage.phases]
    found = {"description": degradations[-1].describe(), "degradation": degradations[-1].model_dump(mode="json")}
    levels = [level for degradation in degradations for level in degradation.levels or ()]
    if isinstance(stage.method, EveryLevel):
        levels = list(stage.method.levels)
    return found | ({"levels": [min(levels), max(levels)]} if levels else {})


def _hash_of(*hashes: str) -> str:
    return hashlib.sha256("".join(hashes).encode()).hexdigest()


def _history_csv(history: list[dict[str, float]]) -> str:
    names = ["step", "loss", "lr", "psnr"]
    rows = [",".join(f"{row[name]:.8g}" for name in names) for row in history]
    return "\n".join([",".join(names), *rows]) + "\n"


def _silent(step: int, steps: int, figures: dict[str, float], picture: np.ndarray | None) -> None:
    """The other ranks leave reporting to the first."""


def _reporter(
    name: str, run: StageRun, stage: StageSettings
) -> Callable[[int, int, dict[str, float], np.ndarray | None], None]:
    """Prints progress, a bar on a terminal, else a line at each validation; and tracks figures and pictures."""
    started, terminal = time.monotonic(), sys.stdout.isatty()

    def report(step: int, steps: int, figures: dict[str, float], picture: np.ndarray | None) -> None:
        if figures:
            run.log(step, figures)
            position = position_at(stage.phases, step - 1)
            run.phase(position.number, position.phase.model_dump(mode="json", exclude_none=True)).log(step, figures)
        elif not terminal:
            return
        if picture is not None:
            run.log_picture(f"validation/step_{step:07d}.png", picture)
        text = f"{name}  {step}/{steps}  {time.monotonic() - started:.0f} s"
        if terminal:
            done = 30 * step // steps
            text = f"{text}  {'━' * done}{'╌' * (30 - done)}"
        if figures:
            text += f"  loss {figures['loss']:.4f}  validation {figures['psnr']:.2f} dB"
        print(f"\r\x1b[K{text}" if terminal else text, end="\n" if figures else "", flush=True)

    return report
