"""MambaIRv2: window attention and an attentive state space that scans the pixels of an image in order of their meaning.

Source: Guo et al., "MambaIRv2: Attentive State Space Restoration", CVPR 2025 (arXiv 2411.15269). State-dict keys and
values are those of the official implementation.

Deviations: pixels are routed to tokens by argmax, so that a result is repeatable and can be exported; the official
code draws Gumbel noise at inference too, which `routing="gumbel"` does here. Where the official code leaves the
prompts unsorted, so does this by default, see `sort_prompts`. Pixels of one token keep their raster
order (a stable sort), where the official order of ties depends on the device. The scan is plain PyTorch, see
`selective_scan`; no CUDA package is needed. Mirrored padding also covers images smaller than half a window.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn

from relume.models.layers import pointwise
from relume.models.registry import Variant
from relume.models.swinir import DIV2K_MEAN, Embedding, convolve
from relume.models.window_attention import (
    Windows,
    attend,
    border_mask,
    divide,
    initialise,
    position_bias,
    relative_position_index,
)

# Steps of a chunk of the scan: few in an exported graph, which holds each of them, and fewer where work is only
# counted; otherwise as many as keep the states of all chunks of a 128 x 128 patch in a processor's cache (measured).
COUNTED_STEPS, EXPORTED_STEPS, STEPS = 4, 32, 128


def carry_over(decays: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    """Solves c_k = decays_k · c_{k-1} + states_k along axis 1, from zero, in log2(K) doubling steps."""
    reach = 1
    while reach < states.shape[1]:
        states = torch.cat([states[:, :reach], states[:, reach:] + decays[:, reach:] * states[:, :-reach]], dim=1)
        decays = torch.cat([decays[:, :reach], decays[:, reach:] * decays[:, :-reach]], dim=1)
        reach *= 2
    return states


def selective_scan(
    drive: torch.Tensor,
    step: torch.Tensor,
    rate: torch.Tensor,
    into: torch.Tensor,
    out: torch.Tensor,
    *,
    steps: int = STEPS,
) -> torch.Tensor:
    """The recurrence h_t = exp(Δ_t A) h_{t-1} + Δ_t B_t u_t, y_t = C_t h_t of a selective state space (Mamba).

    The sequence is cut into K chunks that are scanned side by side from zero, the chunks' last states are
    carried over from chunk to chunk, and what a chunk inherits is added to its outputs. Every factor is
    a product of decays in (0, 1], so nothing overflows, and no state but the current one of each chunk is kept.

    Args:
        drive: u, (N, L, E).
        step: Δ > 0, (N, L, E).
        rate: A < 0, (E, S).
        into: B, (N, L, S).
        out: C, (N, L, S).
        steps: Length of a chunk.

    Returns:
        y, (N, L, E).
    """
    images, length, _ = drive.shape
    steps = min(steps, length)
    chunks = -(-length // steps)

    def cut(x: torch.Tensor) -> tuple[torch.Tensor, ...]:  # steps times (N, K, ...)
        if chunks * steps > length:
            x = F.pad(x, (0, 0, 0, chunks * steps - length))  # a step of zero changes no state
        return x.reshape(images, chunks, steps, -1).unbind(2)

    rate = rate.t()  # (S, E)
    steps_NKE, into_NKS, out_NKS = cut(step), cut(into), cut(out)
    state = drive.new_zeros(images, chunks, *rate.shape)
    outputs, elapsed, sums = [], torch.zeros_like(steps_NKE[0]), []
    for delta, driven, b, c in zip(steps_NKE, cut(step * drive), into_NKS, out_NKS, strict=True):
        state = torch.addcmul(state * torch.exp(delta.unsqueeze(2) * rate), b.unsqueeze(3), driven.unsqueeze(2))
        outputs.append(c.unsqueeze(2) @ state)  # (N, K, 1, E)
        elapsed = elapsed + delta
        sums.append(elapsed)
    if chunks > 1:
        last = carry_over(torch.exp(elapsed.unsqueeze(2) * rate), state)
        inherited = F.pad(last[:, :-1], (0, 0, 0, 0, 1, 0))
        outputs = [
            y + c.unsqueeze(2) @ (torch.exp(elapsed.unsqueeze(2) * rate) * inherited)
            for y, c, elapsed in zip(outputs, out_NKS, sums, strict=True)
        ]
    return torch.cat(outputs, dim=2).reshape(images, chunks * steps, -1)[:, :length]


def gumbel_noise(logits: torch.Tensor) -> torch.Tensor:
    """Standard Gumbel noise of the shape of `logits`, from PyTorch's generator."""
    return -torch.empty_like(logits).exponential_().log()


