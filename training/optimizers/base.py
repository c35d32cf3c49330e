"""What every optimizer shares: loss scale, accumulation, clipping, decay, averages and the learning rate.

An optimizer is a `Rule`, the formula for one parameter, and `Common`, the arguments that all of them take;
`build` makes an optax transformation of the two. The order is Keras':

    1. divide the gradients by the loss scale
    2. add them to those accumulated; go on only at the last micro-step, with their mean
    3. clip
    4. decay the weights
    5. the rule, on the decayed weights
    6. the moving average of the weights, and now and then the weights replaced by it

Parameters narrower than float32 are computed, and their moments and averages kept, in float32; Keras does it
in the parameter's own type, and in bfloat16, where 0.999 is 1, its Adam does not move.
"""

import dataclasses
import math
import numbers
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

LearningRate = float | Callable[[Any], Any]
Leaf = Callable[[jax.Array, jax.Array, Any], tuple[jax.Array, Any]]


class Scheduled(NamedTuple):
    """The learning rate of the next step, of an optimizer whose learning rate is a schedule."""

    value: jax.Array


class OptimizerState(NamedTuple):
    """State of every optimizer here.

    Args:
        count: Calls of update so far; with accumulation each micro-step counts.
        learning_rate: The learning rate of the next step.
        slots: The rule's arrays: a NamedTuple of trees like the parameters.
        shared: What the rule keeps once for all parameters, or `None`.
        accumulated: Sum of the gradients since the last real step, or `None`.
        average: Moving average of the weights, or `None`.
        loss_scale: What the loss must be multiplied by, or `None`.
    """

    count: jax.Array  # type: ignore[assignment]
    learning_rate: jax.Array | Scheduled
    slots: Any
    shared: jax.Array | None
    accumulated: Any
    average: Any
    loss_scale: jax.Array | None


class _Now(NamedTuple):
    """What one call of update works with, besides gradients and slots."""

    paths: list[str]
    weights: list[jax.Array]
    iteration: jax.Array
    rate: jax.Array


class Rule(NamedTuple):
    """The formula of an optimizer.

    Args:
        slots: From a parameter's path and value to its slots, a NamedTuple of arrays or `None`.
        step: From (t, learning rate, shared) to a function (gradient, weight, slots) -> (change, slots).
            The first is called once a step and type of parameter, the second for each parameter;
            t counts the real steps from 1 and has, like the learning rate, the parameters' type.
        shared: From (t, shared) to the new value that all parameters share, which starts at 1.
        weight_decay: From a parameter's path and value to its weight decay, where it is not everyone's.
    """

    slots: Callable[[str, jax.Array], Any]
    step: Callable[[jax.Array, jax.Array, Any], Leaf]
    shared: Callable[[jax.Array, jax.Array], jax.Array] | None = None
    weight_decay: Callable[[str, jax.Array], float | None] | None = None


@dataclasses.dataclass(frozen=True)
class Common:
    """The arguments of every optimizer, in Keras' order; `training.optimizers` says what they mean."""

    learning_rate: LearningRate
    weight_decay: float | None
    clipnorm: float | None
    clipvalue: float | None
    global_clipnorm: float | None
    use_ema: bool
    ema_momentum: float
    ema_overwrite_frequency: int | None
    loss_scale_factor: float | None
    gradient_accumulation_steps: int | None
    name: str
    exclude_from_weight_decay: str | Sequence[str] = ()

    def __post_init__(self) -> None:
        check_learning_rate(self.learning_rate)
        for field in ("weight_decay", "clipnorm", "clipvalue", "global_clipnorm", "loss_scale_factor"):
            if getattr(self, field) is not None:
                check_range(field, getattr(self, field), open_low=field != "weight_decay")
        clips = {k: getattr(self, k) for k in ("clipnorm", "clipvalue", "global_clipnorm")}
        given = ", ".join(f"{k}={v}" for k, v in clips.items() if v is not None)
        if "," in given:
            raise ValueError(f"Only one of `clipnorm`, `clipvalue` and `global_clipnorm` may be given, got {given}.")
        check_range("ema_momentum", self.ema_momentum, high=1.0)
        check_count("ema_overwrite_frequency", self.ema_overwrite_frequency, 1)
        check_count("gradient_accumulation_steps", self.gradient_accumulation_steps, 2)
        if self.ema_overwrite_frequency is not None and not self.use_ema:
            raise ValueError(
                f"`ema_overwrite_frequency`={self.ema_overwrite_frequency} needs `use_ema=True`, got False."
            )
        patterns = self.exclude_from_weight_decay
        patterns = (patterns,) if isinstance(patterns, str) else tuple(patterns)
        for pattern in patterns:
            check_pattern("exclude_from_weight_decay", pattern)
        object.__setattr__(self, "exclude_from_weight_decay", patterns)


def check_learning_rate(value: Any) -> None:
    """Raises unless `value` is a number of at least 0 or a schedule."""
    if callable(value):
        return
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        # An array could be a traced one, which a later change of the state's learning rate would not reach.
        raise TypeError(
            f"`learning_rate` must be a number or a function of the step, got {value!r}; "
            "to give an array, call set_learning_rate(opt_state, array)."
        )
    check_range("learning_rate", float(value))


