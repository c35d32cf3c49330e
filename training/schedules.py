"""Learning rate schedules: Keras' six, a warm-up for any schedule and one cycle.

A schedule is a callable of the 0-based step that returns a float32 scalar; jit, scan and vmap take it.
Any function of the step may stand for one, those of optax included.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from flaxmodels.names import lookup

Schedule = Callable[[Any], Any]


def _float(value: Any) -> jax.Array:
    return jnp.asarray(value, jnp.float32)


def _rounds(step: Any, steps: Any) -> jax.Array:
    """How many times `steps` have passed, exactly.

    XLA replaces the division by a constant with a product with its reciprocal, which may be just below a whole number.
    A staircase would then fall a step late.
    """
    step, steps = _float(step), _float(steps)
    rounds = jnp.floor(step / steps)
    rounds = jnp.where((rounds + 1) * steps <= step, rounds + 1, rounds)
    return jnp.where(rounds * steps > step, rounds - 1, rounds)


def _check_steps(schedule: Any, field: str) -> None:
    steps = getattr(schedule, field)
    if not steps > 0:
        raise ValueError(f"{type(schedule).__name__}: `{field}` must be positive, got {steps}.")


@dataclasses.dataclass(frozen=True)
class ExponentialDecay:
    """Decays by a factor: initial_learning_rate * decay_rate ** (step / decay_steps).

    Args:
        initial_learning_rate: Value at step 0.
        decay_steps: Steps in which the rate is multiplied by `decay_rate` once.
        decay_rate: The factor.
        staircase: Whether step / decay_steps is rounded down, so that the rate falls in stairs.
        name: Name of the scope in profiles.

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
        _check_steps(self, "decay_steps")

    def __call__(self, step: Any) -> jax.Array:
        with jax.named_scope(self.name):
            p = _rounds(step, self.decay_steps) if self.staircase else _float(step) / self.decay_steps
            return self.initial_learning_rate * jnp.power(_float(self.decay_rate), p)


@dataclasses.dataclass(frozen=True)
class InverseTimeDecay:
    """Decays with the inverse of time: initial_learning_rate / (1 + decay_rate * step / decay_steps).

    Args:
        initial_learning_rate: Value at step 0.
        decay_steps: Unit of time, in steps.
        decay_rate: How much of the denominator one unit of time adds.
        staircase: Whether step / decay_steps is rounded down, so that the rate falls in stairs.
        name: Name of the scope in profiles.

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
        _check_steps(self, "decay_steps")

    def __call__(self, step: Any) -> jax.Array:
        with jax.named_scope(self.name):
            p = _rounds(step, self.decay_steps) if self.staircase else _float(step) / self.decay_steps
            return self.initial_learning_rate / (1.0 + self.decay_rate * p)


@dataclasses.dataclass(frozen=True)
class PiecewiseConstantDecay:
    """Holds values[i] up to and including step boundaries[i], and the last value ever after.

    Args:
        boundaries: Steps, increasing.
        values: One value more than there are boundaries.
        name: Name of the scope in profiles.

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
                "PiecewiseConstantDecay: `values` must have one entry more than `boundaries`, "
                f"and there must be a boundary, got {len(self.boundaries)} boundaries and "
                f"{len(self.values)} values."
            )
        if any(a >= b for a, b in zip(self.boundaries, self.boundaries[1:], strict=False)):
            raise ValueError(f"PiecewiseConstantDecay: `boundaries` must increase, got {tuple(self.boundaries)}.")
        object.__setattr__(self, "boundaries", tuple(self.boundaries))
        object.__setattr__(self, "values", tuple(self.values))

    def __call__(self, step: Any) -> jax.Array:
        with jax.named_scope(self.name):
            step = jnp.asarray(step)
            # Keras casts the boundaries to the type of the step, so that 2.5 means 2 for a whole step.
            passed = step > jnp.asarray(self.boundaries).astype(step.dtype)
            return _float(self.values)[jnp.sum(passed, dtype=jnp.int32)]


