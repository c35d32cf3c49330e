"""Recurrences on a GPU: in Pallas' interpreter and with a stand-in for cuDNN on any machine, and on a GPU if
present."""

import re
import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import rnn

from flaxmodels import Sequential, layers
from flaxmodels.kernels import recurrence
from flaxmodels.kernels.recurrence import Hidden, Inputs, LSTMState, cudnn, dispatch, tiling, use_implementation, verify
from flaxmodels.kernels.recurrence.dispatch import choose_on_gpu
from flaxmodels.kernels.recurrence.gradients import differentiable
from flaxmodels.kernels.recurrence.recurrences import GRU, LSTM, SIMPLE_RNN
from flaxmodels.kernels.recurrence.tiling import Tiles
from tests.support.recurrence_oracle import MASKS, loop, with_gradients

KINDS = {"LSTM": (recurrence.lstm, 4), "GRU": (recurrence.gru, 3)}


def draw(kind, sizes, dtype, rng, masks=tuple(list(MASKS)[1:])):
    """Draws the arrays of a recurrence, and a mask with a row of each kind, or None."""
    t, b, f, u = sizes
    width = KINDS[kind][1] * u
    weights = [rng.normal(size=(u, width)) / np.sqrt(u)] + [rng.normal(size=width)] * (kind == "GRU")
    inputs = Inputs(rng.normal(size=(t, b, f)), rng.normal(size=(f, width)) / np.sqrt(f), rng.normal(size=width))
    state = (LSTMState if kind == "LSTM" else Hidden)(*[rng.normal(size=(b, u)) for _ in range(1 + (kind == "LSTM"))])
    arrays = jax.tree.map(lambda a: jnp.asarray(a, dtype), [inputs, *weights, state])
    if not masks:
        return arrays, None
    rows = [MASKS[name](b, t, rng)[row] for row, name in zip(range(b), list(masks) * b, strict=False)]
    rows[-1] = np.zeros(t, bool)
    return arrays, jnp.asarray(np.stack(rows).T)


def run_loop(kind, arrays, mask):
    """Returns outputs and last states of a loop in NumPy."""
    inputs, kernel, *bias, state = jax.tree.map(np.asarray, arrays)
    biases = np.stack([inputs.bias, bias[0]]) if bias else inputs.bias
    x, mask = inputs.x.swapaxes(0, 1), None if mask is None else np.asarray(mask).T
    outputs, last = loop(kind, x, mask, list(state), (inputs.kernel, kernel, biases))
    return [outputs.swapaxes(0, 1), *last]


def run(kind, arrays, mask, name):
    """Returns outputs and gradients of one implementation of a recurrence."""
    with use_implementation(name):
        return with_gradients(lambda _, a: KINDS[kind][0](*a, mask), {}, arrays)


def second_derivatives(kind, arrays, name):
    """Returns second derivatives with respect to the inputs."""

    def slope(x):
        inputs = [arrays[0]._replace(x=x), *arrays[1:]]
        return jnp.sum(jax.grad(lambda a: jnp.sum(KINDS[kind][0](*a, None)[0] ** 2))(inputs)[0].x ** 2)

    with use_implementation(name):
        return jax.jit(jax.grad(slope))(arrays[0].x)


def assert_close(got, want, bound):
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert g.shape == w.shape
        g, w = np.asarray(g, np.float64), np.asarray(w, np.float64)
        np.testing.assert_allclose(g, w, rtol=0, atol=bound * max(1.0, abs(w).max()))


# --- without a GPU


@pytest.fixture
def interpreted(monkeypatch):
    """Runs the fused kernels in the interpreter, with tiles so small that there are several along each axis."""
    monkeypatch.setattr(tiling, "interpreted", True)
    monkeypatch.setattr(tiling, "tiles_for", lambda units, dtype: Tiles(rows=4, units=4, depth=2))
    monkeypatch.setattr(dispatch, "platform_passes", lambda implementations, *_: {"cpu": implementations.fused})


SIZES = (4, 6, 3, 7)


ALL = ("right", "left", "holes", "row", "full")
# More than six cases, so `make test` runs only one of them.
EACH = [ALL, (), *[(name,) for name in ALL]]


def check_fused(kind, masks, request):
    with jax.enable_x64(True):
        arrays, mask = draw(kind, SIZES, jnp.float64, np.random.default_rng(len(masks)), masks)
        want = run(kind, arrays, mask, "scan")
        request.getfixturevalue("interpreted")
        got = run(kind, arrays, mask, "auto")
        assert_close(got, want, 1e-13)
        assert_close(got[0], run_loop(kind, arrays, mask), 1e-13)


