"""Every initializer against Keras: the same numbers for the same seed, the same distribution for any key."""

import dataclasses
import inspect
import math
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from keras.src.initializers import ALL_OBJECTS_DICT as KERAS_NAMES
from keras.src.initializers.random_initializers import compute_fans as keras_compute_fans

from flaxmodels import initializers
from flaxmodels.initializers import INITIALIZERS

# Keras resolves these names to its abstract base class, whose instances can only raise.
ABSTRACT = {"Initializer", "initializer"}
DENSE, CONV = (20, 30), (3, 3, 4, 8)
AXES = {"input_axes": (0, 1), "output_axes": (2,)}

# One line per class: arguments and shapes to test; random initializers also get a seed.
CONSTANT = {
    "Constant": [({}, DENSE), ({"value": 2.5}, CONV), ({"value": -1}, ())],
    "Identity": [({}, (4, 4)), ({"gain": 2.5}, (3, 5)), ({}, (5, 3))],
    "Ones": [({}, DENSE), ({}, ())],
    "STFT": [
        ({}, (16, 1, 9)),
        ({"side": "imag"}, (16, 1, 9)),
        ({"scaling": "spectrum", "window": "hamming"}, (20, 1, 17)),
        ({"scaling": None, "periodic": True}, (16, 1, 9)),
        ({"window": None}, (16, 1, 9)),
        ({"window": (1.0, -2.0, 3.0, 1.0), "scaling": "spectrum", "side": "imag"}, (4, 1, 5)),
    ],
    "Zeros": [({}, DENSE), ({}, ())],
}
RANDOM = {
    "GlorotNormal": [({}, DENSE), ({}, CONV), (AXES, (4, 5, 6))],
    "GlorotUniform": [({}, DENSE), ({}, CONV), (AXES, (4, 5, 6)), ({}, (7,)), ({}, ())],
    "HeNormal": [({}, DENSE), ({}, CONV), (AXES, (4, 5, 6))],
    "HeUniform": [({}, DENSE), ({}, CONV), (AXES, (4, 5, 6))],
    "LecunNormal": [({}, DENSE), ({}, CONV), (AXES, (4, 5, 6))],
    "LecunUniform": [({}, DENSE), ({}, CONV), (AXES, (4, 5, 6))],
    "Orthogonal": [({}, DENSE), ({"gain": 2.0}, CONV), ({}, (30, 20)), ({}, (5, 1))],
    "RandomNormal": [({}, DENSE), ({"mean": 0.5, "stddev": 2.0}, CONV), ({"stddev": 0.0}, (3,))],
    "RandomUniform": [({}, DENSE), ({"minval": -1, "maxval": 3}, CONV)],
    "TruncatedNormal": [({}, DENSE), ({"mean": 0.5, "stddev": 2.0}, CONV)],
    "VarianceScaling": [
        ({}, DENSE),
        ({"scale": 2.0, "mode": "fan_out", "distribution": "uniform"}, CONV),
        ({"scale": 0.5, "mode": "fan_avg", "distribution": "untruncated_normal"}, DENSE),
        ({"scale": 3.0, "distribution": "normal"}, CONV),
        ({"mode": "fan_avg", **AXES}, (4, 5, 6)),
    ],
}


def cases(table):
    return [pytest.param(n, k, s, id=f"{n}-{k}-{s}") for n, rows in table.items() for k, s in rows]


def keras_values(name, kwargs, shape):
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        return np.asarray(getattr(keras.initializers, name)(**kwargs)(shape, dtype="float32"))


# --- values


@pytest.mark.parametrize(("name", "kwargs", "shape"), cases(CONSTANT))
def test_constants_equal_keras(name, kwargs, shape):
    out = getattr(initializers, name)(**kwargs)(None, shape, jnp.float32)
    assert out.shape == shape and out.dtype == jnp.float32
    np.testing.assert_allclose(out, keras_values(name, kwargs, shape), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("name", "kwargs", "shape"), cases(RANDOM))
