"""The base networks against the outputs of their official implementations (tests/golden/README.md)."""

import pytest

from relume.models.registry import build

from . import golden

NETWORKS = {
    "nafnet": (
        "nafnet",
        {"width": 8, "encoder_blocks": [1, 1, 2], "middle_blocks": 2, "decoder_blocks": [1, 2, 1]},
    ),
    "restormer_biasfree": ("restormer", {"width": 16, "blocks": [1, 2, 1, 2], "refinement_blocks": 2}),
    "restormer_withbias": (
        "restormer",
        {"width": 16, "blocks": [1, 2, 1, 2], "refinement_blocks": 2, "bias_free_norm": False},
    ),
}
# The published configurations and their parameter counts, from the official classes.
PUBLISHED = [
    (
        "nafnet",
        {"width": 32, "encoder_blocks": [2, 2, 4, 8], "middle_blocks": 12, "decoder_blocks": [2] * 4},
        29_159_715,
    ),
    (
        "nafnet",
        {"width": 64, "encoder_blocks": [1, 1, 1, 28], "middle_blocks": 1, "decoder_blocks": [1] * 4},
        67_888_835,
    ),
    ("restormer", {}, 26_111_668),
    ("restormer", {"bias_free_norm": False}, 26_126_644),
    ("restormer", {"channels": 1}, 26_109_076),
]


@pytest.mark.parametrize("name", NETWORKS)
def test_state_dict_is_the_official_one(name):
    """Keys, their order and their shapes equal those of the official checkpoint."""
    meta, _ = golden.read(name)
    state = build(*NETWORKS[name]).state_dict()
    assert [(key, list(value.shape)) for key, value in state.items()] == [
        (entry[0], entry[1]) for entry in meta["state_dict"]
    ]


@pytest.mark.parametrize("name", NETWORKS)
def test_output_equals_the_official_one(name):
    """With the same weights and inputs the output differs by at most 2e-5 of its standard deviation."""
    meta, arrays = golden.read(name)
    network = build(*NETWORKS[name]).eval()
    golden.fill(network, meta)
    assert golden.relative_error(network, arrays) < 2e-5


@pytest.mark.parametrize(("architecture", "arguments", "count"), PUBLISHED)
def test_published_sizes_have_the_published_parameter_count(architecture, arguments, count):
    """A published configuration has exactly the official number of parameters."""
    assert sum(parameter.numel() for parameter in build(architecture, arguments).parameters()) == count
