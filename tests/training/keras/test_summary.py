"""The tables of `summary`, the texts of layers and symbols, and models with one listed output, compared with Keras."""

import jax
import keras as theirs
import numpy as np
import pytest

from training import keras


@pytest.fixture(autouse=True)
def _promotion_as_in_programs():
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def same(function):
    """Asserts that a function of the library has the same result here and in Keras; returns the result."""
    results = []
    for library in (keras, theirs):
        library.utils.clear_session()
        results.append(function(library))
    assert results[0] == results[1]
    return results[0]


def table(model, **options):
    texts = []
    model.summary(print_fn=texts.append, **options)
    return texts[0]


def branches(k):
    a, b, shared = k.Input((4,)), k.Input((4,), name="b"), k.layers.Dense(4)
    joined = k.ops.relu(k.layers.Concatenate()([shared(a), shared(b)]))
    states = k.layers.LSTM(3, return_state=True)(k.layers.Reshape((4, 2))(joined))
    frozen = k.layers.BatchNormalization(trainable=False)
    inner = k.Sequential([k.Input((3,)), k.layers.Dense(2), frozen], name="inner")
    return k.Model([a, b], [inner(states[0])])


OPTIONS = [
    {},
    {"expand_nested": True, "show_trainable": True, "line_length": 78},
    {"layer_range": ["dense.*", "lstm"]},
    {"positions": [0.4, 0.6, 0.7, 1.0], "line_length": 70},
]


def test_table_of_a_graph_and_of_its_optimizer():
    def tables(k):
        model = branches(k)
        found = [table(model, **options) for options in OPTIONS]
        model.compile("adam", "mse")
        model.fit([np.ones((2, 4))] * 2, np.ones((2, 2)), verbose=0)
        return [*found, table(model)]

    assert "Optimizer params: 202 (808.00 B)" in same(tables)[-1]


def test_table_of_a_stack_before_and_after_it_is_built():
    def tables(k):
        stack = k.Sequential([k.layers.Dense(3), k.layers.Dropout(0.5), k.layers.Dense(2)])
        before = table(stack)
        stack(np.ones((5, 4), "float32"))
        return before, table(stack), table(k.Sequential()), table(k.Sequential([k.Input((3,))])), len(stack.inputs)

    assert "0 (unbuilt)" in same(tables)[0]


def test_table_of_a_class():
    def tables(k):
        class Network(k.Model):
            def __init__(self):
                super().__init__()
                self.stack, self.drop = k.Sequential([k.layers.Dense(3), k.layers.Dense(1)]), k.layers.Dropout(0.2)
                self.norm, self.unused = k.layers.BatchNormalization(), k.layers.Dense(7)

            def call(self, x):
                return self.stack(self.drop(self.norm(x)))

        model = Network()
        before = table(model)
        model(np.ones((6, 4), "float32"))
        return before, table(model), table(model, expand_nested=True, show_trainable=True)

    with pytest.warns(UserWarning, match="build"):  # Keras warns of a class without `build`
        assert "(6, 4)" in same(tables)[1]


def test_texts_of_layers_symbols_and_inputs():
    def texts(k):
        model = branches(k)
        config = model.layers[0].get_config()
        return [repr(model), repr(model.layers), repr(model.inputs), repr(k.layers.Dense(1)), config]

    same(texts)


def test_a_listed_output_is_returned_itself():
    def shapes(k):
        x = k.Input((3,))
        model = k.Model([x], [k.layers.Dense(2)(x)])
        model.compile("sgd", "mse")
        model.fit(np.ones((4, 3)), np.ones((4, 2)), verbose=0)
        outputs = model.predict(np.ones((4, 3)), verbose=0), model([np.ones((4, 3), "float32")])
        return [output.shape for output in outputs], model.input_shape, model.output_shape, len(model.output)

    assert same(shapes) == ([(4, 2), (4, 2)], (None, 3), (None, 2), 1)


def test_variables_of_a_class_equal_its_weights():
    class Linear(keras.layers.Layer):
        def build(self, input_shape):
            self.w, self.b = self.add_weight(shape=(input_shape[-1], 2)), self.add_weight(shape=(2,))

        def call(self, x):
            return x @ self.w + self.b

    linear = Linear()
    linear(np.ones((1, 3), "float32"))
    assert linear.weights == [linear.w, linear.b]


def refusal(function):
    with pytest.raises(ValueError) as error:
        function()
    return str(error.value)


def test_tables_that_do_not_fit():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    assert refusal(lambda: model.summary(line_length=10)) == (
        "Each column of a summary needs at least 4 characters, got 2 with a line of 10 and ends at [0.45, 0.8, 1.0]; "
        "give a greater `line_length` or other `positions`."
    )
    assert refusal(lambda: model.summary(positions=[1.0])) == (
        "`positions` must have one number for each of the 3 columns, got [1.0]; give the end of each column as a share "
        "of the line."
    )
    assert refusal(lambda: model.summary(layer_range=["a"])) == (
        "`layer_range` must hold the names of the first and the last layer, got ['a']; give two strings."
    )
