"""MambaIRv2 against the official outputs, its scan against a step-by-step loop, its windows against dense attention."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from relume.models import mambairv2
from relume.models.mambairv2 import (
    VARIANTS,
    AttentiveStateSpace,
    MambaIRv2,
    SharedWindowAttention,
    mirrored,
    selective_scan,
)
from relume.models.registry import build
from relume.models.window_attention import divide, relative_position_index

from . import contract, golden

SMALL = VARIANTS["mambairv2-demo"].arguments
TINY = {"width": 8, "blocks": [2], "heads": [2], "window": 4, "states": 4, "rank": 3, "tokens": 5}


def official(**arguments):
    """The network of the golden file, filled."""
    meta, _ = golden.read("mambairv2_dn")
    network = MambaIRv2(**SMALL, **arguments).eval()
    golden.fill(network, meta)
    return network


@pytest.fixture
def routes(monkeypatch):
    """The tokens of every pixel, one entry per state-space layer, in the order of the calls."""
    seen, routed = [], AttentiveStateSpace.routed

    def watched(self, x, prompts):
        token, prompt = routed(self, x, prompts)
        seen.append(token.numpy())
        return token, prompt

    monkeypatch.setattr(AttentiveStateSpace, "routed", watched)
    return seen


def test_state_dict_is_the_official_one():
    """Keys with buffers, their order and their shapes equal those of the official checkpoint."""
    meta, _ = golden.read("mambairv2_dn")
    assert [[key, list(value.shape)] for key, value in official().state_dict().items()] == [
        entry[:2] for entry in meta["state_dict"]
    ]


def test_output_and_routes_are_the_official_ones(routes):
    """By argmax the output differs by at most 2e-5 of its std, and every pixel takes the official token."""
    _, arrays = golden.read("mambairv2_dn")
    assert golden.relative_error(official(), arrays, "output_argmax") < 2e-5
    np.testing.assert_array_equal(np.concatenate(routes[:4]), arrays["route_argmax_20x28"])


def test_output_and_routes_with_noise_are_the_official_ones(monkeypatch, routes):
    """With the official Gumbel noise, drawn as the golden file says, output and routes are the official ones too."""
    _, arrays = golden.read("mambairv2_dn")
    network, drawn = official(routing="gumbel"), []

    def noise(logits):
        uniform = np.random.default_rng(1000 + len(drawn) % 4).random(tuple(logits.shape))
        drawn.append(1)
        return torch.from_numpy((-np.log(-np.log(uniform))).astype(np.float32))

    monkeypatch.setattr(mambairv2, "gumbel_noise", noise)
    assert golden.relative_error(network, arrays, "output_gumbel") < 2e-5
    np.testing.assert_array_equal(np.concatenate(routes[:4]), arrays["route_gumbel_20x28"])


def test_published_parameter_count():
    """The published configuration has exactly the official number of parameters."""
    with torch.device("meta"):
        network = MambaIRv2()
    expected = VARIANTS["mambairv2-denoise"].parameters
    assert sum(parameter.numel() for parameter in network.parameters()) == expected


def step_by_step(drive, step, rate, into, out):
    """The recurrence as it is written: one step after the other."""
    state, outputs = torch.zeros(drive.shape[0], *rate.shape, dtype=drive.dtype), []
    for t in range(drive.shape[1]):
        decay = torch.exp(step[:, t, :, None] * rate)
        state = decay * state + (step[:, t] * drive[:, t])[:, :, None] * into[:, t, None, :]
        outputs.append((state * out[:, t, None, :]).sum(-1))
    return torch.stack(outputs, dim=1)


def scan_inputs(length, seed=0):
    """Random inputs of a scan in float64."""
    torch.manual_seed(seed)
    drive, step = torch.randn(2, length, 5).double(), F.softplus(torch.randn(2, length, 5)).double()
    into, out = torch.randn(2, length, 3).double(), torch.randn(2, length, 3).double()
    return [drive, step, -3 * torch.rand(5, 3).double(), into, out]


@pytest.mark.parametrize("steps", [1, 4, 5, 37, 64])
def test_scan_equals_the_loop(steps):
    """For any length of a chunk, dividing the sequence or not, the chunked scan equals the loop."""
    inputs = scan_inputs(37)
    assert torch.allclose(selective_scan(*inputs, steps=steps), step_by_step(*inputs), rtol=1e-11, atol=1e-11)


def test_scans_gradient_equals_that_of_the_loop():
    """Its gradient with respect to every input equals the loop's."""
    gradients = []
    for scan in (lambda *inputs: selective_scan(*inputs, steps=4), step_by_step):
        inputs = [x.requires_grad_() for x in scan_inputs(18)]
        scan(*inputs).square().sum().backward()
        gradients.append([x.grad for x in inputs])
    for actual, expected in zip(*gradients, strict=True):
        assert torch.allclose(actual, expected, rtol=1e-9, atol=1e-9)


