"""Converts between images of pillow, arrays and files."""

import io
import os
import pathlib
import warnings
from collections.abc import Sequence
from typing import IO, TYPE_CHECKING, overload

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from flaxmodels.extras import require_extra
from flaxmodels.ops import image
from training.keras import config

if TYPE_CHECKING:
    from PIL.Image import Image

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "hamming", "box", "lanczos")
MODES = {"grayscale": ("L", "I;16", "I"), "rgb": ("RGB",), "rgba": ("RGBA",)}


def array_to_img(
    x: npt.ArrayLike, data_format: str | None = None, scale: bool = True, dtype: npt.DTypeLike | None = None
) -> "Image":
    """Converts an array to an image of pillow.

    Args:
        x: An array [H, W, C] with 1, 3 or 4 channels; [C, H, W] for "channels_first".
        data_format: "channels_last" or "channels_first"; by default that of the program.
        scale: Whether to shift and scale the values to 0 ... 255.
        dtype: The dtype of the computation; `floatx()` by default.

    Raises:
        ValueError: If the array has another rank or number of channels.
        ModuleNotFoundError: If pillow is not installed.

    References:
        Keras, `keras.utils.array_to_img`.

    Example:
        >>> image = array_to_img(np.zeros((4, 6, 3)))
        >>> image.size, image.mode
        ((6, 4), 'RGB')
    """
    require_extra("PIL", "array_to_img needs")
    from PIL import Image

    data_format = config.resolve_data_format(data_format)
    array = np.asarray(x, dtype or config.floatx())
    if array.ndim != 3:
        raise ValueError(f"`x` must be one image of rank 3, got shape {array.shape}; pass images one by one.")
    if data_format == "channels_first":
        array = array.transpose(1, 2, 0)
    if scale:
        array = array - array.min()
        largest = array.max()
        array = (array / largest if largest != 0 else array) * 255
    channels = array.shape[2]
    if channels not in (1, 3, 4):
        raise ValueError(f"`x` must have 1, 3 or 4 channels, got {channels}; select channels, or change `data_format`.")
    if channels > 1:
        return Image.fromarray(array.astype("uint8"))
    return Image.fromarray(array[..., 0].astype("int32" if array.max() > 255 else "uint8"))


def img_to_array(
    img: "Image | npt.ArrayLike", data_format: str | None = None, dtype: npt.DTypeLike | None = None
) -> np.ndarray:
    """Converts an image of pillow to an array of rank 3.

    Args:
        img: The image, or an array of rank 2 or 3.
        data_format: "channels_last" or "channels_first"; by default that of the program.
        dtype: The dtype; `floatx()` by default.

    Raises:
        ValueError: If the image has another rank.

    References:
        Keras, `keras.utils.img_to_array`.

    Example:
        >>> img_to_array(np.zeros((4, 6))).shape
        (4, 6, 1)
    """
    data_format = config.resolve_data_format(data_format)
    x = np.asarray(img, dtype or config.floatx())
    if x.ndim not in (2, 3):
        raise ValueError(f"`img` must have rank 2 or 3, got shape {x.shape}; convert images one by one.")
    x = x[..., None] if x.ndim == 2 else x
    return x.transpose(2, 0, 1) if data_format == "channels_first" else x


def save_img(
    path: str | os.PathLike[str] | IO[bytes],
    x: npt.ArrayLike,
    data_format: str | None = None,
    file_format: str | None = None,
    scale: bool = True,
    **kwargs: object,
) -> None:
    """Writes an array as an image file.

    Args:
        path: The file's name, or an open file.
        x: An array as for `array_to_img`.
        data_format: "channels_last" or "channels_first"; by default that of the program.
        file_format: The format; by default that of the name's suffix.
        scale: Whether to shift and scale the values to 0 ... 255.
        **kwargs: Arguments of `PIL.Image.Image.save`.

    Raises:
        ModuleNotFoundError: If pillow is not installed.

    References:
        Keras, `keras.utils.save_img`.
    """
    if file_format is None and isinstance(path, str | pathlib.Path):
        file_format = pathlib.Path(path).suffix[1:].lower()
    if file_format and file_format.lower() == "jpg":
        file_format = "jpeg"
    image = array_to_img(x, data_format, scale)
    if image.mode == "RGBA" and file_format == "jpeg":
        warnings.warn("JPEG has no transparency, so the image is written without it; use PNG to keep it.", stacklevel=2)
        image = image.convert("RGB")
    image.save(path, format=file_format, **kwargs)


