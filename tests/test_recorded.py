"""Replays cases recorded from Keras (see tests/recorded/README.md): layers, losses, metrics, optimizers and more."""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxmodels
import training
from flaxmodels import interop

FOLDER = pathlib.Path(__file__).parent / "recorded"
CASES = [json.loads(line) for line in (FOLDER / "cases.jsonl").read_text().splitlines()]
arrays_of_all = functools.cache(lambda: np.load(FOLDER / "arrays.npz"))


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_recorded_case(case):
    KINDS[case["kind"]](Recorded(case))


class Recorded(dict):
    """A case with its arrays."""

    def array(self, name):
        return arrays_of_all()[f"{self['id']}/{name}"]

    def data(self, value):
        """Converts JSON to an argument of a call, with arrays for references."""
        if isinstance(value, dict):
            return jnp.asarray(self.array(value["__array__"]))
        return [self.data(v) for v in value] if isinstance(value, list) else value

    def option(self, value, sequence=tuple):
        """Converts JSON to a constructor argument: arrays, objects and sequences."""
        if isinstance(value, list):
            return sequence(self.option(v, sequence) for v in value)
        if not isinstance(value, dict):
            return value
        if "__array__" in value:
            return self.array(value["__array__"])
        options = {k: self.option(v, sequence) for k, v in value.get("config", value).items()}
        if "class_name" in value:
            package = training if value["type"] == "schedules" else flaxmodels
            return getattr(getattr(package, value["type"]), value["class_name"])(**options)
        return options

    def options(self, sequence=tuple):
        return {k: self.option(v, sequence) for k, v in self["config"].items()}

    def args(self):
        return [self.data(a) for a in self["args"]]

    def near(self, what, expected, got):
        """Fails unless a value equals the recorded one; values that were not recorded pass."""
        if expected is None:
            return
        want, got = self.array(expected["array"]), np.asarray(got)
        assert got.shape == want.shape, what
        tolerances = {"rtol": expected["rtol"], "atol": expected["atol"]}
        np.testing.assert_allclose(got.astype(np.float64), want.astype(np.float64), **tolerances, err_msg=what)

    def near_all(self, what, expected, got):
        for i, (e, g) in enumerate(zip(expected, got, strict=True)):
            self.near(f"{what} {i}", e, g)


# ---------------------------------------------------------------- layers


def layer(case):
    module = getattr(flaxmodels.layers, case["name"])(**case.options())
    inputs, call = case.data(case["inputs"]), {k: case.data(v) for k, v in case["call"].items()}
    variables = module.init(jax.random.key(0), inputs, **call)
    weights = [case.array(w["array"]) for w in case["weights"]]
    variables = dict(interop.set_keras_weights(module, variables, weights))
    params = variables.pop("params", {})
    cotangents = [None if c is None else case.array(c) for c in case["cotangents"]]
    mutable = ["batch_stats"] if call.get("train") else []
    floats, with_floats = part(inputs, lambda x: jnp.issubdtype(x.dtype, jnp.floating))
    masks, with_masks = part(call, lambda x: True)

    def weighted(params, floats, masks):
        outputs, new = module.apply(
            {"params": params, **variables}, with_floats(floats), mutable=mutable, **with_masks(masks)
        )
        outputs = jax.tree.leaves(outputs)
        terms = [jnp.sum(y.astype(jnp.float32) * c) for y, c in zip(outputs, cotangents, strict=True) if c is not None]
        return sum(terms, jnp.zeros(())), (outputs, new)

    run = jax.jit(jax.value_and_grad(weighted, argnums=(0, 1), has_aux=True))
    (_, (outputs, new)), (by_params, by_inputs) = run(params, floats, masks)
    case.near_all("output", case["outputs"], outputs)
    wanted = [g for g, x in zip(case["grads"]["inputs"], jax.tree.leaves(inputs), strict=True) if is_float(x)]
    case.near_all("gradient by input", wanted, by_inputs)
    by_weights = interop.get_keras_weights(module, {"params": by_params, **variables})
    case.near_all("gradient by weight", case["grads"]["weights"], by_weights)
    if "updated" in case:
        updated = interop.get_keras_weights(module, {"params": params, **variables, **new})
        case.near_all("weight after the call", case["updated"], updated)


