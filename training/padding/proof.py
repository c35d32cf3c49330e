"""Interprets the programs of a padded and of a short batch side by side; see `training.padding` for the idea."""

import functools
import math
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import numpy as np
from flax.typing import VariableDict
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal, Var
from jax.typing import ArrayLike

from flaxmodels.kernels.dispatch import DEFAULTS, without_kernels
from training.assigned import may_assign
from training.forward import forward
from training.objective import Objective, Totals
from training.padding import control_flow, elementwise, indexing, reductions
from training.padding.lattice import (
    TAINTED,
    AbstractValue,
    Clean,
    NoRule,
    Operand,
    Operation,
    Program,
    RowWise,
    Shape,
    Tainted,
    default_rule,
)
from training.state import Batch

RULES = elementwise.RULES | indexing.RULES | reductions.RULES
# Rules of primitives whose parameters are programs. These parameters differ between the two programs.
CALL_RULES = control_flow.RULES
# Parameters that may differ: sizes, which are also in the output shapes, and shardings.
IGNORED_PARAMS = ("limit_indices", "new_sizes", "out_sharding", "shape", "sharding", "slice_sizes")

Atom = Var | Literal
Arguments = tuple[object, ...]


def interpret(
    function: Callable[..., object],
    padded: tuple[object, ...],
    short: tuple[object, ...],
    values: Sequence[AbstractValue],
) -> list[AbstractValue]:
    """Describes the outputs of a function for a padded batch, compared with its outputs for the short batch.

    Args:
        function: A pure function of pytrees of arrays.
        padded: The arguments of the function with padding; `jax.ShapeDtypeStruct` suffices.
        short: The arguments of the function without padding.
        values: A description of each leaf of the arguments, in the order of `jax.tree.leaves`.

    Returns:
        A description of each leaf of the outputs.

    Example:
        >>> x = lambda rows: (jax.ShapeDtypeStruct((rows, 3), "float32"),)
        >>> interpret(lambda x: [jax.numpy.exp(x), x.sum(axis=0)], x(8), x(5), [RowWise()])
        [RowWise(outer_size=1, padding=None), Tainted()]
    """
    return [operand.value for operand in _interpret_function(function, padded, short, values)]


def _interpret_function(
    function: Callable[..., object],
    padded: tuple[object, ...],
    short: tuple[object, ...],
    values: Sequence[AbstractValue],
) -> list[Operand]:
    """Returns the described outputs of a function with their shapes."""
    leaves = zip(jax.tree.leaves(padded), jax.tree.leaves(short), values, strict=True)
    batch_sizes = next((leaf.shape[0], other.shape[0]) for leaf, other, value in leaves if isinstance(value, RowWise))
    with without_kernels():
        program, short_program = (jax.make_jaxpr(function)(*arguments) for arguments in (padded, short))
    outputs = _interpret_programs(batch_sizes, program, short_program, values)
    triples = zip(program.jaxpr.outvars, short_program.jaxpr.outvars, outputs, strict=True)
    return [_operand(variable, other, value) for variable, other, value in triples]


