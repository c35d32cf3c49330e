"""Adam and its variants: Adam, AdamW, Adamax, Nadam, Lamb and ScheduleFreeAdamW."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from training.optimizers.base import Common, LearningRate, ParameterUpdate, Rule, build, check_count, check_range


class MomentSlots(NamedTuple):
    """Slots of Adam, Nadam and Lamb, and of Adamax, whose velocity is the infinity norm."""

    momentum: jax.Array
    velocity: jax.Array


class AmsgradSlots(NamedTuple):
    """Slots of Adam with `amsgrad`."""

    momentum: jax.Array
    velocity: jax.Array
    velocity_hat: jax.Array


def adam_rate(t: jax.Array, lr: jax.Array, beta_1: float, beta_2: float) -> jax.Array:
    """Returns the learning rate with the bias corrections of both moments, lr sqrt(1 - beta_2^t) / (1 - beta_1^t)."""
    return lr * jnp.sqrt(1 - _power(beta_2, t)) / (1 - _power(beta_1, t))


def adam_update(
    g: jax.Array, m: jax.Array, v: jax.Array, alpha: jax.Array, beta_1: float, beta_2: float, epsilon: float
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns Adam's change of a weight, and the new moments."""
    m, v = _update_moments(g, m, v, beta_1, beta_2)
    return -(m * alpha) / (jnp.sqrt(v) + epsilon), m, v


def _update_moments(
    g: jax.Array, m: jax.Array, v: jax.Array, beta_1: float, beta_2: float
) -> tuple[jax.Array, jax.Array]:
    return m + (g - m) * (1 - beta_1), v + (jnp.square(g) - v) * (1 - beta_2)


def _power(base: float, t: jax.Array) -> jax.Array:
    return jnp.power(jnp.asarray(base, t.dtype), t)


def _check_arguments(beta_1: float, beta_2: float, epsilon: float) -> None:
    check_range("beta_1", beta_1, high=1.0, open_high=True)
    check_range("beta_2", beta_2, high=1.0, open_high=True)
    check_range("epsilon", epsilon)


def _zero_moments(path: str, w: jax.Array) -> MomentSlots:
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
    """Adapts the step size by moments: w -= lr sqrt(1 - beta_2^t) / (1 - beta_1^t) m / (sqrt(v) + epsilon).

    m += (1 - beta_1) (g - m) and v += (1 - beta_2) (g^2 - v). With `amsgrad`, the maximum of all v so far replaces v.
    This epsilon is the paper's "epsilon hat": it is added before the bias correction, and not after it as in optax.

    Hyperparameters:
        beta_1: Decay of the first moment, at least 0 and less than 1.
        beta_2: Decay of the second moment, at least 0 and less than 1.
        epsilon: Small number that prevents division by 0.
        amsgrad: Whether to use the maximum of the second moments so far.

    The other arguments are common to all optimizers; see `training.optimizers`.

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
    _check_arguments(beta_1, beta_2, epsilon)
    common = Common(
        learning_rate, weight_decay, clipnorm, clipvalue, global_clipnorm, use_ema, ema_momentum,
        ema_overwrite_frequency, loss_scale_factor, gradient_accumulation_steps,
        name or "adam", exclude_from_weight_decay,
    )  # fmt: skip
    return build(_adam_rule(beta_1, beta_2, epsilon, amsgrad), common)


def _adam_rule(beta_1: float, beta_2: float, epsilon: float, amsgrad: bool) -> Rule[MomentSlots | AmsgradSlots]:
    def slots(path: str, w: jax.Array) -> MomentSlots | AmsgradSlots:
        return AmsgradSlots(*_zero_moments(path, w), jnp.zeros_like(w)) if amsgrad else _zero_moments(path, w)

    def step(t: jax.Array, lr: jax.Array, shared: jax.Array | None) -> ParameterUpdate[MomentSlots | AmsgradSlots]:
        alpha = adam_rate(t, lr, beta_1, beta_2)

        def update(
            g: jax.Array, w: jax.Array, s: MomentSlots | AmsgradSlots
        ) -> tuple[jax.Array, MomentSlots | AmsgradSlots]:
            if isinstance(s, MomentSlots):
                change, m, v = adam_update(g, s.momentum, s.velocity, alpha, beta_1, beta_2, epsilon)
                return change, MomentSlots(m, v)
            m, v = _update_moments(g, s.momentum, s.velocity, beta_1, beta_2)
            v_hat = jnp.maximum(s.velocity_hat, v)
            return -(m * alpha) / (jnp.sqrt(v_hat) + epsilon), AmsgradSlots(m, v, v_hat)

        return update

    return Rule("adam", slots, step)


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
    """Applies decoupled weight decay before Adam's update: w -= lr weight_decay w.

    As in Keras, all parameters decay unless `exclude_from_weight_decay` is given.

    Hyperparameters:
        weight_decay: The weight decay per step, relative to the learning rate.

    The other arguments are as in `Adam`.

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
    """Replaces Adam's second moment by an infinity norm: w -= lr m / ((1 - beta_1^t) (u + epsilon)).

    m += (1 - beta_1) (g - m) and u = max(beta_2 u, |g|).

    Hyperparameters:
        beta_1: Decay of the first moment m, at least 0 and less than 1.
        beta_2: Decay of the norm u, at least 0 and less than 1.
        epsilon: Small number that prevents division by 0.

    The other arguments are common to all optimizers; see `training.optimizers`.

    References:
        Kingma and Ba, Adam: A Method for Stochastic Optimization, 2014, https://arxiv.org/abs/1412.6980

    Example:
        >>> optimizer = Adamax(0.5, epsilon=0.0)
        >>> params = {"w": jnp.ones(2)}
        >>> updates, _ = optimizer.update({"w": jnp.array([3.0, -4.0])}, optimizer.init(params), params)
        >>> print(updates["w"].round(3))
        [-0.5  0.5]
    """
    _check_arguments(beta_1, beta_2, epsilon)
    common = Common(
        learning_rate, weight_decay, clipnorm, clipvalue, global_clipnorm, use_ema, ema_momentum,
        ema_overwrite_frequency, loss_scale_factor, gradient_accumulation_steps,
        name or "adamax", exclude_from_weight_decay,
    )  # fmt: skip
    return build(_adamax_rule(beta_1, beta_2, epsilon), common)


