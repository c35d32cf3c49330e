"""Is all that runs on an NVIDIA GPU right there, and how fast is it beside Keras and PyTorch?

    python benchmarks/gpu.py [--parts tests check cnn lstm gru mnist precision determinism] [--data FOLDER]
    python benchmarks/gpu.py --parts lstm --seconds 500     # nothing new is begun then; what is done is kept
    python benchmarks/gpu.py --dry          # tiny sizes, anywhere: whether this script works; nothing is kept

Parts, each some minutes at most: the tests that need a GPU; values and gradients of each path against float64 on the
CPU, over random shapes, masks and inputs that are other ones in each run; training of the CNNs beside Keras on JAX and
PyTorch, eager and by CUDA graphs; recurrent layers alone, by each implementation, beside torch.nn; MNIST to 99%;
half precision over five seeds; the same bits twice. Every process waits for its device before a clock is read. What is
not installed is named and left out. A row per result goes to results/ as it comes, a sentence per target to the
terminal; the exit status says whether all were met.

FOLDER holds mnist/ and fashion_mnist/ with the four original files each; without it they are downloaded.
"""

import argparse
import importlib.util
import itertools
import os
import pathlib
import subprocess
import sys
import time

# Several processes share the device, each with a part of its memory; kernels for the host's processor are not needed.
os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.1")
os.environ.setdefault("FLAXMODELS_NATIVE", "0")
# Competitors' processes find the packages, too, where they are not installed.
sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))
os.environ["PYTHONPATH"] = os.pathsep.join([sys.path[0], os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)

import jax
import jax.numpy as jnp
import measure
import numpy as np
import throughput

from flaxmodels import Input, Sequential, layers, models
from flaxmodels.kernels import recurrence, recurrence_choice
from training import Trainer, datasets, optimizers, schedules

ROOT = pathlib.Path(__file__).parent.parent
PARTS = ("tests", "check", "cnn", "lstm", "gru", "mnist", "precision", "determinism")
PATHS = (("lstm", "cudnn"), ("lstm", "fused"), ("lstm", "scan"), ("gru", "fused"), ("gru", "scan"))
LOSS = "categorical_crossentropy"
# Largest errors relative to the largest value, by dtype, or for float32 by the precision of products.
BOUNDS = {"highest": 1e-4, "default": 2e-2, "float16": 2e-2, "bfloat16": 6e-2}


def tests(dry, **_):
    """The tests that are marked gpu."""
    if importlib.util.find_spec("pytest") is None:
        left_out("the tests", "pytest is not installed")
        return
    files = [str(path) for path in sorted((ROOT / "tests").glob("test_*.py")) if "mark.gpu" in path.read_text()]
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "--all", *files]
    done = subprocess.run(command + ["--collect-only"] * dry, cwd=ROOT, check=False)
    yield target("tests", "pytest -m gpu", done.returncode, done.returncode == 0, "exit status 0")


# ---------------------------------------------------------------- is it right?


def check(dry, **_):
    """Values and gradients of each path against float64 on the CPU, fresh inputs."""
    seed = int(np.random.SeedSequence().entropy % 2**32)
    rng = np.random.default_rng(seed)
    print(f"seed {seed}")
    if jax.default_backend() != "gpu":
        print("no GPU: the scan in float32 stands for every implementation")
    for kind, name in PATHS[1:4:2] if dry else PATHS:
        for products in ("highest", "default"):
            for dtype in ("float32", "float16", "bfloat16"):
                if dtype == "float32" or (products == "default" and name != "cudnn"):
                    yield check_recurrence(kind, name, products, dtype, rng, 1 if dry else 5)
    for build in (models.simple_cnn, models.functional_cnn):
        for products in ("highest", "default"):
            yield check_cnn(build, products, rng, 4 if dry else 128)