@pytest.mark.parametrize("masks", EACH)
def test_fused_lstm_equals_the_loop_and_its_gradients_equal_the_scan(masks, request):
    check_fused("LSTM", masks, request)


@pytest.mark.parametrize("masks", EACH)
def test_fused_gru_equals_the_loop_and_its_gradients_equal_the_scan(masks, request):
    check_fused("GRU", masks, request)


def test_fused_kernel_rounds_bfloat16_where_the_scan_does(request):
    kind = "LSTM"
    arrays, mask = draw(kind, SIZES, jnp.bfloat16, np.random.default_rng(0))
    want = run(kind, arrays, mask, "scan")
    request.getfixturevalue("interpreted")
    got = run(kind, arrays, mask, "auto")
    assert all(g.dtype == jnp.bfloat16 for g in jax.tree.leaves(got))
    assert_close(got, want, 0.01)


def test_fused_kernel_under_vmap(request):
    kind = "GRU"
    arrays, mask = draw(kind, (3, 2, 2, 3), jnp.float32, np.random.default_rng(1))
    several = jax.tree.map(lambda a: jnp.stack([a, 0.5 * a]), arrays)

    def slopes(arrays):
        return jax.grad(lambda a: jnp.sum(jnp.sin(KINDS[kind][0](*a, mask)[0])))(arrays)

    want = [jax.jit(slopes)(jax.tree.map(lambda a, i=i: a[i], several)) for i in range(2)]
    request.getfixturevalue("interpreted")
    got = jax.jit(jax.vmap(slopes))(several)
    for i in range(2):
        assert_close(jax.tree.map(lambda a, i=i: a[i], got), want[i], 1e-5)


def test_second_derivatives_of_fused_kernel(request):
    kind = "GRU"
    arrays, _ = draw(kind, (2, 2, 2, 2), jnp.float32, np.random.default_rng(0))
    want = second_derivatives(kind, arrays, "scan")
    request.getfixturevalue("interpreted")
    assert_close(second_derivatives(kind, arrays, "auto"), want, 1e-4)


FORMS = [
    (kind, form, masked)
    for form in ("bidirectional", "stacked")
    for kind in ("GRU", "LSTM")
    for masked in (True, False)
]


@pytest.mark.parametrize(("kind", "form", "masked"), FORMS)
def test_bidirectional_and_stacked_layers_with_fused_kernels(kind, form, masked, request, getkey):
    x, mask = jax.random.normal(getkey(), (3, 4, 2)), jnp.arange(4)[None] < jnp.asarray([4, 1, 3])[:, None]
    layer = getattr(layers, kind)(3, return_sequences=True)
    layer = layers.Bidirectional(layer) if form == "bidirectional" else Sequential([layer, getattr(layers, kind)(2)])
    mask = {"mask": mask} if masked else {}
    variables = layer.init(getkey(), x)

    def slopes():
        # A new function at each call, so JAX does not reuse a program that was traced before.
        return jax.jit(jax.value_and_grad(lambda v: jnp.sum(layer.apply(v, x, **mask) ** 2)))(variables)

    want = slopes()
    request.getfixturevalue("interpreted")
    assert_close(slopes(), want, 1e-5)


def test_fused_kernels_ignore_nan_at_masked_steps(request):
    arrays, _ = draw("GRU", (3, 2, 2, 3), jnp.float32, np.random.default_rng(1))
    xs = jnp.full((3, 2, 9), jnp.nan).at[1:].set(0.5)
    mask = jnp.asarray([[False, False], [True, True], [True, False]])
    request.getfixturevalue("interpreted")
    grads = jax.jit(jax.grad(lambda a: jnp.sum(recurrence.gru(*a, mask)[0])))([Inputs(xs), *arrays[1:]])
    assert all(jnp.isfinite(g).all() for g in jax.tree.leaves(grads))


def lower_for_cuda(function, *arguments):
    """Lowers a function for an NVIDIA GPU, on any machine."""
    try:
        from jax.sharding import AbstractDevice, AbstractMesh, use_abstract_mesh

        device = AbstractDevice(device_kind="NVIDIA H100", num_cores=132, platform="gpu")
        context = use_abstract_mesh(AbstractMesh((), (), abstract_device=device))
    except (ImportError, TypeError):  # jax 0.10 assumes a Hopper GPU
        from contextlib import nullcontext

        context = nullcontext()
    with context, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return jax.jit(function).trace(*arguments).lower(lowering_platforms=("cuda",)).as_text()