@dataclasses.dataclass(frozen=True)
class PolynomialDecay:
    """Goes to the end: (initial - end) * (1 - step / decay_steps) ** power + end, with step <= decay_steps.

    Args:
        initial_learning_rate: Value at step 0.
        decay_steps: Steps to reach the end.
        end_learning_rate: Value at the end.
        power: Power of the polynomial; 1 is linear.
        cycle: Whether, instead of resting at the end, `decay_steps` grows to the next multiple that is
            not before the step, so that the rate jumps up again and decays more slowly.
        name: Name of the scope in profiles.

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
        _check_steps(self, "decay_steps")

    def __call__(self, step: Any) -> jax.Array:
        with jax.named_scope(self.name):
            step, steps = _float(step), _float(self.decay_steps)
            if self.cycle:
                whole = _rounds(step, steps)
                steps = steps * jnp.maximum(1.0, jnp.where(whole * steps < step, whole + 1, whole))
            else:
                step = jnp.minimum(step, steps)
            start, end = _float(self.initial_learning_rate), _float(self.end_learning_rate)
            return (start - end) * jnp.power((steps - step) / steps, _float(self.power)) + end


@dataclasses.dataclass(frozen=True)
class CosineDecay:
    """Rises linearly to `warmup_target`, if there is one, then falls along half a cosine.

    With top = warmup_target or initial_learning_rate and s = min(step - warmup_steps, decay_steps):
    top * ((1 - alpha) * (1 + cos(pi * s / decay_steps)) / 2 + alpha).

    Args:
        initial_learning_rate: Value at step 0.
        decay_steps: Steps of the fall.
        alpha: Value at the end, as a fraction of the top.
        name: Name of the scope in profiles.
        warmup_target: Value after the warm-up; `None` for no warm-up.
        warmup_steps: Steps of the warm-up.

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
        _check_steps(self, "decay_steps")
        if self.warmup_target is None and self.warmup_steps:
            raise ValueError(f"CosineDecay: `warmup_steps`={self.warmup_steps} needs a `warmup_target`, got None.")

    def __call__(self, step: Any) -> jax.Array:
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
class CosineDecayRestarts:
    """Falls along half a cosine, again and again: round i takes t_mul ** i times longer, from m_mul ** i.

    Args:
        initial_learning_rate: Value at step 0.
        first_decay_steps: Steps of the first round.
        t_mul: Each round's length over that of the one before.
        m_mul: Each round's first value over that of the one before.
        alpha: Value at the end of a round, as a fraction of `initial_learning_rate`.
        name: Name of the scope in profiles.

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
        _check_steps(self, "first_decay_steps")
        if not self.t_mul > 0:
            raise ValueError(f"CosineDecayRestarts: `t_mul` must be positive, got {self.t_mul}.")

    def __call__(self, step: Any) -> jax.Array:
        with jax.named_scope(self.name):
            step, first, t_mul = _float(step), _float(self.first_decay_steps), _float(self.t_mul)
            if self.t_mul == 1:
                round_ = _rounds(step, first)
                fraction = (step - round_ * first) / first
            else:
                fraction = step / first
                round_ = jnp.floor(jnp.log(1.0 - fraction * (1.0 - t_mul)) / jnp.log(t_mul))
                # The logarithms are rounded: where the next round has started, it is that one.
                following = first * (1.0 - jnp.power(t_mul, round_ + 1.0)) / (1.0 - t_mul)
                round_ = jnp.where(step + 1e-3 >= following, round_ + 1.0, round_)
                length = jnp.power(t_mul, round_)
                fraction = (fraction - (1.0 - length) / (1.0 - t_mul)) / length
            cosine = 0.5 * jnp.power(_float(self.m_mul), round_) * (1.0 + jnp.cos(math.pi * fraction))
            return self.initial_learning_rate * ((1 - self.alpha) * cosine + self.alpha)


@dataclasses.dataclass(frozen=True)
class LinearWarmup:
    """Rises linearly for `warmup_steps` steps to where `schedule` starts, then follows it from its step 0.

    Args:
        schedule: A learning rate or any schedule.
        warmup_steps: Steps of the warm-up.
        initial_learning_rate: Value at step 0.
        name: Name of the scope in profiles.

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
        _check_steps(self, "warmup_steps")

    def __call__(self, step: Any) -> jax.Array:
        with jax.named_scope(self.name):
            schedule, step = self.schedule, jnp.asarray(step)
            follow = schedule if callable(schedule) else lambda _: schedule
            top = _float(follow(jnp.zeros_like(step)))
            warm = self.initial_learning_rate + (top - self.initial_learning_rate) * (_float(step) / self.warmup_steps)
            after = _float(follow(jnp.maximum(step - self.warmup_steps, 0).astype(step.dtype)))
            return jnp.where(step < self.warmup_steps, warm, after)


@dataclasses.dataclass(frozen=True)
class OneCycle:
    """Rises along half a cosine to the peak, falls along half a cosine to almost nothing, and rests there.

    Starts at peak / div_factor and ends, at `total_steps`, at peak / div_factor / final_div_factor.

    Args:
        peak_learning_rate: The highest value.
        total_steps: Steps of the cycle.
        warmup_fraction: Part of the steps that rise; rounded down to whole steps.
        div_factor: The peak over the first value.
        final_div_factor: The first value over the last.
        name: Name of the scope in profiles.

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
        _check_steps(self, "total_steps")
        _check_steps(self, "div_factor")
        _check_steps(self, "final_div_factor")
        if not 0 <= self.warmup_fraction < 1:
            raise ValueError(
                f"OneCycle: `warmup_fraction` must be at least 0 and less than 1, got {self.warmup_fraction}."
            )

    def __call__(self, step: Any) -> jax.Array:
        with jax.named_scope(self.name):
            step, top = _float(step), int(self.warmup_fraction * self.total_steps)
            peak, first = self.peak_learning_rate, self.peak_learning_rate / self.div_factor
            rise = _cosine(first, peak, step / max(top, 1))
            fall = _cosine(peak, first / self.final_div_factor, (step - top) / (self.total_steps - top))
            return jnp.where(step < top, rise, fall)


def _cosine(start: float, end: float, fraction: jax.Array) -> jax.Array:
    """From `start` to `end` along half a cosine, and no further."""
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


def get(schedule: str | Callable[..., Any]) -> Callable[..., Any]:
    """Returns the class of that name, or the callable itself.

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