def check_recurrence(kind, name, products, dtype, rng, count):
    """The largest error over some random sizes and masks."""
    worst, where, failure = 0.0, "", ""
    on_gpu = jax.default_backend() == "gpu"
    for _ in range(count):
        most = (12, 8, 8, 40) if not on_gpu else (300, 150, 64, 512 if dtype == "float32" else 300)
        t, b, f, u = (int(rng.integers(1, n + 1)) for n in most)
        arrays = random_recurrence(kind, (t, b, f, u), rng, dtype)
        mask = random_mask(t, b, rng)
        try:
            with jax.default_matmul_precision("highest" if products == "highest" else "tensorfloat32"):
                got = gradients(kind, arrays, mask, name if on_gpu else "scan")
        except Exception as error:  # of a compiler or a driver: the other paths are still of interest
            failure = f"{type(error).__name__}: {str(error)[:200]}"
            worst, where = float("inf"), f"T {t} B {b} F {f} U {u}"
            break
        with jax.enable_x64(True), jax.default_device(jax.local_devices(backend="cpu")[0]):
            wide = jax.tree.map(lambda a: jnp.asarray(np.asarray(a, np.float64)), arrays)
            want = gradients(kind, wide, jnp.asarray(np.asarray(mask)) if mask is not None else None, "scan")
        found = error_of(got, want)
        if not found <= worst:
            worst, where = found, f"T {t} B {b} F {f} U {u}"
    bound = BOUNDS[products if dtype == "float32" else dtype]
    label = f"{kind} by {name}, {dtype}" + (f", products {products}" if dtype == "float32" else "")
    return target("check", label, worst, worst <= bound, f"error at most {bound}", note=failure or where)


def random_recurrence(kind, sizes, rng, dtype):
    t, b, f, u = sizes
    width = {"lstm": 4, "gru": 3}[kind] * u
    inputs = recurrence.Inputs(rng.normal(size=(t, b, f)), rng.normal(size=(f, width)) / f**0.5, rng.normal(size=width))
    more = [rng.normal(size=width)] * (kind == "gru")
    state = (recurrence.LSTMState if kind == "lstm" else recurrence.Hidden)(
        *(rng.normal(size=(b, u)) for _ in range(1 + (kind == "lstm")))
    )
    arrays = [inputs, rng.normal(size=(u, width)) / u**0.5, *more, state]
    return jax.tree.map(lambda a: jnp.asarray(a, dtype), arrays)


def random_mask(t, b, rng):
    """None, padded right, padded left, or with holes; rows of steps none of which counts among them."""
    lengths, steps = rng.integers(0, t + 1, (1, b)), np.arange(t)[:, None]
    patterns = (None, steps < lengths, steps >= lengths, rng.random((t, b)) < 0.6)
    mask = patterns[rng.integers(len(patterns))]
    return None if mask is None else jnp.asarray(mask)


def gradients(kind, arrays, mask, name):
    """Outputs of a recurrence by one implementation, and gradients by all arrays."""
    run = {"lstm": recurrence.lstm, "gru": recurrence.gru}[kind]

    def both(arrays):
        out, back = jax.vjp(lambda arrays: run(*arrays, mask), arrays)
        return out, back(jax.tree.map(lambda o: jnp.cos(jnp.arange(o.size).reshape(o.shape)).astype(o.dtype), out))

    with recurrence_choice.using(name):
        return jax.device_get(jax.jit(both)(arrays))


def error_of(got, want):
    """The largest difference relative to the largest value of each array, at least to 1."""
    worst = 0.0
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        w = np.asarray(w, np.float64)
        apart = np.abs(np.asarray(g, np.float64) - w).max(initial=0) / max(1.0, np.abs(w).max(initial=0))
        worst = max(worst, float(apart)) if np.isfinite(apart) else float("inf")
    return worst


