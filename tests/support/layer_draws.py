"""Hypothesis strategies for random calls of layers: arguments, inputs and masks, with all arguments that affect results."""

import math
from typing import Any, NamedTuple

import jax
import numpy as np
from hypothesis import strategies as st

from tests.support.layer_oracle import numbers, truths
from tests.support.sequence_draws import Made


class Draw(NamedTuple):
    """One call of a layer; float inputs are fixed random numbers, so that only their shapes are drawn."""

    config: dict
    inputs: Any
    call: dict = {}
    masks: Any = None

    def __repr__(self):
        shapes = jax.tree.map(lambda x: f"{x.dtype}{list(x.shape)}", self.inputs)
        masks = jax.tree.map(lambda m: m.astype(int).tolist(), self.masks)
        call = jax.tree.map(lambda x: x.tolist() if hasattr(x, "tolist") else x, self.call)
        return f"{self.config} on {shapes}" + f", {call}" * bool(call) + f", masked {masks}" * (masks is not None)


# ---------------------------------------------------------------- sizes, choices, inputs

BATCH = st.integers(1, 3)
FLAGS = st.booleans()
SEEDS = st.integers(0, 9)
LARGEST = {1: 7, 2: 7, 3: 4}  # from the number of spatial axes to the largest size of each
LARGEST_WINDOW = {1: 5, 2: 5, 3: 3}
FORMATS = st.sampled_from((None, "channels_last", "channels_first"))
NAMES = (
    "linear relu relu6 leaky_relu elu selu celu gelu silu swish mish glu tanh sigmoid hard_sigmoid hard_silu hard_swish "
    "hard_tanh hard_shrink soft_shrink tanh_shrink softsign softplus squareplus sparse_plus sparse_sigmoid exponential "
    "log_sigmoid softmax log_softmax sparsemax"
).split()
SLOPES = st.sampled_from((0.0, 0.1, 0.3, 1.0, 1.7))
MADE = st.one_of(
    st.builds(lambda slope: Made("LeakyReLU", {"negative_slope": slope}), SLOPES),
    st.builds(lambda axis: Made("Softmax", {"axis": axis}), st.sampled_from((-1, 1, (1, -1)))),
    st.builds(lambda top: Made("ReLU", {"max_value": top, "negative_slope": 0.2}), st.sampled_from((None, 0.5))),
)
ACTIVATIONS = st.one_of(st.none(), st.sampled_from(NAMES))


def shapes(lowest, highest, largest=7):
    """Draws shapes with this number of axes, including the batch axis."""
    rest = st.lists(st.integers(1, largest), min_size=lowest - 1, max_size=highest - 1)
    return st.builds(lambda batch, sizes: (batch, *sizes), BATCH, rest)


def per_axis(rank, values):
    """Draws one value for all axes, or a tuple or list with one per axis."""
    each = st.lists(values, min_size=rank, max_size=rank)
    return st.one_of(values, each, each.map(tuple))


def options(**strategies):
    """Draws some of the arguments and leaves the others at their defaults."""
    return st.fixed_dictionaries({}, optional=strategies)


@st.composite
def arrays(draw, shape, integers=False):
    """Draws an array of floats, or sometimes of integers."""
    if integers and draw(st.integers(0, 4)) == 0:
        return np.random.default_rng(len(shape)).integers(-5, 6, shape).astype(np.int32)
    return numbers(7 + len(shape), *shape)


@st.composite
def mask_of(draw, shape, lowest=1):
    """Draws None or a mask with the first axes of an array."""
    if draw(FLAGS):
        return None
    rank = draw(st.sampled_from([min(2, len(shape)), *range(min(lowest, len(shape)), len(shape) + 1)]))
    return truths(draw(SEEDS), *shape[:rank], share=draw(st.sampled_from((0.2, 0.6, 1.0))))


@st.composite
def simple(draw, config, shape, integers=False, masked=True):
    """Draws a call of a layer that takes any array of this shape."""
    shape = draw(shape)
    x = draw(arrays(shape, integers))
    return Draw(draw(config), x, masks=draw(mask_of(shape)) if masked else None)


@st.composite
def spatial(draw, rank, config, moves=False):
    """Draws a call of a spatial layer; `config` maps the spatial sizes to a strategy for arguments."""
    sizes = tuple(draw(st.integers(1, LARGEST[rank])) for _ in range(rank))
    channels, config = draw(config(sizes))
    first = config.get("data_format") == "channels_first"
    batch = draw(BATCH)
    shape = (batch, channels, *sizes) if first else (batch, *sizes, channels)
    # No masks for layers that may return their input itself: in Keras, that array keeps its mask.
    return Draw(config, draw(arrays(shape, integers=moves)), masks=None if moves else draw(mask_of(shape)))