def test_seeds_give_the_numbers_of_keras(name, kwargs, shape):
    out = getattr(initializers, name)(seed=7, **kwargs)(None, shape, jnp.float32)
    assert out.shape == shape and out.dtype == jnp.float32
    np.testing.assert_allclose(out, keras_values(name, {"seed": 7, **kwargs}, shape), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**32 - 1])
def test_large_seeds_give_the_numbers_of_keras(seed):
    out = initializers.RandomUniform(seed=seed)(None, DENSE)
    np.testing.assert_array_equal(out, keras_values("RandomUniform", {"seed": seed}, DENSE))


@pytest.mark.parametrize("name", sorted(RANDOM))
def test_seed_replaces_the_key(name, getkey):
    free, seeded = getattr(initializers, name)(), getattr(initializers, name)(seed=3)
    a, b = getkey(), getkey()
    np.testing.assert_array_equal(seeded(a, DENSE), seeded(b, DENSE))
    assert not np.array_equal(free(a, DENSE), free(b, DENSE))
    np.testing.assert_array_equal(free(a, DENSE), free(a, DENSE))


@pytest.mark.parametrize(("name", "kwargs", "shape"), cases({**CONSTANT, **RANDOM}))
def test_bfloat16_is_float32_rounded(name, kwargs, shape, getkey):
    init, key = getattr(initializers, name)(**kwargs), getkey()
    out = init(key, shape, jnp.bfloat16)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_array_equal(out, init(key, shape).astype(jnp.bfloat16))


@pytest.mark.parametrize(
    ("name", "kwargs", "shape"), cases({n: rows[:1] for n, rows in {**CONSTANT, **RANDOM}.items()})
)
def test_jit(name, kwargs, shape, getkey):
    init, key = getattr(initializers, name)(**kwargs), getkey()
    out = jax.jit(init, static_argnums=(1, 2))(key, shape, jnp.float32)
    np.testing.assert_allclose(out, init(key, shape), rtol=1e-6, atol=1e-6)


def test_constant_array_broadcasts():
    out = initializers.Constant(np.array([1.0, 2.0]))(None, (3, 2), jnp.float32)
    np.testing.assert_array_equal(out, [[1, 2]] * 3)


def test_stft_by_a_loop():
    out = initializers.STFT("imag", "hann", "density")(None, (8, 1, 5), jnp.float32)
    window = [0.5 - 0.5 * math.cos(2 * math.pi * t / 7) for t in range(8)]
    scale = math.sqrt(sum(w * w for w in window))
    expected = [[math.sin(-2 * math.pi * t * f / 8) * window[t] / scale for f in range(5)] for t in range(8)]
    np.testing.assert_allclose(out[:, 0], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["GlorotUniform", "Orthogonal"])
def test_initializers_work_in_linen_modules(name, getkey):
    key = getkey()
    dense = nn.Dense(3, kernel_init=getattr(initializers, name)(seed=1))
    params = dense.init(key, jnp.ones((1, 4)))["params"]
    np.testing.assert_allclose(params["kernel"], keras_values(name, {"seed": 1}, (4, 3)), rtol=1e-6, atol=1e-6)


# --- distributions


@pytest.mark.parametrize(("name", "kwargs", "shape"), cases({n: rows[:2] for n, rows in RANDOM.items()}))
def test_distribution_equals_that_of_keras(name, kwargs, shape, getkey):
    """Compares the largest distance of the two distribution functions with its 0.1 % critical value."""
    tall = (200, *shape[-2:]) if len(shape) > 2 else (300, 200)
    ours = np.sort(np.ravel(getattr(initializers, name)(**kwargs)(getkey(), tall)))
    theirs = np.sort(np.ravel(keras_values(name, {"seed": 12345, **kwargs}, tall)))
    both = np.concatenate([ours, theirs])
    distance = np.abs(np.searchsorted(ours, both, "right") - np.searchsorted(theirs, both, "right")) / ours.size
    assert distance.max() < 1.95 * math.sqrt(2 / ours.size)


