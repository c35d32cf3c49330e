"""Layers for what the others do not say: any einsum, any function, nothing at all."""

import dataclasses
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxmodels import activations, initializers
from flaxmodels.layers import checks, symbolic
from flaxmodels.layers.base import Layer, MultiOutputLayer
from flaxmodels.layers.tracing import keep_values


class EinsumDense(Layer):
    """Multiplies by a kernel as an einsum says, adds a bias, applies an activation.

    y = activation(einsum(equation, x, kernel) + bias)

    Args:
        equation: "ab,bc->ac", or with an ellipsis in front, "...b,bc->...c", or behind, "ab...,bc->ac...".
        output_shape: Sizes of the output's axes, without the batch and those of an ellipsis; None where the input says.
        activation: Name or function; None keeps y as it is.
        bias_axes: The output's letters that the bias has; None for no bias.
        kernel_initializer: Name or initializer of `kernel`.
        bias_initializer: Name or initializer of `bias`.
        kernel_regularizer: Adds a loss on `kernel`.
        bias_regularizer: Adds a loss on `bias`.
        kernel_constraint: Applied to `kernel` after each update.
        bias_constraint: Applied to `bias` after each update.

    Shapes: as the equation says; a mask ends here, as in Keras.

    Raises:
        ValueError: If the equation is no such, or does not fit the shapes.

    References:
        Keras, `keras.layers.EinsumDense`.

    Example:
        >>> layer, x = EinsumDense("abc,cd->abd", output_shape=(None, 64), bias_axes="d"), jnp.ones((5, 32, 128))
        >>> layer.apply(layer.init(jax.random.key(0), x), x).shape
        (5, 32, 64)
    """

    equation: str
    output_shape: Any
    activation: Any = None
    bias_axes: str | None = None
    kernel_initializer: Any = "glorot_uniform"
    bias_initializer: Any = "zeros"
    kernel_regularizer: Any = None
    bias_regularizer: Any = None
    kernel_constraint: Any = None
    bias_constraint: Any = None

    WEIGHTS: ClassVar[tuple[str, ...]] = ("kernel", "bias")
    ENDS_IN: ClassVar[str] = "activation"

    def __post_init__(self) -> None:
        checks.check_fields(self)
        _, _, _, _, outputs = self._parts()
        if self.bias_axes is not None and (not self.bias_axes or set(self.bias_axes) - set(outputs)):
            raise ValueError(
                f"`bias_axes` of {self.label} are letters of the output {outputs!r}, got {self.bias_axes!r}; "
                "choose among them, or give None for no bias."
            )
        self._given_sizes()
        super().__post_init__()

    @nn.nowrap
    def argument(self, weight: str, kind: str) -> Any:
        """The argument that belongs to a weight; an initializer by fans learns them from the equation."""
        value = super().argument(weight, kind)
        if (weight, kind) != ("kernel", "initializer"):
            return value
        initializer = initializers.get(value)
        if not isinstance(initializer, initializers.VarianceScaling) or initializer.input_axes is not None:
            return initializer
        _, _, _, kernel, outputs = self._parts()
        is_output = [letter in outputs for letter in kernel]
        return dataclasses.replace(
            initializer,
            input_axes=tuple(i for i, out in enumerate(is_output) if not out),
            output_axes=tuple(i for i, out in enumerate(is_output) if out),
        )

    @nn.compact
    def compute(self, inputs: jax.Array) -> jax.Array:
        sizes, elided = self._sizes(inputs.shape)
        _, behind, _, kernel_letters, outputs_letters = self._parts()
        kernel = self.add_weight("kernel", tuple(sizes[letter] for letter in kernel_letters))
        outputs = jnp.einsum(self.equation, self.cast(inputs), kernel)
        if self.bias_axes is not None:
            first = min(outputs_letters.index(letter) for letter in self.bias_axes)
            shape = [sizes[letter] if letter in self.bias_axes else 1 for letter in outputs_letters[first:]]
            bias = self.add_weight("bias", (*shape, *[1] * (elided if behind else 0)))
            outputs = outputs + jnp.expand_dims(bias, tuple(range(outputs.ndim - bias.ndim)))
        return activations.get(self.activation)(outputs)

    @nn.nowrap
    def _parts(self) -> tuple[bool, bool, str, str, str]:
        """Whether an ellipsis is in front or behind, and the letters of input, kernel and output."""
        match = re.fullmatch(r"(\.\.\.)?([a-zA-Z]+)(\.\.\.)?,([a-zA-Z]+)->(\.\.\.)?([a-zA-Z]+)(\.\.\.)?", self.equation)
        front, inputs, behind, kernel, out_front, outputs, out_behind = match.groups() if match else [""] * 7
        unknown = set(kernel) - set(inputs) - set(outputs) | set(outputs) - set(inputs) - set(kernel)
        if match is None or (front, behind) != (out_front, out_behind) or (front and behind) or unknown:
            raise ValueError(
                f"`equation` of {self.label} has the form 'ab,bc->ac', '...b,bc->...c' or 'ab...,bc->ac...', with no "
                f"letter in the kernel or the output alone, got {self.equation!r}; write it so."
            )
        return bool(front), bool(behind), inputs, kernel, outputs

    @nn.nowrap
    def _given_sizes(self) -> tuple[int | None, ...]:
        given = self.output_shape
        sizes = tuple(given) if isinstance(given, list | tuple) else (given,)
        if given is None or not all(n is None or (checks.is_integer(n) and n > 0) for n in sizes):
            raise ValueError(
                f"`output_shape` of {self.label} is a positive integer, or a tuple of them and None, got {given!r}; "
                "give the output's sizes without the batch."
            )
        return sizes

    @nn.nowrap
    def _sizes(self, shape: tuple[int, ...]) -> tuple[dict[str, int], int]:
        """The size of each letter, and how many axes the ellipsis stands for."""
        front, behind, inputs, kernel, outputs = self._parts()
        elided = len(shape) - len(inputs)
        given = self._given_sizes()
        wanted = given if front else (*shape[:1], *given)
        sizes = dict(zip(inputs, shape[elided:] if front else shape, strict=False))
        differing = [
            letter
            for letter, n in zip(outputs, wanted, strict=False)
            if n is not None and sizes.setdefault(letter, n) != n
        ]
        missing = set(kernel) - set(sizes)
        if (elided and not (front or behind)) or elided < 0 or len(wanted) != len(outputs) or differing or missing:
            raise ValueError(
                f"`output_shape` of {self.label} has the sizes of the output's letters after the batch, agreeing with "
                f"the inputs, got {given} for {self.equation!r} and inputs of shape {shape}; give None where the input "
                "says."
            )
        return sizes, elided


