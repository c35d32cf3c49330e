"""Keras' operations on images, `keras.ops.image`. In graphs and files their names start with "image."."""

from flaxmodels.ops.image.color import hsv_to_rgb, rgb_to_grayscale, rgb_to_hsv
from flaxmodels.ops.image.filters import gaussian_blur, sobel_edges, ssim
from flaxmodels.ops.image.geometry import (
    affine_transform,
    elastic_transform,
    map_coordinates,
    perspective_transform,
    scale_and_translate,
)
from flaxmodels.ops.image.patches import crop_images, extract_patches, extract_patches_3d, pad_images
from flaxmodels.ops.image.resizing import resize

__all__ = [
    "affine_transform",
    "crop_images",
    "elastic_transform",
    "extract_patches",
    "extract_patches_3d",
    "gaussian_blur",
    "hsv_to_rgb",
    "map_coordinates",
    "pad_images",
    "perspective_transform",
    "resize",
    "rgb_to_grayscale",
    "rgb_to_hsv",
    "scale_and_translate",
    "sobel_edges",
    "ssim",
]
