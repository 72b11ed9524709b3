"""The training loop: what it learns, what it keeps, and that an interrupted one ends like one that was not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from relume.degradations import Degradation
from relume.errors import TrainingDivergedError
from relume.models.dynet import DEMO as DYNET
from relume.models.registry import build
from relume.training.augmentation import Augmentation
from relume.training.batches import StepBatches, TrainingCrops
from relume.training.checkpoint import Checkpoint
from relume.training.config import (
    OptimizerSettings,
    Phase,
    Schedule,
    SetChoice,
)
from relume.training.loop import train
from relume.training.state import TrainingState
from tests.relume.training.mixed import write_mixed
from tests.relume.training.tiny import (
    LEVELS,
    SHARED,
    STAGE,
    TRAINING,
    Interrupted,
    TinyNetwork,
    figure,
    run,
    sharpness,
    stage,
)


@pytest.mark.parametrize("stop_at", [1, 4, 6, 7, 8, 11])
def test_an_interrupted_training_ends_with_the_same_bits(shards, tmp_path, stop_at):
    """Stopped inside a phase, at its border, or at a validation: weights and history equal the uninterrupted."""
    whole, whole_history = run(shards, Checkpoint(tmp_path, "whole"))
    with pytest.raises(Interrupted):
        run(shards, Checkpoint(tmp_path, "parts"), stop_at=stop_at)
    parts, parts_history = run(shards, Checkpoint(tmp_path, "parts"))
    assert parts_history == whole_history
    assert all(torch.equal(parts[key], whole[key]) for key in whole)


@pytest.mark.parametrize("stop_at", [2, 5, 8])
def test_an_interrupted_training_on_sets_ends_with_the_same_bits(tmp_path, stop_at):
    """Phases that draw from sets by weights, pairs too: stopped in either, all weights equal the uninterrupted."""
    shards = write_mixed(tmp_path, {"a": 5, "b": 4}, {"real": 3})
    phases = (
        Phase(steps=5, patch=8, batch=2, data={"a": 1, "real": 2}),
        Phase(steps=4, patch=8, batch=2, data={"b": SetChoice(weight=3, select=2), "real": 1}),
    )
    whole, whole_history = run(shards, Checkpoint(tmp_path, "whole"), stage=stage(phases))
    with pytest.raises(Interrupted):
        run(shards, Checkpoint(tmp_path, "parts"), stage=stage(phases), stop_at=stop_at)
    parts, parts_history = run(shards, Checkpoint(tmp_path, "parts"), stage=stage(phases))
    assert parts_history == whole_history
    assert all(torch.equal(parts[key], whole[key]) for key in whole)


JPEG_AND_RAIN = Degradation.model_validate(
    {
        "steps": [
            {"kind": "jpeg", "quality": [10, 40]},
            {"kind": "rain", "density": [0, 0.1], "length": [2, 5], "angle": [-20, 20], "width": [1, 2]},
        ]
    }
)
PHASES = (
    Phase(steps=3, patch=8, batch=2, train=("trained.*",), loss={"mse": 1.0, "gradient_l1": 0.1}),
    Phase(steps=3, patch=16, batch=2, train=("trained.intro.*",), schedule=Schedule(lr=1e-3, shape="constant")),
    Phase(steps=3, patch=8, batch=2, degradation=JPEG_AND_RAIN, augmentation=Augmentation(usm=0.5, mixup=0.5)),
)


def normalised():
    """A network with batch normalisation."""
    return build("dncnn", {"width": 4, "layers": 3, "batch_norm": True})


FEATURES = {
    "phases of their own": {"stage": stage(PHASES)},
    "accumulation": {"stage": stage((Phase(steps=9, patch=8, batch=4, accumulate=2),))},
    "best": {"stage": stage(keep="best", patience=3), "validations": 9},
    "adam": {"stage": stage(optimizer=OptimizerSettings(kind="adam", lr=1e-2, weight_decay=0.1))},
    "workers": {"stage": stage(), "workers": 1},
    "bfloat16": {"stage": stage(), "precision": "bf16-mixed"},
    "every level": {
        "stage": stage(method={"kind": "every_level", "levels": [10, 40]}),
        "degradation": LEVELS,
        "network": lambda: build("hyperres", {"width": 4, "blocks": 1}),
    },
    "a level for each crop": {
        "stage": stage(),
        "degradation": LEVELS,
        "network": lambda: build("ffdnet", {"width": 4, "layers": 3}),
    },
    "alternating reuse": {
        "stage": stage(method={"kind": "alternate_reuse", "reuse": [[2, 1, 1, 1], [1, 1, 1, 1]]}),
        "network": lambda: build("dynet", DYNET | {"width": 4, "heads": [1, 1, 1, 1]}),
    },
    "running statistics": {"stage": stage(), "network": normalised},
    "running statistics of the best": {
        "stage": stage(keep="best"),
        "network": normalised,
        "validations": 9,
        "validate": lambda network: figure(-abs(int(network.model[3].num_batches_tracked) - 4)),
    },
    "random masks": {
        "stage": stage(),
        "network": lambda: build("masked", {"width": 6, "blocks": [2], "heads": [1], "image_size": 16}),
    },
}


@pytest.mark.parametrize("feature", FEATURES)
@settings(max_examples=4, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(stop_at=st.integers(1, 8))
def test_every_feature_survives_an_interruption(shards, tmp_path, feature, stop_at):
    """Whatever a recipe asks for, stopped at any step and started again it ends with the same bits and history."""
    folder, options = tmp_path / str(stop_at), {"validate": sharpness} | FEATURES[feature]
    whole, whole_history = run(shards, Checkpoint(folder, "whole"), **options)
    with pytest.raises(Interrupted):
        run(shards, Checkpoint(folder, "parts"), stop_at=stop_at, **options)
    parts, parts_history = run(shards, Checkpoint(folder, "parts"), **options)
    assert parts_history == whole_history
    assert all(torch.equal(parts[key], whole[key]) for key in whole)


def test_a_batch_in_parts_has_the_gradient_of_the_whole(shards, tmp_path):
    """Four crops at once or two by two end with the same weights, up to the order of the sums."""
    for parts in (1, 2):
        phases = (Phase(steps=3, patch=8, batch=4, accumulate=parts),)
        state, _ = run(shards, Checkpoint(tmp_path, f"{parts}"), stage=stage(phases))
        if parts == 1:
            whole = state
    for key in whole:
        torch.testing.assert_close(state[key], whole[key], rtol=1e-4, atol=1e-6)


def test_a_phase_moves_only_what_it_trains(shards, tmp_path):
    """With a phase that trains the first convolution alone, all others keep their bits."""
    torch.manual_seed(0)
    start = TinyNetwork().state_dict()
    end, _ = run(
        shards, Checkpoint(tmp_path, "c"), stage=stage((Phase(steps=4, patch=8, batch=2, train=("trained.intro.*",)),))
    )
    moved = {key for key in start if not torch.equal(start[key], end[key])}
    assert moved == {"trained.intro.weight", "trained.intro.bias"}


def test_the_best_validation_is_kept_and_patience_ends_the_stage(shards, tmp_path):
    """Validations of 1, 3, 2, 2 dB with a patience of two: the stage ends at the fourth with the second's weights."""
    weights, values = [], iter([1.0, 3.0, 2.0, 2.0])

    def validate(network):
        weights.append(network.trained.intro.weight.detach().clone())
        return figure(next(values))

    end, history = run(
        shards, Checkpoint(tmp_path, "c"), stage=stage(keep="best", patience=2), validate=validate, validations=9
    )
    assert [row["step"] for row in history] == [1, 2, 3, 4]
    assert torch.equal(end["trained.intro.weight"], weights[1])
    assert not torch.equal(weights[1], weights[3])


