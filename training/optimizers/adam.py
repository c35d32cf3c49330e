"""Adam and its relatives: Adam, AdamW, Adamax, Nadam, Lamb and ScheduleFreeAdamW."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from training.optimizers.base import Common, LearningRate, Rule, build, check_count, check_range


class MomentSlots(NamedTuple):
    """Slots of Adam, Nadam, Lamb and, with the norm in the velocity's place, of Adamax."""

    momentum: Any
    velocity: Any


class AmsgradSlots(NamedTuple):
    """Slots of Adam with `amsgrad`."""

    momentum: Any
    velocity: Any
    velocity_hat: Any


def adam_rate(t: jax.Array, lr: jax.Array, beta_1: float, beta_2: float) -> jax.Array:
    """The learning rate with the corrections of both moments, lr sqrt(1 - beta_2^t) / (1 - beta_1^t)."""
    return lr * jnp.sqrt(1 - _power(beta_2, t)) / (1 - _power(beta_1, t))


def adam_leaf(
    g: jax.Array, m: jax.Array, v: jax.Array, alpha: jax.Array, beta_1: float, beta_2: float, epsilon: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Adam's change of a weight, and its new moments."""
    m, v = _moments(g, m, v, beta_1, beta_2)
    return -(m * alpha) / (jnp.sqrt(v) + epsilon), m, v


def _moments(g: jax.Array, m: jax.Array, v: jax.Array, beta_1: float, beta_2: float) -> tuple[jax.Array, jax.Array]:
    return m + (g - m) * (1 - beta_1), v + (jnp.square(g) - v) * (1 - beta_2)


def _power(base: float, t: jax.Array) -> jax.Array:
    return jnp.power(jnp.asarray(base, t.dtype), t)


def _check(beta_1: float, beta_2: float, epsilon: float) -> None:
    check_range("beta_1", beta_1, high=1.0, open_high=True)
    check_range("beta_2", beta_2, high=1.0, open_high=True)
    check_range("epsilon", epsilon)


def _zeros(path: str, w: jax.Array) -> MomentSlots:
    return MomentSlots(jnp.zeros_like(w), jnp.zeros_like(w))


def Adam(
    learning_rate: LearningRate = 0.001,
    beta_1: float = 0.9,
    beta_2: float = 0.999,
    epsilon: float = 1e-7,
    amsgrad: bool = False,
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
    """Moments of the gradient: w -= lr sqrt(1 - beta_2^t) / (1 - beta_1^t) m / (sqrt(v) + epsilon).

    m += (1 - beta_1) (g - m) and v += (1 - beta_2) (g^2 - v); with `amsgrad` the largest v so far divides.
    This epsilon is the paper's "epsilon hat": it is added before the correction, not after as in optax.

    Hyperparameters:
        beta_1: Decay of the first moment, at least 0 and less than 1.
        beta_2: Decay of the second moment, at least 0 and less than 1.
        epsilon: Guard against division by 0.
        amsgrad: Whether the second moment never falls.
        The others are every optimizer's.

    References:
        Kingma and Ba, Adam: A Method for Stochastic Optimization, 2014, https://arxiv.org/abs/1412.6980
        Reddi et al., On the Convergence of Adam and Beyond, 2018, https://openreview.net/pdf?id=ryQu7f-RZ

    Example:
        >>> optimizer = Adam(0.5, epsilon=0.0)
        >>> params = {"w": jnp.ones(2)}
        >>> updates, _ = optimizer.update({"w": jnp.array([3.0, -4.0])}, optimizer.init(params), params)
        >>> print(updates["w"].round(3))
        [-0.5  0.5]
    """
    _check(beta_1, beta_2, epsilon)
    common = Common(
        learning_rate, weight_decay, clipnorm, clipvalue, global_clipnorm, use_ema, ema_momentum,
        ema_overwrite_frequency, loss_scale_factor, gradient_accumulation_steps,
        name or "adam", exclude_from_weight_decay,
    )  # fmt: skip

    def slots(path: str, w: jax.Array) -> MomentSlots | AmsgradSlots:
        return AmsgradSlots(*_zeros(path, w), jnp.zeros_like(w)) if amsgrad else _zeros(path, w)

    def step(t: jax.Array, lr: jax.Array, _: Any) -> Any:
        alpha = adam_rate(t, lr, beta_1, beta_2)

        def leaf(g: jax.Array, w: jax.Array, s: Any) -> tuple[jax.Array, Any]:
            if not amsgrad:
                change, m, v = adam_leaf(g, s.momentum, s.velocity, alpha, beta_1, beta_2, epsilon)
                return change, MomentSlots(m, v)
            m, v = _moments(g, s.momentum, s.velocity, beta_1, beta_2)
            v_hat = jnp.maximum(s.velocity_hat, v)
            return -(m * alpha) / (jnp.sqrt(v_hat) + epsilon), AmsgradSlots(m, v, v_hat)

        return leaf

    return build(Rule(slots, step), common)


def AdamW(
    learning_rate: LearningRate = 0.001,
    weight_decay: float = 0.004,
    beta_1: float = 0.9,
    beta_2: float = 0.999,
    epsilon: float = 1e-7,
    amsgrad: bool = False,
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
    """Adam with weight decay: w -= lr weight_decay w, then Adam's step.

    Like Keras it decays every parameter, unless `exclude_from_weight_decay` says otherwise.

    Hyperparameters:
        weight_decay: Part of the weight, times the learning rate, that is lost at each step.
        The others are Adam's and every optimizer's.

    References:
        Loshchilov and Hutter, Decoupled Weight Decay Regularization, 2019, https://arxiv.org/abs/1711.05101

    Example:
        >>> optimizer = AdamW(0.5, weight_decay=0.1, exclude_from_weight_decay="bias")
        >>> params = {"kernel": jnp.ones(1), "bias": jnp.ones(1)}
        >>> grads = {"kernel": jnp.zeros(1), "bias": jnp.zeros(1)}
        >>> updates, _ = optimizer.update(grads, optimizer.init(params), params)
        >>> print(updates["kernel"], updates["bias"])
        [-0.05] [-0.]
    """
    if weight_decay is None:
        raise ValueError("AdamW: `weight_decay` must be a number, got None; for no decay use Adam.")
    return Adam(
        learning_rate, beta_1, beta_2, epsilon, amsgrad, weight_decay, clipnorm, clipvalue, global_clipnorm,
        use_ema, ema_momentum, ema_overwrite_frequency, loss_scale_factor, gradient_accumulation_steps,
        name or "adamw", exclude_from_weight_decay=exclude_from_weight_decay,
    )  # fmt: skip


def Adamax(
    learning_rate: LearningRate = 0.001,
    beta_1: float = 0.9,
    beta_2: float = 0.999,
    epsilon: float = 1e-7,
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
    """Adam with the infinity norm: u = max(beta_2 u, |g|); w -= lr m / ((1 - beta_1^t) (u + epsilon)).

    Hyperparameters:
        beta_1: Decay of the first moment m, at least 0 and less than 1.
        beta_2: Decay of the norm u, at least 0 and less than 1.
        epsilon: Guard against division by 0.
        The others are every optimizer's.

    References:
        Kingma and Ba, Adam: A Method for Stochastic Optimization, 2014, https://arxiv.org/abs/1412.6980

    Example:
        >>> optimizer = Adamax(0.5, epsilon=0.0)
        >>> params = {"w": jnp.ones(2)}
        >>> updates, _ = optimizer.update({"w": jnp.array([3.0, -4.0])}, optimizer.init(params), params)
        >>> print(updates["w"].round(3))
        [-0.5  0.5]
    """
    _check(beta_1, beta_2, epsilon)
    common = Common(
        learning_rate, weight_decay, clipnorm, clipvalue, global_clipnorm, use_ema, ema_momentum,
        ema_overwrite_frequency, loss_scale_factor, gradient_accumulation_steps,
        name or "adamax", exclude_from_weight_decay,
    )  # fmt: skip

    def step(t: jax.Array, lr: jax.Array, _: Any) -> Any:
        correction = 1 - _power(beta_1, t)

        def leaf(g: jax.Array, w: jax.Array, s: MomentSlots) -> tuple[jax.Array, MomentSlots]:
            m = s.momentum + (g - s.momentum) * (1 - beta_1)
            u = jnp.maximum(beta_2 * s.velocity, jnp.abs(g))
            return -(lr * m) / (correction * (u + epsilon)), MomentSlots(m, u)

        return leaf

    return build(Rule(_zeros, step), common)


def Nadam(
    learning_rate: LearningRate = 0.001,
    beta_1: float = 0.9,
    beta_2: float = 0.999,
    epsilon: float = 1e-7,
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
    """Adam with Nesterov momentum and a momentum that grows, u_t = beta_1 (1 - 0.96^t / 2).

    w -= lr m_hat / (sqrt(v / (1 - beta_2^t)) + epsilon), where
    m_hat = u_{t+1} m / (1 - u_1 ... u_{t+1}) + (1 - u_t) g / (1 - u_1 ... u_t).

    Hyperparameters:
        beta_1: Decay of the first moment m, at least 0 and less than 1.
        beta_2: Decay of the second moment v, at least 0 and less than 1.
        epsilon: Guard against division by 0.
        The others are every optimizer's.

    References:
        Dozat, Incorporating Nesterov Momentum into Adam, 2015, http://cs229.stanford.edu/proj2015/054_report.pdf

    Example:
        >>> optimizer = Nadam(0.5)
        >>> params = {"w": jnp.ones(2)}
        >>> _, state = optimizer.update({"w": jnp.ones(2)}, optimizer.init(params), params)
        >>> print(f"{float(state.shared):.3f}")  # the product of the u so far
        0.468
    """
    _check(beta_1, beta_2, epsilon)
    common = Common(
        learning_rate, weight_decay, clipnorm, clipvalue, global_clipnorm, use_ema, ema_momentum,
        ema_overwrite_frequency, loss_scale_factor, gradient_accumulation_steps,
        name or "nadam", exclude_from_weight_decay,
    )  # fmt: skip

    def product(t: jax.Array, u_product: jax.Array) -> jax.Array:
        return u_product * beta_1 * (1.0 - 0.5 * _power(0.96, t))

    def step(t: jax.Array, lr: jax.Array, u_product: jax.Array) -> Any:
        b1, b2 = jnp.asarray(beta_1, t.dtype), jnp.asarray(beta_2, t.dtype)
        u_now = b1 * (1.0 - 0.5 * _power(0.96, t))
        u_next = b1 * (1.0 - 0.5 * _power(0.96, t + 1))
        correction = 1 - _power(beta_2, t)

        def leaf(g: jax.Array, w: jax.Array, s: MomentSlots) -> tuple[jax.Array, MomentSlots]:
            m = s.momentum + (g - s.momentum) * (1 - b1)
            v = s.velocity + (jnp.square(g) - s.velocity) * (1 - b2)
            m_hat = u_next * m / (1 - u_product * u_next) + (1 - u_now) * g / (1 - u_product)
            return -(m_hat * lr) / (jnp.sqrt(v / correction) + epsilon), MomentSlots(m, v)

        return leaf

    return build(Rule(_zeros, step, shared=product), common)


def Lamb(
    learning_rate: LearningRate = 0.001,
    beta_1: float = 0.9,
    beta_2: float = 0.999,
    epsilon: float = 1e-7,
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
    """Adam's direction, as long as the weights: w -= lr |w| / |u| u, u = m_hat / (sqrt(v_hat) + epsilon).

    The norms are those of each parameter; where one is 0, the ratio is 1. Unlike in the paper and optax, a
    weight decay is taken from the weights before, and is no part of u.

    Hyperparameters:
        beta_1: Decay of the first moment, at least 0 and less than 1.
        beta_2: Decay of the second moment, at least 0 and less than 1.
        epsilon: Guard against division by 0.
        The others are every optimizer's.

    References:
        You et al., Large Batch Optimization for Deep Learning: Training BERT in 76 minutes, 2019,
        https://arxiv.org/abs/1904.00962

    Example:
        >>> optimizer = Lamb(0.5)
        >>> params = {"w": jnp.array([3.0, 4.0])}
        >>> updates, _ = optimizer.update({"w": jnp.array([1.0, 0.0])}, optimizer.init(params), params)
        >>> print(updates["w"])
        [-2.5 -0. ]
    """
    _check(beta_1, beta_2, epsilon)
    common = Common(
        learning_rate, weight_decay, clipnorm, clipvalue, global_clipnorm, use_ema, ema_momentum,
        ema_overwrite_frequency, loss_scale_factor, gradient_accumulation_steps,
        name or "lamb", exclude_from_weight_decay,
    )  # fmt: skip

    def step(t: jax.Array, lr: jax.Array, _: Any) -> Any:
        correction_1, correction_2 = 1 - _power(beta_1, t), 1 - _power(beta_2, t)

        def leaf(g: jax.Array, w: jax.Array, s: MomentSlots) -> tuple[jax.Array, MomentSlots]:
            m, v = _moments(g, s.momentum, s.velocity, beta_1, beta_2)
            u = (m / correction_1) / (jnp.sqrt(v / correction_2) + epsilon)
            w_norm, u_norm = jnp.sqrt(jnp.sum(jnp.square(w))), jnp.sqrt(jnp.sum(jnp.square(u)))
            ratio = jnp.where((w_norm > 0) & (u_norm > 0), w_norm / u_norm, 1.0)
            return -(ratio * lr * u), MomentSlots(m, v)

        return leaf

    return build(Rule(_zeros, step), common)


def ScheduleFreeAdamW(
    learning_rate: LearningRate = 0.0025,
    beta_1: float = 0.9,
    beta_2: float = 0.999,
    epsilon: float = 1e-8,
    warmup_steps: int = 0,
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
    """Adam's steps on a sequence z, with their mean x; the weights are w = (1 - beta_1) z + beta_1 x.

    z -= lr g / (sqrt(v / (1 - beta_2^t)) + epsilon); x += (z - x) / t. Like Keras, and unlike the paper, it
    weighs all steps alike and evaluates the model at w; z is the slot `momentum`, x is not stored.

    Hyperparameters:
        beta_1: Part of x in the weights, more than 0 and at most 1.
        beta_2: Decay of the second moment, at least 0 and less than 1.
        epsilon: Guard against division by 0.
        warmup_steps: Steps in which the learning rate rises linearly.
        The others are every optimizer's.

    References:
        Defazio et al., The Road Less Scheduled, 2024, https://arxiv.org/abs/2405.15682

    Example:
        >>> optimizer = ScheduleFreeAdamW(0.5)
        >>> params = {"w": jnp.ones(2)}
        >>> updates, _ = optimizer.update({"w": jnp.array([3.0, -4.0])}, optimizer.init(params), params)
        >>> print(updates["w"].round(3))
        [-0.5  0.5]
    """
    check_range("beta_1", beta_1, high=1.0, open_low=True)
    check_range("beta_2", beta_2, high=1.0, open_high=True)
    check_range("epsilon", epsilon)
    check_count("warmup_steps", warmup_steps, 0)
    common = Common(
        learning_rate, weight_decay, clipnorm, clipvalue, global_clipnorm, use_ema, ema_momentum,
        ema_overwrite_frequency, loss_scale_factor, gradient_accumulation_steps,
        name or "schedule_free_adamw", exclude_from_weight_decay,
    )  # fmt: skip

    def slots(path: str, w: jax.Array) -> MomentSlots:
        # A copy, so that parameters and state can both be donated.
        return MomentSlots(jnp.array(w, copy=True), jnp.zeros_like(w))

    def step(t: jax.Array, lr: jax.Array, _: Any) -> Any:
        b1, b2 = jnp.asarray(beta_1, t.dtype), jnp.asarray(beta_2, t.dtype)
        lr = lr * jnp.minimum(t / warmup_steps, 1.0) if warmup_steps else lr
        correction, weight = 1 - _power(beta_2, t), 1.0 / t

        def leaf(g: jax.Array, w: jax.Array, s: MomentSlots) -> tuple[jax.Array, MomentSlots]:
            v = s.velocity + (jnp.square(g) - s.velocity) * (1 - b2)
            z = s.momentum - (lr * g) / (jnp.sqrt(v / correction) + epsilon)
            x = (w - (1 - b1) * s.momentum) / b1
            x = (1 - weight) * x + weight * z
            return (1 - b1) * z + b1 * x - w, MomentSlots(z, v)

        return leaf

    return build(Rule(slots, step), common)
