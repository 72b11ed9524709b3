"""Masked denoising transformer: a light SwinIR trained with most of its input and of its attention masked.

Source: Chen et al., "Masked Image Training for Generalizable Deep Image Denoising", CVPR 2023 (arXiv 2303.13132).
Written from the paper; state-dict keys are those of the published checkpoints. No residual leads around the body or
the network: what comes out is the image.

The defaults are the paper's: training replaces 75 to 85 % of the embedded tokens by a mask vector, zero unless it is
learned, and in training and inference alike 75 % of the tokens are left out before every attention, so that both see
the same. `MaskedDenoiser(**OFFICIAL)` is what the official code does instead: 80 to 90 % of the pixels are set to -0.1
before the network. It draws attention masks at random in inference too; here they come from a fixed seed, so that
results repeat and the network exports. The authors gain 0.3 dB by averaging several passes: see
`relume.inference.masks`.
"""

from typing import Literal

import torch
from torch import nn

from relume.models.layers import channels_last, pad_to_multiple
from relume.models.registry import Variant
from relume.models.swinir import DIV2K_MEAN, Embedding, ResidualSwinGroup, SwinBlocks, convolve, tail
from relume.models.window_attention import divide, drop_path_rates, initialise

OFFICIAL = {"masked": "pixels", "input_mask_ratio": (0.8, 0.9)}
# The largest prime whose square is below 2^31: some runtimes compute int64 graphs in int32. Cubing is one to one.
PRIME = 46_337


