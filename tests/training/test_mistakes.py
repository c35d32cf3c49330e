"""More than a hundred common mistakes and their complete error messages; valid but suspicious programs give a warning."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxmodels as fm
from flaxmodels import Input, Model, Sequential, interop, layers, models
from training import Trainer, callbacks, datasets, losses, optimizers, schedules

R = np.random.default_rng(0)
X, Y = R.normal(size=(12, 4)).astype("float32"), R.integers(0, 3, 12).astype("int32")
HOT, IM = np.eye(3, dtype="float32")[Y], R.random((6, 8, 8, 1)).astype("float32")
nan = X.copy()
nan[:, 2] = np.nan


def mlp(act="softmax", out=3):
    return Sequential([Input((4,)), layers.Dense(out, activation=act)])


def two_outputs():
    x = Input((4,))
    return Trainer(Model(x, [layers.Dense(3, name="b")(x), layers.Dense(2, name="a")(x)]), "sgd", "mse")


def named_inputs():
    x = {"age": Input((4,)), "kind": Input((4,))}
    return Trainer(Model(x, layers.Dense(3)(layers.Add()([x["age"], x["kind"]]))), "sgd", "mse")


class MyBinary(losses.BinaryCrossentropy):
    pass


class MyDense(layers.Dense):
    pass


class Doubled(layers.Dense):
    def compute(self, inputs):
        return 2 * super().compute(inputs)


def tr(**arguments):
    given = {"optimizer": "sgd", "loss": "categorical_crossentropy", "metrics": ["accuracy"]} | arguments
    return Trainer(mlp(), **given)


def fit(trainer, x=X, y=HOT, **arguments):
    return trainer.fit(x, y, **{"verbose": 0} | arguments)


# After "...", a message continues with the known names, or with the text of the command line library.
MISTAKES = {
    "units str": (lambda: layers.Dense("10"), "`units` of Dense must be a positive integer, got '10'; give 1 or more."),
    "units 0": (lambda: layers.Dense(0), "`units` of Dense must be a positive integer, got 0; give 1 or more."),
    "activation typo": (
        lambda: layers.Dense(2, activation="sofmax"),
        "`activation` of Dense cannot be used: Unknown activation 'sofmax'. Did you mean 'softmax'? Known:...",
    ),
    "layer class": (
        lambda: Sequential([layers.Dense]),
        "Sequential takes layers, linen modules and Input(...), got <class 'flaxmodels.layers.dense.Dense'> of type "
        "type; create a layer, such as layers.Dense(10).",
    ),
    "not a layer": (
        lambda: Sequential([Input((4,)), "relu"]),
        "Sequential takes layers, linen modules and Input(...), got 'relu' of type str; create a layer, such as "
        "layers.Dense(10).",
    ),
    "no list": (
        lambda: Sequential(layers.Dense(2), layers.Dense(3)),
        "`layers` of Sequential must be a list of layers, got a Dense; write Sequential([...]).",
    ),
    "same name": (
        lambda: Sequential([layers.Dense(2, name="a"), layers.Dense(2, name="a")]),
        "Layers of one model need different names, got 'a' 2 times; give each layer another `name`, or none.",
    ),
    "input after": (
        lambda: Sequential([layers.Dense(2), Input((4,))]),
        "Input(...) must come first in a Sequential, got it after 1 layer; move it to the front.",
    ),
    "input none": (
        lambda: Input((None, "a")),
        "The sizes of an input shape must be positive integers or None, got 'a' in (None, 'a'); leave the batch out and give the shape of one example.",
    ),
    "model no outputs": (
        lambda: Model(Input((4,)), None),
        "The outputs of a Model must be symbols, made by Input(...) and by calling layers on them, got none; write x = Input(shape), y = layer(x), Model(x, y).",
    ),
    "model forgot input": (
        lambda: (lambda a, b: Model(a, layers.Add()([layers.Dense(2)(a), layers.Dense(2)(b)])))(
            Input((4,)), Input((4,))
        ),
        "The outputs of a Model must depend only on its `inputs`, got outputs that also need <Symbol shape=(None, 4) dtype=float32 input None>; add it to `inputs`.",
    ),
    "call layer on array": (
        lambda: layers.Dense(2)(X),
        "Dense holds no parameters, so it cannot be called on an array directly; use variables = "
        "layer.init(jax.random.key(0), x) and layer.apply(variables, x).",
    ),
    "conv on flat": (
        lambda: Sequential([Input((28, 28)), layers.Conv2D(4, 3)]),
        "Conv2D 'conv2d' takes inputs of 4 axes [B, H, W, C], got shape (61, 28, 28); add an axis, or use a layer "
        "for 3 axes.",
    ),
    "conv channels first by accident": (
        lambda: Sequential([Input((3, 32, 32)), layers.Conv2D(4, (5, 5))]),
        "Conv2D 'conv2d' with padding='valid' has a window of 5 positions on axis 1, got inputs of shape (61, 3, 32, "
        "32); make `kernel_size` smaller, or use padding='same'.",
    ),
    "kernel too large": (
        lambda: Sequential([Input((2, 2, 1)), layers.Conv2D(4, 3)]),
        "Conv2D 'conv2d' with padding='valid' has a window of 3 positions on axis 1, got inputs of shape (61, 2, 2, "
        "1); make `kernel_size` smaller, or use padding='same'.",
    ),
    "pool too large": (
        lambda: Sequential([Input((2, 2, 1)), layers.MaxPooling2D(3)]),
        "MaxPooling2D 'max_pooling2d' with padding='valid' has a window of 3 positions on axis 1, got inputs of "
        "shape (61, 2, 2, 1); make `pool_size` smaller, or use padding='same'.",
    ),
    "padding typo": (
        lambda: layers.Conv2D(4, 3, padding="smae"),
        "`padding` of Conv2D must be one of 'valid', 'same', got 'smae'; use one of these.",
    ),
    "strides 0": (
        lambda: layers.Conv2D(4, 3, strides=0),
        "`strides` of Conv2D must be an integer of at least 1, or a tuple of 2 of them, got 0; give 1 or more for each axis.",
    ),
    "groups": (
        lambda: Sequential([Input((8, 8, 3)), layers.Conv2D(4, 3, groups=2)]),
        "Conv2D 'conv2d' takes inputs whose channels are a multiple of `groups`=2, got 3 channels; change `groups`.",
    ),
    "lstm on 2d": (
        lambda: Sequential([Input((4,)), layers.LSTM(3)]),
        "LSTM 'lstm' takes inputs of 3 axes [B, T, F], got shape (61, 4); add an axis, or use a layer for 2 axes.",
    ),
    "stacked lstm without sequences": (
        lambda: Sequential([Input((5, 4)), layers.LSTM(3), layers.LSTM(3)]),
        "LSTM 'lstm_1' takes inputs of 3 axes [B, T, F], got shape (61, 3); add an axis, or use a layer for 2 axes.",
    ),
    "dropout rate": (
        lambda: layers.Dropout(1.5),
        "`rate` of Dropout must be a number in [0, 1], got 1.5; give, for example, 0.",
    ),
    "dropout percent": (
        lambda: layers.Dropout(50),
        "`rate` of Dropout must be a number in [0, 1], got 50; give, for example, 0.",
    ),
    "reshape": (
        lambda: Sequential([Input((4,)), layers.Reshape((3, 2))]),
        "Reshape 'reshape' needs 6 values in each example for `target_shape`=(3, 2), got inputs of shape (61, 4); "
        "give a shape of the same size.",
    ),
    "concat shapes": (
        lambda: layers.Concatenate()([Input((4, 5)), Input((3, 5, 2))]),
        "Concatenate concatenates arrays that differ only on `axis`=-1, got shapes [(61, 4, 5), (61, 3, 5, 2)]; "
        "reshape them, or choose another axis.",
    ),
    "add shapes": (
        lambda: layers.Add()([Input((4,)), Input((3,))]),
        "Add merges arrays whose sizes are equal or 1 on every axis, got shapes [(61, 4), (61, 3)]; reshape them to "
        "agree on axis 1.",
    ),
    "add one": (
        lambda: layers.Add()(Input((4,))),
        "Add merges a list of at least 1 array, got inputs of type DynamicJaxprTracer; give a list such as [a, b].",
    ),
    "embedding range": (
        lambda: (lambda e: e.init(jax.random.key(0), np.array([[5]])))(layers.Embedding(5, 2)),
        "Embedding takes integers from 0 to 4, got integers from 5 to 5; give a larger `input_dim`, or map unknown "
        "values to a reserved integer.",
    ),
    "embedding floats shape": (
        lambda: layers.Embedding(-1, 2),
        "`input_dim` of Embedding must be a positive integer, got -1; give 1 or more.",
    ),
    "merge mode": (
        lambda: layers.Bidirectional(layers.LSTM(2), merge_mode="add"),
        "`merge_mode` of Bidirectional must be 'concat', 'sum', 'ave', 'mul' or None, got 'add'; choose one.",
    ),
    "regularizer typo": (
        lambda: layers.Dense(2, kernel_regularizer="l3"),
        "`kernel_regularizer` of Dense cannot be used: Unknown regularizer 'l3'. Known:...",
    ),
    "initializer typo": (
        lambda: layers.Dense(2, kernel_initializer="glorot"),
        "`kernel_initializer` of Dense cannot be used: Unknown initializer 'glorot'. Did you mean 'glorot_normal'? "
        "Known:...",
    ),
    "constraint typo": (
        lambda: layers.Dense(2, kernel_constraint="nonneg"),
        "`kernel_constraint` of Dense cannot be used: Unknown constraint 'nonneg'. Did you mean 'non_neg'? Known:...",
    ),
    "mask shape": (
        lambda: (lambda l: l.init(jax.random.key(0), np.ones((2, 5, 3), np.float32), mask=np.ones((2, 4), bool)))(
            layers.LSTM(2)
        ),
        "LSTM takes a mask [B, T] of shape (2, 5), got (2, 4); give one boolean for each step of each example.",
    ),
    "model name": (lambda: models.get("resnet"), "Unknown model 'resnet'. Known:..."),
    "simple_cnn small": (
        lambda: models.simple_cnn((4, 4, 1), 10),
        "Conv2D 'conv2d_1' with padding='valid' has a window of 3 positions on axis 1, got inputs of shape (61, 2, "
        "2, 32); make `kernel_size` smaller, or use padding='same'.",
    ),
    "model class": (
        lambda: Trainer(Sequential, loss="mse"),
        "A Trainer trains a linen module, got <class 'flaxmodels.building.Sequential'> of type type; give a "
        "Sequential, a Model, or an nn.Module object.",
    ),
    "optimizer typo": (lambda: tr(optimizer="adm"), "Unknown optimizer 'adm'. Did you mean 'adam'? Known:..."),
    "two optimizers": (
        lambda: tr(optimizer=["adam", "sgd"]),
        "An optimizer must be a name, an optax transformation or a function (grads, params) -> updates, got ['adam', "
        "'sgd'].",
    ),
    "loss typo": (
        lambda: fit(tr(loss="categorical_crossentrpy")),
        "Unknown loss 'categorical_crossentrpy'. Did you mean 'categorical_crossentropy'? Known:...",
    ),
    "metric typo": (
        lambda: fit(tr(metrics=["acc uracy"])),
        "Unknown metric 'acc uracy'. Did you mean 'accuracy'? Known:...",
    ),
    "negative lr": (lambda: optimizers.Adam(-0.1), "`learning_rate` must be a number of at least 0, got -0.1."),
    "lr string": (
        lambda: optimizers.Adam("0.1"),
        "`learning_rate` must be a number or a function of the step, got '0.1'; to set an array, call "
        "set_learning_rate(opt_state, array).",
    ),
    "two clips": (
        lambda: optimizers.Adam(clipnorm=1.0, clipvalue=1.0),
        "At most one of `clipnorm`, `clipvalue` and `global_clipnorm` is allowed, got clipnorm=1.0, clipvalue=1.0.",
    ),
    "beta": (lambda: optimizers.Adam(beta_1=1.5), "`beta_1` must be a number of at least 0 and less than 1, got 1.5."),
    "optax typo": (
        lambda: tr(optimizer="optax.adm"),
        "Unknown optimizer 'optax.adm'. Did you mean 'optax.adam'? Known:...",
    ),
    "loss weights": (
        lambda: fit(tr(loss_weights=[1.0, 2.0])),
        "`loss_weights` must have one number for each of the outputs ['output'], got [1.0, 2.0]; give one number per "
        "output.",
    ),
    "steps per execution": (
        lambda: tr(steps_per_execution=0),
        "`steps_per_execution` must be 'auto' or a positive integer, got 0; use 'auto'.",
    ),
    "loss missing": (
        lambda: fit(tr(loss=None)),
        "Training needs a loss, got none and a model whose layers add none; write, for example, Trainer(model, loss='mse'), "
        "or call `add_loss` in a layer.",
    ),
    "nonfinite": (
        lambda: tr(nonfinite="raise"),
        "`nonfinite` must be 'stop', 'restore', 'skip' or 'ignore', got 'raise'; use one of them.",
    ),
    "sparse loss with one-hot": (
        lambda: fit(tr(loss="sparse_categorical_crossentropy")),
        "sparse_categorical_crossentropy takes one class index for each row of predictions, got `y` of shape (12, "
        "3) and the output of shape (12, 3); use categorical_crossentropy for one-hot labels.",
    ),
    "one-hot loss with indices": (
        lambda: fit(tr(), y=Y),
        "categorical_crossentropy takes labels and predictions of the same shape, got `y` of shape (12,) and the "
        "output of shape (12, 3); use sparse_categorical_crossentropy for class indices, or convert the labels to "
        "one-hot.",
    ),
    "labels out of range": (
        lambda: fit(tr(loss="sparse_categorical_crossentropy"), y=Y + 1),
        "Labels must lie in 0..2 for 3 classes, got 3 at index 3 and 3 more; number the classes from 0, give the "
        "last layer more units, or exclude a label with `ignore_class`.",
    ),
    "negative labels": (
        lambda: fit(tr(loss="sparse_categorical_crossentropy"), y=Y - 1),
        "Labels must lie in 0..2 for 3 classes, got -1 at index 0 and 5 more; number the classes from 0, give the "
        "last layer more units, or exclude a label with `ignore_class`.",
    ),
    "float labels": (
        lambda: fit(tr(loss="sparse_categorical_crossentropy"), y=Y + 0.5),
        "Labels must lie in 0..2 for 3 classes, got 0.5 at index 0 and 11 more; number the classes from 0, give the "
        "last layer more units, or exclude a label with `ignore_class`.",
    ),
    "y length": (
        lambda: fit(tr(), y=HOT[:5]),
        "All arrays must have one row per example, got x (12, 4), y (5, 3); give them the same length.",
    ),
    "x wrong shape": (
        lambda: fit(tr(), x=X[:, :3]),
        "Sequential takes inputs of shape (None, 4), got (12, 3); reshape the data, or change the model's input shape.",
    ),
    "strings": (
        lambda: fit(tr(), y=np.array(["a"] * 12)),
        "`y` must be an array of numbers, got text such as 'a'; encode text as numbers, for example with "
        "np.unique(values, return_inverse=True)[1].",
    ),
    "objects": (
        lambda: fit(tr(), x=np.array([object()] * 12)),
        "`x` must be an array of numbers, got <object object at 0x...",
    ),
    "text column": (
        lambda: fit(tr(), x=np.array([[1.0, "Rome"]] * 12, object)),
        "`x` must be an array of numbers, got text such as 'Rome' at [0, 1]; encode text as numbers, for example "
        "with np.unique(values, return_inverse=True)[1].",
    ),
    "missing value": (
        lambda: fit(tr(), x=np.array([[1.0, None]] * 12)),
        "`x` must be an array of numbers, got None of type NoneType at [0, 1]; fill missing values.",
    ),
    "numbers as objects": (
        lambda: fit(tr(), x=X.astype(object)),
        "`x` must be an array of numbers, got dtype object; convert it, for example with np.asarray(values, "
        "dtype='float32').",
    ),
    "dates": (
        lambda: fit(tr(), x=np.array(["2026-01-01"] * 12, "datetime64[D]")),
        "`x` must be an array of numbers, got dtype datetime64[D]; convert it, for example with np.asarray(values, "
        "dtype='float32').",
    ),
    "path": (
        lambda: fit(tr(), x="data.csv"),
        "`x` must be an array of numbers, got the text 'data.csv'; read the file or text first, and give arrays.",
    ),
    "wide integers": (
        lambda: fit(tr(), x=np.full((12, 4), 2**40)),
        "`x` must hold 32-bit integers, up to 2147483647, got values from 1099511627776 to 1099511627776; give "
        "smaller values, or convert them with np.asarray(values, dtype='float32').",
    ),
    "ragged": (
        lambda: fit(tr(), x=[[1.0, 2.0], [1.0]] * 6),
        "`x` must be an array of numbers, got lists of different lengths; pad them to one length.",
    ),
    "nan column": (
        lambda: fit(tr(), x=nan),
        "`x` must hold finite numbers, got nan at [0, 2] (non-finite: 12 of 48 values); remove or fill them, for "
        "example with np.nan_to_num.",
    ),
    "empty": (lambda: fit(tr(), x=X[:0], y=HOT[:0]), "There are no examples: x has shape (0, 4); give at least one."),
    "scalar": (
        lambda: fit(tr(), x=3.0),
        "`x` must have one row per example, got the single number 3.0; give an array [N, ...].",
    ),
    "no labels": (
        lambda: tr().fit(X),
        "`fit` needs labels, got none; write fit(x, y), or give a Split of datasets.load.",
    ),
    "batch 0": (
        lambda: fit(tr(), batch_size=0),
        "`batch_size` must be a positive integer, got 0; 32 is a usual choice.",
    ),
    "batch float": (
        lambda: fit(tr(), batch_size=2.5),
        "`batch_size` must be a positive integer, got 2.5; 32 is a usual choice.",
    ),
    "epochs negative": (
        lambda: fit(tr(), epochs=-1),
        "`epochs` must be a number of epochs, got -1; give an integer of at least 0.",
    ),
    "epochs float": (
        lambda: fit(tr(), epochs=1.5),
        "`epochs` must be a number of epochs, got 1.5; give an integer of at least 0.",
    ),
    "epochs str": (
        lambda: fit(tr(), epochs="3"),
        "`epochs` must be a number of epochs, got '3'; give an integer of at least 0.",
    ),
    "initial epoch": (
        lambda: fit(tr(), epochs=2, initial_epoch=5),
        "`epochs` is the number of the last epoch and must be at least `initial_epoch`, got 2 with initial_epoch=5; "
        "give a larger number.",
    ),
    "verbose": (
        lambda: fit(tr(), verbose="loud"),
        "`verbose` must be 'auto', 0 (silent), 1 (live) or 2 (a line per epoch), got 'loud'; use 'auto'.",
    ),
    "validation_split": (
        lambda: fit(tr(), validation_split=1.5),
        "`validation_split` must lie between 0 and 1, got 1.5; 0.2 takes the last fifth.",
    ),
    "validation data x": (
        lambda: fit(tr(), validation_data=X),
        "`validation_data` must be (x, y), (x, y, sample_weight), a Split or a stream of such batches, got an array "
        "of shape (12, 4); write validation_data=(x, y).",
    ),
    "validation data without y": (
        lambda: fit(tr(), validation_data=(X, None)),
        "`validation_data` must be (x, y), (x, y, sample_weight), a Split or a stream of such batches, got None for "
        "y; write validation_data=(x, y).",
    ),
    "validation data dict": (
        lambda: fit(tr(), validation_data={"x": X, "y": HOT}),
        "`validation_data` must be (x, y), (x, y, sample_weight), a Split or a stream of such batches, got a dict; "
        "write validation_data=(x, y).",
    ),
    "validation stream of x": (
        lambda: fit(tr(), validation_data=iter([X])),
        "`validation_data` needs labels, got none; write validation_data=(x, y), or give a Split of datasets.load.",
    ),
    "input missing": (
        lambda: named_inputs().fit({"age": X}, HOT, verbose=0),
        "Model takes inputs with the names ['age', 'kind'], got ['age']; add 'kind'.",
    ),
    "validation data len": (
        lambda: fit(tr(), validation_data=(X,)),
        "`validation_data` must be (x, y), (x, y, sample_weight), a Split or a stream of such batches, got 1 entry; "
        "write validation_data=(x, y).",
    ),
    "validation other classes": (
        lambda: fit(tr(), validation_data=(X, HOT[:, :2])),
        "categorical_crossentropy takes labels and predictions of the same shape, got `y` of shape (12, 2) and the "
        "output of shape (12, 3); reshape the labels, or change the number of units of the last layer.",
    ),
    "labels of more examples than a batch": (
        lambda: fit(tr(), validation_data=(np.tile(X, (3, 1)), np.tile(X, (3, 1))), batch_size=8),
        "categorical_crossentropy takes labels and predictions of the same shape, got `y` of shape (36, 4) and the "
        "output of shape (36, 3); reshape the labels, or change the number of units of the last layer.",
    ),
    "labels of a stream": (
        lambda: tr().fit([(X, HOT[:, :2])].__iter__(), verbose=0),
        "categorical_crossentropy takes labels and predictions of the same shape, got `y` of shape (12, 2) and the "
        "output of shape (12, 3); reshape the labels, or change the number of units of the last layer.",
    ),
    "validation_freq": (
        lambda: fit(tr(), validation_data=(X, HOT), validation_freq=0),
        "`validation_freq` must be a positive integer or a list of them, got 0; 1 validates after each epoch.",
    ),
    "class_weight key": (
        lambda: fit(tr(), class_weight={5: 1.0}),
        "The keys of `class_weight` must be classes of the labels, from 0 to 2, got 5; remove it.",
    ),
    "class_weight list": (
        lambda: fit(tr(), class_weight=[1, 2, 3]),
        "`class_weight` must be a dictionary from classes to factors, got [1, 2, 3]; write {0: 1.0, 1: 2.0}.",
    ),
    "class_weight str": (
        lambda: fit(tr(), class_weight="balanced"),
        "`class_weight` must be a dictionary from classes to factors, got 'balanced'; write {0: 1.0, 1: 2.0}.",
    ),
    "class and sample weight": (
        lambda: fit(tr(), class_weight={0: 1.0}, sample_weight=np.ones(12)),
        "Examples are weighted by `class_weight` or by `sample_weight`, got both; combine them into one.",
    ),
    "sample_weight length": (
        lambda: fit(tr(), sample_weight=np.ones(5)),
        "All arrays must have one row per example, got x (12, 4), y (12, 3), sample_weight (5,); give them the same "
        "length.",
    ),
    "callback class": (
        lambda: fit(tr(), callbacks=[callbacks.EarlyStopping]),
        "A callback must be an object, got the class EarlyStopping; write EarlyStopping().",
    ),
    "early stopping mode": (
        lambda: callbacks.EarlyStopping(mode="up"),
        "`mode` of EarlyStopping must be 'auto', 'min' or 'max', got 'up'; use one of them.",
    ),
    "shuffle": (
        lambda: fit(tr(), shuffle="batch"),
        "`shuffle` must be True or False, got 'batch'; True shuffles the examples in each epoch.",
    ),
    "steps_per_epoch": (
        lambda: fit(tr(), steps_per_epoch=0),
        "`steps_per_epoch` must be a positive integer or None, got 0; leave it out to take all batches.",
    ),
    "generator of x": (
        lambda: tr().fit(iter([X]), verbose=0),
        "`fit` needs labels, got none; write fit(x, y), or give a Split of datasets.load.",
    ),
    "generator empty": (
        lambda: tr().fit(iter([]), verbose=0),
        "`x` must be a stream of at least one batch, got none; give a stream that is not exhausted.",
    ),
    "y with stream": (
        lambda: tr().fit(iter([(X, HOT)]), HOT, verbose=0),
        "A stream has its own y, but fit got `y` as well; leave it out.",
    ),
    "mse with mismatched": (
        lambda: fit(Trainer(mlp(None, 2), "sgd", "mse"), y=X[:, :3]),
        "mean_squared_error takes labels and predictions of the same shape, got `y` of shape (12, 3) and the "
        "output of shape (12, 2); reshape the labels, or change the number of units of the last layer.",
    ),
    "metric of other labels": (
        lambda: fit(tr(loss="sparse_categorical_crossentropy", metrics=["mae"]), y=Y),
        "mean_absolute_error takes labels and predictions of the same shape, got `y` of shape (12,) and the output "
        "of shape (12, 3); reshape the labels, or change the number of units of the last layer.",
    ),
    "list of labels": (
        lambda: fit(tr(), y=[HOT, HOT, HOT]),
        "`y` must be one array for a model with one output, got 3 arrays; give one array [N, ...], or make a model "
        "with 3 outputs.",
    ),
    "labels of two outputs by other names": (
        lambda: fit(two_outputs(), y={"a": X[:, :2], "c": X[:, :3]}),
        "The keys of `y` must be the names of the model's outputs ['b', 'a'], got ['a', 'c']; give one array for "
        "each output under its name.",
    ),
    "labels of one of two outputs": (
        lambda: fit(two_outputs(), y=[X[:, :2]]),
        "`y` must have one array for each of the model's outputs ['b', 'a'], got 1; give a list in this order, or a "
        "dictionary keyed by these names.",
    ),
    "labels of two outputs exchanged": (
        lambda: fit(two_outputs(), y=[X[:, :2], X[:, :3]]),
        "mean_squared_error takes labels and predictions of the same shape, got `y` of shape (12, 2) and the "
        "output 'b' of shape (12, 3); reshape the labels, or change the number of units of the last layer.",
    ),
    "weights of one of two outputs": (
        lambda: fit(two_outputs(), y=[X[:, :3], X[:, :2]], sample_weight={"a": np.ones(12)}),
        "The keys of `sample_weight` must be the names of the model's outputs ['b', 'a'], got ['a']; give one array "
        "for each output under its name.",
    ),
    "weights of three of two outputs": (
        lambda: fit(two_outputs(), y=[X[:, :3], X[:, :2]], sample_weight=[np.ones(12)] * 3),
        "`sample_weight` must have one array for each of the model's outputs ['b', 'a'], got 3; give a list in this "
        "order, or a dictionary keyed by these names.",
    ),
    "binary subclass": (
        lambda: fit(Trainer(mlp("sigmoid", 1), "sgd", MyBinary()), y=Y * 7),
        "binary_crossentropy takes labels from 0 to 1, got values from 0 to 14; use sparse_categorical_crossentropy "
        "and a unit for each class, or map the labels to 0 and 1.",
    ),
    "binary with 3": (
        lambda: fit(Trainer(mlp("sigmoid", 1), "sgd", "binary_crossentropy"), y=Y),
        "binary_crossentropy takes labels from 0 to 1, got values from 0 to 2; use sparse_categorical_crossentropy "
        "and a unit for each class, or map the labels to 0 and 1.",
    ),
    "grayscale without channel": (
        lambda: fit(
            Trainer(
                Sequential([Input((8, 8, 1)), layers.Flatten(), layers.Dense(3, activation="softmax")]),
                "sgd",
                "sparse_categorical_crossentropy",
            ),
            x=IM[..., 0],
            y=np.array([0, 1, 2, 0, 1, 2]),
        ),
        "Sequential takes inputs of shape (None, 8, 8, 1), got (6, 8, 8); reshape the data, or change the model's "
        "input shape.",
    ),
    "predict other shape": (
        lambda: (lambda t: (fit(t), t.predict(X[:, :2])))(tr()),
        "Sequential takes inputs of shape (None, 4), got (12, 2); reshape the data, or change the model's input shape.",
    ),
    "evaluate unlabelled": (
        lambda: (lambda t: (fit(t), t.evaluate(X)))(tr()),
        "`evaluate` needs labels, got none; write evaluate(x, y), or give a Split of datasets.load.",
    ),
    "variables before": (
        lambda: tr().variables,
        "The model has no parameters yet; call fit, evaluate, predict or build first.",
    ),
    "lr before": (lambda: tr().learning_rate, "The optimizer has no state yet; call build(x) or fit first."),
    "lr negative set": (
        lambda: (lambda t: (fit(t), setattr(t, "learning_rate", -1.0)))(tr()),
        "`learning_rate` must be a number of at least 0, got -1.0.",
    ),
    "lr of schedule": (
        lambda: (lambda t: (fit(t), setattr(t, "learning_rate", 1.0)))(
            tr(optimizer=optimizers.SGD(schedules.ExponentialDecay(0.1, 10, 0.9)))
        ),
        "The learning rate can only be set if it is a number, got a schedule; create the optimizer with a number as "
        "learning rate.",
    ),
    "variables of other model": (
        lambda: fit(
            tr(variables={"params": {"dense": {"kernel": np.ones((3, 3), np.float32), "bias": np.ones(3, np.float32)}}})
        ),
        "`variables` must hold 'params/dense/kernel' with the shape (4, 3) that the model has for these inputs, got "
        "(3, 3); give variables and inputs of the same model.",
    ),
    "variables without a collection": (
        lambda: fit(tr(variables={"dense": {"kernel": np.ones((4, 3), np.float32)}})),
        "`variables` must hold variables of the model, got 'dense/kernel', which the model does not have; did you "
        "mean 'params/dense/kernel'?",
    ),
    "unknown variable": (
        lambda: fit(tr(variables={"params": {"zzz": np.ones(3, np.float32)}})),
        "`variables` must hold variables of the model, got 'params/zzz', which the model does not have; leave it out.",
    ),
    "variables as an array": (
        lambda: tr(variables=np.ones(3)),
        "`variables` must be a dictionary of collections such as {'params': ...}, got ndarray; give what `init` or "
        "`fm.load` returns.",
    ),
    "variables set of another shape": (
        lambda: (lambda t: (fit(t), setattr(t, "variables", {"params": {"dense": {"bias": np.ones(2)}}})))(tr()),
        "`variables` must hold 'params/dense/bias' with the shape (3,) that the model has for these inputs, got "
        "(2,); give variables and inputs of the same model.",
    ),
    "two inputs one given": (
        lambda: (lambda a, b: Trainer(Model([a, b], layers.Add()([a, b])), "sgd", "mse").fit(X, X, verbose=0))(
            Input((4,)), Input((4,))
        ),
        "Model takes inputs with the structure ['(None, 4)', '(None, 4)'], got ['(12, 4)']; pass them in the "
        "structure of the model's inputs, or in a dictionary keyed by input name.",
    ),
    "keras weights count": (
        lambda: interop.set_keras_weights(mlp(), mlp().init(jax.random.key(0), X), [np.ones((4, 3))]),
        "Sequential has 2 weights [dense/kernel (4, 3), dense/bias (3,)], got 1 of shapes [(4, 3)]; give them in the "
        "order of Keras' get_weights().",
    ),
    "keras weights shape": (
        lambda: interop.set_keras_weights(mlp(), mlp().init(jax.random.key(0), X), [np.ones((3, 4)), np.ones(3)]),
        "The weights of Sequential must have the shapes dense/kernel (4, 3), got (3, 4); give them in the order of "
        "Keras' get_weights().",
    ),
    "dataset typo": (lambda: datasets.load("mnits"), "Unknown dataset 'mnits'. Did you mean 'mnist'? Known:..."),
}

WARNINGS = {
    "softmax from_logits": (
        lambda: fit(tr(loss=losses.CategoricalCrossentropy(from_logits=True))),
        "categorical_crossentropy with from_logits=True takes logits, but the model ends in 'softmax'; remove the "
        "activation, or use from_logits=False.",
    ),
    "metric on logits": (
        lambda: fit(Trainer(mlp(None), "sgd", losses.CategoricalCrossentropy(from_logits=True), ["auc"])),
        "The metric 'auc' takes probabilities, but the model ends in 'linear'; end it in 'sigmoid'.",
    ),
    "probabilities needed": (
        lambda: fit(Trainer(mlp(None), "sgd", "categorical_crossentropy")),
        "categorical_crossentropy takes probabilities, but the model ends in 'linear'; end it in 'softmax' or "
        "'sigmoid', or use the loss with from_logits=True.",
    ),
    "relu output with crossentropy": (
        lambda: fit(Trainer(mlp("relu"), "sgd", "categorical_crossentropy")),
        "categorical_crossentropy takes probabilities, but the model ends in 'relu'; end it in 'softmax' or "
        "'sigmoid', or use the loss with from_logits=True.",
    ),
    "probabilities needed after a subclass": (
        lambda: fit(Trainer(Sequential([Input((4,)), MyDense(3)]), "sgd", "categorical_crossentropy")),
        "categorical_crossentropy takes probabilities, but the model ends in 'linear'; end it in 'softmax' or "
        "'sigmoid', or use the loss with from_logits=True.",
    ),
    "probabilities needed by a subclass": (
        lambda: fit(Trainer(mlp(None, 1), "sgd", MyBinary()), y=(Y > 0).astype("float32")),
        "binary_crossentropy takes probabilities, but the model ends in 'linear'; end it in 'softmax' or 'sigmoid', "
        "or use the loss with from_logits=True.",
    ),
    "distribution needed": (
        lambda: fit(Trainer(mlp(None), "sgd", "kld")),
        "kl_divergence takes probabilities, but the model ends in 'linear'; end it in 'softmax' or 'sigmoid'.",
    ),
    "single softmax": (
        lambda: fit(Trainer(mlp("softmax", 1), "sgd", "binary_crossentropy"), y=(Y > 0).astype("float32")),
        "The model ends in the softmax of one unit, which is always 1; end it in 'sigmoid'.",
    ),
}

FILES = {
    "no such file": (
        lambda p: fm.load(p / "m.safetensors"),
        "There is no model file at {}/m.safetensors; give the path that it was saved to.",
    ),
    "a folder": (lambda p: fm.load(p), "There is no model file at {}; give the path that it was saved to."),
    "a text": (
        lambda p: ((p / "m.safetensors").write_text("hello"), fm.load(p / "m.safetensors")),
        "{}/m.safetensors is not a model file: its header should have 2 to 16777216 bytes within the file's 5, got 0; "
        "save the model again.",
    ),
    "a cut file": (
        lambda p: (fm.save(p / "m.safetensors", *started()), cut(p / "m.safetensors"), fm.load(p / "m.safetensors")),
        "{}/m.safetensors is not a model file: its header should have 2 to 16777216 bytes within the file's 5, got 0; "
        "save the model again.",
    ),
    "no such folder": (
        lambda p: fm.save(p / "no" / "m.safetensors", *started()),
        "The folder {}/no for m.safetensors does not exist; create it first.",
    ),
    "before training": (
        lambda p: tr().save(p / "m.safetensors"),
        "The model has no parameters yet; call fit, evaluate, predict or build first.",
    ),
    "a Lambda": (
        lambda p: fm.save(p / "m.safetensors", Sequential([Input((4,)), layers.Lambda(jnp.tanh)]), {}),
        "A model file names layers of flaxmodels, but only code can describe Lambda; save with "
        "architecture=False, build the model in code, and read its variables with fm.load_weights.",
    ),
    "checkpoints in a file": (
        lambda p: ((p / "f").write_text(""), fit(tr(), resume=p / "f" / "run")),
        "Checkpoints can't be written to {}/f/run (Not a directory); choose another folder.",
    ),
}

COMMANDS = {
    "fit": "Missing argument...",
    "fit simple_cnn digits --epochs many": "Invalid value for '--epochs':...",
    "fit simple_cnn digits --epocs 3": "No such option: --epocs...",
    "fit simple_cnn digits --epochs 0": "--epochs must be a positive integer, got 0; give 1 or more.",
    "fit simple_cnn digits --optimizer adm": "Unknown optimizer 'adm'. Did you mean 'adam'? Known:...",
    "fit simple_cnn digits --learning-rate -1": "`learning_rate` must be a number of at least 0, got -1.0.",
    "fit rnn_classifier digits_sequence --option cell=grru": "Unknown cell 'grru'. Did you mean 'gru'? Known:...",
    "fit simple_cnn digits --device gpu": "--device gpu needs a GPU that JAX can use, got only 'cpu'; run pip install "
    "'flaxmodels-training[cuda]' on a machine with an NVIDIA GPU, or use --device cpu.",
    "fit simple_cnn digits --device gpus": "Unknown device 'gpus'. Did you mean 'gpu'? Known: 'cpu', 'gpu'.",
    "train simple_cnn digits": "No such command 'train'.",
    "evaluate nowhere digits": "There is no model at nowhere; give the output folder of `fit`, or a model file.",
}


def started():
    model = mlp()
    return model, model.init(jax.random.key(0), X)


def cut(path):
    path.write_bytes(path.read_bytes()[:5])


def matches(sentence):
    """Returns the pattern of a message; notes of this library and of JAX may follow on separate lines."""
    return re.escape(sentence.removesuffix("...")) + (".*" if sentence.endswith("...") else "(\n|$)")


@pytest.mark.spread
@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_raise_one_sentence(mistake):
    function, sentence = MISTAKES[mistake]
    with pytest.raises((ValueError, TypeError), match="^" + matches(sentence)):
        function()


@pytest.mark.filterwarnings("ignore:Numbers are not finite")
@pytest.mark.parametrize("mistake", WARNINGS)
def test_valid_but_suspicious_programs_warn(mistake):
    function, sentence = WARNINGS[mistake]
    with pytest.warns(match="^" + matches(sentence)):
        function()


def test_layers_that_override_compute_do_not_warn():
    fit(Trainer(Sequential([Input((4,)), Doubled(3)]), "sgd", "categorical_crossentropy"))


@pytest.mark.spread
@pytest.mark.parametrize("mistake", FILES)
def test_mistakes_with_files(mistake, tmp_path):
    function, sentence = FILES[mistake]
    with pytest.raises((ValueError, OSError), match="^" + matches(sentence.replace("{}", str(tmp_path)))):
        function(tmp_path)


@pytest.mark.spread
@pytest.mark.parametrize("command", COMMANDS)
def test_mistakes_at_the_command_line(command, capsys, monkeypatch, tmp_path):
    from training.__main__ import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["flaxmodels", *command.split()])
    monkeypatch.setattr("jax.default_backend", lambda: "cpu")  # as on a machine without a GPU
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert re.match("^error: " + matches(COMMANDS[command]), capsys.readouterr().err.rstrip())


def test_there_are_more_than_a_hundred_mistakes():
    assert len(MISTAKES) + len(WARNINGS) + len(FILES) + len(COMMANDS) > 100


def test_objects_of_the_package_keras_are_refused(monkeypatch):
    import keras as theirs

    from training import keras

    keras_layer = theirs.layers.Dense(3)

    class Mixed(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras_layer

        def call(self, x):
            return self.dense(x)

    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    for call, name in (
        (lambda: keras.Sequential([keras.Input((2,)), keras_layer]), "Dense"),
        (Mixed, "Dense"),
        (lambda: model.compile(theirs.optimizers.Adam(), "mse"), "Adam"),
        (lambda: model.compile("adam", theirs.losses.MeanSquaredError()), "MeanSquaredError"),
        (lambda: model.compile("adam", theirs.losses.mean_squared_error), "mean_squared_error"),
        (lambda: model.compile("adam", "mse", metrics=[theirs.metrics.MeanAbsoluteError()]), "MeanAbsoluteError"),
        (lambda: fitted(model, theirs.callbacks.EarlyStopping()), "EarlyStopping"),
    ):
        with pytest.raises(TypeError) as caught:
            call()
            fitted(model)
        assert str(caught.value) == (
            f"Objects of the package keras do not work here, got {name}; import it from training.keras, for example by "
            "`from training.keras import layers`."
        )
    with pytest.raises(TypeError, match=r"^An array is needed here, got a symbol of shape \(None, 2\)") as caught:
        keras_layer(keras.Input((2,)))
    assert caught.value.__notes__ == [
        "Layers of the package keras take no symbols; write `from training.keras import layers`."
    ]


def fitted(model, *callbacks):
    if callbacks:
        model.compile("adam", "mse")
    model.fit(np.ones((4, 2), "float32"), np.ones((4, 1), "float32"), verbose=0, callbacks=list(callbacks))