def linear(layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    """A linear layer over the last axis of (N, H, W, C)."""
    return pointwise(x.permute(0, 3, 1, 2), layer.weight[:, :, None, None], layer.bias).permute(0, 2, 3, 1)


class SelectiveScan(nn.Module):
    """The state space whose step Δ, input map B and output map C depend on each pixel, under official keys.

    Args:
        channels: E.
        states: S, per channel.
    """

    def __init__(self, channels: int, states: int):
        super().__init__()
        self.rank, self.states = -(-channels // 16), states
        self.x_proj_weight = nn.Parameter(torch.empty(1, self.rank + 2 * states, channels))
        self.dt_projs_weight = nn.Parameter(torch.empty(1, channels, self.rank))
        self.dt_projs_bias = nn.Parameter(torch.empty(1, channels))
        self.A_logs = nn.Parameter(torch.arange(1, states + 1, dtype=torch.float32).log().repeat(channels, 1))
        self.Ds = nn.Parameter(torch.ones(channels))
        nn.init.kaiming_uniform_(self.x_proj_weight[0], a=5**0.5)
        nn.init.uniform_(self.dt_projs_weight, -(self.rank**-0.5), self.rank**-0.5)
        # Steps between 0.001 and 0.1, evenly on a logarithmic scale (Mamba); the bias is the inverse of softplus.
        steps = torch.empty(1, channels).uniform_(-3, -1).mul(2.302585092994046).exp()
        with torch.no_grad():
            self.dt_projs_bias.copy_(steps + torch.log(-torch.expm1(-steps)))

    def forward(self, x: torch.Tensor, prompt: torch.Tensor) -> torch.Tensor:
        """Scans pixels (N, L, E) in their order; the prompt (N, L, S) is added to C."""
        projected = F.linear(x, self.x_proj_weight[0])
        step, into, out = projected.split([self.rank, self.states, self.states], dim=-1)
        step = F.linear(step, self.dt_projs_weight[0]).float() + self.dt_projs_bias.float()
        # The recurrence is in float32 whatever the network's type, as in the official code.
        drive, into, out = x.float(), into.float(), out.float() + prompt.float()
        steps = COUNTED_STEPS if x.is_meta else EXPORTED_STEPS if torch.compiler.is_compiling() else STEPS
        y = selective_scan(drive, F.softplus(step), -self.A_logs.float().exp(), into, out, steps=steps)
        return torch.addcmul(y, drive, self.Ds.float()).to(x.dtype)


class AttentiveStateSpace(nn.Module):
    """Attentive state-space module (ASSM): pixels of one meaning are neighbours in the scan (section 3.2).

    A router gives each pixel one of T tokens, and pixels are sorted by token before the scan. The token's prompt
    is added to the pixel's output map C.

    Args:
        channels: C.
        hidden: Channels of the scan, E.
        states: S.
        tokens: T.
        rank: Inner rank of the prompts.
        routing: As in `MambaIRv2`.
        sort_prompts: As in `MambaIRv2`.
    """

    def __init__(
        self, channels: int, hidden: int, states: int, tokens: int, rank: int, routing: str, sort_prompts: bool
    ):
        super().__init__()
        self.routing, self.sort_prompts = routing, sort_prompts
        self.selectiveScan = SelectiveScan(hidden, states)
        self.out_norm = nn.LayerNorm(hidden)
        self.out_proj = nn.Linear(hidden, channels)
        self.in_proj = nn.Sequential(nn.Conv2d(channels, hidden, 1))
        self.CPE = nn.Sequential(nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden))
        self.embeddingB = nn.Embedding(tokens, rank)
        nn.init.uniform_(self.embeddingB.weight, -1 / tokens, 1 / tokens)
        self.route = nn.Sequential(nn.Linear(channels, channels // 3), nn.GELU(), nn.Linear(channels // 3, tokens))

    def forward(self, x: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        """(N, H, W, C) to the same; `embedding` (rank, S) is the layer's half of the prompts."""
        images, height, width, _ = x.shape
        length = height * width
        token, prompt = self.routed(x.flatten(1, 2), self.embeddingB.weight @ embedding)
        image = pointwise(x.permute(0, 3, 1, 2), self.in_proj[0].weight, self.in_proj[0].bias)
        image = image * self.CPE[0](image).sigmoid()

        raster = torch.arange(length, device=x.device)
        first = torch.arange(images, device=x.device)[:, None] * length
        # Keys are distinct, so that the order of pixels of one token does not depend on how a sort treats ties.
        order = ((token * length + raster).argsort(dim=1) + first).flatten()
        place = torch.zeros_like(order).scatter(0, order, (raster + first).flatten())

        def by_meaning(pixels: torch.Tensor) -> torch.Tensor:
            return pixels.flatten(0, -2).index_select(0, order).view(images, length, -1)

        prompt = by_meaning(prompt) if self.sort_prompts else prompt
        scanned = self.selectiveScan(by_meaning(image.permute(0, 2, 3, 1)), prompt)
        restored = self.out_proj(self.out_norm(scanned)).flatten(0, 1)
        return restored.index_select(0, place).view(x.shape)

    def routed(self, x: torch.Tensor, prompts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Each pixel's token (N, L) and its prompt (N, L, S), for pixels (N, L, C) and prompts (T, S).

        In training the choice passes gradients straight through, as if it were the softmax.
        """
        logits = self.route(x)
        if self.routing == "gumbel":
            logits = logits.log_softmax(dim=-1)
            logits = logits + gumbel_noise(logits)
        token = logits.argmax(dim=-1)
        prompt = F.embedding(token, prompts)
        if self.training:
            soft = logits.softmax(dim=-1)
            prompt = prompt + (soft - soft.detach()) @ prompts.detach()
        return token, prompt


class DepthwiseConv(nn.Module):
    """Depthwise convolution and GELU, under the key `depthwise_conv` of the checkpoints."""

    def __init__(self, channels: int, kernel: int):
        super().__init__()
        self.depthwise_conv = nn.Sequential(
            nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels), nn.GELU()
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, H, W, C) to the same."""
        return convolve(self.depthwise_conv, x)


class ConvFeedForward(nn.Module):
    """Linear, GELU, plus its depthwise convolution, linear."""

    def __init__(self, channels: int, hidden: int, kernel: int):
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.dwconv = DepthwiseConv(hidden, kernel)
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, H, W, C) to the same."""
        x = F.gelu(linear(self.fc1, x))
        return linear(self.fc2, x + self.dwconv(x))


class SharedWindowAttention(nn.Module):
    """Attention inside windows on given queries, keys and values; the position index belongs to the network."""

    def __init__(self, channels: int, heads: int, window: int):
        super().__init__()
        self.heads, self.window = heads, window
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.proj = nn.Linear(channels, channels)

    def forward(self, qkv: torch.Tensor, windows: Windows, shift: int, index: torch.Tensor) -> torch.Tensor:
        """(R, 3C) to (R, C), both in the order of `windows`, a grid that is moved by `shift`."""
        bias = position_bias(self.relative_position_bias_table, index)
        query, key, value = qkv.view(-1, windows.area, 3, self.heads, qkv.shape[1] // (3 * self.heads)).unbind(2)
        mixed = []
        for start, stop, joins in windows.spans:
            shifted = bias + border_mask(self.window, shift, joins, bias) if any(joins) else bias
            mixed.append(attend(query[start:stop], key[start:stop], value[start:stop], shifted))
        return self.proj((torch.cat(mixed) if len(mixed) > 1 else mixed[0]).view(qkv.shape[0], -1))


class AttentiveLayer(nn.Module):
    """Window attention and an attentive state space, each followed by a convolutional feed-forward (figure 3).

    Args:
        channels: C.
        heads: Attention heads.
        shift: By how many pixels the window grid is moved; half a window in every other layer.
        hidden: Channels of the feed-forwards and of the scan.
        window: As in `MambaIRv2`.
        states: As in `MambaIRv2`.
        tokens: As in `MambaIRv2`.
        rank: As in `MambaIRv2`.
        kernel: As in `MambaIRv2`.
        routing: As in `MambaIRv2`.
        sort_prompts: As in `MambaIRv2`.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        shift: int,
        hidden: int,
        *,
        window: int,
        states: int,
        tokens: int,
        rank: int,
        kernel: int,
        routing: str,
        sort_prompts: bool,
    ):
        super().__init__()
        self.shift = shift
        self.scale1 = nn.Parameter(torch.full((channels,), 1e-4))
        self.scale2 = nn.Parameter(torch.full((channels,), 1e-4))
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.norm3, self.norm4 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.wqkv = nn.Linear(channels, 3 * channels)
        self.win_mhsa = SharedWindowAttention(channels, heads, window)
        self.assm = AttentiveStateSpace(channels, hidden, states, tokens, rank, routing, sort_prompts)
        self.convffn1 = ConvFeedForward(channels, hidden, kernel)
        self.convffn2 = ConvFeedForward(channels, hidden, kernel)
        self.embeddingA = nn.Embedding(rank, states)
        nn.init.uniform_(self.embeddingA.weight, -1 / rank, 1 / rank)

    def forward(self, x: torch.Tensor, grids: tuple[Windows, Windows], index: torch.Tensor) -> torch.Tensor:
        """(N, H, W, C) to the same, for the plain and the shifted grid of windows and the position index."""
        windows = grids[self.shift > 0]
        rows = linear(self.wqkv, self.norm1(x)).flatten(0, 2).index_select(0, windows.order)
        attended = self.win_mhsa(rows, windows, self.shift, index)
        y = x + attended.index_select(0, windows.place).view(x.shape)
        y = y + self.convffn1(self.norm2(y))
        x = torch.addcmul(y, x, self.scale1)
        y = x + self.assm(self.norm3(x), self.embeddingA.weight)
        y = y + self.convffn2(self.norm4(y))
        return torch.addcmul(y, x, self.scale2)


class AttentiveLayers(nn.Module):
    """Attentive layers in a row, every other one in the shifted grid, under the key `layers` of the checkpoints."""

    def __init__(self, layers: list[AttentiveLayer]):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: torch.Tensor, grids: tuple[Windows, Windows], index: torch.Tensor) -> torch.Tensor:
        """(N, H, W, C) to the same."""
        for layer in self.layers:
            x = layer(x, grids, index)
        return x


class AttentiveGroup(nn.Module):
    """Attentive state-space group (ASSG): x + convolution(layers(x))."""

    def __init__(self, channels: int, layers: AttentiveLayers):
        super().__init__()
        self.residual_group = layers
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor, grids: tuple[Windows, Windows], index: torch.Tensor) -> torch.Tensor:
        """(N, H, W, C) to the same."""
        return x + convolve(self.conv, self.residual_group(x, grids, index))


def mirrored(x: torch.Tensor, multiple: int) -> torch.Tensor:
    """Pads (N, C, H, W) at the right and bottom to multiples, by mirroring with the edge pixel repeated."""
    for axis in (2, 3):
        size = x.shape[axis]
        if size % multiple:
            position = torch.arange(size + -size % multiple, device=x.device) % (2 * size)
            x = x.index_select(axis, torch.minimum(position, 2 * size - 1 - position))
    return x


class MambaIRv2(nn.Module):
    """MambaIRv2 for tasks at the image's own resolution: denoising and JPEG artefact removal.

    Args:
        width: Channels C.
        blocks: Attentive layers of each group.
        heads: Attention heads of each group.
        window: Side of a window in pixels.
        states: State-space dimension per channel.
        rank: Inner rank of the prompts.
        tokens: How many tokens pixels are routed to.
        kernel: Side of the depthwise kernel of the feed-forwards.
        mlp_ratio: Hidden channels over C.
        routing: "argmax", or "gumbel" for the official random choice, in training and at inference.
        sort_prompts: Whether prompts are sorted together with their pixels, as the paper says. The official code
            leaves them in raster order: the scan's i-th position takes the prompt of the image's i-th pixel, and
            its weights are trained for that.
        channels: Image channels.
    """

    def __init__(
        self,
        *,
        width: int = 174,
        blocks: tuple[int, ...] = (6, 6, 6, 6, 6, 6),
        heads: tuple[int, ...] = (6, 6, 6, 6, 6, 6),
        window: int = 16,
        states: int = 16,
        rank: int = 64,
        tokens: int = 128,
        kernel: int = 5,
        mlp_ratio: float = 2,
        routing: Literal["argmax", "gumbel"] = "argmax",
        sort_prompts: bool = False,
        channels: int = 3,
    ):
        super().__init__()
        self.window = window
        mean = DIV2K_MEAN if channels == 3 else (0.0,) * channels
        self.register_buffer("image_mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("relative_position_index_SA", relative_position_index(window))
        self.conv_first = nn.Conv2d(channels, width, 3, padding=1)
        self.patch_embed = Embedding(width)
        options: dict[str, Any] = {
            "window": window,
            "states": states,
            "tokens": tokens,
            "rank": rank,
            "kernel": kernel,
            "routing": routing,
            "sort_prompts": sort_prompts,
        }

        def group(count: int, group_heads: int) -> AttentiveGroup:
            hidden = int(width * mlp_ratio)
            layers = [
                AttentiveLayer(width, group_heads, window // 2 * (i % 2), hidden, **options) for i in range(count)
            ]
            return AttentiveGroup(width, AttentiveLayers(layers))

        self.layers = nn.ModuleList(group(*pair) for pair in zip(blocks, heads, strict=True))
        self.norm = nn.LayerNorm(width)
        self.conv_after_body = nn.Conv2d(width, width, 3, padding=1)
        self.conv_last = nn.Conv2d(width, channels, 3, padding=1)
        initialise(self)

    def features(self, padded: torch.Tensor) -> torch.Tensor:
        """The deepest features (N, width, H, W) of an image (N, C, H, W), H and W multiples of the window."""
        shallow = convolve(self.conv_first, (padded - self.image_mean).permute(0, 2, 3, 1))
        grids = (
            divide(shallow.shape, self.window, 0, padded.device),
            divide(shallow.shape, self.window, self.window // 2, padded.device),
        )
        x = self.patch_embed(shallow)
        for group in self.layers:
            x = group(x, grids, self.relative_position_index_SA)
        return (convolve(self.conv_after_body, self.norm(x)) + shallow).permute(0, 3, 1, 2)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) in [0, 1] to the same shape, not clamped; any H and W."""
        return self.deepest_features(image)[0]

    def deepest_features(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What `forward` gives, and its features (N, width, H, W), sides rounded up to windows, for ensembles."""
        height, width = image.shape[-2:]
        padded = mirrored(image, self.window)
        features = self.features(padded)
        return (padded + self.conv_last(features))[:, :, :height, :width], features


VARIANTS = {
    "mambairv2-denoise": Variant(
        architecture="mambairv2", arguments={}, about="colour denoising", parameters=22_657_971
    ),
    "mambairv2-demo": Variant(
        architecture="mambairv2",
        arguments={
            "width": 24,
            "blocks": [2, 2],
            "heads": [2, 3],
            "window": 8,
            "states": 8,
            "rank": 6,
            "tokens": 8,
        },
        about="minutes on a CPU",
    ),
}
