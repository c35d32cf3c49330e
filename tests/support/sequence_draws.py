"""Hypothesis strategies for normalization, noise, recurrent and attention layers: layers as data, inputs and calls."""

from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st

from tests.support.layer_oracle import numbers


class Made(NamedTuple):
    """The description of a layer, from which either library can build it."""

    name: str
    config: dict[str, Any]

    def by(self, library: Any) -> Any:
        return getattr(library, self.name)(**{key: made(value, library) for key, value in self.config.items()})


def made(value, library):
    if isinstance(value, Made):
        return value.by(library)
    return [made(v, library) for v in value] if isinstance(value, list) else value


class Case(NamedTuple):
    """One comparison; masks are either part of the call or attached to the inputs as `masks`."""

    layer: Made
    inputs: Any
    call: dict[str, Any] = {}
    train: bool | None = None
    masks: Any = None

    def __repr__(self):
        shapes = [x.shape for x in self.inputs] if isinstance(self.inputs, list) else self.inputs.shape
        call = {key: _shown(value) for key, value in self.call.items()}
        return f"{_shown(self.layer)} of {shapes}, call={call}, train={self.train}, masks={_shown(self.masks)}"


def _shown(value):
    """Formats a value: masks in full, other arrays by shape, layers as calls."""
    if isinstance(value, Made):
        return f"{value.name}({', '.join(f'{key}={_shown(v)}' for key, v in value.config.items())})"
    if isinstance(value, np.ndarray):
        return value.astype(int).tolist() if value.dtype == bool else f"array{value.shape}"
    return f"[{', '.join(map(_shown, value))}]" if isinstance(value, list) else repr(value)


truth, sizes, batches, times = st.booleans(), st.integers(1, 5), st.integers(1, 3), st.integers(1, 6)
rates, epsilons = st.sampled_from([0.0, 0.3]), st.sampled_from([1e-3, 1e-6, 0.1])
# Smooth functions, which do not amplify rounding differences, and relu.
activations = st.sampled_from([None, "tanh", "sigmoid", "softsign", "hard_sigmoid", "relu", "silu"])
gates = st.sampled_from(["sigmoid", "sigmoid", "hard_sigmoid", "tanh", None])


def some(**options):
    """Draws a configuration with some of the options; the others keep their defaults."""
    return st.fixed_dictionaries({}, optional=options)


@st.composite
def arrays(draw, *shape):
    return numbers(draw(st.integers(0, 99)), *shape)


@st.composite
def masks(draw, batch, time, missing=True):
    """Draws a mask [batch, time] with masked steps at the end, at the start, between, in a whole row, everywhere or nowhere."""
    kinds = ["right", "left", "holes", "row", "full", "empty", *(["none"] * 3 if missing else [])]
    kind, rng = draw(st.sampled_from(kinds)), np.random.default_rng(draw(st.integers(0, 99)))
    step, holes = np.arange(time)[None], rng.random((batch, time)) < 0.6
    return {
        "none": None,
        "right": step < rng.integers(1, time + 1, (batch, 1)),
        "left": step >= rng.integers(0, time, (batch, 1)),
        "holes": holes,
        "row": holes & (np.arange(batch) > 0)[:, None],
        "full": np.ones((batch, time), bool),
        "empty": np.zeros((batch, time), bool),
    }[kind]


@st.composite
def shapes(draw, low, high):
    """Draws a shape with this number of axes, including the batch axis."""
    return (draw(batches), *(draw(sizes) for _ in range(draw(st.integers(low, high)) - 1)))


# ---------------------------------------------------------------- normalization


def axes_of(rank):
    """Draws one or several axes, counted from the front or the end, without the batch axis."""
    several = st.lists(st.integers(1, rank - 1), min_size=1, unique=True)
    signs = st.lists(truth, min_size=rank, max_size=rank)
    signed = st.tuples(several, signs).map(lambda a: [n - rank * s for n, s in zip(*a, strict=False)])
    return st.one_of(one_axis(rank), signed, signed.map(tuple))


def one_axis(rank):
    return st.integers(1 - rank, rank - 1).filter(bool)