def test_scan_is_stable_where_a_quotient_of_decays_overflows():
    """Steps so large that the inverse of a chunk's decay is infinite in float32 still give the loop's result."""
    drive, step, rate, into, out = (x.float() for x in scan_inputs(64))
    actual = selective_scan(drive, 30 * step, rate, into, out, steps=16)
    assert torch.allclose(actual, step_by_step(drive, 30 * step, rate, into, out), rtol=1e-4, atol=1e-3)


@torch.no_grad()
def test_pixels_of_one_token_keep_their_raster_order():
    """Sorting prompts with their pixels equals the whole module done pixel by pixel in a stable order."""
    module = contract.randomised(lambda: AttentiveStateSpace(6, 12, 4, 3, 2, "argmax", True)).double()
    x, embedding = contract.images(1, 5, 4, 6).double(), torch.randn(2, 4).double()
    token = module.route(x.flatten(1, 2)).argmax(-1)[0].tolist()
    order = sorted(range(20), key=lambda i: (token[i], i))
    image = module.in_proj(x.permute(0, 3, 1, 2))
    image = (image * module.CPE(image).sigmoid()).flatten(2).transpose(1, 2)
    prompts = (module.embeddingB.weight @ embedding)[token]
    scanned = module.selectiveScan(image[:, order], prompts[order][None])
    expected = torch.empty(1, 20, 6, dtype=torch.float64)
    expected[:, order] = module.out_proj(module.out_norm(scanned))
    # The scan itself is float32 in both.
    assert contract.relative(module(x, embedding), expected.view(x.shape)) < 1e-6


@torch.no_grad()
def test_shifted_windows_equal_dense_masked_attention():
    """Window attention equals attention over all pixels, masked to those of one window that are neighbours."""
    window, shift, size = 4, 2, 8
    module = contract.randomised(lambda: SharedWindowAttention(6, 2, window)).double()
    index = relative_position_index(window)
    qkv = contract.images(1, 18, size, size).double().permute(0, 2, 3, 1)
    windows = divide(qkv.shape, window, shift, qkv.device)
    rows = qkv.flatten(0, 2).index_select(0, windows.order)
    actual = module(rows, windows, shift, index).index_select(0, windows.place)
    y, x = (axis.flatten() for axis in torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij"))
    # Without wrapping round, windows moved by 2 are cut off at the borders.
    same = ((y + shift) // window)[:, None] == (y + shift) // window
    same &= ((x + shift) // window)[:, None] == (x + shift) // window
    offset = (y[:, None] - y).clamp(-3, 3) * 7 + (x[:, None] - x).clamp(-3, 3) + 24
    bias = module.relative_position_bias_table[offset].permute(2, 0, 1)
    query, key, value = qkv.reshape(64, 3, 2, 3).permute(1, 2, 0, 3)
    scores = (query @ key.transpose(-2, -1) / 3**0.5 + bias).masked_fill(~same, -torch.inf)
    expected = module.proj((scores.softmax(-1) @ value).transpose(0, 1).flatten(1))
    assert contract.relative(actual, expected) < 1e-9


def test_mirrored_padding_repeats_the_edge_and_reflects_again():
    """A side shorter than what is added is mirrored back and forth."""
    x = torch.arange(3.0).view(1, 1, 1, 3)
    assert mirrored(x, 8)[0, 0, 0].tolist() == [0, 1, 2, 2, 1, 0, 0, 1]
    assert mirrored(x, 8)[0, 0, :, 0].tolist() == [0] * 8


def test_gumbel_routing_follows_the_generator():
    """The official routing differs from draw to draw and repeats with PyTorch's seed."""
    network = official(routing="gumbel")
    image = golden.image(8, 8)
    results = []
    with torch.no_grad():
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            results.append(network(image))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


class TestContract:
    """What every network owes."""

    def test_any_size(self):
        """Any height and width come back unchanged."""
        contract.check_any_size(lambda: build("mambairv2", TINY))

    def test_gray(self):
        """One image channel works."""
        contract.check_any_size(lambda: build("mambairv2", TINY | {"channels": 1}), channels=1, sizes=[(19, 24)])

    def test_gradients(self):
        """Every parameter learns, the router's by passing straight through the choice."""
        contract.check_gradients(lambda: build("mambairv2", TINY), size=(16, 24))

    def test_channels_last_and_bfloat16(self):
        """Memory format changes nothing, bfloat16 little; a few pixels near a tie take another token."""
        contract.check_channels_last_and_bfloat16(lambda: build("mambairv2", TINY), tolerance=0.1)

    def test_fullgraph(self):
        """One graph without breaks."""
        contract.check_fullgraph(lambda: build("mambairv2", TINY | {"blocks": [1]}), size=(8, 8))

    @pytest.mark.parametrize("size", [(8, 8), (8, 16)])
    def test_onnx(self, size, monkeypatch):
        """The exported graph, here with short chunks, computes the same at two tiles and two batches."""
        monkeypatch.setattr(mambairv2, "EXPORTED_STEPS", 8)
        contract.check_onnx(lambda: build("mambairv2", TINY), sizes=[size])
