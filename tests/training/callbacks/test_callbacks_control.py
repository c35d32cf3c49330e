"""Callbacks in training runs: learning rates, averages, stopping, logs per step, TensorBoard; compared with Keras."""

import json
import pathlib
import re
import struct

import jax
import numpy as np
import pytest

from flaxmodels import Input, Sequential, interop, layers
from training import Trainer, callbacks, metrics, optimizers

RNG = np.random.default_rng(0)
X = RNG.normal(size=(20, 3)).astype("float32")
Y = RNG.normal(size=(20, 1)).astype("float32")


def line(**arguments):
    model = Sequential([Input((3,)), layers.Dense(1)])
    return Trainer(model, **{"optimizer": "sgd", "loss": "mse", "metrics": ["mae"]} | arguments)


def refuses(sentence, kind=ValueError):
    return pytest.raises(kind, match=f"^{re.escape(sentence)}$")


def as_keras(optimizer, called_back, epochs=3, **arguments):
    """Returns the histories and weights of our trainer and of Keras with the same optimizer and callbacks."""
    keras = pytest.importorskip("keras")
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        theirs = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        start = theirs.get_weights()
        theirs.compile(optimizer(keras.optimizers), "mse", metrics=["mae"])
        options = {"batch_size": 6, "epochs": epochs, "shuffle": False, "verbose": 0, **arguments}
        want = theirs.fit(X, Y, callbacks=called_back(keras.callbacks), **options).history
        want_weights = theirs.get_weights()
    trainer = line(optimizer=optimizer(optimizers))
    trainer.build(X[:1])
    trainer.variables = interop.set_keras_weights(trainer.model, trainer.variables, start)
    got = trainer.fit(X, Y, callbacks=called_back(callbacks), **options).history
    weights = interop.get_keras_weights(trainer.model, trainer.variables)
    return (got, weights), (want, want_weights)


def assert_same(ours, theirs):
    assert set(ours[0]) == set(theirs[0])
    for name in theirs[0]:
        np.testing.assert_allclose(ours[0][name], theirs[0][name], rtol=2e-5, err_msg=name)
    for a, b in zip(ours[1], theirs[1], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "called_back",
    [
        lambda c: [c.LearningRateScheduler(lambda epoch, rate: rate * 0.5 if epoch else rate)],
        lambda c: [c.LearningRateScheduler(lambda epoch: 0.1 / (epoch + 1))],
        lambda c: [c.ReduceLROnPlateau("loss", patience=0, factor=0.3, min_delta=10.0)],
    ],
    ids=["scheduler of both", "scheduler of the epoch", "plateau"],
)
def test_learning_rates_match_keras(called_back):
    assert_same(*as_keras(lambda o: o.SGD(0.05, momentum=0.9), called_back))


@pytest.mark.parametrize("swap_on_epoch", [False, True])
@pytest.mark.parametrize("overwrite", [None, 3])
def test_averages_match_keras(swap_on_epoch, overwrite):
    assert_same(
        *as_keras(
            lambda o: o.SGD(0.05, use_ema=True, ema_momentum=0.7, ema_overwrite_frequency=overwrite),
            lambda c: [c.SwapEMAWeights(swap_on_epoch)],
            validation_split=0.3,
        )
    )


def test_averages_are_the_final_weights_as_in_keras():
    assert_same(*as_keras(lambda o: o.Adam(0.05, use_ema=True), lambda c: [], epochs=2))


def test_swap_ema_weights_needs_averages():
    with refuses(
        "SwapEMAWeights needs an optimizer that averages the weights, got one that does not; "
        "create it with use_ema=True."
    ):
        line().fit(X, Y, callbacks=[callbacks.SwapEMAWeights()], validation_data=(X, Y), verbose=0)


