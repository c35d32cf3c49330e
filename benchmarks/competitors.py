"""One competitor as a process of its own, because a process has one Keras backend.

    python competitors.py COMPETITOR

reads JSON, a line each, and answers each by a line of JSON: {"model": ..., "task": ..., "options": {...}} sets a case
up, and the answer says what that took; {} does a run of it, and the answer says its seconds. Every competitor trains
the same model on the same numbers with Adam and a cross-entropy, or evaluates or predicts with it.
"""

import json
import os
import resource
import sys
import time

import numpy as np

CLASSES = 10


def sizes(options):
    return {"n": 640, "batch": 128, "t": 128, "features": 9, "units": 128, "mask": False, "epochs": 1} | options


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
    return lambda: trainer.fit(x, y, batch_size=o["batch"], epochs=o["epochs"], verbose=0)


def loops(model, task, o, scanned):
    """The same step as `ours` in a loop written by hand: one program for all steps, or one for each."""

    import flaxmodels
    from training import optimizers, steps
    from training.objective import Objective

    x, y, _ = examples(model, o)
    net, adam = network(flaxmodels, model, o), optimizers.Adam()
    state, rules = steps.create_state(net, adam, x[:1])
    objective = Objective.of(net, steps.Batch(x, y), loss=LOSS, metrics=["accuracy"])
    if task == "predict":
        predict = steps.make_predict_step(net)
        return by_hand(task, scanned, o, x, y, state.variables, lambda v, x, y: predict(v, steps.Batch(x))[1])
    if task == "evaluate":
        evaluate = steps.make_eval_step(net, objective)
        carry = (state.variables, objective.empty())
        return by_hand(task, scanned, o, x, y, carry, lambda c, x, y: evaluate(*c, steps.Batch(x, y)), objective.logs)
    step = steps.make_train_step(net, objective, adam, rules)
    carry = (state, objective.empty())
    return by_hand(task, scanned, o, x, y, carry, lambda c, x, y: step(*c, steps.Batch(x, y)), objective.logs)


def by_hand(task, scanned, o, x, y, carry, step, logs=lambda totals: totals):
    """A run of `step(carry, x, y) -> carry`, or of `step(carry, x, y) -> outputs` where the task is to predict.

    One program does the run where it is scanned; else one program does a step, and the host calls it for each.
    """
    import jax
    import jax.numpy as jnp

    count = o["n"] // o["batch"]
    x, y = (jnp.asarray(a).reshape(count, o["batch"], *a.shape[1:]) for a in (x, y))
    if task == "predict":
        whole = jax.jit(lambda carry, x, y: jax.lax.scan(lambda c, b: (c, step(c, *b)), carry, (x, y))[1])
        one = jax.jit(step)
        if scanned:
            return lambda: np.asarray(whole(carry, x, y))
        return lambda: np.concatenate([np.asarray(one(carry, x[i], y[i])) for i in range(count)])
    # Evaluation has nothing to give away: its variables are needed again.
    donated = () if task == "evaluate" else (0,)
    whole = jax.jit(
        lambda carry, x, y: jax.lax.scan(lambda c, b: (step(c, *b), None), carry, (x, y))[0], donate_argnums=donated
    )
    one = jax.jit(step, donate_argnums=donated)
    held, empty = [carry], jax.tree.map(np.asarray, carry[1])

    def run():
        now = (held[0][0], jax.tree.map(jnp.array, empty))
        for _ in range(o["epochs"]):
            if scanned:
                now = whole(now, x, y)
                continue
            for i in range(count):
                now = one(now, x[i], y[i])
        held[0] = now
        return jax.device_get(logs(now[1]))

    return run


# ---------------------------------------------------------------- Flax and optax, without anything of ours


def flax_network(model, o):
    """The model as a user of flax.linen writes it; it gives logits."""
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