@st.composite
def batch_normalization(draw):
    shape = draw(shapes(2, 5))
    mask = draw(st.none() | masks(shape[0], int(np.prod(shape[1:-1]))))
    config = some(axis=one_axis(len(shape)), momentum=st.sampled_from([0.0, 0.6]), epsilon=epsilons, center=truth)
    config = draw(config) | draw(some(scale=truth, trainable=truth))
    if draw(st.integers(0, 3)) == 0:
        bounds = some(rmin=st.just(0.5), rmax=st.sampled_from([0.9, 2.0]), dmax=st.sampled_from([0.0, 0.4]))
        config |= {"renorm": True} | draw(some(renorm_momentum=st.just(0.7), renorm_clipping=bounds))
    call = {} if mask is None else {"mask": mask.reshape(shape[:-1])}
    return Case(Made("BatchNormalization", config), draw(arrays(*shape)), call, train=draw(truth))


@st.composite
def layer_normalization(draw):
    shape = draw(shapes(2, 5))
    config = some(axis=axes_of(len(shape)), epsilon=epsilons, center=truth, scale=truth, rms_scaling=truth)
    return Case(Made("LayerNormalization", draw(config)), draw(arrays(*shape)), masks=draw(leading(shape)))


@st.composite
def group_normalization(draw):
    shape = draw(shapes(2, 5))
    axis = draw(one_axis(len(shape)))
    divisors = [n for n in range(1, shape[axis] + 1) if shape[axis] % n == 0]
    config = {"axis": axis, "groups": draw(st.sampled_from([-1, *divisors]))}
    config |= draw(some(epsilon=epsilons, center=truth, scale=truth))
    return Case(Made("GroupNormalization", config), draw(arrays(*shape)), masks=draw(leading(shape)))


@st.composite
def rms_normalization(draw):
    """Draws only axes for which Keras is right: it broadcasts the scale along the last axes, whatever `axis` is."""
    shape = draw(shapes(2, 5))
    last = draw(st.integers(1, len(shape) - 1))
    axis = draw(
        st.sampled_from([-1, len(shape) - 1, list(range(-last, 0)), tuple(range(len(shape) - last, len(shape)))])
    )
    config = {"axis": axis} | draw(some(epsilon=epsilons))
    return Case(Made("RMSNormalization", config), draw(arrays(*shape)))


@st.composite
def unit_normalization(draw):
    shape = draw(shapes(2, 5))
    config = draw(some(axis=axes_of(len(shape))))
    return Case(Made("UnitNormalization", config), draw(arrays(*shape)), masks=draw(leading(shape)))


@st.composite
def spectral_normalization(draw):
    inner, shape = draw(
        st.one_of(
            st.tuples(dense(), shapes(2, 3)),
            st.tuples(conv(2), st.just((2, 3, 4, 2))),
            st.tuples(conv(1), st.just((2, 5, 3))),
        )
    )
    config = {"layer": inner} | draw(some(power_iterations=st.integers(1, 3)))
    return Case(Made("SpectralNormalization", config), draw(arrays(*shape)), train=draw(truth))


@st.composite
def leading(draw, shape):
    """Draws None or a mask with all axes but the last."""
    mask = draw(masks(shape[0], int(np.prod(shape[1:-1]))))
    return None if mask is None else mask.reshape(shape[:-1])


def dense():
    config = some(activation=activations, use_bias=truth)
    return st.builds(lambda units, more: Made("Dense", {"units": units} | more), sizes, config)


def conv(rank):
    config = some(padding=st.just("same"), activation=activations, use_bias=truth, strides=st.just(2))
    return st.builds(lambda n, more: Made(f"Conv{rank}D", {"filters": n, "kernel_size": 2} | more), sizes, config)


# ---------------------------------------------------------------- noise, which is inactive outside of training


@st.composite
def masking(draw):
    shape = draw(shapes(2, 4))
    value = draw(st.sampled_from([0.0, 1, -0.5]))
    x, kept = draw(arrays(*shape)), draw(masks(shape[0], int(np.prod(shape[1:-1])), missing=False))
    x = np.where(kept.reshape(shape[:-1])[..., None], x, np.float32(value))
    config = {} if value == 0 and draw(truth) else {"mask_value": value}
    return Case(Made("Masking", config), x, masks=draw(leading(shape)))


