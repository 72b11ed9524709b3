"""What cannot be trained is refused with the reason, by the loop and by the check of recipes alike."""

import os
import re
import time

import pytest

from relume.degradations import Degradation
from relume.errors import ConfigError, WorkerError
from relume.models.registry import build
from relume.training.augmentation import Augmentation
from relume.training.checkpoint import Checkpoint
from relume.training.config import (
    OptimizerSettings,
    Phase,
    Schedule,
)
from relume.training.rules import pair_problems, problems, workers_problem
from tests.abuse.rows import limited
from tests.relume.training.tiny import (
    LEVELS,
    SHARED,
    STAGE,
    TRAINING,
    TinyNetwork,
    run,
    stage,
)


def found(stage, training=TRAINING, network=None, *, ranks=1):
    """The problems of a training, each as its message."""
    resolved = stage.resolved(training)
    return [str(error) for error in problems(resolved, network or TinyNetwork(), ranks=ranks, side=16)]


def test_a_sound_training_has_no_problem():
    """The tiny trainings of these tests, alone and on two ranks."""
    assert found(STAGE) == []
    assert found(SHARED, ranks=2) == []


def test_workers_need_shared_memory():
    """Ten batches of crops and clean crops fit into what is free or are refused; too many workers start none."""
    resolved = stage((Phase(steps=9, patch=16, batch=2),)).resolved(TRAINING)
    needed = 2 * 5 * 2 * (2 * 3 * 16 * 16 * 4)  # workers, batches of each, degraded and clean, float32
    assert workers_problem(resolved, workers=2, ahead=4, free=needed) is None
    problem = workers_problem(resolved, workers=2, ahead=4, free=needed - 1)
    assert "training.workers: 2" in str(problem)
    assert "docker run --shm-size" in str(problem)


class Stuck:
    """Patches of which the later ones are never read, or end their process."""

    def __init__(self, patches, ending):
        self.patches, self.side, self.pairs = patches, patches.side, patches.pairs
        self.ending, self.reads = ending, 0

    def __len__(self):
        return len(self.patches)

    def read(self, indices):
        self.reads += 1
        if self.reads > 2:
            time.sleep(2)  # in which the batches before it are sent
            self.ending()
        return self.patches.read(indices)


@pytest.mark.parametrize("ending", [lambda: time.sleep(3600), lambda: os._exit(1)], ids=["hangs", "dies"])
def test_a_worker_that_hangs_or_dies_during_the_training_ends_it(shards, tmp_path, monkeypatch, ending):
    """Some seconds later, with the setting's name; the steps before it are in the checkpoint."""
    monkeypatch.setattr("relume.training.loop.WORKER_SECONDS", 3.0)
    with limited(60), pytest.raises(WorkerError, match=r"training\.workers: 1"):
        run(Stuck(shards, ending), Checkpoint(tmp_path, "k"), workers=1)
    _, facts = Checkpoint(tmp_path, "k").load()
    assert facts["step"] == 2


def test_a_training_does_not_start_workers_that_would_wait_for_ever(shards, tmp_path):
    """The loop refuses before the first worker process is made."""
    with pytest.raises(ConfigError, match=r"shared memory: training\.workers: 1000000000"):
        run(shards, Checkpoint(tmp_path, "k"), workers=10**9)


@pytest.mark.parametrize(
    ("phase", "options", "said"),
    [
        ({"patch": 9}, {}, r"phases\[1\]\.patch: 9[\s\S]*not a multiple of 2"),
        ({"patch": 18}, {}, r"phases\[1\]\.patch: 18[\s\S]*curate\.patch is 16"),
        ({"train": ("trained.*", "tuning.*")}, {}, r"phases\[1\]\.train: 'tuning\.\*'"),
        ({"schedule": Schedule(lr=1, warmup=3)}, {}, r"phases\[1\]\.schedule\.warmup: 3[\s\S]*3 steps"),
        ({}, {"optimizer": OptimizerSettings(lr=1, warmup=6)}, r"optimizer\.warmup: 6[\s\S]*6 steps"),
        (
            {},
            {"optimizer": OptimizerSettings(lr=1, shape="steps", milestones=(2, 6))},
            r"optimizer\.milestones: \[2, 6\][\s\S]*6 steps",
        ),
        (
            {},
            {"optimizer": OptimizerSettings(lr=1, warmup=1, shape="restarts", periods=(5, 9))},
            r"optimizer\.periods: \[5, 9\][\s\S]*6 steps",
        ),
        (
            {},
            {"method": {"kind": "alternate_reuse", "reuse": [[1, 1, 1, 1], [2, 2, 2, 2]]}},
            "alternate_reuse needs a network whose blocks are reused",
        ),
    ],
)
def test_what_does_not_fit_is_one_problem(shards, tmp_path, phase, options, said):
    """The message names the key, counted from 0 as the list is, with its value and the reason; the loop raises it."""
    size = {"steps": 3, "patch": 8, "batch": 2}
    wrong = stage((Phase(**size), Phase(**size | phase)), **options)
    (message,) = found(wrong)
    assert re.search(said, message)
    with pytest.raises(ConfigError) as caught:
        run(shards, Checkpoint(tmp_path, "c"), stage=wrong)
    assert str(caught.value) == message