def in_flax(model, task, o, scanned):
    """flax.linen and optax as in their own examples: a jitted step, or a scan of it over the epoch."""
    import jax
    import jax.numpy as jnp
    import optax

    x, y, lengths = examples(model, o)
    net, adam = flax_network(model, o), optax.adam(1e-3)
    # Lengths travel beside the labels.
    targets = np.stack([y, y if lengths is None else lengths], 1).astype("int32")
    variables = jax.jit(lambda key: net.init(key, jnp.asarray(x[:1]), None, False))(jax.random.key(0))

    def outputs(params, x, target, train, key=None):
        rngs = None if key is None else {"dropout": key}
        return net.apply(params, x, None if lengths is None else target[:, 1], train, rngs=rngs)

    def counted(totals, loss, found, target):
        return totals["loss"] + loss, totals["hits"] + jnp.sum(found.argmax(-1) == target[:, 0])

    def evaluate(carry, x, target):
        found = outputs(carry[0], x, target, False)
        loss = optax.softmax_cross_entropy_with_integer_labels(found, target[:, 0]).mean()
        return carry[0], dict(zip(("loss", "hits"), counted(carry[1], loss, found, target), strict=True))

    def train(carry, x, target):
        (params, opt_state, key), totals = carry
        key, own = jax.random.split(key)

        def loss_of(params):
            found = outputs(params, x, target, True, own)
            return optax.softmax_cross_entropy_with_integer_labels(found, target[:, 0]).mean(), found

        (loss, found), grads = jax.value_and_grad(loss_of, has_aux=True)(params)
        updates, opt_state = adam.update(grads, opt_state, params)
        totals = dict(zip(("loss", "hits"), counted(totals, loss, found, target), strict=True))
        return (optax.apply_updates(params, updates), opt_state, key), totals

    empty = {"loss": jnp.zeros(()), "hits": jnp.zeros((), jnp.int32)}
    if task == "predict":
        return by_hand(task, scanned, o, x, targets, variables, lambda v, x, y: jax.nn.softmax(outputs(v, x, y, False)))
    if task == "evaluate":
        return by_hand(task, scanned, o, x, targets, (variables, empty), evaluate)
    start = (variables, adam.init(variables), jax.random.key(1))
    return by_hand(task, scanned, o, x, targets, (start, empty), train)


# ---------------------------------------------------------------- Keras