@st.composite
def noise(draw, name, argument, low, high):
    """Draws a noise layer outside of training or with rate 0."""
    shape = draw(shapes(low, high))
    train = draw(truth)
    config = {argument: 0.0 if train else draw(st.sampled_from([0.0, 0.2, 0.5]))} | draw(some(seed=st.just(3)))
    if name in ("Dropout", "AlphaDropout"):
        config |= draw(some(noise_shape=st.just((shape[0], *[1] * (len(shape) - 1)))))
    if name in ("SpatialDropout2D", "SpatialDropout3D"):
        config |= draw(some(data_format=st.sampled_from(["channels_first", "channels_last"])))
    return Case(Made(name, config), draw(arrays(*shape)), train=train, masks=draw(leading(shape)))


# ---------------------------------------------------------------- recurrence

KINDS = ("SimpleRNN", "LSTM", "GRU")


@st.composite
def gated(draw, kind, train):
    """Draws the common arguments of a cell and its layer."""
    dropout = {} if train else {"dropout": rates, "recurrent_dropout": rates}
    config = {"units": draw(sizes)} | draw(some(activation=activations, use_bias=truth, **dropout))
    if kind != "SimpleRNN":
        config |= draw(some(recurrent_activation=gates, implementation=st.sampled_from([1, 2])))
    return config | draw(some(**{"LSTM": {"unit_forget_bias": truth}, "GRU": {"reset_after": truth}}.get(kind, {})))


def through_time():
    """Draws the common arguments of all recurrent layers."""
    return some(
        return_sequences=truth, return_state=truth, go_backwards=truth, unroll=truth, zero_output_for_mask=truth
    )


@st.composite
def cells(draw, train, deep=2):
    """Draws a cell or a stack of cells, which may contain stacks."""
    if deep and draw(st.integers(0, 4)) == 0:
        return Made("StackedRNNCells", {"cells": draw(st.lists(cells(train, deep - 1), min_size=2, max_size=3))})
    kind = draw(st.sampled_from(KINDS))
    return Made(f"{kind}Cell", draw(gated(kind, train)))


@st.composite
def states(draw, layer, batch):
    """Draws states of a cell or recurrent layer, in the structure that Keras accepts."""
    inner = layer.config.get("cells", layer.config.get("cell"))
    if isinstance(inner, list):
        return [draw(states(cell, batch)) for cell in inner]
    if inner is not None:
        return draw(states(inner, batch))
    return [draw(arrays(batch, layer.config["units"])) for _ in range(2 if "LSTM" in layer.name else 1)]


@st.composite
def sequences(draw, layer, train):
    """Draws inputs [B, T, F] of a recurrent layer, optionally with a mask and an initial state."""
    batch, time = draw(batches), draw(times)
    mask = draw(masks(batch, time))
    call = {} if mask is None else {"mask": mask}
    if draw(st.integers(0, 2)) == 0:
        call["initial_state"] = draw(states(layer, batch))
        if "GRU" in layer.name and draw(truth):
            call["initial_state"] = call["initial_state"][0]
    return Case(layer, draw(arrays(batch, time, draw(sizes))), call, train)


@st.composite
def recurrent(draw, kind):
    train = draw(st.sampled_from([None, False, True]))
    config = draw(gated(kind, train)) | draw(through_time())
    if kind != "SimpleRNN":
        config |= draw(some(use_cudnn=st.sampled_from(["auto", False])))
    return draw(sequences(Made(kind, config), train))


@st.composite
def one_cell(draw, kind):
    train = draw(st.sampled_from([None, False, True]))
    if kind:
        cell = Made(f"{kind}Cell", draw(gated(kind, train)))
    else:
        cell = Made("StackedRNNCells", {"cells": draw(st.lists(cells(train), min_size=1, max_size=3))})
    batch = draw(batches)
    state = draw(states(cell, batch))
    if kind in ("GRU", "SimpleRNN") and draw(truth):
        state = state[0]
    return Case(cell, draw(arrays(batch, draw(sizes))), {"states": state}, train)


