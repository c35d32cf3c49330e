"""Learning rate schedules: the six of Keras, a linear warm-up for any schedule, and the one-cycle policy.

A schedule is a callable of the 0-based step that returns a float32 scalar. It works inside jit, scan and vmap. Any
function of the step can be used as a schedule, including those of optax.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from flaxmodels.configured import Configured
from flaxmodels.names import lookup

Schedule = Callable[[jax.Array], ArrayLike]


def _float(value: ArrayLike) -> jax.Array:
    return jnp.asarray(value, jnp.float32)


def _floor_divide(step: ArrayLike, steps: ArrayLike) -> jax.Array:
    """Computes floor(step / steps) exactly.

    XLA replaces the division by a constant by a product with its reciprocal. The product may be slightly less than an
    integer, and a staircase would then change one step late.
    """
    step, steps = _float(step), _float(steps)
    quotient = jnp.floor(step / steps)
    quotient = jnp.where((quotient + 1) * steps <= step, quotient + 1, quotient)
    return jnp.where(quotient * steps > step, quotient - 1, quotient)


class _Schedule(Configured):
    """Base class of schedules: the arguments as a configuration, with lists as in Keras."""

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the schedule by name.

        References:
            Keras, `keras.optimizers.schedules.LearningRateSchedule.get_config`.
        """
        config = super().get_config()
        return {name: list(value) if isinstance(value, tuple) else value for name, value in config.items()}


def _check_positive(schedule: Schedule, field: str) -> None:
    value = getattr(schedule, field)
    if not value > 0:
        raise ValueError(f"{type(schedule).__name__}: `{field}` must be positive, got {value}.")


@dataclasses.dataclass(frozen=True)
class ExponentialDecay(_Schedule):
    """Decays exponentially: initial_learning_rate * decay_rate ** (step / decay_steps).

    Args:
        initial_learning_rate: Value at step 0.
        decay_steps: The number of steps per multiplication with `decay_rate`.
        decay_rate: The factor.
        staircase: Whether to round step / decay_steps down.
        name: The name of the scope in profiles.

    Raises:
        ValueError: If `decay_steps` is not positive.

    Example:
        >>> print(ExponentialDecay(0.1, decay_steps=10, decay_rate=0.5)(20))
        0.025
    """

    initial_learning_rate: float
    decay_steps: float
    decay_rate: float
    staircase: bool = False
    name: str = "ExponentialDecay"

    def __post_init__(self) -> None:
        _check_positive(self, "decay_steps")

    def __call__(self, step: ArrayLike) -> jax.Array:
        """Returns the learning rate at a step."""
        with jax.named_scope(self.name):
            p = _floor_divide(step, self.decay_steps) if self.staircase else _float(step) / self.decay_steps
            return self.initial_learning_rate * jnp.power(_float(self.decay_rate), p)


@dataclasses.dataclass(frozen=True)
class InverseTimeDecay(_Schedule):
    """Decays with the inverse of time: initial_learning_rate / (1 + decay_rate * step / decay_steps).

    Args:
        initial_learning_rate: Value at step 0.
        decay_steps: The unit of time, in steps.
        decay_rate: The increase of the denominator per unit of time.
        staircase: Whether to round step / decay_steps down.
        name: The name of the scope in profiles.

    Raises:
        ValueError: If `decay_steps` is not positive.

    Example:
        >>> print(InverseTimeDecay(0.5, decay_steps=10, decay_rate=1.0)(10))
        0.25
    """

    initial_learning_rate: float
    decay_steps: float
    decay_rate: float
    staircase: bool = False
    name: str = "InverseTimeDecay"

    def __post_init__(self) -> None:
        _check_positive(self, "decay_steps")

    def __call__(self, step: ArrayLike) -> jax.Array:
        """Returns the learning rate at a step."""
        with jax.named_scope(self.name):
            p = _floor_divide(step, self.decay_steps) if self.staircase else _float(step) / self.decay_steps
            return self.initial_learning_rate / (1.0 + self.decay_rate * p)