def test_swap_ema_weights_predicts_with_the_average():
    trainer = line(optimizer=optimizers.SGD(0.05, use_ema=True))
    seen = []
    swap = callbacks.SwapEMAWeights(swap_on_epoch=True)
    look = callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(np.array(trainer.variables["params"]["dense"]["kernel"])),
        on_epoch_begin=lambda epoch, logs: seen.append(np.array(trainer.variables["params"]["dense"]["kernel"])),
    )
    trainer.fit(X, Y, epochs=2, batch_size=5, callbacks=[swap, look], verbose=0)
    first, average, restored, last = seen
    assert (average != restored).any() and (first != average).any()
    np.testing.assert_array_equal(trainer.variables["params"]["dense"]["kernel"], last)
    plain = trainer.predict(X)
    trainer.state = trainer.state.replace(params=jax.tree.map(np.zeros_like, trainer.state.params))
    np.testing.assert_allclose(trainer.predict(X, callbacks=[callbacks.SwapEMAWeights()]), plain, rtol=1e-6)
    assert not trainer.predict(X).any()


def test_learning_rate_scheduler_errors():
    with refuses("`schedule` of LearningRateScheduler must return a float, got 1 for epoch 0."):
        line().fit(X, Y, callbacks=[callbacks.LearningRateScheduler(lambda epoch: 1)], verbose=0)
    with refuses("`schedule` of LearningRateScheduler must be a function (epoch, rate) -> rate, got 0.1.", TypeError):
        callbacks.LearningRateScheduler(0.1)


def test_setting_the_learning_rate_does_not_recompile():
    trainer = line()
    with pytest.raises(ValueError, match=re.escape("The optimizer has no state yet; call build(x) or fit first.")):
        _ = trainer.learning_rate
    trainer.fit(X, Y, verbose=0)
    program = next(p for key, p in trainer.session._programs.items() if key[0] == "train")
    before = trainer.variables["params"]["dense"]["kernel"] + 0
    trainer.learning_rate = 0.0
    trainer.fit(X, Y, verbose=0)
    np.testing.assert_array_equal(trainer.variables["params"]["dense"]["kernel"], before)
    assert trainer.learning_rate == 0.0 and len(program._compiled) == 1
    assert trainer.learning_rates() == {"learning_rate": 0.0}
    both = line(optimizer=optimizers.by_path({".*kernel": optimizers.SGD(0.25)}, optimizers.SGD(0.5)))
    both.build(X)
    assert both.learning_rates() == {"learning_rate_.*kernel": 0.25, "learning_rate_*": 0.5}


# ---------------------------------------------------------------- steps


def test_batch_hooks_run_once_per_chunk_with_one_value_per_step():
    began, ended, means = [], [], []
    look = callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: began.append(batch),
        on_train_batch_end=lambda batch, logs: ended.append((batch, logs)),
        on_epoch_end=lambda epoch, logs: means.append(logs["loss"]),
    )
    trainer = line(steps_per_execution=3)
    trainer.fit(X, Y, batch_size=4, epochs=2, callbacks=[look], verbose=0)
    assert began == [0, 3, 0, 3] and [batch for batch, _ in ended] == [2, 4, 2, 4]
    assert [len(logs["mae"]) for _, logs in ended] == [3, 2, 3, 2]
    assert [logs["loss"][-1] for _, logs in ended[1::2]] == pytest.approx(means)
    one = line(steps_per_execution=1)
    steps = []
    hook = callbacks.LambdaCallback(on_batch_end=lambda batch, logs: steps.append(float(logs["loss"][0])))
    one.fit(X, Y, batch_size=4, epochs=2, callbacks=[hook], verbose=0)
    assert steps == pytest.approx(np.concatenate([logs["loss"] for _, logs in ended]).tolist())


def test_lambda_callback_errors():
    hooks = (
        "on_train_begin, on_train_end, on_epoch_begin, on_epoch_end, on_chunk_end, on_train_batch_begin, "
        "on_train_batch_end, on_batch_begin, on_batch_end, on_test_batch_begin, on_test_batch_end, "
        "on_predict_batch_begin, on_predict_batch_end, on_test_begin, on_test_end, on_predict_begin, on_predict_end"
    )
    with refuses(
        f"LambdaCallback takes functions for the hooks {hooks}, got on_end=3; give a function for one of them.",
        TypeError,
    ):
        callbacks.LambdaCallback(on_end=3)


