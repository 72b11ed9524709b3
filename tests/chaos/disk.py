"""A run on a disk that fails: python -m tests.chaos.disk ROOT HOME API FOLDER SEED, where this process may mount.

Prints what is wrong afterwards, as JSON.
"""

import json
import random
import sys
import time
from pathlib import Path

from tests.abuse.disks import Disk
from tests.chaos.runs import SECONDS, after_a_rerun, slow
from tests.chaos.world import STAGES
from tests.flows.toy import Toy, copy_toy


def main(root: str, home: str, api: str, folder: str, seed: str) -> None:
    """Copies the toy to a disk, runs it, makes the disk fail meanwhile, and runs it once more."""
    dice, state = random.Random(seed), json.loads((Path(folder) / "state.json").read_text())
    disk = Disk(Path(folder) / "disk", mounted=True)
    toy = copy_toy(Toy(Path(root), Path(home), PREFECT_API_URL=api), disk.path / "place")
    if dice.random() < 0.3:
        del toy.variables["PREFECT_API_URL"]  # its own server, whose database is on the disk
    slow(toy, dice)
    process = toy.start(STAGES[-1])
    while process.poll() is None and not [*toy.home.glob(dice.choice(["active/*", "runs/*/", "runs/*/*/clone"]))]:
        time.sleep(0.02)
    time.sleep(dice.uniform(0, 4))
    if dice.random() < 0.3:
        disk.make_read_only()
    else:
        disk.fill(dice.choice([0, 0, 8192, 65536]))
    try:
        process.communicate(timeout=SECONDS)
    finally:
        process.kill()
        disk.mend()
    print(json.dumps(list(after_a_rerun(state, toy))))


if __name__ == "__main__":
    main(*sys.argv[1:])
