"""PromptIR against the official outputs and a plain reading of its prompts."""

import pytest
import torch
import torch.nn.functional as F

from relume.models.promptir import UNUSED, VARIANTS, PromptGeneration, PromptIR
from relume.models.registry import build

from . import contract, golden

TINY = {
    "width": 8,
    "blocks": [1, 1, 1, 1],
    "refinement_blocks": 1,
    "heads": [1, 2, 2, 2],
    "prompt_channels": [4, 6, 10],
    "prompt_sizes": [8, 6, 4],
}


def test_state_dict_and_output_are_the_official_ones():
    """Keys, order and shapes equal the official ones, and the output differs by at most 2e-5 of its std."""
    meta, arrays = golden.read("promptir")
    network = PromptIR(blocks=(1, 1, 1, 1), refinement_blocks=1).eval()
    assert [[key, list(value.shape)] for key, value in network.state_dict().items()] == [
        entry[:2] for entry in meta["state_dict"]
    ]
    golden.fill(network, meta)
    assert golden.relative_error(network, arrays) < 2e-5


def test_published_parameter_count():
    """The published configuration has exactly the official number of parameters."""
    with torch.device("meta"):
        network = PromptIR()
    assert sum(parameter.numel() for parameter in network.parameters()) == VARIANTS["promptir"].parameters


@torch.no_grad()
def test_prompt_is_the_weighted_sum_of_its_components():
    """One matrix product equals weighting each component by the softmax and adding them up."""
    prompt = contract.randomised(lambda: PromptGeneration(3, 4, 6)).double()
    x = contract.images(2, 6, 10, 7).double()
    weights = prompt.linear_layer(x.mean(dim=(2, 3))).softmax(dim=1)
    mixed = sum(weights[:, i, None, None, None] * prompt.prompt_param[:, i] for i in range(5))
    expected = prompt.conv3x3(F.interpolate(mixed, (10, 7), mode="bilinear"))
    assert contract.relative(prompt(x), expected) < 1e-12


class TestContract:
    """What every network owes."""

    def test_any_size(self):
        """Any height and width come back unchanged."""
        contract.check_any_size(lambda: build("promptir", TINY))

    def test_gray(self):
        """One image channel works."""
        contract.check_any_size(lambda: build("promptir", TINY | {"channels": 1}), channels=1, sizes=[(19, 24)])

    def test_gradients(self):
        """Every parameter learns, but for those that the official network never uses."""
        contract.check_gradients(lambda: build("promptir", TINY), dead=UNUSED)

    def test_channels_last_and_bfloat16(self):
        """Memory format changes nothing, bfloat16 little."""
        contract.check_channels_last_and_bfloat16(lambda: build("promptir", TINY))

    def test_fullgraph(self):
        """One graph without breaks."""
        contract.check_fullgraph(lambda: build("promptir", TINY))

    @pytest.mark.parametrize("size", [(24, 16), (32, 40)])
    def test_onnx(self, size):
        """The exported graph computes the same at two batches."""
        shallow = TINY | {"blocks": [0, 0, 0, 0], "refinement_blocks": 0}
        contract.check_onnx(lambda: build("promptir", shallow), sizes=[size])
