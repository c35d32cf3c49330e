"""What one reads from an optimizer's state, or changes in it: learning rate, averaged weights, loss scale."""

import numbers
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from training.optimizers.base import OptimizerState, Scheduled, check_range

_INJECTED = (optax.InjectHyperparamsState, optax.InjectStatefulHyperparamsState)


class LossScaleState(NamedTuple):
    """State of `LossScaleOptimizer`: the scale, the finite steps since it changed, and the inner state."""

    scale: jax.Array
    finite_steps: jax.Array
    inner_state: Any


def _find(opt_state: Any, kinds: tuple[type, ...]) -> list[Any]:
    leaves = jax.tree.leaves(opt_state, is_leaf=lambda s: isinstance(s, kinds))
    return [s for s in leaves if isinstance(s, kinds)]


def _has_rate(state: Any) -> bool:
    return isinstance(state, OptimizerState) or (isinstance(state, _INJECTED) and "learning_rate" in state.hyperparams)


def _rate_holder(opt_state: Any) -> Any:
    holders = [s for s in _find(opt_state, (OptimizerState, *_INJECTED)) if _has_rate(s)]
    if len(holders) == 1:
        return holders[0]
    if holders:
        raise ValueError(
            f"The state holds {len(holders)} learning rates; take the one you mean out of it, "
            "such as opt_state.inner_states[pattern] of by_path."
        )
    raise ValueError(
        "The state holds no learning rate; use an optimizer of training.optimizers, "
        "or wrap yours in optax.inject_hyperparams."
    )


def get_learning_rate(opt_state: Any) -> jax.Array:
    """Returns the learning rate of the next step.

    Raises:
        ValueError: If the state holds none or several.

    Example:
        >>> from training.optimizers import Adam
        >>> print(get_learning_rate(Adam(0.5).init({"w": jnp.ones(3)})))
        0.5
    """
    holder = _rate_holder(opt_state)
    if not isinstance(holder, OptimizerState):
        return holder.hyperparams["learning_rate"]
    rate = holder.learning_rate
    return rate.value if isinstance(rate, Scheduled) else rate


def learning_rates(opt_state: Any) -> dict[str, float]:
    """All learning rates by the names that logs give them: one, one for each pattern of `by_path`, or none."""
    holders = [s for s in _find(opt_state, (OptimizerState, *_INJECTED)) if _has_rate(s)]
    if len(holders) == 1:
        return {"learning_rate": float(get_learning_rate(holders[0]))}
    inner = getattr(opt_state, "inner_states", {})
    named = {f"learning_rate_{name}": learning_rates(state) for name, state in inner.items()}
    return {name: rates["learning_rate"] for name, rates in named.items() if "learning_rate" in rates}


def set_learning_rate(opt_state: Any, value: Any) -> Any:
    """Returns the state with another learning rate; a compiled step takes it without being compiled again.

    Args:
        opt_state: State of an optimizer whose learning rate is a number.
        value: The new learning rate; for the states of many runs stacked by vmap also one for each of them.

    Raises:
        TypeError: If the learning rate is a schedule, or `value` is neither a number nor an array.
        ValueError: If the state holds no learning rate or several, or `value` is not one.

    Example:
        >>> from training.optimizers import Adam
        >>> state = set_learning_rate(Adam(0.5).init({"w": jnp.ones(3)}), 0.25)
        >>> print(get_learning_rate(state))
        0.25
    """
    holder = _rate_holder(opt_state)
    injected = not isinstance(holder, OptimizerState)
    if isinstance(getattr(holder, "learning_rate", None), Scheduled) or (
        injected and "learning_rate" in getattr(holder, "hyperparams_states", ())
    ):
        raise TypeError(
            "The learning rate of this optimizer is a schedule and cannot be set; "
            "make the optimizer with a number instead."
        )
    present = holder.hyperparams["learning_rate"] if injected else holder.learning_rate
    rate = _like(present, value)
    if injected:
        changed = holder._replace(hyperparams={**holder.hyperparams, "learning_rate": rate})
    else:
        changed = holder._replace(learning_rate=rate)
    return jax.tree.map(lambda s: changed if s is holder else s, opt_state, is_leaf=lambda s: s is holder)


def _like(present: Any, value: Any) -> jax.Array:
    """`value` in the type, shape and place of the present one, all of which a compiled step knows."""
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        check_range("learning_rate", float(value))
    elif not (hasattr(value, "shape") and hasattr(value, "dtype")):
        raise TypeError(f"A learning rate must be a number or an array to be set, got {value!r}.")
    elif value.shape not in ((), jnp.shape(present)):
        raise ValueError(
            f"A learning rate must be one number or have the shape {jnp.shape(present)} to be set, "
            f"got the shape {value.shape}."
        )
    return jnp.full_like(present, jnp.asarray(value).astype(jnp.asarray(present).dtype))


def ema_weights(opt_state: Any, params: Any = None) -> Any:
    """Returns the moving average of the weights that an optimizer with `use_ema` keeps.

    Args:
        opt_state: The optimizer's state.
        params: The parameters; taken where there is no average, and the averages get their types.

    Raises:
        ValueError: If a parameter has no average and `params` is not given.

    Example:
        >>> from training.optimizers import SGD
        >>> print(ema_weights(SGD(use_ema=True).init({"w": jnp.ones(2)}))["w"])
        [1. 1.]
    """
    averages = [s.average for s in _find(opt_state, (OptimizerState,)) if s.average is not None]
    if params is not None:
        if not averages:
            return params
        return jax.tree.map(lambda p, *a: _present(a, p).astype(p.dtype), params, *averages, is_leaf=_is_masked)
    merged = jax.tree.map(lambda *a: _present(a, None), *averages, is_leaf=_is_masked) if averages else None
    if merged is None or None in jax.tree.leaves(merged, is_leaf=lambda x: x is None):
        raise ValueError(
            "The state does not keep an average of every weight; make the optimizer with use_ema=True, "
            "or pass `params` for the rest."
        )
    return merged


def _is_masked(x: Any) -> bool:
    return isinstance(x, optax.MaskedNode)


def _present(averages: tuple[Any, ...], otherwise: Any) -> Any:
    """The one average that an optimizer of `by_path` keeps of a parameter."""
    return next((a for a in averages if not _is_masked(a)), otherwise)


def scales_loss(opt_state: Any) -> bool:
    """Whether the loss is scaled, and steps whose gradients overflow are left out, by the optimizer."""
    return bool(_find(opt_state, (LossScaleState,)))


def scale_loss(opt_state: Any, loss: jax.Array) -> jax.Array:
    """Returns the loss times the scale that the optimizer divides the gradients by; without one, the loss.

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
            f"The state holds {len(scales)} loss scales; only one optimizer may scale the loss, "
            "such as a LossScaleOptimizer around all of them."
        )
    return loss * scales[0].astype(loss.dtype) if scales else loss


def loss_scales(opt_state: Any) -> list[jax.Array]:
    """All loss scales of a state."""
    states = _find(opt_state, (OptimizerState, LossScaleState))
    scales = [s.scale if isinstance(s, LossScaleState) else s.loss_scale for s in states]
    return [s for s in scales if s is not None]
