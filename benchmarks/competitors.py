"""One competitor as a process of its own: it sets itself up, and then does a run of work for each line that comes in.

    python competitors.py COMPETITOR MODEL TASK '{"t": 128, "units": 128, ...}'

answers in JSON, a line each: first what setting up took, then the seconds of each run. Every competitor trains the same
model on the same numbers with Adam and a cross-entropy, or evaluates or predicts with it; nothing is shared but this
protocol, because a process has one Keras backend.
"""

import json
import os
import resource
import sys
import time

import numpy as np

CLASSES = 10


def sizes(options):
    return {"n": 640, "batch": 128, "t": 128, "features": 9, "units": 128, "mask": False} | options


def examples(model, o):
    """Inputs, labels and lengths: the same numbers for everyone."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, CLASSES, o["n"]).astype("int32")
    if "cnn" in model:
        return rng.random((o["n"], 28, 28, 1), dtype=np.float32), y, None
    x = rng.standard_normal((o["n"], o["t"], o["features"]), dtype=np.float32)
    lengths = rng.integers(o["t"] // 4, o["t"] + 1, o["n"]) if o["mask"] else None
    if lengths is not None:
        x[np.arange(o["t"]) >= lengths[:, None]] = 0
    return x, y, lengths


# ---------------------------------------------------------------- Keras' words, for us and for Keras


def network(library, model, o):
    """The model in Keras' words; `library` is flaxmodels or keras."""
    layers = library.layers
    if model == "simple_cnn":
        stack = [
            library.Input((28, 28, 1)),
            layers.Conv2D(32, (3, 3), activation="relu"),
            layers.Conv2D(64, (3, 3), activation="relu"),
            layers.MaxPooling2D((2, 2)),
            layers.Dropout(0.25),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dropout(0.5),
        ]
    elif model == "functional_cnn":
        stack = [
            library.Input((28, 28, 1)),
            layers.Conv2D(32, (3, 3), activation="relu"),
            layers.MaxPooling2D((2, 2)),
            layers.Conv2D(64, (3, 3), activation="relu"),
            layers.MaxPooling2D((2, 2)),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
        ]
    else:
        kind, *form = model.split("-")
        cell = {"lstm": layers.LSTM, "gru": layers.GRU, "simple_rnn": layers.SimpleRNN}[kind]
        stack = [library.Input((o["t"], o["features"]))] + [layers.Masking(0.0)] * o["mask"]
        if "stacked" in form:
            stack.append(cell(o["units"], return_sequences=True))
        last = cell(o["units"])
        stack.append(layers.Bidirectional(last) if "bidirectional" in form else last)
    return library.Sequential([*stack, layers.Dense(CLASSES, activation="softmax")])


LOSS = "sparse_categorical_crossentropy"


def ours(model, task, o):
    import flaxmodels
    from training import Trainer

    x, y, _ = examples(model, o)
    trainer = Trainer(network(flaxmodels, model, o), "adam", LOSS, ["accuracy"])
    if task == "predict":
        return lambda: trainer.predict(x, batch_size=o["batch"])
    if task == "evaluate":
        return lambda: trainer.evaluate(x, y, batch_size=o["batch"])
    return lambda: trainer.fit(x, y, batch_size=o["batch"], verbose=0)


def loops(model, task, o, scanned):
    """The same step as `ours` in a loop written by hand: one program for all steps, or one for each."""
    import jax
    import jax.numpy as jnp

    import flaxmodels
    from training import optimizers, steps
    from training.objective import resolve

    x, y, _ = examples(model, o)
    net, adam = network(flaxmodels, model, o), optimizers.Adam()
    state, rules = steps.create_state(net, adam, x[:1])
    objective = resolve(LOSS, ["accuracy"], None, None, ["output"], y, jax.eval_shape(net.apply, state.variables, x))
    step = steps.make_train_step(net, objective, adam, rules)
    count = o["n"] // o["batch"]
    x, y = (jnp.asarray(a).reshape(count, o["batch"], *a.shape[1:]) for a in (x, y))
    held = [state]

    @jax.jit
    def epoch(state, x, y):
        def body(carry, batch):
            return step(*carry, steps.Batch(*batch)), None

        return jax.lax.scan(body, (state, objective.empty()), (x, y))[0]

    one = jax.jit(step, donate_argnums=(0, 1))

    def run():
        if scanned:
            held[0], totals = epoch(held[0], x, y)
        else:
            totals = objective.empty()
            for i in range(count):
                held[0], totals = one(held[0], totals, steps.Batch(x[i], y[i]))
        return jax.block_until_ready(objective.logs(totals))

    return run


