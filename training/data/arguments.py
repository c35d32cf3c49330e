"""Makes a source from the data arguments of `fit`, `evaluate` and `predict`."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import flax.linen as nn
import jax
import numpy as np

from training.data.arrays import ArraySource
from training.data.examples import ArrayTree, Examples, as_examples, describe_value
from training.data.readers import Stream, is_stream
from training.data.source import Source
from training.data.streams import StreamSource
from training.datasets import Split

# What `fit` takes as `x`, and what it takes as `validation_data`, which may also be (x, y) or (x, y, sample_weight).
Data: TypeAlias = ArrayTree | Split | Examples | Stream
ValidationData: TypeAlias = Sequence[ArrayTree | None] | Split | Examples | Stream


def labelled_source(
    x: Data,
    y: ArrayTree | None,
    sample_weight: ArrayTree | None,
    class_weight: Mapping[int, float] | None,
    method: str,
    needs_labels: bool = True,
) -> Source:
    """Returns the source of examples for training or evaluation.

    Args:
        x: Inputs, a `Split`, or a stream of batches.
        y: Labels; None for a `Split` or a stream.
        sample_weight: Factors of the examples' losses.
        class_weight: Factors of the losses, keyed by class.
        method: The method that was called, for error messages.
        needs_labels: Whether the examples must have labels.

    Raises:
        ValueError: If labels are missing, or a stream is given together with what it already contains.
        TypeError: If something is not an array of numbers.
    """
    if not is_stream(x):
        source: Source = ArraySource(as_examples(x, y, sample_weight, class_weight))
    else:
        for name, value in (("y", y), ("sample_weight", sample_weight)):
            if value is not None:
                raise ValueError(f"A stream has its own {name}, but {method} got `{name}` as well; leave it out.")
        source = StreamSource(x, class_weight)
    if source.example.y is None and needs_labels:
        call = "validation_data=(x, y)" if method == "validation_data" else f"{method}(x, y)"
        raise ValueError(f"`{method}` needs labels, got none; write {call}, or give a Split of datasets.load.")
    return source


def validation_source(given: ValidationData, needs_labels: bool = True) -> Source:
    """Returns the source of `validation_data`: (x, y), (x, y, sample_weight), a `Split`, or a stream.

    Args:
        given: The argument.
        needs_labels: Whether the examples must have labels. Otherwise inputs alone are accepted, also as (x,).

    Raises:
        ValueError: If the argument has none of these forms.
    """
    if isinstance(given, Split | Examples) or is_stream(given):
        return labelled_source(given, None, None, None, "validation_data", needs_labels)
    if not needs_labels and not isinstance(given, tuple):
        return labelled_source(given, None, None, None, "validation_data", needs_labels)
    if not needs_labels and isinstance(given, tuple) and 1 <= len(given) <= 3:
        x, y, weight = (*given, None, None)[:3]
        return labelled_source(x, y, weight, None, "validation_data", needs_labels)
    if not isinstance(given, tuple | list):
        got = describe_value(given)
    elif len(given) not in (2, 3):
        got = f"{len(given)} {'entry' if len(given) == 1 else 'entries'}"
    elif given[1] is None:
        got = "None for y"
    else:
        x, y, weight = (*given, None)[:3]
        return labelled_source(x, y, weight, None, "validation_data")
    raise ValueError(
        f"`validation_data` must be (x, y), (x, y, sample_weight), a Split or a stream of such batches, got {got}; "
        "write validation_data=(x, y)."
    )


def unlabelled_source(x: Data) -> Source:
    """Returns the source of the inputs of `predict`; labels are ignored."""
    return (StreamSource(x) if is_stream(x) else ArraySource(as_examples(x))).without_labels()


def choose_batch_size(
    source: Source, model: nn.Module, given: int | None, steps: int | None, method: str, argument: str = "batch_size"
) -> int:
    """Returns the number of rows in a full batch of a call, which is at most the number of examples.

    A stream has its own batch size. For arrays it is the given one, otherwise the one that the model's inputs
    prescribe, otherwise one that makes `steps` steps, and 32 if none of them is known.

    Args:
        source: The examples.
        model: The model.
        given: The batch size that the user gives, or None.
        steps: Number of steps of a pass, or None.
        method: The method that was called, for errors.
        argument: The name of the argument with the batch size, for errors.

    Raises:
        ValueError: If a batch size is given for a stream, or it is not a positive integer.
    """
    if source.batch_size is not None:
        if given is not None:
            raise ValueError(f"A stream has its own batch_size, but {method} got `{argument}` as well; leave it out.")
        return source.batch_size
    if given is not None and (isinstance(given, bool) or not isinstance(given, int | np.integer) or given < 1):
        raise ValueError(f"`{argument}` must be a positive integer, got {given!r}; 32 is a usual choice.")
    examples = len(source.example)
    inputs = jax.tree.leaves(getattr(model, "input_spec", None))
    prescribed = {symbol.shape[0] for symbol in inputs if symbol.shape and symbol.shape[0] is not None}
    if given is not None:
        size = int(given)
    elif len(prescribed) == 1:
        size = prescribed.pop()
    else:
        size = -(-examples // int(steps)) if steps else 32
    return min(size, examples)
