"""Measures how time and memory grow with the number of examples, time steps, units and the batch size.

    python benchmarks/scaling.py [--rounds 3] [--peers jax-scan torch]

One size grows while the others are fixed. Time is the time of an epoch, measured in interleaved runs. The exponent is
the slope of log(time) over log(size) between neighbouring sizes; 1 means proportional. Memory is the peak of a fresh
process minus its peak before it received the data. It is compared with that of hand-written JAX (lax.scan).
"""

import argparse
import json
import math
import resource
import subprocess
import sys

import competitors
import measure
import throughput

BASE = {"n": 256, "batch": 64, "t": 64, "units": 64}
GROW = {
    "n": [64, 256, 1024],
    "t": [16, 64, 256],
    "units": [32, 128, 512],
    "batch": [16, 64, 256],
}
EXAMPLES = [10_000, 40_000]  # images [28, 28, 1] in float32: 30 and 120 MiB
MEMORY = ["flaxmodels", "jax-scan", "flax-scan", "torch"]


def times(names, rounds):
    """Returns a row for each size and competitor, with the exponent of the growth."""
    rows, workers = [], {}
    for size, values in GROW.items():
        previous = {}
        for value in values:
            # The batch size grows at a fixed number of steps, all other sizes at a fixed number of examples.
            options = BASE | {size: value} | ({"n": 4 * value} if size == "batch" else {})
            for row in throughput.compare("lstm", "train", options, names, rounds, workers):
                name, seconds = row["competitor"], row["seconds"]
                exponent = ""
                if name in previous:
                    last_value, last_seconds = previous[name]
                    exponent = round(math.log(seconds / last_seconds) / math.log(value / last_value), 2)
                previous[name] = value, seconds
                rows.append(
                    {
                        "case": f"lstm, {size} {value}",
                        "competitor": name,
                        "seconds": seconds,
                        "exponent": exponent,
                        "memory_mib": "",
                        "memory_over_jax_scan": "",
                    }
                )
    throughput.close_all(workers)
    return rows


def peak():
    """Returns the peak memory of this process in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def memory_of(name, n):
    """Returns the MiB that a fresh process needs for an epoch of n images, beyond a run over two batches."""
    command = [sys.executable, __file__, "--memory", name, str(n)]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    if process.returncode:
        raise RuntimeError(process.stderr[-2000:])
    return json.loads(process.stdout.splitlines()[-1])


def print_memory(name, n):
    """Prints the memory that `memory_of` returns, in the process that it starts; the first run loads and compiles."""
    answers, sys.stdout = sys.stdout, sys.stderr  # libraries may print
    options = {"n": 256, "batch": 128}
    competitors.COMPETITORS[name]("functional_cnn", "train", competitors.sizes(options))()
    before = peak()
    run = competitors.COMPETITORS[name]("functional_cnn", "train", competitors.sizes(options | {"n": n}))
    run()
    print(json.dumps(peak() - before), file=answers)


def memories():
    """Returns a row for each competitor and number of examples."""
    rows = []
    for n in EXAMPLES:
        memory = {name: memory_of(name, n // 128 * 128) for name in MEMORY}
        rows += [
            {
                "case": f"functional_cnn, n {n}",
                "competitor": name,
                "seconds": "",
                "exponent": "",
                "memory_mib": round(mib),
                "memory_over_jax_scan": round(mib / memory["jax-scan"], 2),
            }
            for name, mib in memory.items()
        ]
    return rows


def main():
    """Measures memory and time; prints a table and writes a CSV file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="timed runs of each competitor")
    parser.add_argument("--peers", nargs="+", default=["jax-scan", "torch"], choices=throughput.PEERS)
    parser.add_argument("--memory", nargs=2, metavar=("COMPETITOR", "N"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory:
        print_memory(arguments.memory[0], int(arguments.memory[1]))
        return
    print(measure.environment("jax", "flax", "optax", "torch"))
    rows = [*memories(), *times([throughput.OURS, *arguments.peers], arguments.rounds)]
    measure.write_rows(measure.results_file("scaling"), rows)
    print(measure.markdown(rows))


if __name__ == "__main__":
    main()