def check_range(
    name: str,
    value: float,
    low: float = 0.0,
    high: float = math.inf,
    open_low: bool = False,
    open_high: bool = False,
) -> None:
    """Raises ValueError unless `value` is a number from `low` to `high`, ends included where not open."""
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if number and (low < value if open_low else low <= value) and (value < high if open_high else value <= high):
        return
    lower = f"more than {low:g}" if open_low else f"at least {low:g}"
    upper = "" if high == math.inf else f" and {'less than' if open_high else 'at most'} {high:g}"
    raise ValueError(f"`{name}` must be a number of {lower}{upper}, got {value!r}.")


def check_count(name: str, value: int | None, low: int) -> None:
    """Raises ValueError unless `value` is `None` or a whole number from `low`."""
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if value is not None and not (whole and value >= low):
        raise ValueError(f"`{name}` must be None or a whole number of at least {low}, got {value!r}.")


def check_pattern(owner: str, pattern: str) -> None:
    """Raises ValueError unless `pattern` is a regular expression."""
    try:
        re.compile(pattern)
    except (re.error, TypeError) as error:
        raise ValueError(f"{owner}: {pattern!r} must be a regular expression, got one with: {error}.") from None


def build(rule: Rule, common: Common) -> optax.GradientTransformation:
    """Makes an optax transformation of a rule and the arguments that every optimizer takes."""
    steps = common.gradient_accumulation_steps
    if common.exclude_from_weight_decay and common.weight_decay is None and not rule.weight_decay:
        raise ValueError(
            f"`exclude_from_weight_decay`={common.exclude_from_weight_decay} needs `weight_decay`, got None."
        )

    def init(params: Any) -> OptimizerState:
        paths, weights, treedef = flatten(params)
        for path, w in zip(paths, weights, strict=True):
            if not jnp.issubdtype(w.dtype, jnp.floating):
                raise TypeError(
                    f"Optimizer {common.name!r}: parameter {path!r} must be real and floating, got {w.dtype}."
                )
        wide = [widen(w) for w in weights]
        zeros = treedef.unflatten([jnp.zeros_like(w) for w in wide])
        # A copy, so that parameters and state can both be donated.
        average = treedef.unflatten([jnp.array(w, copy=True) for w in wide])
        slots = [rule.slots(path, w) for path, w in zip(paths, wide, strict=True)]
        widest = jnp.float64 if any(w.dtype == jnp.float64 for w in wide) else jnp.float32
        count = jnp.zeros((), jnp.int32)
        return OptimizerState(
            count=count,
            learning_rate=_next_rate(common.learning_rate, common.learning_rate, count),
            slots=_columns(slots, treedef),
            shared=jnp.ones((), widest) if rule.shared else None,
            accumulated=zeros if steps else None,
            average=average if common.use_ema else None,
            loss_scale=None if common.loss_scale_factor is None else _float(common.loss_scale_factor),
        )

    def update(grads: Any, state: OptimizerState, params: Any = None) -> tuple[Any, OptimizerState]:
        if params is None:
            raise ValueError(f"Optimizer {common.name!r} needs the parameters; call update(grads, state, params).")
        with jax.named_scope(common.name):
            return step(grads, state, params)

    def step(grads: Any, state: OptimizerState, params: Any) -> tuple[Any, OptimizerState]:
        paths, weights, treedef = flatten(params)
        wide = [widen(w) for w in weights]
        gradients = treedef.flatten_up_to(grads)
        gradients = [jnp.asarray(g).astype(w.dtype) for g, w in zip(gradients, wide, strict=True)]
        if common.loss_scale_factor is not None:
            gradients = [g / common.loss_scale_factor for g in gradients]
        iteration = state.count // steps if steps else state.count
        now = _Now(paths, wide, iteration, _rate(common.learning_rate, state))
        rows, shared = _rows(state.slots, treedef), state.shared

        def real_step(gradients: list[jax.Array]) -> tuple[list[jax.Array], list[Any], Any]:
            return _real_step(rule, common, now, gradients, rows, shared)

        if not steps:
            changes, rows, shared = real_step(gradients)
            accumulated = None
        else:
            sums = [g + a for g, a in zip(gradients, treedef.flatten_up_to(state.accumulated), strict=True)]
            zeros = [jnp.zeros_like(w) for w in wide]
            changes, rows, shared, sums = jax.lax.cond(
                (state.count + 1) % steps == 0,
                lambda: (*real_step([s / steps for s in sums]), zeros),
                lambda: (zeros, rows, shared, sums),
            )
            accumulated = treedef.unflatten(sums)
        changes = [c.astype(w.dtype) for c, w in zip(changes, weights, strict=True)]
        average = state.average
        if common.use_ema:
            changes, averages = _average(common, iteration, weights, changes, treedef.flatten_up_to(average))
            average = treedef.unflatten(averages)
        return treedef.unflatten(changes), OptimizerState(
            count=state.count + 1,
            learning_rate=_next_rate(common.learning_rate, state.learning_rate, state.count + 1),
            slots=_columns(rows, treedef),
            shared=shared,
            accumulated=accumulated,
            average=average,
            loss_scale=state.loss_scale,
        )

    return optax.GradientTransformation(init, update)