def in_keras(model, task, o, backend, per_execution=1):
    """Keras as its users write it; `per_execution` "best" tries some numbers of steps at once and keeps the fastest."""
    os.environ["KERAS_BACKEND"] = backend
    import keras

    x, y, _ = examples(model, o)

    def made(steps):
        net = network(keras, model, o)
        net.compile("adam", LOSS, metrics=["accuracy"], steps_per_execution=steps)
        if task == "predict":
            return lambda: net.predict(x, batch_size=o["batch"], verbose=0)
        if task == "evaluate":
            return lambda: net.evaluate(x, y, batch_size=o["batch"], verbose=0)
        return lambda: net.fit(x, y, batch_size=o["batch"], epochs=o["epochs"], verbose=0)

    if per_execution != "best":
        return made(per_execution)
    runs = [made(steps) for steps in sorted({2, o["n"] // o["batch"]})]
    return min(runs, key=lambda run: seconds_of(run) and seconds_of(run))  # the second time, compiled


def seconds_of(run):
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


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
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_float32_matmul_precision("high")  # as JAX multiplies on a GPU by default; a CPU has nothing faster
    x, y, net = torch.from_numpy(x.copy()).to(device), torch.from_numpy(y).long().to(device), net.to(device)
    if channels_last:
        net, x = net.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    if compiled:
        # On a GPU by CUDA graphs.
        net = torch.compile(net, mode="reduce-overhead" if device.type == "cuda" else None)
    adam = torch.optim.Adam(net.parameters(), lr=1e-3, fused=device.type == "cuda" or None)
    loss_of = nn.CrossEntropyLoss()

    def outputs(at):
        part = slice(at, at + o["batch"])
        return net(x[part]) if lengths is None else net(x[part], torch.from_numpy(lengths[part]))

    def step(at, predicted):
        labels, found = y[at : at + o["batch"]], outputs(at)
        if task == "predict":
            predicted.append(found.softmax(-1).cpu().numpy())
            return 0, 0
        loss = loss_of(found, labels)
        if task == "train":
            adam.zero_grad()
            loss.backward()
            adam.step()
        # Fetched at the end, so that a GPU is never waited for.
        return loss.detach(), (found.argmax(1) == labels).sum()

    def run():
        net.train(task == "train")
        total, hits, predicted = torch.zeros((), device=device), torch.zeros((), device=device), []
        with torch.set_grad_enabled(task == "train"):
            for _ in range(o["epochs"] if task == "train" else 1):
                for at in range(0, o["n"], o["batch"]):
                    loss, right = step(at, predicted)
                    total, hits = total + loss, hits + right
        return total.item(), hits.item()

    return run


# ---------------------------------------------------------------- a recurrent layer alone, forward or with gradients

REPEATS = 10  # of a call, before the device is waited for


def ours_alone(model, task, o, name):
    """Our layer by one implementation, "auto" for what the rule takes."""
    import jax
    import jax.numpy as jnp

    from flaxmodels import layers
    from flaxmodels.kernels import recurrence_choice

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
        with recurrence_choice.using(name):
            for _ in range(REPEATS):
                found = call(variables, x)
            jax.block_until_ready(found)

    return run


def torch_alone(model, task, o):
    """torch.nn.LSTM or torch.nn.GRU; masked examples are packed."""
    import torch
    from torch import nn

    x, _, lengths = examples(model, o)
    dtype = getattr(torch, o.get("dtype", "float32"))
    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    # As JAX does by default on such a device.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    kind = {"lstm": nn.LSTM, "gru": nn.GRU}[model]
    layer = kind(o["features"], o["units"], batch_first=True).to(device, dtype)
    x = torch.from_numpy(x).to(device, dtype).requires_grad_(task != "forward")
    weights = torch.randn((*x.shape[:2], o["units"]), device=device, dtype=dtype)
    if lengths is not None:
        lengths = torch.from_numpy(lengths)
        weights = pack(weights, lengths).data

    def call():
        found = layer(x if lengths is None else pack(x, lengths))[0]
        if task == "forward":
            return
        layer.zero_grad(set_to_none=True)
        x.grad = None
        ((found if lengths is None else found.data) * weights).float().sum().backward()

    def run():
        with torch.set_grad_enabled(task != "forward"):
            for _ in range(REPEATS):
                call()
        if cuda:
            torch.cuda.synchronize()

    return run


def pack(values, lengths):
    """Right-padded examples as PyTorch's recurrent layers take them."""
    from torch.nn.utils.rnn import pack_padded_sequence

    return pack_padded_sequence(values, lengths, batch_first=True, enforce_sorted=False)


COMPETITORS = {
    "ours": ours,
    "scan by hand": lambda *args: loops(*args, scanned=True),
    "steps by hand": lambda *args: loops(*args, scanned=False),
    "flax, scan": lambda *args: in_flax(*args, scanned=True),
    "flax, steps": lambda *args: in_flax(*args, scanned=False),
    "keras-jax": lambda *args: in_keras(*args, "jax"),
    "keras-jax, best": lambda *args: in_keras(*args, "jax", "best"),
    "keras-torch": lambda *args: in_keras(*args, "torch"),
    "keras-tensorflow": lambda *args: in_keras(*args, "tensorflow"),
    "torch": in_torch,
    "torch, channels last": lambda *args: in_torch(*args, channels_last=True),
    "torch, compiled": lambda *args: in_torch(*args, compiled=True),
    "layer": lambda *args: ours_alone(*args, "auto"),
    "layer, scan": lambda *args: ours_alone(*args, "scan"),
    "layer, fused": lambda *args: ours_alone(*args, "fused"),
    "layer, cudnn": lambda *args: ours_alone(*args, "cudnn"),
    "torch.nn": torch_alone,
}


def main():
    name = sys.argv[1]
    # What libraries print must not be taken for an answer.
    answers, sys.stdout = sys.stdout, sys.stderr
    run = None
    for line in sys.stdin:
        asked = json.loads(line)
        start, cpu = time.perf_counter(), time.process_time()
        if asked:
            run = None  # the case before may go
            run = COMPETITORS[name](asked["model"], asked["task"], sizes(asked["options"]))
            answer = {"build": time.perf_counter() - start, "first": seconds_of(run), "second": seconds_of(run)}
        else:
            run()
            answer = {"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu}
        answer["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
