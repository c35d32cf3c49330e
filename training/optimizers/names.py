"""Optimizers by name."""

import inspect
from collections.abc import Callable

import optax

from flaxmodels.names import lookup
from training.optimizers.adam import Adam, Adamax, AdamW, Lamb, Nadam, ScheduleFreeAdamW
from training.optimizers.adaptive import Adadelta, Adafactor, Adagrad, Ftrl, RMSprop
from training.optimizers.gradient import SGD, Lion, Muon

# Those of optax that need nothing but gradients, parameters and a learning rate.
_OPTAX = (
    "adabelief adadelta adafactor adagrad adam adamax adamaxw adamw adan amsgrad fromage lamb lars lion "
    "nadam nadamw novograd optimistic_adam_v2 optimistic_gradient_descent radam rmsprop rprop "
    "sgd sign_sgd signum sm3 yogi"
).split()

OPTAX_LEARNING_RATE = 1e-3


def get(optimizer: str | optax.GradientTransformation) -> optax.GradientTransformation:
    """Returns the optimizer of that name with Keras' defaults, or the optax transformation itself.

    "optax.<name>" is optax's own with its defaults, and the learning rate 0.001 in the state, where
    `set_learning_rate` finds it. Upper and lower case are the same, as in Keras.

    Raises:
        TypeError: If it is neither a name nor a transformation.
        ValueError: If no optimizer has that name.

    Example:
        >>> isinstance(get("adam"), optax.GradientTransformation)
        True
    """
    if isinstance(optimizer, optax.GradientTransformation):
        return optimizer
    if not isinstance(optimizer, str):
        raise TypeError(f"An optimizer must be a name or an optax transformation, got {optimizer!r}.")
    alternative = "Or 'optax.<name>', or pass an optax transformation."
    if not optimizer.startswith("optax."):
        return lookup("optimizer", optimizer.lower(), OPTIMIZERS, alternative)()
    factory = lookup("optimizer", optimizer, OPTAX, "Or pass an optax transformation.")
    others = set(inspect.signature(factory).parameters) - {"learning_rate"}
    return optax.inject_hyperparams(factory, static_args=others)(learning_rate=OPTAX_LEARNING_RATE)


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
