"""Functions that read or change the state of an optimizer: learning rate, averaged weights, loss scale."""

import numbers
from typing import Any, NamedTuple, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from training.optimizers.base import OptimizerState, Scheduled, check_range

InjectedState: TypeAlias = optax.InjectHyperparamsState | optax.InjectStatefulHyperparamsState
_INJECTED = (optax.InjectHyperparamsState, optax.InjectStatefulHyperparamsState)


class LossScaleState(NamedTuple):
    """State of `LossScaleOptimizer`.

    Attributes:
        scale: The factor of the loss.
        finite_steps: The number of steps with finite gradients since the scale changed.
        inner_state: The state of the inner optimizer.
    """

    scale: jax.Array
    finite_steps: jax.Array
    inner_state: optax.OptState


def _find(opt_state: optax.OptState, *types: type) -> list[Any]:
    """Returns all parts of a state that have one of these types."""
    leaves = jax.tree.leaves(opt_state, is_leaf=lambda s: isinstance(s, types))
    return [s for s in leaves if isinstance(s, types)]


def _states_with_rate(opt_state: optax.OptState) -> list[OptimizerState | InjectedState]:
    """Returns all parts of a state that hold a learning rate."""
    return [
        s
        for s in _find(opt_state, OptimizerState, *_INJECTED)
        if isinstance(s, OptimizerState) or "learning_rate" in s.hyperparams
    ]


def _state_with_rate(opt_state: optax.OptState) -> OptimizerState | InjectedState:
    """Returns the part of a state that holds the learning rate.

    Raises:
        ValueError: If the state holds none or several.
    """
    states = _states_with_rate(opt_state)
    if len(states) == 1:
        return states[0]
    if states:
        raise ValueError(
            f"The state must hold one learning rate, got {len(states)}; "
            "pass a part of the state, such as opt_state.inner_states[pattern] of by_path."
        )
    raise ValueError(
        "The state must hold one learning rate, got none; use an optimizer of training.optimizers, "
        "or wrap yours in optax.inject_hyperparams."
    )


def get_learning_rate(opt_state: optax.OptState) -> jax.Array:
    """Returns the learning rate of the next step.

    Args:
        opt_state: The state of an optimizer.

    Raises:
        ValueError: If the state holds no learning rate or several.

    Example:
        >>> from training.optimizers import Adam
        >>> print(get_learning_rate(Adam(0.5).init({"w": jnp.ones(3)})))
        0.5
    """
    holder = _state_with_rate(opt_state)
    if not isinstance(holder, OptimizerState):
        return holder.hyperparams["learning_rate"]
    rate = holder.learning_rate
    return rate.value if isinstance(rate, Scheduled) else rate


def learning_rates(opt_state: optax.OptState) -> dict[str, float]:
    """Returns all learning rates, keyed by their names in the logs.

    There is one name for a single learning rate, and one per pattern for a state of `by_path`.

    Args:
        opt_state: The state of an optimizer.

    Example:
        >>> from training.optimizers import Adam
        >>> learning_rates(Adam(0.5).init({"w": jnp.ones(3)}))
        {'learning_rate': 0.5}
    """
    states = _states_with_rate(opt_state)
    if len(states) == 1:
        return {"learning_rate": float(get_learning_rate(states[0]))}
    inner = getattr(opt_state, "inner_states", {})
    named = {f"learning_rate_{name}": learning_rates(state) for name, state in inner.items()}
    return {name: rates["learning_rate"] for name, rates in named.items() if "learning_rate" in rates}


def set_learning_rate(opt_state: optax.OptState, value: ArrayLike) -> optax.OptState:
    """Returns the state with a new learning rate; compiled steps are not recompiled.

    Args:
        opt_state: The state of an optimizer whose learning rate is a number.
        value: The new learning rate. For states that are stacked by vmap, it may have one number per state.

    Raises:
        TypeError: If the learning rate is a schedule, or `value` is neither a number nor an array.
        ValueError: If the state holds no learning rate or several, or `value` is out of range or has the wrong shape.

    Example:
        >>> from training.optimizers import Adam
        >>> state = set_learning_rate(Adam(0.5).init({"w": jnp.ones(3)}), 0.25)
        >>> print(get_learning_rate(state))
        0.25
    """
    holder = _state_with_rate(opt_state)
    new: OptimizerState | InjectedState
    if isinstance(holder, OptimizerState):
        if isinstance(holder.learning_rate, Scheduled):
            raise TypeError(_IS_SCHEDULE)
        new = holder._replace(learning_rate=_as_rate(holder.learning_rate, value))
    else:
        if "learning_rate" in getattr(holder, "hyperparams_states", ()):
            raise TypeError(_IS_SCHEDULE)
        rate = _as_rate(holder.hyperparams["learning_rate"], value)
        new = holder._replace(hyperparams={**holder.hyperparams, "learning_rate": rate})
    return jax.tree.map(lambda s: new if s is holder else s, opt_state, is_leaf=lambda s: s is holder)


