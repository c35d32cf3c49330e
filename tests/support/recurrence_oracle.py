"""Reference implementations of recurrent layers: NumPy loops and Keras."""

import jax
import jax.numpy as jnp
import numpy as np

from flaxmodels import interop

# Each maps (batch, time) to a mask; "row" masks all steps of one example.
MASKS = {
    "none": lambda b, t, rng: None,
    "right": lambda b, t, rng: np.arange(t) < rng.integers(1, t + 1, (b, 1)),
    "left": lambda b, t, rng: np.arange(t) >= rng.integers(0, t, (b, 1)),
    "holes": lambda b, t, rng: rng.random((b, t)) < 0.6,
    "row": lambda b, t, rng: (rng.random((b, t)) < 0.7) & (np.arange(b) != b - 1)[:, None],
    "full": lambda b, t, rng: np.ones((b, t), bool),
}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def lstm_step(x, state, kernel, recurrent_kernel, bias=0.0):
    h, c = state
    i, f, g, o = np.split(x @ kernel + h @ recurrent_kernel + bias, 4)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    h = sigmoid(o) * np.tanh(c)
    return h, (h, c)


def gru_step(x, state, kernel, recurrent_kernel, bias=None):
    (h,) = state
    bias = np.zeros((2, kernel.shape[1])) if bias is None else bias
    z, r, g = np.split(x @ kernel + bias[0], 3)
    a, b, d = np.split(h @ recurrent_kernel + bias[1], 3)
    z, g = sigmoid(z + a), np.tanh(g + sigmoid(r + b) * d)
    h = z * h + (1 - z) * g
    return h, (h,)


def simple_step(x, state, kernel, recurrent_kernel, bias=0.0):
    h = np.tanh(x @ kernel + state[0] @ recurrent_kernel + bias)
    return h, (h,)


STEPS = {"LSTM": lstm_step, "GRU": gru_step, "SimpleRNN": simple_step}


def loop(kind, x, mask, states, weights, go_backwards=False):
    """Returns outputs [B, T, units] and final states, computed in float64 one example and one step at a time."""
    outputs, last = np.zeros((*x.shape[:2], states[0].shape[1])), [np.array(s, np.float64) for s in states]
    for row in range(x.shape[0]):
        state = tuple(s[row] for s in last)
        for place, t in enumerate(range(x.shape[1])[:: -1 if go_backwards else 1]):
            if mask is None or mask[row, t]:
                _, state = STEPS[kind](x[row, t], state, *weights)
            outputs[row, place] = state[0]
        for s, new in zip(last, state, strict=True):
            s[row] = new
    return outputs, last


def cotangents_of(outputs):
    rng = np.random.default_rng(len(outputs))
    return [jnp.asarray(rng.normal(size=o.shape), o.dtype) for o in outputs]


def with_gradients(f, params, arrays):
    """Returns the outputs of f(params, arrays) and the gradients of their weighted sum, each as a flat list."""

    shapes = jax.tree.leaves(jax.eval_shape(f, params, arrays))
    weights = cotangents_of(shapes)

    def weighted(params, arrays):
        outputs = jax.tree.leaves(f(params, arrays))
        return sum(jnp.sum(o * c) for o, c in zip(outputs, weights, strict=True)), outputs

    (_, outputs), grads = jax.jit(jax.value_and_grad(weighted, argnums=(0, 1), has_aux=True))(params, arrays)
    return outputs, grads


def keras_results(layer, x, mask=None, initial_state=None):
    """Builds a Keras layer and returns outputs, random weights, and gradients with respect to weights and [x, *initial_state]."""
    rng = np.random.default_rng(1)
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        layer.build(x.shape)
        layer.set_weights([rng.normal(size=w.shape, scale=0.5).astype(w.dtype) for w in layer.get_weights()])
        fixed = [v.value for v in layer.non_trainable_variables]

        def f(params, arrays):
            call = {} if mask is None else {"mask": jnp.asarray(mask)}
            state = {} if initial_state is None else {"initial_state": list(arrays[1:])}
            return layer.stateless_call(params, fixed, arrays[0], **call, **state)[0]

        arrays = [x, *(initial_state or [])]
        outputs, grads = with_gradients(f, [v.value for v in layer.trainable_variables], arrays)
        return outputs, layer.get_weights(), grads[0], grads[1]


def our_results(layer, weights, x, mask=None, initial_state=None):
    """Returns the same for our layer with these weights."""
    state = {} if initial_state is None else {"initial_state": initial_state}
    variables = layer.init(jax.random.key(0), x, mask=mask, **state)
    variables = interop.set_keras_weights(layer, variables, weights)

    def f(params, arrays):
        state = {} if initial_state is None else {"initial_state": list(arrays[1:])}
        return layer.apply({**variables, "params": params}, arrays[0], mask=mask, **state)

    outputs, grads = with_gradients(f, variables.get("params", {}), [x, *(initial_state or [])])
    return outputs, interop.get_keras_weights(layer, {**variables, "params": grads[0]}), grads[1]


def assert_as_keras(ours, theirs, x, mask=None, initial_state=None, rtol=2e-5, atol=2e-5):
    """Fails unless outputs and all gradients equal Keras'."""
    outputs, weights, by_weights, by_arrays = keras_results(theirs, x, mask, initial_state)
    got, got_by_weights, got_by_arrays = our_results(ours, weights, x, mask, initial_state)
    for name, want, came in (
        ("output", outputs, got),
        ("gradient by weight", by_weights, got_by_weights),
        ("gradient by input", by_arrays, got_by_arrays),
    ):
        assert len(want) == len(came), name
        for i, (a, b) in enumerate(zip(want, came, strict=True)):
            scale = max(1.0, float(np.max(np.abs(a), initial=0.0)))
            np.testing.assert_allclose(b, a, rtol=rtol, atol=atol * scale, err_msg=f"{name} {i}")