def test_all_problems_are_listed():
    """A check that lists them names all at once, in the order of the phases."""
    wrong = stage((Phase(steps=3, patch=9, batch=3, train=("tuning.*",)), Phase(steps=3, patch=17, batch=2)))
    assert [text.partition(": ")[2].partition(":")[0] for text in found(wrong, ranks=2)] == [
        "phases[0].patch",
        "phases[0].batch",
        "phases[0].train",
        "phases[1].patch",
        "phases[1].patch",
    ]


def test_every_pattern_must_train_something(shards, tmp_path):
    """A pattern without a trainable parameter is a mistake, also beside one that has some; frozen ones do not count."""
    for patterns in (("tuning.*",), ("trained.*", "tuning.*"), ("frozen.*",)):
        phases = (Phase(steps=4, patch=8, batch=2, train=patterns),)
        with pytest.raises(ConfigError, match=patterns[-1].partition(".")[0]):
            run(shards, Checkpoint(tmp_path, "c"), stage=stage(phases))


def test_a_batch_that_ranks_cannot_share_is_refused():
    """Three crops over two ranks: the message names the numbers."""
    (message,) = found(stage((Phase(steps=3, patch=8, batch=3),)), ranks=2)
    assert re.search(r"batch: 3[\s\S]*2 processes", message)


def test_network_and_degradation_must_agree_on_the_level():
    """An adjustable network without a level, a blind one with, and all levels at once in a plain one are refused."""
    adjustable = build("ffdnet", {"width": 4, "layers": 3})
    given = TRAINING.model_copy(update={"degradation": LEVELS})
    (message,) = found(stage(), network=adjustable)
    assert "must be given a level" in message
    (message,) = found(stage(), given)
    assert "takes no level" in message
    every = stage(method={"kind": "every_level", "levels": [10, 40]})
    (message,) = found(every, given, adjustable)
    assert "several levels at once" in message


def test_network_and_degradation_must_agree_on_the_conditions():
    """A network of two conditions takes two, one of a level none; the message names them."""
    steps = [{"kind": "gaussian_blur", "sigma_x": [0.5, 4]}, {"kind": "gaussian_noise", "sigma": [0, 50]}]
    both = {"steps": steps, "level": "sigma", "conditions": ["blur", "sigma"]}
    given = TRAINING.model_copy(update={"degradation": Degradation.model_validate(both)})
    of_two, of_three = (build("cresmd", {"width": 4, "blocks": 1, "norms": n}) for n in ([40, 50], [40, 50, 92]))
    assert found(stage(), given, of_two) == []
    (message,) = found(stage(), given, of_three)
    assert re.search(r"conditions: blur, sigma[\s\S]*takes 3 conditions", message)
    (message,) = found(stage(), given, build("ffdnet", {"width": 4, "layers": 3}))
    assert "takes one level and no conditions" in message


def test_a_level_estimator_is_trained_on_levels():
    """By its own method alone, with a degradation that names the level."""
    network, given = build("level_estimator", {"width": 4}), TRAINING.model_copy(update={"degradation": LEVELS})
    estimating = stage(method={"kind": "estimate_level"})
    assert found(estimating, given, network) == []
    (message,) = found(estimating, network=network)
    assert "estimates levels and must be given a level" in message
    (message,) = found(estimating, given)
    assert "estimate_level needs a level_estimator" in message
    (message,) = found(stage(), network=network)
    assert "it estimates their level" in message


def test_a_mixture_of_degradations_whose_level_is_given_is_refused():
    """Wherever mixup and level are named: both for all phases, or one of them in a phase of its own."""
    adjustable = build("ffdnet", {"width": 4, "layers": 3})
    mixing, given = {"augmentation": Augmentation(mixup=0.5)}, {"degradation": LEVELS}
    size = {"steps": 3, "patch": 8, "batch": 2}
    for everywhere, own in ((mixing | given, {}), (mixing, given), (given, mixing), ({}, mixing | given)):
        training = TRAINING.model_copy(update=everywhere)
        (message,) = found(stage((Phase(**size, **own),)), training, adjustable)
        assert re.search(r"has no level[\s\S]*phases\[0\], mixup: 0.5, level: sigma", message)
    assert found(stage((Phase(**size),)), TRAINING.model_copy(update=given), adjustable) == []


SHRINKING = Degradation.model_validate({"steps": [{"kind": "shrink", "scale": 2}]})


class Enlarging(TinyNetwork):
    """Says that it makes images twice as large."""

    upscale = 2


def test_a_network_enlarges_as_much_as_its_training_shrinks():
    """One that keeps the size, one that is not given small images, and crops that are no multiple of both."""
    small = TRAINING.model_copy(update={"degradation": SHRINKING})
    assert found(stage(), small, Enlarging()) == []
    for training, network, scales in ((small, None, (1, 2)), (TRAINING, Enlarging(), (2, 1))):
        (problem,) = found(stage(), training, network)
        assert "phases[0].degradation" in problem
        assert f"{scales[0]} times as large, the degradation {scales[1]} times as small" in problem
    (problem,) = found(stage((Phase(steps=9, patch=9, batch=2),)), small, Enlarging())
    assert "patch 9 is not a multiple of" in problem


def test_a_network_that_enlarges_is_not_trained_on_pairs():
    """Both images of a pair have the same size."""
    (problem,) = pair_problems(Enlarging(), where="phases[0].data")
    assert "same size" in str(problem)
    assert not list(pair_problems(TinyNetwork(), where="phases[0].data"))
