"""PromptIR: Restormer's trunk, with learned prompts in the decoder that represent the degradation.

Source: Potlapalli et al., "PromptIR: Prompting for All-in-One Blind Image Restoration", NeurIPS 2023
(arXiv 2306.13090). Written from the paper and its published results; state-dict keys are those of the published
checkpoint. Deviations: inputs of any size are padded by reflection to a multiple of 8 inside `forward` (the
published evaluation crops them), and the width is free, while only 48 fits the checkpoint.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from relume.models.layers import PointwiseConv, channels_last, pad_to_multiple
from relume.models.registry import Variant
from relume.models.restormer import PatchEmbed, Resample, TransformerBlock

# Layers of the checkpoint that the published forward pass never uses, as fnmatch patterns of state-dict keys.
UNUSED = ("chnl_reduce*", "reduce_noise_channel_*")


class PromptGeneration(nn.Module):
    """A prompt for a feature: learned components weighted by the feature's mean, resized and convolved (section 3.1).

    Args:
        prompt_channels: Channels of the prompt, P.
        size: Side of the learned components.
        feature_channels: Channels of the feature, C.
        components: How many components are mixed.
    """

    def __init__(self, prompt_channels: int, size: int, feature_channels: int, components: int = 5):
        super().__init__()
        self.prompt_param = nn.Parameter(torch.rand(1, components, prompt_channels, size, size))
        self.linear_layer = nn.Linear(feature_channels, components)
        self.conv3x3 = nn.Conv2d(prompt_channels, prompt_channels, 3, padding=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to (N, P, H, W)."""
        weights = self.linear_layer(x.mean(dim=(2, 3))).softmax(dim=1)
        prompt = (weights @ self.prompt_param[0].flatten(1)).unflatten(1, self.prompt_param.shape[2:])
        prompt = F.interpolate(prompt, x.shape[-2:], mode="bilinear", align_corners=False)
        return self.conv3x3(channels_last(prompt))

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> nn.Module:
        # Module.to(memory_format=channels_last) refuses the five axes that the checkpoint's components have.
        return super()._apply(lambda t: fn(t[0])[None].contiguous() if t.dim() == 5 else fn(t), recurse)


class PromptedUShape(nn.Module):
    """The layers that PromptIR and DyNet have in common, in the order of their state dicts.

    Args:
        level: Makes a level's transformer blocks from their channels and heads and the level's number, 0 to 3.
        on_skips: Whether the prompts are for the three skips; else, as in PromptIR and in DyNet's code, for features of
            the levels 2, 3 and the latent.
        unused_layers: fnmatch patterns, of `UNUSED`, of the layers that the checkpoint holds and nothing uses.
        width: As in `PromptIR`.
        refinement_blocks: As in `PromptIR`.
        heads: As in `PromptIR`.
        expansion: As in `PromptIR`.
        bias: As in `PromptIR`.
        bias_free_norm: As in `PromptIR`.
        prompt_channels: As in `PromptIR`.
        prompt_sizes: As in `PromptIR`.
        channels: As in `PromptIR`.
    """

    size_multiple = 8

    def __init__(
        self,
        level: Callable[[int, int], nn.Module],
        *,
        on_skips: bool = False,
        unused_layers: Sequence[str] = (),
        width: int,
        refinement_blocks: int,
        heads: tuple[int, int, int, int],
        expansion: float,
        bias: bool,
        bias_free_norm: bool,
        prompt_channels: tuple[int, int, int],
        prompt_sizes: tuple[int, int, int],
        channels: int,
    ):
        super().__init__()
        fine, middle, coarse = prompt_channels

        def interaction(inputs: int) -> TransformerBlock:
            return TransformerBlock(inputs, heads[2], expansion, bias, bias_free_norm)

        first, second, third = (width, 2 * width, 4 * width) if on_skips else (2 * width, 4 * width, 8 * width)
        self.patch_embed = PatchEmbed(channels, width)
        self.prompt1 = PromptGeneration(fine, prompt_sizes[0], first)
        self.prompt2 = PromptGeneration(middle, prompt_sizes[1], second)
        self.prompt3 = PromptGeneration(coarse, prompt_sizes[2], third)
        reduced = coarse * 4 // 5
        unused_prompts, unused_noise = (pattern in unused_layers for pattern in UNUSED)
        if unused_prompts:
            self.chnl_reduce1 = PointwiseConv(fine, fine, bias=bias)
            self.chnl_reduce2 = PointwiseConv(middle, middle, bias=bias)
            self.chnl_reduce3 = PointwiseConv(coarse, reduced, bias=bias)
        if unused_noise:
            self.reduce_noise_channel_1 = PointwiseConv(width + fine, width, bias=bias)
        self.encoder_level1 = level(0, width)
        self.down1_2 = Resample(width, up=False)
        if unused_noise:
            self.reduce_noise_channel_2 = PointwiseConv(2 * width + middle, 2 * width, bias=bias)
        self.encoder_level2 = level(1, 2 * width)
        self.down2_3 = Resample(2 * width, up=False)
        if unused_noise:
            self.reduce_noise_channel_3 = PointwiseConv(4 * width + reduced, 4 * width, bias=bias)
        self.encoder_level3 = level(2, 4 * width)
        self.down3_4 = Resample(4 * width, up=False)
        self.latent = level(3, 8 * width)
        self.up4_3 = Resample((8 if on_skips else 4) * width, up=True)
        self.reduce_chan_level3 = PointwiseConv((8 if on_skips else 6) * width, 4 * width, bias=bias)
        self.noise_level3 = interaction(third + coarse)
        self.reduce_noise_level3 = PointwiseConv(third + coarse, 4 * width, bias=bias)
        self.decoder_level3 = level(2, 4 * width)
        self.up3_2 = Resample(4 * width, up=True)
        self.reduce_chan_level2 = PointwiseConv(4 * width, 2 * width, bias=bias)
        self.noise_level2 = interaction(second + middle)
        self.reduce_noise_level2 = PointwiseConv(second + middle, second, bias=bias)
        self.decoder_level2 = level(1, 2 * width)
        self.up2_1 = Resample(2 * width, up=True)
        self.noise_level1 = interaction(first + fine)
        self.reduce_noise_level1 = PointwiseConv(first + fine, first, bias=bias)
        self.decoder_level1 = level(0, 2 * width)
        self.refinement = nn.Sequential(
            *(TransformerBlock(2 * width, heads[0], expansion, bias, bias_free_norm) for _ in range(refinement_blocks))
        )
        self.output = nn.Conv2d(2 * width, channels, 3, padding=1, bias=bias)

    def prompted(self, x: torch.Tensor, level: int) -> torch.Tensor:
        """A feature joined with its prompt by a transformer block and reduced (prompt interaction, section 3.2)."""
        prompt = getattr(self, f"prompt{level}")(x)
        joined = getattr(self, f"noise_level{level}")(torch.cat([x, prompt], dim=1))
        return getattr(self, f"reduce_noise_level{level}")(joined)