@pytest.mark.parametrize(
    ("name", "kwargs", "mean", "stddev", "largest"),
    [
        ("GlorotNormal", {}, 0, math.sqrt(2 / 600), 2 * math.sqrt(2 / 600) / 0.8796),
        ("GlorotUniform", {}, 0, math.sqrt(2 / 600), math.sqrt(6 / 600)),
        ("HeNormal", {}, 0, math.sqrt(2 / 200), 2 * math.sqrt(2 / 200) / 0.8796),
        ("HeUniform", {}, 0, math.sqrt(2 / 200), math.sqrt(6 / 200)),
        ("LecunNormal", {}, 0, math.sqrt(1 / 200), 2 * math.sqrt(1 / 200) / 0.8796),
        ("LecunUniform", {}, 0, math.sqrt(1 / 200), math.sqrt(3 / 200)),
        ("RandomNormal", {"mean": 1.0, "stddev": 0.5}, 1.0, 0.5, math.inf),
        ("RandomUniform", {"minval": 1.0, "maxval": 4.0}, 2.5, 3 / math.sqrt(12), 4.0),
        ("TruncatedNormal", {"mean": 1.0, "stddev": 0.5}, 1.0, 0.8796 * 0.5, 2.0),
        ("VarianceScaling", {"scale": 3.0, "mode": "fan_out"}, 0, math.sqrt(3 / 400), 2 * math.sqrt(3 / 400) / 0.8796),
    ],
)
def test_moments_by_hand(name, kwargs, mean, stddev, largest, getkey):
    """Moments agree within five standard errors, and the largest value is within 1 % of the bound if there is one."""
    out = np.asarray(getattr(initializers, name)(**kwargs)(getkey(), (200, 400)), np.float64)
    assert abs(out.mean() - mean) < 5 * stddev / math.sqrt(out.size)
    assert abs(out.std() / stddev - 1) < 5 / math.sqrt(2 * out.size)
    if math.isfinite(largest):
        assert 0.99 * largest < out.max() <= largest * (1 + 1e-4)


@pytest.mark.parametrize("shape", [(6, 6), (4, 9), (9, 4), (2, 3, 5), (2, 1, 5)])
def test_orthogonal_is_orthogonal(shape, getkey):
    w = np.asarray(initializers.Orthogonal(gain=3.0)(getkey(), shape), np.float64).reshape(-1, shape[-1])
    gram = w @ w.T if w.shape[0] < w.shape[1] else w.T @ w
    np.testing.assert_allclose(gram, 9 * np.eye(len(gram)), rtol=0, atol=2e-5)


def test_orthogonal_is_uniform():
    """Each entry of a uniformly distributed orthogonal 3x3 matrix has mean 0 and variance 1/3."""
    w = jax.vmap(lambda key: initializers.Orthogonal()(key, (3, 3)))(jax.random.split(jax.random.key(0), 3000))
    np.testing.assert_allclose(w.mean(0), np.zeros((3, 3)), rtol=0, atol=5 * math.sqrt(1 / 3 / 3000))
    np.testing.assert_allclose(jnp.square(w).mean(0), np.full((3, 3), 1 / 3), rtol=0, atol=5 * 0.3 / math.sqrt(3000))


@pytest.mark.parametrize(
    ("shape", "axes", "fans"),
    [
        ((), {}, (1, 1)),
        ((5,), {}, (5, 5)),
        ((5, 7), {}, (5, 7)),
        ((3, 5, 7), {}, (15, 21)),
        ((2, 3, 5, 7), {}, (30, 42)),
        ((5, 2, 4), {"input_axes": (0,), "output_axes": (1, 2)}, (5, 8)),
        ((5, 2, 4), {"input_axes": (-1, 1), "output_axes": ()}, (8, 1)),
    ],
)
def test_fans(shape, axes, fans):
    assert initializers.compute_fans(shape, **axes) == fans == keras_compute_fans(shape, **axes)


# --- names and fields