@st.composite
def rnn(draw):
    train = draw(st.sampled_from([None, False, True]))
    cell = draw(cells(train) | st.lists(cells(train, deep=1), min_size=2, max_size=3))
    case = draw(sequences(Made("RNN", {"cell": cell} | draw(through_time())), train))
    # For a stack within a stack, Keras' loop has no output to repeat at a masked step.
    inner = cell if isinstance(cell, list) else cell.config.get("cells", [])
    if any(one.name == "StackedRNNCells" for one in inner) and not case.layer.config.get("unroll"):
        case.call.pop("mask", None)
    return case


@st.composite
def bidirectional(draw):
    train = draw(st.sampled_from([None, False, True]))
    options = draw(through_time())
    kind = draw(st.sampled_from([*KINDS, "RNN"]))
    units = draw(sizes)

    def one(kind, go_backwards):
        if kind == "RNN":
            inner = draw(st.sampled_from(KINDS))
            cell = Made(f"{inner}Cell", draw(gated(inner, train)) | {"units": units})
            own = {"cell": [draw(cells(train, deep=0)), cell] if draw(truth) else cell}
        else:
            own = draw(gated(kind, train)) | {"units": units}
        return Made(kind, own | options | {"go_backwards": go_backwards})

    back = draw(st.integers(0, 2)) == 0
    forward = one(kind, back and options.get("go_backwards", False))
    config = {"layer": forward} | draw(some(merge_mode=st.sampled_from(["concat", "sum", "ave", "mul", None])))
    if back:
        config["backward_layer"] = one(draw(st.sampled_from(KINDS)), not forward.config["go_backwards"])
    case = draw(sequences(forward, train))
    call = {key: value for key, value in case.call.items() if key != "initial_state"}
    if "initial_state" in case.call:
        batch = case.inputs.shape[0]
        call["initial_state"] = draw(states(forward, batch)) + draw(
            states(config.get("backward_layer", forward), batch)
        )
    return case._replace(layer=Made("Bidirectional", config), call=call)


@st.composite
def time_distributed(draw):
    """Draws TimeDistributed with an inner layer for vectors, sequences or images; some have statistics, masks or time
    steps."""
    train = draw(truth)
    rank, inner = draw(
        st.sampled_from(
            [
                (1, dense()),
                (1, st.builds(Made, st.just("BatchNormalization"), some(momentum=st.just(0.5), center=truth))),
                (1, st.builds(Made, st.just("LayerNormalization"), some(epsilon=epsilons))),
                (1, st.just(Made("Dropout", {"rate": 0.0}))),
                (1, st.just(Made("Activation", {"activation": "softmax"}))),
                (2, dense()),
                (2, conv(1)),
                (2, recurrent("LSTM").map(lambda case: case.layer)),
                (2, recurrent("GRU").map(lambda case: case.layer)),
                (2, bidirectional().map(lambda case: case.layer)),
                (2, st.just(Made("GlobalAveragePooling1D", {}))),
                (2, st.just(Made("TimeDistributed", {"layer": Made("Dense", {"units": 3})}))),
                (2, st.just(Made("Flatten", {}))),
                (2, st.builds(Made, st.just("BatchNormalization"), some(axis=st.just(1)))),
                (3, conv(2)),
                (3, st.just(Made("MaxPooling2D", {"pool_size": 2, "padding": "same"}))),
                (3, st.just(Made("Flatten", {}))),
            ]
        )
    )
    inner = draw(inner)
    for one in (inner, inner.config.get("layer"), inner.config.get("backward_layer")):
        if one is not None:
            one.config.pop("return_state", None)  # Keras stacks single outputs
    if inner.config.get("merge_mode", "concat") is None:
        inner.config["merge_mode"] = "sum"
    shape = (draw(batches), draw(times), *(draw(st.integers(2, 5)) for _ in range(rank)))
    # Keras passes on all axes of a mask, even those that the inner layer removes from its inputs.
    mask = draw(masks(*shape[:2])) if rank == 1 or inner.name in ("Dense", "Flatten", "Conv2D") else None
    if inner.config.get("return_sequences"):
        mask = draw(masks(shape[0] * shape[1], shape[2], missing=False)).reshape(shape[:3])
    call = {} if mask is None else {"mask": mask}
    train = train and "dropout" not in repr(inner)
    return Case(Made("TimeDistributed", {"layer": inner}), draw(arrays(*shape)), call, train)


