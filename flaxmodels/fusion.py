"""Pairs of layers that are faster when computed together: a table of pattern, condition and function.

`Sequential` and `Model` look up each pair of consecutive layers here. To add a pair, write its condition and its
function, and add an entry to `FUSIONS`.
"""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax

from flaxmodels import activations, layers
from flaxmodels.kernels.biased_convolution import conv_bias
from flaxmodels.layers import checks
from flaxmodels.layers.base import Layer
from flaxmodels.trees import ArrayTree, MaskTree

if TYPE_CHECKING:
    from flaxmodels.layers.conv import Conv
    from flaxmodels.layers.pooling import MaxPooling

# Takes both layers, the inputs of the first, `mask` and `train`; returns the outputs of the second and their mask.
FusedCall = Callable[..., tuple[ArrayTree, MaskTree]]


class Fusion(NamedTuple):
    """A pair of layers and the function that computes both.

    Attributes:
        pattern: The names of the two classes in `flaxmodels.layers`. Subclasses do not match, since they may compute
            something else. Names are used instead of classes so that the table imports no layer.
        condition: Takes both layers and returns whether `function` is correct and faster for their arguments.
        function: Computes both layers.
    """

    pattern: tuple[str, str]
    condition: Callable[[Any, Any], bool]
    function: FusedCall


def find_fusion(first: Layer, second: Layer) -> FusedCall | None:
    """Returns the function that computes two consecutive layers at once, or None if there is none.

    Example:
        >>> find_fusion(layers.Conv2D(8, 3), layers.MaxPooling2D(2)).__name__
        'conv_max_pooling'
        >>> find_fusion(layers.Conv2D(8, 3), layers.MaxPooling2D(3)) is None
        True
    """
    pair = type(first), type(second)
    names = tuple(cls.__name__ for cls in pair)
    for fusion in FUSIONS:
        if fusion.pattern == names and pair == tuple(getattr(layers, name) for name in names):
            return fusion.function if fusion.condition(first, second) else None
    return None


def pools_pairs_of_features(conv: "Conv", pooling: "MaxPooling") -> bool:
    """Returns whether a pooling takes the maximum over blocks of 2 along each axis of a convolution's outputs.

    The convolution's kernel then keeps the maximum in registers and never writes the other outputs to memory.
    """
    twos = (2,) * conv.RANK
    return (
        (pooling.pool_size, pooling.strides, pooling.padding) == (twos, twos, "valid")
        and not conv.channels_first
        and not pooling.channels_first
        and pooling.compute_dtype == conv.compute_dtype
        and conv.activity_regularizer is None
        and pooling.activity_regularizer is None
        and conv.use_bias
        and activations.get(conv.activation) in (activations.relu, activations.linear)
    )


def conv_max_pooling(
    conv: "Conv", pooling: "MaxPooling", inputs: jax.Array, *, mask: MaskTree = None, train: bool = False
) -> tuple[jax.Array, None]:
    """Computes a convolution and the max pooling of its outputs; neither layer passes a mask on."""
    checks.check_call(conv, inputs, mask, train)
    operands = conv.operands(inputs)
    relu = activations.get(conv.activation) is activations.relu
    convolve = partial(conv_bias, **conv.geometry, groups=conv.groups, relu=relu)
    pooling.check_window(jax.eval_shape(convolve, *operands), "pool_size")
    with jax.named_scope(f"{conv.name}.{pooling.name}"):
        return convolve(*operands, pooled=True), None


FUSIONS: tuple[Fusion, ...] = tuple(
    Fusion((f"Conv{rank}D", f"MaxPooling{rank}D"), pools_pairs_of_features, conv_max_pooling) for rank in (1, 2)
)
