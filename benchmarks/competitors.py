"""Runs one competitor in its own process, because a process has only one Keras backend.

    python competitors.py COMPETITOR

The process reads requests as lines of JSON and answers each with a line of JSON. A request {"model": ..., "task": ...,
"options": {...}} builds and compiles a case; the answer holds the seconds of both. The request {} does one run; the
answer holds its seconds. Every competitor trains the same model on the same data with Adam and cross-entropy, or
evaluates or predicts with it.
"""

import argparse
import json
import os
import resource
import sys
import time
from functools import partial

import numpy as np

CLASSES = 10


def sizes(options):
    """Returns the options with defaults for missing sizes."""
    return {"n": 640, "batch": 128, "t": 128, "features": 9, "units": 128, "mask": False, "epochs": 1} | options


def examples(model, o):
    """Returns inputs, labels and lengths (or None), the same for all competitors."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, CLASSES, o["n"]).astype("int32")
    if "cnn" in model:
        return rng.random((o["n"], 28, 28, 1), dtype=np.float32), y, None
    x = rng.standard_normal((o["n"], o["t"], o["features"]), dtype=np.float32)
    lengths = rng.integers(o["t"] // 4, o["t"] + 1, o["n"]) if o["mask"] else None
    if lengths is not None:
        x[np.arange(o["t"]) >= lengths[:, None]] = 0
    return x, y, lengths


# ---------------------------------------------------------------- the model with Keras' API, for flaxmodels and Keras


def network(library, model, o):
    """Builds the model with Keras' API; `library` is flaxmodels or keras."""
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


def flaxmodels_run(model, task, o):
    """Returns a function that calls `Trainer.fit`, `evaluate` or `predict` once."""
    import flaxmodels
    from training import Trainer

    x, y, _ = examples(model, o)
    trainer = Trainer(network(flaxmodels, model, o), "adam", LOSS, ["accuracy"])
    if task == "predict":
        return lambda: trainer.predict(x, batch_size=o["batch"])
    if task == "evaluate":
        return lambda: trainer.evaluate(x, y, batch_size=o["batch"])
    return lambda: trainer.fit(x, y, batch_size=o["batch"], epochs=o["epochs"], verbose=0)


def handwritten_run(model, task, o, use_scan):
    """Returns a function that runs the step of `flaxmodels_run` in a hand-written `lax.scan` or step loop."""
    import flaxmodels
    from training import optimizers, steps
    from training.objective import Objective

    x, y, _ = examples(model, o)
    net, adam = network(flaxmodels, model, o), optimizers.Adam()
    state, rules = steps.create_state(net, adam, x[:1])
    objective = Objective.of(net, steps.Batch(x, y), loss=LOSS, metrics=["accuracy"])
    if task == "predict":
        predict = steps.make_predict_step(net)
        return loop_run(task, use_scan, o, x, y, state.variables, lambda v, x, y: predict(v, steps.Batch(x))[1])
    if task == "evaluate":
        evaluate = steps.make_eval_step(net, objective)
        carry = (state.variables, objective.empty())
        return loop_run(task, use_scan, o, x, y, carry, lambda c, x, y: evaluate(*c, steps.Batch(x, y)), objective.logs)
    step = steps.make_train_step(net, objective, adam, rules)
    carry = (state, objective.empty())
    return loop_run(task, use_scan, o, x, y, carry, lambda c, x, y: step(*c, steps.Batch(x, y)), objective.logs)