@st.composite
def conv_lstm(draw, rank):
    """Draws a mask only if Keras broadcasts it correctly: for unrolled layers or a single example."""
    train = draw(st.sampled_from([None, False, True]))
    dropout = {} if train else {"dropout": rates, "recurrent_dropout": rates}
    config = {"filters": draw(st.integers(1, 3)), "kernel_size": draw(per_axis(rank, 3))}
    config |= draw(some(padding=st.sampled_from(["valid", "same"]), activation=activations, use_bias=truth, **dropout))
    config |= draw(some(recurrent_activation=gates, unit_forget_bias=truth))
    config |= draw(some(data_format=st.sampled_from(["channels_first", "channels_last"])))
    config |= draw(some(strides=per_axis(rank, 2)) | some(dilation_rate=per_axis(rank, 2)))
    config |= draw(through_time())
    batch, time, channels = draw(batches), draw(st.integers(1, 4)), draw(st.integers(1, 3))
    size = tuple(draw(st.integers(3, 6 if rank == 1 else 5 if rank == 2 else 4)) for _ in range(rank))
    shape = (channels, *size) if config.get("data_format") == "channels_first" else (*size, channels)
    mask = draw(masks(batch, time)) if config.get("unroll") or batch == 1 else None
    call = {} if mask is None else {"mask": mask}
    if draw(st.integers(0, 2)) == 0:
        left, filters = positions(config, size), config["filters"]
        state = (filters, *left) if config.get("data_format") == "channels_first" else (*left, filters)
        call["initial_state"] = [draw(arrays(batch, *state)) for _ in range(2)]
    return Case(Made(f"ConvLSTM{rank}D", config), draw(arrays(batch, time, *shape)), call, train)


def per_axis(rank, most):
    """Draws an integer up to a bound, or one for each axis."""
    return st.integers(1, most) | st.tuples(*[st.integers(1, most)] * rank)


