"""General layers: einsum with a learned kernel, any function, and the identity."""

import dataclasses
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from flaxmodels import activations, initializers
from flaxmodels.activations import ActivationLike
from flaxmodels.constraints import ConstraintLike
from flaxmodels.initializers import InitializerLike
from flaxmodels.layers import checks, symbolic
from flaxmodels.layers.base import Arrays, Layer, MultiOutputLayer
from flaxmodels.layers.tracing import keep_values
from flaxmodels.regularizers import RegularizerLike
from flaxmodels.trees import ArrayTree, MaskTree, Tree


class EinsumDense(Layer):
    """Computes an einsum of the inputs and a kernel, adds a bias, and applies an activation.

    y = activation(einsum(equation, x, kernel) + bias)

    Args:
        equation: Einsum equation "ab,bc->ac", or with a leading ellipsis, "...b,bc->...c", or a trailing one,
            "ab...,bc->ac...".
        output_shape: Sizes of the output's axes, without the batch and the ellipsis; None for sizes that the inputs
            determine.
        activation: Activation function or its name; None for none.
        bias_axes: Letters of the output that are axes of the bias; None for no bias.
        kernel_initializer: Initializer of `kernel`, or its name.
        bias_initializer: Initializer of `bias`, or its name.
        kernel_regularizer: Regularizer of `kernel`, or its name.
        bias_regularizer: Regularizer of `bias`, or its name.
        kernel_constraint: Constraint on `kernel` after each update, or its name.
        bias_constraint: Constraint on `bias` after each update, or its name.

    Shapes: those of the equation. As in Keras, the mask is not passed on.

    Raises:
        ValueError: If the equation has the wrong form, or does not fit the shapes.

    References:
        Keras, `keras.layers.EinsumDense`.

    Example:
        >>> layer, x = EinsumDense("abc,cd->abd", output_shape=(None, 64), bias_axes="d"), jnp.ones((5, 32, 128))
        >>> layer.apply(layer.init(jax.random.key(0), x), x).shape
        (5, 32, 64)
    """

    equation: str
    output_shape: int | Sequence[int | None]
    activation: ActivationLike = None
    bias_axes: str | None = None
    kernel_initializer: InitializerLike = "glorot_uniform"
    bias_initializer: InitializerLike = "zeros"
    kernel_regularizer: RegularizerLike = None
    bias_regularizer: RegularizerLike = None
    kernel_constraint: ConstraintLike = None
    bias_constraint: ConstraintLike = None

    WEIGHTS: ClassVar[tuple[str, ...]] = ("kernel", "bias")
    ENDS_IN: ClassVar[str] = "activation"

    def __post_init__(self) -> None:
        checks.check_fields(self)
        _, _, _, _, outputs = self._parse_equation()
        if self.bias_axes is not None and (not self.bias_axes or set(self.bias_axes) - set(outputs)):
            raise ValueError(
                f"`bias_axes` of {self.label} must be letters of the output {outputs!r}, got {self.bias_axes!r}; "
                "choose among them, or give None for no bias."
            )
        self._checked_output_shape()
        super().__post_init__()

    @nn.nowrap
    def argument(self, weight: str, kind: str) -> Any:
        """Returns the argument for a weight; a variance-scaling initializer gets its axes from the equation."""
        value = super().argument(weight, kind)
        if (weight, kind) != ("kernel", "initializer"):
            return value
        initializer = initializers.get(value)
        if not isinstance(initializer, initializers.VarianceScaling) or initializer.input_axes is not None:
            return initializer
        _, _, _, kernel, outputs = self._parse_equation()
        is_output = [letter in outputs for letter in kernel]
        return dataclasses.replace(
            initializer,
            input_axes=tuple(i for i, out in enumerate(is_output) if not out),
            output_axes=tuple(i for i, out in enumerate(is_output) if out),
        )

    @nn.compact
    def compute(self, inputs: jax.Array) -> jax.Array:
        """Computes the einsum, adds the bias and applies the activation."""
        sizes, ellipsis_axes = self._resolve_sizes(inputs.shape)
        _, is_trailing, _, kernel_letters, outputs_letters = self._parse_equation()
        kernel = self.add_weight("kernel", tuple(sizes[letter] for letter in kernel_letters))
        outputs = jnp.einsum(self.equation, self.cast(inputs), kernel)
        if self.bias_axes is not None:
            first = min(outputs_letters.index(letter) for letter in self.bias_axes)
            shape = [sizes[letter] if letter in self.bias_axes else 1 for letter in outputs_letters[first:]]
            bias = self.add_weight("bias", (*shape, *[1] * (ellipsis_axes if is_trailing else 0)))
            outputs = outputs + jnp.expand_dims(bias, tuple(range(outputs.ndim - bias.ndim)))
        return activations.get(self.activation)(outputs)

    @nn.nowrap
    def _parse_equation(self) -> tuple[bool, bool, str, str, str]:
        """Returns whether an ellipsis is leading or trailing, and the letters of inputs, kernel and outputs."""
        match = re.fullmatch(r"(\.\.\.)?([a-zA-Z]+)(\.\.\.)?,([a-zA-Z]+)->(\.\.\.)?([a-zA-Z]+)(\.\.\.)?", self.equation)
        leading, inputs, trailing, kernel, out_leading, outputs, out_trailing = match.groups() if match else [""] * 7
        unknown = set(kernel) - set(inputs) - set(outputs) | set(outputs) - set(inputs) - set(kernel)
        if match is None or (leading, trailing) != (out_leading, out_trailing) or (leading and trailing) or unknown:
            raise ValueError(
                f"`equation` of {self.label} must have the form 'ab,bc->ac', '...b,bc->...c' or 'ab...,bc->ac...', "
                f"where each letter of the kernel or the output occurs elsewhere too, got {self.equation!r}; rewrite "
                "it in one of these forms."
            )
        return bool(leading), bool(trailing), inputs, kernel, outputs

    @nn.nowrap
    def _checked_output_shape(self) -> tuple[int | None, ...]:
        """Returns `output_shape` as a tuple; raises unless its elements are positive integers or None."""
        sizes = tuple(self.output_shape) if isinstance(self.output_shape, list | tuple) else (self.output_shape,)
        if self.output_shape is None or not all(n is None or (checks.is_integer(n) and n > 0) for n in sizes):
            raise ValueError(
                f"`output_shape` of {self.label} must be a positive integer, or a tuple of positive integers and None, "
                f"got {self.output_shape!r}; give the output's sizes without the batch."
            )
        return sizes

    @nn.nowrap
    def _resolve_sizes(self, shape: tuple[int, ...]) -> tuple[dict[str, int], int]:
        """Returns the size of each letter, and the number of axes that the ellipsis stands for."""
        is_leading, is_trailing, inputs, kernel, outputs = self._parse_equation()
        ellipsis_axes = len(shape) - len(inputs)
        output_shape = self._checked_output_shape()
        expected = output_shape if is_leading else (*shape[:1], *output_shape)
        sizes = dict(zip(inputs, shape[ellipsis_axes:] if is_leading else shape, strict=False))
        differing = [
            letter
            for letter, n in zip(outputs, expected, strict=False)
            if n is not None and sizes.setdefault(letter, n) != n
        ]
        missing = set(kernel) - set(sizes)
        has_wrong_rank = ellipsis_axes < 0 or (ellipsis_axes > 0 and not (is_leading or is_trailing))
        if has_wrong_rank or len(expected) != len(outputs) or differing or missing:
            raise ValueError(
                f"`output_shape` of {self.label} must have the sizes of the output's letters after the batch and agree "
                f"with the inputs, got {output_shape} for {self.equation!r} and inputs of shape {shape}; give None for "
                "sizes that the inputs determine."
            )
        return sizes, ellipsis_axes