def test_names_equal_those_of_keras():
    assert set(KERAS_NAMES) - ABSTRACT == set(INITIALIZERS)
    assert {cls.__name__ for cls in INITIALIZERS.values()} == set(CONSTANT) | set(RANDOM)
    public = {n for n in dir(keras.initializers) if not n.startswith("_")}
    # Keras' configuration dictionaries are not accepted.
    assert public - {"serialize", "deserialize"} <= set(dir(initializers))


@pytest.mark.parametrize("name", sorted(set(KERAS_NAMES) - ABSTRACT))
def test_each_name_refers_to_keras_function(name):
    ours, theirs = INITIALIZERS[name], KERAS_NAMES[name]
    assert ours.__name__ == theirs.__name__
    assert initializers.get(name) == ours()
    if hasattr(keras.initializers, name):
        assert getattr(initializers, name) is ours
    arguments = [[(p.name, p.default) for p in inspect.signature(c).parameters.values()] for c in (ours, theirs)]
    assert arguments[0] == arguments[1]


@pytest.mark.parametrize(("name", "kwargs", "shape"), cases({**CONSTANT, **RANDOM}))
def test_fields_reproduce_an_equal_object(name, kwargs, shape):
    init = getattr(initializers, name)(**kwargs)
    again = type(init)(**{f.name: getattr(init, f.name) for f in dataclasses.fields(init)})
    assert init == again and hash(init) == hash(again)
    assert init != initializers.Constant(99)
    with pytest.raises(dataclasses.FrozenInstanceError):
        init.gain = 3


def test_equal_values_in_other_types_are_equal():
    assert initializers.GlorotUniform(input_axes=[0], output_axes=[1]) == initializers.GlorotUniform(None, (0,), (1,))
    assert hash(initializers.STFT(window=np.ones(3))) == hash(initializers.STFT(window=[1, 1, 1]))
    assert initializers.RandomNormal(np.float32(0.5), 1, np.int64(3)) == initializers.RandomNormal(0.5, 1.0, 3)
    assert initializers.VarianceScaling(distribution="Normal") == initializers.VarianceScaling()


def test_constant_arrays_compare_by_their_values():
    one, same, other = (initializers.Constant(np.array(v)) for v in ([1.0, 2.0], [1.0, 2.0], [1.0, 3.0]))
    assert one == same and hash(one) == hash(same) and one != other and one != initializers.Constant(1.0)
    mutable = np.zeros(2)
    init = initializers.Constant(mutable)
    mutable[0] = 1
    assert init == initializers.Constant(np.zeros(2))
    with pytest.raises(ValueError, match="read-only"):
        init.value[0] = 1


def test_get():
    assert initializers.get(None) is None
    assert initializers.get(initializers.Ones) == initializers.Ones()
    init = initializers.Constant(3.0)
    assert initializers.get(init) is init
    assert initializers.get(jax.nn.initializers.zeros) is jax.nn.initializers.zeros


