"""Keras' operations of losses: crossentropies, connectionist temporal classification, and signal to noise."""

import jax
import jax.numpy as jnp

from flaxmodels.ops import ctc
from flaxmodels.ops.arrays import Tensor, as_array
from flaxmodels.ops.base import operation

EPSILON = 1e-7  # Keras clips probabilities to [EPSILON, 1 - EPSILON]

# --- crossentropies


@operation
def categorical_crossentropy(target: Tensor, output: Tensor, from_logits: bool = False, axis: int = -1) -> jax.Array:
    """Returns the crossentropy between two distributions, without a mean over the examples.

    Args:
        target: The true probabilities.
        output: Predicted probabilities, which are scaled to sum to 1, or logits.
        from_logits: Whether `output` holds logits.
        axis: The axis of the classes.

    Shapes: target and output [..., C] -> [...].

    Raises:
        ValueError: If the shapes differ or have no axis.

    Example:
        >>> print(categorical_crossentropy(jnp.array([0.0, 1.0]), jnp.array([0.5, 0.5])).round(4))
        0.6931
    """
    y, x = as_array(target), as_array(output)
    if y.shape != x.shape or not y.shape:
        raise ValueError(
            "`categorical_crossentropy` takes targets and outputs of the same shape [..., classes], got "
            f"{y.shape} and {x.shape}; use `one_hot` for targets that are class indices."
        )
    return -jnp.sum(y * _log_probabilities(x, from_logits, axis), axis=axis)


@operation
def sparse_categorical_crossentropy(
    target: Tensor, output: Tensor, from_logits: bool = False, axis: int = -1
) -> jax.Array:
    """Returns the crossentropy of class indices, without a mean over the examples.

    Args:
        target: Class indices; an index out of range has the loss 0.
        output: Predicted probabilities, which are scaled to sum to 1, or logits.
        from_logits: Whether `output` holds logits.
        axis: The axis of the classes.

    Shapes: target [...] or [..., 1], output [..., C] -> [...].

    Raises:
        ValueError: If the shapes do not fit.

    Example:
        >>> print(sparse_categorical_crossentropy(jnp.array([1]), jnp.array([[0.5, 0.5]])).round(4))
        [0.6931]
    """
    y, x = as_array(target).astype(jnp.int32), as_array(output)
    if y.ndim == x.ndim and y.shape[-1:] == (1,):
        y = jnp.squeeze(y, -1)
    if not x.shape or y.shape != x.shape[:-1]:
        raise ValueError(
            "`sparse_categorical_crossentropy` takes targets of the shape of the outputs without the classes, got "
            f"{y.shape} and {x.shape}; give one class index per example."
        )
    chosen = jax.nn.one_hot(y, x.shape[axis], axis=axis, dtype=x.dtype)
    return -jnp.sum(chosen * _log_probabilities(x, from_logits, axis), axis=axis)


def _log_probabilities(output: jax.Array, from_logits: bool, axis: int) -> jax.Array:
    if from_logits:
        return jax.nn.log_softmax(output, axis=axis)
    return jnp.log(_clip(output / jnp.sum(output, axis, keepdims=True)))


def _clip(probabilities: jax.Array) -> jax.Array:
    return jnp.clip(probabilities, EPSILON, 1.0 - EPSILON)


@operation
def binary_crossentropy(target: Tensor, output: Tensor, from_logits: bool = False) -> jax.Array:
    """Returns the crossentropy of each element, without a mean.

    Args:
        target: The true probabilities, or 0 and 1.
        output: Predicted probabilities or logits.
        from_logits: Whether `output` holds logits.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> print(binary_crossentropy(jnp.array([1.0]), jnp.array([0.5])).round(4))
        [0.6931]
    """
    y, x = as_array(target), as_array(output)
    if y.shape != x.shape:
        raise ValueError(
            f"`binary_crossentropy` takes targets and outputs of the same shape, got {y.shape} and {x.shape}; "
            "reshape one of them."
        )
    if from_logits:
        return -1.0 * y * jax.nn.log_sigmoid(x) - (1.0 - y) * jax.nn.log_sigmoid(-x)
    p = _clip(x)
    return -(y * jnp.log(p) + (1.0 - y) * jnp.log(1.0 - p))


