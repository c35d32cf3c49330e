"""Layers that turn numbers into categories, and categories into vectors."""

from collections.abc import Sequence
from types import ModuleType
from typing import ClassVar, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike

from flaxmodels.layers import checks, host
from flaxmodels.layers.base import Layer

ArrayT = TypeVar("ArrayT", np.ndarray, jax.Array)


def encode(
    indices: ArrayT, mode: str, depth: int, dtype: DTypeLike, weights: np.ndarray | jax.Array | None = None
) -> ArrayT:
    """Returns integers as they are, or encoded as vectors; integers out of range count nowhere.

    Args:
        indices: The integers, as an array of NumPy or JAX; the result is one of the same library.
        mode: "int", "one_hot", "multi_hot" or "count".
        depth: Size of the vectors.
        dtype: Dtype of the result.
        weights: What each integer adds to the counts, by default 1.

    Example:
        >>> encode(np.array([[0, 2, 2]]), "count", 3, "float32").tolist()
        [[1.0, 0.0, 2.0]]
    """
    xp: ModuleType = np if isinstance(indices, np.ndarray) else jnp
    if mode == "int":
        return indices.astype(dtype)
    indices = xp.atleast_1d(indices)
    if mode == "one_hot" and indices.ndim > 1 and indices.shape[-1] == 1:
        indices = indices[..., 0]
    positions = xp.arange(depth).astype(indices.dtype).reshape([1] * indices.ndim + [depth])
    one_hot: ArrayT = (indices[..., None] == positions).astype(dtype)
    if mode == "one_hot":
        return one_hot
    axis = min(1, indices.ndim - 1)
    if mode == "multi_hot":
        return one_hot.max(axis, initial=0)
    if weights is not None:
        one_hot = one_hot * xp.asarray(weights, dtype)[..., None]
    return one_hot.sum(axis)


def resolve_mode(layer: Layer, modes: Sequence[str]) -> None:
    """Raises unless `output_mode` of a layer is one of the modes; replaces Keras' older names."""
    renamed = {"binary": "multi_hot", "tf-idf": "tf_idf"}.get(vars(layer)["output_mode"])
    if renamed in modes:
        object.__setattr__(layer, "output_mode", renamed)
    mode = vars(layer)["output_mode"]
    if mode not in modes:
        raise ValueError(
            f"`output_mode` of {layer.label} must be one of {', '.join(map(repr, modes))}, got {mode!r}; choose one."
        )


def check_dense(layer: Layer) -> None:
    """Raises if `sparse` of a layer is true, because JAX computes with dense arrays."""
    if vars(layer)["sparse"]:
        raise ValueError(
            f"`sparse` of {layer.label} must be False, because all arrays are dense, got True; leave it out."
        )


class CategoryEncoding(Layer):
    """Encodes integers as one-hot, multi-hot or count vectors.

    Integers of `num_tokens` or more count nowhere, as in Keras' JAX backend.

    Args:
        num_tokens: Size of the vectors, the largest integer plus 1.
        output_mode: "one_hot" for one vector per integer, "multi_hot" for 1 at each integer of an example, or "count"
            for the number of times that it occurs.
        sparse: Only False: all arrays are dense.

    Shapes: integers [B, N] -> [B, num_tokens]; "one_hot": [B, N] -> [B, N, num_tokens], [B, 1] -> [B, num_tokens].

    Raises:
        ValueError: If `num_tokens` is not positive, or the mode is unknown.

    References:
        Keras, `keras.layers.CategoryEncoding`.

    Example:
        >>> CategoryEncoding(4, output_mode="count").apply({}, np.array([[0, 1, 1]])).tolist()
        [[1.0, 2.0, 0.0, 0.0]]
    """

    num_tokens: int
    output_mode: str = "multi_hot"
    sparse: bool = False

    def __post_init__(self) -> None:
        self.check_positive("num_tokens")
        resolve_mode(self, ("one_hot", "multi_hot", "count"))
        check_dense(self)
        super().__post_init__()

    @nn.compact
    def compute(self, inputs: ArrayLike | Sequence[object], count_weights: ArrayLike | None = None) -> jax.Array:
        """Returns the vectors.

        Args:
            inputs: Integers, as an array or nested lists.
            count_weights: What each integer adds to the counts, in the shape of the inputs.
        """
        if count_weights is not None and self.output_mode != "count":
            raise ValueError(
                f"`count_weights` of {self.label} are for output_mode='count', got them with "
                f"output_mode={self.output_mode!r}; leave them out, or choose the mode 'count'."
            )
        indices = jnp.asarray(inputs)
        checks.check_array(self, "inputs", indices)
        weights = None if count_weights is None else jnp.asarray(count_weights)
        return encode(indices, self.output_mode, self.num_tokens, self.compute_dtype, weights)


