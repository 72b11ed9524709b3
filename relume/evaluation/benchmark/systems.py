"""The systems that are compared: model artifacts, served models and baselines, behind one call."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from relume.errors import ConfigError, ModelFormatError, ModelMissingError
from relume.evaluation.baselines import block_matching, gaussian_blur, import_bm3d, non_local_means
from relume.evaluation.networks import ALONE, level_estimate, run_tiled, run_whole
from relume.inference.estimator import estimate_level
from relume.inference.level import AtLevel
from relume.inference.plan import Inference
from relume.metrics import to_8_bit
from relume.models.artifact import ModelCard, load_card, load_model
from relume.models.registry import inputs_of, scale_of
from relume.models.table import channels_of
from relume.serving.export import levels_of
from relume.serving.in_process import open_level_estimator
from relume.serving.levels import LevelRange, kind_of
from relume.serving.served_model import level_estimator_path, read_serving


@dataclass(frozen=True, kw_only=True)
class System:
    """Something that restores images.

    Attributes:
        name: In tables.
        run: From an image, float32 (H, W, C) in about [0, 1], and the level that it is given, None for systems that
            take none, to the result of the same shape, not clamped.
        channels: Each C that it takes: 1, 3 or both.
        level: What its level means: `sigma`, `quality` or `scale`; empty for a system that takes none.
        trained: The levels of an adjustable model; None where nothing is known.
        scale: How much larger it makes an image; `run` and `restore` give images so much larger.
    """

    name: str
    run: Callable[[np.ndarray, float | None], np.ndarray]
    channels: tuple[int, ...] = (3,)
    level: str = ""
    trained: LevelRange | None = None
    scale: int = 1

    def restore(self, image: np.ndarray, level: float | None) -> np.ndarray:
        """Restores an image, float32 (H, W, C), to the same shape or one larger by the scale.

        A gray image goes through a system for colour alone as three equal channels, of whose results the mean is
        taken.

        Raises:
            ConfigError: See `check_channels`.
            ModelFormatError: What comes back is not an image of the same size.
        """
        channels = image.shape[2]
        self.check_channels(channels)
        if channels in self.channels:
            return self.run(image, level)
        return self.run(np.repeat(image, 3, axis=2), level).mean(axis=2, keepdims=True)

    def check_scale(self, parameter: str, level: float | None) -> None:
        """Refuses a protocol whose small images are not enlarged by the system to their size.

        Args:
            parameter: What the protocol varies.
            level: Of it.

        Raises:
            ConfigError: The system enlarges, and the protocol shrinks by something else or not at all.
        """
        if self.scale > 1 and (parameter, level) != ("scale", self.scale):
            raise ConfigError(
                "A model that enlarges is measured on images that are as much smaller",
                where=self.name,
                why=f"it makes images {self.scale} times as large",
                next_step=f"choose --protocol sr:{self.scale}",
            )

    def check_channels(self, channels: int) -> None:
        """Refuses images of so many channels that cannot go through the system.

        Raises:
            ConfigError: A colour image cannot go through a gray system.
        """
        if channels == 3 and 3 not in self.channels:
            raise ConfigError(
                "A gray model cannot restore colour images",
                where=self.name,
                next_step="choose a gray set: set12 or classic5",
            )


def load_system(
    path: str | Path, *, inference: Inference | None = None, self_ensemble: bool = False, device: str = "cpu"
) -> System:
    """Loads a model from its folder.

    Args:
        path: A model artifact, a served model or a package; also the system's name.
        inference: The tiles that an artifact runs in; None for whole images. Served models bring their own.
        self_ensemble: Whether an artifact runs in the eight orientations.
        device: Where an artifact runs, as torch names it.

    Raises:
        ModelMissingError: The folder holds none of these.
        ModelFormatError: The model cannot be rebuilt, or needs other inputs than an image and a level.
        ConfigError: A served model cannot run as asked.
    """
    if inference is not None and self_ensemble:
        inference = inference.model_copy(update={"orientations": 8})
    folder = Path(path)
    if (folder / "model.json").is_file():
        return _artifact(folder, str(path), inference, self_ensemble=self_ensemble, device=device)
    served = next((place for place in (folder, folder / "serving") if (place / "serving.json").is_file()), None)
    if served is None:
        raise ModelMissingError(
            "The folder has no model",
            where=folder,
            why="it has neither model.json nor serving.json",
            next_step="name the folder of a model artifact, such as models/final, or of a served model",
        )
    if self_ensemble:
        raise ConfigError(
            "A served model restores as its own plan says",
            where=path,
            next_step="name the model artifact it was exported from, or leave --self-ensemble out",
        )
    return _served(served, str(path))


def _artifact(folder: Path, name: str, inference: Inference | None, *, self_ensemble: bool, device: str) -> System:
    card, network = load_card(folder), load_model(folder).to(device)
    inputs = inputs_of(network)
    if inputs not in (("image",), ("image", "level")):
        raise ModelFormatError(
            "The network needs other inputs than an image and a level",
            where=folder,
            why=f"it takes {', '.join(inputs)}",
            next_step="name a network that restores images",
        )
    adjustable, scale = "level" in inputs, scale_of(network)

    def run(image: np.ndarray, level: float | None) -> np.ndarray:
        runner = network if level is None else AtLevel(network, level).to(device)
        if inference is None:
            whole = ALONE.model_copy(update={"scale": scale})
            return run_whole(runner, image, whole.in_orientations(8 if self_ensemble else 1))
        return run_tiled(runner, image, inference)

    return System(
        name=name,
        run=run,
        channels=(channels_of(card.arguments),),
        level=kind_of(card.trained_for) if adjustable else "",
        trained=_levels_or_none(network, card) if adjustable else None,
        scale=scale,
    )


def _levels_or_none(network: torch.nn.Module, card: ModelCard) -> LevelRange | None:
    try:
        return levels_of(network, card)
    except ModelFormatError:  # an imported model may not say; it can still be given levels
        return None


def _served(folder: Path, name: str) -> System:
    from relume.serving.onnx_restorer import OnnxRestorer

    restorer = OnnxRestorer(folder)
    levels = restorer.serving.levels

    def run(image: np.ndarray, level: float | None) -> np.ndarray:
        return restorer.restore(to_8_bit(image), level=level).image.astype(np.float32) / np.float32(255)

    scale = restorer.serving.inference.scale
    return System(name=name, run=run, level=levels.kind if levels else "", trained=levels, scale=scale)


def baseline(name: str) -> System:
    """`blur`, `nlm` or `bm3d`, which are given a sigma and take 8-bit images, gray ones on their one channel.

    Raises:
        ConfigError: BM3D is not installed.
    """
    if name == "bm3d":
        import_bm3d()
    method = {"blur": gaussian_blur, "nlm": non_local_means, "bm3d": block_matching}[name]

    def run(image: np.ndarray, level: float | None) -> np.ndarray:
        assert level is not None
        return method(to_8_bit(image), level).astype(np.float32) / np.float32(255)

    return System(name=name, run=run, channels=(1, 3), level="sigma")


def load_estimator(path: str | Path, *, device: str = "cpu") -> Callable[[np.ndarray], float]:
    """A level estimator as a function from an image, float32 (H, W, C), to its level, at least 0.

    The function raises ConfigError where a gray estimator is given a colour image.

    Args:
        path: The artifact of one, or a served model or a package that has one.
        device: Where an artifact runs.

    Raises:
        ModelMissingError: There is no artifact.
        ModelFormatError: It is not a level estimator.
    """
    if not (Path(path) / "model.json").is_file() and (served := _served_estimator(Path(path))):
        return served
    card = load_card(path)
    if card.architecture != "level_estimator":
        raise ModelFormatError(
            "The model is not a level estimator",
            where=path,
            why=f"it is {card.architecture}",
            next_step="name the artifact of a level_estimator",
        )
    of_image, channels = level_estimate(load_model(path).to(device)), channels_of(card.arguments)

    def estimate(image: np.ndarray) -> float:
        if image.shape[2] > channels:
            raise ConfigError(
                "A gray estimator cannot be used on colour images",
                where=path,
                next_step="use one for colour, or choose a gray set",
            )
        return max(0.0, of_image(np.repeat(image, channels, axis=2) if image.shape[2] == 1 else image))

    return estimate


def _served_estimator(folder: Path) -> Callable[[np.ndarray], float] | None:
    place = next((each for each in (folder, folder / "serving") if (each / "serving.json").is_file()), None)
    if place is None or (plan := read_serving(place).inference).estimator is None:
        return None
    estimate = open_level_estimator(level_estimator_path(place))
    return lambda image: estimate_level(np.broadcast_to(image, (*image.shape[:2], 3)), estimate, dtype=plan.dtype)
