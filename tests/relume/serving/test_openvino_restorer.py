"""OpenVINO in this process."""

import subprocess
import sys

from tests.tiny_onnx import write_tiny_model

RESTORE_AND_SIGNAL = """
import faulthandler, gc, os, signal, sys
faulthandler.enable()  # as pytest does; Python's handlers run on the stack that it asks for
from relume.serving.openvino_restorer import OpenVinoRestorer, fastest_precision
fastest_precision()
first, second = OpenVinoRestorer(sys.argv[1]), OpenVinoRestorer(sys.argv[1])
del first
gc.collect()
del second
gc.collect()
signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
os.kill(os.getpid(), signal.SIGUSR1)
print("survived")
"""


def test_signals_are_handled_after_restorers_are_gone(tmp_path):
    """With a core for each restorer, the second to go left the thread a stack that is free: a segmentation fault."""
    write_tiny_model(tmp_path)
    command = [sys.executable, "-c", RESTORE_AND_SIGNAL, str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout.split()) == (0, ["handled", "survived"]), ended.stderr
