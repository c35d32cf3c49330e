"""Operations of neural networks against Keras, by a table with a row for each name."""

import itertools

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest

from flaxmodels import Input, Model, activations
from flaxmodels.ops import nn
from tests.support.operation_oracle import (
    assert_equal,
    case,
    check,
    check_signature,
    integers,
    names_without_row,
    normal,
    uniform,
    usual_promotion,
)

X = normal(4, 6) * 2
SEQUENCES, IMAGES, VOLUMES = normal(2, 9, 4), normal(2, 7, 6, 4), normal(1, 4, 5, 4, 2)
FIRST = np.ascontiguousarray(np.moveaxis(IMAGES, -1, 1))
KERNEL = normal(3, 2, 4, 3)
P = uniform(4, 6)
FRAMES = normal(3, 7, 5) * 2
LABELS = np.array([[1, 2, 2, 0], [3, 0, 0, 0], [1, 2, 3, 4]], np.int32)
LABEL_LENGTHS, FRAME_LENGTHS = np.array([3, 1, 4], np.int32), np.array([7, 5, 6], np.int32)
Q, KV = normal(2, 3, 4, 8), normal(2, 5, 2, 8)


def _elementwise(*options):
    return [case(X), *(case(X, **kwargs) for kwargs in options), case(X.astype("bfloat16")).but(tolerance=2e-2)]


def _windows(x, first, sizes=(2, (3, 2))):
    """Returns pooling cases with all kinds of strides and paddings."""
    cases = [
        case(x, size, strides=strides, padding=padding)
        for size, strides, padding in itertools.product(sizes, (2, 1, (1, 3)), ("valid", "SAME"))
    ]
    return [
        *cases[::2],
        cases[3],
        case(first, 2, 1, "same", "channels_first"),
        case(SEQUENCES, 3, 3, "same"),
        case(VOLUMES, (2, 3, 1), 2, "valid"),
    ]