@dataclasses.dataclass(frozen=True)
class PiecewiseConstantDecay(_Schedule):
    """Returns values[i] up to and including step boundaries[i], and the last value after all boundaries.

    Args:
        boundaries: Increasing steps.
        values: One value more than there are boundaries.
        name: The name of the scope in profiles.

    Raises:
        ValueError: If there are no boundaries, they do not increase, or the number of values is wrong.

    Example:
        >>> schedule = PiecewiseConstantDecay([100, 200], [1.0, 0.5, 0.25])
        >>> print(schedule(100), schedule(101), schedule(300))
        1.0 0.5 0.25
    """

    boundaries: Sequence[float]
    values: Sequence[float]
    name: str = "PiecewiseConstant"

    def __post_init__(self) -> None:
        if len(self.boundaries) != len(self.values) - 1 or not self.boundaries:
            raise ValueError(
                "PiecewiseConstantDecay: there must be at least one boundary and one value more than boundaries, "
                f"got {len(self.boundaries)} boundaries and {len(self.values)} values."
            )
        if any(a >= b for a, b in zip(self.boundaries, self.boundaries[1:], strict=False)):
            raise ValueError(f"PiecewiseConstantDecay: `boundaries` must increase, got {tuple(self.boundaries)}.")
        object.__setattr__(self, "boundaries", tuple(self.boundaries))
        object.__setattr__(self, "values", tuple(self.values))

    def __call__(self, step: ArrayLike) -> jax.Array:
        """Returns the learning rate at a step."""
        with jax.named_scope(self.name):
            step = jnp.asarray(step)
            # As in Keras, boundaries are cast to the dtype of the step: for an integer step, 2.5 means 2.
            passed = step > jnp.asarray(self.boundaries).astype(step.dtype)
            return jnp.asarray(self.values, jnp.float32)[jnp.sum(passed, dtype=jnp.int32)]


@dataclasses.dataclass(frozen=True)
class PolynomialDecay(_Schedule):
    """Decays polynomially: (initial - end) * (1 - min(step, decay_steps) / decay_steps) ** power + end.

    Args:
        initial_learning_rate: Value at step 0.
        decay_steps: The number of steps until the end.
        end_learning_rate: Value at the end.
        power: The exponent; 1 is linear.
        cycle: Whether to restart after the end. `decay_steps` is then increased to the next multiple that is at least
            the step, so that the rate jumps up and decays more slowly.
        name: The name of the scope in profiles.

    Raises:
        ValueError: If `decay_steps` is not positive.

    Example:
        >>> print(PolynomialDecay(0.5, decay_steps=10, end_learning_rate=0.0)(5))
        0.25
    """

    initial_learning_rate: float
    decay_steps: float
    end_learning_rate: float = 0.0001
    power: float = 1.0
    cycle: bool = False
    name: str = "PolynomialDecay"

    def __post_init__(self) -> None:
        _check_positive(self, "decay_steps")

    def __call__(self, step: ArrayLike) -> jax.Array:
        """Returns the learning rate at a step."""
        with jax.named_scope(self.name):
            step, steps = _float(step), _float(self.decay_steps)
            if self.cycle:
                cycles = _floor_divide(step, steps)
                steps = steps * jnp.maximum(1.0, jnp.where(cycles * steps < step, cycles + 1, cycles))
            else:
                step = jnp.minimum(step, steps)
            start, end = _float(self.initial_learning_rate), _float(self.end_learning_rate)
            return (start - end) * jnp.power((steps - step) / steps, _float(self.power)) + end


@dataclasses.dataclass(frozen=True)
class CosineDecay(_Schedule):
    """Increases linearly to `warmup_target`, if given, then decays along half a cosine.

    With top = warmup_target or initial_learning_rate and s = min(step - warmup_steps, decay_steps), the decay is
    top * ((1 - alpha) * (1 + cos(pi * s / decay_steps)) / 2 + alpha).

    Args:
        initial_learning_rate: Value at step 0.
        decay_steps: The number of steps of the decay.
        alpha: Value at the end, as a fraction of the top.
        name: The name of the scope in profiles.
        warmup_target: Value after the warm-up; None for no warm-up.
        warmup_steps: The number of steps of the warm-up.

    Raises:
        ValueError: If `decay_steps` is not positive, or `warmup_steps` is given without `warmup_target`.

    References:
        Loshchilov and Hutter, SGDR: Stochastic Gradient Descent with Warm Restarts, 2016,
        https://arxiv.org/abs/1608.03983

    Example:
        >>> schedule = CosineDecay(0.0, decay_steps=10, warmup_target=0.5, warmup_steps=4)
        >>> print(schedule(2), schedule(4), schedule(14))
        0.25 0.5 0.0
    """

    initial_learning_rate: float
    decay_steps: float
    alpha: float = 0.0
    name: str = "CosineDecay"
    warmup_target: float | None = None
    warmup_steps: float = 0

    def __post_init__(self) -> None:
        _check_positive(self, "decay_steps")
        if self.warmup_target is None and self.warmup_steps:
            raise ValueError(f"CosineDecay: `warmup_steps`={self.warmup_steps} needs a `warmup_target`, got None.")

    def __call__(self, step: ArrayLike) -> jax.Array:
        """Returns the learning rate at a step."""
        with jax.named_scope(self.name):
            step, start = _float(step), _float(self.initial_learning_rate)
            if self.warmup_target is None:
                return self._decay(start, step)
            top = _float(self.warmup_target)
            warm = (top - start) * (step / _float(self.warmup_steps)) + start
            return jnp.where(step < self.warmup_steps, warm, self._decay(top, step - self.warmup_steps))

    def _decay(self, top: jax.Array, step: jax.Array) -> jax.Array:
        fraction = jnp.minimum(step, self.decay_steps) / self.decay_steps
        cosine = 0.5 * (1.0 + jnp.cos(math.pi * fraction))
        return top * ((1 - self.alpha) * cosine + self.alpha)


