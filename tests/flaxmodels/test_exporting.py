"""Programs without kernels: exported programs, which any process can run, and programs traced in `without_kernels`."""

import contextlib
import functools
import inspect
import os
import pathlib
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import flaxmodels
from flaxmodels import Sequential, layers
from flaxmodels.kernels import dispatch, native, recurrence
from flaxmodels.kernels.recurrence import cudnn
from tests.support.layer_table import ROWS
from training.programs import Program

KEY = jax.random.key(0)
PLATFORMS = ("cpu", "cuda")
needs_kernels = pytest.mark.skipif(not native.available(), reason="needs a C compiler for the kernels")


def cnn():
    """Returns a model with a fused convolution and pooling, a separate convolution and a separate pooling."""
    return Sequential(
        [
            layers.Conv2D(8, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(8, 3, padding="same", use_bias=False),
            layers.MaxPooling2D(3, strides=1, padding="same"),
            layers.GlobalAveragePooling2D(),
        ]
    )


def depthwise():
    return Sequential(
        [layers.DepthwiseConv2D(3, depth_multiplier=4, padding="same"), layers.Conv2DTranspose(3, 3, strides=2)]
    )


MODELS = {
    "cnn": (cnn, (9, 8, 2)),
    "depthwise": (depthwise, (5, 4, 2)),
    "lstm": (lambda: Sequential([layers.Masking(), layers.Bidirectional(layers.LSTM(5))]), (6, 3)),
    "gru": (lambda: Sequential([layers.GRU(5, return_sequences=True), layers.GRU(4)]), (6, 3)),
    "rnn": (lambda: Sequential([layers.SimpleRNN(5)]), (6, 3)),
}
# Runs exported functions and their derivatives, and knows nothing of this library.
READER = """
import pathlib, sys
import jax, numpy as np
folder = pathlib.Path(sys.argv[1])
for path in folder.glob("*.exported"):
    program = jax.export.deserialize(bytearray(path.read_bytes()))
    x = np.load(path.with_suffix(".x.npy"))
    np.save(path.with_suffix(".y.npy"), program.call(x))
    slope = jax.grad(lambda x: (program.call(x) ** 2).sum())
    np.save(path.with_suffix(".dx.npy"), slope(x))
    if "static" not in path.name:
        assert program.call(x[:1]).shape[0] == 1
assert "flaxmodels" not in sys.modules and "training" not in sys.modules
"""


def bound(make, shape):
    """Returns a function and its inputs."""
    model, x = make(), jax.random.normal(KEY, (3, *shape))
    return functools.partial(model.apply, model.init(KEY, x)), x


def test_process_without_this_library_runs_exported_models_and_gradients(tmp_path):
    want = {}
    for name, (make, shape) in MODELS.items():
        function, x = bound(make, shape)
        want[name] = (np.asarray(jax.jit(function)(x)), jax.jit(jax.grad(lambda x, f=function: (f(x) ** 2).sum()))(x))
        for kind, batch in (("static", 3), ("symbolic", export.symbolic_shape("b")[0])):
            spec = jax.ShapeDtypeStruct((batch, *shape), jnp.float32)
            exported = export.export(jax.jit(function), platforms=PLATFORMS)(spec)
            (tmp_path / f"{name}-{kind}.exported").write_bytes(exported.serialize(vjp_order=1))
            np.save(tmp_path / f"{name}-{kind}.x.npy", x)
    subprocess.run(
        [sys.executable, "-c", READER, str(tmp_path)], check=True, env={**os.environ, "JAX_PLATFORMS": "cpu"}
    )
    assert len(list(tmp_path.glob("*.y.npy"))) == 2 * len(MODELS)
    for path in tmp_path.glob("*.y.npy"):
        y, dx = want[path.name.split("-")[0]]
        np.testing.assert_allclose(np.load(path), y, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(np.load(pathlib.Path(str(path).replace(".y.", ".dx."))), dx, rtol=1e-4, atol=1e-5)


MODES = [(row, train) for row in ROWS for train in row.train_modes]


@pytest.mark.parametrize(("row", "train"), MODES, ids=[f"{row}-{train}" for row, train in MODES])
def test_every_layer_can_be_exported_for_a_batch_of_any_size(row, train):
    layer, arrays = row.layer(), row.arrays()
    variables = layer.init({"params": KEY, "dropout": KEY}, *arrays, **row.call)

    def run(variables, *arrays):
        options = {"mutable": ["batch_stats"], "rngs": {"dropout": jax.random.key(1)}} if train else {}
        return layer.apply(variables, *arrays, **row.call, train=train, **options)

    (size,) = export.symbolic_shape("b")
    any_size = jax.tree.map(lambda a: jax.ShapeDtypeStruct((size, *a.shape[1:]), a.dtype), arrays)
    for given in (arrays, any_size):
        export.export(jax.jit(run), platforms=PLATFORMS)(variables, *given)


@needs_kernels
@pytest.mark.parametrize("name", MODELS)
def test_gradients_of_exported_programs_contain_no_kernels(name):
    function, x = bound(*MODELS[name])
    slope = jax.jit(jax.grad(lambda x: (function(x) ** 2).sum()))
    assert native.prefix() in slope.lower(x).as_text()
    assert native.prefix() not in export.export(slope, platforms=PLATFORMS)(x).mlir_module()
    export.export(slope, platforms=PLATFORMS)(x).serialize()


def call_of_cudnn(x, h, c, weights, lengths):
    out = [jax.ShapeDtypeStruct(shape, x.dtype) for shape in (x.shape[:2] + h.shape[1:], c.shape, (3,))]
    return jax.ffi.ffi_call("stand_in_for_cudnn", out)(x)


def mesh_of_gpus(shape, names):
    """Returns a mesh for which JAX 0.11 lowers Pallas kernels without a GPU; None in JAX 0.10, which needs no mesh."""
    device = getattr(jax.sharding, "AbstractDevice", None)
    types = (jax.sharding.AxisType.Auto,) * len(shape)
    gpu = device and device("NVIDIA H200", 132, "gpu")
    return gpu and jax.sharding.AbstractMesh(shape, names, axis_types=types, abstract_device=gpu)


def lowered_for_a_gpu(program, x):
    mesh = mesh_of_gpus((), ())
    with jax.sharding.use_abstract_mesh(mesh) if mesh else contextlib.nullcontext():
        return program.trace(x).lower(lowering_platforms=("cuda",)).as_text()


@pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated:DeprecationWarning")
@pytest.mark.parametrize(("name", "target"), [("fused", "xla.gpu.triton"), ("cudnn", "stand_in_for_cudnn")])
def test_exported_programs_contain_no_gpu_kernels(name, target, monkeypatch):
    monkeypatch.setattr(recurrence.dispatch, "why_unsupported", lambda *a, **k: None)
    monkeypatch.setattr(cudnn, "_forward", call_of_cudnn)
    layer, x = layers.LSTM(16, return_sequences=True), jnp.ones((8, 4, 3))
    variables = layer.init(KEY, x)
    with recurrence.use_implementation(name):
        program = jax.jit(lambda x: layer.apply(variables, x))
        assert target in lowered_for_a_gpu(program, x)
        assert "custom_call" not in export.export(program, platforms=("cuda",))(x).mlir_module()
        with flaxmodels.without_kernels():
            assert "custom_call" not in lowered_for_a_gpu(program, x)


@needs_kernels
@pytest.mark.parametrize("name", MODELS)
def test_function_is_retraced_without_and_with_kernels(name):
    function, x = bound(*MODELS[name])
    program = jax.jit(jax.value_and_grad(lambda x: (function(x) ** 2).sum()))
    want, found = program(x), []
    with flaxmodels.without_kernels():
        assert native.prefix() not in program.lower(x).as_text()
        inside = threading.Thread(target=lambda: found.append(program.lower(x).as_text()))
        inside.start()
        inside.join()
        got = program(x)
        with flaxmodels.without_kernels():
            pass
        assert not dispatch.kernels_allowed()
    assert native.prefix() in found[0], "another thread is outside of the block"
    assert native.prefix() in program.lower(x).as_text()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), got, want)