def check_cnn(build, products, rng, batch):
    """The loss of a network and its gradients, relative to the largest of each array."""
    net = build((28, 28, 1), 10)
    x, y = rng.random((batch, 28, 28, 1), np.float32), rng.integers(0, 10, batch)
    variables = jax.device_get(jax.jit(net.init)(jax.random.key(0), x[:1]))

    def slopes(net, variables, x):
        def loss(variables):
            return -jnp.log(net.apply(variables, x)[np.arange(batch), y] + 1e-7).mean()

        value, grads = jax.device_get(jax.jit(jax.value_and_grad(loss))(variables))
        return value, jax.tree.map(lambda g: g / max(np.abs(g).max(), 1e-30), grads)

    with jax.default_matmul_precision("highest" if products == "highest" else "tensorfloat32"):
        got = slopes(net, variables, x)
    with jax.enable_x64(True), jax.default_device(jax.local_devices(backend="cpu")[0]):
        wide = jax.tree.map(lambda a: np.asarray(a, np.float64), (variables, x))
        want = slopes(net.clone(dtype="float64"), *wide)
    # What decides is a gradient of ten thousand sums; rectifiers near zero add to it.
    found, bound = error_of(got, want), 10 * BOUNDS[products]
    return target("check", f"{build.__name__}, products {products}", found, found <= bound, f"error at most {bound}")


# ---------------------------------------------------------------- how fast is it?


def cnn(dry, rounds, **_):
    """Training on MNIST-sized numbers, batch 128."""
    options = {"n": 32, "batch": 16} if dry else {"n": 468 * 128, "batch": 128, "epochs": 3}
    peers = ["ours", "scan by hand", "keras-jax", "keras-jax, best", "torch", "torch, channels last", "torch, compiled"]
    for model in ("functional_cnn",) if dry else ("simple_cnn", "functional_cnn"):
        found = compared(model, "train", options, ["ours", "keras-jax", "torch"] if dry else peers, rounds)
        yield from found
        if model == "simple_cnn":
            yield from faster(found, "ours", "keras-jax", 10) + faster(found, "ours", "torch, compiled", 3)


def layer_cases(dry):
    """The grid in float32; some of it in bfloat16 and with right-padded masks. What tells most comes first."""
    if dry:
        return [{"n": 4, "batch": 4, "t": 5, "units": 4, "dtype": "float32"}]
    cases = [{"t": 512, "units": units, "dtype": "float32"} for units in (128, 256, 512)]
    cases.append({"t": 512, "units": 256, "dtype": "float32", "mask": True})
    cases += [{"t": 512, "units": units, "dtype": "bfloat16"} for units in (128, 256, 512)]
    cases += [{"t": t, "units": units, "dtype": "float32"} for t in (128, 1024) for units in (128, 256, 512)]
    return [{"n": 64, "batch": 64} | options for options in cases]


def layers_alone(kind, dry, rounds):
    """A recurrent layer forward and with gradients, by each implementation, beside torch.nn."""
    kept = {}
    try:
        for options, task in itertools.product(layer_cases(dry), ("gradient", "forward")):
            peers = ["layer", "layer, scan", "torch.nn"]
            if not dry:
                peers += ["layer, fused"] + ["layer, cudnn"] * (kind == "lstm" and options["dtype"] == "float32")
            found = compared(kind, task, options, peers, rounds, kept, at_once=os.cpu_count() > len(peers))
            yield from found + faster(found, "layer", "torch.nn", 1)
    finally:
        for worker in filter(None, kept.values()):
            worker.close()


def lstm(dry, rounds, **_):
    """LSTMs alone."""
    yield from layers_alone("lstm", dry, rounds)


def gru(dry, rounds, **_):
    """GRUs alone."""
    yield from layers_alone("gru", dry, rounds)


def compared(model, task, options, peers, rounds, kept=None, at_once=False):
    try:
        rows = throughput.compare(model, task, options, peers, rounds, kept, at_once)
    except RuntimeError as error:
        if kept is not None:
            kept.clear()
        left_out(throughput.described(model, options), str(error)[-300:])
        return []
    if rows:
        print(throughput.shown(rows), flush=True)
    return [{"part": "speed"} | row for row in rows]