class PromptIR(PromptedUShape):
    """Restormer with prompts after the latent and after the decoder levels 3 and 2.

    Args:
        width: Channels at full resolution; doubled at each level down.
        blocks: Blocks of the four levels, the last of them the latent's.
        refinement_blocks: Blocks after the decoder.
        heads: Attention heads of the four levels; the prompt interactions have those of the third.
        expansion: Feed-forward expansion.
        bias: Whether the convolutions of the blocks have biases.
        bias_free_norm: Restormer's normalisation without bias; the checkpoint has the one with.
        prompt_channels: Channels of the prompts, from the finest.
        prompt_sizes: Sides of their learned components.
        channels: Image channels.
    """

    def __init__(
        self,
        *,
        width: int = 48,
        blocks: tuple[int, int, int, int] = (4, 6, 6, 8),
        refinement_blocks: int = 4,
        heads: tuple[int, int, int, int] = (1, 2, 4, 8),
        expansion: float = 2.66,
        bias: bool = False,
        bias_free_norm: bool = False,
        prompt_channels: tuple[int, int, int] = (64, 128, 320),
        prompt_sizes: tuple[int, int, int] = (64, 32, 16),
        channels: int = 3,
    ):
        def level(number: int, inputs: int) -> nn.Sequential:
            return nn.Sequential(
                *(
                    TransformerBlock(inputs, heads[number], expansion, bias, bias_free_norm)
                    for _ in range(blocks[number])
                )
            )

        super().__init__(
            level,
            unused_layers=UNUSED,
            width=width,
            refinement_blocks=refinement_blocks,
            heads=heads,
            expansion=expansion,
            bias=bias,
            bias_free_norm=bias_free_norm,
            prompt_channels=prompt_channels,
            prompt_sizes=prompt_sizes,
            channels=channels,
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) in [0, 1] to the same shape, not clamped; any H and W."""
        height, width = image.shape[-2:]
        padded = pad_to_multiple(image, self.size_multiple, mode="reflect")
        level1 = self.encoder_level1(channels_last(self.patch_embed(padded)))
        level2 = self.encoder_level2(self.down1_2(level1))
        level3 = self.encoder_level3(self.down2_3(level2))
        x = self.prompted(self.latent(self.down3_4(level3)), 3)
        x = self.decoder_level3(self.reduce_chan_level3(torch.cat([self.up4_3(x), level3], dim=1)))
        x = self.up3_2(self.prompted(x, 2))
        x = self.decoder_level2(self.reduce_chan_level2(torch.cat([x, level2], dim=1)))
        x = self.up2_1(self.prompted(x, 1))
        x = self.decoder_level1(torch.cat([x, level1], dim=1))
        return (self.output(self.refinement(x)) + padded)[:, :, :height, :width]


DEMO = {
    "width": 12,
    "refinement_blocks": 1,
    "heads": [1, 2, 2, 4],
    "prompt_channels": [8, 16, 40],
    "prompt_sizes": [32, 16, 8],
}

VARIANTS = {
    "promptir": Variant(
        architecture="promptir", arguments={}, about="all-in-one: noise, rain, haze", parameters=35_592_263
    ),
    "promptir-demo": Variant(
        architecture="promptir", arguments={"blocks": [1, 1, 1, 2]} | DEMO, about="minutes on a CPU"
    ),
}
