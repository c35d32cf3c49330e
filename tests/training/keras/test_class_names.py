"""Every public name of Keras' classes is here, or refused with a sentence."""

import dataclasses
import inspect

import jax
import keras as theirs
import numpy as np
import pytest

from training import keras
from training.keras import refused_methods
from training.keras.variables import KERAS_NAMES

MODULES = (
    "callbacks constraints dtype_policies initializers layers losses metrics optimizers optimizers.schedules random "
    "regularizers utils"
).split()


# Public names in Keras that programs have no reason to use.
NOT_APPLICABLE = {
    ("AUC", "interpolate_pr_auc"),  # what `result` computes with
    ("TensorBoard", "summary"),  # TensorFlow's module of summaries
}
# Attributes of the objects.
OF_OBJECTS = {("DTypePolicy", name) for name in ("name", "compute_dtype", "variable_dtype")} | {
    ("InputLayer", "input"),
    ("InputLayer", "output"),
}


@pytest.fixture(autouse=True)
def _as_keras_promotes():
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


def _module(root, path):
    for part in filter(None, path.split(".")):
        root = getattr(root, part)
    return root


def _classes():
    seen = set()
    for path in ("", *MODULES):
        module = _module(theirs, path)
        for name in dir(module):
            cls = getattr(module, name)
            if name.startswith("_") or not inspect.isclass(cls) or cls in seen:
                continue
            seen.add(cls)
            try:
                yield f"{path}.{name}", cls, getattr(_module(keras, path), name)
            except AttributeError:
                continue  # the class is refused, as test_refused.py shows


def _is_here(cls, name):
    fields = {field.name for field in dataclasses.fields(cls)} if dataclasses.is_dataclass(cls) else set()
    declared = getattr(cls, "WEIGHTS", ())
    weights = {KERAS_NAMES.get(name, name) for name in (declared if isinstance(declared, tuple) else ())}
    return hasattr(cls, name) or name in fields | weights


def test_every_public_name_of_a_class_is_here_or_refused():
    missing = [
        f"{path}.{name}"
        for path, cls, ours in _classes()
        for name in dir(cls)
        if not name.startswith("_")
        and not _is_here(ours, name)
        and refused_methods.alternative(ours, name) is None
        and (ours.__name__, name) not in NOT_APPLICABLE | OF_OBJECTS
    ]
    assert missing == []


def test_refused_names_are_those_of_keras_and_not_here():
    classes = list(_classes())
    for name, methods in refused_methods.REFUSED.items():
        named = [(cls, ours) for _, cls, ours in classes if name in {base.__name__ for base in ours.__mro__}]
        assert named, name
        for method in methods:
            assert any(hasattr(cls, method) for cls, _ in named), (name, method)
            # The class itself; a subclass may have the method.
            own = [ours for _, ours in named if ours.__name__ == name]
            assert not any(_is_here(ours, method) for ours in own), (name, method)
    policy = keras.DTypePolicy("float32")
    assert (policy.name, policy.compute_dtype, policy.variable_dtype) == ("float32",) * 3


@pytest.mark.parametrize(
    ("make", "name", "sentence"),
    [
        (
            lambda: keras.layers.Dense(2),
            "quantize",
            "Dense.quantize of Keras is not part of training.keras; layers are not quantized here; use the policy "
            "'mixed_bfloat16'.",
        ),
        (
            lambda: keras.Sequential([keras.layers.Dense(2)]),
            "train_step",
            "Sequential.train_step of Keras is not part of training.keras; override compute_loss, or pass a training "
            "step to training.Trainer(train_step=...).",
        ),
        (
            lambda: keras.optimizers.SGD(),
            "update_step",
            "SGD.update_step of Keras is not part of training.keras; write the rule as an optax transformation and "
            "pass it to compile.",
        ),
        (
            lambda: keras.layers.InputLayer((3,)),
            "call",
            "InputLayer.call of Keras is not part of training.keras; an input computes nothing and has no weights; use "
            "its `output`.",
        ),
        (
            lambda: keras.DTypePolicy("float32"),
            "convert_input",
            "DTypePolicy.convert_input of Keras is not part of training.keras; use keras.ops.cast.",
        ),
    ],
)  # fmt: skip
def test_a_refused_name_raises_its_sentence(make, name, sentence):
    made = make()
    with pytest.raises(AttributeError) as caught:
        getattr(made, name)
    assert str(caught.value) == sentence
    assert not hasattr(made, name)
    with pytest.raises(AttributeError, match="no_such_name"):
        made.no_such_name  # noqa: B018