def _adamax_rule(beta_1: float, beta_2: float, epsilon: float) -> Rule[MomentSlots]:
    def step(t: jax.Array, lr: jax.Array, shared: jax.Array | None) -> ParameterUpdate[MomentSlots]:
        correction = 1 - _power(beta_1, t)

        def update(g: jax.Array, w: jax.Array, s: MomentSlots) -> tuple[jax.Array, MomentSlots]:
            m = s.momentum + (g - s.momentum) * (1 - beta_1)
            u = jnp.maximum(beta_2 * s.velocity, jnp.abs(g))
            return -(lr * m) / (correction * (u + epsilon)), MomentSlots(m, u)

        return update

    return Rule("adamax", _zero_moments, step)


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
    """Combines Adam with Nesterov momentum that increases over time, u_t = beta_1 (1 - 0.96^t / 2).

    w -= lr m_hat / (sqrt(v / (1 - beta_2^t)) + epsilon), where
    m_hat = u_{t+1} m / (1 - u_1 ... u_{t+1}) + (1 - u_t) g / (1 - u_1 ... u_t).

    Hyperparameters:
        beta_1: Decay of the first moment m, at least 0 and less than 1.
        beta_2: Decay of the second moment v, at least 0 and less than 1.
        epsilon: Small number that prevents division by 0.

    The other arguments are common to all optimizers; see `training.optimizers`.

    References:
        Dozat, Incorporating Nesterov Momentum into Adam, 2015, http://cs229.stanford.edu/proj2015/054_report.pdf

    Example:
        >>> optimizer = Nadam(0.5)
        >>> params = {"w": jnp.ones(2)}
        >>> _, state = optimizer.update({"w": jnp.ones(2)}, optimizer.init(params), params)
        >>> print(f"{float(state.shared):.3f}")  # the product of the u so far
        0.468
    """
    _check_arguments(beta_1, beta_2, epsilon)
    common = Common(
        learning_rate, weight_decay, clipnorm, clipvalue, global_clipnorm, use_ema, ema_momentum,
        ema_overwrite_frequency, loss_scale_factor, gradient_accumulation_steps,
        name or "nadam", exclude_from_weight_decay,
    )  # fmt: skip
    return build(_nadam_rule(beta_1, beta_2, epsilon), common)


