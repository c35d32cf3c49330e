"""Compares a layer with Keras' layer of the same name: outputs, masks, gradients and statistics."""

import inspect
import warnings

import jax
import jax.numpy as jnp
import numpy as np

from flaxmodels import interop, layers


def numbers(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def truths(seed, *shape, share=0.6):
    """Returns random booleans; the first one is True."""
    mask = np.random.default_rng(seed).random(shape) < share
    mask.flat[0] = True
    return mask


def is_float(x):
    return isinstance(x, np.ndarray | jax.Array) and jnp.issubdtype(x.dtype, jnp.floating)


def gradients(f, params, args):
    """Returns the outputs of f(params, args), its auxiliary value, and gradients with respect to params and floats in args."""
    leaves, treedef = jax.tree.flatten(args, is_leaf=lambda x: x is None)
    where = [i for i, x in enumerate(leaves) if is_float(x)]

    def weighted(params, floats):
        filled = dict(enumerate(leaves)) | dict(zip(where, floats, strict=True))
        outputs, more = f(params, jax.tree.unflatten(treedef, list(filled.values())))
        outputs = jax.tree.leaves(outputs)
        weights = [jnp.asarray(numbers(i, *y.shape)) for i, y in enumerate(outputs)]
        total = sum(jnp.sum(y.astype(jnp.float32) * w) for y, w in zip(outputs, weights, strict=True))
        return total, (outputs, more)

    run = jax.jit(jax.value_and_grad(weighted, argnums=(0, 1), has_aux=True))
    (_, (outputs, more)), (by_params, by_args) = run(params, [jnp.asarray(leaves[i]) for i in where])
    return outputs, more, by_params, by_args


def of_keras(layer, inputs, call, train, masks):
    """Returns Keras' weights, outputs, new weights, and gradients with respect to weights (None for statistics) and inputs."""
    from keras.src import backend

    def masked(inputs):
        inputs = jax.tree.map(lambda x: jnp.asarray(x) + 0, inputs)
        listed = (inputs, masks) if isinstance(inputs, list) else ([inputs], [masks])
        for x, mask in zip(*listed, strict=True) if masks is not None else []:
            if mask is not None:
                backend.set_keras_mask(x, jnp.asarray(mask))
        return inputs

    training = {} if train is None else {"training": train}
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        layer(masked(inputs), **call)
        weights = [numbers(i, *w.shape) / 2 for i, w in enumerate(layer.get_weights())]
        positive = [any(word in v.path for word in ("variance", "stddev")) for v in layer.weights]
        weights = [np.abs(w) + 0.3 if p else w for w, p in zip(weights, positive, strict=True)]
        layer.set_weights(weights)
        mask = [backend.get_keras_mask(y) for y in jax.tree.leaves(layer(masked(inputs), **call))][0]
        statistics = [v.value for v in layer.non_trainable_variables]

        def f(params, args):
            inputs, call = args
            return layer.stateless_call(params, statistics, masked(inputs), **call, **training)

        params = [v.value for v in layer.trainable_variables]
        outputs, new, by_params, by_args = gradients(f, params, (inputs, call))
    learned = {id(v): g for v, g in zip(layer.trainable_variables, by_params, strict=True)}
    moved = {id(v): x for v, x in zip(layer.non_trainable_variables, new, strict=True)}
    by_weights = [learned.get(id(v)) for v in layer.weights]
    new_weights = [moved.get(id(v)) for v in layer.weights]
    return weights, outputs, mask, new_weights, by_weights, by_args


def of_ours(layer, weights, inputs, call, train, masks):
    """Returns the same results as `of_keras`, but for our layer with these weights."""
    given = {} if train is None else {"train": train}
    given |= {} if masks is None else {"mask": masks}
    variables = interop.set_keras_weights(layer, layer.init(jax.random.key(0), inputs, **call, **given), weights)
    statistics = {"batch_stats": variables.get("batch_stats", {})}

    def f(params, args):
        inputs, call = args
        return layer.apply({"params": params, **statistics}, inputs, **call, **given, mutable=["batch_stats"])

    outputs, new, by_params, by_args = gradients(f, variables.get("params", {}), (inputs, call))
    _, mask = layer.apply(variables, inputs, **call, **given | {"train": False}, method="outputs_and_mask")
    by_weights = interop.get_keras_weights(layer, {**variables, "params": by_params})
    new_weights = interop.get_keras_weights(layer, {**variables, **statistics, **new})
    return outputs, mask, new_weights, by_weights, by_args


def assert_as_keras(name, config, inputs, call=None, train=None, masks=None, pair=None, tolerance=2e-5, least=1.0):
    """Fails unless outputs, mask, statistics and all gradients equal Keras'.

    Args:
        name: Name of the class.
        config: Its arguments.
        inputs: An array or a list of arrays.
        call: Keyword arguments of the call.
        train: Whether to compute as in training; None for layers that do not take it.
        masks: The inputs' masks, as previous layers compute them.
        pair: Our layer and Keras', instead of name and config.
        tolerance: The largest difference, relative to the largest value of an array.
        least: A lower bound of that largest value, for example for sums that cancel.
    """
    import keras

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = pair[1] if pair else getattr(keras.layers, name)(**config)
    ours = pair[0] if pair else getattr(layers, name)(**config)
    weights, *wanted = of_keras(theirs, inputs, call or {}, train, masks)
    results = of_ours(ours, weights, inputs, call or {}, train, masks)
    what = ("output", "mask", "weight after the call", "gradient by weight", "gradient by input")
    for kind, want, got in zip(what, wanted, results, strict=True):
        if kind == "mask":
            got = got[0] if isinstance(got, tuple) else got
            assert (want is None) == (got is None), f"{name}: only one of the layers returned a mask"
            want, got = ([], []) if want is None else ([want], [got])
        assert len(want) == len(got), kind
        for i, (a, b) in enumerate(zip(want, got, strict=True)):
            if a is not None:
                near(b, a, f"{name} {config}: {kind} {i}", tolerance, least)


def near(got, want, message="", tolerance=2e-5, least=1.0):
    """Asserts equality up to a tolerance relative to the largest value or `least`."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape, message
    atol = tolerance * max(least, np.abs(want).max(initial=0.0))
    np.testing.assert_allclose(got, want, rtol=0, atol=atol, err_msg=message)


def assert_arguments(name, without=(), more=()):
    """Fails unless the arguments have Keras' names, order and defaults, except `without` (only Keras) and `more` (only ours)."""
    import keras

    common = {"self", "args", "kwargs", "name", "parent", "activity_regularizer"}
    common |= {"dtype", "param_dtype", "trainable", "input_shape", *without, *more}

    def arguments(cls):
        parameters = inspect.signature(cls.__init__).parameters
        return [(key, p.default) for key, p in parameters.items() if key not in common]

    ours, theirs = arguments(getattr(layers, name)), arguments(getattr(keras.layers, name))
    lowered = [(key, value.lower() if isinstance(value, str) else value) for key, value in theirs]
    assert ours == lowered
