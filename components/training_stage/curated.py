"""The curated data: on this machine, or its copy on S3."""

from pathlib import Path

from relume.files import sha256_folder
from relume.home import relume_home
from relume.training.config import TrainingSettings
from relume.training.patches import Patches, PatchShards
from relume.training.streaming import open_streamed

CURATED = Path("data/curated")


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
            print("note: training waits for patches from S3; set training.workers above 0 to read ahead", flush=True)

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
