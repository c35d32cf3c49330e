"""The base class of layers over one to three spatial axes: sizes per axis, named choices and the data format."""

from collections.abc import Sequence
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from flaxmodels.layers.base import Layer
from flaxmodels.layers.checks import is_integer

AXES = {1: "T", 2: "H W", 3: "D H W"}


class Spatial(Layer):
    """A layer over inputs [B, positions, C], or [B, C, positions] if `data_format` is "channels_first".

    A subclass sets RANK, the number of spatial axes. Arguments are checked and normalized at construction: sizes
    become tuples, names become lower case.
    """

    RANK: ClassVar[int] = 0

    @nn.nowrap
    def set_sizes(self, name: str, lowest: int = 1) -> None:
        """Replaces the named argument by a tuple of one integer per spatial axis."""
        value = getattr(self, name)
        sizes = integers((value,) * self.RANK if is_integer(value) else value, self.RANK, lowest)
        if sizes is None:
            raise ValueError(
                f"`{name}` of {self.label} must be an integer of at least {lowest}, or a tuple of {self.RANK} of them, "
                f"got {value!r}; give {lowest} or more for each axis."
            )
        object.__setattr__(self, name, sizes)

    @nn.nowrap
    def set_choice(self, name: str, choices: tuple[str, ...]) -> None:
        """Replaces the named argument by the choice that it equals, ignoring case."""
        value = getattr(self, name)
        choice = value.lower() if isinstance(value, str) else None
        if choice not in choices:
            raise ValueError(
                f"`{name}` of {self.label} must be one of {', '.join(map(repr, choices))}, got {value!r}; "
                "use one of these."
            )
        object.__setattr__(self, name, choice)

    @nn.nowrap
    def set_data_format(self) -> None:
        """Replaces `data_format` by one of its two names; None becomes "channels_last"."""
        if getattr(self, "data_format", None) is None:
            object.__setattr__(self, "data_format", "channels_last")
        self.set_choice("data_format", ("channels_last", "channels_first"))

    @property
    @nn.nowrap
    def channels_first(self) -> bool:
        """Whether inputs and outputs are [B, C, positions]."""
        return getattr(self, "data_format", None) == "channels_first"

    @property
    @nn.nowrap
    def position_axes(self) -> tuple[int, ...]:
        """The spatial axes of inputs and outputs."""
        first = 2 if self.channels_first else 1
        return tuple(range(first, first + self.RANK))

    @nn.nowrap
    def check_axes(self, inputs: jax.Array) -> None:
        """Raises unless the inputs have one axis each for batch, positions and channels."""
        self.check_rank(inputs, f"B C {AXES[self.RANK]}" if self.channels_first else f"B {AXES[self.RANK]} C")

    @nn.nowrap
    def check_not_empty(self, inputs: jax.Array | jax.ShapeDtypeStruct) -> None:
        """Raises if a spatial axis has size 0."""
        for axis in self.position_axes:
            if inputs.shape[axis] < 1:
                raise ValueError(
                    f"{self.label} takes inputs of at least 1 position on axis {axis}, got shape "
                    f"{tuple(inputs.shape)}; leave empty inputs out."
                )

    @nn.nowrap
    def check_window(
        self, inputs: jax.Array | jax.ShapeDtypeStruct, argument: str, dilation: tuple[int, ...] | None = None
    ) -> None:
        """Raises unless the window of the named argument fits into the inputs."""
        self.check_not_empty(inputs)
        window, shape = getattr(self, argument), tuple(inputs.shape)
        for axis, k, d in zip(self.position_axes, window, dilation or (1,) * self.RANK, strict=True):
            span = (k - 1) * d + 1
            if getattr(self, "padding", "valid") == "valid" and shape[axis] < span:
                raise ValueError(
                    f"{self.label} with padding='valid' has a window of {span} positions on axis {axis}, got inputs "
                    f"of shape {shape}; make `{argument}` smaller, or use padding='same'."
                )

    @nn.nowrap
    def channels_last(self, inputs: jax.Array) -> jax.Array:
        """Returns the inputs with the channels as the last axis."""
        return jnp.moveaxis(inputs, 1, -1) if self.channels_first else inputs

    @nn.nowrap
    def to_data_format(self, outputs: jax.Array) -> jax.Array:
        """Returns outputs with channels last in the layout of `data_format`."""
        return jnp.moveaxis(outputs, -1, 1) if self.channels_first else outputs


def integers(value: object, count: int, lowest: int) -> tuple[int, ...] | None:
    """Returns the value as a tuple of `count` integers of at least `lowest`, or None if it is anything else."""
    if not isinstance(value, Sequence | np.ndarray) or len(value) != count:
        return None
    if not all(is_integer(n) and n >= lowest for n in value):
        return None
    return tuple(int(n) for n in value)