@pytest.mark.parametrize("lib", [keras, theirs])
def test_build_configs(lib):
    def config(layer, *args):
        layer(*args)
        return layer.get_build_config()

    symbol = lib.Input((3, 4))
    assert lib.layers.Dense(2).get_build_config() is None
    assert config(lib.layers.Dense(2), symbol) == {"input_shape": (None, 3, 4)}
    assert config(lib.layers.LSTM(2), symbol) == {"input_shape": (None, 3, 4)}
    assert config(lib.layers.Add(), [symbol, symbol]) == {"input_shape": [(None, 3, 4), (None, 3, 4)]}
    assert config(lib.layers.MultiHeadAttention(2, 2), symbol, symbol) == {
        "shapes_dict": {"query_shape": (None, 3, 4), "value_shape": (None, 3, 4)}
    }
    layer = lib.layers.Dense(2)
    layer.build_from_config({"input_shape": (None, 5)})
    assert layer.kernel.shape == (5, 2)
    assert lib.layers.Dense(2).compute_output_spec(symbol).shape == (None, 3, 2)


@pytest.mark.parametrize("lib", [keras, theirs])
def test_attributes_of_a_compiled_model(lib):
    model = lib.Sequential([lib.Input((3,)), lib.layers.Dense(2, kernel_initializer="ones", name="d")], name="model")
    metric = lib.metrics.MeanAbsoluteError("error")
    assert (model.run_eagerly, model.jit_compile, model.steps_per_execution) == (False, True, 1)
    model.compile(lib.optimizers.SGD(0.5, name="sgd"), "mse", steps_per_execution=2, metrics=[metric])
    assert model.steps_per_execution == 2
    optimizer = model.optimizer
    assert [v.name for v in optimizer.variables] == ["iteration", "learning_rate"]
    assert [float(np.asarray(v.value)) for v in optimizer.variables] == [0.0, 0.5]
    optimizer.variables[1].assign(0.25)
    assert float(optimizer.learning_rate) == 0.25
    x, y = np.ones((4, 3), "float32"), np.zeros((4, 2), "float32")
    model.fit(x, y, verbose=0)
    tree = model.get_state_tree("numpy_array")
    assert {k: sorted(v) for k, v in tree.items()} == {
        "trainable_variables": ["model"], "non_trainable_variables": [], "optimizer_variables": ["sgd"],
        "metrics_variables": ["error", "loss"],
    }  # fmt: skip
    kernel = tree["trainable_variables"]["model"]["d"]["kernel"]
    np.testing.assert_allclose(kernel, np.full((3, 2), 0.25))
    model.set_state_tree({"trainable_variables": {"model": {"d": {"kernel": kernel + 1}}}})
    np.testing.assert_allclose(model.get_weights()[0], kernel + 1)
    store = {}
    model.layers[-1].save_own_variables(store)
    assert sorted(store) == ["0", "1"]
    model.layers[-1].load_own_variables({"0": kernel, "1": np.ones(2)})
    np.testing.assert_allclose(model.get_weights()[1], [1, 1])
    store = {}
    optimizer.save_own_variables(store)
    assert sorted(store) == ["0", "1"] and int(np.asarray(store["0"])) == 1


def test_sentences_about_states(tmp_path):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="d")], name="model")
    layer, optimizer = model.layers[-1], keras.optimizers.SGD()
    counted = keras.Sequential([keras.Input((3,)), _counted_class(keras)(2)])
    path = str(tmp_path / "model.safetensors")
    cases = [
        (
            lambda: model.get_state_tree("tensor"),
            "`value_format` must be one of backend_tensor, numpy_array, got 'tensor'; choose one.",
        ),
        (
            lambda: model.set_state_tree({"weights": {}}),
            "A state tree has the groups trainable_variables, non_trainable_variables, optimizer_variables, "
            "metrics_variables, got 'weights'; leave it out.",
        ),
        (
            lambda: model.set_state_tree({"trainable_variables": [1]}),
            "`trainable_variables` of a state tree must be a dictionary, got list; pass nested dictionaries as "
            "get_state_tree returns them.",
        ),
        (
            lambda: model.set_state_tree({"trainable_variables": {"e": {"kernel": 1}}}),
            "model has no variable 'e/kernel' among its trainable_variables; leave it out of the tree.",
        ),
        (
            lambda: layer.load_own_variables({"0": np.ones((3, 2))}),
            "d has 2 own weights, got 1 values; build the layer first, or save it again.",
        ),
        (
            lambda: optimizer.set_weights([1]),
            "set_weights of SGD needs 2 arrays, one for each variable, got 1; call build(variables) first if the "
            "optimizer has no state yet.",
        ),
        (
            lambda: optimizer.set_weights([0, np.ones(2)]),
            "'learning_rate' of SGD has the shape (), got an array of shape (2,); pass the arrays in the order of "
            "`variables`.",
        ),
        (
            lambda: counted.save(path),
            "Only Keras' formats hold what `save_own_variables` of Counted writes, got "
            f"{path!r}; use a '.keras' or '.weights.h5' file.",
        ),
    ]
    for call, sentence in cases:
        with pytest.raises((ValueError, TypeError)) as caught:
            call()
        assert str(caught.value) == sentence


