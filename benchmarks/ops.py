"""Is our form of an operation faster than XLA's own, where, and by how much?

    python benchmarks/ops.py [--only conv] [--seconds 10]

Each case runs forward, its outputs kept or only their sum, and forward with gradients; called step by step, and as
steps of one `lax.scan`, which is how training runs. The two take turns, so a busy machine slows both; the ratio of
medians is the result. Processor time per step (all threads) stands beside it: other programs change it little, and
threads of ours that wait do not count.
The last case is a whole training step of the simple CNN with Adam.
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
PAIRS = {
    "conv": (convolution.conv, convolution.reference),
    "depthwise": (convolution.depthwise_conv, convolution.reference_depthwise),
    "transpose": (convolution.conv_transpose, convolution.reference_transpose),
    "max_pool": (pooling.max_pool, pooling.reference_max_pool),
    "sum_pool": (pooling.sum_pool, pooling.reference_sum_pool),
}


def geometry(axes, padding="same", stride=1, **others):
    return {"strides": (stride,) * axes, "padding": padding, "dilation": (1,) * axes, **others}


def window(axes, taps, stride, padding="valid"):
    return {"window": (taps,) * axes, "strides": (stride,) * axes, "padding": padding}


# operation, case: shape of the inputs, of the kernel, options
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


def step_of(op, options, passes):
    """A step that no loop can do once for all: it reads and changes what it carries, or reads a new x."""

    def outputs(args):
        x, *kernel = args
        return op(x, *kernel, **options) if kernel else op(x, *options.values())

    def step(args, x):
        if passes == "forward":
            return args, outputs([x, *args[1:]])
        if passes == "forward, summed":
            total = outputs(args).sum()
            return [part + 1e-9 * total for part in args], None
        y, vjp = jax.vjp(outputs, args)
        return [part - 1e-6 * grad for part, grad in zip(args, vjp(y)[0], strict=True)], None

    return step


def arrays(*shapes):
    keys = jax.random.split(jax.random.key(0), len(shapes))
    return [jax.random.normal(k, s) / math.sqrt(math.prod(s[1:-1])) for k, s in zip(keys, shapes, strict=True)]


def runner(step, start, each, scanned):
    """A function that takes a step for each of some numbers or inputs and notes the processor seconds."""
    if scanned:
        many = jax.jit(lambda start, each: lax.scan(step, start, each))
    else:
        one = jax.jit(step)

        def many(start, each):
            kept = []
            for i in each:
                start, y = one(start, i)
                kept.append(y)
            return start, kept

        each = list(each)

    def run(used):
        before = time.process_time()
        jax.block_until_ready(many(start, each))
        used.append(time.process_time() - before)

    return run


def compare(xla, ours, seconds):
    """Milliseconds per step of both, by the clock and by the processor, from runs in turns; compiling is told apart."""
    start = time.perf_counter()
    for run in (xla, ours):
        run([])
    compiling = time.perf_counter()
    for run in (xla, ours):
        run([])
    rounds = int(min(max(seconds / (time.perf_counter() - compiling), 2), 50))
    used = {"xla": [], "ours": []}
    turns = {"xla": lambda: xla(used["xla"]), "ours": lambda: ours(used["ours"])}
    clock = measure.interleaved(turns, rounds)
    row = {"rounds": rounds, "first runs s": round(compiling - start, 1)}
    for name, seconds_each in clock.items():
        row[f"{name} ms"] = round(measure.median(seconds_each) / STEPS * 1e3, 3)
        row[f"{name} processor ms"] = round(measure.median(used[name]) / STEPS * 1e3, 3)
    for unit in ("ms", "processor ms"):
        row[f"xla / ours, {unit}"] = round(row[f"xla {unit}"] / row[f"ours {unit}"], 2)
    return row


def simple_cnn_step(conv, max_pool, batch=128):
    """A training step of the sequential CNN: 32 and 64 filters, 128 units, dropout, Adam."""
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
        x, y = (lax.dynamic_slice_in_dim(part, i % 4 * batch, batch) for part in (images, labels))
        gradients = jax.grad(loss)(params, x, y, jax.random.fold_in(jax.random.key(0), i))
        updates, optimizer_state = optimizer.update(gradients, optimizer_state)
        return (optax.apply_updates(params, updates), optimizer_state), None

    return step, (params, optimizer.init(params))


def rows(only, seconds):
    for (kind, case), (x, kernel, options) in CASES.items():
        if only in f"{kind} {case}":
            start = arrays(x, kernel) if kernel else arrays(x)
            for passes in PASSES:
                each = arrays((STEPS, *x))[0] if passes == "forward" else jnp.arange(STEPS)
                for where in ("step by step", "scan"):
                    ours, xla = (
                        runner(step_of(op, options, passes), start, each, where == "scan") for op in PAIRS[kind]
                    )
                    yield {"operation": kind, "case": case, "what": passes, "where": where} | compare(
                        xla, ours, seconds
                    )
    if only in "simple CNN training step":
        for where in ("step by step", "scan"):
            ours, xla = (
                runner(*simple_cnn_step(conv, max_pool), jnp.arange(STEPS), where == "scan")
                for conv, max_pool in zip(PAIRS["conv"], PAIRS["max_pool"], strict=True)
            )
            row = {"operation": "simple CNN", "case": "batch 128", "what": "training step", "where": where}
            yield row | compare(xla, ours, seconds)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--seconds", type=float, default=10, help="of measuring for each comparison")
    arguments = parser.parse_args()
    print(f"{measure.device()}, {measure.versions('jax', 'jaxlib')}")
    done = []
    for row in rows(arguments.only, arguments.seconds):
        if not done:
            print(" | ".join(row))
        print(" | ".join(map(str, row.values())), flush=True)
        done.append(row)
        if not arguments.only:
            measure.write_rows(measure.results_file("ops"), done)


if __name__ == "__main__":
    main()
