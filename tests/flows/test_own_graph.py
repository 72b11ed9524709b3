"""The graph of this repository."""

import subprocess
from pathlib import Path

import flows
from flows.graph import read_graph
from flows.lint import Code, check, code_deps

ROOT = Path(flows.__file__).parents[1]


def test_it_breaks_none_of_its_rules():
    """Each stage has a component, an image and resources, no path leads out, and its code deps are what it runs."""
    assert [str(problem) for problem in check(read_graph(ROOT))] == []


def test_no_lock_is_tracked():
    """A lock is of one machine's photographs and of code as it was; see docs/decisions/0007-lock-of-a-clone.md."""
    listed = subprocess.run(["git", "ls-files", "dvc.lock"], cwd=ROOT, check=True, capture_output=True, text=True)
    assert listed.stdout == ""


def test_a_family_concerns_the_stages_that_load_it():
    """An edit of NAFNet makes its own base and what is built of it stale, not the other base and not the data."""
    graph, code = read_graph(ROOT), Code(ROOT)
    stale = {name for name, stage in graph.stages.items() if "relume/models/nafnet.py" in code_deps(graph, stage, code)}
    assert "pretrain@nafnet" in stale
    assert {"mine_hard", "finetune_hard", "evaluate", "export"} <= stale
    assert not stale & {"ingest", "curate", "validate", "pretrain@restormer"}


def test_no_stage_runs_the_orchestration():
    """No stage depends on the flows or on the command line, so that editing them retrains nothing."""
    graph = read_graph(ROOT)
    assert not [
        dep for stage in graph.stages.values() for dep in stage.deps if dep.startswith(("flows/", "relume/cli"))
    ]