def loop_run(task, use_scan, o, x, y, carry, step, logs=lambda totals: totals):
    """Returns a function that runs a step over all batches.

    With `use_scan`, one program does the whole run. Otherwise one program does a step, and Python calls it for each
    batch.

    Args:
        task: "train", "evaluate" or "predict".
        use_scan: Whether to use `lax.scan`.
        o: Sizes.
        x: The inputs of all batches.
        y: The targets of all batches.
        carry: The variables to predict with; otherwise a pair of state and totals.
        step: `step(carry, x, y)` returns the outputs to predict; otherwise it returns the next carry.
        logs: Computes results from the totals.
    """
    import jax
    import jax.numpy as jnp

    count = o["n"] // o["batch"]
    x, y = (jnp.asarray(a).reshape(count, o["batch"], *a.shape[1:]) for a in (x, y))
    if task == "predict":
        predict_all = jax.jit(lambda carry, x, y: jax.lax.scan(lambda c, b: (c, step(c, *b)), carry, (x, y))[1])
        predict_batch = jax.jit(step)
        if use_scan:
            return lambda: np.asarray(predict_all(carry, x, y))
        return lambda: np.concatenate([np.asarray(predict_batch(carry, x[i], y[i])) for i in range(count)])
    # Evaluation donates nothing, because it needs its variables again.
    donated = () if task == "evaluate" else (0,)
    all_steps = jax.jit(
        lambda carry, x, y: jax.lax.scan(lambda c, b: (step(c, *b), None), carry, (x, y))[0], donate_argnums=donated
    )
    one_step = jax.jit(step, donate_argnums=donated)
    held, empty = [carry], jax.tree.map(np.asarray, carry[1])

    def run():
        carry = (held[0][0], jax.tree.map(jnp.array, empty))
        for _ in range(o["epochs"]):
            if use_scan:
                carry = all_steps(carry, x, y)
                continue
            for i in range(count):
                carry = one_step(carry, x[i], y[i])
        held[0] = carry
        return jax.device_get(logs(carry[1]))

    return run


# ---------------------------------------------------------------- plain Flax and optax, without this project


def flax_network(model, o):
    """Builds the model as users of flax.linen write it; it returns logits."""
    import flax.linen as nn
    import jax.numpy as jnp

    class Convolutional(nn.Module):
        @nn.compact
        def __call__(self, x, lengths, train):
            simple = model == "simple_cnn"
            x = nn.relu(nn.Conv(32, (3, 3), padding="VALID")(x))
            x = x if simple else nn.max_pool(x, (2, 2), (2, 2))
            x = nn.relu(nn.Conv(64, (3, 3), padding="VALID")(x))
            x = nn.max_pool(x, (2, 2), (2, 2))
            x = nn.Dropout(0.25, deterministic=not train)(x) if simple else x
            x = nn.relu(nn.Dense(128)(x.reshape(len(x), -1)))
            x = nn.Dropout(0.5, deterministic=not train)(x) if simple else x
            return nn.Dense(CLASSES)(x)

    class Recurrent(nn.Module):
        @nn.compact
        def __call__(self, x, lengths, train):
            kind, *form = model.split("-")
            cell = {"lstm": nn.OptimizedLSTMCell, "gru": nn.GRUCell, "simple_rnn": nn.SimpleCell}[kind]

            def last(x, **options):
                carry, _ = nn.RNN(cell(o["units"]), return_carry=True, **options)(x, seq_lengths=lengths)
                return carry[1] if kind == "lstm" else carry

            if "stacked" in form:
                x = nn.RNN(cell(o["units"]))(x, seq_lengths=lengths)
            both = [last(x), last(x, reverse=True)] if "bidirectional" in form else [last(x)]
            return nn.Dense(CLASSES)(jnp.concatenate(both, -1))

    return Convolutional() if "cnn" in model else Recurrent()


def flax_run(model, task, o, use_scan):
    """Returns a function that trains with flax.linen and optax as their examples do: a jitted step or an epoch's
    scan."""
    import jax
    import jax.numpy as jnp
    import optax

    x, y, lengths = examples(model, o)
    net, adam = flax_network(model, o), optax.adam(1e-3)
    # Lengths are a second column of the targets.
    targets = np.stack([y, y if lengths is None else lengths], 1).astype("int32")
    variables = jax.jit(lambda key: net.init(key, jnp.asarray(x[:1]), None, False))(jax.random.key(0))

    def outputs(params, x, target, train, key=None):
        rngs = None if key is None else {"dropout": key}
        return net.apply(params, x, None if lengths is None else target[:, 1], train, rngs=rngs)

    def add_batch(totals, loss, logits, target):
        hits = jnp.sum(logits.argmax(-1) == target[:, 0])
        return {"loss": totals["loss"] + loss, "hits": totals["hits"] + hits}

    def evaluate(carry, x, target):
        variables, totals = carry
        logits = outputs(variables, x, target, False)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, target[:, 0]).mean()
        return variables, add_batch(totals, loss, logits, target)

    def train(carry, x, target):
        (params, opt_state, key), totals = carry
        key, dropout_key = jax.random.split(key)

        def loss_of(params):
            logits = outputs(params, x, target, True, dropout_key)
            return optax.softmax_cross_entropy_with_integer_labels(logits, target[:, 0]).mean(), logits

        (loss, logits), grads = jax.value_and_grad(loss_of, has_aux=True)(params)
        updates, opt_state = adam.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state, key), add_batch(totals, loss, logits, target)

    empty = {"loss": jnp.zeros(()), "hits": jnp.zeros((), jnp.int32)}
    if task == "predict":

        def predict(variables, x, target):
            return jax.nn.softmax(outputs(variables, x, target, False))

        return loop_run(task, use_scan, o, x, targets, variables, predict)
    if task == "evaluate":
        return loop_run(task, use_scan, o, x, targets, (variables, empty), evaluate)
    start = (variables, adam.init(variables), jax.random.key(1))
    return loop_run(task, use_scan, o, x, targets, (start, empty), train)