class Discretization(Layer):
    """Replaces each number by the index of the bin that it falls into.

    Bin i has the numbers from boundary i - 1 up to, but without, boundary i. Give the boundaries, or give `num_bins`
    and call `adapt` on data before the first use, which then chooses bins with about equally many numbers.

    Args:
        bin_boundaries: Increasing boundaries of the bins.
        num_bins: The number of bins that `adapt` finds the boundaries of.
        epsilon: The error of the quantiles that `adapt` tolerates, as a fraction.
        output_mode: "int" for the index of the bin, or "one_hot", "multi_hot" or "count"; see `CategoryEncoding`.
        sparse: Only False: all arrays are dense.

    Shapes: numbers [B, ...] -> integers of the same shape, or vectors of the number of bins.

    Raises:
        ValueError: If neither or both of the first two arguments are given, or the mode is unknown.

    References:
        Keras, `keras.layers.Discretization`.

    Example:
        >>> Discretization([18.0, 65.0]).apply({}, np.array([3.0, 18.0, 90.0])).tolist()
        [0, 1, 2]
    """

    bin_boundaries: Sequence[float] | None = None
    num_bins: int | None = None
    epsilon: float = 0.01
    output_mode: str = "int"
    sparse: bool = False

    MODES: ClassVar[tuple[str, ...]] = ("int", "one_hot", "multi_hot", "count")

    def __post_init__(self) -> None:
        resolve_mode(self, self.MODES)
        check_dense(self)
        given = self.bin_boundaries
        if given is not None:
            self.bin_boundaries = tuple(np.asarray(given).tolist())
        if self.num_bins is not None:
            self.check_positive("num_bins")
        # Copies of a layer that has adapted have both.
        if (given is None) == (self.num_bins is None) and not (given is not None and len(given) < (self.num_bins or 0)):
            raise ValueError(
                f"{self.label} takes either `bin_boundaries` or `num_bins`, got {given!r} and {self.num_bins!r}; give "
                "the boundaries, or the number of bins and call adapt."
            )
        if not 0 < self.epsilon <= 1:
            raise ValueError(
                f"`epsilon` of {self.label} must be greater than 0 and at most 1, got {self.epsilon!r}; give, for "
                "example, 0.01."
            )
        super().__post_init__()

    @nn.compact
    def compute(self, inputs: ArrayLike | Sequence[object]) -> jax.Array:
        """Returns the indices of the bins, or their vectors."""
        if self.bin_boundaries is None:
            raise ValueError(
                f"{self.label} has no boundaries yet, got `num_bins`={self.num_bins}; call adapt on data first."
            )
        numbers = jnp.asarray(inputs)
        checks.check_array(self, "inputs", numbers)
        # `promote_types` refuses 16 bits and integers where promotion is strict.
        bounds = jnp.asarray(self.bin_boundaries, jnp.float64 if numbers.dtype == jnp.float64 else jnp.float32)
        indices = jnp.searchsorted(bounds, numbers.astype(bounds.dtype), side="right")
        dtype = jnp.int32 if self.output_mode == "int" else self.compute_dtype
        return encode(indices, self.output_mode, len(self.bin_boundaries) + 1, dtype)

    @nn.nowrap
    def adapt(self, data: object, steps: int | None = None) -> None:
        """Finds the boundaries of bins with about equally many numbers.

        Args:
            data: An array, or an iterable of batches.
            steps: The largest number of batches; None for all.

        Raises:
            ValueError: If the layer has given boundaries, or there is no number.

        References:
            Keras, `keras.layers.Discretization.adapt`.
        """
        self.reset_state()
        for batch in host.batches(data, steps, lists_are_data=False):
            self.update_state(batch)
        self.finalize_state()

    @nn.nowrap
    def update_state(self, data: object) -> None:
        """Adds numbers to those that `finalize_state` finds the boundaries of."""
        if self.num_bins is None:
            raise ValueError(
                f"{self.label} cannot adapt to data, because it got `bin_boundaries`; give `num_bins` instead."
            )
        summary = _summarize(np.asarray(data, np.float32), self.epsilon)
        merged = np.concatenate((summary, vars(self).get("_summary", np.zeros((2, 0), np.float32))), axis=1)
        merged = merged[:, np.argsort(merged[0])]
        object.__setattr__(self, "_summary", _compress(merged, self.epsilon))

    @nn.nowrap
    def finalize_state(self) -> None:
        """Sets the boundaries from the numbers of all calls of `update_state`."""
        summary = vars(self).get("_summary")
        if self.num_bins is None or summary is None or not summary.size:
            raise ValueError(f"{self.label} adapts to data with at least one number, got none; give data.")
        boundaries = _compress(summary, 1.0 / self.num_bins)[0, :-1]
        object.__setattr__(self, "bin_boundaries", tuple(boundaries.tolist()))

    @nn.nowrap
    def reset_state(self) -> None:
        """Forgets the numbers of earlier calls of `update_state`."""
        vars(self).pop("_summary", None)


def _summarize(values: np.ndarray, epsilon: float) -> np.ndarray:
    """Returns values at equal distances in sorted order, and the number of values that each stands for, as [2, N]."""
    ordered = np.sort(values.ravel())
    step = max(ordered.size / (1.0 / epsilon), 1)  # in Keras' order of operations
    chosen = ordered[int(step - 1) :: int(step)]
    return np.stack([chosen, np.full_like(chosen, step)])


def _compress(summary: np.ndarray, epsilon: float) -> np.ndarray:
    """Returns a summary with about 1 / epsilon values, interpolated between those of a longer one."""
    if summary.shape[1] * epsilon < 1:
        return summary
    fractions = epsilon + np.arange(0.0, 1.0, epsilon)
    total = summary[1].cumsum()
    values = np.interp(fractions, total / total[-1], summary[0])
    weights = np.diff(np.interp(fractions, total / total[-1], total), prepend=0)
    return np.stack((values, weights)).astype(np.float32)
