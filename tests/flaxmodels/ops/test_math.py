"""Mathematical operations against Keras, by a table with a row for each name."""

import importlib

import keras
import numpy as np
import pytest

from flaxmodels.ops import math
from tests.support.operation_oracle import case, check, check_signature, integers, normal, positive_definite, uniform

X, Y, SIGNALS = normal(4, 5), normal(3, 5), normal(2, 40)
PAIR = (normal(2, 8), normal(2, 8))
PLANES = (normal(2, 4, 4), normal(2, 4, 4))
IDS = np.array([0, 2, 2, 0], np.int32)
SPECTRUM = (normal(1, 5, 9), normal(1, 5, 9))
WINDOW = uniform(12)


def _segments(gradient=True):
    return [
        case(X, IDS, num_segments=3).but(symbols=(0, 1), gradient=gradient),
        case(X[:, 0], np.sort(IDS), num_segments=4, sorted=True).but(gradient=False),
        case(integers(9, 4, 2), IDS, 3),
    ]


TABLE = {
    "cdist": [case(X, Y), case(normal(2, 4, 3), normal(2, 5, 3))],
    "erf": [case(X), case(X.astype(np.float16)).but(tolerance=1e-3)],
    "erfc": [case(X)],
    "erfinv": [case(uniform(4, 5))],
    "extract_sequences": [case(SIGNALS, 8, 3), case(normal(2, 3, 20), 5, 5)],
    "fft": [case(PAIR).but(tolerance=1e-5)],
    "fft2": [case(PLANES)],
    "ifft2": [case(PLANES)],
    "in_top_k": [
        case(integers(5, 4), X, 2).but(symbols=(0, 1)),
        case(np.array([0, 1], np.int32), np.array([[np.nan, 1, 2], [3, 3, 1]], np.float32), k=1),
    ],
    "irfft": [case(PAIR), case(PAIR, fft_length=12), case(PAIR, 6)],
    "istft": [
        case(SPECTRUM, 16, 8, 16).but(keras_graph=False),
        case(SPECTRUM, 12, 4, 16, window="hamming", center=False).but(gradient=False),
        case(SPECTRUM, 12, 4, 16, length=20, window=WINDOW).but(gradient=False),
        case(SPECTRUM, 16, 4, 16, window=None).but(gradient=False),
    ],
    "logdet": [case(positive_definite(2, 3, 3))],
    "logsumexp": [case(X, axis=1), case(X), case(X, axis=(0, 1), keepdims=True), case(100 * X, axis=[1])],
    "rfft": [case(SIGNALS), case(SIGNALS, fft_length=16), case(SIGNALS, 64)],
    "rsqrt": [case(uniform(4, 5))],
    "segment_max": _segments(),
    "segment_min": _segments(),
    "segment_prod": _segments(gradient=False),
    "segment_sum": _segments(),
    "stft": [
        case(SIGNALS, 12, 4, 16),
        case(SIGNALS, 12, 5, 16, window="hamming", center=False),
        case(SIGNALS, 12, 5, 15, window=WINDOW),
        case(SIGNALS, 12, 4, 12, window=None),
    ],
    "top_k": [case(X, 2), case(X, k=3, sorted=False), case(integers(9, 2, 6), 2)],
    "view_as_complex": [case(normal(4, 5, 2)), case(integers(5, 4, 2)).but(gradient=False)],
    "view_as_real": [case((X + 1j * X).astype(np.complex64)), case(X)],
}


def test_each_name_of_keras_has_a_row():
    module = importlib.import_module("keras.src.ops.math")
    names = {n for n in dir(keras.ops) if n[0] != "_" and getattr(module, n, None) is getattr(keras.ops, n)}
    assert names == set(TABLE) == set(math.__all__)


@pytest.mark.parametrize("name", TABLE)
@pytest.mark.spread
def test_equals_keras(name, request):
    check_signature(getattr(math, name), getattr(keras.ops, name))
    check(getattr(math, name), getattr(keras.ops, name), TABLE[name], request.config)


def test_istft_restores_the_signal_of_stft():
    for window in ("hann", "hamming"):
        parts = math.stft(SIGNALS, 16, 4, 16, window=window)
        np.testing.assert_allclose(math.istft(parts, 16, 4, 16, length=40, window=window), SIGNALS, atol=1e-5)


@pytest.mark.spread
@pytest.mark.parametrize(
    ("call", "error"),
    [
        (
            lambda: math.cdist(X, normal(3, 4)),
            "`cdist` takes arrays of rows with the same size of the last axis, got shapes (4, 5) and (3, 4); reshape "
            "them to [..., rows, features].",
        ),
        (
            lambda: math.segment_sum(X, IDS),
            "`num_segments` must be an integer, because shapes are static, got None; give the number of segments.",
        ),
        (
            lambda: math.segment_sum(X, IDS[:2], 3),
            "`segment_ids` must have one segment for each row of `data`, got shapes (2,) and (4, 5); reshape them so "
            "that the rows are the leading axis.",
        ),
        (
            lambda: math.fft(X),
            "`fft` takes a pair (real part, imaginary part), got ndarray; give two arrays in a tuple.",
        ),
        (
            lambda: math.fft((X, Y)),
            "`fft` takes real and imaginary parts of the same shape and of a floating-point dtype, got float32 (4, 5) "
            "and float32 (3, 5); reshape or cast them.",
        ),
        (
            lambda: math.view_as_complex(X),
            "The last axis of x must hold a real and an imaginary part, got shape (4, 5); stack two arrays.",
        ),
        (
            lambda: math.stft(SIGNALS, 8, 0, 8),
            "`sequence_stride` of `stft` must be a positive integer, got 0; give 1 or more.",
        ),
        (
            lambda: math.stft(SIGNALS, 8, 4, 4),
            "`fft_length` of `stft` must be at least `sequence_length`=8, got 4; give a larger one.",
        ),
        (
            lambda: math.stft(SIGNALS, 8, 4, 8, window="box"),
            '`window` of `stft` must be "hann", "hamming", an array or None, got \'box\'; choose one.',
        ),
        (
            lambda: math.stft(SIGNALS, 8, 4, 8, window=WINDOW),
            "`window` of `stft` must have the shape (8,) of `sequence_length`, got (12,); give one factor per element.",
        ),
    ],
)
def test_errors(call, error):
    with pytest.raises(ValueError) as raised:
        call()
    assert str(raised.value) == error
