import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxmodels.kernels import native, recurrence
from flaxmodels.kernels.recurrence import Hidden, Inputs, LSTMState
from tests.support.recurrence_oracle import MASKS, STEPS, with_gradients


def project(inputs):
    x = inputs.x if inputs.kernel is None else inputs.x @ inputs.kernel
    return x if inputs.bias is None else x + inputs.bias[None, None]


def lstm_reference(inputs, kernel, state, mask):
    def advance(x, state):
        i, f, g, o = jnp.split(x + state.h @ kernel, 4, axis=-1)
        c = jax.nn.sigmoid(f) * state.c + jax.nn.sigmoid(i) * jnp.tanh(g)
        return LSTMState(jax.nn.sigmoid(o) * jnp.tanh(c), c)

    return recurrence.scan(advance, project(inputs), state, mask)


def gru_reference(inputs, kernel, bias, state, mask):
    def advance(x, state):
        x_z, x_r, x_g = jnp.split(x, 3, axis=-1)
        a, b, d = jnp.split(state.h @ kernel + bias[None], 3, axis=-1)
        z, r = jax.nn.sigmoid(x_z + a), jax.nn.sigmoid(x_r + b)
        return Hidden(z * state.h + (1 - z) * jnp.tanh(x_g + r * d))

    return recurrence.scan(advance, project(inputs), state, mask)


def simple_reference(inputs, kernel, state, mask):
    return recurrence.scan(lambda x, state: Hidden(jnp.tanh(x + state.h @ kernel)), project(inputs), state, mask)


# The recurrence, its reference, the number of gates
KINDS = {
    "LSTM": (recurrence.lstm, lstm_reference, 4),
    "GRU": (recurrence.gru, gru_reference, 3),
    "SimpleRNN": (recurrence.simple_rnn, simple_reference, 1),
}


def draw(kind, seed, dtype):
    rng = np.random.default_rng(seed)
    t, b, u = rng.integers(1, 9), rng.integers(1, 5), rng.integers(1, 6)
    gates = KINDS[kind][2]
    state = LSTMState if kind == "LSTM" else Hidden
    weights = [rng.normal(size=(u, gates * u))] + ([rng.normal(size=gates * u)] if kind == "GRU" else [])
    f = rng.integers(1, 5)
    whole = Inputs(rng.normal(size=(t, b, f)), rng.normal(size=(f, gates * u)), rng.normal(size=gates * u))
    products = rng.normal(size=(t, b, gates * u)) * 2
    inputs = [whole, Inputs(products), whole._replace(bias=None), Inputs(products, None, whole.bias)][seed % 4]
    arrays = [
        inputs,
        *weights,
        state(*[rng.normal(size=(b, u)) for _ in state._fields]),
    ]
    mask = list(MASKS.values())[seed % len(MASKS)](b, t, rng)
    return jax.tree.map(lambda a: jnp.asarray(a, dtype), arrays), None if mask is None else jnp.asarray(mask.T)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float64, 1e-12), (jnp.float32, 2e-5)])
def test_values_and_gradients_equal_the_scan(kind, seed, dtype, tolerance):
    with jax.enable_x64(dtype == jnp.float64):
        function, reference, _ = KINDS[kind]
        arrays, mask = draw(kind, seed, dtype)
        results = [with_gradients(lambda _, a, f=f: f(*a, mask), {}, arrays) for f in (function, reference)]
        for got, want in zip(*map(jax.tree.leaves, results), strict=True):
            assert got.dtype == want.dtype == dtype
            scale = max(1.0, float(jnp.abs(want).max()))
            np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance * scale)


# Steps, batch, features, units: full and partial tiles and vectors, more rows than threads, all sizes 1.
SIZES = [(1, 1, 1, 1), (5, 7, 3, 8), (3, 14, 9, 16), (4, 25, 17, 20), (2, 5, 33, 37)]


@pytest.mark.skipif(not native.available(), reason="needs a C compiler for the kernels")
@pytest.mark.parametrize("kernel_of_inputs", [True, False])
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_kernels_in_c_equal_the_reference_in_float64(kind, sizes, kernel_of_inputs):
    function, reference, gates = KINDS[kind]
    (t, b, f, u), rng = sizes, np.random.default_rng(sum(sizes))
    width, state = gates * u, LSTMState if kind == "LSTM" else Hidden
    inputs = Inputs(rng.normal(size=(t, b, f)), rng.normal(size=(f, width)) / np.sqrt(f), rng.normal(size=width))
    if not kernel_of_inputs:
        inputs = Inputs(rng.normal(size=(t, b, width)))
    weights = [rng.normal(size=(u, width)) / np.sqrt(u)] + [rng.normal(size=width)] * (kind == "GRU")
    arrays = [inputs, *weights, state(*[rng.normal(size=(b, u)) for _ in state._fields])]
    mask = None if t == 4 else jnp.asarray(rng.random((t, b)) < 0.7)
    narrow = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), arrays)
    assert native.prefix() in jax.jit(lambda a: function(*a, mask)).lower(narrow).as_text()
    got = with_gradients(lambda _, a: function(*a, mask), {}, narrow)
    alone = jax.jit(lambda a: function(*a, mask))(narrow)
    with jax.enable_x64(True):
        arrays = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), arrays)
        want = jax.tree.map(np.asarray, with_gradients(lambda _, a: reference(*a, mask), {}, arrays))
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert g.shape == w.shape and g.dtype == jnp.float32
        np.testing.assert_allclose(g, w, rtol=0, atol=2e-6 * max(1.0, abs(w).max()))
    for g, w in zip(jax.tree.leaves(alone), jax.tree.leaves(want[0]), strict=True):
        np.testing.assert_allclose(g, w, rtol=0, atol=1e-6)