def load_img(
    path: str | bytes | os.PathLike[str] | io.BytesIO,
    color_mode: str = "rgb",
    target_size: tuple[int, int] | None = None,
    interpolation: str = "nearest",
    keep_aspect_ratio: bool = False,
) -> "Image":
    """Reads an image file.

    Args:
        path: The file's name, or a `io.BytesIO`.
        color_mode: "rgb", "rgba" or "grayscale".
        target_size: Height and width to resize to; None keeps the size.
        interpolation: "nearest", "bilinear", "bicubic", "hamming", "box" or "lanczos".
        keep_aspect_ratio: Whether to crop the image around its center to the target's aspect ratio before resizing.

    Returns:
        An image of pillow.

    Raises:
        TypeError: If the path is something else.
        ValueError: If a mode or interpolation is unknown.
        ModuleNotFoundError: If pillow is not installed.

    References:
        Keras, `keras.utils.load_img`.
    """
    require_extra("PIL", "load_img needs")
    from PIL import Image

    if color_mode not in MODES:
        raise ValueError(f"`color_mode` must be 'grayscale', 'rgb' or 'rgba', got {color_mode!r}; choose one.")
    if interpolation not in INTERPOLATIONS:
        raise ValueError(
            f"`interpolation` must be one of {', '.join(map(repr, INTERPOLATIONS))}, got {interpolation!r}; choose one."
        )
    if isinstance(path, io.BytesIO):
        image: Image.Image = Image.open(path)
    elif isinstance(path, str | bytes | os.PathLike):
        with open(path, "rb") as file:
            image = Image.open(io.BytesIO(file.read()))
    else:
        raise TypeError(f"`path` must be a file name or io.BytesIO, got {type(path).__name__}; pass one of them.")
    if image.mode not in MODES[color_mode]:
        image = image.convert(MODES[color_mode][0])
    if target_size is None or image.size == (target_size[1], target_size[0]):
        return image
    height, width = target_size
    box = None
    if keep_aspect_ratio:
        crop_height = min(image.height, image.width * height // width)
        crop_width = min(image.width, image.height * width // height)
        top, left = (image.height - crop_height) // 2, (image.width - crop_width) // 2
        box = (left, top, left + crop_width, top + crop_height)
    return image.resize((width, height), getattr(Image.Resampling, interpolation.upper()), box=box)


@overload
def smart_resize(
    x: jax.Array, size: Sequence[int], interpolation: str = "bilinear", data_format: str | None = "channels_last"
) -> jax.Array: ...
@overload
def smart_resize(
    x: npt.ArrayLike, size: Sequence[int], interpolation: str = "bilinear", data_format: str | None = "channels_last"
) -> np.ndarray: ...
def smart_resize(
    x: npt.ArrayLike, size: Sequence[int], interpolation: str = "bilinear", data_format: str | None = "channels_last"
) -> np.ndarray | jax.Array:
    """Resizes images without distortion: crops the middle to the aspect ratio of the size first.

    Args:
        x: One image or a batch.
        size: Height and width of the result.
        interpolation: "bilinear", "nearest", "bicubic", "lanczos3" or "lanczos5".
        data_format: "channels_last" or "channels_first"; None for that of the program.

    Shapes: x [..., H, W, C] -> [..., *size, C].

    Returns:
        An array of JAX for one of JAX, otherwise of NumPy.

    Raises:
        ValueError: If an argument is invalid.

    References:
        Keras, `keras.preprocessing.image.smart_resize`.

    Example:
        >>> smart_resize(np.ones((4, 8, 3), np.float32), (2, 2)).shape
        (2, 2, 3)
    """
    layout = config.resolve_data_format(data_format)
    resized = image.resize(jnp.asarray(x), size, interpolation, crop_to_aspect_ratio=True, data_format=layout)
    return resized if isinstance(x, jax.Array) else np.asarray(resized)