# ---------------------------------------------------------------- convolutions and pooling


def windows(rank):
    """Draws kernel sizes."""
    return per_axis(rank, st.integers(1, LARGEST_WINDOW[rank]))


@st.composite
def convolution(draw, rank, sizes, padding=("valid", "same", "SAME"), both=False, **more):
    """Draws the arguments that all convolutions have, and `more`; sets strides or dilation, and both only if `both`."""
    config = {"kernel_size": draw(windows(rank)), "padding": draw(st.sampled_from(padding))}
    which = draw(st.sampled_from(("strides", "dilation_rate", "both" if both else "neither")))
    for key in ("strides", "dilation_rate"):
        if which in (key, "both"):
            config[key] = draw(per_axis(rank, st.integers(1, 3)))
    if config["padding"] == "valid":  # only windows that fit into the inputs
        kernel, dilation = (np.broadcast_to(config.get(key, 1), (rank,)) for key in ("kernel_size", "dilation_rate"))
        fitting = [min(k, (n - 1) // d + 1) for k, n, d in zip(kernel.tolist(), sizes, dilation.tolist(), strict=True)]
        config["kernel_size"] = draw(st.sampled_from((tuple(fitting), min(fitting))))
    common = options(data_format=FORMATS, activation=st.one_of(ACTIVATIONS, MADE), use_bias=FLAGS)
    return config | draw(common) | draw(options(**more))


@st.composite
def conv(draw, rank, sizes):
    padding = ("valid", "same", "causal") if rank == 1 else ("valid", "same")
    config = draw(convolution(rank, sizes, padding))
    groups = draw(st.sampled_from((1, 1, 2, 3)))
    config |= {"groups": groups} if groups > 1 else {}
    return groups * draw(st.integers(1, 3)), config | {"filters": groups * draw(st.integers(1, 3))}


@st.composite
def conv_transpose(draw, rank, sizes):
    config = draw(convolution(rank, sizes))
    config["filters"] = draw(st.integers(1, 5))
    if draw(FLAGS):
        config["kernel_size"] = draw(windows(rank))
    if draw(FLAGS):
        strides = [int(s) for s in np.broadcast_to(config.get("strides", 1), (rank,))]
        each = st.tuples(*(st.integers(0, s - 1) for s in strides))
        config["output_padding"] = draw(st.one_of(st.integers(0, min(strides) - 1), each))
    return draw(st.integers(1, 4)), config


@st.composite
def depthwise_conv(draw, rank, sizes):
    return draw(st.integers(1, 4)), draw(convolution(rank, sizes, both=True, depth_multiplier=st.integers(1, 3)))


@st.composite
def separable_conv(draw, rank, sizes):
    channels, config = draw(depthwise_conv(rank, sizes))
    return channels, config | {"filters": draw(st.integers(1, 5))}


@st.composite
def pooling(draw, rank, sizes):
    config = draw(options(strides=st.one_of(st.none(), per_axis(rank, st.integers(1, 4))), data_format=FORMATS))
    config["padding"] = draw(st.sampled_from(("valid", "same", "same", "Valid")))
    largest = max(sizes) + 2 if config["padding"] == "same" else min(sizes)
    return draw(st.integers(1, 4)), config | {"pool_size": draw(per_axis(rank, st.integers(1, largest)))}


@st.composite
def global_pooling(draw, rank, sizes):
    return draw(st.integers(1, 4)), draw(options(data_format=FORMATS, keepdims=FLAGS))


@st.composite
def masked_mean(draw):
    case = draw(spatial(1, lambda sizes: global_pooling(1, sizes)))
    shape = case.inputs.shape
    steps = shape[2] if case.config.get("data_format") == "channels_first" else shape[1]
    mask = truths(draw(SEEDS), shape[0], steps)
    mask[:, 0] = True  # Keras divides by zero if all steps are masked
    return case._replace(call={"mask": mask} if draw(FLAGS) else {}, masks=None)


@st.composite
def adaptive_pooling(draw, rank, sizes):
    config = draw(options(data_format=FORMATS))
    # At most 6: Keras computes window sizes in float32 on its JAX backend, and one is too large for, say, 7 of 7
    # outputs.
    largest = min(max(sizes) + 2, 6)
    return draw(st.integers(1, 4)), config | {"output_size": draw(per_axis(rank, st.integers(1, largest)))}


# ---------------------------------------------------------------- reshaping


def pairs(rank, most):
    """Draws a padding or cropping argument: an integer, one per axis, or a pair per axis, at most `most`."""
    if rank == 1:
        return st.one_of(st.integers(0, most[0]), st.tuples(*[st.integers(0, most[0])] * 2))
    return st.one_of(
        st.integers(0, min(most)),
        st.tuples(*(st.integers(0, n) for n in most)),
        st.tuples(*(st.tuples(st.integers(0, n), st.integers(0, n)) for n in most)),
        st.tuples(*(st.lists(st.integers(0, n), min_size=2, max_size=2) for n in most)).map(list),
    )


@st.composite
def zero_padding(draw, rank, sizes):
    config = draw(options(padding=pairs(rank, [3] * rank), data_format=FORMATS))
    return draw(st.integers(1, 3)), config


@st.composite
def cropping(draw, rank, sizes):
    config = draw(options(data_format=FORMATS)) if rank > 1 else {}
    config["cropping"] = draw(pairs(rank, [(n - 1) // 2 for n in sizes]))
    return draw(st.integers(1, 3)), config


@st.composite
def up_sampling(draw, rank, sizes):
    more = {"data_format": FORMATS} if rank > 1 else {}
    if rank == 2:
        more["interpolation"] = st.sampled_from(("nearest", "bilinear", "bicubic", "lanczos3", "lanczos5"))
    size = st.integers(1, 4) if rank == 1 else per_axis(rank, st.integers(1, 4 if rank < 3 else 3))
    return draw(st.integers(1, 3)), draw(options(size=size, **more))


@st.composite
def reshape(draw):
    shape = draw(shapes(1, 5, largest=6))
    left, target = math.prod(shape[1:]), []
    while left > 1 or draw(FLAGS):
        target.append(draw(st.sampled_from([n for n in range(1, left + 1) if left % n == 0])))
        left //= target[-1]
    if target and draw(FLAGS):
        target[draw(st.integers(0, len(target) - 1))] = -1
    target = draw(st.sampled_from((tuple(target), list(target))))
    return Draw({"target_shape": target}, draw(arrays(shape, integers=True)))


@st.composite
def permute(draw):
    shape = draw(shapes(2, 5))
    dims = draw(st.permutations(range(1, len(shape))))
    return Draw({"dims": draw(st.sampled_from((tuple(dims), dims)))}, draw(arrays(shape, integers=True)))


# ---------------------------------------------------------------- dense, embeddings, activations

DENSE = options(activation=st.one_of(ACTIVATIONS, MADE), use_bias=FLAGS)

EQUATIONS = (  # equations
    "ab,bc->ac", "abc,cd->abd", "abc,cde->abde", "abc,bcd->ad", "abc,dc->abd", "abc,c->ab", "ab,b->ab", "abc,bd->adc", "abc,cb->a",
    "abc,bc->abc", "abc,adc->abd", "abcd,cde->abe", "abcd,db->abc", "abcd,ec->abed", "ab,cb->ca", "abc,cd->adb",
    "...b,bc->...c", "...ab,bc->...ac", "...x,xyz->...yz", "...xy,yx->...x", "...x,xy->...y", "...bc,c->...bc",
    "ab...,bc->ac...", "ab...,bcd->acd...", "abc...,cd->abd...", "abc...,cb->acb...", "ab...,b->ab...",
)  # fmt: skip


@st.composite
def einsum_dense(draw):
    equation = draw(st.sampled_from(EQUATIONS))
    inputs, outputs = equation.split(",")[0], equation.split("->")[1]
    sizes = {letter: draw(st.integers(1, 4)) for letter in sorted(set(equation) - set(".,->"))}
    elided = (
        [draw(st.integers(1, 3)) for _ in range(draw(st.integers(0 if "..." in inputs[2:] else 1, 3)))]
        if "..." in inputs
        else []
    )
    letters = inputs.replace(".", "")
    shape = [sizes[letter] for letter in letters]
    shape = elided + shape if inputs.startswith("...") else shape + elided
    wanted = outputs.replace(".", "")
    given = wanted if inputs.startswith("...") else wanted[1:]
    axes = "".join(letter for letter in wanted if draw(FLAGS))
    known = set(letters) - set(equation.split(",")[1].split("->")[0]) - set(axes)
    target = [None if letter in known and draw(FLAGS) else sizes[letter] for letter in given]
    target = target[0] if len(target) == 1 and target[0] is not None and draw(FLAGS) else tuple(target)
    config = draw(options(activation=ACTIVATIONS)) | {"equation": equation, "output_shape": target}
    config |= {"bias_axes": axes} if axes else {}
    return Draw(config, draw(arrays(tuple(shape))), masks=draw(mask_of(shape)))


@st.composite
def lookup(draw, more):
    config = draw(options(mask_zero=FLAGS, **more))
    config |= {"input_dim": draw(st.integers(1, 8)), "output_dim": draw(st.integers(1, 5))}
    shape = draw(shapes(1, 3))
    ids = np.random.default_rng(draw(SEEDS)).integers(0, config["input_dim"], shape)
    return Draw(config, ids.astype(draw(st.sampled_from((np.int32, np.float32, np.uint8)))))


@st.composite
def reversible_embedding(draw):
    case = draw(lookup({"tie_weights": FLAGS, "logit_soft_cap": st.sampled_from((None, 0.5, 3.0))}))
    if draw(FLAGS):
        return case._replace(call={"reverse": False} if draw(FLAGS) else {})
    shape = (*draw(shapes(1, 3)), case.config["output_dim"])
    return case._replace(inputs=draw(arrays(shape)), call={"reverse": True}, masks=draw(mask_of(shape)))


@st.composite
def prelu(draw):
    shape = draw(shapes(2, 5, largest=4))
    axes = draw(st.lists(st.integers(1, len(shape) - 1), unique=True))
    shared = draw(st.sampled_from((axes, tuple(axes), axes[0] if axes else None)))
    return Draw(draw(options(shared_axes=st.just(shared))), draw(arrays(shape)), masks=draw(mask_of(shape)))


@st.composite
def softmax(draw):
    shape = draw(shapes(1, 4))
    rank = len(shape)
    axes = draw(st.lists(st.integers(0, rank - 1), min_size=1, unique=True))
    axes = [axis - rank if draw(FLAGS) else axis for axis in axes]
    config = draw(options(axis=st.sampled_from((axes[0], axes, tuple(axes)))))
    if draw(FLAGS):
        return Draw(config, draw(arrays(shape)))
    sizes = [draw(st.sampled_from((1, n, n))) for n in shape][draw(st.integers(0, rank - 1)) :]
    mask = truths(draw(SEEDS), *sizes, share=draw(st.sampled_from((0.3, 0.8))))
    return Draw(config, draw(arrays(shape)), {"mask": mask.astype(draw(st.sampled_from((bool, np.float32, np.int32))))})


@st.composite
def activation(draw):
    shape = draw(shapes(1, 4))
    x, function = draw(arrays(shape)), draw(st.one_of(ACTIVATIONS, MADE))
    return Draw({"activation": function}, x, masks=None if isinstance(function, Made) else draw(mask_of(shape)))


# ---------------------------------------------------------------- merging


@st.composite
def merge(draw, least=1, most=4, aligned=False):
    """Draws arrays that broadcast to a common shape, and masks; `masks_of` explains `aligned`."""
    shape = draw(st.one_of(shapes(1, 1), shapes(2, 4), shapes(2, 4), shapes(2, 4)))
    count = draw(st.integers(least, most))
    each = [shape] * count
    if draw(FLAGS):
        each = [(shape[0], *(draw(st.sampled_from((1, n, n))) for n in shape[1:])) for _ in each]
        each = [(s[0], *s[1 + draw(st.sampled_from((0, 0, max(len(s) - 2, 0)))) :]) for s in each]
    inputs = [numbers(7 + i, *s) for i, s in enumerate(each)]
    if draw(st.integers(0, 5)) == 0:
        inputs = [np.random.default_rng(i).integers(-5, 6, s).astype(np.int32) for i, s in enumerate(each)]
    return Draw({}, inputs, masks=draw(st.one_of(st.none(), masks_of(each, aligned))))


@st.composite
def masks_of(draw, shapes, aligned=False):
    """Draws None or a mask with the first axes, for each array.

    Returns None if the ranks of the arrays differ, because Keras then loses some masks and aligns others with the last
    axes. Keras also misaligns masks that lack more than the last axis of the array; `aligned` excludes such masks.
    """
    if len({len(shape) for shape in shapes}) > 1:
        return None
    least = max(min(map(len, shapes)) - 1, 1)
    rank = least if aligned else draw(st.sampled_from((least, least, *range(1, least))))
    return [truths(draw(SEEDS) + i, *s[:rank]) if draw(st.integers(0, 3)) else None for i, s in enumerate(shapes)]


@st.composite
def concatenate(draw):
    shape = draw(shapes(2, 4))
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    each = []
    for _ in range(draw(st.integers(1, 3))):
        sizes = list(shape)
        sizes[axis] = draw(st.integers(1, 4))
        each.append(tuple(sizes))
    config = {} if axis == -1 and draw(FLAGS) else {"axis": axis}
    inputs = [numbers(7 + i, *s) for i, s in enumerate(each)]
    return Draw(config, inputs, masks=draw(st.one_of(st.none(), masks_of(each, aligned=True))))


@st.composite
def dot(draw):
    x, y = list(draw(shapes(2, 4, 5))), list(draw(shapes(2, 4, 5)))
    y[0] = x[0]
    a, b = draw(st.integers(1, len(x) - 1)), draw(st.integers(1, len(y) - 1))
    y[b] = x[a]
    if draw(FLAGS) and a < len(y):  # the same axis of both arrays
        y[a] = x[a]
        axes = draw(st.sampled_from((a, a - len(x) if len(x) == len(y) else a)))
    else:
        axes = [a - len(x) if draw(FLAGS) else a, b - len(y) if draw(FLAGS) else b]
        axes = draw(st.sampled_from((axes, tuple(axes))))
    inputs = [numbers(7, *x), numbers(8, *y)]
    return Draw(
        {"axes": axes} | draw(options(normalize=FLAGS)), inputs, masks=draw(st.one_of(st.none(), masks_of([x, y])))
    )


# ---------------------------------------------------------------- all

CALLS = {
    "Dense": simple(st.builds(lambda n, c: c | {"units": n}, st.integers(1, 6), DENSE), shapes(2, 5), integers=True),
    "EinsumDense": einsum_dense(),
    "Embedding": lookup({}),
    "ReversibleEmbedding": reversible_embedding(),
    "Activation": activation(),
    "Identity": simple(st.just({}), shapes(1, 5), integers=True),
    "ActivityRegularization": simple(options(l1=SLOPES, l2=SLOPES), shapes(1, 4)),
    "ReLU": simple(
        options(max_value=st.sampled_from((None, 0.5, 1.0, 6, 6.0)), negative_slope=SLOPES, threshold=SLOPES),
        shapes(1, 4),
    ),
    "LeakyReLU": simple(options(negative_slope=SLOPES), shapes(1, 4)),
    "PReLU": prelu(),
    "ELU": simple(options(alpha=SLOPES), shapes(1, 4)),
    "Softmax": softmax(),
    "Flatten": simple(options(data_format=FORMATS), shapes(1, 5), integers=True, masked=False),
    "Reshape": reshape(),
    "Permute": permute(),
    "RepeatVector": simple(st.builds(lambda n: {"n": n}, st.integers(1, 5)), shapes(2, 2), integers=True),
    "Add": merge(),
    "Subtract": merge(2, 2),
    "Multiply": merge(aligned=True),
    "Average": merge(),
    "Maximum": merge(aligned=True),
    "Minimum": merge(aligned=True),
    "Concatenate": concatenate(),
    "Dot": dot(),
}
OVER_POSITIONS = {
    "Conv{}D": conv,
    "Conv{}DTranspose": conv_transpose,
    "DepthwiseConv{}D": depthwise_conv,
    "SeparableConv{}D": separable_conv,
    "MaxPooling{}D": pooling,
    "AveragePooling{}D": pooling,
    "GlobalMaxPooling{}D": global_pooling,
    "GlobalAveragePooling{}D": global_pooling,
    "AdaptiveAveragePooling{}D": adaptive_pooling,
    "AdaptiveMaxPooling{}D": adaptive_pooling,
    "ZeroPadding{}D": zero_padding,
    "Cropping{}D": cropping,
    "UpSampling{}D": up_sampling,
}
for name, config in OVER_POSITIONS.items():
    moving = config in (zero_padding, cropping)
    for rank in (1, 2) if config in (depthwise_conv, separable_conv) else (1, 2, 3):
        CALLS[name.format(rank)] = spatial(rank, lambda sizes, r=rank, c=config: c(r, sizes), moves=moving)
CALLS["GlobalAveragePooling1D"] = masked_mean()
