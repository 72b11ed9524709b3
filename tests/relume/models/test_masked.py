"""The masked denoising transformer against the official implementation, and what every network owes."""

import numpy as np
import pytest
import torch

from relume.models.masked import OFFICIAL, VARIANTS, MaskedDenoiser
from relume.models.registry import build

from . import contract, golden


def demo(**changes):
    """The demo size."""
    return build("masked", VARIANTS["masked-demo"].arguments | changes)


def small(**changes):
    """The configuration of the golden vectors."""
    return MaskedDenoiser(width=24, blocks=(2, 2), heads=(2, 3), image_size=32, **changes).eval()


def golden_masks(arrays: dict[str, np.ndarray], size: str, height: int, width: int) -> torch.Tensor:
    """The file's masks, one per attention in window order of the rolled image, as (1, attentions, H, W)."""
    maps = []
    for number in range(4):
        bits = torch.from_numpy(np.unpackbits(arrays[f"mask_{size}_{number}"], axis=-1))
        image = bits.view(height // 8, width // 8, 8, 8).permute(0, 2, 1, 3).reshape(height, width)
        maps.append(image.roll((4, 4), dims=(0, 1)) if number % 2 else image)
    return torch.stack(maps)[None].float()


def test_state_dict_and_output_are_the_official_ones():
    """Keys, order and shapes equal the official ones; so do outputs without masks and with given attention masks."""
    meta, arrays = golden.read("masked_swinir")
    network = small(attention_mask_ratio=0)
    state = [[key, list(value.shape)] for key, value in network.state_dict().items()]
    assert state == [entry[:2] for entry in meta["state_dict"]]
    golden.fill(network, meta)
    assert golden.relative_error(network, arrays, "output_nomask") < 2e-5
    for size, padded in {"37x29": (40, 32), "24x40": (24, 40)}.items():
        image = golden.image(*map(int, size.split("x")))
        expected = arrays[f"output_mask_{size}"]
        with torch.no_grad():
            actual = network(image, attention_keep=golden_masks(arrays, size, *padded)).numpy()
        assert np.abs(actual - expected).max() / expected.std() < 2e-5


@pytest.mark.parametrize("name", [name for name, variant in VARIANTS.items() if variant.parameters])
def test_published_parameter_counts(name):
    """A published configuration has exactly the official number of parameters."""
    with torch.device("meta"):
        network = MaskedDenoiser(**VARIANTS[name].arguments)
    assert sum(parameter.numel() for parameter in network.parameters()) == VARIANTS[name].parameters


def test_hidden_tokens_do_not_reach_the_output():
    """The paper's input mask replaces embedded tokens, so that pixels under it have no influence, and others have."""
    network = contract.randomised(demo)
    image, keep = contract.images(1, 3, 16, 24), torch.ones(1, 1, 16, 24)
    keep[..., 3:9, 5:11] = 0
    changed = torch.where(keep > 0, image, 1 - image)
    with torch.no_grad():
        assert torch.equal(network(image, keep), network(changed, keep))
        assert not torch.equal(network(image), network(changed))
        assert not torch.equal(network(image), network(image, keep))


def test_a_learned_vector_stands_for_hidden_tokens():
    """It starts as zero, as the paper's default is, and only hidden tokens train it or show it."""
    plain, learned = contract.randomised(demo), demo(masked="learned_tokens").eval()
    missing = learned.load_state_dict(plain.state_dict(), strict=False).missing_keys
    assert missing == ["mask_token"]
    image, keep = contract.images(1, 3, 16, 24), torch.ones(1, 1, 16, 24)
    keep[..., 3:9, 5:11] = 0
    with torch.no_grad():
        assert torch.equal(plain(image, keep), learned(image, keep))
    learned(image, keep).sum().backward()
    assert learned.mask_token.grad.abs().max() > 0
    learned.mask_token.data = torch.linspace(-1, 1, 24)  # a constant is lost in the norm that follows
    with torch.no_grad():
        assert not torch.equal(plain(image, keep), learned(image, keep))
        assert torch.equal(plain(image), learned(image))


def test_official_option_fills_pixels():
    """The official code's input mask is an image whose hidden pixels are -0.1 in all channels."""
    network = contract.randomised(lambda: demo(**OFFICIAL))
    image, keep = contract.images(1, 3, 16, 24), (torch.rand(1, 1, 16, 24) > 0.8).float()
    filled = image.clone()
    filled[:, :, keep[0, 0] == 0] = -0.1
    with torch.no_grad():
        assert torch.equal(network(image, keep), network(filled))


def test_attention_mask_leaves_tokens_out():
    """All ones are no mask; a token that is denied to every attention influences no pixel beyond the convolutions."""
    network = contract.randomised(lambda: demo(attention_mask_ratio=0))
    image = contract.images(1, 3, 16, 16)
    ones = torch.ones(1, 4, 16, 16)
    with torch.no_grad():
        assert torch.equal(network(image), network(image, attention_keep=ones))
        alone, changed = torch.zeros_like(ones), image.clone()
        changed[..., 0, 0] = 1 - changed[..., 0, 0]
        # What is left are the convolutions: two 3x3 in each of two groups and after the body, and the last.
        difference = (network(image, attention_keep=alone) - network(changed, attention_keep=alone)).abs().amax(1)[0]
        assert difference[:8, :8].max() > 0
        assert difference[8:].max() == 0
        assert difference[:, 8:].max() == 0
        assert (network(image) - network(changed)).abs().amax(1)[0, 8:].max() > 0


def test_seeded_attention_masks():
    """Outside training masks repeat, follow the seed, hide the given part, and are unlike from block to block."""
    network = demo(blocks=[6, 6]).eval()
    padded = torch.zeros(2, 3, 64, 64)
    masks = network.draw_attention_masks(padded)
    assert masks.shape == (2, 12, 64, 64)
    assert torch.equal(masks[0], masks[1])
    assert torch.equal(masks, network.draw_attention_masks(padded))
    assert float(masks.mean()) == pytest.approx(0.25, abs=0.005)
    network.seed = 1
    other = network.draw_attention_masks(padded)
    neighbours = [masks * other, masks[:, 1:] * masks[:, :-1], masks[..., 1:] * masks[..., :-1]]
    for pair in [*neighbours, masks[:, :, 1:] * masks[:, :, :-1]]:
        assert float(pair.mean()) == pytest.approx(0.0625, abs=0.004)


def test_seeded_masks_need_32_bits_only():
    """The masks are those of the same recurrence in int32, in which a larger number would have wrapped around."""
    network = demo(seed=123_456_789).eval()
    state = np.array(123_456_789 % 46_337, np.int32)
    for axis, length in enumerate((4, 40, 72)):
        place = np.arange(length, dtype=np.int32).reshape([-1 if i == axis else 1 for i in range(3)])
        state = (place * np.int32(17_389) + state) % np.int32(46_337)
        for increment in (12_345, 6_789):
            state = (state * state % np.int32(46_337) * state + np.int32(increment)) % np.int32(46_337)
    assert state.dtype == np.int32
    masks = network.draw_attention_masks(torch.zeros(1, 3, 40, 72))
    np.testing.assert_array_equal(masks[0].numpy(), state.astype(np.float32) / np.float32(46_337) >= 0.75)


@pytest.mark.parametrize(("options", "low", "high"), [({}, 0.75, 0.85), (OFFICIAL, 0.8, 0.9)])
def test_training_draws_masks(options, low, high):
    """In training every image gets its own input mask of a ratio in the range, and every pass new masks."""
    torch.manual_seed(0)
    network = contract.randomised(lambda: demo(**options)).train()
    image = contract.images(8, 3, 64, 64)
    hidden = 1 - network.draw_input_mask(image).mean(dim=(1, 2, 3))
    assert low - 0.03 < float(hidden.min()) < float(hidden.max()) < high + 0.03
    assert float(hidden.max() - hidden.min()) > 0.02
    attention = network.draw_attention_masks(image)
    assert not torch.equal(attention[0], attention[1])
    assert float(attention.mean()) == pytest.approx(0.25, abs=0.005)
    with torch.no_grad():
        assert not torch.equal(network(image), network(image))


def test_any_size():
    """Colour and gray at odd and tiny sizes."""
    contract.check_any_size(demo)
    contract.check_any_size(lambda: demo(channels=1), channels=1)


def test_gradients_reach_every_parameter():
    """No parameter is without a gradient, masks drawn."""
    contract.check_gradients(demo)
    contract.check_gradients(lambda: demo(masked="learned_tokens"))


def test_channels_last_and_bfloat16():
    """Memory layout does not matter and bfloat16 stays close."""
    contract.check_channels_last_and_bfloat16(demo)


def test_one_graph():
    """TorchDynamo needs no graph break."""
    contract.check_fullgraph(demo)


@pytest.mark.slow
def test_onnx_with_seeded_masks():
    """ONNX Runtime computes the same, the seeded masks included, at two tile sizes and two batches."""
    contract.check_onnx(demo, [(16, 16), (32, 24)])


@pytest.mark.slow
def test_onnx_with_masks_as_inputs():
    """Both masks can be inputs of the graph."""

    def drawn(channels: int):
        return lambda batch: (contract.images(batch, channels, 16, 24, seed=9) > 0.7).float()

    contract.check_onnx(demo, [(16, 24)], input_keep=drawn(1), attention_keep=drawn(4))


def test_seeds_of_images_are_added_to_that_of_the_network():
    """An image in a batch is restored as by a network of that seed alone."""
    network = contract.randomised(demo)
    image = contract.images(2, 3, 24, 24)
    with torch.inference_mode():
        together = network(image, mask_seed=torch.tensor([5.0, 16_000_000.0]))
        for number, seed in enumerate((5, 16_000_000)):
            network.seed = seed
            assert torch.allclose(network(image[number : number + 1]), together[number : number + 1], atol=1e-6)
        network.seed = 0
        assert not torch.allclose(network(image), together, atol=1e-5)