@pytest.mark.filterwarnings("ignore:The loss is")
def test_terminate_on_nan_stops_the_run(capsys):
    trainer = line(optimizer=optimizers.SGD(1e30), steps_per_execution=2, nonfinite="ignore")
    history = trainer.fit(X, Y, batch_size=2, epochs=5, callbacks=[callbacks.TerminateOnNaN()], verbose=0)
    assert len(history.epoch) == 1
    assert re.match(r"Step \d: the loss is (nan|inf), training stops\n", capsys.readouterr().out)
    ended = []
    look = callbacks.LambdaCallback(on_train_end=lambda logs: ended.append(1))
    with pytest.raises(
        RuntimeError, match=r"^The loss is (nan|inf) at step \d of the epoch; lower the learning rate, or clip"
    ):
        line(optimizer=optimizers.SGD(1e30), nonfinite="ignore").fit(
            X, Y, batch_size=2, epochs=5, callbacks=[callbacks.TerminateOnNaN(raise_error=True), look], verbose=0
        )
    assert not ended


def test_stop_training_takes_effect_after_the_chunk():
    trainer, steps = line(steps_per_execution=1), []

    class Stop(callbacks.Callback):
        def on_chunk_end(self, step, logs=None):
            steps.append(step)
            self.trainer.stop_training = step == 2

    trainer.fit(X, Y, batch_size=4, epochs=3, callbacks=[Stop()], verbose=0)
    assert steps == [1, 2]


def test_progbar_logger_shows_the_progress_bar(capsys):
    line().fit(X, Y, callbacks=[callbacks.ProgbarLogger()], verbose=0)
    assert "Epoch 1/1" in capsys.readouterr().out


# ---------------------------------------------------------------- TensorBoard


