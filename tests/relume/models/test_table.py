"""What is told of the models: lists, sheets, costs and the table of the documentation."""

from pathlib import Path

import pytest
import torch

import relume
from relume.errors import ConfigError
from relume.models import table
from relume.models.registry import Variant, variants


@pytest.mark.parametrize(
    ("name", "gmacs"),
    [
        ("nafnet-sidd-width32", 16.05),
        ("nafnet-gopro-width32", 15.96),
        ("hyperres-16", 24.9),
        ("adafm-basic", 24.9),
        ("cresmd-2d", 43.6),
    ],
)
def test_costs_are_those_measured_on_the_official_classes(name, gmacs):
    """Multiply-accumulates at 256 x 256 equal those counted on the official classes, to the digits known."""
    assert table.multiply_accumulates(variants()[name]) / 1e9 == pytest.approx(gmacs, abs=0.05)


def test_cost_of_a_chain_by_hand():
    """The count of a plain chain is its kernels' sizes times the pixels."""
    variant = Variant(architecture="dncnn", arguments={"width": 5, "layers": 3, "channels": 1}, about="")
    assert table.multiply_accumulates(variant, size=32) == 9 * (5 + 25 + 5) * 32 * 32


def test_list_counts_what_is_built():
    """Every named model is listed once with the parameters that its network has."""
    entries = {entry.name: entry for entry in table.list_models()}
    assert entries.keys() == variants().keys()
    for name in ("dncnn-demo", "hyperres-2", "drunet-demo"):
        variant = variants()[name]
        assert entries[name].parameters == sum(p.numel() for p in table.on_meta(variant).parameters())


def test_published_figures_belong_to_models():
    """Every published figure stands at the name of a model."""
    assert table.PUBLISHED.keys() <= variants().keys()


def test_sheet_tells_inputs_and_source():
    """A sheet names the level among the inputs of an adjustable model, its source, arguments and cost."""
    text = table.render_sheet(table.show_model("hyperres-demo"))
    assert "image, level" in text
    assert "arXiv 2206.05970" in text
    assert "blocks=2" in text
    assert table.show_model("dncnn-demo").inputs == ("image",)
    with pytest.raises(ConfigError, match="relume models list"):
        table.show_model("dncn")


@pytest.mark.parametrize("name", ["dni-demo", "level-estimator-demo", "ffdnet-demo", "dncnn-gray"])
def test_example_inputs_fit_every_kind_of_model(name):
    """The example of a gray, an adjustable, a nested or a measuring model is one that it takes."""
    variant = variants()[name]
    network = table.on_meta(variant)
    with torch.no_grad():
        network(*table.example_inputs(variant, network, 32, "meta"))


def test_table_shows_figures_and_reasons(monkeypatch):
    """A time stands in its column with thousands apart, a reason for a missing one as a note below the table."""
    few = {name: variants()[name] for name in ("dncnn-demo", "drunet-demo")}
    monkeypatch.setattr(table, "variants", lambda: few)
    text = table.render_table(
        {
            "models": {
                "dncnn-demo": {
                    "date": "2026-01-02",
                    "on": "a processor, torch 2",
                    "tile": 256,
                    "eager": 1234.4,
                    "onnxruntime": 99.6,
                    "openvino": "OpenVINO is not installed",
                },
                "drunet-demo": {
                    "date": "2026-03-04",
                    "on": "another one",
                    "difference": {"onnxruntime": 2e-6},
                    "eager": 5.0,
                    "openvino": "OpenVINO is not installed",
                },
            },
        }
    )
    lines = text.splitlines()
    assert "Measured 2026-01-02 on a processor, torch 2." in lines
    assert "Not there, but 2026-03-04 on another one: drunet-demo." in lines
    (dncnn,) = (line for line in lines if line.startswith("| dncnn-demo"))
    assert [cell.strip() for cell in dncnn.split("|")[4:8]] == ["256", "1,234", "100", "[1]"]
    (drunet,) = (line for line in lines if line.startswith("| drunet-demo"))
    assert [cell.strip() for cell in drunet.split("|")[4:8]] == ["", "5", "", "[1]"]
    assert "ONNX Runtime's outputs are at most 2.0e-06 of their standard deviation from PyTorch's." in lines
    assert not any(line.startswith("OpenVINO's outputs") for line in lines)
    assert lines.count("1. OpenVINO is not installed") == 1
    assert {line.count("|") for line in lines if line.startswith("|")} == {9}


def test_every_named_model_has_its_row():
    """docs/models.md lists them all: `python benchmarks/model_table.py --help` says how a row is made."""
    page = (Path(relume.__file__).parents[1] / "docs" / "models.md").read_text()
    assert [name for name in variants() if f"\n| {name} | " not in page] == []