# ---------------------------------------------------------------- Keras


def keras_run(model, task, o, backend, steps_per_execution=1):
    """Returns a function that runs Keras as its users do; "best" keeps the fastest of some `steps_per_execution`."""
    os.environ["KERAS_BACKEND"] = backend
    import keras

    x, y, _ = examples(model, o)

    def build(steps):
        net = network(keras, model, o)
        net.compile("adam", LOSS, metrics=["accuracy"], steps_per_execution=steps)
        if task == "predict":
            return lambda: net.predict(x, batch_size=o["batch"], verbose=0)
        if task == "evaluate":
            return lambda: net.evaluate(x, y, batch_size=o["batch"], verbose=0)
        return lambda: net.fit(x, y, batch_size=o["batch"], epochs=o["epochs"], verbose=0)

    if steps_per_execution != "best":
        return build(steps_per_execution)
    runs = [build(steps) for steps in sorted({2, o["n"] // o["batch"]})]
    # The first call compiles; the second one is measured.
    return min(runs, key=lambda run: seconds_of(run) and seconds_of(run))


def seconds_of(run):
    """Returns the seconds of one run."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


# ---------------------------------------------------------------- PyTorch


def torch_network(model, o):
    """Builds the model as users of PyTorch write it."""
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


def torch_run(model, task, o, compiled=False, channels_last=False):
    """Returns a function that runs a plain PyTorch training loop."""
    import torch
    from torch import nn

    x, y, lengths = examples(model, o)
    net = torch_network(model, o)
    if x.ndim == 4:
        x = x.transpose(0, 3, 1, 2)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_float32_matmul_precision("high")  # JAX's default precision on a GPU; no effect on a CPU
    x, y, net = torch.from_numpy(x.copy()).to(device), torch.from_numpy(y).long().to(device), net.to(device)
    if channels_last:
        net, x = net.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    if compiled:
        # The mode "reduce-overhead" uses CUDA graphs.
        net = torch.compile(net, mode="reduce-overhead" if device.type == "cuda" else None)
    adam = torch.optim.Adam(net.parameters(), lr=1e-3, fused=device.type == "cuda" or None)
    loss_of = nn.CrossEntropyLoss()

    def outputs(start):
        rows = slice(start, start + o["batch"])
        return net(x[rows]) if lengths is None else net(x[rows], torch.from_numpy(lengths[rows]))

    def step(start, predictions):
        labels, logits = y[start : start + o["batch"]], outputs(start)
        if task == "predict":
            predictions.append(logits.softmax(-1).cpu().numpy())
            return 0, 0
        loss = loss_of(logits, labels)
        if task == "train":
            adam.zero_grad()
            loss.backward()
            adam.step()
        # The run reads the totals at its end, so that no step waits for a GPU.
        return loss.detach(), (logits.argmax(1) == labels).sum()

    def run():
        net.train(task == "train")
        total, hits, predictions = torch.zeros((), device=device), torch.zeros((), device=device), []
        with torch.set_grad_enabled(task == "train"):
            for _ in range(o["epochs"] if task == "train" else 1):
                for start in range(0, o["n"], o["batch"]):
                    loss, correct = step(start, predictions)
                    total, hits = total + loss, hits + correct
        return total.item(), hits.item()

    return run


# ---------------------------------------------------------------- a single recurrent layer, forward or with gradients

LAYER_CALLS = 10  # calls in a run; the run then waits for the device


def flaxmodels_layer(model, task, o, implementation):
    """Returns a function that runs a recurrent layer; the implementation "auto" follows the dispatch rule."""
    import jax
    import jax.numpy as jnp

    from flaxmodels import layers
    from flaxmodels.kernels import recurrence

    x, _, lengths = examples(model, o)
    dtype = o.get("dtype", "float32")
    x = jnp.asarray(x, dtype)
    mask = None if lengths is None else jnp.arange(o["t"])[None] < jnp.asarray(lengths)[:, None]
    layer = {"lstm": layers.LSTM, "gru": layers.GRU}[model](o["units"], return_sequences=True, dtype=dtype)
    variables = layer.init(jax.random.key(0), x)
    weights = jnp.asarray(np.random.default_rng(1).normal(size=(*x.shape[:2], o["units"])), dtype)

    def loss(variables, x):
        return jnp.sum((layer.apply(variables, x, mask=mask) * weights).astype(jnp.float32))

    if task == "forward":
        call = jax.jit(lambda variables, x: layer.apply(variables, x, mask=mask))
    else:
        call = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))

    def run():
        with recurrence.use_implementation(implementation):
            for _ in range(LAYER_CALLS):
                outputs = call(variables, x)
            jax.block_until_ready(outputs)

    return run


def torch_layer(model, task, o):
    """Returns a function that runs torch.nn.LSTM or torch.nn.GRU; masked examples are packed."""
    import torch
    from torch import nn

    x, _, lengths = examples(model, o)
    dtype = getattr(torch, o.get("dtype", "float32"))
    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    # JAX uses TensorFloat-32 by default on devices that have it.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    kind = {"lstm": nn.LSTM, "gru": nn.GRU}[model]
    layer = kind(o["features"], o["units"], batch_first=True).to(device, dtype)
    x = torch.from_numpy(x).to(device, dtype).requires_grad_(task != "forward")
    weights = torch.randn((*x.shape[:2], o["units"]), device=device, dtype=dtype)
    if lengths is not None:
        lengths = torch.from_numpy(lengths)
        weights = pack(weights, lengths).data

    def call():
        outputs = layer(x if lengths is None else pack(x, lengths))[0]
        if task == "forward":
            return
        layer.zero_grad(set_to_none=True)
        x.grad = None
        ((outputs if lengths is None else outputs.data) * weights).float().sum().backward()

    def run():
        with torch.set_grad_enabled(task != "forward"):
            for _ in range(LAYER_CALLS):
                call()
        if cuda:
            torch.cuda.synchronize()

    return run


def pack(values, lengths):
    """Returns right-padded examples in the packed form of PyTorch's recurrent layers."""
    from torch.nn.utils.rnn import pack_padded_sequence

    return pack_padded_sequence(values, lengths, batch_first=True, enforce_sorted=False)


COMPETITORS = {
    "flaxmodels": flaxmodels_run,
    "jax-scan": partial(handwritten_run, use_scan=True),
    "jax-steps": partial(handwritten_run, use_scan=False),
    "flax-scan": partial(flax_run, use_scan=True),
    "flax-steps": partial(flax_run, use_scan=False),
    "keras-jax": partial(keras_run, backend="jax"),
    "keras-jax-best": partial(keras_run, backend="jax", steps_per_execution="best"),
    "keras-torch": partial(keras_run, backend="torch"),
    "keras-tensorflow": partial(keras_run, backend="tensorflow"),
    "torch": torch_run,
    "torch-channels-last": partial(torch_run, channels_last=True),
    "torch-compiled": partial(torch_run, compiled=True),
    "layer": partial(flaxmodels_layer, implementation="auto"),
    "layer-scan": partial(flaxmodels_layer, implementation="scan"),
    "layer-fused": partial(flaxmodels_layer, implementation="fused"),
    "layer-cudnn": partial(flaxmodels_layer, implementation="cudnn"),
    "torch-layer": torch_layer,
}


def main():
    """Answers requests until standard input ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("competitor", choices=list(COMPETITORS))
    build = COMPETITORS[parser.parse_args().competitor]
    # Libraries may print, so standard output is reserved for the answers.
    answers, sys.stdout = sys.stdout, sys.stderr
    run = None
    for line in sys.stdin:
        request = json.loads(line)
        start, cpu = time.perf_counter(), time.process_time()
        if request:
            run = None  # frees the memory of the previous case
            run = build(request["model"], request["task"], sizes(request["options"]))
            answer = {"build": time.perf_counter() - start, "first": seconds_of(run), "second": seconds_of(run)}
        else:
            run()
            answer = {"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu}
        answer["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
