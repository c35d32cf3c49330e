"""Proves that rows which only pad a batch change no number.

A short batch can be filled up with padding rows, so that one compiled program serves all batches. That is right only if
the padding cannot reach any number. `describe` decides it by following the batch axis through a function's program (its
jaxpr), whatever module, loss or metric the function calls:

1. The function is traced twice, for the padded batch and for the short one. Both programs must consist of the same
   operations. An axis whose size differs between the two is a batch axis.
2. Every value gets one of three descriptions: `Same` (equal in both programs), `Rows` (equal in the rows which are
   examples; the padded program has further rows) or `MIXED` (nothing is known).
3. Each operation has a rule (in the files beside this one) that derives the descriptions of its outputs from those of
   its inputs. A sum over the batch axis, for example, is `Same` only if the padding rows are known to be zero. Without
   a rule, an output is `Same` if all inputs are, and otherwise `MIXED`.

A positive answer is therefore a proof. A negative one may only mean that a rule is missing: the caller then compiles
the short batch at its own shape, which is right for every function. Gradients need no proof of their own: two functions
of the parameters that are equal have equal derivatives.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.extend.core import Literal

from flaxmodels.kernels.dispatch import DEFAULTS, without_kernels
from training.forward import forward
from training.objective import Objective
from training.padding import control, elementwise, shapes, sums
from training.padding.values import MIXED, Mixed, Operand, Operation, Rows, Same, Shape, Unknown, Value, without_rule
from training.state import Batch

RULES = elementwise.RULES | shapes.RULES | sums.RULES
# Operations that call programs; their parameters are those programs.
CALLS = control.RULES
# Parameters that say sizes, which the shapes of the outputs repeat, or where arrays are.
SIZES = ("limit_indices", "new_sizes", "out_sharding", "shape", "sharding", "slice_sizes")


def describe(function: Callable[..., Any], padded: Any, short: Any, values: Sequence[Value]) -> list[Value]:
    """Describes the outputs of a function for a padded batch, compared with those for the short batch.

    Args:
        function: A pure function of trees of arrays.
        padded: Its arguments with padding, a tuple; shapes and dtypes suffice.
        short: Its arguments without padding.
        values: What is known of each leaf of the arguments, in the order of `jax.tree.leaves`.

    Returns:
        A description of each leaf of the outputs.

    Example:
        >>> x = lambda rows: (jax.ShapeDtypeStruct((rows, 3), "float32"),)
        >>> describe(lambda x: [jnp.exp(x), x.sum(axis=0)], x(8), x(5), [Rows()])
        [Rows(before=1, fill=None), Mixed()]
    """
    return [operand.value for operand in _described_outputs(function, padded, short, values)]


def _described_outputs(function: Callable[..., Any], padded: Any, short: Any, values: Sequence[Value]) -> list[Operand]:
    """The outputs of a function, with their shapes."""
    leaves = zip(jax.tree.leaves(padded), jax.tree.leaves(short), values, strict=True)
    sizes = next((leaf.shape[0], other.shape[0]) for leaf, other, value in leaves if isinstance(value, Rows))
    with without_kernels():
        whole, fewer = (jax.make_jaxpr(function)(*arguments) for arguments in (padded, short))
    found = _outputs(sizes, whole, fewer, values)
    pairs = zip(whole.jaxpr.outvars, fewer.jaxpr.outvars, found, strict=True)
    return [_operand(variable, other, value) for variable, other, value in pairs]


def _outputs(sizes: tuple[int, int], padded: Any, short: Any, values: Sequence[Value]) -> list[Value]:
    """Describes the outputs of two jaxprs, closed or not, for described inputs."""
    constants = [getattr(program, "consts", ()) for program in (padded, short)]
    padded, short = getattr(padded, "jaxpr", padded), getattr(short, "jaxpr", short)
    if any(
        len(getattr(padded, part)) != len(getattr(short, part)) for part in ("eqns", "invars", "constvars", "outvars")
    ):
        return [MIXED] * len(padded.outvars)
    known: dict[Any, Value] = dict(zip(padded.invars, values, strict=True))
    known |= dict(zip(padded.constvars, map(_constant, *constants), strict=True))
    # For each variable of the padded program, its counterpart in the short program.
    partners = dict(zip([*padded.invars, *padded.constvars], [*short.invars, *short.constvars], strict=True))

    def read(variable: Any, other: Any) -> Operand:
        if isinstance(variable, Literal) and isinstance(other, Literal):
            return _operand(variable, other, _constant(variable.val, other.val))
        if isinstance(variable, Literal) or partners[variable] is not other:
            return _operand(variable, other, MIXED)  # the same operation with a different operand
        return _operand(variable, other, known[variable])

    for equation, other in zip(padded.eqns, short.eqns, strict=True):
        alike = len(equation.invars) == len(other.invars) and len(equation.outvars) == len(other.outvars)
        if equation.primitive is not other.primitive or not alike:
            return [MIXED] * len(padded.outvars)
        partners.update(zip(equation.outvars, other.outvars, strict=True))
        inputs = [read(*pair) for pair in zip(equation.invars, other.invars, strict=True)]
        if equation.primitive in DEFAULTS:  # an operation of ours, which computes what these programs do
            defaults = _default_program(equation), _default_program(other)
            found = _outputs(sizes, *defaults, values=[operand.value for operand in inputs])
            known.update(zip(equation.outvars, found, strict=True))
            continue
        operation = Operation(
            equation.primitive.name,
            equation.params,
            other.params,
            inputs,
            [_operand(*pair) for pair in zip(equation.outvars, other.outvars, strict=True)],
            sizes,
            functools.partial(_outputs, sizes),
        )
        known.update(zip(equation.outvars, _described(operation), strict=True))
    return [read(*pair).value for pair in zip(padded.outvars, short.outvars, strict=True)]


def _default_program(equation: Any) -> Any:
    """The program of operations of XLA alone that computes what an operation of ours does."""
    default = functools.partial(DEFAULTS[equation.primitive], **equation.params)
    return jax.make_jaxpr(default)(*(jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in equation.invars))


def _described(operation: Operation) -> list[Value]:
    """Describes the outputs of one operation by its rule; a description that the shapes contradict is dropped."""
    try:
        if operation.name in CALLS:
            found = CALLS[operation.name](operation)
        elif operation.same_params(*SIZES):
            found = RULES.get(operation.name, without_rule)(operation)
        else:
            raise Unknown
    except (Unknown, LookupError, AttributeError):  # another version of JAX may name parameters otherwise
        return [MIXED] * len(operation.outputs)
    return [
        value if _fits(value, out.shape, out.short, operation.sizes) else MIXED
        for value, out in zip(found, operation.outputs, strict=True)
    ]


def _fits(value: Value, shape: Shape, short: Shape, sizes: tuple[int, int]) -> bool:
    if not isinstance(value, Rows):
        return isinstance(value, Mixed) or shape == short
    if len(shape) != len(short) or shape == short:
        return False
    size = math.prod(shape)
    return size % (sizes[0] * (value.before or 1)) == 0 and size // sizes[0] * sizes[1] == math.prod(short)


def _operand(variable: Any, other: Any, value: Value = MIXED) -> Operand:
    shapes = (tuple(getattr(v.aval, "shape", ())) for v in (variable, other))
    return Operand(value, getattr(variable.aval, "dtype", None), *shapes)


def _constant(value: Any, other: Any) -> Value:
    """The description of a constant in both programs."""
    if value is not other and not _equal(_numbers(value), _numbers(other)):
        return MIXED
    known = np.ndim(value) == 0 and not isinstance(value, jax.core.Tracer) and hasattr(value, "dtype")
    numbers = np.asarray(_numbers(value)) if known or np.isscalar(value) else None
    return Same(numbers[()] if numbers is not None and numbers.ndim == 0 else None)


def _equal(value: Any, other: Any) -> bool:
    value, other = np.asarray(value), np.asarray(other)
    return np.array_equal(value, other, equal_nan=value.dtype.kind == "f" and other.dtype.kind == "f")


def _numbers(value: Any) -> Any:
    keys = hasattr(value, "dtype") and jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(value) if keys else value


# ------------------------------------------------------------ models and objectives


def changes_nothing(
    model: nn.Module, objective: Objective | None, variables: Any, batch: Batch, rows: int, train: bool = False
) -> bool:
    """Whether padding changes no number of a step: the loss, the metrics, the statistics, or the rows of a prediction.

    Args:
        model: Any linen module.
        objective: Losses and metrics; None for a prediction.
        variables: The model's variables; shapes and dtypes suffice.
        batch: The padded batch; shapes and dtypes suffice.
        rows: How many of its rows are examples.
        train: Whether the step trains.

    Example:
        >>> class Centered(nn.Module):
        ...     def __call__(self, x):
        ...         return x - x.mean(axis=0)
        >>> batch = Batch(jax.ShapeDtypeStruct((8, 3), "float32"))
        >>> [changes_nothing(model, None, {}, batch, rows=5) for model in (nn.Sequential([nn.relu]), Centered())]
        [True, False]
    """

    def step(variables: Any, totals: Any, key: Any, batch: Batch) -> Any:
        out = forward(model, variables, batch, train=train, key=key)
        if objective is None:
            return out.values
        measured = objective.measure(batch, out)
        return measured.loss, objective.update(totals, measured), out.batch_stats

    def sized(n: int) -> Batch:
        def resized(leaf: Any) -> Any:
            return jax.ShapeDtypeStruct((n, *leaf.shape[1:]), leaf.dtype)

        return jax.tree.map(resized, batch._replace(valid=jax.ShapeDtypeStruct((n,), np.bool_)))

    full = len(jax.tree.leaves(batch.x)[0])
    totals = jax.eval_shape(objective.empty) if objective is not None else None
    given = (variables, totals, jax.random.key(0))
    described: list[Value] = [Same()] * len(jax.tree.leaves(given))
    described += [Rows()] * len(jax.tree.leaves(batch._replace(valid=None))) + [Rows(fill=np.False_)]
    try:
        found = _described_outputs(step, (*given, sized(full)), (*given, sized(rows)), described)
    except (TypeError, ValueError, IndexError, ZeroDivisionError):
        return False  # a module that refuses one of the sizes gets each batch as it is
    if objective is None:
        # The first axis of an output may also be the batch folded with another one.
        return all(
            isinstance(out.value, Rows) and out.value.before == 1 and out.shape[0] == full and out.short[0] == rows
            for out in found
        )
    return all(isinstance(out.value, Same) for out in found)
