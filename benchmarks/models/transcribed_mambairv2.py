"""MambaIRv2 in the plain order of its paper, with the selective scan as the recurrence is written: step by step."""

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.models.case import Case
from benchmarks.models.transcribed_swinir import Embedding, flat, partition, reverse, shift_mask, square


class Attention(nn.Module):
    """Window attention on given queries, keys and values."""

    def __init__(self, channels: int, heads: int, window: int):
        super().__init__()
        self.heads = heads
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.proj = nn.Linear(channels, channels)

    def forward(self, qkv: torch.Tensor, index: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """(windows, T, 3C) to (windows, T, C)."""
        windows, area, channels = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
        qkv = qkv.reshape(windows, area, 3, self.heads, channels // self.heads).permute(2, 0, 3, 1, 4).contiguous()
        query, key, value = qkv[0], qkv[1], qkv[2]
        scores = (query * (channels // self.heads) ** -0.5) @ key.transpose(-2, -1)
        bias = self.relative_position_bias_table[index.view(-1)].view(area, area, -1)
        scores = scores + bias.permute(2, 0, 1).contiguous().unsqueeze(0)
        if mask is not None:
            count = mask.shape[0]
            scores = scores.view(windows // count, count, self.heads, area, area) + mask.unsqueeze(1).unsqueeze(0)
            scores = scores.view(-1, self.heads, area, area)
        return self.proj((scores.softmax(dim=-1) @ value).transpose(1, 2).reshape(windows, area, channels))


class Scan(nn.Module):
    """Selective scan, one step after the other."""

    def __init__(self, channels: int, states: int):
        super().__init__()
        self.rank, self.states = -(-channels // 16), states
        self.x_proj_weight = nn.Parameter(torch.zeros(1, self.rank + 2 * states, channels))
        self.dt_projs_weight = nn.Parameter(torch.zeros(1, channels, self.rank))
        self.dt_projs_bias = nn.Parameter(torch.zeros(1, channels))
        self.A_logs = nn.Parameter(torch.zeros(channels, states))
        self.Ds = nn.Parameter(torch.ones(channels))

    def forward(self, x: torch.Tensor, prompt: torch.Tensor) -> torch.Tensor:
        """(N, L, E) to the same."""
        drive = x.transpose(1, 2).contiguous()  # (N, E, L)
        projected = torch.einsum("nel,ce->ncl", drive, self.x_proj_weight[0])
        step, into, out = projected.split([self.rank, self.states, self.states], dim=1)
        step = torch.einsum("nrl,er->nel", step, self.dt_projs_weight[0])
        step = F.softplus(step + self.dt_projs_bias[0][:, None])
        out = out + prompt.transpose(1, 2)
        rate = -torch.exp(self.A_logs)
        decay = torch.exp(torch.einsum("nel,es->nels", step, rate))
        driven = torch.einsum("nel,nsl,nel->nels", step, into, drive)
        state, outputs = drive.new_zeros(drive.shape[0], *rate.shape), []
        for t in range(drive.shape[2]):
            state = decay[:, :, t] * state + driven[:, :, t]
            outputs.append(torch.einsum("nes,ns->ne", state, out[:, :, t]))
        y = torch.stack(outputs, dim=2) + drive * self.Ds[:, None]
        return y.transpose(1, 2).contiguous()


class StateSpace(nn.Module):
    """Attentive state space by argmax."""

    def __init__(self, c: int, hidden: int, states: int, tokens: int, rank: int):
        super().__init__()
        self.selectiveScan = Scan(hidden, states)
        self.out_norm = nn.LayerNorm(hidden)
        self.out_proj = nn.Linear(hidden, c)
        self.in_proj = nn.Sequential(nn.Conv2d(c, hidden, 1))
        self.CPE = nn.Sequential(nn.Conv2d(hidden, hidden, 3, 1, 1, groups=hidden))
        self.embeddingB = nn.Embedding(tokens, rank)
        self.route = nn.Sequential(nn.Linear(c, c // 3), nn.GELU(), nn.Linear(c // 3, tokens), nn.LogSoftmax(dim=-1))

    def forward(self, x: torch.Tensor, size: tuple[int, int], embedding: nn.Embedding) -> torch.Tensor:
        """(N, L, C) to the same."""
        token = self.route(x).argmax(dim=-1)
        policy = F.one_hot(token, self.embeddingB.num_embeddings).to(x.dtype)
        prompt = policy @ (self.embeddingB.weight @ embedding.weight)
        order = torch.sort(token, dim=-1, stable=True)[1]
        back = torch.argsort(order, dim=-1)
        y = self.in_proj(square(x, size).contiguous())
        y = flat(y * torch.sigmoid(self.CPE(y)))
        y = torch.gather(y, 1, order.unsqueeze(-1).expand(y.shape))
        y = self.out_proj(self.out_norm(self.selectiveScan(y, prompt)))
        return torch.gather(y, 1, back.unsqueeze(-1).expand(y.shape))


class Depthwise(nn.Module):
    """Depthwise convolution of tokens."""

    def __init__(self, hidden: int, kernel: int):
        super().__init__()
        self.depthwise_conv = nn.Sequential(nn.Conv2d(hidden, hidden, kernel, 1, kernel // 2, groups=hidden), nn.GELU())


class FeedForward(nn.Module):
    """Linear, GELU, plus depthwise, linear."""

    def __init__(self, c: int, hidden: int, kernel: int):
        super().__init__()
        self.fc1 = nn.Linear(c, hidden)
        self.dwconv = Depthwise(hidden, kernel)
        self.fc2 = nn.Linear(hidden, c)

    def forward(self, x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """(N, L, C) to the same."""
        x = F.gelu(self.fc1(x))
        x = x + flat(self.dwconv.depthwise_conv(square(x, size).contiguous())).contiguous()
        return self.fc2(x)


class Layer(nn.Module):
    """Attentive layer."""

    def __init__(
        self,
        c: int,
        heads: int,
        shift: int,
        *,
        window: int,
        states: int,
        rank: int,
        tokens: int,
        kernel: int,
        hidden: int,
    ):
        super().__init__()
        self.window, self.shift = window, shift
        self.scale1, self.scale2 = nn.Parameter(torch.ones(c)), nn.Parameter(torch.ones(c))
        self.norm1, self.norm2, self.norm3, self.norm4 = (nn.LayerNorm(c) for _ in range(4))
        self.wqkv = nn.Linear(c, 3 * c)
        self.win_mhsa = Attention(c, heads, window)
        self.assm = StateSpace(c, hidden, states, tokens, rank)
        self.convffn1, self.convffn2 = FeedForward(c, hidden, kernel), FeedForward(c, hidden, kernel)
        self.embeddingA = nn.Embedding(rank, states)

    def forward(self, x: torch.Tensor, size: tuple[int, int], index: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(N, L, C) to the same."""
        n, _, c = x.shape
        qkv = self.wqkv(self.norm1(x)).view(n, *size, 3 * c)
        if self.shift:
            qkv = torch.roll(qkv, (-self.shift, -self.shift), (1, 2))
        y = self.win_mhsa(partition(qkv, self.window), index, mask if self.shift else None)
        y = reverse(y, self.window, *size)
        if self.shift:
            y = torch.roll(y, (self.shift, self.shift), (1, 2))
        y = y.view(n, -1, c) + x
        x = x * self.scale1 + (self.convffn1(self.norm2(y), size) + y)
        y = self.assm(self.norm3(x), size, self.embeddingA) + x
        return x * self.scale2 + (y + self.convffn2(self.norm4(y), size))


class Group(nn.Module):
    """Residual group."""

    def __init__(self, layers: list[Layer], c: int):
        super().__init__()
        self.residual_group = nn.ModuleDict({"layers": nn.ModuleList(layers)})
        self.conv = nn.Conv2d(c, c, 3, 1, 1)

    def forward(self, x: torch.Tensor, size: tuple[int, int], index: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(N, L, C) to the same."""
        y = x
        for layer in self.residual_group["layers"]:
            y = layer(y, size, index, mask)
        return flat(self.conv(square(y, size))) + x


class MambaIRv2(nn.Module):
    """MambaIRv2 for denoising of sizes that are multiples of the window."""

    def __init__(
        self,
        *,
        width: int = 174,
        blocks: tuple[int, ...] = (6,) * 6,
        heads: tuple[int, ...] = (6,) * 6,
        window: int = 16,
        states: int = 16,
        rank: int = 64,
        tokens: int = 128,
        kernel: int = 5,
    ):
        super().__init__()
        self.window = window
        self.mean = torch.tensor([0.4488, 0.4371, 0.4040]).view(1, 3, 1, 1)
        self.register_buffer("relative_position_index_SA", torch.zeros(window**2, window**2, dtype=torch.long))
        self.conv_first = nn.Conv2d(3, width, 3, 1, 1)
        self.patch_embed = Embedding(width)
        options = {"window": window, "states": states, "rank": rank, "tokens": tokens, "kernel": kernel}
        self.layers = nn.ModuleList(
            Group(
                [Layer(width, h, window // 2 * (i % 2), hidden=2 * width, **options) for i in range(count)],
                width,
            )
            for count, h in zip(blocks, heads, strict=True)
        )
        self.norm = nn.LayerNorm(width)
        self.conv_after_body = nn.Conv2d(width, width, 3, 1, 1)
        self.conv_last = nn.Conv2d(width, 3, 3, 1, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to the same."""
        mean = self.mean.to(image)
        x, size = image - mean, (image.shape[2], image.shape[3])
        mask = shift_mask(*size, self.window, self.window // 2).to(image)
        shallow = self.conv_first(x)
        y = self.patch_embed.norm(flat(shallow))
        for group in self.layers:
            y = group(y, size, self.relative_position_index_SA, mask)
        y = self.conv_after_body(square(self.norm(y), size)) + shallow
        return x + self.conv_last(y) + mean


CASES = [
    Case(
        name="mambairv2-denoise, 1 group of 2",
        architecture="mambairv2",
        arguments={"blocks": (2,), "heads": (6,)},
        transcription=MambaIRv2,
        size=(64, 64),
    ),
    Case(
        name="mambairv2-denoise, 1 layer",
        architecture="mambairv2",
        arguments={"blocks": (1,), "heads": (6,)},
        transcription=MambaIRv2,
        size=(128, 128),
    ),
]