@needs_kernels
def test_traced_function_is_lowered_without_kernels():
    function, x = bound(*MODELS["cnn"])
    traced = jax.jit(jax.grad(lambda x: function(x).sum())).trace(x)
    with flaxmodels.without_kernels():
        assert native.prefix() not in traced.lower().as_text()
    assert native.prefix() in traced.lower().as_text()


@needs_kernels
def test_program_of_a_trainer_is_recompiled():
    function, x = bound(*MODELS["cnn"])
    program = Program(function)
    program(x)
    assert program.is_compiled(x)
    with flaxmodels.without_kernels():
        assert not program.is_compiled(x)
    with recurrence.use_implementation("scan"):
        assert not program.is_compiled(x)


@needs_kernels
def test_the_cost_of_a_convolution_and_its_gradient_is_counted():
    layer, x = layers.Conv2D(16, 3), jax.random.normal(KEY, (4, 10, 9, 8))
    variables = layer.init(KEY, x)
    count = 2 * 4 * (8 * 7) * (3 * 3 * 8) * 16  # multiplications and additions: examples, places, taps, features

    def flops(function):
        return jax.jit(function).lower(variables).compile().cost_analysis()["flops"]

    def loss(variables):
        return jnp.sum(layer.apply(variables, x) ** 2)

    assert flops(loss) < count
    with flaxmodels.without_kernels():
        assert count <= flops(loss) < 1.2 * count
        assert 2 * count <= flops(jax.grad(loss)) < 2.4 * count
    assert flops(loss) < count