def test_the_best_validation_is_kept_with_its_running_statistics(shards, tmp_path):
    """The fourth of nine validations is the best: buffers as it saw them, and not those of the last step."""
    seen, options = [], FEATURES["running statistics of the best"]

    def validate(network):
        seen.append({name: value.clone() for name, value in network.named_buffers()})
        return options["validate"](network)

    end, history = run(shards, Checkpoint(tmp_path, "c"), **options | {"validate": validate})
    assert [row["psnr"] for row in history].index(0) == 3
    assert all(torch.equal(end[name], value) for name, value in seen[3].items())
    assert not torch.equal(end["model.3.running_var"], seen[-1]["model.3.running_var"])


def test_only_trainable_parameters_change(shards, tmp_path):
    """Frozen weights keep their bits, trained ones do not."""
    torch.manual_seed(0)
    start = TinyNetwork().state_dict()
    end, _ = run(shards, Checkpoint(tmp_path, "c"))
    assert torch.equal(start["frozen.weight"], end["frozen.weight"])
    assert not torch.equal(start["trained.intro.weight"], end["trained.intro.weight"])


def test_frozen_bases_restore_a_batch_once_and_build_no_graph(shards, tmp_path):
    """Under a trained head each base runs once for each part of a batch, without anything kept for a gradient."""
    base = {"architecture": "nafnet", "arguments": {"width": 4, "encoder_blocks": [1], "middle_blocks": 1}}
    base["arguments"]["decoder_blocks"] = [1]
    outputs = []

    def ensemble():
        network = build("ensemble", {"bases": [base, base], "head": {"width": 4, "blocks": 1}})
        network.bases.requires_grad_(False)
        for number, member in enumerate(network.bases):
            member.register_forward_hook(lambda _, inputs, output, n=number: outputs.append((n, output.grad_fn)))
        return network

    phases = (Phase(steps=3, patch=8, batch=4, accumulate=2),)
    run(shards, Checkpoint(tmp_path, "c"), stage=stage(phases), network=ensemble)
    assert outputs == [(0, None), (1, None)] * 6


