"""Optimizers without adaptive step sizes: SGD, Lion and Muon."""

import re
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from training.optimizers.adam import adam_rate, adam_update
from training.optimizers.base import (
    Common,
    LearningRate,
    ParameterUpdate,
    Rule,
    build,
    check_count,
    check_pattern,
    check_range,
)


class MomentumSlots(NamedTuple):
    """Slots of SGD and Lion; None for SGD without momentum."""

    momentum: jax.Array | None


class MuonSlots(NamedTuple):
    """Slots of Muon; the velocity is None for parameters that Adam does not update."""

    momentum: jax.Array
    velocity: jax.Array | None


def SGD(
    learning_rate: LearningRate = 0.01,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float | None = None,
    clipnorm: float | None = None,
    clipvalue: float | None = None,
    global_clipnorm: float | None = None,
    use_ema: bool = False,
    ema_momentum: float = 0.99,
    ema_overwrite_frequency: int | None = None,
    loss_scale_factor: float | None = None,
    gradient_accumulation_steps: int | None = None,
    name: str | None = None,
    *,
    exclude_from_weight_decay: str | Sequence[str] = (),
) -> optax.GradientTransformation:
    """Follows the gradient with momentum: m = momentum m - lr g; w += m, or with Nesterov w += momentum m - lr g.

    The momentum contains the learning rate, so a new learning rate affects only new gradients.

    Hyperparameters:
        momentum: Decay of m, from 0 to 1.
        nesterov: Whether to use Nesterov momentum; without momentum it has no effect, as in Keras.

    The other arguments are common to all optimizers; see `training.optimizers`.

    References:
        Sutskever et al., On the Importance of Initialization and Momentum in Deep Learning, 2013,
        https://proceedings.mlr.press/v28/sutskever13.html

    Example:
        >>> optimizer = SGD(0.5)
        >>> params = {"w": jnp.ones(2)}
        >>> updates, state = optimizer.update({"w": jnp.ones(2)}, optimizer.init(params), params)
        >>> print(updates["w"])
        [-0.5 -0.5]
    """
    check_range("momentum", momentum, high=1.0)
    common = Common(
        learning_rate, weight_decay, clipnorm, clipvalue, global_clipnorm, use_ema, ema_momentum,
        ema_overwrite_frequency, loss_scale_factor, gradient_accumulation_steps,
        name or "sgd", exclude_from_weight_decay,
    )  # fmt: skip
    return build(_sgd_rule(momentum, nesterov), common)


def _sgd_rule(momentum: float, nesterov: bool) -> Rule[MomentumSlots]:
    def slots(path: str, w: jax.Array) -> MomentumSlots:
        return MomentumSlots(jnp.zeros_like(w) if momentum else None)

    def step(t: jax.Array, lr: jax.Array, shared: jax.Array | None) -> ParameterUpdate[MomentumSlots]:
        def update(g: jax.Array, w: jax.Array, s: MomentumSlots) -> tuple[jax.Array, MomentumSlots]:
            if s.momentum is None:
                return -(g * lr), s
            m = s.momentum * momentum - g * lr
            return (m * momentum - g * lr if nesterov else m), MomentumSlots(m)

        return update

    return Rule("sgd", slots, step)


