"""BuptMM's fusion: at edges one network's result, elsewhere the mean of two; on finished images.

Source: team BuptMM of the NTIRE 2025 denoising challenge (arXiv 2504.12276), third place: edges are found on the
results of Restormer and HAT, the two maps are joined by OR and XOR, edge pixels come from HAT and the others from the
mean. Which of the joined maps decides is open: "union" is the summary's wording; (R or H) xor H, the edges that
Restormer alone has, is the other reading. Thresholds are not published; the defaults are OpenCV's usual ones.
"""

from typing import Literal

import cv2
import numpy as np

EdgeMask = Literal["union", "restormer_only", "hat_only", "xor"]


def edges_of(image: np.ndarray, thresholds: tuple[float, float] = (100, 200)) -> np.ndarray:
    """Canny edges of the image's 8-bit luma.

    Args:
        image: float (H, W, 3) RGB or (H, W, 1), in [0, 1]; values outside are clipped.
        thresholds: Gradient from which a pixel may continue an edge, and from which it starts one.

    Returns:
        bool (H, W).
    """
    levels = np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
    gray = cv2.cvtColor(levels, cv2.COLOR_RGB2GRAY) if image.shape[2] == 3 else levels[:, :, 0]
    return cv2.Canny(gray, *thresholds, apertureSize=3) > 0


def join_edges(restormer: np.ndarray, hat: np.ndarray, mask: EdgeMask) -> np.ndarray:
    """Joins two edge maps, bool (H, W), into the map of pixels that are taken from HAT."""
    union = restormer | hat
    if mask == "union":
        return union
    return {"restormer_only": union ^ hat, "hat_only": union ^ restormer, "xor": restormer ^ hat}[mask]


def fuse_edges(
    restormer: np.ndarray,
    hat: np.ndarray,
    *,
    mask: EdgeMask = "union",
    thresholds: tuple[float, float] = (100, 200),
    dilation: int = 0,
    feather: float = 0,
) -> np.ndarray:
    """Takes edge pixels from HAT's result and the mean of both elsewhere.

    Args:
        restormer: Result of the network that smooths more, float (H, W, C), of the whole image, not of a tile.
        hat: Result of the network that keeps edges, the same shape.
        mask: Which pixels count as edges.
        thresholds: As in `edges_of`.
        dilation: Pixels by which edges are widened to each side.
        feather: Standard deviation in pixels of the blur that softens the mask; 0 keeps it hard.

    Returns:
        float32 (H, W, C).
    """
    weight = join_edges(edges_of(restormer, thresholds), edges_of(hat, thresholds), mask).astype(np.float32)
    if dilation:
        weight = np.asarray(cv2.dilate(weight, np.ones((2 * dilation + 1, 2 * dilation + 1), np.uint8)))
    if feather:
        weight = np.asarray(cv2.GaussianBlur(weight, (0, 0), feather))
    mean = (restormer.astype(np.float32) + hat) / 2
    return mean + weight[:, :, None] * (hat - mean)
