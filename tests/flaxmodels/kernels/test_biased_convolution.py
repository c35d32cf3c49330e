"""A convolution fused with bias, ReLU and pooling against separate operations in float64: values and derivatives."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxmodels import layers
from flaxmodels.kernels import native
from flaxmodels.kernels.biased_convolution import conv_bias
from flaxmodels.kernels.convolution import reference
from flaxmodels.kernels.pooling import reference_max_pool

# Shapes of x and kernel, strides, padding, dilation, groups: full and partial vectors of features, one panel and several,
# one output position and more than a block of them, small and large kernels, Winograd.
CASES = [
    ((2, 7, 6, 3), (3, 3, 3, 5), (1, 1), "valid", (1, 1), 1),
    ((3, 9, 9, 4), (3, 2, 4, 32), (2, 1), "same", (1, 1), 1),
    ((2, 13, 1), (3, 1, 17), (1,), "causal", (2,), 1),
    ((1, 4, 5, 4, 2), (2, 2, 2, 2, 8), (1, 1, 1), "same", (1, 1, 1), 1),
    ((2, 6, 6, 6), (3, 3, 2, 9), (1, 1), ((1, 0), (0, 2)), (1, 1), 3),
    ((5, 20, 15, 8), (2, 2, 8, 24), (1, 1), "valid", (1, 1), 1),
    ((2, 3, 3, 64), (3, 3, 64, 128), (1, 1), "valid", (1, 1), 1),
    ((9, 9, 10, 32), (3, 3, 32, 48), (1, 1), "same", (1, 1), 1),
    ((9, 9, 10, 32), (3, 3, 32, 40), (1, 1), "same", (1, 1), 1),
]
FORMS = list(itertools.product(CASES, (True, False), (True, False)))


def arrays(x, kernel, dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    shapes = x, kernel, kernel[-1:]
    return [
        rng.normal(size=shape, scale=np.prod(shape[:-1]) ** -0.5 if i == 1 else 1) for i, shape in enumerate(shapes)
    ]


def fused_and_separate(case, relu, pooled=False):
    _, _, strides, padding, dilation, groups = case
    options = {"strides": strides, "padding": padding, "dilation": dilation, "groups": groups}

    def separate(x, kernel, bias):
        y = reference(x, kernel, **options)
        y = y + jnp.expand_dims(bias, range(y.ndim - 1))
        y = jnp.where(y > 0, y, 0) if relu else y
        twos = (2,) * (y.ndim - 2)
        return reference_max_pool(y, twos, twos, "valid") if pooled else y

    return lambda *operands: conv_bias(*operands, **options, relu=relu, pooled=pooled), separate


def in_float64(function, *operands):
    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, function(*jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), operands)))


def single(tree):
    return jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), tree)


def assert_close(got, want):
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert g.dtype == jnp.float32
        np.testing.assert_allclose(g, w, rtol=0, atol=3e-6 * max(1.0, np.abs(w).max()))


@pytest.mark.parametrize("case", [CASES[1], CASES[2], CASES[7]])
def test_values_and_gradients_with_relu_and_pooling(case):
    test_values_and_gradients(case, True, True)


@pytest.mark.parametrize(("case", "relu", "pooled"), FORMS)
def test_values_and_gradients(case, relu, pooled):
    if pooled and case is CASES[6]:
        pytest.skip("has one output along each axis, which cannot be pooled")
    fused, separate = fused_and_separate(case, relu, pooled)
    operands = arrays(*case[:2])
    want = in_float64(separate, *operands)
    d_y = np.random.default_rng(1).normal(size=want.shape)

    def with_gradients(function):
        def run(operands, d_y):
            y, back = jax.vjp(function, *operands)
            return y, back(d_y)

        return run

    got = jax.jit(with_gradients(fused))(single(operands), single(d_y))
    assert_close(got, in_float64(with_gradients(separate), operands, d_y))
    if relu and not pooled:
        assert (got[0] == 0).any() and (got[0] > 0).any()


@pytest.mark.spread
@pytest.mark.parametrize("pooled", [True, False])
@pytest.mark.parametrize("wrt", [(0,), (1,), (2,), (0, 2), (0, 1, 2)])
def test_tangents_and_gradients_of_some_operands(wrt, pooled):
    fused, separate = fused_and_separate(CASES[1], True, pooled)
    operands, tangents = arrays(*CASES[1][:2]), arrays(*CASES[1][:2], seed=1)

    def jvp(function):
        def run(operands, tangents):
            def some(*of):
                return function(*(of[wrt.index(i)] if i in wrt else operands[i] for i in range(3)))

            return jax.jvp(some, [operands[i] for i in wrt], [tangents[i] for i in wrt])

        return run

    assert_close(jvp(fused)(single(operands), single(tangents)), in_float64(jvp(separate), operands, tangents))

    def gradient(function):
        return jax.grad(lambda *of: (function(*of) ** 2).sum(), argnums=wrt)

    assert_close(gradient(fused)(*single(operands)), in_float64(gradient(separate), *operands))


@pytest.mark.rotate
@pytest.mark.parametrize(("relu", "pooled"), [(True, False), (False, False), (True, True)])
def test_second_derivatives(relu, pooled):
    fused, separate = fused_and_separate(CASES[0], relu, pooled)
    operands, tangents = arrays(*CASES[0][:2]), arrays(*CASES[0][:2], seed=1)

    def product(outer):
        # The Hessian-vector product of a sum of cubes, by forward over reverse and by reverse over reverse mode.
        def run(function):
            gradient = jax.grad(lambda of: (function(*of) ** 3).sum())
            if outer == "jvp":
                return lambda of, tangents: jax.jvp(gradient, (of,), (tangents,))[1]

            def along(of, tangents):
                return sum(jnp.vdot(a, b) for a, b in zip(gradient(of), tangents, strict=True))

            return jax.grad(along)

        return run

    for outer in ("jvp", "grad"):
        run = product(outer)
        assert_close(run(fused)(single(operands), single(tangents)), in_float64(run(separate), operands, tangents))


@pytest.mark.parametrize(
    ("axes", "pooled"), [((0, None, None), False), ((0, 0, 0), False), ((None, 0, None), False), ((0, 0, None), True)]
)
def test_vmap(axes, pooled):
    fused, _ = fused_and_separate(CASES[0], True, pooled)
    operands = single(arrays(*CASES[0][:2]))
    several = [a if axis is None else jnp.stack([a, a + 1]) for a, axis in zip(operands, axes, strict=True)]

    def gradients(*of):
        return jax.grad(lambda *of: (fused(*of) ** 2).sum(), argnums=(0, 1, 2))(*of)

    for function in (fused, gradients):
        got = jax.vmap(function, in_axes=axes)(*several)
        one = [function(*(a if axis is None else a[i] for a, axis in zip(several, axes, strict=True))) for i in (0, 1)]
        jax.tree.map(lambda g, *w: np.testing.assert_allclose(g, jnp.stack(w), rtol=1e-5, atol=1e-5), got, *one)


def test_relu_blocks_the_gradient_at_zero_and_keeps_nan():
    x, kernel, bias = jnp.array([0.0, 2, -3, jnp.nan]).reshape(4, 1, 1), jnp.ones((1, 1, 1)), jnp.zeros(1)

    def run(x, bias):
        return conv_bias(x, kernel, bias, strides=(1,), padding="valid", dilation=(1,), relu=True)

    y, back = jax.vjp(run, x, bias)
    np.testing.assert_array_equal(y.ravel(), [0, 2, 0, np.nan])
    d_x, d_bias = back(jnp.ones_like(y))
    assert d_x.ravel().tolist() == [0, 1, 0, 0] and d_bias.tolist() == [1]


def test_half_precision_and_empty_batch():
    def run(*of):
        return conv_bias(*of, strides=(1,), padding="valid", dilation=(1,), relu=True)

    for dtype in (jnp.float16, jnp.bfloat16):
        y = run(jnp.ones((1, 2, 1), dtype), jnp.ones((1, 1, 1), dtype), jnp.ones(1, dtype))
        assert y.dtype == dtype and y.ravel().tolist() == [2, 2]
    assert run(jnp.ones((0, 2, 1)), jnp.ones((1, 1, 1)), jnp.ones(1)).shape == (0, 2, 1)


@pytest.mark.skipif(not native.available(), reason="needs a C compiler for the kernels")
@pytest.mark.parametrize("name", ["relu", None])
def test_a_layer_fuses_bias_and_relu(name):
    layer = layers.Conv2D(4, 3, activation=name)
    x = jnp.ones((1, 5, 5, 2))
    text = str(jax.make_jaxpr(layer.apply)(layer.init(jax.random.key(0), x), x))
    assert text.count("conv_bias") == 1 and f"relu={name == 'relu'}" in text and "add" not in text and "max" not in text


@pytest.mark.parametrize("pooled", [True, False])
@pytest.mark.parametrize("platform", ["cpu", "cuda"])
def test_only_programs_for_a_cpu_contain_the_kernels(platform, pooled):
    fused, _ = fused_and_separate(CASES[0], True, pooled)
    gradients = jax.jit(jax.grad(lambda *of: fused(*of).sum(), argnums=(0, 1, 2)))
    lowered = gradients.trace(*single(arrays(*CASES[0][:2]))).lower(lowering_platforms=(platform,)).as_text()
    kernels = native.available() and platform == "cpu"
    assert ("flaxmodels_" in lowered) == kernels and ("stablehlo.convolution" in lowered) == (not kernels)


@pytest.mark.skipif(not native.available(), reason="needs a C compiler for the kernels")
def test_an_eager_call_is_compiled_once():
    fused, _ = fused_and_separate(CASES[0], True)
    operands = single(arrays(*CASES[0][:2]))

    def values_and_gradients():
        return fused(*operands), jax.grad(lambda *of: fused(*of).sum(), argnums=(0, 1, 2))(*operands)

    values_and_gradients()
    compiled = []
    listen = lambda name, seconds, **_: compiled.append(name) if "backend_compile" in name else None  # noqa: E731
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        values_and_gradients()
        assert compiled == []
        jax.jit(lambda x: x + 1)(operands[0])  # a new program, so a compilation is recorded
        assert compiled
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