def _interpret_programs(
    batch_sizes: tuple[int, int], program: Program, short_program: Program, values: Sequence[AbstractValue]
) -> list[AbstractValue]:
    """Describes the outputs of two programs for described inputs."""
    constants = [getattr(p, "consts", ()) for p in (program, short_program)]
    padded, short = (p.jaxpr if isinstance(p, ClosedJaxpr) else p for p in (program, short_program))
    if any(
        len(getattr(padded, part)) != len(getattr(short, part)) for part in ("eqns", "invars", "constvars", "outvars")
    ):
        return [TAINTED] * len(padded.outvars)
    known: dict[Var, AbstractValue] = dict(zip(padded.invars, values, strict=True))
    known |= dict(zip(padded.constvars, map(_constant, *constants), strict=True))
    # Maps each variable of the padded program to its counterpart in the short program.
    counterparts = dict(zip([*padded.invars, *padded.constvars], [*short.invars, *short.constvars], strict=True))

    def read(atom: Atom, other: Atom) -> Operand:
        if isinstance(atom, Literal) and isinstance(other, Literal):
            return _operand(atom, other, _constant(atom.val, other.val))
        if isinstance(atom, Literal) or counterparts[atom] is not other:
            return _operand(atom, other, TAINTED)  # the same operation on a different operand
        return _operand(atom, other, known[atom])

    for equation, other in zip(padded.eqns, short.eqns, strict=True):
        same_arity = len(equation.invars) == len(other.invars) and len(equation.outvars) == len(other.outvars)
        if equation.primitive is not other.primitive or not same_arity:
            return [TAINTED] * len(padded.outvars)
        counterparts.update(zip(equation.outvars, other.outvars, strict=True))
        inputs = [read(*pair) for pair in zip(equation.invars, other.invars, strict=True)]
        outputs = _interpret_equation(batch_sizes, equation, other, inputs)
        known.update(zip(equation.outvars, outputs, strict=True))
    return [read(*pair).value for pair in zip(padded.outvars, short.outvars, strict=True)]


def _interpret_equation(
    batch_sizes: tuple[int, int], equation: JaxprEqn, other: JaxprEqn, inputs: list[Operand]
) -> list[AbstractValue]:
    """Describes the outputs of an equation that occurs in both programs."""
    if equation.primitive in DEFAULTS:  # a primitive of this project: interpret its XLA implementation
        programs = _default_program(equation), _default_program(other)
        return _interpret_programs(batch_sizes, *programs, values=[operand.value for operand in inputs])
    operation = Operation(
        equation.primitive.name,
        equation.params,
        other.params,
        inputs,
        [_operand(*pair) for pair in zip(equation.outvars, other.outvars, strict=True)],
        batch_sizes,
        functools.partial(_interpret_programs, batch_sizes),
    )
    return _apply_rule(operation)


def _default_program(equation: JaxprEqn) -> ClosedJaxpr:
    """Returns the XLA implementation of a primitive of this project as a program."""
    default = functools.partial(DEFAULTS[equation.primitive], **equation.params)
    return jax.make_jaxpr(default)(*(jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in equation.invars))  # type: ignore[attr-defined]


def _apply_rule(operation: Operation) -> list[AbstractValue]:
    """Describes the outputs of an operation by its rule, and rejects descriptions that contradict the shapes."""
    try:
        if operation.name in CALL_RULES:
            values = CALL_RULES[operation.name](operation)
        elif operation.has_equal_params(*IGNORED_PARAMS):
            values = RULES.get(operation.name, default_rule)(operation)
        else:
            raise NoRule
    except (NoRule, LookupError, AttributeError):  # parameters may have other names in another version of JAX
        return [TAINTED] * len(operation.outputs)
    return [
        value if _fits_shapes(value, out.shape, out.short_shape, operation.batch_sizes) else TAINTED
        for value, out in zip(values, operation.outputs, strict=True)
    ]


def _fits_shapes(value: AbstractValue, shape: Shape, short_shape: Shape, batch_sizes: tuple[int, int]) -> bool:
    if not isinstance(value, RowWise):
        return isinstance(value, Tainted) or shape == short_shape
    if len(shape) != len(short_shape) or shape == short_shape:
        return False
    size, (rows, short_rows) = math.prod(shape), batch_sizes
    return size % (rows * (value.outer_size or 1)) == 0 and size // rows * short_rows == math.prod(short_shape)


def _operand(atom: Atom, other: Atom, value: AbstractValue = TAINTED) -> Operand:
    shapes = (tuple(getattr(a.aval, "shape", ())) for a in (atom, other))
    return Operand(value, getattr(atom.aval, "dtype", None), *shapes)


