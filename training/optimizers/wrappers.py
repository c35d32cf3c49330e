"""Optimizers that wrap other optimizers: dynamic loss scaling, and one optimizer per part of a model."""

import re
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax

from training.optimizers.base import check_count, check_pattern, check_range, flatten, upcast_half
from training.optimizers.names import get
from training.optimizers.state import LossScaleState, loss_scales

# The label of parameters that match no pattern. No pattern can equal it, because it is not a valid regular expression.
REST = "*"


def LossScaleOptimizer(
    inner_optimizer: str | optax.GradientTransformation,
    initial_scale: float = 2.0**15,
    dynamic_growth_steps: int = 2000,
    name: str | None = None,
) -> optax.GradientTransformation:
    """Adapts the scale of the loss, and skips steps whose gradients are not finite.

    Scale the loss with `scale_loss(opt_state, loss)`; the gradients are divided by the scale. The scale is halved after
    a skipped step, and doubled after `dynamic_growth_steps` steps with finite gradients in succession.

    Args:
        inner_optimizer: The optimizer to wrap, or its name; it must not scale the loss.
        initial_scale: The initial scale.
        dynamic_growth_steps: The number of steps after which the scale is doubled.
        name: The name of the scope in profiles.

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

    def init(params: optax.Params) -> LossScaleState:
        inner_state = inner.init(params)
        if loss_scales(inner_state):
            raise ValueError(
                "The inner optimizer of LossScaleOptimizer must not scale the loss, got one with a loss scale; "
                "make it without `loss_scale_factor`."
            )
        return LossScaleState(jnp.float32(initial_scale), jnp.zeros((), jnp.int32), inner_state)

    def update(
        grads: optax.Updates, state: LossScaleState, params: optax.Params | None = None, **extra: object
    ) -> tuple[optax.Updates, LossScaleState]:
        with jax.named_scope(name or "loss_scale_optimizer"):
            leaves = jax.tree.leaves(grads)
            finite = jnp.all(jnp.array([jnp.all(jnp.isfinite(g)) for g in leaves], bool))
            upcast = jax.tree.map(upcast_half, grads)
            unscaled = jax.tree.map(lambda g: g / state.scale.astype(g.dtype), upcast)
            if "grad" in extra:
                extra["grad"] = unscaled
            # Steps are rarely skipped, so the update is always computed, and then kept or discarded.
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
    """Trains parts of a model with different optimizers, like Keras' MultiOptimizer.

    Args:
        optimizers: Maps patterns to optimizers or their names. A pattern is the path of a parameter, such as
            "dense/kernel", or a regular expression for whole paths, such as "encoder/.*". An exact path has priority
            over regular expressions.
        default: The optimizer of all other parameters, or its name.

    Raises:
        ValueError: If a pattern is not a regular expression. In `init`: if a pattern matches no parameter, two patterns
            match the same parameter, or an optimizer scales the loss.

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
                f"by_path needs at most one pattern per parameter, got {matching} for {path!r}; make one more specific."
            )
        return matching[0] if matching else REST

    def labels(params: optax.Params) -> optax.Params:
        """Returns the tree of the labels of the parameters."""
        paths, _, treedef = flatten(params)
        return treedef.unflatten([label(path) for path in paths])

    inner = optax.partition({**{k: get(v) for k, v in optimizers.items()}, REST: get(default)}, labels)

    def init(params: optax.Params) -> optax.OptState:
        used = set(jax.tree.leaves(labels(params)))
        for pattern in optimizers:
            if pattern not in used:
                known = ", ".join(repr(path) for path in flatten(params)[0])
                raise ValueError(f"by_path needs patterns that match a parameter, got {pattern!r}; there are {known}.")
        state = inner.init(params)
        if loss_scales(state):
            raise ValueError(
                "by_path needs optimizers that do not scale the loss, got one with a loss scale; "
                "wrap by_path in a LossScaleOptimizer instead."
            )
        return state

    return optax.GradientTransformationExtraArgs(init, inner.update)
