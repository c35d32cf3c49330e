"""Wraps any linen module as a layer."""

import inspect
from typing import Any

import flax.linen as nn

from flaxmodels.layers.base import Layer, MultiOutputLayer
from flaxmodels.trees import ArrayTree, MaskTree


class Linen(MultiOutputLayer):
    """Wraps any linen module as a layer; the parameters of the module are in the layer's scope.

    Args:
        module: A linen module. It receives `train` and `mask` if they are parameters of its `__call__`, and likewise
            `deterministic` and `use_running_average`, unless they are set as attributes.

    Shapes: those of the module.

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
        self, inputs: ArrayTree, *args: object, mask: MaskTree = None, train: bool = False, **kwargs: object
    ) -> tuple[ArrayTree, MaskTree]:
        """Calls the module and returns its outputs and their mask."""
        # The module has the same scope, where flax already records the outputs of its call.
        return self.outputs_and_mask(inputs, *args, mask=mask, train=train, **kwargs)

    def compute(
        self, inputs: ArrayTree, *args: object, mask: MaskTree = None, train: bool = False, **kwargs: object
    ) -> ArrayTree:
        """Calls the module with the arguments that it takes."""
        flags: dict[str, object] = {**training_flags(self.module, train)}
        if "mask" in inspect.signature(type(self.module).__call__).parameters:
            flags["mask"] = mask
        return self.module(inputs, *args, **flags, **kwargs)


def training_flags(module: nn.Module, train: bool) -> dict[str, Any]:
    """Returns the training flags of a linen module's call, under the names of its parameters.

    The names are `train`, `training`, `is_training`, `deterministic` and `use_running_average`. The last two are left
    out if the module has an attribute of that name with a value. A layer of this library needs none.

    Example:
        >>> training_flags(nn.Dropout(0.5), train=True), training_flags(nn.Dense(3), train=True)
        ({'deterministic': False}, {})
    """
    if isinstance(module, Layer):
        return {}
    flags = {"train": train, "training": train, "is_training": train}
    for name in ("deterministic", "use_running_average"):
        if getattr(module, name, None) is None:
            flags[name] = not train
    parameters = inspect.signature(type(module).__call__).parameters
    return {name: value for name, value in flags.items() if name in parameters}
