"""How a component ends."""

import signal
import subprocess
import sys

import pytest

from components.step import run_component


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_end_a_step_in_order(number):
    """Ctrl-C, SIGTERM and the end of the terminal run what a step has to do at its end; `nohup` still works."""
    code = (
        "import time\nfrom components.step import run_component\n"
        "def main():\n try:\n  print('works', flush=True); time.sleep(60)\n finally:\n  print('ended', flush=True)\n"
        "run_component(main)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as step:
        assert step.stdout.readline() == "works\n"
        step.send_signal(number)
        out, errors = step.communicate(timeout=30)
    assert (step.returncode, out) == (130, "ended\n")
    assert errors == "Interrupted. Run the same command again to resume.\n"


def test_an_ignored_end_of_the_terminal_stays_ignored():
    """Under `nohup`, SIGHUP ends nothing and SIGTERM still does."""
    code = (
        "import time\nfrom components.step import run_component\n"
        "def main(): print('works', flush=True); time.sleep(60)\nrun_component(main)"
    )
    command = ["nohup", sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as step:
        assert step.stdout.readline() == "works\n"
        step.send_signal(signal.SIGHUP)
        with pytest.raises(subprocess.TimeoutExpired):
            step.wait(timeout=0.5)
        step.send_signal(signal.SIGTERM)
        step.communicate(timeout=30)
    assert step.returncode == 130


def test_ctrl_c_ends_with_one_sentence(capsys, monkeypatch):
    monkeypatch.setattr("components.step._end_with_driver", lambda: None)

    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as end:
        run_component(interrupted)

    assert end.value.code == 130
    assert capsys.readouterr().err == "Interrupted. Run the same command again to resume.\n"
