"""The lock test on the real graph: `dvc repro` and the flow, separate caches, training included."""

import pytest

from tests.flows.tiny import make_tiny


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_dvc_repro_and_the_flow_leave_equal_locks(tmp_path, monkeypatch):
    """The real stages at a tiny scale give the same dvc.lock, byte for byte, on both ways from empty caches."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    by_dvc = make_tiny(tmp_path / "by-dvc", tmp_path / "by-dvc-home")
    by_flow = make_tiny(tmp_path / "by-flow", tmp_path / "by-flow-home")
    repro = by_dvc.shell("dvc", "repro", check=False)
    assert repro.returncode == 0, repro.stdout + repro.stderr
    result, out, _ = by_flow.run(seconds=1200)
    assert {row["outcome"] for row in result["stages"]} == {"ran"}, out
    lock = (by_flow.root / "dvc.lock").read_bytes()
    assert lock == (by_dvc.root / "dvc.lock").read_bytes()
    for stage in ("ingest", "pretrain@nafnet", "pretrain@restormer", "finetune_hard", "package"):
        assert f"\n  {stage}:\n".encode() in lock
    assert "up to date" in by_flow.shell("dvc", "status").stdout