def test_the_kept_weights_are_the_moving_average(shards, tmp_path):
    """The result equals an average computed here from the weights after every step."""
    weights, save = [], TrainingState.save

    def spy(state, to):
        weights.append(state.parameters["trained.intro.weight"].detach().clone())
        save(state, to)

    torch.manual_seed(0)
    expected = TinyNetwork().trained.intro.weight.detach().clone()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingState, "save", spy)
        torch.manual_seed(0)
        network = TinyNetwork()
        train(
            network,
            TrainingCrops(shards, seed=TRAINING.seed),
            stage=STAGE,
            training=TRAINING,
            checkpoint=Checkpoint(tmp_path, "c"),
            validate=lambda network: figure(1.0),
            report=lambda *_: None,
        )
    assert len(weights) == STAGE.steps
    for step, value in enumerate(weights, start=1):
        decay = min(STAGE.optimizer.ema, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    torch.testing.assert_close(network.trained.intro.weight.detach(), expected)


def test_training_lowers_the_loss(shards, tmp_path):
    """On six patches that it sees again and again the mean loss of the last third is below the first's."""
    stage = STAGE.model_copy(update={"phases": (Phase(steps=90, patch=16, batch=4),)})
    _, history = run(shards, Checkpoint(tmp_path, "c"), stage=stage)
    assert history[-1]["loss"] < 0.9 * history[0]["loss"]


def test_validation_sees_the_average_and_leaves_training_alone(shards, tmp_path):
    """Validation is handed the average, and training three times or once in between ends with the same bits."""
    seen = []
    many, _ = run(
        shards,
        Checkpoint(tmp_path, "a"),
        validate=lambda network: seen.append(network.trained.intro.weight.detach().clone()) or figure(0.0),
    )
    counted = []
    once, history = run(
        shards, Checkpoint(tmp_path, "b"), validate=lambda network: counted.append(1) or figure(0.0), validations=1
    )
    assert len(counted) == len(history) == 1
    assert len(seen) == 3
    assert torch.equal(seen[-1], many["trained.intro.weight"])
    assert not torch.equal(seen[0], seen[-1])
    assert torch.equal(once["trained.intro.weight"], many["trained.intro.weight"])


def test_a_loss_that_is_not_finite_stops_with_a_message(shards, tmp_path):
    """The message names the step, and the checkpoint before it is kept."""
    stage = STAGE.model_copy(update={"optimizer": OptimizerSettings(lr=3e37, min_lr=0, warmup=0)})
    with pytest.raises(TrainingDivergedError, match="at step"):
        run(shards, Checkpoint(tmp_path, "c"), stage=stage)
    step = Checkpoint(tmp_path, "c").load()[1]["step"]
    assert step >= 1
    (kept,) = tmp_path.glob("c-step*.safetensors")
    batch = load_file(kept)
    again = StepBatches(TrainingCrops(shards, seed=TRAINING.seed), stage.resolved(TRAINING))[step]
    assert torch.equal(batch["degraded"], again.degraded)
    assert torch.equal(batch["clean"], again.clean)


def test_a_gradient_that_is_not_finite_stops_before_the_weights_take_it(shards, tmp_path):
    """The root of zero: a finite loss, an infinite slope; the batch is kept, and no broken weights are saved."""

    class Rooted(nn.Module):
        def __init__(self):
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(()))

        def forward(self, image):
            return image + self.bias.sqrt()

    with pytest.raises(TrainingDivergedError, match="gradient is not, at step 0"):
        run(
            shards,
            Checkpoint(tmp_path, "c"),
            network=Rooted,
            stage=stage(optimizer=OptimizerSettings(lr=1e-2, clip=None)),
        )
    assert list(tmp_path.glob("c-step0-rank0.safetensors"))
    assert Checkpoint(tmp_path, "c").load() is None


