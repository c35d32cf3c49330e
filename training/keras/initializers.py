"""Keras' initializers, called as (shape, dtype). Type checkers read `initializers.pyi`.

The initializers of `flaxmodels.initializers` are called as (key, shape, dtype). Those of this module need no key: as in
Keras, an object without a seed draws one when it is made, so all its calls return the same values.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flaxmodels import initializers as pure
from flaxmodels.names import lookup
from flaxmodels.random import SeedGenerator
from training.keras import config as settings
from training.keras import refused, seeds, serialization
from training.keras.docstrings import without_example


class Initializer(pure.Initializer):
    """Base class of custom initializers: a subclass defines `__call__(shape, dtype=None)`.

    References:
        Keras, `keras.initializers.Initializer`.

    Example:
        >>> class Twos(Initializer):
        ...     def __call__(self, shape, dtype=None):
        ...         return jnp.full(shape, 2, dtype)
        >>> Twos()((2,), "float32").tolist()
        [2.0, 2.0]
    """

    def __call__(self, shape: object, dtype: object = None) -> jax.Array:  # type: ignore[override]
        """Returns an array of a shape and a dtype."""
        raise NotImplementedError(f"{type(self).__name__} must define __call__(shape, dtype=None), got none; write it.")

    def clone(self) -> "Initializer":
        """Returns an initializer with the same arguments."""
        return type(self).from_config(self.get_config())


class KerasInitializer(Initializer):
    """Mixin in front of a pure initializer: computes without a key, and draws a seed if it gets none."""

    pure_class: Any = None

    def __init__(self, *args: object, **kwargs: object) -> None:
        seed = kwargs.get("seed")
        if isinstance(seed, Mapping):
            kwargs["seed"] = seed = serialization.deserialize_keras_object(seed)
        generator = seed if isinstance(seed, SeedGenerator) else None
        if generator is not None:
            kwargs.pop("seed")
        self.pure_class.__init__(self, *args, **kwargs)
        given = getattr(self, "seed", None)
        object.__setattr__(self, "given_seed", given if generator is None else generator)
        if given is None and generator is None and hasattr(self, "seed"):
            object.__setattr__(self, "seed", seeds.draw())

    def __call__(self, shape: object, dtype: object = None) -> jax.Array:
        """Returns an array of a shape and a dtype, by default that of `keras.config.floatx()`."""
        generator: Any = vars(self)["given_seed"]
        key: Any = generator.next() if isinstance(generator, SeedGenerator) else _unused_key()
        sizes = (int(shape),) if isinstance(shape, int | np.integer) else tuple(shape)
        values: jax.Array = self.pure_class.__call__(self, key, sizes, jnp.dtype(settings.standardize_dtype(dtype)))
        return values

    def seed_of_layers(self) -> int | None:
        """Returns the seed with which layers draw; None without randomness, or if a generator makes the keys."""
        return None if isinstance(vars(self)["given_seed"], SeedGenerator) else getattr(self, "seed", None)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments; the seed is None if none was given."""
        arguments = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.init}  # type: ignore[arg-type]
        if "seed" in arguments:
            arguments["seed"] = vars(self)["given_seed"]
        return {name: serialization.serialize_keras_object(value) for name, value in arguments.items()}

    @classmethod
    def from_config(cls, config: Mapping[str, object]) -> "KerasInitializer":
        """Returns the initializer with the arguments of `get_config`."""
        return cls(**{name: serialization.deserialize_keras_object(value) for name, value in config.items()})


def _unused_key() -> jax.Array:
    """Returns the key of an initializer that has a seed or uses no randomness."""
    return jax.random.key(0)


def with_drawn_seed(name: str, seed: int | None) -> KerasInitializer:
    """Returns the initializer of a name with a seed that was drawn for it, as if it had drawn the seed itself."""
    made = _class_named(name)(**({} if seed is None else {"seed": seed}))
    if seed is not None:
        object.__setattr__(made, "given_seed", None)
    return made


def to_pure(value: object) -> object:
    """Returns the pure initializer with the arguments of one of this module; any other value unchanged."""
    if not isinstance(value, KerasInitializer):
        return value
    arguments = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.init}  # type: ignore[arg-type]
    if "seed" in arguments:
        seed = vars(value)["given_seed"]
        arguments["seed"] = None if isinstance(seed, SeedGenerator) else seed
    return value.pure_class(**arguments)