# Keras infers wrong shapes or dtypes for symbols of `adaptive_average_pool`, `adaptive_max_pool`, `multi_hot` and `polar`.
TABLE = {
    "adaptive_average_pool": [
        case(IMAGES, (3, 2)).but(keras_graph=False),
        case(SEQUENCES, 4),
        case(FIRST, 3, data_format="channels_first"),
        case(VOLUMES, (2, 3, 2)),
    ],
    "adaptive_max_pool": [
        case(IMAGES, (3, 2)).but(keras_graph=False),
        case(SEQUENCES, 4),
        case(FIRST, 3, data_format="channels_first"),
        case(VOLUMES, (2, 3, 2)),
    ],
    "average_pool": _windows(IMAGES, FIRST),
    "batch_normalization": [
        case(IMAGES, normal(4), uniform(4), -1),
        case(FIRST, normal(4), uniform(4), 1, offset=normal(4), scale=normal(4), epsilon=0.1),
    ],
    "binary_crossentropy": [
        case(P, uniform(4, 6)).but(symbols=(0, 1)),
        case(P, X, from_logits=True),
        case(np.round(P), np.round(uniform(4, 6))).but(gradient=False),
    ],
    "categorical_crossentropy": [
        case(P, uniform(4, 6)).but(symbols=(0, 1)),
        case(P, X, from_logits=True),
        case(P, uniform(4, 6), axis=0),
    ],
    "celu": _elementwise({"alpha": 0.5}),
    "conv": [
        case(IMAGES, KERNEL),
        case(IMAGES, KERNEL, strides=2, padding="same"),
        case(IMAGES, KERNEL, strides=(1, 2), padding="SAME"),
        case(IMAGES, KERNEL, 1, "same", dilation_rate=(2, 1)),
        case(IMAGES, normal(3, 2, 2, 6)),
        case(FIRST, KERNEL, 1, "valid", "channels_first"),
        case(SEQUENCES, normal(3, 4, 2), dilation_rate=2),
        case(VOLUMES, normal(2, 2, 2, 2, 3), padding="same"),
        case(integers(5, 1, 5, 5, 4), KERNEL).but(gradient=False),
    ],
    "conv_transpose": [
        case(IMAGES, normal(3, 2, 5, 4)),
        case(IMAGES, normal(3, 2, 5, 4), strides=2, padding="same"),
        case(IMAGES, normal(3, 2, 5, 4), (2, 1), "valid", output_padding=(1, 0)),
        case(IMAGES, normal(3, 3, 5, 4), 2, "same", output_padding=1),
        case(IMAGES, normal(2, 2, 5, 4), dilation_rate=2),
        case(FIRST, normal(3, 2, 5, 4), 2, data_format="channels_first"),
        case(SEQUENCES, normal(3, 2, 4), 2),
    ],
    "ctc_decode": [
        case(FRAMES, FRAME_LENGTHS).but(gradient=False, keras_graph=False, symbols=(0, 1)),
        case(FRAMES, FRAME_LENGTHS, merge_repeated=False, mask_index=4).but(gradient=False),
        case(FRAMES, FRAME_LENGTHS, "beam_search", beam_width=4).but(gradient=False),
        case(FRAMES, FRAME_LENGTHS, "beam_search", beam_width=30, top_paths=5).but(gradient=False),
        case(FRAMES, FRAME_LENGTHS, "beam_search", beam_width=12, top_paths=3, mask_index=2).but(gradient=False),
    ],
    "ctc_loss": [
        case(LABELS, FRAMES, LABEL_LENGTHS, FRAME_LENGTHS).but(symbols=(0, 1, 2, 3)),
        case(np.where(LABELS == 4, 0, LABELS), FRAMES, LABEL_LENGTHS, FRAME_LENGTHS, mask_index=4),
    ],
    "depth_to_space": [case(IMAGES, 2), case(FIRST, 2, "channels_first")],
    "depthwise_conv": [
        case(IMAGES, normal(3, 2, 4, 2)),
        case(IMAGES, normal(3, 2, 4, 1), strides=2, padding="same"),
        case(IMAGES, normal(2, 2, 4, 1), dilation_rate=2),
        case(FIRST, normal(3, 2, 4, 2), 1, "same", "channels_first"),
        case(SEQUENCES, normal(3, 4, 1)),
    ],
    "dot_product_attention": [
        case(Q, Q, Q).but(symbols=(0, 1, 2)),
        case(Q, KV, KV, bias=normal(1, 4, 3, 5), scale=0.3),
        case(Q, Q, Q, mask=np.tril(np.ones((1, 1, 3, 3), bool)), is_causal=True),
    ],
    "elu": _elementwise({"alpha": 0.5}),
    "fold": [
        case(normal(2, 12, 9), 4, 2),
        case(normal(2, 12, 4), (4, 4), 2, stride=2),
        case(normal(2, 18, 9), 5, 3, padding=1, stride=2),
        case(normal(2, 8, 6), (4, 5), 2, dilation=2),
    ],
    "gelu": _elementwise({"approximate": False}),
    "glu": _elementwise({"axis": 0}),
    "hard_shrink": _elementwise({"threshold": 1.0}),
    "hard_sigmoid": _elementwise(),
    "hard_silu": _elementwise(),
    "hard_swish": _elementwise(),
    "hard_tanh": _elementwise(),
    "layer_normalization": [
        case(IMAGES),
        case(IMAGES, normal(4), normal(4), epsilon=0.1),
        case(IMAGES, normal(6, 4), axis=(2, 3)),
        case(IMAGES, normal(7), normal(7), axis=1),
        case(X.astype("bfloat16"), normal(6)).but(gradient=False, tolerance=2e-2),
    ],
    "leaky_relu": _elementwise({"negative_slope": 0.3}),
    "log_sigmoid": _elementwise(),
    "log_softmax": [*_elementwise({"axis": 0}), case(IMAGES, axis=(1, 2))],
    "max_pool": _windows(IMAGES, FIRST),
    "moments": [
        case(IMAGES, [1, 2]),
        case(IMAGES, -1, keepdims=True),
        case(IMAGES, (0, 1, 2)),
        case(1000 * X.astype(np.float16), 0).but(tolerance=1e-3),
    ],
    "multi_hot": [
        case(integers(5, 3, 2), 5).but(keras_graph=False),
        case(integers(5, 4), num_classes=5),
        case(integers(5, 3, 2), 5, dtype="int32"),
        case(integers(5, 3, 2), 5, axis=1).but(gradient=False),
    ],
    "normalize": [
        case(X),
        case(X, axis=0, order=1),
        case(X, order=3, epsilon=0.5),
        case(np.zeros((2, 3), np.float32)).but(gradient=False),
    ],
    "one_hot": [
        case(integers(5, 4), 5),
        case(np.array([[0, -1], [7, 2]]), num_classes=3, axis=1, dtype="int32"),
        case(integers(5, 4), 5, 0, "bfloat16"),
    ],
    "polar": [case(uniform(4), normal(4)).but(symbols=(0, 1), keras_graph=False)],
    "psnr": [case(P, uniform(4, 6), 1.0).but(symbols=(0, 1)), case(P, uniform(4, 6), max_val=255)],
    "relu": _elementwise(),
    "relu6": _elementwise(),
    "rms_normalization": [
        case(IMAGES),
        case(IMAGES, normal(4), epsilon=0.1),
        case(IMAGES, axis=(1, 2)),
        case(X.astype("bfloat16"), normal(6)).but(gradient=False, tolerance=2e-2),
    ],
    "selu": _elementwise(),
    "separable_conv": [
        case(IMAGES, normal(3, 2, 4, 2), normal(1, 1, 8, 3)),
        case(IMAGES, normal(3, 2, 4, 1), normal(1, 1, 4, 3), 2, "same"),
        case(FIRST, normal(3, 2, 4, 1), normal(1, 1, 4, 3), data_format="channels_first"),
    ],
    "sigmoid": _elementwise(),
    "silu": _elementwise(),
    "soft_shrink": _elementwise({"threshold": 1.0}),
    "softmax": [*_elementwise({"axis": 0}), case(IMAGES, axis=(1, 2))],
    "softplus": _elementwise(),
    "softsign": _elementwise(),
    "space_to_depth": [case(normal(2, 4, 6, 3), 2), case(normal(2, 3, 4, 6), 2, data_format="channels_first")],
    "sparse_categorical_crossentropy": [
        case(integers(6, 4), uniform(4, 6)).but(symbols=(0, 1)),
        case(integers(6, 4, 1), X, from_logits=True),
        case(np.array([0, 9, -1, 2]), uniform(4, 6)),
    ],
    "sparse_plus": _elementwise(),
    "sparse_sigmoid": _elementwise(),
    "sparsemax": _elementwise({"axis": 0}),
    "squareplus": _elementwise({"b": 2}),
    "swish": _elementwise(),
    "tanh_shrink": _elementwise(),
    "threshold": [case(X, 0.5, -1.0), case(X, threshold=0.5, default_value=2.0)],
    "unfold": [
        case(FIRST, 2),
        case(FIRST, (3, 2), padding=1, stride=2),
        case(FIRST, 2, dilation=(2, 1), stride=(1, 2)),
        case(normal(1, 2, 9, 9), 6),
    ],
}
# Arguments of Keras that are left out: the deprecated `num_tokens` of `multi_hot` and `rms_scaling` of
# `layer_normalization`, which Keras hides in **kwargs.


