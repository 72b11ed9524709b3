"""Window attention against dense attention over the whole image, in which a loop decides who sees whom."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from relume.models.window_attention import (
    DropPath,
    SwinBlock,
    TokenLinear,
    WindowAttention,
    border_masks_of_size,
    divide,
    drop_path_rates,
    relative_position_index,
    run_blocks,
)


def dense_attention(attention: WindowAttention, x: torch.Tensor, shift: int) -> torch.Tensor:
    """Every token of (H, W, C) scores every other; those of other windows get minus infinity.

    A grid moved by `shift` cuts each axis at shift, shift + window, ...; the parts at both borders are windows of
    their own, so nothing wraps around.
    """
    height, width, channels = x.shape
    window, heads = attention.window, attention.heads
    pixels = [(i, j) for i in range(height) for j in range(width)]
    table = attention.relative_position_bias_table
    bias = torch.full((heads, len(pixels), len(pixels)), -torch.inf)
    for a, (y, x_) in enumerate(pixels):
        for b, (v, u) in enumerate(pixels):
            if (y - shift) // window == (v - shift) // window and (x_ - shift) // window == (u - shift) // window:
                bias[:, a, b] = table[(y - v + window - 1) * (2 * window - 1) + x_ - u + window - 1]
    qkv = F.linear(x.reshape(-1, channels), attention.qkv.weight, attention.qkv.bias)
    query, key, value = qkv.view(-1, 3, heads, channels // heads).permute(1, 2, 0, 3)
    weights = (query @ key.transpose(1, 2) / (channels // heads) ** 0.5 + bias).softmax(dim=-1)
    mixed = (weights @ value).transpose(0, 1).reshape(-1, channels)
    return F.linear(mixed, attention.proj.weight, attention.proj.bias).view(x.shape)


@pytest.mark.parametrize(("size", "shift"), [((8, 12), 0), ((8, 12), 2), ((4, 8), 2), ((4, 4), 1), ((12, 12), 3)])
def test_window_attention_equals_dense_masked_attention(size, shift):
    """In plain and shifted grids, also one window high or wide, every image of a batch equals dense attention."""
    torch.manual_seed(0)
    attention = WindowAttention(6, 2, 4)
    for parameter in attention.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(2, *size, 6)
    windows = divide(x.shape, 4, shift, x.device)
    with torch.no_grad():
        rows = attention(x.view(-1, 6).index_select(0, windows.order), windows, shift)
        actual = rows.index_select(0, windows.place).view(x.shape)
        expected = torch.stack([dense_attention(attention, image, shift) for image in x])
    assert torch.allclose(actual, expected, atol=2e-5, rtol=1e-4)


def test_a_row_of_blocks_equals_block_by_block_in_image_order():
    """Keeping rows in window order between blocks changes nothing: attention and feed-forward add up as written."""
    torch.manual_seed(0)
    blocks = nn.ModuleList(SwinBlock(6, 2, 4, shift, 12, 0.0, 8) for shift in (0, 2, 2, 0))
    for parameter in blocks.parameters():
        nn.init.normal_(parameter, std=0.5)
    x, keeps = torch.randn(1, 8, 12, 6), [torch.rand(96, 1) for _ in blocks]
    with torch.no_grad():
        grids = (divide(x.shape, 4, 0, x.device), divide(x.shape, 4, 2, x.device))
        actual = run_blocks(blocks, x, grids, keeps)
        for block, keep in zip(blocks, keeps, strict=True):
            normed = block.norm1(x) * keep.view(1, 8, 12, 1)
            x = x + dense_attention(block.attn, normed[0], block.shift)
            hidden = F.gelu(F.linear(block.norm2(x), block.mlp.fc1.weight, block.mlp.fc1.bias))
            x = x + F.linear(hidden, block.mlp.fc2.weight, block.mlp.fc2.bias)
    assert torch.allclose(actual, x, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("shift", [0, 3])
def test_orders_are_inverse_and_windows_are_squares(shift):
    """`place` inverts `order`; each window's rows are one square of one image, modulo the image's size."""
    windows = divide(torch.Size((2, 14, 21, 5)), 7, shift, torch.device("cpu"))
    assert torch.equal(windows.order[windows.place], torch.arange(2 * 14 * 21))
    for square in windows.order.view(-1, 49):
        image, rest = square // (14 * 21), square % (14 * 21)
        assert (image == image[0]).all()
        y, x = (rest // 21).view(7, 7), (rest % 21).view(7, 7)
        assert torch.equal(y, ((y[0, 0] + torch.arange(7)) % 14)[:, None].expand(7, 7))
        assert torch.equal(x, ((x[0, 0] + torch.arange(7)) % 21).expand(7, 7))
    assert sum(stop - start for start, stop, _ in windows.spans) == 2 * 2 * 3


def test_position_index_counts_offsets():
    """Each pair of tokens points to the table row of its offset, rows first."""
    index = relative_position_index(3)
    for a in range(9):
        for b in range(9):
            assert index[a, b] == (a // 3 - b // 3 + 2) * 5 + a % 3 - b % 3 + 2


def test_stored_masks_part_tokens_that_are_no_neighbours():
    """The checkpoints' mask is -100 exactly between tokens that a shift brought together from opposite borders."""
    masks = border_masks_of_size(12, 8, 4, 2).view(3, 2, 16, 16)
    for row in range(3):
        for column in range(2):
            for a in range(16):
                for b in range(16):
                    apart = (row == 2 and (a // 4 < 2) != (b // 4 < 2)) or (column == 1 and (a % 4 < 2) != (b % 4 < 2))
                    assert masks[row, column, a, b] == (-100 if apart else 0)


def test_token_linear_is_linear():
    """The oneDNN path, its gradients and the plain path in bfloat16 agree with `Linear`."""
    torch.manual_seed(0)
    layer, rows = TokenLinear(10, 7), torch.randn(33, 10, requires_grad=True)
    plain = F.linear(rows, layer.weight, layer.bias)
    assert torch.allclose(layer(rows), plain, atol=1e-5)
    wanted = torch.autograd.grad(plain.square().sum(), [rows, layer.weight, layer.bias])
    found = torch.autograd.grad(layer(rows).square().sum(), [rows, layer.weight, layer.bias])
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(found, wanted, strict=True))
    assert layer.bfloat16()(rows.bfloat16()).dtype == torch.bfloat16


def test_drop_path_drops_whole_images_in_training_only():
    """In training an image's branch is zero or 1 / (1 - rate) of itself; in eval it passes; rates rise linearly."""
    torch.manual_seed(0)
    windows = divide(torch.Size((400, 4, 4, 3)), 2, 0, torch.device("cpu"))
    drop, rows = DropPath(0.25), torch.ones(400 * 16, 3)
    assert torch.equal(drop.eval()(rows, windows), rows)
    images = drop.train()(rows, windows).index_select(0, windows.place).view(400, -1)
    assert (images == images[:, :1]).all()
    assert set(images[:, 0].tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    assert 0.15 < float((images[:, 0] == 0).float().mean()) < 0.35
    assert drop_path_rates(0.3, 4) == pytest.approx([0, 0.1, 0.2, 0.3])