def _nadam_rule(beta_1: float, beta_2: float, epsilon: float) -> Rule[MomentSlots]:
    def product(t: jax.Array, u_product: jax.Array) -> jax.Array:
        return u_product * beta_1 * (1.0 - 0.5 * _power(0.96, t))

    def step(t: jax.Array, lr: jax.Array, u_product: jax.Array | None) -> ParameterUpdate[MomentSlots]:
        b1, b2 = jnp.asarray(beta_1, t.dtype), jnp.asarray(beta_2, t.dtype)
        u_now = b1 * (1.0 - 0.5 * _power(0.96, t))
        u_next = b1 * (1.0 - 0.5 * _power(0.96, t + 1))
        correction = 1 - _power(beta_2, t)

        def update(g: jax.Array, w: jax.Array, s: MomentSlots) -> tuple[jax.Array, MomentSlots]:
            m = s.momentum + (g - s.momentum) * (1 - b1)
            v = s.velocity + (jnp.square(g) - s.velocity) * (1 - b2)
            m_hat = u_next * m / (1 - u_product * u_next) + (1 - u_now) * g / (1 - u_product)  # type: ignore[operator]
            return -(m_hat * lr) / (jnp.sqrt(v / correction) + epsilon), MomentSlots(m, v)

        return update

    return Rule("nadam", _zero_moments, step, shared=product)


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
    """Scales Adam's update to the norm of the weights: w -= lr |w| / |u| u, u = m_hat / (sqrt(v_hat) + epsilon).

    The norms are computed for each parameter. If one of them is 0, the ratio is 1. Unlike in the paper and in optax,
    weight decay is applied before this update and is not part of u.

    Hyperparameters:
        beta_1: Decay of the first moment, at least 0 and less than 1.
        beta_2: Decay of the second moment, at least 0 and less than 1.
        epsilon: Small number that prevents division by 0.

    The other arguments are common to all optimizers; see `training.optimizers`.

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
    _check_arguments(beta_1, beta_2, epsilon)
    common = Common(
        learning_rate, weight_decay, clipnorm, clipvalue, global_clipnorm, use_ema, ema_momentum,
        ema_overwrite_frequency, loss_scale_factor, gradient_accumulation_steps,
        name or "lamb", exclude_from_weight_decay,
    )  # fmt: skip
    return build(_lamb_rule(beta_1, beta_2, epsilon), common)


def _lamb_rule(beta_1: float, beta_2: float, epsilon: float) -> Rule[MomentSlots]:
    def step(t: jax.Array, lr: jax.Array, shared: jax.Array | None) -> ParameterUpdate[MomentSlots]:
        correction_1, correction_2 = 1 - _power(beta_1, t), 1 - _power(beta_2, t)

        def update(g: jax.Array, w: jax.Array, s: MomentSlots) -> tuple[jax.Array, MomentSlots]:
            m, v = _update_moments(g, s.momentum, s.velocity, beta_1, beta_2)
            u = (m / correction_1) / (jnp.sqrt(v / correction_2) + epsilon)
            w_norm, u_norm = jnp.sqrt(jnp.sum(jnp.square(w))), jnp.sqrt(jnp.sum(jnp.square(u)))
            ratio = jnp.where((w_norm > 0) & (u_norm > 0), w_norm / u_norm, 1.0)
            return -(ratio * lr * u), MomentSlots(m, v)

        return update

    return Rule("lamb", _zero_moments, step)


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
    """Averages Adam's iterates z to x, without a schedule; the weights are w = (1 - beta_1) z + beta_1 x.

    z -= lr g / (sqrt(v / (1 - beta_2^t)) + epsilon) and x += (z - x) / t. As in Keras, and unlike in the paper, all
    steps have the same weight and the model is evaluated at w. z is the slot `momentum`; x is not stored.

    Hyperparameters:
        beta_1: The weight of x in w, more than 0 and at most 1.
        beta_2: Decay of the second moment, at least 0 and less than 1.
        epsilon: Small number that prevents division by 0.
        warmup_steps: The number of steps in which the learning rate increases linearly.

    The other arguments are common to all optimizers; see `training.optimizers`.

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
    return build(_schedule_free_adamw_rule(beta_1, beta_2, epsilon, warmup_steps), common)


def _schedule_free_adamw_rule(beta_1: float, beta_2: float, epsilon: float, warmup_steps: int) -> Rule[MomentSlots]:
    def slots(path: str, w: jax.Array) -> MomentSlots:
        # A copy, so that parameters and state can both be donated.
        return MomentSlots(jnp.array(w, copy=True), jnp.zeros_like(w))

    def step(t: jax.Array, lr: jax.Array, shared: jax.Array | None) -> ParameterUpdate[MomentSlots]:
        b1, b2 = jnp.asarray(beta_1, t.dtype), jnp.asarray(beta_2, t.dtype)
        lr = lr * jnp.minimum(t / warmup_steps, 1.0) if warmup_steps else lr
        correction, weight = 1 - _power(beta_2, t), 1.0 / t

        def update(g: jax.Array, w: jax.Array, s: MomentSlots) -> tuple[jax.Array, MomentSlots]:
            v = s.velocity + (jnp.square(g) - s.velocity) * (1 - b2)
            z = s.momentum - (lr * g) / (jnp.sqrt(v / correction) + epsilon)
            x = (w - (1 - b1) * s.momentum) / b1
            x = (1 - weight) * x + weight * z
            return (1 - b1) * z + b1 * x - w, MomentSlots(z, v)

        return update

    return Rule("schedule_free_adamw", slots, step)
