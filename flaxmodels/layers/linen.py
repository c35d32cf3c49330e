"""The layer that any linen module is."""

import inspect
from typing import Any

import flax.linen as nn

from flaxmodels.layers.base import Layer


class Linen(Layer):
    """Puts any linen module where a layer goes; its parameters take the layer's own scope.

    Args:
        module: A linen module; it receives `train` and `mask` if its `__call__` names them, and likewise
            `deterministic` and `use_running_average`, unless they are set on it.

    Shapes: whatever the module takes and gives.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> layer = Linen(nn.Dense(2))
        >>> variables = layer.init(jax.random.key(0), jnp.ones((5, 3)))
        >>> sorted(variables["params"]), layer.apply(variables, jnp.ones((5, 3))).shape
        (['bias', 'kernel'], (5, 2))
    """

    module: nn.Module

    def setup(self) -> None:
        nn.share_scope(self, self.module)

    @nn.nowrap
    def call_with_mask(
        self, inputs: Any, *args: Any, mask: Any = None, train: bool = False, **kwargs: Any
    ) -> tuple[Any, Any]:
        """Calls the module and returns its outputs and their mask."""
        # The module has the same scope, and flax already records the outputs of its call there.
        return self.outputs_and_mask(inputs, *args, mask=mask, train=train, **kwargs)

    def compute(self, inputs: Any, *args: Any, mask: Any = None, train: bool = False, **kwargs: Any) -> Any:
        given = training_flags(self.module, train)
        if "mask" in inspect.signature(type(self.module).__call__).parameters:
            given["mask"] = mask
        return self.module(inputs, *args, **given, **kwargs)


def training_flags(module: nn.Module, train: bool) -> dict[str, Any]:
    """Returns the arguments of a linen module's call that say whether it is trained, whichever name they have there.

    These are `train`, `training`, `is_training`, `deterministic` and `use_running_average`; the last two are left out
    where the module has them as attributes with a value. A layer of this library needs none.

    Example:
        >>> training_flags(nn.Dropout(0.5), train=True), training_flags(nn.Dense(3), train=True)
        ({'deterministic': False}, {})
    """
    if isinstance(module, Layer):
        return {}
    given = {"train": train, "training": train, "is_training": train}
    for name in ("deterministic", "use_running_average"):
        if getattr(module, name, None) is None:
            given[name] = not train
    named = inspect.signature(type(module).__call__).parameters
    return {name: value for name, value in given.items() if name in named}