# --- connectionist temporal classification


@operation
def ctc_loss(
    target: Tensor, output: Tensor, target_length: Tensor, output_length: Tensor, mask_index: int = 0
) -> jax.Array:
    """Returns the loss of connectionist temporal classification of each example.

    Args:
        target: Class indices, with any padding at the end.
        output: Logits per frame.
        target_length: The number of labels of each example.
        output_length: The number of frames of each example.
        mask_index: The class of the blank.

    Shapes: target [B, L], output [B, T, C], lengths [B] -> [B].

    References:
        Graves et al., Connectionist Temporal Classification, 2006.

    Example:
        >>> print(ctc_loss(jnp.array([[1]]), jnp.zeros((1, 1, 2)), jnp.array([1]), jnp.array([1])).round(4))
        [0.6931]
    """
    logits = as_array(output)
    log_p = jax.nn.log_softmax(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)))
    labels, labels_per_row, frames_per_row = (
        as_array(x).astype(jnp.int32) for x in (target, target_length, output_length)
    )
    return ctc.negative_log_likelihood(log_p, labels, labels_per_row, frames_per_row, mask_index)


@operation
def ctc_decode(
    inputs: Tensor,
    sequence_lengths: Tensor,
    strategy: str = "greedy",
    beam_width: int = 100,
    top_paths: int = 1,
    merge_repeated: bool = True,
    mask_index: int = 0,
) -> tuple[jax.Array, jax.Array]:
    """Decodes the labels of sequences whose frames are classified.

    Args:
        inputs: Logits per frame.
        sequence_lengths: The number of frames of each example.
        strategy: "greedy" takes the best class of each frame; "beam_search" finds the most probable labels.
        beam_width: Number of prefixes kept by the beam search.
        top_paths: Number of results of the beam search per example.
        merge_repeated: Whether greedy decoding merges repeated classes.
        mask_index: The class of the blank.

    Returns:
        Labels [top_paths, B, T], filled with -1 at the end, and their scores [B, top_paths]. The score is the
        log-probability for the beam search, and the negative sum of the best logits for greedy decoding.

    Raises:
        ValueError: If `strategy` is unknown.

    Example:
        >>> frames = jnp.log(jnp.array([[[0.1, 0.8, 0.1], [0.1, 0.8, 0.1], [0.8, 0.1, 0.1], [0.1, 0.1, 0.8]]]))
        >>> labels, scores = ctc_decode(frames, jnp.array([4]))
        >>> labels.tolist()
        [[[1, 2, -1, -1]]]
    """
    logits, lengths = as_array(inputs), as_array(sequence_lengths).astype(jnp.int32)
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    blank = mask_index % logits.shape[-1]
    if strategy == "greedy":
        labels, scores = ctc.greedy_decode(logits, lengths, merge_repeated, blank)
        return labels[None], scores
    if strategy == "beam_search":
        return ctc.beam_search_decode(jax.nn.log_softmax(logits), lengths, beam_width, top_paths, blank)
    raise ValueError(f'`strategy` of `ctc_decode` must be "greedy" or "beam_search", got {strategy!r}; choose one.')


# --- signals


@operation
def psnr(x1: Tensor, x2: Tensor, max_val: float) -> jax.Array:
    """Returns the peak signal-to-noise ratio of two arrays in decibels.

    Args:
        x1: Any array.
        x2: Another array of the same shape.
        max_val: Largest possible value of an element.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> psnr(jnp.zeros(4), jnp.ones(4), max_val=10.0).round(2).item()
        20.0
    """
    a, b = as_array(x1), as_array(x2)
    if a.shape != b.shape:
        raise ValueError(f"`psnr` takes arrays of the same shape, got {a.shape} and {b.shape}; reshape one of them.")
    error = jnp.mean(jnp.square(a - b))
    return 20 * jnp.log10(jnp.asarray(max_val, b.dtype)) - 10 * jnp.log10(error)
