"""Checks numbers and speed on an NVIDIA GPU, in comparison with Keras and PyTorch.

    python benchmarks/gpu.py [--parts tests check cnn lstm gru mnist precision determinism] [--data FOLDER]
    python benchmarks/gpu.py --parts lstm --seconds 500     # starts nothing new after that time; keeps all results
    python benchmarks/gpu.py --dry          # tiny sizes on any machine, to check this script; keeps nothing

Each part takes some minutes at most:

    tests        the tests that need a GPU
    check        values and gradients of each implementation against float64 on the CPU, over random shapes, masks and
                 inputs that differ in each run
    cnn          training of the CNNs, compared with Keras on JAX and PyTorch, eager and with CUDA graphs
    lstm, gru    single recurrent layers with each implementation, compared with torch.nn
    mnist        time to 99% accuracy on MNIST
    precision    accuracy and speed in half precision over five seeds
    determinism  whether two runs are bit-identical

Each run waits until the device is done before the clock is read. Packages that are not installed are named and skipped.
Each result is written to results/ at once, and a sentence is printed for each target. The exit status is 0 if all
targets are met.

FOLDER holds mnist/ and fashion_mnist/ with the four original files each; without it, both are downloaded.
"""

import argparse
import importlib.util
import itertools
import os
import pathlib
import subprocess
import sys
import time

