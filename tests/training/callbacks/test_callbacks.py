"""Compares decisions and files of callbacks with Keras, and checks error messages."""

import json
import re
import types

import jax
import numpy as np
import pytest

from flaxmodels import Input, Sequential, layers
from training import Trainer, callbacks, optimizers

SEQUENCES = {
    "falling": [5.0, 4.0, 3.0, 2.0, 1.0, 0.5],
    "stuck": [3.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0],
    "bumpy": [3.0, 2.5, 2.7, 2.4, 2.6, 2.39, 2.8, 2.9, 3.0, 2.0],
    "rising": [1.0, 1.1, 1.2, 1.3, 1.4],
    "nan": [1.0, float("nan"), 0.5, float("nan"), float("nan"), 0.4],
}


class FakeTrainer:
    """The attributes of a trainer that callbacks use."""

    def __init__(self):
        self.stop_training = False
        self.learning_rate = 0.1
        self.model = Sequential([Input((1,)), layers.Dense(1)])
        self.variables = {"params": {"w": np.zeros(1)}}
        self.saved = []

    def metric_direction(self, name):
        return {"accuracy": "up", "mae": "down"}.get(name)

    def save(self, path, architecture=True):
        self.saved.append(str(path))


def drive(callback, values, name="val_loss"):
    """Runs a callback with one value per epoch; returns the number of epochs and the trainer."""
    trainer = FakeTrainer()
    callback.set_trainer(trainer)
    callback.on_train_begin({})
    epochs = 0
    for epoch, value in enumerate(values):
        callback.on_epoch_begin(epoch, {})
        trainer.variables = {"params": {"w": np.full(1, float(epoch))}}
        callback.on_epoch_end(epoch, {"loss": 0.0, name: value})
        epochs += 1
        if trainer.stop_training:
            break
    callback.on_train_end({})
    return epochs, trainer


class FakeKerasModel:
    metrics = ()

    def __init__(self):
        self.stop_training = False
        self.optimizer = types.SimpleNamespace(learning_rate=0.1)
        self.weights = None
        self.saved = []

    def get_weights(self):
        return self.weights

    def set_weights(self, weights):
        self.weights = weights

    def save(self, path, overwrite=True):
        self.saved.append(path)


def drive_keras(callback, values, name="val_loss"):
    model = FakeKerasModel()
    callback.set_model(model)
    callback.on_train_begin({})
    epochs = 0
    for epoch, value in enumerate(values):
        callback.on_epoch_begin(epoch, {})
        model.weights = float(epoch)
        callback.on_epoch_end(epoch, {"loss": 0.0, name: value})
        epochs += 1
        if model.stop_training:
            break
    callback.on_train_end({})
    return epochs, model


EARLY = [
    {},
    {"patience": 1},
    {"patience": 2, "restore_best_weights": True},
    {"patience": 2, "min_delta": 0.3, "restore_best_weights": True},
    {"patience": 1, "baseline": 2.2, "restore_best_weights": True},
    {"patience": 1, "start_from_epoch": 3},
    {"patience": 2, "mode": "max", "restore_best_weights": True},
]


@jax.numpy_dtype_promotion("standard")
@pytest.mark.parametrize("sequence", SEQUENCES)
@pytest.mark.parametrize("arguments", EARLY, ids=str)
def test_early_stopping_matches_keras(sequence, arguments):
    keras = pytest.importorskip("keras")
    epochs, trainer = drive(ours := callbacks.EarlyStopping(**arguments), SEQUENCES[sequence])
    want_epochs, model = drive_keras(theirs := keras.callbacks.EarlyStopping(**arguments), SEQUENCES[sequence])
    if sequence == "nan" and "start_from_epoch" in arguments:
        # The first monitored value is NaN. Keras treats it as the best value of the run. Here it counts as an epoch
        # without improvement.
        assert np.isnan(theirs.best)
        assert (epochs, ours.best, ours.stopped_epoch) == (4, None, 3)
        return
    assert epochs == want_epochs
    assert (ours.wait, ours.stopped_epoch, ours.best_epoch) == (theirs.wait, theirs.stopped_epoch, theirs.best_epoch)
    assert float(trainer.variables["params"]["w"][0]) == model.weights


