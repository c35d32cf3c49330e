"""The update that all optimizers share: loss scale, accumulation, clipping, weight decay, averages, learning rate.

An optimizer consists of a `Rule`, the formula for one parameter, and `Common`, the arguments that all optimizers
take. `build` makes an optax transformation from the two. The steps have the same order as in Keras:

    1. divide the gradients by the loss scale
    2. accumulate the gradients; continue only at the last micro-step, with their mean
    3. clip the gradients
    4. decay the weights
    5. apply the rule to the decayed weights
    6. update the moving average of the weights, and overwrite the weights with it when this is due

Half precision parameters are updated in float32, and so are their moments and averages. Keras uses the dtype of the
parameter; in bfloat16, where 0.999 is rounded to 1, its Adam does not change the weights.
"""

import dataclasses
import math
import numbers
import re
from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import PyTreeDef
from jax.typing import ArrayLike

LearningRate = float | Callable[[jax.Array], ArrayLike]

# The slots of a parameter: a NamedTuple of arrays, with None for those that are not used. In the state of an optimizer,
# each field holds a tree of arrays like the parameters.
Slots = TypeVar("Slots", bound=tuple[Any, ...])
# (gradient, weight, slots) -> (change of the weight, new slots)
ParameterUpdate = Callable[[jax.Array, jax.Array, Slots], tuple[jax.Array, Slots]]


class Scheduled(NamedTuple):
    """The learning rate of the next step, if it is a schedule."""

    value: jax.Array


class OptimizerState(NamedTuple):
    """State of the optimizers of this package.

    Args:
        count: The number of calls of update; with accumulation, micro-steps count.
        learning_rate: The learning rate of the next step.
        slots: The arrays of the rule: a NamedTuple of trees with the structure of the parameters.
        shared: The number that the rule keeps for all parameters, or None.
        accumulated: The sum of the gradients since the last parameter update, or None.
        average: The moving average of the weights, or None.
        loss_scale: The factor of the loss, or None.
    """

    count: jax.Array  # type: ignore[assignment]
    learning_rate: jax.Array | Scheduled
    slots: tuple[optax.Params | None, ...]
    shared: jax.Array | None
    accumulated: optax.Updates | None
    average: optax.Params | None
    loss_scale: jax.Array | None


class _StepContext(NamedTuple):
    """The inputs of a parameter update, except for gradients and slots."""

    paths: list[str]
    weights: list[jax.Array]
    iteration: jax.Array
    rate: jax.Array


class Rule(NamedTuple, Generic[Slots]):
    """The formula of an optimizer.

    Args:
        name: The name of the formula, by which a checkpoint recognizes the optimizer.
        slots: Returns the initial slots of a parameter: (path, weight) -> slots.
        step: Returns the update of a step: (t, learning rate, shared) -> `ParameterUpdate`. It is called once per
            step and dtype, and the update once per parameter. t counts the parameter updates from 1; t and the
            learning rate have the dtype of the parameters.
        shared: Returns the new number that all parameters share, initially 1: (t, shared) -> shared.
        weight_decay: Returns the weight decay of a parameter, instead of the common one: (path, weight) -> decay.
    """

    name: str
    slots: Callable[[str, jax.Array], Slots]
    step: Callable[[jax.Array, jax.Array, jax.Array | None], ParameterUpdate[Slots]]
    shared: Callable[[jax.Array, jax.Array], jax.Array] | None = None
    weight_decay: Callable[[str, jax.Array], float | None] | None = None


@dataclasses.dataclass(frozen=True)
class Common:
    """The arguments that all optimizers take, in Keras' order; `training.optimizers` explains them."""

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
            raise ValueError(f"At most one of `clipnorm`, `clipvalue` and `global_clipnorm` is allowed, got {given}.")
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


