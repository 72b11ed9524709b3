"""The run in MLflow that the flow opens for its stages."""

from flows.graph import Store
from flows.pipeline_flow import _tracked
from flows.runners import Run
from flows.terminal import RunPrinter


def test_a_broken_store_does_not_end_a_pipeline_run(tmp_path, monkeypatch):
    """With a file that is no database the run is warned of and not tracked, and gives its stages no parent."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for file in ("mlflow/mlflow.db", "components/tracking.py"):
        (tmp_path / file).parent.mkdir()
        (tmp_path / file).write_bytes(b"no database" * 100)
    run = Run(name="r1", root=tmp_path, commit="c" * 40, store=Store(cache=tmp_path, remote=None), home=tmp_path)
    lines: list[str] = []
    with _tracked(run, RunPrinter(["first"], lines.append), {}) as environment:
        assert environment == {}
    (line,) = lines
    assert line.startswith("warning: this pipeline run is not tracked in MLflow: ")
    assert "file is not a database" in line