class Identity(Layer):
    """Returns its inputs.

    Shapes: any -> the same.

    References:
        Keras, `keras.layers.Identity`.

    Example:
        >>> Identity().apply({}, jnp.ones(2)).tolist()
        [1.0, 1.0]
    """

    SUPPORTS_MASKING: ClassVar[bool] = True
    trace_inputs = keep_values

    @nn.compact
    def compute(self, inputs: Any) -> Any:
        return self.cast_floats(inputs)


class Lambda(MultiOutputLayer):
    """Applies a function of arrays.

    Args:
        function: Takes the inputs, and `mask` and `train` (or `training`) if it names them.
        output_shape: The outputs' shape without the batch, or a function of the inputs' shape; checked where given.
        mask: The outputs' mask, or a function (inputs, mask) -> mask; None for no mask.
        arguments: Further keyword arguments of the function.

    Shapes: the function's.

    Raises:
        ValueError: If the outputs have another shape than `output_shape`.
        TypeError: If `function` is none.

    References:
        Keras, `keras.layers.Lambda`.

    Example:
        >>> Lambda(lambda x, power: x**power, arguments={"power": 2}).apply({}, jnp.array([3.0])).tolist()
        [9.0]
    """

    function: Callable[..., Any]
    output_shape: Any = None
    mask: Any = None
    arguments: Any = None

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise TypeError(f"`function` of {self.label} is a function of arrays, got {self.function!r}; give one.")
        if self.arguments is not None and not isinstance(self.arguments, Mapping):
            raise TypeError(
                f"`arguments` of {self.label} is a dictionary of keyword arguments, got {self.arguments!r}; give one."
            )
        if not (self.output_shape is None or callable(self.output_shape)):
            symbolic.as_shape(self.output_shape)
        super().__post_init__()

    @nn.compact
    def compute(self, inputs: Any, *, mask: Any = None, train: bool = False) -> Any:
        given = {"mask": mask, "train": train, "training": train}
        named = inspect.signature(self.function).parameters
        context = {name: value for name, value in given.items() if name in named}
        outputs = self.function(self.cast_floats(inputs), **context | dict(self.arguments or {}))
        if self.output_shape is not None:
            self._check_shape(jax.tree.map(jnp.shape, inputs), outputs)
        return outputs

    def _check_shape(self, shape: Any, outputs: Any) -> None:
        if callable(self.output_shape):
            wanted = tuple(self.output_shape(shape))
        else:
            wanted = (None, *symbolic.as_shape(self.output_shape))
        came = jnp.shape(outputs)
        if len(wanted) != len(came) or any(n not in (None, m) for n, m in zip(wanted, came, strict=True)):
            raise ValueError(
                f"The outputs of {self.label} have the shape that `output_shape` says, {wanted}, got {came}; "
                "correct it or leave it out, the shape is found without it."
            )

    def compute_mask(self, inputs: Any, mask: Any) -> Any:
        """The mask that was given for the outputs."""
        return self.mask(inputs, mask) if callable(self.mask) else self.mask