def copy_of(value: object) -> object:
    """Returns an initializer with the same arguments, which draws its own seed; any other value unchanged."""
    return value.clone() if isinstance(value, KerasInitializer) else value


CLASSES: dict[str, type[KerasInitializer]] = {}


def _class_of(cls: type[pure.Initializer]) -> type[KerasInitializer]:
    """Returns the class of this module for a pure one; it inherits from that of the pure base."""
    if cls.__name__ not in CLASSES:
        base = cls.__bases__[0]
        bases = (KerasInitializer if base is pure.Initializer else _class_of(base), cls)
        namespace = {
            "__doc__": without_example(cls),
            "__module__": __name__,
            "__qualname__": cls.__name__,
            "pure_class": cls,
            "__hash__": cls.__hash__,
            "__eq__": cls.__eq__,
        }
        CLASSES[cls.__name__] = type(cls)(cls.__name__, bases, namespace)
    return CLASSES[cls.__name__]


for _cls in dict.fromkeys(pure.SHORT_NAMES.values()):
    _class_of(_cls)
globals().update(CLASSES)
ALIASES = {
    name: CLASSES[getattr(pure, name).__name__]
    for name in (
        "IdentityInitializer OrthogonalInitializer STFTInitializer constant glorot_normal glorot_uniform he_normal "
        "he_uniform identity lecun_normal lecun_uniform ones orthogonal random_normal random_uniform stft "
        "truncated_normal variance_scaling zeros"
    ).split()
}
globals().update(ALIASES)


def get(identifier: object) -> Callable[..., Any] | None:
    """Returns an initializer from a name, a class, an object, a function, an array, a configuration or None.

    Args:
        identifier: One of these. A function takes (shape, dtype). An array is the value of a weight of its shape.

    Returns:
        The initializer; None for None.

    Raises:
        ValueError: If there is no such initializer.

    References:
        Keras, `keras.initializers.get`.

    Example:
        >>> get("zeros")((2,)).tolist(), get({"class_name": "Constant", "config": {"value": 3.0}})((1,)).tolist()
        ([0.0, 0.0], [3.0])
    """
    if isinstance(identifier, str):
        return _class_named(identifier)()
    if isinstance(identifier, Mapping):
        return get(deserialize(identifier))
    if isinstance(identifier, np.ndarray | np.generic | jax.Array):
        return _value_of(identifier)
    if isinstance(identifier, type):
        return get(identifier())
    if identifier is None or callable(identifier):
        return identifier  # type: ignore[no-any-return]
    raise ValueError(
        "`identifier` must be a name, an initializer, a function (shape, dtype), an array or a configuration, got "
        f'{identifier!r}; pass a name such as "glorot_uniform".'
    )


def _class_named(name: str) -> type[KerasInitializer]:
    """Returns the class of a name."""
    return CLASSES[lookup("initializer", name, pure.INITIALIZERS).__name__]


def _value_of(array: object) -> Callable[..., jax.Array]:
    """Returns the initializer of a weight whose value is an array."""

    def initialize(shape: object, dtype: object = None) -> jax.Array:
        if tuple(shape) != np.shape(array):
            raise ValueError(
                f"An array as an initializer must have the shape {tuple(shape)} of the weight, got {np.shape(array)}; "
                "reshape it."
            )
        return jnp.asarray(array).astype(settings.standardize_dtype(dtype))

    return initialize


def serialize(initializer: object) -> Any:
    """Describes an initializer by plain values.

    References:
        Keras, `keras.initializers.serialize`.

    Example:
        >>> serialize(Constant(2.0))["config"]
        {'value': 2.0}
    """
    return serialization.serialize_keras_object(initializer)


def deserialize(config: object, custom_objects: Mapping[str, object] | None = None) -> Any:
    """Returns the initializer of a configuration, or of the name of a class.

    Args:
        config: What `serialize` returned, here or in Keras.
        custom_objects: Classes and functions by name, in addition to the registered ones.

    Raises:
        ValueError: If the configuration names an unknown class or function.

    References:
        Keras, `keras.initializers.deserialize`.
    """
    return serialization.deserialize_named("keras.initializers", config, custom_objects, _class_named)


__all__ = ["Initializer", "deserialize", "get", "serialize", *CLASSES, *ALIASES]
__getattr__, __dir__ = refused.attach(__name__, __all__)