_IS_SCHEDULE = (
    "The learning rate can only be set if it is a number, got a schedule; create the optimizer with a number as "
    "learning rate."
)


def _as_rate(current: jax.Array, value: ArrayLike) -> jax.Array:
    """Returns `value` with the dtype, shape and sharding of the current learning rate, to avoid a recompilation."""
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        check_range("learning_rate", float(value))
    elif not (hasattr(value, "shape") and hasattr(value, "dtype")):
        raise TypeError(f"A new learning rate must be a number or an array, got {value!r}.")
    elif value.shape not in ((), jnp.shape(current)):
        raise ValueError(
            f"A new learning rate must be a scalar or have shape {jnp.shape(current)}, got shape {value.shape}."
        )
    return jnp.full_like(current, jnp.asarray(value).astype(jnp.asarray(current).dtype))


def ema_weights(opt_state: optax.OptState, params: optax.Params | None = None) -> optax.Params:
    """Returns the moving average of the weights of an optimizer with `use_ema`.

    Args:
        opt_state: The state of an optimizer.
        params: The parameters. A parameter replaces a missing average, and each average is cast to the dtype of its
            parameter.

    Raises:
        ValueError: If a parameter has no average and `params` is not given.

    Example:
        >>> from training.optimizers import SGD
        >>> print(ema_weights(SGD(use_ema=True).init({"w": jnp.ones(2)}))["w"])
        [1. 1.]
    """
    averages = [s.average for s in _find(opt_state, OptimizerState) if s.average is not None]
    if params is not None:
        if not averages:
            return params
        return jax.tree.map(lambda p, *a: _first_average(a, p).astype(p.dtype), params, *averages, is_leaf=_is_masked)
    merged = jax.tree.map(lambda *a: _first_average(a, None), *averages, is_leaf=_is_masked) if averages else None
    if merged is None or None in jax.tree.leaves(merged, is_leaf=lambda x: x is None):
        raise ValueError(
            "The optimizer state must hold an average of every weight, but some averages are missing; create the "
            "optimizer with use_ema=True, or pass `params` to replace missing averages."
        )
    return merged


def _is_masked(x: object) -> bool:
    return isinstance(x, optax.MaskedNode)


Average = TypeVar("Average", jax.Array, None)


def _first_average(averages: tuple[jax.Array | optax.MaskedNode, ...], default: Average) -> jax.Array | Average:
    """Returns the average of a parameter from the one optimizer of `by_path` that updates it."""
    return next((a for a in averages if not isinstance(a, optax.MaskedNode)), default)


def scales_loss(opt_state: optax.OptState) -> bool:
    """Returns whether the optimizer scales the loss and skips steps whose gradients overflow.

    Args:
        opt_state: The state of an optimizer.
    """
    return bool(_find(opt_state, LossScaleState))


def scale_loss(opt_state: optax.OptState, loss: jax.Array) -> jax.Array:
    """Multiplies the loss by the scale by which the optimizer divides the gradients, if there is one.

    Args:
        opt_state: The state of an optimizer.
        loss: The loss.

    Raises:
        ValueError: If the state holds several scales.

    Example:
        >>> from training.optimizers import SGD
        >>> print(scale_loss(SGD(loss_scale_factor=8.0).init({"w": jnp.ones(2)}), jnp.float32(0.5)))
        4.0
    """
    scales = loss_scales(opt_state)
    if len(scales) > 1:
        raise ValueError(
            f"The state must hold at most one loss scale, got {len(scales)}; "
            "use one LossScaleOptimizer that wraps all optimizers."
        )
    return loss * scales[0].astype(loss.dtype) if scales else loss


def loss_scales(opt_state: optax.OptState) -> list[jax.Array]:
    """Returns all loss scales of a state.

    Args:
        opt_state: The state of an optimizer.
    """
    states = _find(opt_state, OptimizerState, LossScaleState)
    scales = [s.scale if isinstance(s, LossScaleState) else s.loss_scale for s in states]
    return [s for s in scales if s is not None]
