"""A training stage as one process or as several ranks of this machine, started by torchrun."""

import functools
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from relume.errors import RelumeError, StageFailedError
from relume.files import write_json
from relume.params_file import load_section
from relume.reading import read_json
from relume.training.config import TrainingSettings

RANK_ERRORS = "RELUME_RANK_ERRORS"  # the folder in which ranks leave their errors for the process that started them


def prepared_processes(main: Callable[[], None]) -> Callable[[], None]:
    """Lets a training stage run as `training.processes` ranks of this machine, started by torchrun.

    On many machines torchrun is started by hand on each, `torchrun ... -m components.pretrain --base NAME`; a
    component that finds itself in its process group joins it.

    Args:
        main: The component's.

    Returns:
        What `run_component` is given. An error of a rank is raised here, once and with its exit code; a rank that ended
        without one, killed or by a defect, as a StageFailedError.
    """

    @functools.wraps(main)
    def start() -> None:
        processes = load_section("training", TrainingSettings).processes
        if RANK_ERRORS in os.environ:
            _report_errors(main, Path(os.environ[RANK_ERRORS]))
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
            reported = sorted(Path(folder).glob("rank*.json"), key=lambda file: file.stat().st_mtime_ns)
            if reported:  # the first one: it may have made the others fail
                facts = read_json(reported[0])
                error = StageFailedError(**facts["message"])
                error.exit_code = facts["exit_code"]
                raise error from None
            rank, failure = failed.get_first_failure()
            raise StageFailedError(
                f"One of the {processes} training processes ended early",
                where=module,
                why=f"rank {rank} ended with exit code {failure.exitcode} {failure.signal_name()}",
                next_step="run the same command again: it is resumed from its checkpoint, with any number of processes",
            ) from None


def _report_errors(main: Callable[[], None], folder: Path) -> None:
    """Runs the component as a rank. torchrun ends with 1 whatever a rank ends with, so an error goes by a file."""
    try:
        main()
    except RelumeError as error:
        message = {"what": error.what, "where": error.where, "why": error.why, "next_step": error.next_step}
        facts = {"message": {key: value and str(value) for key, value in message.items()}, "exit_code": error.exit_code}
        write_json(folder / f"rank{os.environ['RANK']}.json", facts)
        sys.exit(error.exit_code)


def is_first_rank() -> bool:
    """Whether this process is the one that reports and writes: the only one, or rank 0."""
    return os.environ.get("RANK", "0") == "0"
