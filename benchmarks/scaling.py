"""How do time and memory grow with the number of examples, the steps of a sequence, the units and the batch?

    python benchmarks/scaling.py [--rounds 3] [--peers ours "scan by hand" torch]

One size grows while the others stay. Time is that of an epoch, competitors in turns; the exponent is the slope of its
logarithm over the logarithm of the size between the two largest: 1 is proportional. Memory is the peak of a fresh
process less what it had before it was given any data, and stands beside that of the scan written by hand.
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
EXAMPLES = [10_000, 40_000]  # of images [28, 28, 1] as float32, 30 and 120 MiB
MEMORY = ["ours", "scan by hand", "flax, scan", "torch"]


def times(peers, rounds):
    """A row for each size and competitor, with the exponent of the growth."""
    rows, kept = [], {}
    for size, values in GROW.items():
        before = {}
        for value in values:
            # A batch grows with as many steps as before, all else with as many examples.
            options = BASE | {size: value} | ({"n": 4 * value} if size == "batch" else {})
            for row in throughput.compare("lstm", "train", options, peers, rounds, kept):
                name, seconds = row["competitor"], row["seconds"]
                last = before.get(name)
                slope = math.log(seconds / last[1]) / math.log(value / last[0]) if last else math.nan
                before[name] = value, seconds
                rows.append(
                    {
                        "case": f"lstm, {size} {value}",
                        "competitor": name,
                        "seconds": seconds,
                        "exponent": "" if math.isnan(slope) else round(slope, 2),
                        "memory_mib": "",
                        "memory_beside_scan": "",
                    }
                )
    for worker in filter(None, kept.values()):
        worker.close()
    return rows


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def memory_of(name, n):
    """MiB that a fresh process needs for an epoch of n images, beyond what a run over two batches took."""
    command = [sys.executable, __file__, "--memory", name, str(n)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    if found.returncode:
        raise RuntimeError(found.stderr[-2000:])
    return json.loads(found.stdout.splitlines()[-1])


def in_this_process(name, n):
    """What `memory_of` runs: libraries and compiled programs first, then the data."""
    answers, sys.stdout = sys.stdout, sys.stderr
    options = {"n": 256, "batch": 128}
    competitors.COMPETITORS[name]("functional_cnn", "train", competitors.sizes(options))()
    before = peak()
    run = competitors.COMPETITORS[name]("functional_cnn", "train", competitors.sizes(options | {"n": n}))
    run()
    print(json.dumps(peak() - before), file=answers)


def memories():
    """A row for each number of examples and competitor."""
    rows = []
    for n in EXAMPLES:
        found = {name: memory_of(name, n // 128 * 128) for name in MEMORY}
        rows += [
            {
                "case": f"functional_cnn, n {n}",
                "competitor": name,
                "seconds": "",
                "exponent": "",
                "memory_mib": round(mib),
                "memory_beside_scan": round(mib / found["scan by hand"], 2),
            }
            for name, mib in found.items()
        ]
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", nargs="+", default=["ours", "scan by hand", "torch"], choices=throughput.ALL)
    parser.add_argument("--memory", nargs=2, metavar=("COMPETITOR", "N"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory:
        in_this_process(arguments.memory[0], int(arguments.memory[1]))
        return
    print(measure.surroundings("jax", "flax", "optax", "torch"))
    rows = [*memories(), *times(arguments.peers, arguments.rounds)]
    measure.write_rows(measure.results_file("scaling"), rows)
    print(measure.markdown(rows))


if __name__ == "__main__":
    main()