def Lion(
    learning_rate: LearningRate = 0.001,
    beta_1: float = 0.9,
    beta_2: float = 0.99,
    weight_decay: float | None = None,
    clipnorm: float | None = None,
    clipvalue: float | None = None,
    global_clipnorm: float | None = None,
    use_ema: bool = False,
    ema_momentum: float = 0.99,
    ema_overwrite_frequency: int | None = None,
    loss_scale_factor: float | None = None,
    gradient_accumulation_steps: int | None = None,
    name: str | None = None,
    *,
    exclude_from_weight_decay: str | Sequence[str] = (),
) -> optax.GradientTransformation:
    """Follows the sign of the momentum: w -= lr sign(beta_1 m + (1 - beta_1) g); m = beta_2 m + (1 - beta_2) g.

    Hyperparameters:
        beta_1: The weight of m in the direction, more than 0 and at most 1.
        beta_2: Decay of m, from 0 to 1.

    The other arguments are common to all optimizers; see `training.optimizers`.

    References:
        Chen et al., Symbolic Discovery of Optimization Algorithms, 2023, https://arxiv.org/abs/2302.06675

    Example:
        >>> optimizer = Lion(0.5)
        >>> params = {"w": jnp.ones(2)}
        >>> updates, _ = optimizer.update({"w": jnp.array([3.0, -4.0])}, optimizer.init(params), params)
        >>> print(updates["w"])
        [-0.5  0.5]
    """
    check_range("beta_1", beta_1, high=1.0, open_low=True)
    check_range("beta_2", beta_2, high=1.0)
    common = Common(
        learning_rate, weight_decay, clipnorm, clipvalue, global_clipnorm, use_ema, ema_momentum,
        ema_overwrite_frequency, loss_scale_factor, gradient_accumulation_steps,
        name or "lion", exclude_from_weight_decay,
    )  # fmt: skip
    return build(_lion_rule(beta_1, beta_2), common)


def _lion_rule(beta_1: float, beta_2: float) -> Rule[MomentumSlots]:
    def slots(path: str, w: jax.Array) -> MomentumSlots:
        return MomentumSlots(jnp.zeros_like(w))

    def step(t: jax.Array, lr: jax.Array, shared: jax.Array | None) -> ParameterUpdate[MomentumSlots]:
        b1, b2 = jnp.asarray(beta_1, t.dtype), jnp.asarray(beta_2, t.dtype)

        def update(g: jax.Array, w: jax.Array, s: MomentumSlots) -> tuple[jax.Array, MomentumSlots]:
            m = s.momentum
            return -lr * jnp.sign(m * b1 + g * (1.0 - b1)), MomentumSlots(m * b2 + g * (1.0 - b2))  # type: ignore[operator]

        return update

    return Rule("lion", slots, step)


