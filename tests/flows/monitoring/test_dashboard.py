"""The files for Prometheus and Grafana name metrics that exist."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from prometheus_client import generate_latest

from flows.gateway.metrics import Metrics
from relume.monitoring.statistics import NAMES

FOLDER = Path(__file__).parents[3] / "infra" / "monitoring"
# Of Triton 24.10, see its documentation of metrics; tests/real/triton/test_gateway.py asks the server for them.
OF_TRITON = {"nv_inference_queue_duration_us", "nv_inference_compute_infer_duration_us"}


def queries() -> list[str]:
    panels = json.loads((FOLDER / "dashboard.json").read_text())["panels"]
    alerts = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"][0]["rules"]
    return [target["expr"] for panel in panels for target in panel["targets"]] + [alert["expr"] for alert in alerts]


def test_every_metric_exists():
    """Those of the gateway are in what Prometheus reads of it, with the labels and values that are asked for."""
    metrics = Metrics()
    metrics.answers.labels(200)
    metrics.megapixels.labels("denoise-a")
    for part in ("decode", "restore", "encode"):
        metrics.seconds.labels(part)
    for name in NAMES:
        metrics.statistics.labels(name, "denoise-a")
    text = generate_latest(metrics.registry).decode()
    for query in queries():
        for name in re.findall(r"\b(?:relume|nv)_\w+", query):
            assert name in OF_TRITON or re.search(rf"^{name}\b", text, re.MULTILINE), name
        for label, value in re.findall(r'(\w+)="(\w+)"', query):
            assert label == "status" or f'{label}="{value}"' in text, query
        for labels in re.findall(r"by \(([^)]+)\)", query):
            assert all(f'{label.strip()}="' in text or label.strip() == "model" for label in labels.split(",")), query


@pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool, of Debian's package prometheus, is not installed"
)
def test_prometheus_takes_the_alerts_and_queries(tmp_path):
    """Its own tool parses them all, and its configuration."""
    subprocess.run(["promtool", "check", "rules", FOLDER / "alerts.yml"], check=True, capture_output=True)
    configuration = ["promtool", "check", "config", "--syntax-only", FOLDER / "prometheus.yml"]
    subprocess.run(configuration, check=True, capture_output=True)
    rules = [
        {"record": f"query:{number}", "expr": query.replace("$__rate_interval", "5m")}
        for number, query in enumerate(queries())
    ]
    path = tmp_path / "queries.yml"
    path.write_text(json.dumps({"groups": [{"name": "queries", "rules": rules}]}))
    subprocess.run(["promtool", "check", "rules", path], check=True, capture_output=True)
