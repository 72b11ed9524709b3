"""Synthetic degradations: pure functions of a float32 image (C, H, W) in [0, 1] and a random generator."""

from relume.degradations.areas import degraded_areas
from relume.degradations.blur import blur_gaussian, blur_motion, motion_kernel
from relume.degradations.camera import add_camera_noise
from relume.degradations.compression import compress_jpeg
from relume.degradations.counter import STREAMS, counter_rng
from relume.degradations.developed import (
    LUMA,
    add_developed_noise,
    correlated_field,
    denoise_in_camera,
    sharpen_in_camera,
)
from relume.degradations.noise import (
    add_correlated_noise,
    add_gaussian_noise,
    add_poisson_gaussian_noise,
    add_poisson_noise,
    add_rendering_noise,
    add_salt_and_pepper,
    add_speckle_noise,
    as_8_bits,
)
from relume.degradations.pipeline import Degraded, degrade, degrade_at
from relume.degradations.resampling import downscale_bicubic, upscale_bicubic
from relume.degradations.settings import Degradation
from relume.degradations.sharpening import sharpen_usm
from relume.degradations.weather import add_haze, add_rain, smooth_depth

__all__ = [
    "LUMA",
    "STREAMS",
    "Degradation",
    "Degraded",
    "add_camera_noise",
    "add_correlated_noise",
    "add_developed_noise",
    "add_gaussian_noise",
    "add_haze",
    "add_poisson_gaussian_noise",
    "add_poisson_noise",
    "add_rain",
    "add_rendering_noise",
    "add_salt_and_pepper",
    "add_speckle_noise",
    "as_8_bits",
    "blur_gaussian",
    "blur_motion",
    "compress_jpeg",
    "correlated_field",
    "counter_rng",
    "degrade",
    "degrade_at",
    "degraded_areas",
    "denoise_in_camera",
    "downscale_bicubic",
    "motion_kernel",
    "sharpen_in_camera",
    "sharpen_usm",
    "smooth_depth",
    "upscale_bicubic",
]
