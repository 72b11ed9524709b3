"""A training stage as one process or as several ranks of one or several machines, started by torchrun."""

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

    With several machines the component is started on each with torchrun's own variables, `PET_NNODES`,
    `PET_NODE_RANK`, `PET_MASTER_ADDR` and `PET_MASTER_PORT`; the first one listens at that address alone. A component
    that finds itself in a process group of torchrun joins it.

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
        elif "RANK" in os.environ or (processes == 1 and "PET_NNODES" not in os.environ):
            main()
        else:
            _start_ranks(processes)

    return start


def _start_ranks(processes: int) -> None:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    from components.training_stage.rendezvous import BACKEND, interface_towards

    module = sys.modules["__main__"].__spec__.name.removesuffix(".__main__")  # type: ignore[union-attr]
    arguments = parse_args([f"--nproc-per-node={processes}", "-m", module, *sys.argv[1:]])
    arguments.rdzv_backend, arguments.rdzv_conf = BACKEND, f"rank={arguments.node_rank}"
    # Without an address it is loopback, and without a port any that is free: both are for one machine.
    arguments.rdzv_endpoint = f"{arguments.master_addr}:{arguments.master_port or 0}"
    interface = interface_towards(arguments.master_addr)
    for name, value in {
        "GLOO_SOCKET_IFNAME": interface,
        "NCCL_SOCKET_IFNAME": interface,
        "OMP_NUM_THREADS": "1",
    }.items():
        os.environ.setdefault(name, value)
    with tempfile.TemporaryDirectory(prefix="relume-ranks-") as folder:
        os.environ[RANK_ERRORS] = folder
        try:
            run(arguments)
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