def test_gradients_are_clipped_only_where_asked(shards, tmp_path):
    """The first moment of Adam holds the gradient: its norm is the limit, or what it was."""

    def moment(clip):
        settings = OptimizerSettings(kind="adam", lr=1e-3, clip=clip)
        checkpoint = Checkpoint(tmp_path, f"clip {clip}")
        run(shards, checkpoint, stage=stage((Phase(steps=1, patch=8, batch=2),), optimizer=settings))
        tensors, _ = checkpoint.load()
        return torch.cat([t.flatten() for name, t in sorted(tensors.items()) if name.startswith("exp_avg.")]) / 0.1

    free, clipped = moment(None), moment(1e-3)
    assert free.norm() > 1e-2
    torch.testing.assert_close(clipped, free * (1e-3 / free.norm()), rtol=1e-3, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_all_ranks_end_with_the_same_weights(shards, tmp_path, strategy):
    """Two processes that share each batch end with the same bits, which are the weights that one process reaches."""
    root = Path(__file__).parents[3]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    env = os.environ | {"PYTHONPATH": str(root), "GLOO_SOCKET_IFNAME": "lo"}
    arguments = [str(tmp_path), strategy]
    subprocess.run([*command, "-m", "tests.relume.training.ranks", *arguments], check=True, env=env, cwd=root)
    first, second = (load_file(tmp_path / f"rank{rank}.safetensors") for rank in (0, 1))
    assert all(torch.equal(first[key], second[key]) for key in first)
    rising = iter(range(9))
    alone, _ = run(shards, Checkpoint(tmp_path, "alone"), stage=SHARED, validate=lambda network: figure(next(rising)))
    for key in alone:
        torch.testing.assert_close(first[key], alone[key], rtol=1e-3, atol=1e-5)
    # What the ranks saved last, one process can resume: it has nothing left to do and ends with the same.
    again, _ = run(shards, Checkpoint(tmp_path, "ranks"), stage=SHARED)
    assert all(torch.equal(again[key], first[key]) for key in first)
