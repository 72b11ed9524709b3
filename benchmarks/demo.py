"""Seconds for each stage of the demo, from its recording.

make recording
python benchmarks/demo.py --results benchmarks/results/demo.json
"""

import argparse
import datetime
import os
import re
from pathlib import Path

from relume.files import write_json
from relume.serving.backends import processor

DONE = re.compile(r"^  (\S+) +done +([\d.]+) s$", re.M)
TOOK = re.compile(r"^Took +([\d.]+) minutes", re.M)


def main() -> None:
    """Reads the recording, prints the table, writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recording", type=Path, default=Path("docs/demo.txt"))
    parser.add_argument("--results", type=Path)
    arguments = parser.parse_args()
    text = arguments.recording.read_text()
    seconds = {stage: float(value) for stage, value in DONE.findall(text)}
    for stage, value in seconds.items():
        print(f"{stage:<20} {value:7.1f} s")
    whole = TOOK.search(text)
    minutes = float(whole[1]) if whole else None
    print(f"{'whole demo':<20} {minutes} minutes, set-up and downloads not included")
    if arguments.results:
        facts = {
            "date": datetime.date.fromtimestamp(arguments.recording.stat().st_mtime).isoformat(),
            "processor": processor(),
            "cores": os.cpu_count(),
            "stage_seconds": seconds,
            "whole_minutes": minutes,
        }
        write_json(arguments.results, facts)


if __name__ == "__main__":
    main()