def in_keras(model, task, o, backend, per_execution=1):
    os.environ["KERAS_BACKEND"] = backend
    import keras

    x, y, _ = examples(model, o)
    net = network(keras, model, o)
    net.compile("adam", LOSS, metrics=["accuracy"], steps_per_execution=per_execution)
    if task == "predict":
        return lambda: net.predict(x, batch_size=o["batch"], verbose=0)
    if task == "evaluate":
        return lambda: net.evaluate(x, y, batch_size=o["batch"], verbose=0)
    return lambda: net.fit(x, y, batch_size=o["batch"], verbose=0)


# ---------------------------------------------------------------- PyTorch, as its users write it


def torch_network(model, o):
    import torch
    from torch import nn

    if model == "simple_cnn":
        return nn.Sequential(
            nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.25),
            nn.Flatten(), nn.Linear(9216, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, CLASSES),
        )  # fmt: skip
    if model == "functional_cnn":
        return nn.Sequential(
            nn.Conv2d(1, 32, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(1600, 128), nn.ReLU(), nn.Linear(128, CLASSES),
        )  # fmt: skip

    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            kind, *form = model.split("-")
            cell = {"lstm": nn.LSTM, "gru": nn.GRU, "simple_rnn": nn.RNN}[kind]
            both, depth = "bidirectional" in form, 1 + ("stacked" in form)
            self.rnn = cell(o["features"], o["units"], depth, batch_first=True, bidirectional=both)
            self.head = nn.Linear(o["units"] * (1 + both), CLASSES)

        def forward(self, x, lengths=None):
            if lengths is not None:
                x = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
            last = self.rnn(x)[1]
            last = last[0] if isinstance(last, tuple) else last
            last = torch.cat([last[-2], last[-1]], -1) if self.rnn.bidirectional else last[-1]
            return self.head(last)

    return Recurrent()


def in_torch(model, task, o, compiled=False, channels_last=False):
    import torch
    from torch import nn

    x, y, lengths = examples(model, o)
    net = torch_network(model, o)
    if x.ndim == 4:
        x = x.transpose(0, 3, 1, 2)
    x, y = torch.from_numpy(x.copy()), torch.from_numpy(y).long()
    if channels_last:
        net, x = net.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    if compiled:
        net = torch.compile(net)
    adam, loss_of = torch.optim.Adam(net.parameters(), lr=1e-3), nn.CrossEntropyLoss()

    def outputs(at):
        part = slice(at, at + o["batch"])
        return net(x[part]) if lengths is None else net(x[part], torch.from_numpy(lengths[part]))

    def run():
        net.train(task == "train")
        total = hits = 0
        with torch.set_grad_enabled(task == "train"):
            for at in range(0, o["n"], o["batch"]):
                labels, found = y[at : at + o["batch"]], outputs(at)
                if task == "predict":
                    continue
                loss = loss_of(found, labels)
                if task == "train":
                    adam.zero_grad()
                    loss.backward()
                    adam.step()
                total += loss.item()
                hits += (found.argmax(1) == labels).sum().item()

    return run


COMPETITORS = {
    "ours": ours,
    "ours, own scan": lambda *args: loops(*args, scanned=True),
    "ours, own steps": lambda *args: loops(*args, scanned=False),
    "keras-jax": lambda *args: in_keras(*args, "jax"),
    "keras-jax, 5 steps at once": lambda *args: in_keras(*args, "jax", 5),
    "keras-torch": lambda *args: in_keras(*args, "torch"),
    "torch": in_torch,
    "torch, channels last": lambda *args: in_torch(*args, channels_last=True),
    "torch, compiled": lambda *args: in_torch(*args, compiled=True),
}


def main():
    name, model, task, options = sys.argv[1:]
    # What libraries print must not be taken for an answer.
    answers, sys.stdout = sys.stdout, sys.stderr
    start = time.perf_counter()
    run = COMPETITORS[name](model, task, sizes(json.loads(options)))
    built = time.perf_counter() - start
    run()
    first = time.perf_counter() - start - built
    print(json.dumps({"build": built, "first": first}), file=answers, flush=True)
    for _ in sys.stdin:
        start, cpu = time.perf_counter(), time.process_time()
        run()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        answer = {"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu, "peak_mib": peak}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