def is_float(x):
    return jnp.issubdtype(x.dtype, jnp.floating)


def part(tree, pick):
    """Returns the selected arrays of a tree, and a function that replaces them."""
    leaves, treedef = jax.tree.flatten(tree)
    where = [i for i, x in enumerate(leaves) if isinstance(x, jax.Array) and pick(x)]

    def put(values):
        filled = dict(enumerate(leaves)) | dict(zip(where, values, strict=True))
        return jax.tree.unflatten(treedef, list(filled.values()))

    return [leaves[i] for i in where], put


# ---------------------------------------------------------------- functions


def value_and_gradient(case, function, args, by):
    case.near_all("output", case["outputs"], [function(*args)])
    if case.get("grads", [None])[0] is not None:
        gradient = jax.grad(lambda x: jnp.sum(function(*args[:by], x, *args[by + 1 :])))(args[by])
        case.near("gradient", case["grads"][0], gradient)


def activation(case):
    function = functools.partial(getattr(flaxmodels.activations, case["name"]), **case.options())
    value_and_gradient(case, function, case.args(), 0)


def regularizer(case):
    value_and_gradient(case, getattr(flaxmodels.regularizers, case["name"])(**case.options()), case.args(), 0)


def constraint(case):
    value_and_gradient(case, getattr(flaxmodels.constraints, case["name"])(**case.options()), case.args(), 0)


def loss(case):
    found = getattr(training.losses, case["name"])
    if case.get("function"):
        function = functools.partial(found, **case.options())
    else:
        weight = case.data(case["sample_weight"])
        function = functools.partial(found(**case.options()), **({} if weight is None else {"sample_weight": weight}))
    value_and_gradient(case, function, case.args(), 1)


def initializer(case):
    value = getattr(flaxmodels.initializers, case["name"])(**case.options())(
        jax.random.key(0), tuple(case["shape"]), jnp.float32
    )
    assert value.shape == tuple(case["shape"])
    if "outputs" in case:
        return case.near_all("value", case["outputs"], [value])
    flat = np.asarray(value, np.float64).reshape(-1, value.shape[-1])
    gram = flat @ flat.T if flat.shape[0] < flat.shape[1] else flat.T @ flat
    one = case["config"].get("gain", 1.0) ** 2 * np.eye(len(gram))
    measured = {"mean": flat.mean(), "std": flat.std(), "min": flat.min(), "max": flat.max()}
    measured["orthogonality"] = np.abs(gram - one).max()
    for key, (want, tolerance) in case["stats"].items():
        assert measured[key] == pytest.approx(want, abs=tolerance, rel=0), key


# ---------------------------------------------------------------- metrics, optimizers and schedules


def metric(case):
    found = getattr(training.metrics, case["name"])(**case.options(list))
    state = found.empty()
    for update in case["updates"]:
        weight = case.data(update["sample_weight"])
        more = {} if weight is None else {"sample_weight": weight}
        state = found.update(state, *[case.data(a) for a in update["args"]], **more)
    case.near_all("result", case["outputs"], [found.compute(state)])


def optimizer(case):
    transform = getattr(training.optimizers, case["name"])(**case.options())
    params = {name: case.data(value) for name, value in zip(case["names"], case["init"], strict=True)}
    state, update = transform.init(params), jax.jit(transform.update)
    seen = {name: [] for name in params}
    for step in case["steps"]:
        gradients = {name: case.data(g) for name, g in zip(case["names"], step, strict=True)}
        updates, state = update(gradients, state, params)
        params = jax.tree.map(jnp.add, params, updates)
        for name, value in params.items():
            seen[name].append(np.asarray(value))
    for name, expected in zip(case["names"], case["outputs"], strict=True):
        case.near(name, expected, np.stack(seen[name]))


def schedule(case):
    found = getattr(training.schedules, case["name"])(**case.options())
    case.near_all("values", case["outputs"], [np.asarray([float(found(step)) for step in case["steps"]])])


KINDS = {
    "activation": activation,
    "constraint": constraint,
    "initializer": initializer,
    "layer": layer,
    "loss": loss,
    "metric": metric,
    "optimizer": optimizer,
    "regularizer": regularizer,
    "schedule": schedule,
}
