"""What every component shares: one error format, and an end with its driver."""

import os
import sys
import threading
import time
from collections.abc import Callable

import psutil

from relume.errors import RelumeError
from relume.files import as_relume_error
from relume.interrupts import end_like_ctrl_c


def run_component(main: Callable[[], None]) -> None:
    """Runs a stage's `main` and ends: 0, an error's exit code (see `relume.errors`), 130 after Ctrl-C, 1 for a defect.

    A RelumeError, and what the disk refused, is printed as one message without a traceback; anything else keeps its
    traceback, because it is a defect and the traceback is needed to fix it.
    """
    _end_with_driver()
    end_like_ctrl_c()
    try:
        main()
    except (RelumeError, OSError) as caught:
        if (error := as_relume_error(caught)) is None:
            raise
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("Interrupted. Run the same command again to resume.", file=sys.stderr, flush=True)
        sys.exit(130)


def _end_with_driver() -> None:
    """Ends this process soon after `dvc` or the flow that started it died.

    `kill -9` of dvc leaves the stage's shell and this process running; they would keep writing
    outs and hold the training lock while the stage is started again.
    """
    watched = []
    if driver := os.environ.get("RELUME_DRIVER_PID"):
        watched.append(int(driver))
    if "DVC_STAGE" in os.environ:
        watched += [process.pid for process in psutil.Process().parents()[:2]]
    alive = []
    for pid in watched:
        try:
            alive.append(psutil.Process(pid))
        except psutil.NoSuchProcess:
            os._exit(1)

    def watch() -> None:
        while all(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in alive):
            time.sleep(0.5)
        print(
            "error: the process that started this stage has ended, so the stage ends too", file=sys.stderr, flush=True
        )
        os._exit(1)

    if alive:
        threading.Thread(target=watch, name="end-with-driver", daemon=True).start()
