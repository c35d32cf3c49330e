"""Convolutions against loops, XLA and Keras: values, gradients, transformations, and the chosen implementation."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxmodels.kernels import convolution, native, pooling
from tests.support.spatial_oracle import loop_conv, loop_depthwise, loop_transpose

UNIT = {"strides": (1, 1), "padding": "valid", "dilation": (1, 1)}


@pytest.fixture(params=[64, 4 << 20], ids=["one_example_per_block", "one_block"])
def block_bytes(request, monkeypatch):
    monkeypatch.setattr(convolution, "BLOCK_BYTES", request.param)
    return request.param


@pytest.fixture
def no_kernels(monkeypatch):
    """Simulates a machine without a C compiler."""
    monkeypatch.setattr(native, "available", lambda: False)


needs_kernels = pytest.mark.skipif(not native.available(), reason="needs a C compiler for the kernels")


def normal(rng, *shape):
    return jnp.asarray(rng.standard_normal(shape))


def with_gradients(op, x, kernel, seed=0, **options):
    """Returns the outputs, and the gradients of a random weighted sum of them with respect to x and the kernel."""

    @jax.jit
    def all_three(x, kernel):
        y, vjp = jax.vjp(lambda x, kernel: op(x, kernel, **options), x, kernel)
        weights = np.random.default_rng(seed).standard_normal(y.shape)
        return y, *vjp(jnp.asarray(weights, y.dtype))

    return all_three(x, kernel)


def assert_same(got, want, tolerance=1e-10):
    for g, w in zip(got, want, strict=True):
        assert g.shape == w.shape and g.dtype == w.dtype
        np.testing.assert_allclose(g, w, rtol=tolerance, atol=tolerance)


def random_geometry(rng, axes, paddings):
    """Draws sizes; kernels may be larger than the inputs if padding allows it."""
    while True:
        geometry = {
            "strides": tuple(rng.integers(1, 4, axes).tolist()),
            "padding": rng.choice(paddings).item(),
            "dilation": tuple(rng.integers(1, 3, axes).tolist()),
        }
        sizes, window = rng.integers(2, 8, axes).tolist(), rng.integers(1, 5, axes).tolist()
        fits = all((k - 1) * d < n for n, k, d in zip(sizes, window, geometry["dilation"], strict=True))
        if geometry["padding"] != "valid" or fits:
            return sizes, window, geometry


@pytest.mark.parametrize("seed", range(10))
def test_conv_equals_the_loop_and_its_gradients_equal_xla(seed, block_bytes):
    rng = np.random.default_rng(seed)
    axes, groups = 1 + seed % 3, 1 + seed % 2
    sizes, window, geometry = random_geometry(rng, axes, ["valid", "same"] + ["causal"] * (axes == 1))
    with jax.enable_x64(True):
        x, kernel = normal(rng, 3, *sizes, 2 * groups), normal(rng, *window, 2, 3 * groups)
        got = with_gradients(convolution.conv, x, kernel, groups=groups, **geometry)
        want = with_gradients(convolution.reference, x, kernel, groups=groups, **geometry)
        loop = loop_conv(x, kernel, geometry["strides"], geometry["dilation"], geometry["padding"], groups)
        assert_same(got, want)
        assert_same(got[:1], [jnp.asarray(loop)])


@pytest.mark.parametrize("seed", range(4))
def test_depthwise_conv_equals_the_loop_and_its_gradients_equal_xla(seed, block_bytes):
    rng = np.random.default_rng(seed)
    sizes, window, geometry = random_geometry(rng, 1 + seed % 2, ["valid", "same"])
    with jax.enable_x64(True):
        x, kernel = normal(rng, 3, *sizes, 3), normal(rng, *window, 3, 1 + seed % 2)
        got = with_gradients(convolution.depthwise_conv, x, kernel, **geometry)
        assert_same(got, with_gradients(convolution.reference_depthwise, x, kernel, **geometry))
        loop = loop_depthwise(x, kernel, geometry["strides"], geometry["dilation"], geometry["padding"])
        assert_same(got[:1], [jnp.asarray(loop)])


@needs_kernels
def test_a_huge_depthwise_window_reaches_over_the_edge():
    rng = np.random.default_rng(0)
    x, kernel = rng.standard_normal((1, 66, 3, 8)), rng.standard_normal((1400, 3, 8, 1))
    got = convolution.depthwise_conv(*map(jnp.float32, (x, kernel)), strides=(64, 1), padding="same", dilation=(1, 1))
    assert_same([got], [jnp.float32(loop_depthwise(x, kernel, (64, 1), (1, 1), "same"))], 1e-4)


@pytest.mark.parametrize("seed", range(6))
def test_conv_transpose_equals_the_loop_and_its_gradients_equal_xla(seed, block_bytes):
    rng = np.random.default_rng(seed)
    sizes, window, geometry = random_geometry(rng, 1 + seed % 3, ["valid", "same"])
    with jax.enable_x64(True):
        x, kernel = normal(rng, 3, *sizes, 2), normal(rng, *window, 3, 2)
        geometry["output_padding"] = None
        got = with_gradients(convolution.conv_transpose, x, kernel, **geometry)
        assert_same(got, with_gradients(convolution.reference_transpose, x, kernel, **geometry))
        loop = loop_transpose(x, kernel, geometry["strides"], geometry["dilation"], geometry["padding"])
        assert_same(got[:1], [jnp.asarray(loop)])


@pytest.mark.parametrize("seed", range(8))
def test_conv_transpose_with_output_padding_equals_keras(seed):
    import keras

    rng = np.random.default_rng(seed)
    taps, stride, dilation = (rng.integers(1, high, 2).tolist() for high in (5, 4, 3))
    extra = tuple(int(rng.integers(0, s)) for s in stride)
    padding = ("valid", "same")[seed % 2]
    x = jnp.asarray(rng.standard_normal((2, 4, 5, 2)), jnp.float32)
    kernel = jnp.asarray(rng.standard_normal((*taps, 3, 2)), jnp.float32)
    options = {"strides": tuple(stride), "padding": padding, "output_padding": extra}
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        want = keras.ops.conv_transpose(x, kernel, dilation_rate=tuple(dilation), **options)
    for op in (convolution.conv_transpose, convolution.reference_transpose):
        assert_same([op(x, kernel, dilation=tuple(dilation), **options)], [want], tolerance=1e-5)


# --- the kernels in C, in float32


@needs_kernels
@pytest.mark.parametrize("seed", range(12))
def test_kernels_equal_the_reference_in_float64(seed):
    rng = np.random.default_rng(seed)
    axes = 1 + seed % 3
    sizes, window, geometry = random_geometry(rng, axes, ["valid", "same"] + ["causal"] * (axes == 1))
    # Full and partial tiles of rows and columns; batches of fewer and more examples than threads.
    batch, channels, features = (int(rng.integers(1, high)) for high in (40, 20, 40))
    x, kernel = (rng.standard_normal(s) for s in ((batch, *sizes, channels), (*window, channels, features)))
    compare_with_float64(convolution.conv, convolution.reference, x, kernel, **geometry)
    groups = 2 + seed % 3
    grouped = rng.standard_normal((batch, *sizes, 3 * groups)), rng.standard_normal((*window, 3, 5 * groups))
    compare_with_float64(convolution.conv, convolution.reference, *grouped, **geometry, groups=groups)
    each = x, rng.standard_normal((*window, channels, 1 + seed % 3))
    compare_with_float64(convolution.depthwise_conv, convolution.reference_depthwise, *each, **geometry)
    if geometry["padding"] != "causal":
        spread = np.swapaxes(kernel, -1, -2)
        geometry["output_padding"] = None
        compare_with_float64(convolution.conv_transpose, convolution.reference_transpose, x, spread, **geometry)


@needs_kernels
def test_a_kernel_gradient_too_large_for_a_copy_per_thread():
    rng = np.random.default_rng(0)
    x, kernel = rng.standard_normal((3, 4, 5, 180)), rng.standard_normal((3, 3, 90, 100))
    assert kernel.size > 1 << 16  # LARGE_KERNEL in convolution.c
    compare_with_float64(convolution.conv, convolution.reference, x, kernel, **UNIT, groups=2)


# Images, channels and features for winograd.c: odd and even sizes, full and partial panels, small and large kernels.
WINOGRAD = [
    ((20, 8, 8), 32, 32), ((7, 13, 16), 40, 72), ((8, 11, 11), 144, 32), ((1, 30, 26), 32, 256), ((4, 14, 15), 128, 136),
    ((7, 13, 16), 48, 80), ((8, 11, 11), 136, 32),
]  # fmt: skip


@pytest.mark.rotate
@needs_kernels
@pytest.mark.parametrize(("images", "channels", "features"), WINOGRAD)
def test_winograd_equals_the_reference_in_float64(images, channels, features):
    rng = np.random.default_rng(0)
    x, kernel = rng.standard_normal((*images, channels)), rng.standard_normal((3, 3, channels, features))
    compare_with_float64(convolution.conv, convolution.reference, x, kernel, **UNIT)
    compare_with_float64(convolution.conv, convolution.reference, x, kernel, **UNIT | {"padding": "same"})


@needs_kernels
def test_winograd_is_deterministic_and_keeps_values_that_are_not_finite():
    rng = np.random.default_rng(0)
    x, kernel = normal(rng, 20, 8, 8, 32).astype(jnp.float32), normal(rng, 3, 3, 32, 40).astype(jnp.float32)
    assert_deterministic(x, kernel, times=5)
    y = convolution.conv(x.at[3, 3, 3].set(jnp.inf), kernel, **UNIT)
    finite = jnp.isfinite(y).all(-1)
    assert not finite[3, 1:4, 1:4].any() and finite.sum() == finite.size - 9
    assert jnp.isnan(y).any()  # Winograd subtracts infinities; plain sums would be infinite


def assert_deterministic(x, kernel, times):
    first = with_gradients(convolution.conv, x, kernel, **UNIT)
    for _ in range(times):
        for g, w in zip(with_gradients(convolution.conv, x, kernel, **UNIT), first, strict=True):
            np.testing.assert_array_equal(g, w)


def compare_with_float64(op, reference, x, kernel, **options):
    """Compares the kernel in C with the reference in float64, and checks that the kernel was called."""
    narrow = [jnp.asarray(a, jnp.float32) for a in (x, kernel)]
    got = with_gradients(op, *narrow, **options)
    assert native.prefix() in jax.jit(lambda *a: op(*a, **options)).lower(*narrow).as_text()
    with jax.enable_x64(True):
        want = [np.asarray(w) for w in with_gradients(reference, jnp.asarray(x), jnp.asarray(kernel), **options)]
    for g, w in zip(got, want, strict=True):
        assert g.shape == w.shape and g.dtype == jnp.float32
        np.testing.assert_allclose(g, w, rtol=0, atol=2e-6 * max(1.0, abs(w).max()))


@needs_kernels
def test_kernels_are_deterministic():
    """Threads sum their parts in a fixed order, whichever finishes first."""
    rng = np.random.default_rng(0)
    x, kernel = normal(rng, 33, 9, 9, 5).astype(jnp.float32), normal(rng, 3, 3, 5, 7).astype(jnp.float32)
    assert_deterministic(x, kernel, times=20)


@needs_kernels
def test_derivatives_and_batches_of_depthwise_kernels():
    rng = np.random.default_rng(1)
    x, kernel = normal(rng, 2, 6, 5, 9).astype(jnp.float32), normal(rng, 3, 2, 9, 2).astype(jnp.float32)

    def derivatives(op):
        gradient = jax.grad(lambda of: (op(*of, **UNIT) ** 3).sum())
        hessian = jax.jvp(gradient, ((x, kernel),), ((x + 1, kernel - 1),))[1]
        inputs, kernels = jnp.stack([x, -x]), jnp.stack([kernel, kernel + 1])
        mapped = [
            jax.vmap(lambda *of: gradient(of), axes)(*several)
            for axes, several in (((0, None), (inputs, kernel)), ((None, 0), (x, kernels)), ((0, 0), (inputs, kernels)))
        ]
        return jax.tree.leaves((hessian, mapped))

    got, want = derivatives(convolution.depthwise_conv), derivatives(convolution.reference_depthwise)
    for g, w in zip(got, want, strict=True):
        np.testing.assert_allclose(g, w, rtol=0, atol=2e-6 * abs(w).max())


@needs_kernels
def test_kernels_propagate_values_that_are_not_finite():
    x = jnp.ones((1, 4, 4, 1)).at[0, 3, 3, 0].set(jnp.nan).at[0, 0, 0, 0].set(jnp.inf)
    y = convolution.conv(x, jnp.ones((2, 2, 1, 17)), **UNIT)
    assert jnp.isnan(y[0, 2, 2]).all() and jnp.isinf(y[0, 0, 0]).all() and (y[0, 1, 1] == 4).all()


def test_gradients_equal_those_of_the_loop():
    """y is linear in x and in the kernel, so its derivatives are the loop's outputs for unit vectors."""
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        x, kernel = normal(rng, 2, 3, 4, 2), normal(rng, 2, 3, 2, 2)
        options = {"strides": (2, 1), "padding": "same", "dilation": (1, 1)}
        _, dx, dkernel = with_gradients(convolution.conv, x, kernel, **options)
        loop = lambda x, kernel: loop_conv(x, kernel, (2, 1), (1, 1), "same")  # noqa: E731
        weights = np.random.default_rng(0).standard_normal(loop(x, kernel).shape)
        ones = lambda like: np.eye(like.size).reshape(-1, *like.shape)  # noqa: E731
        want = [(weights * loop(one, kernel)).sum() for one in ones(x)]
        np.testing.assert_allclose(dx.ravel(), want, rtol=1e-12, atol=1e-12)
        want = [(weights * loop(x, one)).sum() for one in ones(kernel)]
        np.testing.assert_allclose(dkernel.ravel(), want, rtol=1e-12, atol=1e-12)


