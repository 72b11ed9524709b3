"""DyNet: a prompted U-shape with one transformer block per level, applied as often as the budget allows.

Source: Dudhane et al., "Dynamic Pre-training: Towards Efficient and Scalable All-in-One Image Restoration"
(arXiv 2404.02154). Written from the paper and its published results; state-dict keys are those of the published
code. The small and the large network are one set of weights that differ in how often each level's block is reused,
so one pre-training trains both. As in the paper's text a prompt is on each of the three skips. The published code has
them on the latent and on the skips of levels 3 and 2; that form, the only one that published weights could fit, is an
option.
Deviations: inputs of any size are padded by reflection to a multiple of 8 inside `forward`, and the width is free.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn

from relume.models.layers import channels_last, pad_to_multiple
from relume.models.promptir import DEMO, UNUSED, PromptedUShape
from relume.models.registry import Variant
from relume.models.restormer import TransformerBlock

SMALL, LARGE = (2, 3, 3, 4), (4, 6, 6, 8)


def repeat(block: nn.Module, x: torch.Tensor, times: int) -> torch.Tensor:
    """block(block(... block(x)))."""
    for _ in range(times):
        x = block(x)
    return x


class DyNet(PromptedUShape):
    """PromptIR's U-shape with shared weights inside each level.

    Args:
        reuse: How often the block of each of the four levels is applied, the last the latent's, when `forward`
            is not set otherwise. `LARGE` (4, 6, 6, 8) costs as much as PromptIR, `SMALL` (2, 3, 3, 4) a third less.
        prompts: `skips`, a prompt on the skip of each of the three levels, as in the paper; `code`, on the latent and
            on the skips of levels 3 and 2, with layers that nothing uses, as in the published code.
        width: As in `PromptIR`.
        refinement_blocks: Blocks after the decoder, each with its own weights.
        heads: As in `PromptIR`.
        expansion: As in `PromptIR`.
        bias: As in `PromptIR`.
        bias_free_norm: As in `PromptIR`.
        prompt_channels: As in `PromptIR`.
        prompt_sizes: As in `PromptIR`.
        channels: As in `PromptIR`.
    """

    def __init__(
        self,
        *,
        reuse: Sequence[int] = LARGE,
        prompts: Literal["skips", "code"] = "skips",
        width: int = 48,
        refinement_blocks: int = 4,
        heads: tuple[int, int, int, int] = (1, 2, 4, 8),
        expansion: float = 2.66,
        bias: bool = False,
        bias_free_norm: bool = False,
        prompt_channels: tuple[int, int, int] = (64, 128, 320),
        prompt_sizes: tuple[int, int, int] = (64, 32, 16),
        channels: int = 3,
    ):
        super().__init__(
            lambda number, inputs: TransformerBlock(inputs, heads[number], expansion, bias, bias_free_norm),
            on_skips=prompts == "skips",
            unused_layers=UNUSED[1:] if prompts == "code" else (),
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
        self.reuse = tuple(reuse)
        self.on_skips = prompts == "skips"

    def forward(self, image: torch.Tensor, reuse: Sequence[int] | None = None) -> torch.Tensor:
        """Restores images; any H and W.

        Args:
            image: (N, C, H, W) in [0, 1].
            reuse: How often each level's block is applied in this call, such as `SMALL`; the constructor's
                when None.

        Returns:
            The same shape, not clamped.
        """
        first, second, third, latent = self.reuse if reuse is None else reuse
        height, width = image.shape[-2:]
        padded = pad_to_multiple(image, self.size_multiple, mode="reflect")
        level1 = repeat(self.encoder_level1, channels_last(self.patch_embed(padded)), first)
        level2 = repeat(self.encoder_level2, self.down1_2(level1), second)
        level3 = repeat(self.encoder_level3, self.down2_3(level2), third)
        x = repeat(self.latent, self.down3_4(level3), latent)
        if self.on_skips:
            level1, level2, level3 = self.prompted(level1, 1), self.prompted(level2, 2), self.prompted(level3, 3)
        else:
            level2, level3, x = self.prompted(level2, 1), self.prompted(level3, 2), self.prompted(x, 3)
        x = torch.cat([self.up4_3(x), level3], dim=1)
        x = repeat(self.decoder_level3, self.reduce_chan_level3(x), third)
        x = torch.cat([self.up3_2(x), level2], dim=1)
        x = repeat(self.decoder_level2, self.reduce_chan_level2(x), second)
        x = repeat(self.decoder_level1, torch.cat([self.up2_1(x), level1], dim=1), first)
        return (self.output(self.refinement(x)) + padded)[:, :, :height, :width]


VARIANTS = {
    "dynet-large": Variant(architecture="dynet", arguments={}, about="all-in-one: noise, rain, haze"),
    "dynet-small": Variant(
        architecture="dynet", arguments={"reuse": SMALL}, about="the weights of dynet-large at two thirds of its cost"
    ),
    "dynet-code-large": Variant(
        architecture="dynet",
        arguments={"prompts": "code"},
        about="dynet-large with the prompts where the published code has them",
        parameters=16_726_031,
    ),
    "dynet-code-small": Variant(
        architecture="dynet",
        arguments={"prompts": "code", "reuse": SMALL},
        about="the weights of dynet-code-large at two thirds of its cost",
        parameters=16_726_031,
    ),
    "dynet-demo": Variant(architecture="dynet", arguments={"reuse": [1, 1, 1, 2]} | DEMO, about="minutes on a CPU"),
}