@jax.numpy_dtype_promotion("standard")
@pytest.mark.parametrize("sequence", SEQUENCES)
@pytest.mark.parametrize("arguments", [{}, {"save_best_only": True}, {"save_best_only": True, "mode": "max"}], ids=str)
def test_model_checkpoint_matches_keras(sequence, arguments, tmp_path):
    keras = pytest.importorskip("keras")
    ours = callbacks.ModelCheckpoint(tmp_path / "{epoch:02d}-{val_loss:.2f}.keras", **arguments)
    _, trainer = drive(ours, SEQUENCES[sequence])
    theirs = keras.callbacks.ModelCheckpoint(str(tmp_path / "{epoch:02d}-{val_loss:.2f}.keras"), **arguments)
    _, model = drive_keras(theirs, SEQUENCES[sequence])
    assert trainer.saved == model.saved


PLATEAU = [
    {"patience": 1},
    {"patience": 2, "factor": 0.5, "cooldown": 2},
    {"patience": 1, "factor": 0.2, "min_lr": 0.01, "min_delta": 0.3},
    {"patience": 0, "mode": "max", "cooldown": 1},
]


@jax.numpy_dtype_promotion("standard")
@pytest.mark.parametrize("sequence", SEQUENCES)
@pytest.mark.parametrize("arguments", PLATEAU, ids=str)
def test_reduce_lr_on_plateau_matches_keras(sequence, arguments):
    keras = pytest.importorskip("keras")
    rates, expected = [], []
    ours, theirs = callbacks.ReduceLROnPlateau(**arguments), keras.callbacks.ReduceLROnPlateau(**arguments)
    ours.set_trainer(trainer := FakeTrainer())
    theirs.set_model(model := FakeKerasModel())
    for callback in (ours, theirs):
        callback.on_train_begin({})
    for epoch, value in enumerate(SEQUENCES[sequence] * 2):
        logs, other = {"val_loss": value}, {"val_loss": value}
        ours.on_epoch_end(epoch, logs)
        theirs.on_epoch_end(epoch, other)
        assert logs == other
        rates.append((trainer.learning_rate, ours.wait, ours.cooldown_counter, ours.best))
        expected.append((model.optimizer.learning_rate, theirs.wait, theirs.cooldown_counter, theirs.best))
    assert rates == expected


def test_reduce_lr_on_plateau_prints_the_new_rate(capsys):
    callback = callbacks.ReduceLROnPlateau(patience=0, verbose=1)
    drive(callback, [1.0, 2.0])
    assert capsys.readouterr().out == "Epoch 2: the learning rate is reduced to 0.01\n"
    sentence = "`factor` of ReduceLROnPlateau must be at least 0 and less than 1, got 1.0; 0.1 is the default."
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        callbacks.ReduceLROnPlateau(factor=1.0)