def _constant(value: ArrayLike, other: ArrayLike) -> AbstractValue:
    """Describes a constant of both programs."""
    if value is not other and not _are_equal(_key_data(value), _key_data(other)):
        return TAINTED
    known = np.ndim(value) == 0 and not isinstance(value, jax.core.Tracer) and hasattr(value, "dtype")
    numbers = np.asarray(_key_data(value)) if known or np.isscalar(value) else None
    return Clean(numbers[()] if numbers is not None and numbers.ndim == 0 else None)  # type: ignore[arg-type]


def _are_equal(value: ArrayLike, other: ArrayLike) -> bool:
    value, other = np.asarray(value), np.asarray(other)
    return np.array_equal(value, other, equal_nan=value.dtype.kind == "f" and other.dtype.kind == "f")


def _key_data(value: ArrayLike) -> ArrayLike:
    """Converts random keys to integers, and returns other values as they are."""
    is_key = hasattr(value, "dtype") and jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(value) if is_key else value


# ------------------------------------------------------------ models and objectives


def changes_nothing(
    model: nn.Module,
    objective: Objective | None,
    variables: VariableDict,
    batch: Batch,
    rows: int,
    train: bool = False,
) -> bool:
    """Returns whether padding provably changes no result of a step.

    The results of a training or evaluation step are the loss, the metrics and the variables that layers assign, such
    as batch statistics. Those of a prediction are the rows of the examples, and the variables.

    Args:
        model: Any linen module.
        objective: Losses and metrics; None for a prediction.
        variables: The variables of the model; `jax.ShapeDtypeStruct` suffices.
        batch: The padded batch; `jax.ShapeDtypeStruct` suffices.
        rows: The number of rows of the batch that are examples.
        train: Whether this is a training step.

    Example:
        >>> class Centered(nn.Module):
        ...     def __call__(self, x):
        ...         return x - x.mean(axis=0)
        >>> batch = Batch(jax.ShapeDtypeStruct((8, 3), "float32"))
        >>> [changes_nothing(model, None, {}, batch, rows=5) for model in (nn.Sequential([nn.relu]), Centered())]
        [True, False]
    """

    def step(variables: VariableDict, totals: Totals, key: jax.Array, batch: Batch) -> object:
        out = forward(model, variables, batch, train=train, key=key)
        assigned = out.batch_stats, out.params
        if objective is None:
            return assigned if out.params is not None else None, out.values
        measured = objective.measure(batch, out)
        return measured.loss, objective.update(totals, measured), assigned

    def resized(n: int) -> Batch:
        def with_rows(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((n, *leaf.shape[1:]), leaf.dtype)

        return jax.tree.map(with_rows, batch._replace(valid=jax.ShapeDtypeStruct((n,), np.bool_)))

    padded_rows = len(jax.tree.leaves(batch.x)[0])
    totals = jax.eval_shape(objective.empty) if objective is not None else None
    constants = (variables, totals, jax.random.key(0))
    values: list[AbstractValue] = [Clean()] * len(jax.tree.leaves(constants))
    values += [RowWise()] * len(jax.tree.leaves(batch._replace(valid=None))) + [RowWise(padding=np.False_)]
    try:
        outputs = _interpret_function(step, (*constants, resized(padded_rows)), (*constants, resized(rows)), values)
    except (TypeError, ValueError, IndexError, ZeroDivisionError):
        return False  # the module does not accept one of the batch sizes
    count = len(outputs)
    if objective is None:
        # The variables come first, then the outputs of the model.
        held = [variables.get(kind) for kind in ("batch_stats", "params")]
        count = len(jax.tree.leaves(held)) if may_assign(model) else 0
    return all(isinstance(out.value, Clean) for out in outputs[:count]) and all(
        # The first axis of an output must be the batch alone, not the batch folded with another axis.
        isinstance(out.value, RowWise)
        and out.value.outer_size == 1
        and (out.shape[0], out.short_shape[0]) == (padded_rows, rows)
        for out in outputs[count:]
    )