@pytest.mark.parametrize(("kind", "dtype"), [("LSTM", "bfloat16"), ("GRU", "float32")])
def test_fused_kernels_are_lowered_for_a_gpu_only_on_request(kind, dtype):
    arrays, mask = draw(kind, (100, 64, 9, 128), dtype, np.random.default_rng(0))

    def slopes(arrays):
        return jax.grad(lambda a: jnp.sum(KINDS[kind][0](*a, mask)[0].astype(jnp.float32)))(arrays)

    with use_implementation("fused"):
        assert len(re.findall(r"custom_call @__gpu\$xla\.gpu\.triton", lower_for_cuda(slopes, arrays))) == 2
    with use_implementation("scan"):
        assert "triton" not in lower_for_cuda(slopes, arrays)


@pytest.fixture
def stand_in(monkeypatch):
    """Replaces cuDNN by JAX's reference for it, which returns zeros after the last step of an example."""

    def forward(x, h, c, weights, lengths):
        f, u = x.shape[-1], h.shape[-1]
        parts = rnn.unpack_lstm_weights(weights, f, u, 1, False)
        y, _, last = rnn.lstm_ref(x.swapaxes(0, 1), h[None], c[None], *parts, lengths, f, u, 1, 0.0, False)
        return y.swapaxes(0, 1), last[0], jnp.ones(3, jnp.float32)

    def backward(x, h, c, weights, lengths, hs, reserve, d_hs, d_c):
        return jax.vjp(lambda *a: forward(*a, lengths)[:2], x, h, c, weights)[1]((d_hs, d_c))

    monkeypatch.setattr(cudnn, "_forward", forward)
    monkeypatch.setattr(cudnn, "_backward", backward)
    monkeypatch.setattr(cudnn, "_platform", "cpu")
    monkeypatch.setattr(dispatch, "why_unsupported", lambda *a, **k: None)


@pytest.mark.parametrize("masks", EACH)
def test_lstm_by_cudnn_equals_the_scan_for_any_mask(masks, stand_in):
    with jax.enable_x64(True):
        arrays, mask = draw("LSTM", (5, 7, 3, 4), jnp.float64, np.random.default_rng(len(masks)), masks)
        got = run("LSTM", arrays, mask, "cudnn")
        assert_close(got, run("LSTM", arrays, mask, "scan"), 1e-13)
        assert_close(got[0], run_loop("LSTM", arrays, mask), 1e-13)


def test_lstm_by_cudnn_under_vmap_and_without_bias(stand_in):
    arrays, mask = draw("LSTM", (2, 3, 2, 3), jnp.float32, np.random.default_rng(0))
    arrays = [arrays[0]._replace(bias=None), *arrays[1:]]
    several = jax.tree.map(lambda a: jnp.stack([a, 0.5 * a]), arrays)
    results = []
    for name in ("cudnn", "scan"):
        with use_implementation(name):
            slope = jax.grad(lambda a: jnp.sum(recurrence.lstm(*a, mask)[0] ** 2))
            results.append(jax.jit(jax.vmap(slope))(several))
    assert_close(results[0], results[1], 1e-4)


def test_lstm_by_cudnn_ignores_masked_steps(stand_in):
    arrays, _ = draw("LSTM", (3, 2, 2, 3), jnp.float32, np.random.default_rng(0))
    mask = jnp.asarray([[True, False], [True, False], [False, False]])
    x = jnp.where(mask[..., None], arrays[0].x, jnp.nan)
    with use_implementation("cudnn"):
        slopes = jax.jit(jax.grad(lambda a: jnp.sum(recurrence.lstm(*a, mask)[0])))
        grads = slopes([arrays[0]._replace(x=x), *arrays[1:]])
    assert all(jnp.isfinite(g).all() for g in jax.tree.leaves(grads))


def test_a_layer_with_use_cudnn_runs_cudnn(stand_in, monkeypatch, getkey):
    calls, x = [], jax.random.normal(getkey(), (2, 3, 2))
    forward = cudnn._forward
    monkeypatch.setattr(cudnn, "_forward", lambda *a: calls.append(1) or forward(*a))
    variables = layers.LSTM(2).init(getkey(), x)
    plain, by_cudnn = (jax.jit(layers.LSTM(2, use_cudnn=how).apply)(variables, x) for how in ("auto", True))
    assert calls
    assert_close(by_cudnn, plain, 1e-6)