@dataclasses.dataclass(frozen=True)
class CosineDecayRestarts(_Schedule):
    """Decays along half a cosine and restarts.

    Cycle i has first_decay_steps * t_mul ** i steps and starts at initial_learning_rate * m_mul ** i.

    Args:
        initial_learning_rate: Value at step 0.
        first_decay_steps: The number of steps of the first cycle.
        t_mul: The ratio of the lengths of successive cycles.
        m_mul: The ratio of the initial values of successive cycles.
        alpha: Value at the end of a cycle, as a fraction of `initial_learning_rate`.
        name: The name of the scope in profiles.

    Raises:
        ValueError: If `first_decay_steps` or `t_mul` is not positive.

    References:
        Loshchilov and Hutter, SGDR: Stochastic Gradient Descent with Warm Restarts, 2016,
        https://arxiv.org/abs/1608.03983

    Example:
        >>> schedule = CosineDecayRestarts(0.5, first_decay_steps=10, m_mul=0.5)
        >>> print(schedule(0), schedule(10), schedule(30))
        0.5 0.25 0.125
    """

    initial_learning_rate: float
    first_decay_steps: float
    t_mul: float = 2.0
    m_mul: float = 1.0
    alpha: float = 0.0
    name: str = "SGDRDecay"

    def __post_init__(self) -> None:
        _check_positive(self, "first_decay_steps")
        if not self.t_mul > 0:
            raise ValueError(f"CosineDecayRestarts: `t_mul` must be positive, got {self.t_mul}.")

    def __call__(self, step: ArrayLike) -> jax.Array:
        """Returns the learning rate at a step."""
        with jax.named_scope(self.name):
            step, first, t_mul = _float(step), _float(self.first_decay_steps), _float(self.t_mul)
            if self.t_mul == 1:
                cycle = _floor_divide(step, first)
                fraction = (step - cycle * first) / first
            else:
                fraction = step / first
                cycle = jnp.floor(jnp.log(1.0 - fraction * (1.0 - t_mul)) / jnp.log(t_mul))
                # The logarithms are rounded, so the cycle may be one too low when the next one has started.
                next_start = first * (1.0 - jnp.power(t_mul, cycle + 1.0)) / (1.0 - t_mul)
                cycle = jnp.where(step + 1e-3 >= next_start, cycle + 1.0, cycle)
                length = jnp.power(t_mul, cycle)
                fraction = (fraction - (1.0 - length) / (1.0 - t_mul)) / length
            cosine = 0.5 * jnp.power(_float(self.m_mul), cycle) * (1.0 + jnp.cos(math.pi * fraction))
            return self.initial_learning_rate * ((1 - self.alpha) * cosine + self.alpha)


