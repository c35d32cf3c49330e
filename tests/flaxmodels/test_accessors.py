"""Accessors of symbols and layers by Keras' names, compared with Keras where it has them."""

import re

import keras
import pytest

from flaxmodels import Input, Model, Sequential, layers


def raises(kind, sentence):
    return pytest.raises(kind, match=f"^{re.escape(sentence)}$")


def functional(lib, make_input, make_model):
    x = make_input((4,), name="x")
    return make_model(x, lib.Dense(2, name="head")(lib.Dense(3, name="hidden")(x)))


@pytest.mark.parametrize("made", [lambda m: m.input, lambda m: m.output, lambda m: m.get_layer("hidden").output])
def test_shapes_as_in_keras(made):
    ours = functional(layers, Input, Model)
    theirs = functional(keras.layers, keras.Input, keras.Model)
    assert made(ours).shape == made(theirs).shape
    part = Model(ours.input, made(ours)) if made(ours) is not ours.input else ours
    assert part.input_shape == ours.input_shape == theirs.input_shape
    assert [x.shape for x in ours.inputs + ours.outputs] == [x.shape for x in theirs.inputs + theirs.outputs]


def test_a_sequential_records_its_layers_once():
    model = Sequential([Input((4,)), layers.Dense(3, name="hidden"), layers.Dense(2)])
    model.add(layers.Dense(5))
    model.pop()
    model.summary(lambda text: None)
    part = Model(model.input, [layer.output for layer in model.layers])
    assert part.output_shape == [(None, 3), (None, 2)]
    assert model.get_layer("hidden").output is model.layers.outputs[0]
    assert model.output is model.get_layer(index=1).output


def test_the_first_call_decides_as_in_keras():
    dense = layers.Dense(2)
    a, b = Input((3,)), Input((3,))
    first = dense(a)
    dense(b)
    assert dense.output is first and dense.input is a
    assert not hasattr(dense.clone(), "output")


def test_structures_and_lists():
    a, b = Input((3,), name="a"), Input((4,), name="b")
    model = Model({"a": a, "b": b}, {"y": layers.Dense(2)(a), "z": b})
    assert model.input == {"a": a, "b": b} and set(model.output) == {"y", "z"}
    assert model.inputs == [a, b] and len(model.outputs) == 2
    assert model.input_shape == {"a": (None, 3), "b": (None, 4)}
    assert Model(model.inputs, model.output["y"]).output_shape == (None, 2)


def test_nested_models():
    inner = functional(layers, Input, Model)
    x = Input((4,))
    outer = Model(x, inner(x) * 2.0)
    nested = outer.get_layer("model")
    assert nested is inner
    assert Model(nested.input, nested.get_layer("hidden").output).output_shape == (None, 3)


def test_missing_symbols_and_layers():
    with raises(AttributeError, "Dense has no `output`, because it has not been called on a symbol; call it on Input(...), "
                "or get it from a model whose input is known."):  # fmt: skip
        _ = layers.Dense(2).output
    model = Sequential([layers.Dense(2)])
    with raises(AttributeError, "Sequential has no `inputs` without a known input; add Input(shape) first, or give the "
                "first layer `input_shape`."):  # fmt: skip
        _ = model.inputs
    assert model.input_shape is None
    with raises(ValueError, "Unknown layer of Sequential 'dens'. Did you mean 'dense'? Known: 'dense'."):
        model.get_layer("dens")
    with raises(ValueError, "`index` must be a position among the 1 layers of Sequential, got 3; give an integer below this "
                "number."):  # fmt: skip
        model.get_layer(index=3)
    with raises(
        ValueError, "get_layer takes either `name` or `index`, got name=None and index=None; give one of them."
    ):
        model.get_layer()


@pytest.mark.parametrize("name", ["compile", "fit", "predict", "evaluate", "save", "optimizer", "get_weights"])
def test_attributes_of_stateful_models(name):
    with raises(AttributeError, f"Sequential is a pure module, which holds no variables and has no `{name}`; use "
                "training.Trainer(model), or make the model with `from training import keras`."):  # fmt: skip
        getattr(Sequential(), name)
    assert not hasattr(Sequential(), name)