def test_variables_of_all_optimizers_before_the_first_step():
    names = "SGD RMSprop Adam AdamW Adadelta Adagrad Adamax Adafactor Nadam Ftrl Lion Lamb Muon ScheduleFreeAdamW"
    for lib in (keras, theirs):
        for name in names.split():
            optimizer = getattr(lib.optimizers, name)(name="own")
            assert [v.path for v in optimizer.variables] == ["own/iteration", "own/learning_rate"]
            assert not optimizer.built
            if lib is keras:  # Keras raises before the state exists
                optimizer.set_weights([0, 0.125])
                assert float(optimizer.learning_rate) == 0.125
        scheduled = lib.optimizers.Adam(lib.optimizers.schedules.CosineDecay(0.1, 10), name="own")
        assert [v.path for v in scheduled.variables] == ["own/iteration"]
        scaled = lib.optimizers.LossScaleOptimizer(scheduled, name="scale")
        assert [v.path for v in scaled.variables] == ["scale/iteration", "scale/learning_rate", "own/iteration"]


def test_callbacks_ask_their_own_methods():
    for lib in (keras, theirs):

        class Stopping(lib.callbacks.EarlyStopping):
            def get_monitor_value(self, logs):
                return logs["loss"] + logs["mae"]

        model = lib.Sequential([lib.Input((3,)), lib.layers.Dense(2, kernel_initializer="ones")])
        model.compile(lib.optimizers.SGD(0.0), "mse", metrics=["mae"])
        stopping = Stopping("sum", mode="min", patience=2)
        history = model.fit(
            np.ones((4, 3), "float32"), np.zeros((4, 2), "float32"), epochs=9, verbose=0, callbacks=[stopping]
        )
        assert len(history.history["loss"]) == 3 and float(stopping.best) == 12.0
        plateau = lib.callbacks.ReduceLROnPlateau(cooldown=3)
        plateau.cooldown_counter = 2
        assert plateau.in_cooldown() is True


def _counted_class(lib):
    @lib.saving.register_keras_serializable(package="own")
    class Counted(lib.layers.Layer):
        def __init__(self, units, **kwargs):
            super().__init__(**kwargs)
            self.units, self.history = units, [1.0]

        def build(self, shape):
            self.w = self.add_weight(shape=(shape[-1], self.units), initializer="ones")

        def call(self, x):
            return lib.ops.matmul(x, self.w)

        def save_own_variables(self, store):
            super().save_own_variables(store)
            store["history"] = np.asarray(self.history)

        def load_own_variables(self, store):
            self.w.assign(store["0"])
            self.history = np.asarray(store["history"]).tolist()

        def get_config(self):
            return super().get_config() | {"units": self.units}

    return Counted


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
def test_a_class_decides_what_a_file_holds(tmp_path, suffix):
    loaded = {}
    for lib in (keras, theirs):
        counted = _counted_class(lib)

        def make(lib=lib, counted=counted):
            return lib.Sequential([lib.Input((3,)), lib.layers.Dense(3), counted(2)])

        model = make()
        model.layers[-1].history = [3.0, 4.0, 5.0]
        model.set_weights([np.full(w.shape, i) for i, w in enumerate(model.get_weights())])
        file = str(tmp_path / f"{lib.__name__}{suffix}")
        (model.save if suffix == ".keras" else model.save_weights)(file)
        for path in [file, *loaded]:  # here, also Keras' file, and the reverse
            if suffix == ".keras" and path == file:
                other = lib.saving.load_model(path)
            else:
                other = make()
                other.load_weights(path)
            assert other.layers[-1].history == [3.0, 4.0, 5.0]
            for a, b in zip(other.get_weights(), model.get_weights(), strict=True):
                np.testing.assert_array_equal(a, b)
        loaded[file] = True
