"""Compares the kernels of flaxmodels with XLA's own implementation of the same operation.

    python benchmarks/kernels.py [--only conv] [--seconds 10]

Each case runs forward (outputs stored, or only their sum) and forward with gradients. It runs as one call per step and
as steps of one `lax.scan`, which is how training runs. Both implementations take turns, so that both see the same load;
the result is the ratio of the medians. CPU time per step (all threads) is recorded too: other programs change it
little, and it does not count threads that wait. The last case is a training step of the simple CNN with Adam.
"""

import argparse
import functools
import math
import time

import jax
import jax.numpy as jnp
import measure
import optax
from jax import lax

from flaxmodels.kernels import convolution, pooling

STEPS = 3
# Our function and XLA's.
PAIRS = {
    "conv": (convolution.conv, convolution.reference),
    "depthwise": (convolution.depthwise_conv, convolution.reference_depthwise),
    "transpose": (convolution.conv_transpose, convolution.reference_transpose),
    "max_pool": (pooling.max_pool, pooling.reference_max_pool),
    "sum_pool": (pooling.sum_pool, pooling.reference_sum_pool),
}


def geometry(axes, padding="same", stride=1, **others):
    """Returns the options of a convolution over some spatial axes."""
    return {"strides": (stride,) * axes, "padding": padding, "dilation": (1,) * axes, **others}


def window(axes, size, stride, padding="valid"):
    """Returns the options of a pooling over some spatial axes."""
    return {"window": (size,) * axes, "strides": (stride,) * axes, "padding": padding}


# (operation, case): shape of the inputs, shape of the kernel, options
CASES = {
    ("conv", "simple CNN, first"): ((128, 28, 28, 1), (3, 3, 1, 32), geometry(2, "valid")),
    ("conv", "simple CNN, second"): ((128, 26, 26, 32), (3, 3, 32, 64), geometry(2, "valid")),
    ("conv", "3x3 over RGB"): ((64, 32, 32, 3), (3, 3, 3, 32), geometry(2)),
    ("conv", "3x3, 128 to 128"): ((32, 16, 16, 128), (3, 3, 128, 128), geometry(2)),
    ("conv", "3x3, stride 2"): ((32, 32, 32, 64), (3, 3, 64, 128), geometry(2, stride=2)),
    ("conv", "1x1"): ((32, 16, 16, 64), (1, 1, 64, 256), geometry(2)),
    ("conv", "one image, 7x7, 512 to 512"): ((1, 7, 7, 512), (3, 3, 512, 512), geometry(2)),
    ("conv", "7x7, stride 2, over RGB"): ((8, 112, 112, 3), (7, 7, 3, 64), geometry(2, stride=2)),
    ("conv", "3x3, 32 groups"): ((16, 16, 16, 128), (3, 3, 4, 128), geometry(2, groups=32)),
    ("conv", "1D, causal"): ((64, 128, 9), (5, 9, 64), geometry(1, "causal")),
    ("conv", "3D"): ((8, 16, 16, 16, 4), (3, 3, 3, 4, 16), geometry(3)),
    ("depthwise", "3x3"): ((32, 32, 32, 64), (3, 3, 64, 1), geometry(2)),
    ("depthwise", "3x3, stride 2, 112x112"): ((8, 112, 112, 96), (3, 3, 96, 1), geometry(2, stride=2)),
    ("transpose", "3x3, stride 2"): ((32, 14, 14, 64), (3, 3, 32, 64), geometry(2, stride=2, output_padding=None)),
    ("max_pool", "2x2"): ((128, 24, 24, 64), None, window(2, 2, 2)),
    ("max_pool", "3x3, stride 2"): ((32, 32, 32, 64), None, window(2, 3, 2, "same")),
    ("max_pool", "3x3, stride 2, 112x112"): ((16, 112, 112, 64), None, window(2, 3, 2, "same")),
    ("max_pool", "3x3, stride 1"): ((32, 16, 16, 64), None, window(2, 3, 1, "same")),
    ("max_pool", "1D, 16, stride 4"): ((8, 4096, 16), None, window(1, 16, 4)),
    ("sum_pool", "2x2"): ((128, 24, 24, 64), None, window(2, 2, 2)),
    ("sum_pool", "3x3, stride 1"): ((32, 16, 16, 64), None, window(2, 3, 1, "same")),
}


PASSES = "forward", "forward, summed", "forward and gradients"
LOOPS = "one call per step", "scan"


def make_step(op, options, passes):
    """Returns a step whose work XLA cannot hoist out of a loop: it depends on the carry or on a new x."""

    def outputs(args):
        x, *kernel = args
        return op(x, *kernel, **options) if kernel else op(x, *options.values())

    def step(args, x):
        if passes == "forward":
            return args, outputs([x, *args[1:]])
        if passes == "forward, summed":
            total = outputs(args).sum()
            return [arg + 1e-9 * total for arg in args], None
        y, vjp = jax.vjp(outputs, args)
        return [arg - 1e-6 * grad for arg, grad in zip(args, vjp(y)[0], strict=True)], None

    return step


def arrays(*shapes):
    """Returns random arrays."""
    keys = jax.random.split(jax.random.key(0), len(shapes))
    return [jax.random.normal(k, s) / math.sqrt(math.prod(s[1:-1])) for k, s in zip(keys, shapes, strict=True)]


