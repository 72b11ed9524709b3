"""DyNet against the official outputs, and what sharing weights by reuse means."""

import copy

import pytest
import torch

from relume.models.dynet import LARGE, SMALL, VARIANTS, DyNet, repeat
from relume.models.promptir import UNUSED
from relume.models.registry import build
from relume.models.restormer import TransformerBlock

from . import contract, golden

TINY = {
    "reuse": [1, 2, 1, 2],
    "width": 8,
    "refinement_blocks": 1,
    "heads": [1, 2, 2, 2],
    "prompt_channels": [4, 6, 10],
    "prompt_sizes": [8, 6, 4],
}


def test_state_dict_and_outputs_are_the_official_ones():
    """With its prompts, keys, order and shapes equal the official ones; one network gives both official outputs."""
    meta, arrays = golden.read("dynet")
    network = DyNet(refinement_blocks=1, prompts="code").eval()
    assert [[key, list(value.shape)] for key, value in network.state_dict().items()] == [
        entry[:2] for entry in meta["state_dict"]
    ]
    golden.fill(network, meta)
    arrays = {key: value for key, value in arrays.items() if key.endswith("32x40")}
    assert golden.relative_error(lambda image: network(image, reuse=SMALL), arrays, "output_S") < 2e-5
    assert golden.relative_error(lambda image: network(image, reuse=LARGE), arrays, "output_L") < 2e-5


@pytest.mark.parametrize("name", ["dynet-code-large", "dynet-code-small"])
def test_published_parameter_count(name):
    """The small and the large network have the same official number of parameters."""
    with torch.device("meta"):
        network = build("dynet", VARIANTS[name].arguments)
    assert sum(parameter.numel() for parameter in network.parameters()) == VARIANTS[name].parameters


@torch.no_grad()
def test_a_prompt_is_on_every_skip_and_on_nothing_else():
    """Each decoder level is given its encoder's feature joined with its prompt; the latent goes up as it is."""
    network = contract.randomised(lambda: DyNet(**TINY))
    assert not any(key.startswith(UNUSED[1].rstrip("*")) for key in network.state_dict())
    seen, joined = {}, {}
    for name in ("encoder_level1", "encoder_level2", "encoder_level3", "latent", "up2_1", "up3_2", "up4_3"):
        network.get_submodule(name).register_forward_hook(lambda _, i, o, name=name: seen.update({name: (i[0], o)}))
    for name in ("reduce_chan_level3", "reduce_chan_level2", "decoder_level1"):
        network.get_submodule(name).register_forward_pre_hook(lambda _, i, name=name: joined.setdefault(name, i[0]))
    network(contract.images(1, 3, 24, 16))
    assert torch.equal(seen["up4_3"][0], seen["latent"][1])
    for level, up, decoder in (
        (3, "up4_3", "reduce_chan_level3"),
        (2, "up3_2", "reduce_chan_level2"),
        (1, "up2_1", "decoder_level1"),
    ):
        skip = seen[f"encoder_level{level}"][1]
        prompt = network.get_submodule(f"prompt{level}")(skip)
        prompted = network.get_submodule(f"noise_level{level}")(torch.cat([skip, prompt], dim=1))
        expected = torch.cat([seen[up][1], network.get_submodule(f"reduce_noise_level{level}")(prompted)], dim=1)
        assert torch.equal(joined[decoder], expected)


def test_each_level_holds_one_block_however_often_it_is_used():
    """The parameters of a level are those of one transformer block, the same objects in every variant's forward."""
    network = DyNet(**TINY)
    used = []
    block = network.latent
    assert isinstance(block, TransformerBlock)
    block.norm1.register_forward_hook(lambda module, inputs, output: used.append(module.body.weight))
    with torch.no_grad():
        network(contract.images(1, 3, 16, 16), reuse=(1, 1, 1, 5))
    assert len(used) == 5
    assert all(weight is network.get_parameter("latent.norm1.body.weight") for weight in used)


def test_gradient_is_the_sum_over_reuses():
    """The gradient of a shared block is the sum of the gradients of as many separate copies of it."""
    block = contract.randomised(lambda: TransformerBlock(8, 2, 2.0, False, False)).double()
    copies = [copy.deepcopy(block) for _ in range(3)]
    x, weight = contract.images(1, 8, 6, 6).double(), contract.images(1, 8, 6, 6, seed=2).double()
    (repeat(block, x, 3) * weight).sum().backward()
    y = x
    for separate in copies:
        y = separate(y)
    (y * weight).sum().backward()
    for name, parameter in block.named_parameters():
        expected = sum(separate.get_parameter(name).grad for separate in copies)
        assert torch.allclose(parameter.grad, expected, rtol=1e-10, atol=1e-12), name


@torch.no_grad()
def test_reuse_of_the_call_replaces_that_of_the_constructor():
    """A large network called as small equals a small network with its weights, and differs from itself as large."""
    large = contract.randomised(lambda: DyNet(**TINY | {"reuse": LARGE}))
    small = DyNet(**TINY | {"reuse": SMALL}).eval()
    small.load_state_dict(large.state_dict())
    image = contract.images(1, 3, 16, 24)
    assert torch.equal(large(image, reuse=SMALL), small(image))
    assert not torch.allclose(large(image), small(image))


class TestContract:
    """What every network owes."""

    @pytest.mark.parametrize("prompts", ["skips", "code"])
    def test_any_size(self, prompts):
        """Any height and width come back unchanged, wherever the prompts are."""
        contract.check_any_size(lambda: build("dynet", TINY | {"prompts": prompts}))

    def test_gray(self):
        """One image channel works."""
        contract.check_any_size(lambda: build("dynet", TINY | {"channels": 1}), channels=1, sizes=[(19, 24)])

    def test_gradients(self):
        """Every parameter learns, but for those that the official network never uses."""
        contract.check_gradients(lambda: build("dynet", TINY))
        contract.check_gradients(lambda: build("dynet", TINY | {"prompts": "code"}), dead=UNUSED)

    def test_channels_last_and_bfloat16(self):
        """Memory format changes nothing, bfloat16 little."""
        contract.check_channels_last_and_bfloat16(lambda: build("dynet", TINY))

    def test_fullgraph(self):
        """One graph without breaks."""
        contract.check_fullgraph(lambda: build("dynet", TINY))

    @pytest.mark.parametrize("size", [(24, 16), (32, 40)])
    def test_onnx(self, size):
        """The exported graph computes the same at two batches, wherever the prompts are."""
        shallow = TINY | {"reuse": [0, 0, 2, 0], "refinement_blocks": 0}
        for prompts in ("skips", "code"):
            contract.check_onnx(lambda prompts=prompts: build("dynet", shallow | {"prompts": prompts}), sizes=[size])
