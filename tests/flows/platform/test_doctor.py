"""What `relume doctor` finds, and the exit code it ends with."""

import importlib.metadata
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest

from flows.platform import doctor
from flows.platform.doctor import Finding, examine, exit_code, render
from flows.prefect_settings import services_folder
from flows.processes import running_process, start_process
from tests.flows.toy import wait_until


@pytest.fixture
def home(tmp_path) -> Path:
    """An empty RELUME_HOME."""
    return tmp_path / "home"


def found(findings: list[Finding], name: str) -> Finding:
    """The finding of a name."""
    (finding,) = [finding for finding in findings if finding.name == name]
    return finding


def test_a_missing_triton_environment_is_required_and_named(tmp_path, home):
    """Without the embedded server's environment the exit code is 1 and the text holds the command that installs it."""
    findings = examine(Path(), home)
    assert not found(findings, "embedded Triton").ok
    assert exit_code(findings) == 1
    assert "next: sh infra/triton/install.sh" in render(findings)


def test_what_is_optional_does_not_fail(home):
    """With all that is required there, stopped services and a missing champion leave the exit code 0."""
    (home / "triton" / "env").mkdir(parents=True)
    (home / "triton" / "env" / "stamp").write_text("x")
    findings = examine(Path(), home)
    assert {finding.name for finding in findings if finding.required and not finding.ok} == set()
    assert exit_code(findings) == 0
    assert not found(findings, "mlflow").ok
    assert found(findings, "mlflow").fix == "relume up"
    assert found(findings, "champion").fix == "relume release"


def test_a_dead_service_fails(home):
    """A service that ended by itself makes the exit code 1, and the text holds the command that starts it."""
    (home / "triton" / "env").mkdir(parents=True)
    (home / "triton" / "env" / "stamp").write_text("x")
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    worker = start_process("worker", sleep, folder=services_folder(home), ready=lambda: True, timeout=5)
    assert exit_code(examine(Path(), home)) == 0
    os.killpg(worker.pid, signal.SIGKILL)
    wait_until(lambda: running_process(services_folder(home), "worker") is None)
    findings = examine(Path(), home)
    assert found(findings, "worker").detail == "dead"
    assert exit_code(findings) == 1
    assert "next: relume up" in render(findings)


def test_a_wrong_version_is_named(home, monkeypatch):
    """A package whose version is not the tested one is named with both versions."""
    real = importlib.metadata.version
    monkeypatch.setattr(doctor.importlib.metadata, "version", lambda name: "0.0.1" if name == "mlflow" else real(name))
    assert "mlflow 0.0.1 is installed instead of " in found(examine(Path(), home), "packages").detail


def test_outside_a_checkout(tmp_path, home):
    """In any other folder the doctor still answers, and says that the checkout is missing."""
    findings = examine(tmp_path, home)
    assert not found(findings, "checkout").ok
    assert exit_code(findings) == 1


def test_a_missing_program(home, monkeypatch):
    """A program that is not on the PATH is missing, with the command that installs it."""
    monkeypatch.setattr(shutil, "which", lambda *_args, **_kwargs: None)
    assert found(examine(Path(), home), "git").fix == "sudo apt-get install git"


def test_everything_missing_has_a_command(tmp_path, home):
    """Whatever is required and missing is followed by a command, except problems, which hold their own."""
    for finding in examine(tmp_path, home):
        assert finding.fix or not finding.required or finding.name == "problem"
