"""What a model from a file may cost while its graph is drawn, before there is an array of its own."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from flaxmodels.layers.base import Layer
from flaxmodels.layers.pooling import AveragePooling

# What takes time or memory already while a graph is drawn: windows and steps, made one by one.
MOST = {"kernel_size": 2**16, "pool_size": 2**16, "output_size": 2**12, "power_iterations": 2**10}
MAX_UNROLLED = 2**12
MAX_PLACES = 2**24  # an average over windows counts, at each place, what of the window is inside


def bounded(method: Any, args: Any, kwargs: Any, context: Any) -> Any:
    """Calls a method, unless drawing the graph of a layer's code would itself take time or memory without bound.

    For `flax.linen.intercept_methods`, around the making of a model whose description nobody vouches for.

    Raises:
        ValueError: If a layer's sizes are above those in this file.
    """
    layer = context.module
    if isinstance(layer, Layer) and context.method_name == "outputs_and_mask":
        sizes = [size for leaf in jax.tree.leaves(args) for size in jnp.shape(leaf)[1:]]
        for name, most in MOST.items():
            given = getattr(layer, name) if name in type(layer).__dataclass_fields__ else None
            numbers = [n for n in (given if isinstance(given, list | tuple) else [given]) if isinstance(n, int)]
            if math.prod(numbers) > most:
                raise ValueError(f"`{name}` of {layer.label} in a file is up to {most}, got {given}")
        places = math.prod(sizes) // max(min(sizes, default=1), 1)
        if isinstance(layer, AveragePooling) and places > MAX_PLACES:
            raise ValueError(f"{layer.label} in a file has up to {MAX_PLACES} places, got inputs of sizes {sizes}")
        if getattr(layer, "unroll", False) and sizes[:1] > [MAX_UNROLLED]:
            raise ValueError(f"{layer.label} in a file unrolls up to {MAX_UNROLLED} steps, got {sizes[0]}")
    return method(*args, **kwargs)