@dataclasses.dataclass(frozen=True)
class LinearWarmup(_Schedule):
    """Increases linearly to the initial value of a schedule, then follows the schedule from its step 0.

    Args:
        schedule: A learning rate or any schedule.
        warmup_steps: The number of steps of the warm-up.
        initial_learning_rate: Value at step 0.
        name: The name of the scope in profiles.

    Raises:
        ValueError: If `warmup_steps` is not positive.

    Example:
        >>> schedule = LinearWarmup(ExponentialDecay(0.5, decay_steps=10, decay_rate=0.5), warmup_steps=4)
        >>> print(schedule(2), schedule(4), schedule(14))
        0.25 0.5 0.25
    """

    schedule: float | Schedule
    warmup_steps: float
    initial_learning_rate: float = 0.0
    name: str = "LinearWarmup"

    def __post_init__(self) -> None:
        _check_positive(self, "warmup_steps")

    def __call__(self, step: ArrayLike) -> jax.Array:
        """Returns the learning rate at a step."""
        with jax.named_scope(self.name):
            schedule, step = self.schedule, jnp.asarray(step)
            follow = schedule if callable(schedule) else lambda _: schedule
            top = _float(follow(jnp.zeros_like(step)))
            warm = self.initial_learning_rate + (top - self.initial_learning_rate) * (_float(step) / self.warmup_steps)
            after = _float(follow(jnp.maximum(step - self.warmup_steps, 0).astype(step.dtype)))
            return jnp.where(step < self.warmup_steps, warm, after)


@dataclasses.dataclass(frozen=True)
class OneCycle(_Schedule):
    """Increases along half a cosine to the peak, then decays along half a cosine.

    The rate starts at peak / div_factor. At `total_steps` and later, it is peak / div_factor / final_div_factor.

    Args:
        peak_learning_rate: The maximum.
        total_steps: The number of steps of the cycle.
        warmup_fraction: The fraction of the steps before the peak; the number of steps is rounded down.
        div_factor: The ratio of the peak to the initial value.
        final_div_factor: The ratio of the initial to the final value.
        name: The name of the scope in profiles.

    Raises:
        ValueError: If an argument is out of range.

    References:
        Smith and Topin, Super-Convergence: Very Fast Training of Neural Networks Using Large Learning Rates,
        2017, https://arxiv.org/abs/1708.07120

    Example:
        >>> schedule = OneCycle(1.0, total_steps=10, div_factor=2.0, final_div_factor=4.0)
        >>> print(schedule(0), schedule(3), schedule(10))
        0.5 1.0 0.125
    """

    peak_learning_rate: float
    total_steps: float
    warmup_fraction: float = 0.3
    div_factor: float = 25.0
    final_div_factor: float = 1e4
    name: str = "OneCycle"

    def __post_init__(self) -> None:
        _check_positive(self, "total_steps")
        _check_positive(self, "div_factor")
        _check_positive(self, "final_div_factor")
        if not 0 <= self.warmup_fraction < 1:
            raise ValueError(
                f"OneCycle: `warmup_fraction` must be at least 0 and less than 1, got {self.warmup_fraction}."
            )

    def __call__(self, step: ArrayLike) -> jax.Array:
        """Returns the learning rate at a step."""
        with jax.named_scope(self.name):
            step, top = _float(step), int(self.warmup_fraction * self.total_steps)
            peak, first = self.peak_learning_rate, self.peak_learning_rate / self.div_factor
            rise = _cosine(first, peak, step / max(top, 1))
            fall = _cosine(peak, first / self.final_div_factor, (step - top) / (self.total_steps - top))
            return jnp.where(step < top, rise, fall)


def _cosine(start: float, end: float, fraction: jax.Array) -> jax.Array:
    """Interpolates from `start` to `end` along half a cosine; the fraction is clipped to [0, 1]."""
    return end + (start - end) * 0.5 * (1.0 + jnp.cos(math.pi * jnp.clip(fraction, 0.0, 1.0)))


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "CosineDecay": CosineDecay,
    "CosineDecayRestarts": CosineDecayRestarts,
    "ExponentialDecay": ExponentialDecay,
    "InverseTimeDecay": InverseTimeDecay,
    "LinearWarmup": LinearWarmup,
    "OneCycle": OneCycle,
    "PiecewiseConstantDecay": PiecewiseConstantDecay,
    "PolynomialDecay": PolynomialDecay,
}


def get(schedule: str | Callable[..., Schedule] | Schedule) -> Callable[..., Schedule] | Schedule:
    """Returns the class of a schedule by its name, or a callable unchanged.

    Args:
        schedule: A name or a callable.

    Raises:
        TypeError: If it is neither a name nor a callable.
        ValueError: If no schedule has that name.

    Example:
        >>> get("OneCycle") is OneCycle
        True
    """
    if callable(schedule):
        return schedule
    if not isinstance(schedule, str):
        raise TypeError(f"A schedule must be a name or a function of the step, got {schedule!r}.")
    return lookup("schedule", schedule, SCHEDULES, "Or pass a function of the step.")
