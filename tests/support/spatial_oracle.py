"""Reference implementations of spatial layers: float64 loops, and Keras on its JAX backend."""

import contextlib
import inspect
import itertools
import math
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxmodels import interop, layers


def same_pads(n, span, stride):
    """Returns the zeros before and after an axis that give ceil(n / stride) windows; an odd zero goes after."""
    total = max((math.ceil(n / stride) - 1) * stride + span - n, 0)
    return total // 2, total - total // 2


def windows(sizes, window, strides, dilation, padding):
    """Returns for each output position the (window offset, input position) pairs inside the inputs."""
    per_axis = []
    for n, k, s, d in zip(sizes, window, strides, dilation, strict=True):
        span = (k - 1) * d + 1
        front, behind = {"valid": (0, 0), "causal": (span - 1, 0), "same": same_pads(n, span, s)}[padding]
        outputs = (n + front + behind - span) // s + 1
        per_axis.append(
            [[(j, o * s + j * d - front) for j in range(k) if 0 <= o * s + j * d - front < n] for o in range(outputs)]
        )
    for output in itertools.product(*(range(len(axis)) for axis in per_axis)):
        yield output, list(itertools.product(*(axis[o] for axis, o in zip(per_axis, output, strict=True))))


def output_sizes(sizes, window, strides, dilation, padding):
    return [1 + max(o) for o in zip(*(o for o, _ in windows(sizes, window, strides, dilation, padding)), strict=True)]


def loop_conv(x, kernel, strides, dilation, padding, groups=1):
    """Computes a convolution (channels last), one matrix product of channels at a time."""
    x, kernel = np.asarray(x, np.float64), np.asarray(kernel, np.float64)
    *window, cin, cout = kernel.shape
    sizes = x.shape[1:-1]
    y = np.zeros((x.shape[0], *output_sizes(sizes, window, strides, dilation, padding), cout))
    for output, covered in windows(sizes, window, strides, dilation, padding):
        for g, pairs in itertools.product(range(groups), covered):
            tap, position = zip(*pairs, strict=True)
            f = slice(g * cout // groups, (g + 1) * cout // groups)
            y[(slice(None), *output, f)] += (
                x[(slice(None), *position, slice(g * cin, (g + 1) * cin))] @ kernel[tap][:, f]
            )
    return y


def loop_depthwise(x, kernel, strides, dilation, padding):
    """Computes a depthwise convolution as one convolution for each channel."""
    each = [
        loop_conv(x[..., c : c + 1], kernel[..., c : c + 1, :], strides, dilation, padding) for c in range(x.shape[-1])
    ]
    return np.concatenate(each, -1)


def loop_transpose(x, kernel, strides, dilation, padding):
    """Computes a transposed convolution: adds each input to the outputs of its window, and crops the result."""
    x, kernel = np.asarray(x, np.float64), np.asarray(kernel, np.float64)
    *window, cout, _ = kernel.shape
    sizes, spans = x.shape[1:-1], [(k - 1) * d + 1 for k, d in zip(window, dilation, strict=True)]
    whole = [(n - 1) * s + max(span, s) for n, s, span in zip(sizes, strides, spans, strict=True)]
    y = np.zeros((x.shape[0], *whole, cout))
    for position in itertools.product(*map(range, sizes)):
        for tap in itertools.product(*map(range, window)):
            at = tuple(p * s + t * d for p, s, t, d in zip(position, strides, tap, dilation, strict=True))
            y[(slice(None), *at)] += x[(slice(None), *position)] @ kernel[tap].T
    if padding == "valid":
        return y
    fronts = [same_pads(n * s, span, s)[0] for n, s, span in zip(sizes, strides, spans, strict=True)]
    return y[(slice(None), *(slice(f, f + n * s) for f, n, s in zip(fronts, sizes, strides, strict=True)))]


def loop_pool(x, window, strides, padding, reduce):
    """Computes pooling (channels last); `reduce` maps the values [positions, B, C] of one window to [B, C]."""
    x, sizes, ones = np.asarray(x, np.float64), x.shape[1:-1], (1,) * (x.ndim - 2)
    y = np.zeros((x.shape[0], *output_sizes(sizes, window, strides, ones, padding), x.shape[-1]))
    for output, covered in windows(sizes, window, strides, ones, padding):
        values = [x[(slice(None), *(at for _, at in pairs))] for pairs in covered]
        y[(slice(None), *output)] = reduce(np.stack(values), axis=0)
    return y


def numbers(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def near(got, want, tolerance=1e-5):
    """Asserts equality up to a tolerance relative to the largest value."""
    want = np.asarray(want, np.float64)
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * max(np.abs(want).max(initial=0), 1e-3))


def run(layer, x, weights=(), **call):
    """Returns the outputs with Keras' weights, and a function that maps cotangents to gradients of weights and inputs."""
    variables = interop.set_keras_weights(layer, layer.init(jax.random.key(0), x, **call), weights)

    @jax.jit
    def outputs(params, x):
        return layer.apply({"params": params}, x, **call)

    y, vjp = jax.vjp(outputs, variables.get("params", {}), jnp.asarray(x))

    def grads(cotangents):
        params, inputs = vjp(jnp.asarray(cotangents, y.dtype))
        return interop.get_keras_weights(layer, {"params": params}), inputs

    return y, grads


def as_in_keras(name, config, shape, mask=None, seed=0, positive=False):
    """Compares outputs and all gradients with those of the Keras layer of the same name with random weights."""
    import keras

    x = numbers(seed, *shape)
    x = np.maximum(x, 0) if positive else x
    call = {} if mask is None else {"mask": jnp.asarray(mask)}
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = getattr(keras.layers, name)(**config)
        theirs.build(shape)
        weights = [numbers(seed + i, *w.shape) for i, w in enumerate(theirs.get_weights(), 1)]

        @jax.jit
        def outputs(weights, x):
            return theirs.stateless_call(weights, [], x, **call)[0]

        want, vjp = jax.vjp(outputs, [jnp.asarray(w) for w in weights], jnp.asarray(x))
        cotangents = numbers(seed + 99, *want.shape)
        want_weights, want_inputs = vjp(jnp.asarray(cotangents))
    got, grads = run(getattr(layers, name)(**config), x, weights, **call)
    near(got, want)
    got_weights, got_inputs = grads(cotangents)
    near(got_inputs, want_inputs, 2e-5)
    for g, w in zip(got_weights, want_weights, strict=True):
        near(g, w, 2e-5)


def same_signature(name, swapped=()):
    """Asserts that the arguments have Keras' names, order and defaults, except those that all Keras layers have."""
    import keras

    def arguments(cls):
        parameters = inspect.signature(cls.__init__).parameters
        common = {"self", "kwargs", "name", "parent", "activity_regularizer"}
        common |= {"dtype", "param_dtype", "trainable", "input_shape"}
        return {key: p.default for key, p in parameters.items() if key not in common}

    def by_position(keys):
        return [key for key in keys if not key.endswith("_constraint") and key not in swapped]

    ours, theirs = arguments(getattr(layers, name)), arguments(getattr(keras.layers, name))
    assert by_position(ours) == by_position(theirs)
    assert set(ours) == set(theirs)
    for key, default in theirs.items():
        same = ours[key] == default or set(np.ravel(ours[key])) == set(np.ravel(default))  # 1 for (1, 1)
        assert same, f"{key}: {ours[key]}, but in Keras {default}"


@contextlib.contextmanager
def refuses(sentence):
    """Expects a ValueError with exactly this sentence (`match` would also search the notes that JAX adds)."""
    with pytest.raises(ValueError) as caught:
        yield
    assert str(caught.value) == sentence