def make_run(step, carry, xs, use_scan):
    """Returns a function that runs the step for each x and appends its CPU seconds to a list."""
    if use_scan:
        all_steps = jax.jit(lambda carry, xs: lax.scan(step, carry, xs))
    else:
        one_step = jax.jit(step)

        def all_steps(carry, xs):
            outputs = []
            for x in xs:
                carry, y = one_step(carry, x)
                outputs.append(y)
            return carry, outputs

        xs = list(xs)

    def run(cpu_seconds):
        start = time.process_time()
        jax.block_until_ready(all_steps(carry, xs))
        cpu_seconds.append(time.process_time() - start)

    return run


def compare(flaxmodels_run, xla_run, seconds):
    """Returns milliseconds per step of both runs and their ratios; compile time is separate."""
    start = time.perf_counter()
    for run in (xla_run, flaxmodels_run):
        run([])
    compiled = time.perf_counter()
    for run in (xla_run, flaxmodels_run):
        run([])
    rounds = int(min(max(seconds / (time.perf_counter() - compiled), 2), 50))
    cpu = {"xla": [], "flaxmodels": []}
    times = measure.interleaved(
        {"xla": lambda: xla_run(cpu["xla"]), "flaxmodels": lambda: flaxmodels_run(cpu["flaxmodels"])}, rounds
    )
    row = {"rounds": rounds, "compile_seconds": round(compiled - start, 1)}
    for name in times:
        row[f"{name}_ms"] = round(measure.median(times[name]) / STEPS * 1e3, 3)
        row[f"{name}_cpu_ms"] = round(measure.median(cpu[name]) / STEPS * 1e3, 3)
    for unit in ("ms", "cpu_ms"):
        row[f"speedup_{unit}"] = round(row[f"xla_{unit}"] / row[f"flaxmodels_{unit}"], 2)
    return row


def simple_cnn_step(conv, max_pool, batch=128):
    """Returns a training step of the simple CNN (32 and 64 filters, 128 units, dropout, Adam) and its state."""
    conv = functools.partial(conv, **geometry(2, "valid"))
    optimizer = optax.adam(1e-3)
    params = arrays((3, 3, 1, 32), (1, 1, 1, 32), (3, 3, 32, 64), (1, 1, 1, 64), (9216, 128), (1, 128), (128, 10))
    images, labels = arrays((512, 28, 28, 1))[0], jnp.arange(512) % 10

    def loss(params, x, y, key):
        k1, b1, k2, b2, dense, b3, out = params
        x = jax.nn.relu(conv(jax.nn.relu(conv(x, k1) + b1), k2) + b2)
        x = max_pool(x, (2, 2), (2, 2), "valid")
        x = jnp.where(jax.random.bernoulli(key, 0.75, x.shape), x / 0.75, 0).reshape(batch, -1)
        return optax.softmax_cross_entropy_with_integer_labels(jax.nn.relu(x @ dense + b3) @ out, y).mean()

    def step(state, i):
        params, optimizer_state = state
        x, y = (lax.dynamic_slice_in_dim(array, i % 4 * batch, batch) for array in (images, labels))
        gradients = jax.grad(loss)(params, x, y, jax.random.fold_in(jax.random.key(0), i))
        updates, optimizer_state = optimizer.update(gradients, optimizer_state)
        return (optax.apply_updates(params, updates), optimizer_state), None

    return step, (params, optimizer.init(params))


def rows(only, seconds):
    """Yields a row for each case, pass and kind of loop."""
    for (operation, case), (x, kernel, options) in CASES.items():
        if only not in f"{operation} {case}":
            continue
        carry = arrays(x, kernel) if kernel else arrays(x)
        for passes in PASSES:
            xs = arrays((STEPS, *x))[0] if passes == "forward" else jnp.arange(STEPS)
            for loop in LOOPS:
                runs = [make_run(make_step(op, options, passes), carry, xs, loop == "scan") for op in PAIRS[operation]]
                yield {"operation": operation, "case": case, "pass": passes, "loop": loop} | compare(*runs, seconds)
    if only in "simple CNN training step":
        for loop in LOOPS:
            runs = [
                make_run(*simple_cnn_step(conv, max_pool), jnp.arange(STEPS), loop == "scan")
                for conv, max_pool in zip(PAIRS["conv"], PAIRS["max_pool"], strict=True)
            ]
            row = {"operation": "simple CNN", "case": "batch 128", "pass": "training step", "loop": loop}
            yield row | compare(*runs, seconds)


def main():
    """Prints a row for each case; writes a CSV file if all cases run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="run only cases whose name contains this")
    parser.add_argument("--seconds", type=float, default=10, help="measuring time of each comparison")
    arguments = parser.parse_args()
    print(f"{measure.device()}, {measure.versions('jax', 'jaxlib')}")
    done = []
    for row in rows(arguments.only, arguments.seconds):
        if not done:
            print(" | ".join(row))
        print(" | ".join(map(str, row.values())), flush=True)
        done.append(row)
        if not arguments.only:
            measure.write_rows(measure.results_file("kernels"), done)


if __name__ == "__main__":
    main()
