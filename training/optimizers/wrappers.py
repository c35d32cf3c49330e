"""Optimizers around optimizers: a loss scale that finds itself, and one optimizer per part of a model."""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from training.optimizers.base import check_count, check_pattern, check_range, flatten, widen
from training.optimizers.names import get
from training.optimizers.state import LossScaleState, loss_scales

# Label of the parameters that no pattern names: no regular expression, so no pattern can be equal to it.
REST = "*"


def LossScaleOptimizer(
    inner_optimizer: str | optax.GradientTransformation,
    initial_scale: float = 2.0**15,
    dynamic_growth_steps: int = 2000,
    name: str | None = None,
) -> optax.GradientTransformation:
    """Divides the gradients by the scale of the loss; if they are not finite, halves the scale and skips the step.

    The loss is to be scaled with `scale_loss(opt_state, loss)`. The scale is doubled after so many finite
    steps in a row.

    Args:
        inner_optimizer: The optimizer to wrap, or its name; it must not scale the loss itself.
        initial_scale: The first scale.
        dynamic_growth_steps: Finite steps after which the scale is doubled.
        name: Name of the scope in profiles.

    Raises:
        ValueError: If an argument is out of range, or, in `init`, if the inner optimizer scales the loss.

    Example:
        >>> optimizer = LossScaleOptimizer("sgd", initial_scale=8.0)
        >>> params = {"w": jnp.ones(1)}
        >>> updates, state = optimizer.update({"w": jnp.full(1, jnp.inf)}, optimizer.init(params), params)
        >>> print(updates["w"], state.scale)
        [0.] 4.0
    """
    check_range("initial_scale", initial_scale, open_low=True)
    check_count("dynamic_growth_steps", dynamic_growth_steps, 1)
    inner = optax.with_extra_args_support(get(inner_optimizer))

    def init(params: Any) -> LossScaleState:
        inner_state = inner.init(params)
        if loss_scales(inner_state):
            raise ValueError(
                "LossScaleOptimizer: the inner optimizer must not scale the loss as well; "
                "make it without `loss_scale_factor`."
            )
        return LossScaleState(jnp.float32(initial_scale), jnp.zeros((), jnp.int32), inner_state)

    def update(grads: Any, state: LossScaleState, params: Any = None, **extra: Any) -> tuple[Any, LossScaleState]:
        with jax.named_scope(name or "loss_scale_optimizer"):
            leaves = jax.tree.leaves(grads)
            finite = jnp.all(jnp.array([jnp.all(jnp.isfinite(g)) for g in leaves], bool))
            wide = jax.tree.map(widen, grads)
            unscaled = jax.tree.map(lambda g: g / state.scale.astype(g.dtype), wide)
            if "grad" in extra:
                extra["grad"] = unscaled
            # Both outcomes are computed and one is selected: steps are seldom skipped.
            updates, inner_state = inner.update(unscaled, state.inner_state, params, **extra)
            updates = jax.tree.map(lambda u: jnp.where(finite, u, jnp.zeros_like(u)), updates)
            inner_state = jax.tree.map(lambda new, old: jnp.where(finite, new, old), inner_state, state.inner_state)
            grow = state.finite_steps == dynamic_growth_steps - 1
            scale = state.scale * jnp.where(finite, jnp.where(grow, 2.0, 1.0), 0.5)
            steps = jnp.where(finite & ~grow, state.finite_steps + 1, 0)
            return updates, LossScaleState(scale, steps, inner_state)

    return optax.GradientTransformationExtraArgs(init, update)


def by_path(
    optimizers: Mapping[str, str | optax.GradientTransformation],
    default: str | optax.GradientTransformation,
) -> optax.GradientTransformation:
    """Trains parts of a model with optimizers of their own, as Keras' MultiOptimizer.

    Args:
        optimizers: From path to optimizer or its name. A path is a parameter's own, such as "dense/kernel",
            or a regular expression for all of it, such as "encoder/.*"; a parameter's own path goes first.
        default: The optimizer of all other parameters, or its name.

    Raises:
        ValueError: If a pattern is no regular expression, or, in `init`, if a pattern names no parameter,
            two patterns name the same, or an optimizer scales the loss.

    Example:
        >>> optimizer = by_path({"head/.*": "adam"}, default="sgd")
        >>> state = optimizer.init({"body": {"kernel": jnp.ones(1)}, "head": {"kernel": jnp.ones(1)}})
        >>> sorted(state.inner_states)
        ['*', 'head/.*']
    """
    for pattern in optimizers:
        check_pattern("by_path", pattern)

    def label(path: str) -> str:
        if path in optimizers:
            return path
        matching = [pattern for pattern in optimizers if re.fullmatch(pattern, path)]
        if len(matching) > 1:
            raise ValueError(
                f"by_path: one pattern at most may name a parameter, got {matching} for {path!r}; narrow one."
            )
        return matching[0] if matching else REST

    def labels(params: Any) -> Any:
        paths, _, treedef = flatten(params)
        return treedef.unflatten([label(path) for path in paths])

    inner = optax.partition({**{k: get(v) for k, v in optimizers.items()}, REST: get(default)}, labels)

    def init(params: Any) -> Any:
        named = set(jax.tree.leaves(labels(params)))
        for pattern in optimizers:
            if pattern not in named:
                known = ", ".join(repr(path) for path in flatten(params)[0])
                raise ValueError(f"by_path: every pattern must name a parameter, got {pattern!r}; there are {known}.")
        state = inner.init(params)
        if loss_scales(state):
            raise ValueError(
                "by_path: an optimizer of a part must not scale the loss; "
                "put a LossScaleOptimizer around by_path instead."
            )
        return state

    return optax.GradientTransformationExtraArgs(init, inner.update)