def check_learning_rate(value: object) -> None:
    """Raises unless `value` is a number of at least 0 or a schedule.

    Raises:
        TypeError: If it is neither a number nor callable.
        ValueError: If it is a negative number.
    """
    if callable(value):
        return
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        # An array could be traced. A later change of the learning rate in the state would then have no effect.
        raise TypeError(
            f"`learning_rate` must be a number or a function of the step, got {value!r}; "
            "to set an array, call set_learning_rate(opt_state, array)."
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
    """Raises ValueError unless `value` is a number from `low` to `high`; open ends are excluded."""
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if number and (low < value if open_low else low <= value) and (value < high if open_high else value <= high):
        return
    lower = f"greater than {low:g}" if open_low else f"of at least {low:g}"
    upper = "" if high == math.inf else f" and {'less than' if open_high else 'at most'} {high:g}"
    raise ValueError(f"`{name}` must be a number {lower}{upper}, got {value!r}.")


def check_count(name: str, value: int | None, low: int) -> None:
    """Raises ValueError unless `value` is None or an integer of at least `low`."""
    integer = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if value is not None and not (integer and value >= low):
        raise ValueError(f"`{name}` must be None or an integer of at least {low}, got {value!r}.")


def check_pattern(owner: str, pattern: str) -> None:
    """Raises ValueError unless `pattern` is a regular expression."""
    try:
        re.compile(pattern)
    except (re.error, TypeError) as error:
        raise ValueError(f"{owner}: {pattern!r} must be a valid regular expression, got the error: {error}.") from None


def build(rule: Rule[Slots], common: Common) -> optax.GradientTransformation:
    """Makes an optax transformation from a rule and the arguments that all optimizers take."""
    if common.exclude_from_weight_decay and common.weight_decay is None and not rule.weight_decay:
        raise ValueError(
            f"`exclude_from_weight_decay`={common.exclude_from_weight_decay} needs `weight_decay`, got None."
        )

    def init(params: optax.Params) -> OptimizerState:
        return _init(rule, common, params)

    def update(
        grads: optax.Updates, state: OptimizerState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, OptimizerState]:
        if params is None:
            raise ValueError(f"Optimizer {common.name!r} needs the parameters; call update(grads, state, params).")
        with jax.named_scope(common.name):
            return _update(rule, common, grads, state, params)

    return optax.GradientTransformation(init, update)


def _init(rule: Rule[Slots], common: Common, params: optax.Params) -> OptimizerState:
    paths, weights, treedef = flatten(params)
    for path, w in zip(paths, weights, strict=True):
        if not jnp.issubdtype(w.dtype, jnp.floating):
            raise TypeError(f"Optimizer {common.name!r}: parameter {path!r} must be real and floating, got {w.dtype}.")
    upcast = [upcast_half(w) for w in weights]
    zeros = treedef.unflatten([jnp.zeros_like(w) for w in upcast])
    # A copy, so that parameters and state can both be donated.
    average = treedef.unflatten([jnp.array(w, copy=True) for w in upcast])
    slots = [rule.slots(path, w) for path, w in zip(paths, upcast, strict=True)]
    widest = jnp.float64 if any(w.dtype == jnp.float64 for w in upcast) else jnp.float32
    count = jnp.zeros((), jnp.int32)
    return OptimizerState(
        count=count,
        learning_rate=_next_rate(common.learning_rate, common.learning_rate, count),
        slots=_slots_as_trees(slots, treedef),
        shared=jnp.ones((), widest) if rule.shared else None,
        accumulated=zeros if common.gradient_accumulation_steps else None,
        average=average if common.use_ema else None,
        loss_scale=None if common.loss_scale_factor is None else _float(common.loss_scale_factor),
    )


def _update(
    rule: Rule[Slots], common: Common, grads: optax.Updates, state: OptimizerState, params: optax.Params
) -> tuple[optax.Updates, OptimizerState]:
    paths, weights, treedef = flatten(params)
    upcast = [upcast_half(w) for w in weights]
    gradients = treedef.flatten_up_to(grads)
    gradients = [jnp.asarray(g).astype(w.dtype) for g, w in zip(gradients, upcast, strict=True)]
    if common.loss_scale_factor is not None:
        gradients = [g / common.loss_scale_factor for g in gradients]
    micro_steps = common.gradient_accumulation_steps
    iteration = state.count // micro_steps if micro_steps else state.count
    context = _StepContext(paths, upcast, iteration, _rate(common.learning_rate, state))
    slots, shared = _slots_per_parameter(state.slots, treedef), state.shared
    if not micro_steps:
        changes, slots, shared = _apply_rule(rule, common, context, gradients, slots, shared)
        accumulated = None
    else:
        sums = [g + a for g, a in zip(gradients, treedef.flatten_up_to(state.accumulated), strict=True)]
        zeros = [jnp.zeros_like(w) for w in upcast]
        changes, slots, shared, sums = jax.lax.cond(
            (state.count + 1) % micro_steps == 0,
            lambda: (*_apply_rule(rule, common, context, [s / micro_steps for s in sums], slots, shared), zeros),
            lambda: (zeros, slots, shared, sums),
        )
        accumulated = treedef.unflatten(sums)
    changes = [c.astype(w.dtype) for c, w in zip(changes, weights, strict=True)]
    average = state.average
    if common.use_ema:
        changes, averages = _update_averages(common, iteration, weights, changes, treedef.flatten_up_to(average))
        average = treedef.unflatten(averages)
    return treedef.unflatten(changes), OptimizerState(
        count=state.count + 1,
        learning_rate=_next_rate(common.learning_rate, state.learning_rate, state.count + 1),
        slots=_slots_as_trees(slots, treedef),
        shared=shared,
        accumulated=accumulated,
        average=average,
        loss_scale=state.loss_scale,
    )


def _apply_rule(
    rule: Rule[Slots],
    common: Common,
    context: _StepContext,
    gradients: list[jax.Array],
    slots: list[Slots],
    shared: jax.Array | None,
) -> tuple[list[jax.Array], list[Slots], jax.Array | None]:
    """Clips gradients, decays weights and applies the rule; returns weight changes, slots and the shared number."""
    gradients, t = _clip(common, gradients), context.iteration + 1
    if rule.shared is not None and shared is not None:
        shared = rule.shared(t.astype(shared.dtype), shared)
    updates = {}
    for dtype in {w.dtype for w in context.weights}:
        cast_shared = None if shared is None else shared.astype(dtype)
        updates[dtype] = rule.step(t.astype(dtype), context.rate.astype(dtype), cast_shared)
    changes, new_slots = [], []
    for path, g, w, s in zip(context.paths, gradients, context.weights, slots, strict=True):
        decay = rule.weight_decay(path, w) if rule.weight_decay else common.weight_decay
        excluded = any(re.search(pattern, path) for pattern in common.exclude_from_weight_decay)
        decayed = w * decay * context.rate.astype(w.dtype) if decay and not excluded else None
        change, s = updates[w.dtype](g, w if decayed is None else w - decayed, s)
        changes.append(change if decayed is None else change - decayed)
        new_slots.append(s)
    return changes, new_slots, shared


def _clip(common: Common, gradients: list[jax.Array]) -> list[jax.Array]:
    if common.clipvalue is not None:
        return [jnp.clip(g, -common.clipvalue, common.clipvalue) for g in gradients]
    if common.clipnorm is not None:
        c = common.clipnorm
        return [g * c / jnp.maximum(_norm([g]), c) for g in gradients]
    if common.global_clipnorm is not None and gradients:
        c, norm = common.global_clipnorm, _norm(gradients)
        # norm - norm is 0 if the norm is finite, otherwise NaN. All gradients then become NaN instead of 0.
        scale = c * jnp.minimum(1.0 / norm, 1.0 / c) + (norm - norm)
        return [g * scale.astype(g.dtype) for g in gradients]
    return gradients


def _norm(arrays: list[jax.Array]) -> jax.Array:
    """Returns the L2 norm of all arrays together, in the dtype of the first; its gradient at 0 is 0."""
    square = sum(jnp.sum(jnp.square(a)).astype(arrays[0].dtype) for a in arrays)
    positive = square > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1.0)), square)