class Identity(Layer):
    """Returns its inputs unchanged.

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
    def compute(self, inputs: Arrays) -> Arrays:
        """Returns the inputs; floats are cast to the compute dtype."""
        return self.cast_floats(inputs)


class Lambda(MultiOutputLayer):
    """Applies a function of arrays.

    Args:
        function: Function of the inputs. It also receives `mask` and `train` (or `training`) if it has parameters of
            these names.
        output_shape: Shape of the outputs without the batch, or a function of the inputs' shape; None for no check.
        mask: Mask of the outputs, or a function (inputs, mask) -> mask; None for no mask.
        arguments: Further keyword arguments of the function.

    Shapes: those of the function.

    Raises:
        ValueError: If the shape of the outputs differs from `output_shape`.
        TypeError: If `function` is not callable.

    References:
        Keras, `keras.layers.Lambda`.

    Example:
        >>> Lambda(lambda x, power: x**power, arguments={"power": 2}).apply({}, jnp.array([3.0])).tolist()
        [9.0]
    """

    function: Callable[..., Any]
    output_shape: Callable[..., Any] | int | Sequence[int | None] | None = None
    mask: Callable[..., Any] | ArrayLike | None = None
    arguments: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise TypeError(
                f"`function` of {self.label} must be a function of arrays, got {self.function!r}; give a callable."
            )
        if self.arguments is not None and not isinstance(self.arguments, Mapping):
            raise TypeError(
                f"`arguments` of {self.label} must be a dictionary of keyword arguments, got {self.arguments!r}; "
                "give a dictionary."
            )
        if not (self.output_shape is None or callable(self.output_shape)):
            symbolic.as_shape(self.output_shape)
        super().__post_init__()

    @nn.compact
    def compute(self, inputs: ArrayTree, *, mask: MaskTree = None, train: bool = False) -> ArrayTree:
        """Calls the function and checks the shape of its outputs."""
        parameters = inspect.signature(self.function).parameters
        options: dict[str, object] = {"mask": mask, "train": train, "training": train}
        options = {name: value for name, value in options.items() if name in parameters}
        outputs = self.function(self.cast_floats(inputs), **options | dict(self.arguments or {}))
        if self.output_shape is not None:
            self._check_shape(jax.tree.map(jnp.shape, inputs), outputs)
        return outputs

    def _check_shape(self, shape: Tree[tuple[int, ...]], outputs: jax.Array) -> None:
        """Raises unless the outputs have the shape `output_shape`, where None stands for any size."""
        if callable(self.output_shape):
            expected = tuple(self.output_shape(shape))
        else:
            expected = (None, *symbolic.as_shape(self.output_shape))
        actual = jnp.shape(outputs)
        if len(expected) != len(actual) or any(n not in (None, m) for n, m in zip(expected, actual, strict=True)):
            raise ValueError(
                f"The outputs of {self.label} must have the shape {expected} of `output_shape`, got {actual}; "
                "correct `output_shape`, or leave it out, because the shape is inferred."
            )

    def compute_mask(self, inputs: ArrayTree, mask: MaskTree = None) -> Any:
        """Returns the `mask` argument of the layer, or its value if it is a function."""
        return self.mask(inputs, mask) if callable(self.mask) else self.mask
