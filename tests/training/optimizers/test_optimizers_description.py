"""Descriptions of optimizers are reproducible, and differ if any argument differs."""

import inspect
import itertools
import json
import re
import types

import jax
import jax.numpy as jnp
import optax
import pytest

from training import optimizers, schedules
from training.optimizers import adam, adaptive, gradient, names, wrappers

ALL = {name: optimizers.get(name) for name in (*names.OPTIMIZERS, *names.OPTAX)}
# Another value for each argument.
OTHERS = {
    "learning_rate": 0.5,
    "ema_overwrite_frequency": 7,
    "gradient_accumulation_steps": 3,
    "name": "other",
    "exclude_from_weight_decay": ("bias",),
    "exclude_layers": ("bias",),
    "warmup_steps": 9,
    "ns_steps": 9,
    "learning_rate_power": -0.25,
    "beta_2_decay": -0.5,
}
# Arguments that require another argument.
TOGETHER = {
    "ema_momentum": {"use_ema": True},
    "ema_overwrite_frequency": {"use_ema": True},
    "exclude_from_weight_decay": {"weight_decay": 0.1},
}
# Arguments that variables with other names hold.
INSIDE = {"learning_rate_power": "q", "l1_regularization_strength": "l1", "exclude_layers": "patterns"}


def changes(before, now):
    described = (optimizers.describe(optimizer) for optimizer in (before, now))
    return optimizers.differences(*described)


def test_descriptions_are_reproducible():
    for name, optimizer in ALL.items():
        description = optimizers.describe(optimizer)
        assert description == json.loads(json.dumps(optimizers.describe(optimizers.get(name)))), name
        assert " at 0x" not in json.dumps(description)


def test_different_optimizers_have_different_descriptions():
    for (a, first), (b, second) in itertools.combinations(ALL.items(), 2):
        assert changes(first, second), (a, b)


@pytest.mark.parametrize("name", names.OPTIMIZERS)
def test_every_argument_is_in_the_description(name):
    make = names.OPTIMIZERS[name]
    for argument, parameter in inspect.signature(make).parameters.items():
        other = OTHERS.get(argument, 0.125 if parameter.default != 0.125 else 0.25)
        if isinstance(parameter.default, bool):
            other = not parameter.default
        given = TOGETHER.get(argument, {})
        description = [
            optimizers.name_of(path) for path, _, _ in changes(make(**given), make(**given | {argument: other}))
        ]
        if argument == "relative_step":  # of Adafactor; it changes nothing, as in Keras
            continue
        assert INSIDE.get(argument, argument) in description, (argument, description)


def test_optimizers_of_the_same_name_and_arguments_differ():
    one_name = {name: make(name="one") for name, make in names.OPTIMIZERS.items()}
    for (a, first), (b, second) in itertools.combinations(one_name.items(), 2):
        assert changes(first, second), (a, b)
    difference = changes(optimizers.Adamax(name="one"), optimizers.Lamb(name="one"))
    assert [(optimizers.name_of(path), before, now) for path, before, now in difference][0] == (
        "name",
        "adamax",
        "lamb",
    )


# Module, name of a function, and an optimizer that uses the function.
INTERNAL = {
    "the rule of Adam": (adam, "_adam_rule", lambda module: module.Adam()),
    "the slots of Nadam": (adam, "_zero_moments", lambda module: module.Nadam()),
    "a local function of Ftrl": (adaptive, "slots", lambda module: module.Ftrl()),
    "a captured function of Muon": (gradient, "is_adam", lambda module: module.Muon(exclude_layers="head")),
    "a captured function of by_path": (wrappers, "label", lambda module: module.by_path({"w": "adam"}, "sgd")),
}


@pytest.mark.parametrize("case", INTERNAL)
def test_names_of_internal_functions_are_left_out(case):
    module, name, make = INTERNAL[case]
    source = re.sub(rf"\b{name}\b", "renamed", inspect.getsource(module))
    copy = types.ModuleType(module.__name__)
    exec(compile(source, module.__file__, "exec"), copy.__dict__)
    before, now = optimizers.describe(make(module)), optimizers.describe(make(copy))
    assert not optimizers.differences(before, now)
    assert before and "renamed" not in json.dumps(now)


def test_entries_of_the_learning_rate_are_recognized():
    for before, now in (
        (optimizers.SGD(0.1), optimizers.SGD(0.2)),
        (optimizers.SGD(schedules.CosineDecay(0.1, 10)), optimizers.SGD(schedules.CosineDecay(0.1, 20))),
        (optimizers.SGD(lambda step: 0.1 * step), optimizers.SGD(optax.cosine_decay_schedule(0.1, 10))),
        (optimizers.LossScaleOptimizer(optimizers.SGD(0.1)), optimizers.LossScaleOptimizer(optimizers.SGD(0.2))),
    ):
        assert {optimizers.is_learning_rate(path) for path, _, _ in changes(before, now)} == {True}
    assert not any(optimizers.is_learning_rate(p) for p, _, _ in changes(ALL["adam"], ALL["adamw"]))


def test_captured_variables_are_described():
    def made(value):
        def again(n):
            return value if n == 0 else again(n - 1)

        return optax.stateless(lambda updates, params: jax.tree.map(lambda u: u * again(0), updates))

    assert not changes(made(2.0), made(2.0))
    assert [(optimizers.name_of(p), a, b) for p, a, b in changes(made(2.0), made(3.0))] == [("value", 2.0, 3.0)]
    arrays = made(jnp.ones(3)), made(jnp.zeros(3))
    assert changes(*arrays)
    assert not changes(arrays[0], made(jnp.ones(3)))
    keys = made(jax.random.key(0)), made(jax.random.key(1))
    assert changes(*keys)