def positions(config, size):
    """Returns the output size of a convolution along each spatial axis."""
    windows = (config.get(key, 1) for key in ("kernel_size", "strides", "dilation_rate"))
    windows = [value if isinstance(value, tuple) else (value,) * len(size) for value in windows]
    if config.get("padding") == "same":
        return tuple(-(-n // stride) for n, stride in zip(size, windows[1], strict=True))
    return tuple((n - d * (k - 1) - 1) // stride + 1 for n, k, stride, d in zip(size, *windows, strict=True))


# ---------------------------------------------------------------- attention


@st.composite
def scored_attention(draw, name):
    """Draws [query, value] or [query, value, key] with masks, with one or several spatial axes."""
    train = draw(truth)
    batch, queries, keys, features = draw(batches), draw(times), draw(times), draw(sizes)
    separate, more = draw(truth), draw(st.sampled_from([(), (), (2,)]))
    value = draw(arrays(batch, *more, keys, draw(sizes) if separate else features))
    inputs = [draw(arrays(batch, *more, queries, features)), value]
    inputs += [draw(arrays(batch, *more, keys, features))] if separate else []
    config = draw(some(use_scale=truth, dropout=st.just(0.0) if train else rates))
    config |= draw(some(score_mode=st.sampled_from(["dot", "concat"]))) if name == "Attention" else {}
    call = draw(some(return_attention_scores=truth, use_causal_mask=truth))
    if not more and draw(truth):
        call["mask"] = [draw(masks(batch, queries)), draw(masks(batch, keys))]
        call["mask"] += [draw(masks(batch, keys))] if separate and draw(truth) else []
    return Case(Made(name, config), inputs, call, train)


@st.composite
def pairs(draw, before, queries, keys):
    """Draws a mask of pairs [..., T, S], where some queries may see no key."""
    shape = (*draw(before), *queries, *keys)
    return np.random.default_rng(draw(st.integers(0, 99))).random(shape) < 0.6


@st.composite
def heads_of(draw, name):
    if name == "GroupQueryAttention":
        groups = draw(st.integers(1, 2))
        numbers_of = {"num_key_value_heads": groups, "num_query_heads": groups * draw(st.integers(1, 3))}
        return {"head_dim": draw(sizes)} | numbers_of
    return {"num_heads": draw(st.integers(1, 3)), "key_dim": draw(sizes)} | draw(some(value_dim=sizes))


@st.composite
def projected_attention(draw, name):
    """Draws attention of one sequence to another; for multiple heads, also along several axes."""
    train, batch = draw(truth), draw(batches)
    config = draw(heads_of(name))
    config |= draw(some(use_bias=truth, use_gate=truth, dropout=st.just(0.0) if train else rates))
    queries, keys, features = (draw(times),), (draw(times),), draw(sizes)
    before = ()
    if name == "MultiHeadAttention":
        config |= draw(some(output_shape=st.one_of(sizes, st.tuples(sizes), st.tuples(sizes, sizes))))
        kind = draw(st.sampled_from(["one", "one", "last", "both"]))
        if kind == "last":
            before = (draw(st.integers(1, 3)),)
            config["attention_axes"] = draw(st.sampled_from([2, -2, (2,), [-2]]))
        if kind == "both":
            queries, keys = (draw(st.integers(1, 3)), queries[0]), (draw(st.integers(1, 3)), keys[0])
            config |= draw(some(attention_axes=st.sampled_from([(1, 2), [1, 2]])))
    if len(queries) == 1 and draw(st.integers(0, 3)) == 0 and not before:
        config["sliding_window"] = draw(st.integers(1, 4))
    separate = draw(truth)
    call = {"value": draw(arrays(batch, *before, *keys, draw(sizes)))}
    call |= {"key": draw(arrays(batch, *before, *keys, draw(sizes)))} if separate else {}
    call |= draw(some(return_attention_scores=truth))
    attached = None
    leading_axes = st.sampled_from([(batch, *before), (batch,), (1,), ()])
    if not before and len(queries) == 1:
        call |= draw(some(use_causal_mask=truth, attention_mask=pairs(leading_axes, queries, keys)))
        call |= draw(some(value_mask=masks(batch, *keys), key_mask=masks(batch, *keys)))
        # Keras' MultiHeadAttention takes the query's mask only from the query itself.
        query_mask = draw(masks(batch, *queries)) if draw(truth) else None
        if name == "MultiHeadAttention":
            attached = query_mask
        elif query_mask is not None:
            call["query_mask"] = query_mask
        if not (config.get("dropout") or call.get("return_attention_scores")):
            config.pop("value_dim", None)  # Keras' fused attention requires equal key and value sizes.
    else:
        call |= draw(some(attention_mask=pairs(leading_axes, queries, keys)))
    return Case(Made(name, config), draw(arrays(batch, *before, *queries, features)), call, train, attached)


DRAWS = {
    "BatchNormalization": batch_normalization(),
    "LayerNormalization": layer_normalization(),
    "GroupNormalization": group_normalization(),
    "RMSNormalization": rms_normalization(),
    "UnitNormalization": unit_normalization(),
    "SpectralNormalization": spectral_normalization(),
    "Masking": masking(),
    "Dropout": noise("Dropout", "rate", 2, 4),
    "SpatialDropout1D": noise("SpatialDropout1D", "rate", 3, 3),
    "SpatialDropout2D": noise("SpatialDropout2D", "rate", 4, 4),
    "SpatialDropout3D": noise("SpatialDropout3D", "rate", 5, 5),
    "GaussianDropout": noise("GaussianDropout", "rate", 2, 4),
    "GaussianNoise": noise("GaussianNoise", "stddev", 2, 4),
    "AlphaDropout": noise("AlphaDropout", "rate", 2, 4),
    "SimpleRNN": recurrent("SimpleRNN"),
    "LSTM": recurrent("LSTM"),
    "GRU": recurrent("GRU"),
    "SimpleRNNCell": one_cell("SimpleRNN"),
    "LSTMCell": one_cell("LSTM"),
    "GRUCell": one_cell("GRU"),
    "StackedRNNCells": one_cell(None),
    "RNN": rnn(),
    "Bidirectional": bidirectional(),
    "TimeDistributed": time_distributed(),
    "ConvLSTM1D": conv_lstm(1),
    "ConvLSTM2D": conv_lstm(2),
    "ConvLSTM3D": conv_lstm(3),
    "Attention": scored_attention("Attention"),
    "AdditiveAttention": scored_attention("AdditiveAttention"),
    "MultiHeadAttention": projected_attention("MultiHeadAttention"),
    "GroupQueryAttention": projected_attention("GroupQueryAttention"),
}
