"""Full-reference image quality: PSNR and SSIM of 8-bit RGB or gray images, and what is measured of an image."""

import numpy as np

SSIM_WINDOW = 11  # pixels a side


def to_8_bit(image: np.ndarray) -> np.ndarray:
    """float in [0, 1] to uint8, clamped and rounded."""
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)


def luma(image: np.ndarray) -> np.ndarray:
    """The luma that super-resolution is measured on: Y of BT.601 from 16 to 235, not rounded.

    Args:
        image: (H, W, 3) RGB, in [0, 255]; or gray (H, W, 1), which is its own luma.

    Returns:
        float32 (H, W); of gray the values themselves.

    Source: ITU-R BT.601 with the weights of MATLAB's rgb2ycbcr.
    """
    if image.shape[2] == 1:
        return image[..., 0].astype(np.float32)
    return (16 + image.astype(np.float64) @ (np.array([65.481, 128.553, 24.966]) / 255)).astype(np.float32)


def shaved(image: np.ndarray, border: int) -> np.ndarray:
    """An image (H, W, ...) without its outermost `border` pixels, where padding decides more than the method."""
    return image[border : image.shape[0] - border, border : image.shape[1] - border]


def psnr(image: np.ndarray, reference: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB over all values, peak 255.

    Args:
        image: uint8 (H, W) or (H, W, C).
        reference: uint8 of the same shape.

    Returns:
        10 log10(255² / mse); infinity for equal images.
    """
    mse = np.square(image.astype(np.float32) - reference.astype(np.float32)).mean(dtype=np.float64)
    return float("inf") if mse == 0 else float(10 * np.log10(255.0**2 / mse))


def ssim(image: np.ndarray, reference: np.ndarray) -> float:
    """Mean structural similarity, per channel, with the published Gaussian window of 11 x 11, sigma 1.5.

    Args:
        image: uint8 (H, W) or (H, W, C), at least 11 x 11 pixels.
        reference: uint8 of the same shape.

    Returns:
        The mean over the windows that lie wholly inside the image and over the channels, 1 for equal images.

    Source: Wang et al., "Image quality assessment: from error visibility to structural similarity",
    IEEE TIP 2004, eq. 13 with K1 = 0.01, K2 = 0.03, L = 255.
    """
    import cv2

    def mean(x: np.ndarray) -> np.ndarray:
        border = SSIM_WINDOW // 2
        return cv2.GaussianBlur(x, (SSIM_WINDOW, SSIM_WINDOW), 1.5)[border:-border, border:-border]

    x, y = image.astype(np.float64), reference.astype(np.float64)
    mean_x, mean_y = mean(x), mean(y)
    var_x, var_y = mean(x * x) - mean_x**2, mean(y * y) - mean_y**2
    covariance = mean(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similarity = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    similarity /= (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    return float(similarity.mean())