# Several processes share the memory of the device. The C kernels are for CPUs and not needed here.
os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.1")
os.environ.setdefault("FLAXMODELS_NATIVE", "0")
# The processes of competitors must find the packages, even if they are not installed.
sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))
os.environ["PYTHONPATH"] = os.pathsep.join([sys.path[0], os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)

import jax
import jax.numpy as jnp
import measure
import numpy as np
import throughput

from flaxmodels import Input, Sequential, layers, models
from flaxmodels.kernels import recurrence
from training import Trainer, datasets, optimizers, schedules

ROOT = pathlib.Path(__file__).parent.parent
PARTS = ("tests", "check", "cnn", "lstm", "gru", "mnist", "precision", "determinism")
IMPLEMENTATIONS = (("lstm", "cudnn"), ("lstm", "fused"), ("lstm", "scan"), ("gru", "fused"), ("gru", "scan"))
LOSS = "categorical_crossentropy"
# Largest allowed error relative to the largest value: by matmul precision for float32, otherwise by dtype.
BOUNDS = {"highest": 1e-4, "default": 2e-2, "float16": 2e-2, "bfloat16": 6e-2}


def tests(dry, **_):
    """Yields the result of the tests that are marked gpu."""
    if importlib.util.find_spec("pytest") is None:
        report_skipped("the tests", "pytest is not installed")
        return
    files = [str(path) for path in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.gpu" in path.read_text()]
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "--all", *files]
    done = subprocess.run(command + ["--collect-only"] * dry, cwd=ROOT, check=False)
    yield target("tests", "pytest -m gpu", done.returncode, done.returncode == 0, "exit status 0")


# ---------------------------------------------------------------- numbers


def check(dry, **_):
    """Yields the errors of each implementation against float64 on the CPU, with new random inputs in each run."""
    seed = int(np.random.SeedSequence().entropy % 2**32)
    rng = np.random.default_rng(seed)
    print(f"seed {seed}")
    if jax.default_backend() != "gpu":
        print("no GPU: every implementation is replaced by the scan in float32")
    for kind, implementation in IMPLEMENTATIONS[1:4:2] if dry else IMPLEMENTATIONS:
        for precision in ("highest", "default"):
            for dtype in ("float32", "float16", "bfloat16"):
                if dtype == "float32" or (precision == "default" and implementation != "cudnn"):
                    yield check_recurrence(kind, implementation, precision, dtype, rng, 1 if dry else 5)
    for build in (models.simple_cnn, models.functional_cnn):
        for precision in ("highest", "default"):
            yield check_cnn(build, precision, rng, 4 if dry else 128)


def check_recurrence(kind, implementation, precision, dtype, rng, count):
    """Returns the largest error over some random sizes and masks."""
    worst, worst_sizes, failure = 0.0, "", ""
    on_gpu = jax.default_backend() == "gpu"
    for _ in range(count):
        largest = (12, 8, 8, 40) if not on_gpu else (300, 150, 64, 512 if dtype == "float32" else 300)
        t, b, f, u = (int(rng.integers(1, n + 1)) for n in largest)
        sizes = f"T {t} B {b} F {f} U {u}"
        arrays = random_recurrence(kind, (t, b, f, u), rng, dtype)
        mask = random_mask(t, b, rng)
        try:
            with jax.default_matmul_precision("highest" if precision == "highest" else "tensorfloat32"):
                got = gradients(kind, arrays, mask, implementation if on_gpu else "scan")
        except Exception as error:  # a compiler or driver error must not stop the other checks
            failure = f"{type(error).__name__}: {str(error)[:200]}"
            worst, worst_sizes = float("inf"), sizes
            break
        with jax.enable_x64(True), jax.default_device(jax.local_devices(backend="cpu")[0]):
            float64_arrays = jax.tree.map(lambda a: jnp.asarray(np.asarray(a, np.float64)), arrays)
            want = gradients(kind, float64_arrays, jnp.asarray(np.asarray(mask)) if mask is not None else None, "scan")
        error = max_error(got, want)
        if not error <= worst:  # also for NaN
            worst, worst_sizes = error, sizes
    bound = BOUNDS[precision if dtype == "float32" else dtype]
    label = f"{kind}, {implementation}, {dtype}" + (f", {precision} precision" if dtype == "float32" else "")
    return target("check", label, worst, worst <= bound, f"error at most {bound}", note=failure or worst_sizes)


def random_recurrence(kind, sizes, rng, dtype):
    """Returns random inputs, weights and initial states."""
    t, b, f, u = sizes
    width = {"lstm": 4, "gru": 3}[kind] * u
    inputs = recurrence.Inputs(rng.normal(size=(t, b, f)), rng.normal(size=(f, width)) / f**0.5, rng.normal(size=width))
    recurrent_bias = [rng.normal(size=width)] * (kind == "gru")
    state = (recurrence.LSTMState if kind == "lstm" else recurrence.Hidden)(
        *(rng.normal(size=(b, u)) for _ in range(1 + (kind == "lstm")))
    )
    arrays = [inputs, rng.normal(size=(u, width)) / u**0.5, *recurrent_bias, state]
    return jax.tree.map(lambda a: jnp.asarray(a, dtype), arrays)


def random_mask(t, b, rng):
    """Returns None or a mask: padded right, padded left or random; some examples may be masked in all steps."""
    lengths, steps = rng.integers(0, t + 1, (1, b)), np.arange(t)[:, None]
    patterns = (None, steps < lengths, steps >= lengths, rng.random((t, b)) < 0.6)
    mask = patterns[rng.integers(len(patterns))]
    return None if mask is None else jnp.asarray(mask)


def gradients(kind, arrays, mask, implementation):
    """Returns the outputs of one implementation and its gradients with respect to all arrays."""
    run = {"lstm": recurrence.lstm, "gru": recurrence.gru}[kind]

    def forward_and_backward(arrays):
        outputs, vjp = jax.vjp(lambda arrays: run(*arrays, mask), arrays)
        return outputs, vjp(
            jax.tree.map(lambda o: jnp.cos(jnp.arange(o.size).reshape(o.shape)).astype(o.dtype), outputs)
        )

    with recurrence.use_implementation(implementation):
        return jax.device_get(jax.jit(forward_and_backward)(arrays))


def max_error(got, want):
    """Returns the largest difference, relative to the largest value of its array or to 1 if that is larger."""
    worst = 0.0
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        w = np.asarray(w, np.float64)
        error = np.abs(np.asarray(g, np.float64) - w).max(initial=0) / max(1.0, np.abs(w).max(initial=0))
        worst = max(worst, float(error)) if np.isfinite(error) else float("inf")
    return worst


def check_cnn(build, precision, rng, batch):
    """Returns the largest error of a network's loss and gradients, relative to the largest value of each array."""
    net = build((28, 28, 1), 10)
    x, y = rng.random((batch, 28, 28, 1), np.float32), rng.integers(0, 10, batch)
    variables = jax.device_get(jax.jit(net.init)(jax.random.key(0), x[:1]))

    def loss_and_gradients(net, variables, x):
        def loss(variables):
            return -jnp.log(net.apply(variables, x)[np.arange(batch), y] + 1e-7).mean()

        value, grads = jax.device_get(jax.jit(jax.value_and_grad(loss))(variables))
        return value, jax.tree.map(lambda g: g / max(np.abs(g).max(), 1e-30), grads)

    with jax.default_matmul_precision("highest" if precision == "highest" else "tensorfloat32"):
        got = loss_and_gradients(net, variables, x)
    with jax.enable_x64(True), jax.default_device(jax.local_devices(backend="cpu")[0]):
        float64_arrays = jax.tree.map(lambda a: np.asarray(a, np.float64), (variables, x))
        want = loss_and_gradients(net.clone(dtype="float64"), *float64_arrays)
    # The worst gradients are sums of ten thousand terms, and ReLU inputs near zero may change sign.
    error, bound = max_error(got, want), 10 * BOUNDS[precision]
    case = f"{build.__name__}, {precision} precision"
    return target("check", case, error, error <= bound, f"error at most {bound}")


# ---------------------------------------------------------------- speed


def cnn(dry, rounds, **_):
    """Yields the throughput of training on data of MNIST's size, batch 128."""
    options = {"n": 32, "batch": 16} if dry else {"n": 468 * 128, "batch": 128, "epochs": 3}
    peers = ["keras-jax", "torch"]
    if not dry:
        peers = ["jax-scan", "keras-jax", "keras-jax-best", "torch", "torch-channels-last", "torch-compiled"]
    for model in ("functional_cnn",) if dry else ("simple_cnn", "functional_cnn"):
        rows = compare(model, "train", options, ["flaxmodels", *peers], rounds)
        yield from rows
        if model == "simple_cnn":
            yield from speedup(rows, "flaxmodels", "keras-jax", 10) + speedup(rows, "flaxmodels", "torch-compiled", 3)


def layer_cases(dry):
    """Returns sizes in float32, some also in bfloat16 and with right-padded masks; the most informative come first."""
    if dry:
        return [{"n": 4, "batch": 4, "t": 5, "units": 4, "dtype": "float32"}]
    cases = [{"t": 512, "units": units, "dtype": "float32"} for units in (128, 256, 512)]
    cases.append({"t": 512, "units": 256, "dtype": "float32", "mask": True})
    cases += [{"t": 512, "units": units, "dtype": "bfloat16"} for units in (128, 256, 512)]
    cases += [{"t": t, "units": units, "dtype": "float32"} for t in (128, 1024) for units in (128, 256, 512)]
    return [{"n": 64, "batch": 64} | options for options in cases]


def layers_alone(kind, dry, rounds):
    """Yields the throughput of a recurrent layer, forward and with gradients, for each implementation and torch.nn."""
    workers = {}
    try:
        for options, task in itertools.product(layer_cases(dry), ("gradient", "forward")):
            names = ["layer", "layer-scan", "torch-layer"]
            if not dry:
                names += ["layer-fused"] + ["layer-cudnn"] * (kind == "lstm" and options["dtype"] == "float32")
            rows = compare(kind, task, options, names, rounds, workers, parallel_setup=os.cpu_count() > len(names))
            yield from rows + speedup(rows, "layer", "torch-layer", 1)
    finally:
        throughput.close_all(workers)


def lstm(dry, rounds, **_):
    """Yields the throughput of LSTM layers."""
    yield from layers_alone("lstm", dry, rounds)


def gru(dry, rounds, **_):
    """Yields the throughput of GRU layers."""
    yield from layers_alone("gru", dry, rounds)


def compare(model, task, options, competitors, rounds, workers=None, parallel_setup=False):
    """Returns the rows of `throughput.compare`; no rows if a competitor fails during its runs."""
    try:
        rows = throughput.compare(model, task, options, competitors, rounds, workers, parallel_setup)
    except RuntimeError as error:
        if workers is not None:
            workers.clear()
        report_skipped(throughput.case_name(model, options), str(error)[-300:])
        return []
    if rows:
        print(throughput.summary(rows), flush=True)
    return [{"part": "speed"} | row for row in rows]


def speedup(rows, first, second, factor):
    """Returns a target row: the first competitor is `factor` times as fast as the second; no row if one is missing."""
    speeds = {row["competitor"]: row for row in rows}
    if first not in speeds or second not in speeds:
        return []
    ratio = speeds[first]["examples_per_second"] / speeds[second]["examples_per_second"]
    case = f"{speeds[first]['case']}, {speeds[first]['task']}, {first} over {second}"
    return [target("speed", case, ratio, ratio >= factor, f"at least {factor} times as fast")]


# ---------------------------------------------------------------- training


def images(name, data, dry):
    """Returns the training and the test split of an image set, or None if it is not available."""
    if dry:
        rng = np.random.default_rng(0)
        splits = [(rng.integers(0, 256, (n, 28, 28, 1)).astype(np.uint8), rng.integers(0, 10, n)) for n in (64, 32)]
        return [datasets.Split(x, y, 1 / 255, 10) for x, y in splits]
    try:
        loaded = datasets.load(name, raw_dir=data / name if data else None)
    except Exception as error:  # the network or a package may be missing
        report_skipped(name, str(error)[:200])
        return None
    return [loaded.train, loaded.test]


def refit(trainer, train, seed, **options):
    """Returns the seconds of a run from new parameters; programs compiled by an earlier run are reused."""
    trainer.state, trainer.seed = None, seed
    start = time.perf_counter()
    trainer.fit(train, verbose=0, **options)
    jax.block_until_ready(trainer.state.params)
    return time.perf_counter() - start


def mnist(dry, data, seeds, **_):
    """Yields accuracy and training seconds of runs from new parameters; the target is 99% in one second of training."""
    splits = images("mnist", data, dry)
    if splits is None:
        return
    train, test = splits
    # Four epochs barely reach 99%; five reach it safely.
    for epochs, batch in ((1, 32),) if dry else ((5, 256), (4, 256)):
        steps = epochs * -(-len(train.x) // batch)
        rate = schedules.CosineDecay(0.0, steps, warmup_target=3e-3, warmup_steps=steps // 5)
        trainer = Trainer(models.simple_cnn((28, 28, 1), 10), optimizers.Adam(rate), LOSS, ["accuracy"])
        refit(trainer, train, 0, batch_size=batch, epochs=epochs)
        for seed in range(seeds):
            seconds = refit(trainer, train, seed, batch_size=batch, epochs=epochs)
            accuracy = float(trainer.evaluate(test, batch_size=1000)["accuracy"])
            case = f"seed {seed}, {epochs} epochs, batch {batch}"
            met = accuracy >= 0.99 and seconds < 1
            note = f"{seconds:.3f} s of training"
            yield target("mnist", case, accuracy, met, "at least 0.99 in less than 1 s", note=note)


def precision(dry, data, seeds, **_):
    """Yields accuracy over several seeds and speed in half precision, relative to float32."""
    for name in ("mnist",) if dry else ("mnist", "fashion_mnist"):
        splits = images(name, data, dry)
        if splits is None:
            continue
        train, test = splits
        accuracies, seconds = {}, {}
        for kind in (None, "mixed_bfloat16", "mixed_float16"):
            trainer = Trainer(models.simple_cnn((28, 28, 1), 10), "adam", LOSS, ["accuracy"], precision=kind)
            options = {"batch_size": 32 if dry else 128, "epochs": 1 if dry else 3}
            refit(trainer, train, 0, **options)
            runs = []
            for seed in range(seeds):
                runs.append(refit(trainer, train, seed, **options))
                accuracy = float(trainer.evaluate(test, batch_size=1000)["accuracy"])
                accuracies.setdefault(kind, []).append(accuracy)
            seconds[kind] = measure.median(runs)
        for kind, values in accuracies.items():
            difference = np.mean(values) - np.mean(accuracies[None])
            # Twice the standard error of the difference of the means.
            noise = 2 * float(np.hypot(np.std(values), np.std(accuracies[None]))) / max(1, seeds - 1) ** 0.5
            note = f"{np.mean(values):.4f} over {seeds} seeds, {seconds[kind]:.3f} s"
            if kind is None:
                print(f"{name}: {note}")
                continue
            case = f"{name}, {kind}, accuracy minus that of float32"
            yield target("precision", case, difference, difference >= -noise, f"at least {-noise:.4f}", note=note)
            ratio = seconds[None] / seconds[kind]
            yield target("precision", f"{name}, {kind}, speed-up over float32", ratio, ratio > 1, "over 1", note=note)


def determinism(dry, **_):
    """Yields the number of parameters that differ between two runs with the same seed."""
    rng = np.random.default_rng(0)
    count, sizes = (32, (5, 3, 4)) if dry else (1280, (64, 9, 128))
    t, f, u = sizes
    for name, build, shape in (
        ("simple_cnn", lambda: models.simple_cnn((28, 28, 1), 10), (28, 28, 1)),
        ("lstm", lambda: Sequential([Input((t, f)), layers.LSTM(u), layers.Dense(10, "softmax")]), (t, f)),
        ("gru", lambda: Sequential([Input((t, f)), layers.GRU(u), layers.Dense(10, "softmax")]), (t, f)),
    ):
        x, y = rng.normal(size=(count, *shape)).astype(np.float32), rng.integers(0, 10, count)
        results = []
        for _ in range(2):
            trainer = Trainer(build(), "adam", "sparse_categorical_crossentropy", deterministic=True)
            trainer.fit(x, y, batch_size=32, epochs=2, verbose=0)
            results.append(jax.device_get(jax.tree.leaves(trainer.state.params)))
        different = sum(int((a != b).sum()) for a, b in zip(*results, strict=True))
        yield target("determinism", name, different, different == 0, "0 parameters that differ")


def target(part, case, value, met, wanted, note=""):
    """Prints whether a target is met and returns its row."""
    value = float(value)
    print(f"{'met   ' if met else 'MISSED'} {part}: {case}: {value:.4g}, target: {wanted}. {note}", flush=True)
    row = {"id": f"{part}, {case}", "part": part, "case": case, "value": f"{value:.6g}", "target": wanted}
    return row | {"met": bool(met), "note": note}


def report_skipped(what, reason):
    """Prints what is skipped and why."""
    print(f"{what} skipped: {reason}", flush=True)


RUN = dict(zip(PARTS, (tests, check, cnn, lstm, gru, mnist, precision, determinism), strict=True))


def main():
    """Runs the chosen parts; returns 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--data", type=pathlib.Path, help="folder with the original files of MNIST and Fashion-MNIST")
    parser.add_argument("--rounds", type=int, default=5, help="timed runs of each competitor")
    parser.add_argument("--seeds", type=int, default=5, help="runs of mnist and precision")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start nothing new after this time")
    parser.add_argument("--dry", action="store_true", help="tiny sizes on any machine; keeps nothing")
    arguments = parser.parse_args()
    if jax.default_backend() != "gpu" and not arguments.dry:
        parser.error(f"This script needs an NVIDIA GPU, got {jax.default_backend()!r}; without one, add --dry.")
    print(measure.environment("jax", "flax", "optax", "keras", "torch"))
    options = {"dry": arguments.dry, "data": arguments.data, "rounds": arguments.rounds, "seeds": arguments.seeds}
    missed, versions = 0, measure.versions("jax", "jaxlib", "flax", "optax", "keras", "torch")
    end = time.perf_counter() + arguments.seconds
    for part in arguments.parts:
        start, count, rows = time.perf_counter(), 0, RUN[part](**options)
        while time.perf_counter() < end and (row := next(rows, None)) is not None:
            count, missed = count + 1, missed + (row.get("met") is False)
            if not arguments.dry:  # written immediately, because a run may be interrupted
                measure.merge_rows(measure.results_file(f"gpu-{part}"), [row | {"versions": versions}], by="id")
        print(f"{part}: {count} rows in {time.perf_counter() - start:.0f} s", flush=True)
        if time.perf_counter() >= end:
            report_skipped(f"the rest of {part}", f"{arguments.seconds:g} s have passed")
        rows.close()
    print(f"{missed} targets missed{' (targets do not apply to a dry run)' if arguments.dry else ''}")
    return 1 if missed and not arguments.dry else 0


if __name__ == "__main__":
    raise SystemExit(main())