def faster(rows, first, second, times):
    """A target: the first competitor so many times as fast as the second, where both took part."""
    speeds = {row["competitor"]: row for row in rows}
    if first not in speeds or second not in speeds:
        return []
    ratio = speeds[first]["examples_per_second"] / speeds[second]["examples_per_second"]
    case = f"{speeds[first]['case']}, {speeds[first]['task']}, {first} by {second}"
    return [target("speed", case, ratio, ratio >= times, f"at least {times} times as fast")]


# ---------------------------------------------------------------- what is it good for?


def images(name, data, dry):
    """Both parts of a set of images, or None if they can't be had."""
    if dry:
        rng = np.random.default_rng(0)
        made = [(rng.integers(0, 256, (n, 28, 28, 1)).astype(np.uint8), rng.integers(0, 10, n)) for n in (64, 32)]
        return [datasets.Split(x, y, 1 / 255, 10) for x, y in made]
    try:
        found = datasets.load(name, raw_dir=data / name if data else None)
    except Exception as error:  # of a network or of a library that is not there
        left_out(name, str(error)[:200])
        return None
    return [found.train, found.test]


def fit_again(trainer, train, seed, **options):
    """Seconds of a whole run from fresh parameters, by programs that are compiled already."""
    trainer.state, trainer.seed = None, seed
    start = time.perf_counter()
    trainer.fit(train, verbose=0, **options)
    jax.block_until_ready(trainer.state.params)
    return time.perf_counter() - start


