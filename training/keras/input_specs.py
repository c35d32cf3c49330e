"""Keras' `InputSpec`, and the rules for inputs that layers show as `input_spec`."""

from collections.abc import Mapping
from typing import Any

from flaxmodels import layers as pure
from flaxmodels.layers.conv import Convolution
from flaxmodels.layers.recurrent import Recurrent


class InputSpec:
    """Describes which inputs a layer accepts; a custom layer sets its attribute `input_spec` to one of these.

    Args:
        dtype: The dtype of the inputs.
        shape: Their shape with the batch, with None for sizes that vary.
        ndim: The number of axes.
        max_ndim: The greatest number of axes.
        min_ndim: The smallest number of axes.
        axes: Sizes by axis.
        allow_last_axis_squeeze: Must be False: inputs keep their axes.
        name: The name of the input.
        optional: Whether None is an input, too.

    Raises:
        TypeError: If a key of `axes` is no integer.
        ValueError: If an axis of `axes` does not exist, or `allow_last_axis_squeeze` is True.

    References:
        Keras, `keras.InputSpec`.

    Example:
        >>> InputSpec(min_ndim=2, axes={-1: 4})
        InputSpec(min_ndim=2, axes={-1: 4})
    """

    def __init__(
        self,
        dtype: str | None = None,
        shape: tuple[int | None, ...] | None = None,
        ndim: int | None = None,
        max_ndim: int | None = None,
        min_ndim: int | None = None,
        axes: Mapping[int, int | None] | None = None,
        allow_last_axis_squeeze: bool = False,
        name: str | None = None,
        optional: bool = False,
    ):
        if allow_last_axis_squeeze:
            raise ValueError(
                "`allow_last_axis_squeeze` of InputSpec must be False, because inputs keep their axes, got True; "
                "reshape the inputs in `call`."
            )
        try:
            self.axes = {int(axis): size for axis, size in (axes or {}).items()}
        except (TypeError, ValueError, AttributeError) as error:
            raise TypeError(
                f"`axes` of InputSpec must be a dictionary with integers as keys, got {axes!r}; write {{-1: 3}}."
            ) from error
        self.dtype, self.name, self.optional = dtype, name, optional
        self.shape = None if shape is None else tuple(shape)
        self.ndim = ndim if shape is None else len(shape)
        self.max_ndim, self.min_ndim, self.allow_last_axis_squeeze = max_ndim, min_ndim, False
        most = self.ndim or self.max_ndim
        if self.axes and most is not None and max(self.axes) >= most:
            raise ValueError(
                f"`axes` of InputSpec must be among {most} axes, got {max(self.axes)}; give a smaller number."
            )

    def __repr__(self) -> str:
        shown = ("dtype", "shape", "ndim", "max_ndim", "min_ndim", "axes")
        return f"InputSpec({', '.join(f'{name}={getattr(self, name)}' for name in shown if getattr(self, name))})"

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments."""
        names = ("dtype", "shape", "ndim", "max_ndim", "min_ndim", "axes", "optional")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "InputSpec":
        """Returns the object with the arguments of `get_config`."""
        return cls(**config)


def spec_of(layer: object, sizes: tuple[int, ...] | None) -> InputSpec | None:
    """Returns the rule of a layer of this library, as Keras shows it; None for a layer without one.

    Args:
        layer: The layer.
        sizes: The shape of the kernel if the layer has one already.
    """
    if isinstance(layer, pure.Dense):
        return InputSpec(min_ndim=2, axes=None if sizes is None else {-1: sizes[0]})
    if isinstance(layer, Convolution):
        return InputSpec(min_ndim=layer.RANK + 2)
    if isinstance(layer, Recurrent) and not isinstance(layer, pure.RNN):
        return InputSpec(ndim=3)
    return None