KNOWN = ", ".join(repr(n) for n in sorted(INITIALIZERS))
ERRORS = [
    (
        lambda: initializers.get("glorot_unifrom"),
        ValueError,
        f"Unknown initializer 'glorot_unifrom'. Did you mean 'glorot_uniform'? Known: {KNOWN}. "
        "Or pass a function (key, shape, dtype) -> array.",
    ),
    (
        lambda: initializers.get(0.5),
        TypeError,
        "An initializer must be a name, a function or None, got 0.5; "
        'pass a name such as "glorot_uniform", or Constant(values) for an array.',
    ),
    (
        lambda: initializers.Constant("one"),
        ValueError,
        "`value` of Constant must be a number or an array of numbers, got 'one'; pass, for example, 0.5.",
    ),
    (
        lambda: initializers.Constant([1.0, 2.0, 3.0])(None, (3, 2)),
        ValueError,
        "`value` of Constant must broadcast to the weight's shape (3, 2), got shape (3,); "
        "pass a number or an array of that shape.",
    ),
    (
        lambda: initializers.Identity()(None, (2, 3, 4)),
        ValueError,
        "Identity initializes matrices, got shape (2, 3, 4); use it on weights of rank 2.",
    ),
    (
        lambda: initializers.Identity(gain=math.nan),
        ValueError,
        "`gain` of Identity must be a finite number, got nan; pass, for example, 0.5.",
    ),
    (
        lambda: initializers.Orthogonal(gain="2"),
        ValueError,
        "`gain` of Orthogonal must be a finite number, got '2'; pass, for example, 0.5.",
    ),
    (
        lambda: initializers.Orthogonal()(jax.random.key(0), (3,)),
        ValueError,
        "Orthogonal initializes weights of rank 2 or more, got shape (3,); use another initializer.",
    ),
    (
        lambda: initializers.TruncatedNormal(stddev=-0.1),
        ValueError,
        "`stddev` of TruncatedNormal must not be negative, got -0.1; pass 0.1.",
    ),
    (
        lambda: initializers.RandomUniform(1, -1),
        ValueError,
        "`minval`=1.0 of RandomUniform must not exceed `maxval`=-1.0; swap them.",
    ),
    (
        lambda: initializers.RandomNormal(seed=-1),
        ValueError,
        "`seed` of RandomNormal must be an integer from 0 to 2**32 - 1 or None, got -1; pass, for example, 0.",
    ),
    (
        lambda: initializers.HeNormal(seed=1.5),
        ValueError,
        "`seed` of HeNormal must be an integer from 0 to 2**32 - 1 or None, got 1.5; pass, for example, 0.",
    ),
    (
        lambda: initializers.VarianceScaling(scale=0),
        ValueError,
        "`scale` of VarianceScaling must be positive, got 0.0; use, for example, 1.",
    ),
    (
        lambda: initializers.VarianceScaling(mode="fan"),
        ValueError,
        "`mode` of VarianceScaling must be 'fan_in' or 'fan_out' or 'fan_avg', got 'fan'; choose one.",
    ),
    (
        lambda: initializers.VarianceScaling(distribution="cauchy"),
        ValueError,
        "`distribution` of VarianceScaling must be 'truncated_normal' or 'untruncated_normal' or 'uniform', "
        "got 'cauchy'; choose one.",
    ),
    (
        lambda: initializers.GlorotNormal(input_axes=(0,)),
        ValueError,
        "`input_axes` and `output_axes` of GlorotNormal must be given together, got only `input_axes`; "
        "pass both or neither.",
    ),
    (
        lambda: initializers.STFT(side="left"),
        ValueError,
        "`side` of STFT must be 'real' or 'imag', got 'left'; choose one.",
    ),
    (
        lambda: initializers.STFT(scaling="log"),
        ValueError,
        "`scaling` of STFT must be 'density' or 'spectrum' or None, got 'log'; choose one.",
    ),
    (
        lambda: initializers.STFT(window="nan"),
        ValueError,
        "`window` of STFT must be the name of a window that needs no parameter, values or None, "
        "got 'nan'; pass, for example, \"hann\".",
    ),
    (
        lambda: initializers.STFT(window=("kaiser", 8.0)),
        ValueError,
        "`window` of STFT must be the name of a window that needs no parameter, values or None, "
        "got ('kaiser', 8.0); pass, for example, \"hann\".",
    ),
    (
        lambda: initializers.STFT(window=[1.0, 1.0])(None, (3, 1, 3)),
        ValueError,
        "`window` of STFT must have one value per step of the frame (3 values), got shape (2,); pass 3 values or a "
        "name.",
    ),
    (
        lambda: initializers.STFT()(None, (3, 2, 3)),
        ValueError,
        "STFT initializes kernels of shape (frame length, 1, frequencies) with at least 2 frequencies, "
        "got shape (3, 2, 3); choose another initializer or such a shape.",
    ),
    (
        lambda: initializers.RandomNormal()(jax.random.key(0), (3,), jnp.int32),
        ValueError,
        "A random or computed weight must have a floating-point dtype, got int32; pass, for example, float32.",
    ),
]


@pytest.mark.parametrize(("call", "error", "sentence"), ERRORS)
def test_errors(call, error, sentence):
    with pytest.raises(error, match=f"^{re.escape(sentence)}$"):
        call()
