"""The fusion of finished images: what is made of the members' results, each blended over the whole image."""

import numpy as np

from relume.inference.plan import EdgeFusion


def fuse_members(members_HWC: np.ndarray, fusion: EdgeFusion | None) -> np.ndarray:
    """The image of all members.

    Args:
        members_HWC: float32 (H, W, members · C) in about [0, 1], in the order of `EdgeFusion.members`.
        fusion: None for the one member's image as it is.

    Returns:
        float32 (H, W, C), not clipped.
    """
    if fusion is None:
        return members_HWC
    from relume.models.fusion.edges import fuse_edges

    by_name = dict(zip(fusion.members, np.split(members_HWC, len(fusion.members), axis=2), strict=True))
    return fuse_edges(by_name[fusion.smooth], by_name[fusion.detail], mask=fusion.mask, thresholds=fusion.thresholds)