def test_a_program_for_cudnn_runs_the_scan_on_another_platform(stand_in, monkeypatch):
    arrays, mask = draw("LSTM", (3, 4, 2, 3), jnp.float32, np.random.default_rng(0))
    monkeypatch.setattr(cudnn, "_platform", "cuda")
    assert_close(run("LSTM", arrays, mask, "cudnn"), run("LSTM", arrays, mask, "scan"), 1e-6)


# --- the choice


def pretend_gpu(monkeypatch, devices=1):
    """Makes JAX report a GPU, on which nothing is computed."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "device_count", lambda: devices)
    monkeypatch.setattr(dispatch, "compute_capability", lambda: 9.0)


@pytest.mark.parametrize(
    ("implementations", "units", "dtype", "want"),
    [
        (LSTM, 128, "float32", "cudnn"),
        (LSTM, 512, "float32", "cudnn"),
        (LSTM, 128, "bfloat16", "fused"),
        (LSTM, 512, "bfloat16", "scan"),
        (GRU, 128, "float32", "fused"),
        (GRU, 256, "float16", "fused"),
        (GRU, 1024, "float16", "scan"),
        (GRU, 128, "float64", "scan"),
        (SIMPLE_RNN, 128, "float32", "scan"),
    ],
)
@pytest.mark.spread
def test_choice_by_kind_units_and_dtype(implementations, units, dtype, want, monkeypatch):
    pretend_gpu(monkeypatch)
    monkeypatch.setattr(dispatch, "is_verified", lambda *a: True)
    kernel = jax.ShapeDtypeStruct((units, 4 * units), jnp.dtype(dtype) if dtype != "float64" else np.float64)
    assert choose_on_gpu(implementations, kernel, 1) == want


def test_an_implementation_that_is_not_verified_is_skipped(monkeypatch):
    kernel = jax.ShapeDtypeStruct((128, 512), jnp.float32)
    assert choose_on_gpu(LSTM, kernel, 1) == "scan"
    pretend_gpu(monkeypatch)
    monkeypatch.setattr(dispatch, "is_verified", lambda name, *a: name != "cudnn")
    assert choose_on_gpu(LSTM, kernel, 1) == "fused"
    monkeypatch.setattr(dispatch, "is_verified", lambda name, *a: name == "cudnn")
    assert choose_on_gpu(LSTM, kernel, 1) == "cudnn"
    assert choose_on_gpu(LSTM, kernel, 1, single_pass=True) == "scan"
    with jax.default_matmul_precision("highest"):
        monkeypatch.setattr(dispatch, "is_verified", lambda *a: True)
        assert choose_on_gpu(GRU, jax.ShapeDtypeStruct((256, 768), jnp.float32), 1) == "scan"


def test_choice_does_not_depend_on_the_number_of_gpus(monkeypatch):
    """Whether a program is divided among GPUs is known only when it is lowered (tests/flaxmodels/test_exporting.py)."""
    pretend_gpu(monkeypatch, devices=8)
    monkeypatch.setattr(dispatch, "is_verified", lambda *a: True)
    assert choose_on_gpu(LSTM, jax.ShapeDtypeStruct((128, 512), jnp.float32), 1) == "cudnn"
    assert choose_on_gpu(LSTM, jax.ShapeDtypeStruct((128, 512), jnp.bfloat16), 1) == "fused"
    assert choose_on_gpu(GRU, jax.ShapeDtypeStruct((128, 384), jnp.float32), 1) == "fused"


@pytest.mark.parametrize(
    ("max_error", "reason"),
    [
        (lambda *a: 0.5, r"its largest error is 0\.5, above 0\.02"),
        (lambda *a: np.inf, r"its largest error is inf, above 0\.02"),
        (lambda *a: np.nan, r"its largest error is nan, above 0\.02"),
        (lambda *a: 1 / 0, r"it failed \(ZeroDivisionError: division by zero\)"),
    ],
)
def test_an_implementation_that_fails_its_check_is_skipped_with_one_warning(max_error, reason, monkeypatch):
    dispatch._is_verified.cache_clear()
    monkeypatch.setattr(verify, "max_error", max_error)
    sentence = (
        rf"^The GRU of 128 units in float32 is not computed by 'fused' on this device, because {reason}; "
        r"the next implementation is used instead, and no action is needed\.$"
    )
    with pytest.warns(UserWarning, match=sentence):
        assert not dispatch.is_verified("fused", GRU, 128, jnp.float32)
    assert not dispatch.is_verified("fused", GRU, 128, jnp.float32)
    dispatch._is_verified.cache_clear()


def test_the_check_can_run_while_a_program_is_traced(monkeypatch):
    dispatch._is_verified.cache_clear()
    monkeypatch.setattr(verify, "max_error", lambda *a: float(jnp.sin(jnp.float32(0.001))))

    def traced(x):
        assert dispatch.is_verified("fused", LSTM, 3, jnp.float32)
        return x

    jax.jit(traced)(1.0)
    dispatch._is_verified.cache_clear()


def test_the_check_runs_the_fused_kernel_on_a_gpu(monkeypatch):
    dispatch._is_verified.cache_clear()
    candidates = []
    monkeypatch.setattr(verify, "max_error", lambda candidate, *_: candidates.append(candidate) or 0.0)
    assert dispatch.is_verified("fused", GRU, 16, jnp.float32)
    arrays, mask = draw("GRU", (3, 2, 2, 16), jnp.float32, np.random.default_rng(0))
    assert "triton" in lower_for_cuda(lambda a: candidates[0](*a, mask), arrays)
    dispatch._is_verified.cache_clear()


def test_max_error_of_the_scan_is_a_rounding_error():
    scan = differentiable(GRU.scan)
    assert verify.max_error(scan, scan, "GRU", 4, "float32", seed=0) < 1e-5


def test_max_error_sees_a_wrong_gradient():
    def wrong(*arguments):
        d_product, d_inputs, d_state = LSTM.scan.backward(*arguments)
        return 1.01 * d_product, d_inputs, d_state

    candidate = differentiable(LSTM.scan._replace(backward=wrong))
    assert 1e-3 < verify.max_error(candidate, differentiable(LSTM.scan), "LSTM", 4, "float32", seed=0) < 0.1


def test_error_messages():
    with pytest.raises(
        ValueError,
        match=r"^`name` of an implementation of recurrences must be 'auto', 'scan', 'fused' or 'cudnn', got 'fast'; pass one of these\.$",
    ):
        with use_implementation("fast"):
            pass
    with use_implementation("cudnn"):
        for implementations, dtype, reason in (
            (GRU, jnp.float32, "it supports only LSTM"),
            (LSTM, jnp.bfloat16, "it supports only float32, got bfloat16"),
        ):
            with pytest.raises(
                ValueError,
                match=rf"^'cudnn' does not support this {implementations.kind}, because {reason}; use 'auto'\.$",
            ):
                choose_on_gpu(implementations, jnp.zeros((4, 16), dtype), 1)
    with use_implementation("fused"):
        with pytest.raises(
            ValueError,
            match=r"^'fused' does not support this LSTM, because it counts elements in 32 bits, and an array of 4294967296 elements is too large; use 'auto'\.$",
        ):
            choose_on_gpu(LSTM, jnp.zeros((16, 64)), 2**26)
        with pytest.raises(
            ValueError,
            match=r"^'fused' does not support this LSTM, because it supports only float32, bfloat16, float16, got int32; use 'auto'\.$",
        ):
            choose_on_gpu(LSTM, jnp.zeros((4, 16), jnp.int32), 1)


@pytest.mark.skipif(jax.default_backend() == "gpu", reason="needs a machine without a GPU")
def test_error_of_cudnn_without_a_gpu():
    with use_implementation("cudnn"):
        with pytest.raises(
            ValueError,
            match=r"^'cudnn' does not support this LSTM, because it needs an NVIDIA GPU of compute capability 8\.0 or higher, got 'cpu'; use 'auto'\.$",
        ):
            choose_on_gpu(LSTM, jnp.zeros((4, 16)), 1)


WITHOUT = """
import sys, jax, jax.numpy as jnp
from flaxmodels import layers
for kind in (layers.LSTM, layers.GRU):
    jax.eval_shape(kind(3).init, jax.random.key(0), jnp.ones((2, 3, 2)))
