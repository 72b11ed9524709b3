"""How much memory a model takes: a process of its own restores one tile by it, in process, and says its peak.

Run as a program it restores and prints the bytes; the folder of the served model is its argument.
"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from relume.errors import ReleaseError


def peak_memory(served: Sequence[Path]) -> list[float]:
    """The peak memory in MB of a process that restores one tile by ONNX Runtime, Python and all libraries included.

    Args:
        served: Folders of served models; their processes run at the same time.

    Raises:
        ReleaseError: One of them ended without a result.
    """
    command = [sys.executable, "-m", __name__]
    started = [
        subprocess.Popen([*command, str(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for folder in served
    ]
    found = []
    for folder, process in zip(served, started, strict=True):
        output, errors = process.communicate()
        if process.returncode:
            raise ReleaseError(
                "The memory that a model takes could not be measured",
                where=folder,
                why=errors.strip().rpartition("\n")[2] or f"the process ended with {process.returncode}",
                next_step="free some memory, then run `relume release` again",
            )
        found.append(int(output) / 1e6)
    return found


def _main(folder: Path) -> None:
    import numpy as np

    from relume.serving.onnx_restorer import OnnxRestorer

    restorer = OnnxRestorer(folder)
    side = max(restorer.serving.inference.tiles)
    restorer.restore(np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8))
    # Not resource.getrusage, which counts what the process before the exec had, too.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    print(next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:")))


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
