"""Looks up optimizers by name."""

import inspect
from collections.abc import Callable
from typing import TypeAlias

import optax

from flaxmodels.names import lookup, refuse_keras
from training.optimizers.adam import Adam, Adamax, AdamW, Lamb, Nadam, ScheduleFreeAdamW
from training.optimizers.adaptive import Adadelta, Adafactor, Adagrad, Ftrl, RMSprop
from training.optimizers.gradient import SGD, Lion, Muon

_OPTAX = (
    "adabelief adadelta adafactor adagrad adam adamax adamaxw adamw adan amsgrad fromage lamb lars lbfgs lion "
    "nadam nadamw noisy_sgd novograd optimistic_adam_v2 optimistic_gradient_descent polyak_sgd radam rmsprop rprop "
    "sgd sign_sgd signum sm3 yogi"
).split()
# These compute the step size from the loss, which the training step passes to them.
OPTAX_LINE_SEARCH = ("optax.lbfgs", "optax.polyak_sgd")
OPTAX_LEARNING_RATE = 1e-3

OptimizerLike: TypeAlias = str | optax.GradientTransformation | Callable[[optax.Updates, optax.Params], optax.Updates]


def get(optimizer: OptimizerLike) -> optax.GradientTransformation:
    """Returns an optimizer.

    "optax.<name>" is the optimizer of optax with its defaults. Its learning rate is 0.001 and is kept in the state, so
    that `set_learning_rate` can change it. The noise of "optax.noisy_sgd" has the seed 0.

    Args:
        optimizer: A name, in any case as in Keras, for an optimizer with Keras' defaults; an optax transformation; or
            a function (grads, params) -> updates, which is an optimizer without state.

    Raises:
        TypeError: If it is none of these.
        ValueError: If no optimizer has that name.

    Example:
        >>> isinstance(get("adam"), optax.GradientTransformation)
        True
    """
    if isinstance(optimizer, optax.GradientTransformation):
        return optimizer
    if not isinstance(optimizer, str):
        refuse_keras(optimizer)
        if callable(optimizer) and _num_required_arguments(optimizer) == 2:
            return optax.stateless(optimizer)
        raise TypeError(
            "An optimizer must be a name, an optax transformation or a function (grads, params) -> updates, "
            f"got {optimizer!r}."
        )
    alternative = "Or 'optax.<name>', or pass an optax transformation."
    if not optimizer.startswith("optax."):
        return lookup("optimizer", optimizer.lower(), OPTIMIZERS, alternative)()
    factory = lookup("optimizer", optimizer, OPTAX, "Or pass an optax transformation.")
    if optimizer in OPTAX_LINE_SEARCH:
        return factory()
    others = set(inspect.signature(factory).parameters) - {"learning_rate"}
    arguments = {"key": 0} if "key" in others else {}
    return optax.inject_hyperparams(factory, static_args=others)(learning_rate=OPTAX_LEARNING_RATE, **arguments)


def _num_required_arguments(function: Callable[..., object]) -> int:
    """Returns the number of required arguments: 2 for (grads, params), 0 for the factory of an optimizer."""
    parameters = inspect.signature(function).parameters.values()
    return sum(p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)


OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adadelta": Adadelta,
    "adafactor": Adafactor,
    "adagrad": Adagrad,
    "adam": Adam,
    "adamax": Adamax,
    "adamw": AdamW,
    "ftrl": Ftrl,
    "lamb": Lamb,
    "lion": Lion,
    "muon": Muon,
    "nadam": Nadam,
    "rmsprop": RMSprop,
    "schedulefreeadamw": ScheduleFreeAdamW,
    "sgd": SGD,
}

OPTAX: dict[str, Callable[..., optax.GradientTransformation]] = {
    f"optax.{name}": getattr(optax, name) for name in _OPTAX
}