def events(folder):
    """Parses the event files of a folder into (tag, step, value) records."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    found = []
    for path in sorted(pathlib.Path(folder).glob("events*")):
        content, at = path.read_bytes(), 0
        while at < len(content):
            (length,) = struct.unpack_from("<Q", content, at)
            event = event_pb2.Event.FromString(content[at + 12 : at + 12 + length])
            at += 12 + length + 4
            found += [(value.tag, event.step, value) for value in event.summary.value]
    return found


def test_tensorboard_writes_all_records(tmp_path):
    pytest.importorskip("tensorboardX")
    model = Sequential([Input((4,), dtype="int32"), layers.Embedding(5, 2), layers.Flatten(), layers.Dense(1)])
    trainer = Trainer(model, "sgd", "mse", steps_per_execution=2)
    ids = RNG.integers(0, 5, (12, 4)).astype("int32")
    board = callbacks.TensorBoard(
        tmp_path,
        histogram_freq=2,
        write_images=True,
        write_steps_per_second=True,
        update_freq=2,
        embeddings_freq=3,
        embeddings_metadata={"embedding": list("abcde")},
    )
    y = RNG.normal(size=(12, 1)).astype("float32")
    history = trainer.fit(ids, y, batch_size=4, epochs=3, validation_split=0.34, callbacks=[board], verbose=0).history
    train, validation = events(tmp_path / "train"), events(tmp_path / "validation")
    scalars = {(tag, step): value.simple_value for tag, step, value in train}
    for epoch in range(3):
        assert scalars["epoch_loss", epoch] == pytest.approx(history["loss"][epoch])
        assert scalars["epoch_learning_rate", epoch] == pytest.approx(0.01)
        assert scalars["epoch_steps_per_second", epoch] > 0
    assert sorted(step for tag, step, _ in train if tag == "batch_loss") == [2, 4, 6]
    assert scalars["batch_loss", 2] == pytest.approx(history["loss"][0])
    assert [(step, round(v.simple_value, 5)) for tag, step, v in validation if tag == "epoch_loss"] == [
        (i, round(value, 5)) for i, value in enumerate(history["val_loss"])
    ]
    assert {step for tag, step, _ in validation if tag == "evaluation_loss_vs_iterations"} == {2, 4, 6}
    counts = {(tag, step): value.histo.num for tag, step, value in train if tag.endswith("/histogram")}
    assert counts["params/embedding/embedding/histogram", 0] == 10 and ("params/dense/bias/histogram", 2) in counts
    assert ("params/dense/kernel/image", 0) in {(tag, step) for tag, step, _ in train}
    text = next(value for tag, _, value in train if tag.startswith("model"))
    assert b"embedding" in text.tensor.string_val[0]
    assert (tmp_path / "train" / "00000" / "embedding" / "metadata.tsv").read_text().split() == list("abcde")


def test_tensorboard_profiles_a_chunk(tmp_path):
    pytest.importorskip("tensorboardX")
    board = callbacks.TensorBoard(tmp_path, write_graph=False, profile_batch=(2, 3))
    line(steps_per_execution=1).fit(X, Y, batch_size=5, callbacks=[board], verbose=0)
    assert list(tmp_path.glob("train/plugins/profile/*/*.xplane.pb"))


def test_tensorboard_errors(tmp_path):
    with refuses("`update_freq` of TensorBoard must be 'epoch', 'batch' or a number of steps, got 0."):
        callbacks.TensorBoard(update_freq=0)
    pytest.importorskip("tensorboardX")
    board = callbacks.TensorBoard(tmp_path, embeddings_freq=1, embeddings_metadata={"words": ["a"]})
    with refuses(
        "`embeddings_metadata` of TensorBoard must have the names of Embedding layers as keys, got 'words'; the names are []."
    ):
        line().fit(X, Y, callbacks=[board], verbose=0)


# ---------------------------------------------------------------- resuming


@pytest.mark.rotate
@pytest.mark.parametrize("ends", [[0], [2], [1, 3], [4, 4]], ids=str)
def test_backup_and_restore_resumes_at_the_same_epoch_as_keras(ends, tmp_path):
    """Interrupts runs of 5 epochs by an error at the start of an epoch; the last run is not interrupted."""
    keras = pytest.importorskip("keras")

    class Ended(Exception):
        pass

    def epochs_of_runs(fit, library, folder):
        found = []
        for end in [*ends, None]:
            began = []

            def note(epoch, logs, began=began, end=end):
                began.append(epoch)
                if epoch == end:
                    raise Ended

            called = [library.LambdaCallback(on_epoch_begin=note), library.BackupAndRestore(folder)]
            if end is None:
                fit(called)
            else:
                with pytest.raises(Ended):
                    fit(called)
            found.append(began)
        return found

    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        theirs = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        theirs.compile("sgd", "mse")
        expected = epochs_of_runs(
            lambda called: theirs.fit(X, Y, epochs=5, verbose=0, callbacks=called),
            keras.callbacks,
            str(tmp_path / "theirs"),
        )
    got = epochs_of_runs(
        lambda called: line().fit(X, Y, epochs=5, verbose=0, callbacks=called), callbacks, tmp_path / "ours"
    )
    assert got == expected


def test_metrics_with_several_values_are_displayed_and_written(tmp_path, capsys):
    pytest.importorskip("tensorboardX")
    several = metrics.F1Score(average=None)
    trainer = Trainer(Sequential([Input((3,)), layers.Dense(2, "softmax")]), "sgd", "mse", [several])
    y = np.eye(2, dtype="float32")[np.arange(20) % 2]
    board = callbacks.TensorBoard(tmp_path / "board")
    history = trainer.fit(X, y, verbose=2, callbacks=[board])
    (values,) = history.history["f1_score"]
    assert values.shape == (2,)
    assert f"f1_score [{values[0]:.4f} {values[1]:.4f}]" in capsys.readouterr().out
    history.to_json(tmp_path / "history.json")
    assert json.loads((tmp_path / "history.json").read_text())["history"]["f1_score"] == [values.tolist()]
    written = {tag: value.simple_value for tag, _, value in events(tmp_path / "board" / "train")}
    assert [written["epoch_f1_score_0"], written["epoch_f1_score_1"]] == pytest.approx(values.tolist())