# --- alternatives


def doubled(x, counts):
    return {"y": jnp.where(counts, jnp.sin(x), x)}


def kernel(x, counts):
    return {"y": jnp.where(counts, jnp.sin(x), x) + 100}


def chosen(x, counts=True):
    return dispatch.alternatives(doubled, x, jnp.asarray(counts), cpu=kernel)["y"]


def test_kernel_is_called_on_its_platform_with_the_derivative_of_the_function():
    assert np.isclose(chosen(1.0), np.sin(1) + 100) and np.isclose(jax.jit(chosen)(1.0), np.sin(1) + 100)
    for slope in (jax.grad(chosen), jax.jit(jax.grad(chosen)), jax.jacfwd(chosen)):
        assert np.isclose(slope(1.0), np.cos(1))
    x, counts = jnp.arange(3.0), jnp.array([True, False, True])
    np.testing.assert_allclose(jax.jit(jax.vmap(chosen))(x, counts), jnp.where(counts, jnp.sin(x), x) + 100)
    np.testing.assert_allclose(jax.vmap(jax.grad(chosen), (0, None))(x, True), jnp.cos(x), rtol=1e-6)
    with flaxmodels.without_kernels():
        assert np.isclose(jax.jit(chosen)(1.0), np.sin(1))


DIVIDED = """
import contextlib, jax, jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from flaxmodels import layers
from flaxmodels.kernels.recurrence import use_implementation
assert jax.device_count() == 2
mesh = jax.make_mesh((2,), ("b",), axis_types=(jax.sharding.AxisType.Auto,))
rows = jax.sharding.NamedSharding(mesh, P("b"))
layer, x = layers.LSTM(16), jnp.ones((8, 4, 3))
variables = layer.init(jax.random.key(0), x)
def run(x):
    return layer.apply(variables, x)
def kernels(program):
    with use_implementation("fused"):
        return "triton" in lowered_for_a_gpu(program, x)
print(kernels(jax.jit(run)), kernels(jax.jit(run, in_shardings=rows)))
mesh = mesh_of_gpus((2,), ("b",)) or mesh
print(kernels(jax.jit(jax.shard_map(run, mesh=mesh, in_specs=P("b"), out_specs=P("b"), check_vma=False))))
"""


def test_only_partitioned_programs_skip_gpu_kernels():
    command = [sys.executable, "-c", "".join([*map(inspect.getsource, (mesh_of_gpus, lowered_for_a_gpu)), DIVIDED])]
    environment = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    root = str(pathlib.Path(flaxmodels.__file__).parent.parent)
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **environment, "PYTHONPATH": root}
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["True", "False", "True"]