print([name for name in ("jax.experimental.pallas", "jax.experimental.rnn") if name in sys.modules])
"""


@pytest.mark.skipif(jax.default_backend() == "gpu", reason="needs a machine without a GPU")
def test_modules_for_a_gpu_are_not_imported_without_one():
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=False)
    assert done.stdout == "[]\n", done.stderr


# --- on a GPU


def new_seed():
    """Returns a different seed in each run; a failing test prints it."""
    return int(np.random.SeedSequence().entropy % 2**32)


BOUNDS = {"highest": 2e-5, "tensorfloat32": 2e-2}
# Steps, batch, features, units: whole tiles, parts of them, one of each.
DEVICE_SIZES = [(16, 64, 9, 128), (33, 17, 5, 100), (1, 1, 1, 1), (128, 64, 64, 256), (9, 70, 3, 512)]


@pytest.mark.gpu
@pytest.mark.spread
@pytest.mark.parametrize("masks", [(), ("right",), ALL])
@pytest.mark.parametrize("sizes", DEVICE_SIZES)
@pytest.mark.parametrize("precision", BOUNDS)
@pytest.mark.parametrize(("kind", "name"), [("LSTM", "cudnn"), ("LSTM", "fused"), ("GRU", "fused")])
def test_on_a_gpu_values_and_gradients_equal_the_scan_in_float64(kind, name, precision, sizes, masks):
    seed = new_seed()
    arrays, mask = draw(kind, sizes, jnp.float32, np.random.default_rng(seed), masks)
    with jax.default_matmul_precision(precision):
        got = jax.tree.map(np.asarray, run(kind, arrays, mask, name))
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda a: jnp.asarray(np.asarray(a), jnp.float64), arrays)
        want = jax.tree.map(np.asarray, run(kind, wide, mask, "scan"))
    print("seed", seed)
    assert_close(got, want, BOUNDS[precision])


@pytest.mark.gpu
@pytest.mark.spread
@pytest.mark.parametrize("sizes", DEVICE_SIZES)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("kind", KINDS)
def test_on_a_gpu_half_precision_is_as_accurate_as_the_scan(kind, dtype, sizes):
    seed = new_seed()
    arrays, mask = draw(kind, sizes, dtype, np.random.default_rng(seed))
    got, scanned = (jax.tree.map(np.asarray, run(kind, arrays, mask, name)) for name in ("fused", "scan"))
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda a: jnp.asarray(np.asarray(a, np.float64)), arrays)
        want = jax.tree.map(np.asarray, run(kind, wide, mask, "scan"))
    print("seed", seed)
    for g, s, w in zip(*map(jax.tree.leaves, (got, scanned, want)), strict=True):
        scale = max(1.0, abs(w).max())
        assert abs(g.astype(float) - w).max() <= 2 * abs(s.astype(float) - w).max() + 0.01 * scale


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
def test_on_a_gpu_fused_kernels_are_deterministic(kind):
    arrays, mask = draw(kind, (64, 64, 9, 256), jnp.bfloat16, np.random.default_rng(new_seed()))
    first, second = (run(kind, arrays, mask, "fused") for _ in range(2))
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@pytest.mark.gpu
@pytest.mark.parametrize(("kind", "name"), [("LSTM", "cudnn"), ("LSTM", "fused"), ("GRU", "fused")])
def test_on_a_gpu_under_vmap(kind, name):
    arrays, mask = draw(kind, (5, 6, 3, 16), jnp.float32, np.random.default_rng(new_seed()))
    several = jax.tree.map(lambda a: jnp.stack([a, 0.5 * a]), arrays)

    def slopes(arrays):
        return jax.grad(lambda a: jnp.sum(jnp.sin(KINDS[kind][0](*a, mask)[0])))(arrays)

    with jax.default_matmul_precision("highest"):
        with use_implementation(name):
            got = jax.jit(jax.vmap(slopes))(several)
        with use_implementation("scan"):
            want = jax.jit(jax.vmap(slopes))(several)
    assert_close(got, want, 2e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
def test_on_a_gpu_bidirectional_and_stacked_layers_equal_the_scan(kind, getkey):
    x, mask = jax.random.normal(getkey(), (6, 9, 5)), jnp.arange(9)[None] < jnp.asarray([9, 1, 4, 7, 9, 2])[:, None]
    layer = layers.Bidirectional(getattr(layers, kind)(32, return_sequences=True))
    top = getattr(layers, kind)(16)
    under = layer.init(getkey(), x)
    over = top.init(getkey(), layer.apply(under, x))

    def slopes(x):
        return jax.grad(lambda x: jnp.sum(top.apply(over, layer.apply(under, x, mask=mask), mask=mask) ** 2))(x)

    with jax.default_matmul_precision("highest"):
        got = jax.jit(slopes)(x)
        with use_implementation("scan"):
            want = jax.jit(lambda x: slopes(x))(x)
    assert_close(got, want, 2e-5)