def _real_step(
    rule: Rule,
    common: Common,
    now: _Now,
    gradients: list[jax.Array],
    rows: list[Any],
    shared: Any,
) -> tuple[list[jax.Array], list[Any], Any]:
    """Clips, decays, applies the rule: the changes of the weights, the new slots and the new shared value."""
    gradients, t = _clip(common, gradients), now.iteration + 1
    if rule.shared:
        shared = rule.shared(t.astype(shared.dtype), shared)
    leaves = {}
    for dtype in {w.dtype for w in now.weights}:
        own = None if shared is None else shared.astype(dtype)
        leaves[dtype] = rule.step(t.astype(dtype), now.rate.astype(dtype), own)
    changes, new_rows = [], []
    for path, g, w, row in zip(now.paths, gradients, now.weights, rows, strict=True):
        decay = rule.weight_decay(path, w) if rule.weight_decay else common.weight_decay
        excluded = any(re.search(pattern, path) for pattern in common.exclude_from_weight_decay)
        lost = w * decay * now.rate.astype(w.dtype) if decay and not excluded else None
        change, row = leaves[w.dtype](g, w if lost is None else w - lost, row)
        changes.append(change if lost is None else change - lost)
        new_rows.append(row)
    return changes, new_rows, shared


def _clip(common: Common, gradients: list[jax.Array]) -> list[jax.Array]:
    if common.clipvalue is not None:
        return [jnp.clip(g, -common.clipvalue, common.clipvalue) for g in gradients]
    if common.clipnorm is not None:
        c = common.clipnorm
        return [g * c / jnp.maximum(_norm([g]), c) for g in gradients]
    if common.global_clipnorm is not None and gradients:
        c, norm = common.global_clipnorm, _norm(gradients)
        # norm - norm is 0, or NaN where the norm is not finite: then every gradient becomes NaN, not 0.
        scale = c * jnp.minimum(1.0 / norm, 1.0 / c) + (norm - norm)
        return [g * scale.astype(g.dtype) for g in gradients]
    return gradients


def _norm(arrays: list[jax.Array]) -> jax.Array:
    """L2 norm over all arrays, in the type of the first, with gradient 0 where everything is 0."""
    square = sum(jnp.sum(jnp.square(a)).astype(arrays[0].dtype) for a in arrays)
    positive = square > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1.0)), square)


def _average(
    common: Common,
    iteration: jax.Array,
    weights: list[jax.Array],
    changes: list[jax.Array],
    averages: list[jax.Array],
) -> tuple[list[jax.Array], list[jax.Array]]:
    """The changes, which lead to the average when it is time for that, and the averages."""
    new_averages, new_changes = [], []
    for w, change, average in zip(weights, changes, averages, strict=True):
        momentum = jnp.where(iteration == 0, 0.0, common.ema_momentum).astype(average.dtype)
        average = momentum * average + (1 - momentum) * (w + change).astype(average.dtype)
        if common.ema_overwrite_frequency is not None:
            due = (iteration + 1) % common.ema_overwrite_frequency == 0
            change = jnp.where(due, (average - w.astype(average.dtype)).astype(w.dtype), change)
        new_averages.append(average)
        new_changes.append(change)
    return new_changes, new_averages


# Trees and lists.


def flatten(params: Any) -> tuple[list[str], list[jax.Array], Any]:
    """The '/'-joined paths of the leaves, the leaves, and the structure."""
    pairs, treedef = jax.tree_util.tree_flatten_with_path(params)
    paths = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in pairs]
    return paths, [jnp.asarray(w) for _, w in pairs], treedef


def _columns(rows: list[Any], treedef: Any) -> Any:
    """From one NamedTuple of slots per parameter to one NamedTuple of trees."""
    return type(rows[0])(*map(treedef.unflatten, zip(*rows, strict=True))) if rows else ()


def _rows(columns: Any, treedef: Any) -> list[Any]:
    """The inverse of `_columns`."""
    return [type(columns)(*row) for row in zip(*map(treedef.flatten_up_to, columns), strict=True)]


def widen(w: jax.Array) -> jax.Array:
    """Half precision as float32, all else as it is."""
    return w.astype(jnp.float32) if w.dtype.itemsize < 4 else w


# The learning rate.


def _float(value: Any) -> jax.Array:
    return jnp.asarray(value, jnp.float32)


def _rate(learning_rate: LearningRate, state: OptimizerState) -> jax.Array:
    """The learning rate of this step: the state's, or the schedule at the number of calls so far."""
    return _float(learning_rate(state.count) if callable(learning_rate) else state.learning_rate)


def _next_rate(learning_rate: LearningRate, present: Any, count: jax.Array) -> jax.Array | Scheduled:
    if callable(learning_rate):
        return Scheduled(_float(learning_rate(count)))
    return _float(present)