def _update_averages(
    common: Common,
    iteration: jax.Array,
    weights: list[jax.Array],
    changes: list[jax.Array],
    averages: list[jax.Array],
) -> tuple[list[jax.Array], list[jax.Array]]:
    """Returns the changes of the weights and their moving averages; if due, the weights become the averages."""
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


# Conversions between trees and lists.


def flatten(params: optax.Params) -> tuple[list[str], list[jax.Array], PyTreeDef]:
    """Returns the paths of the leaves, joined by "/", the leaves, and the tree structure."""
    pairs, treedef = jax.tree_util.tree_flatten_with_path(params)
    paths = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in pairs]
    return paths, [jnp.asarray(w) for _, w in pairs], treedef


def _slots_as_trees(slots: list[Slots], treedef: PyTreeDef) -> tuple[optax.Params | None, ...]:
    """Converts one NamedTuple of arrays per parameter to one NamedTuple of trees."""
    return type(slots[0])(*map(treedef.unflatten, zip(*slots, strict=True))) if slots else ()


def _slots_per_parameter(trees: tuple[optax.Params | None, ...], treedef: PyTreeDef) -> list[Any]:
    """Converts one NamedTuple of trees to one NamedTuple of arrays per parameter."""
    return [type(trees)(*arrays) for arrays in zip(*map(treedef.flatten_up_to, trees), strict=True)]


def upcast_half(w: jax.Array) -> jax.Array:
    """Casts half precision to float32, and returns other dtypes as they are."""
    return w.astype(jnp.float32) if w.dtype.itemsize < 4 else w


# The learning rate.


def _float(value: ArrayLike) -> jax.Array:
    return jnp.asarray(value, jnp.float32)


def _rate(learning_rate: LearningRate, state: OptimizerState) -> jax.Array:
    """Returns the learning rate of this step: the value of the schedule, or the number in the state."""
    if callable(learning_rate):
        return _float(learning_rate(state.count))
    return _float(state.learning_rate)  # type: ignore[arg-type]  # an array, unless there is a schedule


def _next_rate(
    learning_rate: LearningRate, current: LearningRate | jax.Array | Scheduled, count: jax.Array
) -> jax.Array | Scheduled:
    """Returns the next step's learning rate in the form that the optimizer state stores."""
    if callable(learning_rate):
        return Scheduled(_float(learning_rate(count)))
    return _float(current)  # type: ignore[arg-type]  # a number or an array, unless there is a schedule