class MaskedDenoiser(nn.Module):
    """SwinIR without outer residuals, with an input mask and attention masks.

    Args:
        width: Channels C.
        blocks: Swin blocks of each residual group.
        heads: Attention heads of each group.
        window: Side of a window in pixels.
        mlp_ratio: Hidden channels of the feed-forward over C.
        masked: What the input mask hides: embedded "tokens", in whose place is zero or, of "learned_tokens", a vector
            that is learned from zero on (the paper leaves it open), or "pixels" (the official code).
        input_mask_ratio: Range in [0, 1] from which every training image draws the part that is hidden.
        attention_mask_ratio: Part of the tokens in [0, 1] that each attention is denied; 0 turns the mask off.
        seed: Of the attention masks outside training; any whole number from 0.
        drop_path: Stochastic depth at the last block in training.
        image_size: Training patch, for which the checkpoints hold their buffers `attn_mask`. Nothing else.
        channels: Image channels.
    """

    def __init__(
        self,
        *,
        width: int = 60,
        blocks: tuple[int, ...] = (6, 6, 6, 6),
        heads: tuple[int, ...] = (6, 6, 6, 6),
        window: int = 8,
        mlp_ratio: float = 2,
        masked: Literal["tokens", "learned_tokens", "pixels"] = "tokens",
        input_mask_ratio: tuple[float, float] = (0.75, 0.85),
        attention_mask_ratio: float = 0.75,
        seed: int = 0,
        drop_path: float = 0.1,
        image_size: int = 64,
        channels: int = 3,
    ):
        super().__init__()
        self.window, self.masked, self.seed = window, masked, seed
        self.input_mask_ratio, self.attention_mask_ratio = input_mask_ratio, attention_mask_ratio
        self.attentions = sum(blocks)
        mean = DIV2K_MEAN if channels == 3 else (0.0,) * channels
        self.register_buffer("image_mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.conv_first = nn.Conv2d(channels, width, 1)
        if masked == "learned_tokens":
            self.mask_token = nn.Parameter(torch.zeros(width))
        self.patch_embed = Embedding(width)
        rates = iter(drop_path_rates(drop_path, sum(blocks)))
        self.layers = nn.ModuleList(
            ResidualSwinGroup(
                SwinBlocks(
                    width, group_heads, window, int(width * mlp_ratio), [next(rates) for _ in range(count)], image_size
                ),
                width,
                bottleneck=True,
            )
            for count, group_heads in zip(blocks, heads, strict=True)
        )
        self.norm = nn.LayerNorm(width)
        self.conv_after_body = tail(width, bottleneck=True)
        self.conv_last = nn.Conv2d(width, channels, 3, padding=1)
        initialise(self)

    def forward(
        self,
        image: torch.Tensor,
        input_keep: torch.Tensor | None = None,
        attention_keep: torch.Tensor | None = None,
        mask_seed: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Denoises; masks are drawn here where they are not given.

        Args:
            image: (N, C, H, W) in [0, 1]; any H and W, padded by reflection to multiples of the window.
            input_keep: (N, 1, H, W), 0 where the input is hidden and 1 elsewhere. When None, drawn at each call in
                training, all ones otherwise.
            attention_keep: (N, attentions, H, W) with H and W of the padded image, 0 where a token is left
                out before that attention. When None, drawn at each call in training, from `seed` otherwise.
            mask_seed: (N,), added to `seed` for each image; whole numbers below 2^24.

        Returns:
            (N, C, H, W), not clamped.
        """
        height, width = image.shape[-2:]
        if input_keep is None and self.training:
            input_keep = self.draw_input_mask(image)
        if input_keep is not None and self.masked == "pixels":
            image = torch.where(input_keep > 0, image, -0.1)
        padded = pad_to_multiple(image, self.window, mode="reflect")
        x = channels_last(self.conv_first(padded - self.image_mean)).permute(0, 2, 3, 1)
        if input_keep is not None and self.masked != "pixels":
            keep = pad_to_multiple(input_keep, self.window, mode="reflect").permute(0, 2, 3, 1).to(x.dtype)
            x = x * keep + self.mask_token.to(x.dtype) * (1 - keep) if self.masked == "learned_tokens" else x * keep
        if attention_keep is None and self.attention_mask_ratio > 0:
            attention_keep = self.draw_attention_masks(padded, mask_seed)
        keeps = None
        if attention_keep is not None:
            keeps = list(attention_keep.to(x.dtype).transpose(0, 1).reshape(self.attentions, -1, 1).unbind())
        grids = (
            divide(x.shape, self.window, 0, image.device),
            divide(x.shape, self.window, self.window // 2, image.device),
        )
        x = self.patch_embed(x)
        done = 0
        for group in self.layers:
            count = len(group.residual_group.blocks)
            x = group(x, grids, None if keeps is None else keeps[done : done + count])
            done += count
        x = convolve(self.conv_after_body, self.norm(x)).permute(0, 3, 1, 2)
        return (self.conv_last(x) + self.image_mean)[:, :, :height, :width]

    def draw_input_mask(self, image: torch.Tensor) -> torch.Tensor:
        """(N, 1, H, W) of 0 and 1 from torch's generator; every image has its own ratio, all channels one mask."""
        low, high = self.input_mask_ratio
        ratio = low + (high - low) * torch.rand(image.shape[0], 1, 1, 1, device=image.device)
        noise = torch.rand(image.shape[0], 1, *image.shape[-2:], device=image.device)
        return (noise >= ratio).to(image.dtype)

    def draw_attention_masks(self, padded: torch.Tensor, mask_seed: torch.Tensor | None = None) -> torch.Tensor:
        """(N, attentions, H, W) of 0 and 1: from torch's generator in training, else from `seed`, equal for all images
        but for what `mask_seed` adds to it.

        The numbers of the seed come from whole-number arithmetic (cubes modulo a prime) that is the same on every
        device and in every runtime.
        """
        shape = (self.attentions, *padded.shape[-2:])
        if self.training:
            uniform = torch.rand(padded.shape[0], *shape, device=padded.device)
        else:
            if mask_seed is None:
                state = torch.full((1, 1, 1, 1), self.seed % PRIME, device=padded.device)
            else:
                state = ((mask_seed.long() + self.seed % PRIME) % PRIME).view(-1, 1, 1, 1)
            for axis, length in enumerate(shape, start=1):
                place = torch.arange(length, device=padded.device).view([-1 if i == axis else 1 for i in range(4)])
                state = (place % PRIME * 17_389 + state) % PRIME
                for increment in (12_345, 6_789):
                    state = (state * state % PRIME * state + increment) % PRIME
            uniform = (state.to(torch.float32) / PRIME).expand(padded.shape[0], -1, -1, -1)
        return (uniform >= self.attention_mask_ratio).to(padded.dtype)


VARIANTS = {
    "masked-denoise": Variant(
        architecture="masked", arguments={}, about="noise unseen in training; masks as in the paper", parameters=824_118
    ),
    "masked-denoise-official": Variant(
        architecture="masked",
        arguments=OFFICIAL,
        about="noise unseen in training; masks as in the official code",
        parameters=824_118,
    ),
    "masked-demo": Variant(
        architecture="masked",
        arguments={"width": 24, "blocks": [2, 2], "heads": [2, 2], "drop_path": 0.0, "image_size": 32},
        about="minutes on a CPU",
    ),
}