def test_each_name_of_keras_has_a_row():
    assert names_without_row(keras.ops.nn, TABLE) == ([], [])
    assert set(TABLE) == set(nn.__all__)


@pytest.mark.parametrize("name", TABLE)
@pytest.mark.spread
@pytest.mark.filterwarnings("ignore:You are using a softmax over axis")
def test_equals_keras(name, request):
    check_signature(getattr(nn, name), getattr(keras.ops.nn, name))
    check(getattr(nn, name), getattr(keras.ops.nn, name), TABLE[name], request.config)


def test_pooling_without_strides():
    """Keras' documentation says that the windows do not overlap; its JAX backend raises."""
    for size in (2, (2, 3)):
        assert_equal(nn.max_pool(IMAGES, size), nn.max_pool(IMAGES, size, strides=size))
        assert_equal(nn.average_pool(IMAGES, size), nn.average_pool(IMAGES, size, strides=size))


def test_adaptive_pooling_by_hand():
    x = jnp.arange(20.0).reshape(1, 20, 1)
    windows = [x[0, i * 20 // 7 : -(-(i + 1) * 20 // 7), 0] for i in range(7)]
    np.testing.assert_allclose(nn.adaptive_max_pool(x, 7)[0, :, 0], [w.max() for w in windows])
    np.testing.assert_allclose(nn.adaptive_average_pool(x, 7)[0, :, 0], [w.mean() for w in windows], rtol=1e-6)


def test_beam_search_finds_the_most_probable_labels():
    """The oracle sums the probabilities of all paths."""
    frames, classes = 4, 3
    log_p = np.asarray(jax.nn.log_softmax(normal(1, frames, classes)))
    totals = {}
    for path in itertools.product(range(classes), repeat=frames):
        labels = tuple(label for label, _ in itertools.groupby(path) if label != 0)
        p = np.exp(sum(log_p[0, t, c] for t, c in enumerate(path)))
        totals[labels] = totals.get(labels, 0.0) + p
    best = sorted(totals.items(), key=lambda item: -item[1])[:6]
    labels, scores = nn.ctc_decode(log_p, np.array([frames]), "beam_search", beam_width=40, top_paths=6)
    found = [tuple(int(label) for label in row if label >= 0) for row in np.asarray(labels[:, 0])]
    assert found == [label for label, _ in best]
    np.testing.assert_allclose(np.exp(scores[0]), [p for _, p in best], rtol=1e-4)


ACTIVATIONS = {
    "relu": {"negative_slope": 0.1, "max_value": 2.0, "threshold": 0.3},
    "gelu": {},
    "threshold": {"threshold": 0.5, "default_value": -1.0},
    "softmax": {"axis": (1, 2)},
    "glu": {"axis": 1},
}


NO_SYMBOLS_IN_KERAS = {"hard_silu", "hard_swish", "mish", "sparsemax"}


@pytest.mark.parametrize("name", activations.ACTIVATIONS)
@pytest.mark.spread
def test_activations_on_symbols_add_nodes(name):
    """As in Keras, `activations.X(symbol)` is a part of the model; `linear` returns the symbol."""
    kwargs = ACTIVATIONS.get(name, {})
    function, theirs = getattr(activations, name), getattr(keras.activations, name)
    x = normal(2, 4, 6)
    symbol = Input((4, 6))
    output = function(symbol, **kwargs)
    if name not in NO_SYMBOLS_IN_KERAS:
        assert output.shape == theirs(keras.Input((4, 6)), **kwargs).shape
    assert (output is symbol) == (name == "linear")
    with usual_promotion():
        computed = Model(symbol, output).apply({}, x)
        assert_equal(computed, function(jnp.asarray(x), **kwargs))
        assert_equal(computed, theirs(x, **kwargs))
    assert activations.get(name) is function


def test_activations_of_arrays_and_operations_agree():
    assert set(activations.ON_ARRAYS) == set(activations.ACTIVATIONS) - {"linear", "swish", "hard_swish"}


@pytest.mark.spread
@pytest.mark.parametrize(
    ("call", "error"),
    [
        (
            lambda: nn.max_pool(IMAGES, (2, 2, 2)),
            "`pool_size` must be an integer or one integer for each of the 2 spatial axes, got (2, 2, 2); give 2 "
            "integers.",
        ),
        (
            lambda: nn.max_pool(IMAGES, 2, data_format="NCHW"),
            '`data_format` must be "channels_last" or "channels_first", got \'NCHW\'; choose one.',
        ),
        (
            lambda: nn.max_pool(IMAGES, 2, padding="causal"),
            '`padding` must be "valid" or "same", got \'causal\'; choose one.',
        ),
        (
            lambda: nn.conv(IMAGES, normal(3, 3, 3, 2)),
            "The channels of the inputs must be a multiple of the channels of the kernel, got 4 and 3; change the "
            "kernel or `data_format`.",
        ),
        (
            lambda: nn.conv(IMAGES, normal(9, 3, 4, 2)),
            "The window must fit into the inputs, got inputs of shape (2, 7, 6, 4) and a kernel of shape (9, 3, 4, 2); "
            'use a smaller kernel, stride or dilation, or padding="same".',
        ),
        (
            lambda: nn.depthwise_conv(IMAGES, normal(3, 3, 3, 2)),
            "The inputs must have as many channels as the kernel, got 4 and 3; change the kernel or `data_format`.",
        ),
        (
            lambda: nn.one_hot([1], 2, sparse=True),
            "`one_hot` returns dense arrays only, got sparse=True; leave `sparse` out.",
        ),
        (
            lambda: nn.multi_hot([1]),
            "`num_classes` of `multi_hot` must be an integer, got None; give the number of classes.",
        ),
        (
            lambda: nn.moments(X, 0, synchronized=True),
            "`moments` takes the statistics of the array it is given, got synchronized=True; leave it out, because an "
            "array that is divided among devices counts as a whole.",
        ),
        (
            lambda: nn.normalize(X, order=0),
            "`order` of `normalize` must be a positive integer, got 0; give 1 or more.",
        ),
        (
            lambda: nn.dot_product_attention(Q, Q, Q, attn_logits_soft_cap=1.0),
            "`attn_logits_soft_cap` is available on a TPU only, got 1.0; leave it out.",
        ),
        (
            lambda: nn.dot_product_attention(Q, Q, Q[0]),
            "`dot_product_attention` takes arrays of 4 axes [batch, time, heads, features], got shapes (2, 3, 4, 8), "
            "(2, 3, 4, 8), (3, 4, 8); add an axis for the heads.",
        ),
        (
            lambda: nn.ctc_decode(FRAMES, FRAME_LENGTHS, "best"),
            '`strategy` of `ctc_decode` must be "greedy" or "beam_search", got \'best\'; choose one.',
        ),
        (
            lambda: nn.categorical_crossentropy(P, P[:2]),
            "`categorical_crossentropy` takes targets and outputs of the same shape [..., classes], got (4, 6) and "
            "(2, 6); use `one_hot` for targets that are class indices.",
        ),
        (
            lambda: nn.sparse_categorical_crossentropy(P, P),
            "`sparse_categorical_crossentropy` takes targets of the shape of the outputs without the classes, got "
            "(4, 6) and (4, 6); give one class index per example.",
        ),
        (
            lambda: nn.binary_crossentropy(P, P[:2]),
            "`binary_crossentropy` takes targets and outputs of the same shape, got (4, 6) and (2, 6); reshape one of "
            "them.",
        ),
        (
            lambda: nn.psnr(P, P[:2], 1),
            "`psnr` takes arrays of the same shape, got (4, 6) and (2, 6); reshape one of them.",
        ),
        (
            lambda: nn.unfold(X, 2),
            "`unfold` takes images of shape [B, C, H, W], got shape (4, 6); add an axis.",
        ),
        (
            lambda: nn.fold(normal(1, 5, 4), 4, 2),
            "`fold` takes columns of shape [B, C * 4, positions], got shape (1, 5, 4); give what `unfold` returns.",
        ),
        (
            lambda: nn.fold(normal(1, 4, 4), 4, 2),
            "`fold` takes columns of shape (1, 4, 9) for these windows, got shape (1, 4, 4); correct `output_size` or "
            "the windows.",
        ),
        (
            lambda: nn.depth_to_space(IMAGES, 1),
            "`block_size` of `depth_to_space` must be at least 2, got 1; give a larger one.",
        ),
    ],
)
def test_errors(call, error):
    with pytest.raises(ValueError) as raised:
        call()
    assert str(raised.value) == error


@pytest.mark.skipif(jax.default_backend() == "gpu", reason="tests the error without a GPU")
def test_flash_attention_without_a_gpu():
    with pytest.raises(ValueError) as raised:
        nn.dot_product_attention(Q, Q, Q, flash_attention=True)
    assert str(raised.value) == "`flash_attention` needs an NVIDIA GPU, got the platform 'cpu'; leave it out."