def test_mode_auto_uses_the_direction_of_the_metric():
    epochs, _ = drive(callbacks.EarlyStopping("val_accuracy"), [0.5, 0.6, 0.7, 0.6], "val_accuracy")
    assert epochs == 4
    epochs, _ = drive(callbacks.EarlyStopping("val_mae"), [0.5, 0.6], "val_mae")
    assert epochs == 2
    sentence = (
        "EarlyStopping does not know whether larger values of 'val_size' are better; pass mode='min' or mode='max'."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        drive(callbacks.EarlyStopping("val_size"), [0.5, 0.6], "val_size")


def test_monitoring_a_missing_value_warns():
    sentence = "EarlyStopping monitors 'val_los', which is not in the logs; there are 'loss', 'val_loss'."
    with pytest.warns(UserWarning, match=f"^{re.escape(sentence)}$"):
        drive(callbacks.EarlyStopping("val_los"), [1.0])


def test_model_checkpoint_counts_steps_by_chunks():
    callback = callbacks.ModelCheckpoint("model.keras", save_freq=5)
    callback.set_trainer(trainer := FakeTrainer())
    for epoch in range(2):
        callback.on_epoch_begin(epoch)
        for step in (2, 4, 6):
            callback.on_chunk_end(step, {})
    assert len(trainer.saved) == 2  # after 6 and after 12 steps


def test_model_checkpoint_errors():
    sentence = "`save_freq` must be 'epoch' or a number of steps, got 0."
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        callbacks.ModelCheckpoint("model.keras", save_freq=0)
    sentence = "`mode` of ModelCheckpoint must be 'auto', 'min' or 'max', got 'up'; use one of them."
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        callbacks.ModelCheckpoint("model.keras", mode="up")
    sentence = (
        "`filepath` must contain names of the logs, got 'acc' in '{acc}.keras'; there are 'epoch', 'loss', 'val_loss'."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        drive(callbacks.ModelCheckpoint("{acc}.keras"), [1.0])


def test_csv_logger_matches_keras(tmp_path):
    keras = pytest.importorskip("keras")
    for module, file in ((callbacks, "ours.csv"), (keras.callbacks, "theirs.csv")):
        logger = module.CSVLogger(str(tmp_path / file))
        run = drive if module is callbacks else drive_keras
        run(logger, [3.0, 2.5])
    assert (tmp_path / "ours.csv").read_text().split() == (tmp_path / "theirs.csv").read_text().split()


def test_csv_logger_appends_without_a_second_header(tmp_path):
    for append in (False, True):
        drive(callbacks.CSVLogger(tmp_path / "log.csv", separator=";", append=append), [1.0])
    rows = (tmp_path / "log.csv").read_text().split()
    assert rows == ["epoch;loss;val_loss", "0;0.0;1.0", "0;0.0;1.0"]


def test_csv_logger_fills_columns_of_a_later_validation(tmp_path):
    logger = callbacks.CSVLogger(tmp_path / "log.csv")
    logger.has_validation = True
    logger.on_train_begin()
    logger.on_epoch_end(0, {"loss": 1.0})
    logger.on_epoch_end(1, {"loss": 0.5, "val_loss": 0.7})
    assert (tmp_path / "log.csv").read_text().split() == ["epoch,loss,val_loss", "0,1.0,NA", "1,0.5,0.7"]


def test_history_files(tmp_path):
    history = callbacks.History()
    drive(history, [3.0, 2.5])
    history.seconds = [0.5, 0.25]
    history.to_csv(tmp_path / "h.csv")
    history.to_json(tmp_path / "h.json")
    rows = (tmp_path / "h.csv").read_text().split()
    assert rows == ["epoch,seconds,loss,val_loss", "0,0.5000,0.0,3.0", "1,0.2500,0.0,2.5"]
    content = json.loads((tmp_path / "h.json").read_text())
    assert content == {"epoch": [0, 1], "seconds": [0.5, 0.25], "history": {"loss": [0.0, 0.0], "val_loss": [3.0, 2.5]}}


def test_lambda_callback_calls_its_functions():
    seen = []
    callback = callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: seen.append(epoch), on_train_end=lambda logs: seen.append("end")
    )
    drive(callback, [1.0, 2.0])
    assert seen == [0, 1, "end"]


def test_invalid_callback_types_are_rejected():
    sentence = "A callback must be an object, got the class History; write History()."
    with pytest.raises(TypeError, match=f"^{re.escape(sentence)}$"):
        callbacks.check([callbacks.History])
    sentence = (
        "A callback must derive from training.callbacks.Callback, got 3 of type int; derive its class from Callback."
    )
    with pytest.raises(TypeError, match=f"^{re.escape(sentence)}$"):
        callbacks.check(3)


def refuses(kind, sentence):
    return pytest.raises(kind, match=f"^{re.escape(sentence)}$")


def test_misspelled_hooks_are_rejected():
    class Mine(callbacks.Callback):
        def on_epoch_ends(self, epoch, logs=None): ...

    with refuses(
        TypeError,
        "Mine has the method on_epoch_ends, which is never called because there is no such hook; "
        "did you mean on_epoch_end?",
    ):
        callbacks.check(Mine())


def test_hooks_with_other_arguments_are_rejected():
    class Mine(callbacks.Callback):
        def on_epoch_end(self, epoch): ...

    with refuses(
        TypeError,
        "Mine.on_epoch_end is called with (epoch, logs), got a function of (epoch); "
        "write def on_epoch_end(self, epoch, logs=None).",
    ):
        callbacks.check(Mine())
    with refuses(
        TypeError,
        "LambdaCallback.on_train_end is called with (logs), got a function of (); "
        "write def on_train_end(self, logs=None).",
    ):
        callbacks.check(callbacks.LambdaCallback(on_train_end=lambda: None))
    callbacks.check(callbacks.LambdaCallback(on_train_end=print, on_epoch_end=lambda *all: None))


def test_unknown_hooks_of_instances_are_rejected():
    mine = callbacks.Callback()
    mine.on_gpu_melted = lambda: None
    mine.on_disk = True  # not a method
    with refuses(
        TypeError,
        "Callback has the method on_gpu_melted, which is never called because there is no such hook; the hooks are "
        "on_batch_begin, on_batch_end, on_chunk_end, on_epoch_begin, on_epoch_end, on_predict_batch_begin, "
        "on_predict_batch_end, on_predict_begin, on_predict_end, on_test_batch_begin, on_test_batch_end, "
        "on_test_begin, on_test_end, on_train_batch_begin, on_train_batch_end, on_train_begin, on_train_end.",
    ):
        callbacks.check([mine])


def test_hooks_of_test_and_predict_batches_are_called_once_per_chunk():
    seen = []

    class Watch(callbacks.Callback):
        def on_test_batch_begin(self, batch, logs=None):
            seen.append(("test", batch))

        def on_test_batch_end(self, batch, logs=None):
            seen.append(("tested", batch, sorted(logs)))

        def on_predict_batch_end(self, batch, logs=None):
            seen.append(("predicted", batch, logs["outputs"].shape))

    model = Sequential([layers.Dense(2, input_shape=(3,))])
    x, y = np.ones((10, 3), np.float32), np.zeros((10, 2), np.float32)
    trainer = Trainer(model, "sgd", "mse", ["mae"], steps_per_execution=2)
    logs = trainer.evaluate(x, y, batch_size=4, callbacks=[Watch()])
    outputs = trainer.predict(x, batch_size=4, callbacks=[Watch()])
    names = sorted(logs)
    assert seen[:4] == [("test", 0), ("tested", 1, names), ("test", 2), ("tested", 2, names)]
    assert seen[4:] == [("predicted", 1, (8, 2)), ("predicted", 2, (2, 2))]
    assert outputs.shape == (10, 2)
    seen.clear()
    Trainer(model, "sgd", "mse").evaluate(x, y, batch_size=4, callbacks=[Watch()])
    assert seen == [("test", 0), ("tested", 2, ["loss"])]


def test_the_direction_of_a_metric_is_known_without_a_mode():
    model = Sequential([layers.Dense(2, activation="softmax", input_shape=(3,))])
    trainer = Trainer(model, optimizers.SGD(0.0), "sparse_categorical_crossentropy", ["accuracy"])
    x, y = np.ones((8, 3), np.float32), np.zeros(8, np.int32)
    stopping = callbacks.EarlyStopping("val_accuracy", patience=1)
    history = trainer.fit(x, y, epochs=4, validation_data=(x, y), callbacks=[stopping], verbose=0)
    assert len(history.epoch) == 2  # a rate of 0 improves nothing
