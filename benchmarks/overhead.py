"""Measures the overhead of `fit` over a hand-written loop of the same step.

    python benchmarks/overhead.py [--rounds 9] [--batches 3 10 40] [--retain-heap]

`fit` shows its live display on a pseudo-terminal and calls three callbacks; the loops only run steps. All run in one
process and take turns, so that all see the same load. Each turn has five epochs. The results hold the median and the
best turn, which other load disturbs least. With --retain-heap, the script calls `training.retain_heap()` first, as the
command line does.
"""

import argparse
import os
import pty
import sys
import threading
import time

import competitors
import jax
import jax.numpy as jnp
import measure

import flaxmodels
from training import Trainer, callbacks, optimizers, retain_heap, steps
from training.objective import Objective

EPOCHS = 5
REFERENCE = "hand-written JAX (lax.scan)"


def terminal():
    """Replaces standard output by a pseudo-terminal that a thread reads; returns the original output."""
    original = os.fdopen(os.dup(1), "w")
    reader, writer = pty.openpty()
    os.dup2(writer, 1)
    os.environ["TERM"] = "xterm-256color"

    def read():
        while os.read(reader, 65536):
            pass

    threading.Thread(target=read, daemon=True).start()
    sys.stdout = os.fdopen(1, "w", buffering=1)
    return original


def three_callbacks():
    """Returns callbacks that never change the run."""
    return [
        callbacks.EarlyStopping("loss", patience=10**6),
        callbacks.ReduceLROnPlateau("loss", patience=10**6),
        callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: None),
    ]


def handwritten_loops(model, x, y, o):
    """Returns two functions that run the same step: as one program per epoch, and as one program per step."""
    adam, key = optimizers.Adam(), jax.random.key(0)
    state, rules = steps.create_state(model, adam, x[:1])
    example = steps.Batch(x, y)
    objective = Objective.of(model, example, loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    step = steps.make_train_step(model, objective, adam, rules, "stop")
    data, count = steps.Batch(jnp.asarray(x), jnp.asarray(y)), o["n"] // o["batch"]
    held = [state]  # both loops continue from the state of the previous run

    def run_epoch(state, data, key):
        order = jax.random.permutation(key, o["n"]).reshape(count, o["batch"])

        def body(carry, i):
            return step(*carry, steps.batch_at(data, order, i, 1.0, False)), None

        return jax.lax.scan(body, (state, objective.empty()), jnp.arange(count))[0]

    epoch = jax.jit(run_epoch, donate_argnums=0)
    one_step = jax.jit(
        lambda state, totals, data, order, i: step(state, totals, steps.batch_at(data, order, i, 1.0, False)),
        donate_argnums=(0, 1),
    )
    shuffled = jax.jit(lambda key: jax.random.permutation(key, o["n"]).reshape(count, o["batch"]))

    def scan():
        for i in range(EPOCHS):
            held[0], totals = epoch(held[0], data, jax.random.fold_in(key, i))
            jax.device_get(objective.logs(totals))

    def step_loop():
        for epoch_index in range(EPOCHS):
            totals, order = objective.empty(), shuffled(jax.random.fold_in(key, epoch_index))
            for i in range(count):
                held[0], totals = one_step(held[0], totals, data, order, i)
            jax.device_get(objective.logs(totals))

    return scan, step_loop


def cases(batches):
    """Yields name, model, data and sizes: a CNN and an LSTM with epochs of several lengths."""
    for model in ("functional_cnn", "lstm"):
        batch = 128 if model == "functional_cnn" else 64
        for count in batches:
            o = competitors.sizes({"n": batch * count, "batch": batch, "t": 32, "units": 64})
            yield (
                f"{model}, {count} steps",
                competitors.network(flaxmodels, model, o),
                competitors.examples(model, o),
                o,
            )


def measure_case(name, model, examples, o, rounds):
    """Yields a row for each hand-written loop, and for `fit` with and without display and callbacks."""
    x, y, _ = examples
    trainer = Trainer(model, "adam", "sparse_categorical_crossentropy", ["accuracy"])
    scan, step_loop = handwritten_loops(model, x, y, o)
    options = {"batch_size": o["batch"], "epochs": EPOCHS}
    runs = {
        REFERENCE: scan,
        "hand-written JAX (step loop)": step_loop,
        "fit, display and 3 callbacks": lambda: trainer.fit(x, y, **options, verbose=1, callbacks=three_callbacks()),
        "fit, silent": lambda: trainer.fit(x, y, **options, verbose=0),
    }
    for run in runs.values():
        run()  # one more warm-up: `fit` chooses its chunk length in its first runs
    seconds = measure.interleaved(runs, rounds)
    base = seconds[REFERENCE]
    for competitor, times in seconds.items():
        # Load that slows a turn slows the neighbouring runs of the same turn as well.
        over = [mine / theirs - 1 for mine, theirs in zip(times, base, strict=True)]
        yield {
            "case": name,
            "competitor": competitor,
            "milliseconds_per_epoch": round(1e3 * measure.median(times) / EPOCHS, 2),
            "over_scan_percent": round(100 * (measure.median(times) / measure.median(base) - 1), 1),
            "turn_by_turn_percent": round(100 * measure.median(over), 1),
            "best_percent": round(100 * (min(times) / min(base) - 1), 1),
            "spread": round(max(times) / min(times), 2),
        }


def main():
    """Measures all cases; prints a table and writes a CSV file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="timed runs of each competitor")
    parser.add_argument("--batches", type=int, nargs="+", default=[3, 10, 40], help="steps per epoch")
    parser.add_argument("--retain-heap", action="store_true", help="call training.retain_heap() first")
    arguments = parser.parse_args()
    kept = arguments.retain_heap and retain_heap()
    output, start, rows = terminal(), time.perf_counter(), []
    print(measure.environment("jax", "flax", "optax"), file=output, flush=True)
    for case in cases(arguments.batches):
        rows += measure_case(*case, arguments.rounds)
        print(f"{case[0]} after {time.perf_counter() - start:.0f} s", file=output, flush=True)
    measure.write_rows(measure.results_file("overhead-heap-retained" if kept else "overhead"), rows)
    print(measure.markdown(rows), file=output, flush=True)


if __name__ == "__main__":
    main()