def mnist(dry, data, seeds, **_):
    """Seconds from fresh parameters to 99% of the test images."""
    found = images("mnist", data, dry)
    if found is None:
        return
    train, test = found
    # Four epochs are just enough, with little to spare; five are safe.
    for epochs, batch in ((1, 32),) if dry else ((5, 256), (4, 256)):
        steps = epochs * -(-len(train.x) // batch)
        rate = schedules.CosineDecay(0.0, steps, warmup_target=3e-3, warmup_steps=steps // 5)
        trainer = Trainer(models.simple_cnn((28, 28, 1), 10), optimizers.Adam(rate), LOSS, ["accuracy"])
        fit_again(trainer, train, 0, batch_size=batch, epochs=epochs)
        for seed in range(seeds):
            seconds = fit_again(trainer, train, seed, batch_size=batch, epochs=epochs)
            accuracy = float(trainer.evaluate(test, batch_size=1000)["accuracy"])
            case = f"seed {seed}, {epochs} epochs, batch {batch}"
            met = accuracy >= 0.99 and seconds < 1
            note = f"{seconds:.3f} s of training"
            yield target("mnist", case, accuracy, met, "at least 0.99 in less than 1 s", note=note)


def precision(dry, data, seeds, **_):
    """Accuracy of half precision over seeds, and its speed."""
    for name in ("mnist",) if dry else ("mnist", "fashion_mnist"):
        found = images(name, data, dry)
        if found is None:
            continue
        accuracies, seconds = {}, {}
        for kind in (None, "mixed_bfloat16", "mixed_float16"):
            trainer = Trainer(models.simple_cnn((28, 28, 1), 10), "adam", LOSS, ["accuracy"], precision=kind)
            options = {"batch_size": 32 if dry else 128, "epochs": 1 if dry else 3}
            fit_again(trainer, found[0], 0, **options)
            runs = []
            for seed in range(seeds):
                runs.append(fit_again(trainer, found[0], seed, **options))
                accuracy = float(trainer.evaluate(found[1], batch_size=1000)["accuracy"])
                accuracies.setdefault(kind, []).append(accuracy)
            seconds[kind] = measure.median(runs)
        for kind, values in accuracies.items():
            apart = np.mean(values) - np.mean(accuracies[None])
            # Twice the error of a difference of two means.
            noise = 2 * float(np.hypot(np.std(values), np.std(accuracies[None]))) / max(1, seeds - 1) ** 0.5
            note = f"{np.mean(values):.4f} over {seeds} seeds, {seconds[kind]:.3f} s"
            if kind is None:
                print(f"{name}: {note}")
                continue
            case = f"{name}, {kind}, accuracy less that of float32"
            yield target("precision", case, apart, apart >= -noise, f"at least {-noise:.4f}", note=note)
            times = seconds[None] / seconds[kind]
            case = f"{name}, {kind}, speed by float32"
            yield target("precision", case, times, times > 1, "more than 1 time as fast", note=note)


def determinism(dry, **_):
    """Two runs of the same seed, bit by bit."""
    rng = np.random.default_rng(0)
    count, sizes = (32, (5, 3, 4)) if dry else (1280, (64, 9, 128))
    t, f, u = sizes
    for name, build, shape in (
        ("simple_cnn", lambda: models.simple_cnn((28, 28, 1), 10), (28, 28, 1)),
        ("lstm", lambda: Sequential([Input((t, f)), layers.LSTM(u), layers.Dense(10, "softmax")]), (t, f)),
        ("gru", lambda: Sequential([Input((t, f)), layers.GRU(u), layers.Dense(10, "softmax")]), (t, f)),
    ):
        x, y = rng.normal(size=(count, *shape)).astype(np.float32), rng.integers(0, 10, count)
        ends = []
        for _ in range(2):
            trainer = Trainer(build(), "adam", "sparse_categorical_crossentropy", deterministic=True)
            trainer.fit(x, y, batch_size=32, epochs=2, verbose=0)
            ends.append(jax.device_get(jax.tree.leaves(trainer.state.params)))
        different = sum(int((a != b).sum()) for a, b in zip(*ends, strict=True))
        yield target("determinism", name, different, different == 0, "0 parameters that differ")


def target(part, case, found, met, wanted, note=""):
    """A row that says whether a target was met, and prints a sentence."""
    found = float(found)
    print(f"{'met   ' if met else 'MISSED'} {part}: {case}: {found:.4g}, wanted {wanted}. {note}", flush=True)
    row = {"id": f"{part}, {case}", "part": part, "case": case, "found": f"{found:.6g}", "wanted": wanted}
    return row | {"met": bool(met), "note": note}


def left_out(what, why):
    print(f"{what} left out: {why}", flush=True)


RUN = dict(zip(PARTS, (tests, check, cnn, lstm, gru, mnist, precision, determinism), strict=True))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--data", type=pathlib.Path, help="folder with the original files of MNIST and Fashion-MNIST")
    parser.add_argument("--rounds", type=int, default=5, help="counted runs of each competitor")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="nothing new is begun after them")
    parser.add_argument("--dry", action="store_true", help="tiny sizes, anywhere; nothing is kept")
    arguments = parser.parse_args()
    if jax.default_backend() != "gpu" and not arguments.dry:
        parser.error(f"benchmarks/gpu.py needs an NVIDIA GPU, got {jax.default_backend()!r}; try it out with --dry.")
    print(measure.surroundings("jax", "flax", "optax", "keras", "torch"))
    options = {"dry": arguments.dry, "data": arguments.data, "rounds": arguments.rounds, "seeds": arguments.seeds}
    missed, versions = 0, measure.versions("jax", "jaxlib", "flax", "optax", "keras", "torch")
    end = time.perf_counter() + arguments.seconds
    for part in arguments.parts:
        start, count, rows = time.perf_counter(), 0, RUN[part](**options)
        while time.perf_counter() < end and (row := next(rows, None)) is not None:
            count, missed = count + 1, missed + (row.get("met") is False)
            if not arguments.dry:  # as it comes: a run may be cut off
                measure.merge_rows(measure.results_file(f"gpu-{part}"), [row | {"versions": versions}], by="id")
        print(f"{part}: {count} rows in {time.perf_counter() - start:.0f} s", flush=True)
        if time.perf_counter() >= end:
            left_out(f"{part} from here on", f"{arguments.seconds:g} s are over")
        rows.close()
    print(f"{missed} targets missed{', which says nothing of a dry run' if arguments.dry else ''}")
    return 1 if missed and not arguments.dry else 0


if __name__ == "__main__":
    raise SystemExit(main())
