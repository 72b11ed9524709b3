"""The exceptions that relume raises on purpose, one class for each kind of mistake or failure.

Every message says what happened, where, why, and what to do next. `exit_code` is what a command
ends with: 2 when the user can correct the input, 3 when a training diverged, which it would do again
with the same settings, 1 when something else failed that should have worked.
"""

from typing import Any


class RelumeError(Exception):
    """Base of every error that relume raises on purpose.

    Args:
        what: What happened, one sentence without a full stop.
        where: The file, stage, model or address it happened at.
        why: The cause, as far as it is known.
        next_step: The next command to type or thing to change.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: object = None, why: object = None, next_step: str | None = None):
        self.what, self.where, self.why, self.next_step = what, where, why, next_step
        super().__init__(self._message())

    def _message(self) -> str:
        lines = [self.what if self.where is None else f"{self.what}: {self.where}"]
        if self.why is not None:
            lines.append(f"  why:  {self.why}")
        if self.next_step is not None:
            lines.append(f"  next: {self.next_step}")
        return "\n".join(lines)


class UserError(RelumeError):
    """The user's input cannot be used and has to be corrected."""

    exit_code = 2


class ConfigError(UserError):
    """A setting is unknown, of the wrong type or out of range."""


class SourceError(UserError):
    """A source of photographs does not exist, cannot be reached or contains no image."""


class ImageError(UserError):
    """An image cannot be decoded or encoded.

    `reason` is a short stable name (`truncated`, `wrong_magic`, ...), used as the quarantine reason.
    """

    def __init__(self, what: str, *, reason: str, **details: Any):
        self.reason = reason
        super().__init__(what, **details)


class ModelMissingError(UserError):
    """No model exists yet where one is needed."""


class ModelFormatError(UserError):
    """A model artifact or checkpoint does not have what its architecture needs."""


class BackendUnavailableError(UserError):
    """A backend was chosen that this machine, or what is installed on it, does not have."""


class EngineError(RelumeError):
    """An engine of TensorRT cannot be built or used."""


class BrokenFileError(UserError):
    """A file that relume wrote is missing, cannot be read, or no longer holds what was written."""


class GraphError(UserError):
    """The pipeline graph in dvc.yaml breaks one of its rules."""


class StageFailedError(RelumeError):
    """A stage of the graph ended without a result.

    Args:
        exit_code: The stage's own when trying again would fail in the same way (see NOT_WORTH_RETRYING), else 1.
        **details: As for every error.
    """

    def __init__(self, what: str, *, exit_code: int = 1, **details: Any):
        self.exit_code = exit_code
        super().__init__(what, **details)


class DataValidationError(RelumeError):
    """The prepared data does not meet a critical expectation."""


class TrainingDivergedError(RelumeError):
    """The training loss is no longer finite."""

    exit_code = 3


class WorkerError(RelumeError):
    """A process that prepares the batches of a training hangs or died."""


class ParityError(RelumeError):
    """Two ways of running the same model disagree by more than the allowed error."""


class GateRefusedError(RelumeError):
    """The candidate did not pass the release gate."""


class ServerUnreachableError(RelumeError):
    """A server that is needed does not answer."""


class ServerRefusedError(RelumeError):
    """A server answered a request with an error."""


class ReleaseError(RelumeError):
    """A release or rollback could not be carried out."""


class ServiceError(RelumeError):
    """A background service could not be started or stopped."""


class StorageError(RelumeError):
    """The disk or its permissions refuse a file."""


class LedgerError(RelumeError):
    """A line of the promotion ledger was changed, removed or inserted."""


# Exit codes of what ends the same way when it is tried again.
NOT_WORTH_RETRYING = frozenset({UserError.exit_code, TrainingDivergedError.exit_code})