def Muon(
    learning_rate: LearningRate = 0.001,
    adam_beta_1: float = 0.9,
    adam_beta_2: float = 0.999,
    adam_weight_decay: float | None = 0.004,
    epsilon: float = 1e-7,
    weight_decay: float | None = 0.004,
    clipnorm: float | None = None,
    clipvalue: float | None = None,
    global_clipnorm: float | None = None,
    use_ema: bool = False,
    ema_momentum: float = 0.99,
    ema_overwrite_frequency: int | None = None,
    loss_scale_factor: float | None = None,
    gradient_accumulation_steps: int | None = None,
    name: str | None = None,
    exclude_layers: str | Sequence[str] | None = None,
    exclude_embeddings: bool = True,
    muon_a: float = 3.4445,
    muon_b: float = -4.7750,
    muon_c: float = 2.0315,
    adam_lr_ratio: float = 1,
    momentum: float = 0.95,
    ns_steps: int = 5,
    nesterov: bool = True,
    rms_rate: float | None = 0.2,
    *,
    exclude_from_weight_decay: str | Sequence[str] = (),
) -> optax.GradientTransformation:
    """Orthogonalizes the momentum of matrices: m = momentum m + g; w -= lr NewtonSchulz(m).

    Adam updates embeddings, excluded layers, and parameters that are not matrices; exclude the output layer of a
    network. With `rms_rate`, the step is scaled by sqrt(max(rows, columns)) rms_rate, which makes it about as large as
    a step of Adam.

    Hyperparameters:
        adam_beta_1: Adam's decay of the first moment, at least 0 and less than 1.
        adam_beta_2: Adam's decay of the second moment, at least 0 and less than 1.
        adam_weight_decay: Weight decay of the parameters that Adam updates.
        epsilon: Adam's small number that prevents division by 0.
        weight_decay: Weight decay of the other parameters.
        exclude_layers: Regular expressions; Adam updates parameters whose path contains a match.
        exclude_embeddings: Whether Adam updates parameters whose path contains "embedding".
        muon_a: Coefficient of x in the Newton-Schulz polynomial.
        muon_b: Coefficient of x x' x.
        muon_c: Coefficient of (x x')^2 x.
        adam_lr_ratio: Adam's learning rate relative to `learning_rate`.
        momentum: Decay of m, from 0 to 1.
        ns_steps: The number of Newton-Schulz iterations.
        nesterov: Whether to use Nesterov momentum.
        rms_rate: Scale of the step; None does not scale it.

    The other arguments are common to all optimizers; see `training.optimizers`.

    References:
        Liu et al., Muon is Scalable for LLM Training, 2025, https://arxiv.org/abs/2502.16982

    Example:
        >>> optimizer = Muon(0.1)
        >>> params = {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}
        >>> optimizer.init(params).slots.velocity["kernel"] is None
        True
    """
    check_range("adam_beta_1", adam_beta_1, high=1.0, open_high=True)
    check_range("adam_beta_2", adam_beta_2, high=1.0, open_high=True)
    check_range("epsilon", epsilon)
    check_range("adam_lr_ratio", adam_lr_ratio)
    check_range("momentum", momentum, high=1.0)
    check_count("ns_steps", ns_steps, 1)
    if adam_weight_decay is not None:
        check_range("adam_weight_decay", adam_weight_decay)
    if rms_rate is not None:
        check_range("rms_rate", rms_rate, open_low=True)
    patterns = (exclude_layers,) if isinstance(exclude_layers, str) else tuple(exclude_layers or ())
    for pattern in patterns:
        check_pattern("exclude_layers", pattern)
    common = Common(
        learning_rate, weight_decay, clipnorm, clipvalue, global_clipnorm, use_ema, ema_momentum,
        ema_overwrite_frequency, loss_scale_factor, gradient_accumulation_steps,
        name or "muon", exclude_from_weight_decay,
    )  # fmt: skip

    def is_adam(path: str, w: jax.Array) -> bool:
        embedding = exclude_embeddings and "embedding" in path.lower()
        return w.ndim != 2 or embedding or any(re.search(p, path) for p in patterns)

    def slots(path: str, w: jax.Array) -> MuonSlots:
        return MuonSlots(jnp.zeros_like(w), jnp.zeros_like(w) if is_adam(path, w) else None)

    def step(t: jax.Array, lr: jax.Array, shared: jax.Array | None) -> ParameterUpdate[MuonSlots]:
        alpha = adam_rate(t, lr * adam_lr_ratio, adam_beta_1, adam_beta_2)

        def update(g: jax.Array, w: jax.Array, s: MuonSlots) -> tuple[jax.Array, MuonSlots]:
            if s.velocity is not None:
                change, m, v = adam_update(g, s.momentum, s.velocity, alpha, adam_beta_1, adam_beta_2, epsilon)
                return change, MuonSlots(m, v)
            m = s.momentum + (g + s.momentum * (momentum - 1))
            x = _orthogonalize(g + momentum * m if nesterov else m, ns_steps, muon_a, muon_b, muon_c)
            scale = 1.0 if rms_rate is None else max(w.shape) ** 0.5 * rms_rate
            return -(lr * x) * scale, MuonSlots(m, None)

        return update

    def decay(path: str, w: jax.Array) -> float | None:
        return adam_weight_decay if is_adam(path, w) else weight_decay

    return build(Rule("muon", slots, step, weight_decay=decay), common)


def _orthogonalize(x: jax.Array, steps: int, a: float, b: float, c: float) -> jax.Array:
    """Approximates the orthogonal matrix nearest to x by Newton-Schulz steps x <- a x + (b x x' + c (x x')^2) x."""
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    # The Frobenius norm is an upper bound of the largest singular value, which must not exceed 1.
    x = x / (jnp.sqrt(jnp.sum(jnp.square(x))) + 1e-7)
    for _ in range(steps):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if tall else x