@pytest.mark.skipif(not native.available(), reason="needs a C compiler for the kernels")
def test_kernels_in_c_saturate_and_keep_nan_in_its_row():
    x = jnp.asarray([[[3e38], [-3e38], [jnp.nan], [jnp.inf], [-jnp.inf], [1e-6]]], jnp.float32)
    zeros = jnp.zeros((6, 2), jnp.float32)
    hs, _ = recurrence.simple_rnn(Inputs(jnp.repeat(x, 2, axis=2)), jnp.eye(2), Hidden(zeros), None)
    np.testing.assert_array_equal(hs[0, :, 0], np.array([1, -1, np.nan, 1, -1, 1e-6], np.float32))
    hs, last = recurrence.lstm(Inputs(jnp.repeat(x, 8, axis=2)), jnp.zeros((2, 8)), LSTMState(zeros, zeros), None)
    want = [np.tanh(1), 0, np.nan, np.tanh(1), 0, 0.5 * np.tanh(0.5 * 1e-6)]
    np.testing.assert_allclose(hs[0, :, 0], np.array(want, np.float32), rtol=1e-5, atol=1e-12)


@pytest.mark.rotate
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_equal_finite_differences(kind):
    with jax.enable_x64(True):
        function = KINDS[kind][0]
        arrays, mask = draw(kind, 3, jnp.float64)
        leaves, treedef = jax.tree.flatten(arrays)

        def total(leaves):
            hs, last = function(*jax.tree.unflatten(treedef, leaves), mask)
            return jnp.sum(jnp.sin(hs)) + sum(jnp.sum(s**2) for s in last)

        grads, rng = jax.grad(total)(leaves), np.random.default_rng(0)
        for k in range(len(leaves)):
            direction = rng.normal(size=leaves[k].shape)
            ends = [total([*leaves[:k], leaves[k] + e * direction, *leaves[k + 1 :]]) for e in (1e-5, -1e-5)]
            np.testing.assert_allclose((ends[0] - ends[1]) / 2e-5, jnp.sum(grads[k] * direction), rtol=1e-6, atol=1e-8)


@pytest.mark.rotate
@pytest.mark.parametrize("kind", KINDS)
def test_vmap_jit_and_second_derivatives(kind):
    function, reference, _ = KINDS[kind]
    arrays, _ = draw(kind, 0, jnp.float32)
    several = jax.tree.map(lambda a: jnp.stack([a, 2 * a]), arrays)
    got = jax.jit(jax.vmap(lambda *a: function(*a, None)))(*several)
    want = jax.vmap(lambda *a: reference(*a, None))(*several)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)

    def twice(f):
        slope = jax.grad(lambda x: jnp.sum(f(arrays[0]._replace(x=x), *arrays[1:], None)[0] ** 2))
        return jax.grad(lambda x: jnp.sum(slope(x) ** 2))(arrays[0].x)

    np.testing.assert_allclose(twice(function), twice(reference), rtol=1e-3, atol=1e-3)


@pytest.mark.rotate
@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_is_summed_in_float32(kind):
    function, reference, _ = KINDS[kind]
    arrays, mask = draw(kind, 4, jnp.bfloat16)
    exact = jax.tree.map(lambda a: a.astype(jnp.float32), arrays)
    outputs, grads = with_gradients(lambda _, a: function(*a, mask), {}, arrays)
    wanted, wanted_grads = with_gradients(lambda _, a: reference(*a, mask), {}, exact)
    for got, want in zip(jax.tree.leaves((outputs, grads)), jax.tree.leaves((wanted, wanted_grads)), strict=True):
        assert got.dtype == jnp.bfloat16
        scale = float(jnp.abs(want).max())
        np.testing.assert_allclose(got.astype(jnp.float32), want, rtol=0.05, atol=0.05 * scale)


def test_scan_equals_a_loop():
    rng = np.random.default_rng(0)
    xs, state, kernel = rng.normal(size=(4, 2, 3)), rng.normal(size=(2, 3)), rng.normal(size=(3, 3))
    mask = rng.random((4, 2)) < 0.6
    with jax.enable_x64(True):
        for unroll in (False, True):
            hs, last = recurrence.scan(
                lambda x, s: Hidden(jnp.tanh(x + s.h @ kernel)),
                jnp.asarray(xs),
                Hidden(jnp.asarray(state)),
                mask,
                unroll,
            )
            for row in range(2):
                h = (state[row],)
                for t in range(4):
                    if mask[t, row]:
                        _, h = STEPS["SimpleRNN"](xs[t, row], h, np.eye(3), kernel)
                    np.testing.assert_allclose(hs[t, row], h[0], rtol=1e-12)
                np.testing.assert_allclose(last.h[row], h[0], rtol=1e-12)


def test_nan_at_masked_steps_is_ignored():
    for kind, (function, _, _) in KINDS.items():
        arrays, _ = draw(kind, 1, jnp.float32)  # inputs without a kernel, whose gradient would be NaN
        xs = arrays[0].x.at[0].set(jnp.nan)
        mask = (jnp.arange(xs.shape[0]) > 0)[:, None] & jnp.ones(xs.shape[:2], bool)
        grads = jax.grad(lambda a, function=function, mask=mask: jnp.sum(function(*a, mask)[0]))(
            [Inputs(xs), *arrays[1:]]
        )
        assert all(jnp.isfinite(g).all() for g in jax.tree.leaves(grads)), kind