def test_small_examples_match_hand_computed_values():
    x, kernel = jnp.arange(1.0, 6.0).reshape(1, 5, 1), jnp.asarray([1.0, 10.0]).reshape(2, 1, 1)
    one = {"strides": (1,), "dilation": (1,)}
    outputs = {p: convolution.conv(x, kernel, padding=p, **one).ravel().tolist() for p in ("valid", "same", "causal")}
    assert outputs == {"valid": [21, 32, 43, 54], "same": [21, 32, 43, 54, 5], "causal": [10, 21, 32, 43, 54]}
    spread = convolution.conv_transpose(
        x[:, :2], kernel, strides=(3,), padding="valid", output_padding=None, dilation=(1,)
    )
    assert spread.ravel().tolist() == [1, 10, 0, 2, 20, 0]


def test_padding_pairs_may_differ_and_crop():
    rng = np.random.default_rng(0)
    x, kernel = normal(rng, 2, 6, 7, 2), normal(rng, 3, 3, 2, 3)
    pads = ((2, 1), (-1, 3))
    got = convolution.conv(x, kernel, strides=(1, 2), padding=pads, dilation=(1, 1))
    whole = np.pad(x, ((0, 0), (2, 1), (0, 3), (0, 0)))[:, :, 1:]
    np.testing.assert_allclose(got, loop_conv(whole, kernel, (1, 2), (1, 1), "valid"), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("window", [(6, 7), (1, 30)])
def test_im2col_of_large_windows(window):
    rng = np.random.default_rng(0)
    options = {"strides": (2, 1), "padding": "same", "dilation": (1, 2)}
    with jax.enable_x64(True):
        x, kernel = normal(rng, 2, 9, 8, 2), normal(rng, *window, 2, 3)
        got = with_gradients(convolution.conv, x, kernel, **options)
        assert_same(got, with_gradients(convolution.reference, x, kernel, **options))


# --- transformations


def test_vmap_over_inputs_and_kernels():
    rng = np.random.default_rng(0)
    x, kernel = normal(rng, 3, 4, 5, 5, 2), normal(rng, 3, 3, 3, 2, 2)
    for axes in ((0, 0), (0, None), (None, 0)):
        a, b = (v if axis == 0 else v[0] for v, axis in zip((x, kernel), axes, strict=True))
        got = jax.vmap(lambda x, kernel: with_gradients(convolution.conv, x, kernel, **UNIT), axes)(a, b)
        for i in range(3):
            one = with_gradients(
                convolution.reference, x[i if axes[0] == 0 else 0], kernel[i if axes[1] == 0 else 0], **UNIT
            )
            assert_same([g[i] for g in got], one, tolerance=1e-4)


@pytest.mark.parametrize("x64", [True, False])
def test_forward_mode_and_second_derivatives(block_bytes, x64):
    rng = np.random.default_rng(0)
    with jax.enable_x64(x64):
        at = normal(rng, 2, 4, 4, 2), normal(rng, 3, 3, 2, 2)
        along = normal(rng, 2, 4, 4, 2), normal(rng, 3, 3, 2, 2)

        def twice(op):
            gradient = jax.grad(lambda at: jnp.sum(op(*at, **UNIT) ** 3))
            return jax.jit(lambda at, along: jax.jvp(gradient, (at,), (along,)))(at, along)

        got, want = twice(convolution.conv), twice(convolution.reference)
        scale = max(abs(np.asarray(w)).max() for w in jax.tree.leaves(want))
        assert_same(jax.tree.leaves(got), jax.tree.leaves(want), tolerance=1e-9 if x64 else 1e-6 * scale)


def test_eager_calls_and_eval_shape():
    rng = np.random.default_rng(0)
    x, kernel = normal(rng, 2, 5, 5, 3), normal(rng, 3, 3, 3, 4)
    eager = convolution.conv(x, kernel, **UNIT)
    assert_same([eager], with_gradients(convolution.conv, x, kernel, **UNIT)[:1], tolerance=1e-6)
    shape = jax.eval_shape(lambda x: convolution.conv(x, kernel, **UNIT), jax.ShapeDtypeStruct(x.shape, x.dtype))
    assert shape.shape == eager.shape and shape.dtype == eager.dtype


@needs_kernels
def test_kernels_can_be_called_outside_of_jit():
    geometry = native.Geometry((5,), (2,), (1,), (1,))
    x, kernel = jnp.arange(1.0, 6.0).reshape(1, 5, 1), jnp.asarray([1.0, 10.0]).reshape(2, 1, 1)
    assert convolution.conv_p.bind(x, kernel, geometry=geometry).ravel().tolist() == [21, 32, 43, 54]


def test_empty_batches_and_empty_outputs():
    kernel = jnp.ones((3, 3, 2, 4))
    for shape, outputs in (((0, 5, 5, 2), (0, 3, 3, 4)), ((2, 2, 5, 2), (2, 0, 3, 4))):
        y, dx, dkernel = with_gradients(convolution.conv, jnp.ones(shape), kernel, **UNIT)
        assert y.shape == outputs and dx.shape == shape
        assert not dx.any() and not dkernel.any() and dkernel.shape == kernel.shape


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_rounds_once(dtype, block_bytes):
    rng = np.random.default_rng(0)
    x, kernel = normal(rng, 5, 6, 6, 8).astype(dtype), normal(rng, 3, 3, 8, 4).astype(dtype)
    got = with_gradients(convolution.conv, x, kernel, **UNIT)
    want = with_gradients(convolution.reference, x.astype(jnp.float32), kernel.astype(jnp.float32), **UNIT)
    for g, w in zip(got, want, strict=True):
        assert g.dtype == dtype
        # The cotangents are rounded too, so the errors are relative to the largest gradient.
        rounding = float(jnp.finfo(dtype).eps) * float(abs(w).max())
        np.testing.assert_allclose(g.astype(jnp.float32), w, rtol=0, atol=rounding)


# --- the chosen implementation


def scanned_step(kernels, x):
    """Trains convolutions of each kind and a pooling for three steps."""

    def loss(kernels, x):
        x = jax.nn.relu(convolution.conv(x, kernels[0], **UNIT))
        x = pooling.max_pool(x, (2, 2), (2, 2), "valid")
        x = jax.nn.relu(convolution.conv(x, kernels[1], strides=(2, 1), padding="same", dilation=(1, 1), groups=2))
        x = convolution.depthwise_conv(x, kernels[2], **UNIT | {"padding": "same"})
        x = convolution.conv_transpose(
            x, kernels[3], strides=(2, 2), padding="same", output_padding=None, dilation=(1, 1)
        )
        return jnp.mean(x**2)

    def step(kernels, _):
        return jax.tree.map(lambda k, g: k - 0.1 * g, kernels, jax.grad(loss)(kernels, x)), None

    return jax.lax.scan(step, kernels, None, length=3)[0]


@pytest.mark.parametrize("kernels_in_c", [pytest.param(True, marks=needs_kernels), False])
def test_a_training_loop_contains_xla_convolutions_on_a_gpu_but_not_on_a_cpu(kernels_in_c, monkeypatch):
    if not kernels_in_c:
        monkeypatch.setattr(native, "available", lambda: False)
    kernels = [jnp.ones(shape) for shape in ((3, 3, 1, 4), (3, 3, 2, 4), (3, 3, 4, 1), (3, 3, 2, 4))]
    # A new function, so that it is traced again.
    traced = jax.jit(lambda *a: scanned_step(*a)).trace(kernels, jnp.ones((8, 10, 10, 1)))
    on_cpu = traced.lower(lowering_platforms=("cpu",))
    assert "convolution" not in on_cpu.as_text()
    assert (f"{native.prefix()}_conv_backward_input" if kernels_in_c else "dot_general") in on_cpu.as_text()
    assert not re.search(r" (convolution|select-and-scatter)\(", on_cpu.compile().as_text())
    on_gpu = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert "stablehlo.convolution" in on_gpu and "select_and_scatter" not in on_gpu


def test_xla_computes_a_window_of_too_many_taps(no_kernels):
    x, kernel = jnp.ones((1, 200, 1)), jnp.ones((convolution.MAX_WINDOW + 1, 1, 1))
    one = {"strides": (1,), "padding": "valid", "dilation": (1,)}
    assert "convolution" in jax.jit(lambda x: convolution.conv(x, kernel, **one)).lower(x).as_text()
    assert "convolution" not in jax.jit(lambda x: convolution.conv(x, kernel[1:], **one)).lower(x).as_text()


def test_a_differentiated_scan_stacks_no_patches(block_bytes):
    kernel = jnp.ones((3, 3, 2, 2))
    same_size = UNIT | {"padding": "same"}

    def total(x):
        return jax.lax.scan(lambda h, _: (convolution.conv(h, kernel, **same_size), None), x, None, length=5)[0].sum()

    x = jnp.ones((4, 6, 6, 2))
    scans = [e for e in jax.make_jaxpr(jax.grad(total))(x).eqns if e.primitive.name == "scan"]
    assert len(scans) == 2
    assert max(out.aval.size for scan in scans for out in scan.outvars) <= 5 * x.size


# --- padding


def test_padding_by_name():
    pairs = lambda *geometry: convolution.padding_pairs((28, 5), *geometry)  # noqa: E731
    assert pairs((3, 3), (1, 1), "valid", (1, 1)) == ((0, 0), (0, 0))
    assert pairs((3, 4), (1, 1), "same", (1, 1)) == ((1, 1), (1, 2))
    assert pairs((3, 3), (2, 2), "same", (1, 1)) == ((0, 1), (1, 1))
    assert pairs((2, 9), (5, 1), "same", (1, 2)) == ((0, 0), (8, 8))
    assert pairs((3, 2), (1, 1), "causal", (2, 1)) == ((4, 0), (1, 0))


def test_unknown_padding():
    x, kernel = jnp.ones((1, 5, 5, 1)), jnp.ones((3, 3, 1, 1))
    message = (
        "Unknown padding 'sam'. Did you mean 'same'? Known: 'causal', 'same', 'valid'. "
        "Or pass a pair (before, after) per spatial axis."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        convolution.conv(x, kernel, **UNIT | {"padding": "sam"})
    message = "Unknown padding 'causal'. Known: 'same', 'valid'."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        convolution.conv_transpose(x, kernel, **UNIT | {"padding": "causal"}, output_padding=None)
