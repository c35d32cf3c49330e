"""Optimizers with adaptive step sizes: RMSprop, Adagrad, Adadelta, Adafactor and Ftrl."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from training.optimizers.base import Common, LearningRate, ParameterUpdate, Rule, build, check_range


class RMSpropSlots(NamedTuple):
    """Slots of RMSprop; `momentum` and `average_gradient` are None if they are not used."""

    velocity: jax.Array
    momentum: jax.Array | None
    average_gradient: jax.Array | None


class AdagradSlots(NamedTuple):
    """Slots of Adagrad."""

    accumulator: jax.Array


class AdadeltaSlots(NamedTuple):
    """Slots of Adadelta."""

    accumulated_grad: jax.Array
    accumulated_delta: jax.Array


class AdafactorSlots(NamedTuple):
    """Slots of Adafactor: row and column means of arrays of two or more axes, the velocity of other arrays."""

    row: jax.Array | None
    column: jax.Array | None
    velocity: jax.Array | None


class FtrlSlots(NamedTuple):
    """Slots of Ftrl."""

    accumulator: jax.Array
    linear: jax.Array


def RMSprop(
    learning_rate: LearningRate = 0.001,
    rho: float = 0.9,
    momentum: float = 0.0,
    epsilon: float = 1e-7,
    centered: bool = False,
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
    """Divides gradients by the root of their moving mean square: w -= lr g / sqrt(v + epsilon).

    v = rho v + (1 - rho) g^2. With `momentum`, m = momentum m + lr g / sqrt(v + epsilon) and w -= m. With
    `centered`, the square of the moving mean of g is subtracted from v, which gives the variance.

    Hyperparameters:
        rho: Decay of the moving means, from 0 to 1.
        momentum: Decay of m, from 0 to 1.
        epsilon: Small number that prevents division by 0, inside the root.
        centered: Whether to divide by the root of the variance.

    The other arguments are common to all optimizers; see `training.optimizers`.

    References:
        Hinton, Neural Networks for Machine Learning, lecture 6, 2012,
        http://www.cs.toronto.edu/~tijmen/csc321/slides/lecture_slides_lec6.pdf

    Example:
        >>> optimizer = RMSprop(0.5, rho=0.75)
        >>> params = {"w": jnp.ones(2)}
        >>> updates, _ = optimizer.update({"w": jnp.array([3.0, -4.0])}, optimizer.init(params), params)
        >>> print(updates["w"].round(3))
        [-1.  1.]
    """
    check_range("rho", rho, high=1.0)
    check_range("momentum", momentum, high=1.0)
    check_range("epsilon", epsilon)
    common = Common(
        learning_rate, weight_decay, clipnorm, clipvalue, global_clipnorm, use_ema, ema_momentum,
        ema_overwrite_frequency, loss_scale_factor, gradient_accumulation_steps,
        name or "rmsprop", exclude_from_weight_decay,
    )  # fmt: skip
    return build(_rmsprop_rule(rho, momentum, epsilon, centered), common)


def _rmsprop_rule(rho: float, momentum: float, epsilon: float, centered: bool) -> Rule[RMSpropSlots]:
    def slots(path: str, w: jax.Array) -> RMSpropSlots:
        zeros = jnp.zeros_like
        return RMSpropSlots(zeros(w), zeros(w) if momentum else None, zeros(w) if centered else None)

    def step(t: jax.Array, lr: jax.Array, shared: jax.Array | None) -> ParameterUpdate[RMSpropSlots]:
        def update(g: jax.Array, w: jax.Array, s: RMSpropSlots) -> tuple[jax.Array, RMSpropSlots]:
            v, m, mean = rho * s.velocity + (1 - rho) * jnp.square(g), s.momentum, s.average_gradient
            variance = v
            if mean is not None:
                mean = rho * mean + (1 - rho) * g
                variance = v - jnp.square(mean)
            change = (lr * g) / jnp.sqrt(variance + epsilon)
            if m is not None:
                change = m = momentum * m + change
            return -change, RMSpropSlots(v, m, mean)

        return update

    return Rule("rmsprop", slots, step)


def Adagrad(
    learning_rate: LearningRate = 0.001,
    initial_accumulator_value: float = 0.1,
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
    """Divides gradients by the root of the sum of their squares: a += g^2; w -= lr g / sqrt(a + epsilon).

    Hyperparameters:
        initial_accumulator_value: The initial value of a, at least 0.
        epsilon: Small number that prevents division by 0, inside the root.

    The other arguments are common to all optimizers; see `training.optimizers`. The paper's learning rate is 1.

    References:
        Duchi et al., Adaptive Subgradient Methods for Online Learning and Stochastic Optimization, 2011,
        https://www.jmlr.org/papers/volume12/duchi11a/duchi11a.pdf

    Example:
        >>> optimizer = Adagrad(0.5, initial_accumulator_value=0.0)
        >>> params = {"w": jnp.ones(2)}
        >>> updates, _ = optimizer.update({"w": jnp.array([3.0, -4.0])}, optimizer.init(params), params)
        >>> print(updates["w"])
        [-0.5  0.5]
    """
    check_range("initial_accumulator_value", initial_accumulator_value)
    check_range("epsilon", epsilon)
    common = Common(
        learning_rate, weight_decay, clipnorm, clipvalue, global_clipnorm, use_ema, ema_momentum,
        ema_overwrite_frequency, loss_scale_factor, gradient_accumulation_steps,
        name or "adagrad", exclude_from_weight_decay,
    )  # fmt: skip
    return build(_adagrad_rule(initial_accumulator_value, epsilon), common)


def _adagrad_rule(initial_accumulator_value: float, epsilon: float) -> Rule[AdagradSlots]:
    def slots(path: str, w: jax.Array) -> AdagradSlots:
        return AdagradSlots(jnp.full_like(w, initial_accumulator_value))

    def step(t: jax.Array, lr: jax.Array, shared: jax.Array | None) -> ParameterUpdate[AdagradSlots]:
        def update(g: jax.Array, w: jax.Array, s: AdagradSlots) -> tuple[jax.Array, AdagradSlots]:
            accumulator = s.accumulator + jnp.square(g)
            return -(lr * g) / jnp.sqrt(accumulator + epsilon), AdagradSlots(accumulator)

        return update

    return Rule("adagrad", slots, step)


def Adadelta(
    learning_rate: LearningRate = 0.001,
    rho: float = 0.95,
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
    """Scales steps by the size of previous steps: w += lr d, d = -sqrt(D + epsilon) / sqrt(G + epsilon) g.

    G = rho G + (1 - rho) g^2 is computed before d, and D = rho D + (1 - rho) d^2 after it.

    Hyperparameters:
        rho: Decay of G and D, from 0 to 1.
        epsilon: Small number that prevents division by 0, and sets the size of the first steps.

    The other arguments are common to all optimizers; see `training.optimizers`. The paper's learning rate is 1, which
    is a thousand times the default.

    References:
        Zeiler, ADADELTA: An Adaptive Learning Rate Method, 2012, https://arxiv.org/abs/1212.5701

    Example:
        >>> optimizer = Adadelta(1.0, rho=0.0, epsilon=1.0)
        >>> params = {"w": jnp.ones(1)}
        >>> updates, _ = optimizer.update({"w": jnp.sqrt(jnp.full(1, 3.0))}, optimizer.init(params), params)
        >>> print(updates["w"].round(4))
        [-0.866]
    """
    check_range("rho", rho, high=1.0)
    check_range("epsilon", epsilon)
    common = Common(
        learning_rate, weight_decay, clipnorm, clipvalue, global_clipnorm, use_ema, ema_momentum,
        ema_overwrite_frequency, loss_scale_factor, gradient_accumulation_steps,
        name or "adadelta", exclude_from_weight_decay,
    )  # fmt: skip
    return build(_adadelta_rule(rho, epsilon), common)


def _adadelta_rule(rho: float, epsilon: float) -> Rule[AdadeltaSlots]:
    def slots(path: str, w: jax.Array) -> AdadeltaSlots:
        return AdadeltaSlots(jnp.zeros_like(w), jnp.zeros_like(w))

    def step(t: jax.Array, lr: jax.Array, shared: jax.Array | None) -> ParameterUpdate[AdadeltaSlots]:
        def update(g: jax.Array, w: jax.Array, s: AdadeltaSlots) -> tuple[jax.Array, AdadeltaSlots]:
            grad = rho * s.accumulated_grad + (1 - rho) * jnp.square(g)
            delta = -(jnp.sqrt(s.accumulated_delta + epsilon) * g / jnp.sqrt(grad + epsilon))
            return lr * delta, AdadeltaSlots(grad, rho * s.accumulated_delta + (1 - rho) * jnp.square(delta))

        return update

    return Rule("adadelta", slots, step)


def Adafactor(
    learning_rate: LearningRate = 0.001,
    beta_2_decay: float = -0.8,
    epsilon_1: float = 1e-30,
    epsilon_2: float = 1e-3,
    clip_threshold: float = 1.0,
    relative_step: bool = True,
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
    """Stores only the row and column means of the second moments, over the last two axes.

    With rho = min(lr, 1 / sqrt(t)), w -= max(epsilon_2, rms(w)) rho u / max(1, rms(u) / clip_threshold), where
    u = g / sqrt(v) and v is the product of the means. The means of g^2 + epsilon_1 have the decay 1 - t^beta_2_decay.
    As in Keras, all arrays of two or more axes are factored, even small ones.

    Hyperparameters:
        beta_2_decay: The exponent of t, at most 0.
        epsilon_1: Small number that prevents division by 0.
        epsilon_2: The smallest scale of a parameter in the step.
        clip_threshold: The largest root mean square of u.
        relative_step: Has no effect, because rho always decays with 1 / sqrt(t); Keras has this argument.

    The other arguments are common to all optimizers; see `training.optimizers`.

    References:
        Shazeer and Stern, Adafactor: Adaptive Learning Rates with Sublinear Memory Cost, 2018,
        https://arxiv.org/abs/1804.04235

    Example:
        >>> optimizer = Adafactor()
        >>> state = optimizer.init({"kernel": jnp.ones((4, 3))})
        >>> slots = state.slots
        >>> slots.row["kernel"].shape, slots.column["kernel"].shape, slots.velocity["kernel"]
        ((4,), (3,), None)
    """
    check_range("beta_2_decay", beta_2_decay, low=-jnp.inf, high=0.0)
    check_range("epsilon_1", epsilon_1)
    check_range("epsilon_2", epsilon_2)
    check_range("clip_threshold", clip_threshold, open_low=True)
    common = Common(
        learning_rate, weight_decay, clipnorm, clipvalue, global_clipnorm, use_ema, ema_momentum,
        ema_overwrite_frequency, loss_scale_factor, gradient_accumulation_steps,
        name or "adafactor", exclude_from_weight_decay,
    )  # fmt: skip
    return build(_adafactor_rule(beta_2_decay, epsilon_1, epsilon_2, clip_threshold), common)


def _adafactor_rule(
    beta_2_decay: float, epsilon_1: float, epsilon_2: float, clip_threshold: float
) -> Rule[AdafactorSlots]:
    def slots(path: str, w: jax.Array) -> AdafactorSlots:
        if w.ndim < 2:
            return AdafactorSlots(None, None, jnp.zeros_like(w))
        return AdafactorSlots(jnp.zeros_like(w[..., 0]), jnp.zeros_like(w[..., 0, :]), None)

    def step(t: jax.Array, lr: jax.Array, shared: jax.Array | None) -> ParameterUpdate[AdafactorSlots]:
        rho = jnp.minimum(lr, 1 / jnp.sqrt(t))
        beta_2 = 1 - jnp.power(t, beta_2_decay)

        def update(g: jax.Array, w: jax.Array, s: AdafactorSlots) -> tuple[jax.Array, AdafactorSlots]:
            square = jnp.square(g) + epsilon_1
            if s.velocity is not None:
                v = beta_2 * s.velocity + (1 - beta_2) * square
                s = AdafactorSlots(None, None, v)
            else:
                row = beta_2 * s.row + (1 - beta_2) * jnp.mean(square, axis=-1)  # type: ignore[operator]
                column = beta_2 * s.column + (1 - beta_2) * jnp.mean(square, axis=-2)  # type: ignore[operator]
                relative_row = row / jnp.mean(row, axis=-1, keepdims=True)
                v = relative_row[..., :, None] * column[..., None, :]
                s = AdafactorSlots(row, column, None)
            u = g / jnp.sqrt(v)
            u = u / jnp.maximum(1.0, _rms(u) / clip_threshold)
            return -(jnp.maximum(epsilon_2, _rms(w)) * rho * u), s

        return update

    return Rule("adafactor", slots, step)


def _rms(x: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.mean(jnp.square(x)))


def Ftrl(
    learning_rate: LearningRate = 0.001,
    learning_rate_power: float = -0.5,
    initial_accumulator_value: float = 0.1,
    l1_regularization_strength: float = 0.0,
    l2_regularization_strength: float = 0.0,
    l2_shrinkage_regularization_strength: float = 0.0,
    beta: float = 0.0,
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
    """Follows the regularized leader ("FTRL-Proximal"), for shallow models with many sparse inputs.

    With q = -learning_rate_power, n += g^2 and z += g + 2 shrinkage w - (n_new^q - n_old^q) / lr w:
    w = (clip(z, -l1, l1) - z) / (n^q / lr + 2 l2 + beta / lr), which is 0 if |z| <= l1.
    The first step replaces the initial weights.

    Hyperparameters:
        learning_rate_power: -q, at most 0; 0 for a learning rate that does not decay.
        initial_accumulator_value: The initial value of n, at least 0.
        l1_regularization_strength: l1, at least 0.
        l2_regularization_strength: l2, at least 0.
        l2_shrinkage_regularization_strength: Strength of an L2 penalty in the gradient, at least 0.
        beta: The paper's beta, at least 0.

    The other arguments are common to all optimizers; see `training.optimizers`.

    References:
        McMahan et al., Ad Click Prediction: a View from the Trenches, 2013,
        https://research.google.com/pubs/archive/41159.pdf

    Example:
        >>> optimizer = Ftrl(0.5, l1_regularization_strength=2.0)
        >>> params = {"w": jnp.zeros(2)}
        >>> updates, _ = optimizer.update({"w": jnp.array([1.0, -4.0])}, optimizer.init(params), params)
        >>> print(updates["w"].round(2))
        [0.   0.25]
    """
    check_range("learning_rate_power", learning_rate_power, low=-jnp.inf, high=0.0)
    check_range("initial_accumulator_value", initial_accumulator_value)
    check_range("l1_regularization_strength", l1_regularization_strength)
    check_range("l2_regularization_strength", l2_regularization_strength)
    check_range("l2_shrinkage_regularization_strength", l2_shrinkage_regularization_strength)
    check_range("beta", beta)
    common = Common(
        learning_rate, weight_decay, clipnorm, clipvalue, global_clipnorm, use_ema, ema_momentum,
        ema_overwrite_frequency, loss_scale_factor, gradient_accumulation_steps,
        name or "ftrl", exclude_from_weight_decay,
    )  # fmt: skip
    return build(
        _ftrl_rule(
            learning_rate_power,
            initial_accumulator_value,
            l1_regularization_strength,
            l2_regularization_strength,
            l2_shrinkage_regularization_strength,
            beta,
        ),
        common,
    )


def _ftrl_rule(
    learning_rate_power: float,
    initial_accumulator_value: float,
    l1_regularization_strength: float,
    l2_regularization_strength: float,
    l2_shrinkage_regularization_strength: float,
    beta: float,
) -> Rule[FtrlSlots]:
    q, l1 = -learning_rate_power, l1_regularization_strength

    def slots(path: str, w: jax.Array) -> FtrlSlots:
        return FtrlSlots(jnp.full_like(w, initial_accumulator_value), jnp.zeros_like(w))

    def step(t: jax.Array, lr: jax.Array, shared: jax.Array | None) -> ParameterUpdate[FtrlSlots]:
        l2 = l2_regularization_strength + beta / (2.0 * lr)

        def update(g: jax.Array, w: jax.Array, s: FtrlSlots) -> tuple[jax.Array, FtrlSlots]:
            n = s.accumulator + jnp.square(g)
            power = jnp.power(n, q)
            sigma = (power - jnp.power(s.accumulator, q)) / lr
            z = s.linear + (g + 2 * l2_shrinkage_regularization_strength * w - sigma * w)
            return (jnp.clip(z, -l1, l1) - z) / (power / lr + 2 * l2) - w, FtrlSlots(n, z)

        return update

    return Rule("ftrl", slots, step)
