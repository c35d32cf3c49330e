"""Measures how many examples per second flaxmodels and its peers train, evaluate and predict.

    python benchmarks/throughput.py [--cases cnn middle] [--tasks train predict] [--peers jax-scan torch] [--rounds 5]
    python benchmarks/throughput.py --cases grid simple_rnn --together --peers keras-jax torch --rounds 3
    python benchmarks/throughput.py --short
    python benchmarks/throughput.py --table            # prints the recorded results for the README

Each competitor is a separate process (competitors.py). The competitors take turns, run by run, so that all see the
same load. A run is one pass over a few batches that the competitor holds in memory.

A row of the results holds the median of the runs, the spread (slowest run divided by fastest), CPU seconds, build and
compile seconds, peak memory, GFLOP/s (counting only the products of matrices that the model needs) and the share of the
matrix peak. The matrix peak is measured before and after all cases.

With --together, the process of a competitor runs all cases. This saves process starts, but gives no peak memory per
case. Keras on TensorFlow takes part if --tensorflow names the Python of an environment with both packages. This project
neither imports nor installs TensorFlow.
"""

import argparse
import contextlib
import json
import pathlib
import subprocess
import sys

import measure
from competitors import LAYER_CALLS

HERE = pathlib.Path(__file__).parent
MAX_PANELS = 12  # of a bar chart; for more cases, the chart shows speed-ups
OURS = "flaxmodels"
LABELS = {
    "jax-scan": "hand-written JAX (lax.scan)",
    "jax-steps": "hand-written JAX (step loop)",
    "flax-scan": "plain Flax (lax.scan)",
    "flax-steps": "plain Flax (step loop)",
    "keras-jax": "Keras on JAX",
    "keras-jax-best": "Keras on JAX, best steps_per_execution",
    "keras-torch": "Keras on PyTorch",
    "torch": "PyTorch",
    "torch-channels-last": "PyTorch, channels last",
    "torch-compiled": "PyTorch, compiled",
    "keras-tensorflow": "Keras on TensorFlow",
}
PEERS = [name for name in LABELS if name != "keras-tensorflow"]
DEFAULT_PEERS = ["jax-scan", "keras-jax", "keras-torch", "torch"]
# Names of competitors in results that were recorded before they were renamed.
RENAMED = {
    "ours": OURS,
    "scan by hand": "jax-scan",
    "steps by hand": "jax-steps",
    "flax, scan": "flax-scan",
    "flax, steps": "flax-steps",
    "keras-jax, best": "keras-jax-best",
    "torch, channels last": "torch-channels-last",
    "torch, compiled": "torch-compiled",
}
IMAGES = {"n": 640, "batch": 128}
MORE_IMAGES = IMAGES | {"n": 2560}  # for a smaller model
SEQUENCES = {"n": 256, "batch": 64, "t": 128, "units": 128}


def grid(kind):
    """Yields cases of all lengths and sizes; the number of sequences keeps each run near a second."""
    for t, n in ((32, 1024), (128, 256), (512, 64)):
        for units, divisor in ((64, 1), (128, 1), (512, 4)):
            for mask in (False, True):
                yield kind, SEQUENCES | {"t": t, "units": units, "mask": mask, "n": max(64, n // divisor)}


CASES = {
    "cnn": [("simple_cnn", IMAGES), ("functional_cnn", MORE_IMAGES)],
    "middle": [(kind, SEQUENCES | more) for kind in ("lstm", "gru") for more in ({}, {"mask": True})],
    "forms": [(f"{kind}-{form}", SEQUENCES) for kind in ("lstm", "gru") for form in ("bidirectional", "stacked")],
    "short": [("functional_cnn", IMAGES), ("lstm", SEQUENCES | {"t": 32})],
    **{kind: list(grid(kind)) for kind in ("lstm", "gru", "simple_rnn")},
    "grid": [*grid("lstm"), *grid("gru")],
}


class Worker:
    """Runs a competitor in a separate process, on request."""

    pythons = {}  # from names of competitors with a separate environment to its Python executable

    def __init__(self, name):
        command = [self.pythons.get(name, sys.executable), str(HERE / "competitors.py"), name]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def send(self, **request):
        """Sends a request."""
        with contextlib.suppress(BrokenPipeError):  # the process has ended; `receive` raises its error
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()

    def receive(self):
        """Waits for the answer to a request."""
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(self.process.stderr.read()[-2000:])
        return json.loads(line)

    def close(self):
        """Ends the process."""
        self.process.stdin.close()
        self.process.wait()


def close_all(workers):
    """Ends the processes of all workers that started."""
    for worker in filter(None, workers.values()):
        worker.close()


def task_options(task, options):
    """Returns the options with more examples for forward-only tasks, so that their runs are not shorter."""
    return options if task == "train" else options | {"n": max(5120, options["n"])}


def compare(model, task, options, competitors, rounds, workers=None, parallel_setup=False):
    """Sets up the competitors, runs them in turn and returns a row for each.

    Args:
        model: A model of competitors.py.
        task: "train", "evaluate" or "predict"; "forward" or "gradient" for competitors that are a single layer.
        options: Sizes of the data and the model.
        competitors: Names of competitors.
        rounds: Timed runs of each competitor.
        workers: Dictionary from names to processes, which are reused and kept for the next case. None starts new
            processes and ends them after the case.
        parallel_setup: Sets up all competitors at the same time, on a machine with many cores. Compile seconds are then
            not comparable.
    """
    reused = workers is not None
    workers, setups = {} if workers is None else workers, {}
    # Sequences have no channels to put last.
    competitors = [name for name in competitors if not (name == "torch-channels-last" and "t" in options)]
    for group in [competitors] if parallel_setup else [[name] for name in competitors]:
        for name in group:
            workers[name] = workers.get(name) or Worker(name)
            workers[name].send(model=model, task=task, options=options)
        for name in group:
            try:
                setups[name] = workers[name].receive()
            except RuntimeError as error:
                workers[name] = None
                print(f"{name} is skipped, because it failed: {error}", file=sys.stderr)
    answers = {name: [] for name in setups}
    for _ in range(rounds):
        for name in setups:
            workers[name].send()
            answers[name].append(workers[name].receive())
    if not reused:
        close_all(workers)
    return [result_row(model, task, options, name, setups[name], answers[name], reused) for name in setups]


def result_row(model, task, options, name, setup, answers, reused):
    """Returns the row of a competitor."""
    times = [answer["seconds"] for answer in answers]
    seconds = measure.median(times)
    count = options["n"] * options.get("epochs", 1) * (LAYER_CALLS if task in ("forward", "gradient") else 1)
    return {
        "id": f"{case_name(model, options)}, {task}, {name}",
        "case": case_name(model, options),
        "task": task,
        "competitor": name,
        "examples_per_second": round(count / seconds, 1),
        "seconds": round(seconds, 4),
        "spread": round(max(times) / min(times), 2),
        "cpu_seconds": round(measure.median([answer["cpu"] for answer in answers]), 4),
        "build_seconds": round(setup["build"], 2),
        "compile_seconds": round(max(0.0, setup["first"] - setup["second"]), 2),
        "peak_mib": "" if reused else round(answers[-1]["peak_mib"]),
        "gflops": round(count * flops(model, options, task) / seconds / 1e9, 1),
    }


def flops(model, options, task):
    """Returns the floating-point operations of an example, counting the products of matrices and direct convolutions.

    Training takes three times the operations of the forward pass: one more product for the weight gradient and one for
    the input gradient, which the first layer does not need.
    """
    if model == "simple_cnn":
        layers = [26 * 26 * 9 * 32, 24 * 24 * 9 * 32 * 64, 9216 * 128, 128 * 10]
    elif model == "functional_cnn":
        layers = [26 * 26 * 9 * 32, 11 * 11 * 9 * 32 * 64, 1600 * 128, 128 * 10]
    else:
        kind, *form = model.split("-")
        t, units, gates = options["t"], options["units"], {"lstm": 4, "gru": 3, "simple_rnn": 1}[kind]
        directions = 2 if "bidirectional" in form else 1
        first, recurrent = directions * t * 9 * gates * units, directions * t * units * gates * units
        layers = [first, recurrent, *([2 * recurrent] if "stacked" in form else []), directions * units * 10]
    forward = 2 * sum(layers)
    return 3 * forward - 2 * layers[0] if task in ("train", "gradient") else forward


def case_name(model, options):
    """Returns the name of a case, such as "lstm T 128 units 64 masked"."""
    if "t" not in options:
        return model
    dtype = f" {options['dtype']}" if "dtype" in options else ""
    return f"{model} T {options['t']} units {options['units']}{dtype}{' masked' if options.get('mask') else ''}"


def summary(rows):
    """Returns the rows of a case as text, with speed-ups of the first competitor over each peer."""
    first = next((row for row in rows if row["competitor"] == OURS), rows[0])
    lines = [f"{rows[0]['case']}, {rows[0]['task']}"]
    for row in rows:
        speedup = f"{first['competitor']} is {row['seconds'] / first['seconds']:.2f}x as fast"
        lines.append(
            f"  {row['competitor']:22} {row['examples_per_second']:>10,.0f}/s  {'' if row is first else speedup:30} "
            f"{row['gflops']:6.1f} GFLOP/s  (spread {row['spread']:.2f}, compile {row['compile_seconds']:.1f} s, "
            f"peak {row['peak_mib'] or '?'} MiB)"
        )
    return "\n".join(lines)


def chart(rows, path):
    """Draws a panel for each case with a bar for each competitor; for many cases, draws speed-ups instead."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    cases = list(dict.fromkeys((row["case"], row["task"]) for row in rows))
    if len(cases) > MAX_PANELS:
        speedup_chart(rows, path)
        return
    columns = min(3, len(cases))
    lines = -(-len(cases) // columns)
    bars = max(sum((row["case"], row["task"]) == case for row in rows) for case in cases)
    size = (4.4 * columns, (0.9 + 0.24 * bars) * lines)
    figure, panels = plt.subplots(lines, columns, figsize=size, squeeze=False, layout="constrained")
    for panel in panels.flat[len(cases) :]:
        panel.axis("off")
    for panel, case in zip(panels.flat, cases, strict=False):
        speeds = sorted(
            (float(row["examples_per_second"]), row["competitor"]) for row in rows if (row["case"], row["task"]) == case
        )
        values, names = zip(*speeds, strict=True)
        colors = ["C1" if name == OURS else "0.7" for name in names]
        panel.barh([LABELS.get(name, name) for name in names], values, color=colors)
        for i, value in enumerate(values):
            panel.text(value, i, f" {value:,.0f}", va="center", fontsize=7)
        panel.set_title(", ".join(case), fontsize=9)
        panel.set_xlim(0, 1.25 * max(values))
        panel.locator_params(axis="x", nbins=4)
        panel.tick_params(labelsize=7)
        panel.spines[["top", "right"]].set_visible(False)
    figure.suptitle("Throughput of flaxmodels and peers (higher is better)", fontsize=10)
    figure.supxlabel("examples per second", fontsize=8)
    figure.savefig(path, dpi=120)


def speedup_chart(rows, path):
    """Draws a line for each case with a point for each peer: the speed-up of flaxmodels over it."""
    import matplotlib.pyplot as plt

    cases = list(dict.fromkeys(f"{row['case']}, {row['task']}" for row in rows))
    speed = {(f"{row['case']}, {row['task']}", row["competitor"]): float(row["examples_per_second"]) for row in rows}
    figure, panel = plt.subplots(figsize=(8, 0.16 * len(cases) + 1), layout="constrained")
    for i, name in enumerate(peer for peer in dict.fromkeys(row["competitor"] for row in rows) if peer != OURS):
        points = [(speed[case, OURS] / speed[case, name], case) for case in cases if (case, name) in speed]
        panel.plot(*zip(*points, strict=True), "o", markersize=4, color=f"C{i}", label=LABELS.get(name, name))
    panel.axvline(1, color="0.5", linewidth=1)
    panel.set_xscale("log")
    ticks = [1, 2, 5, 10, 20, 50]
    panel.set_xticks(ticks, [f"{tick}x" for tick in ticks])
    panel.minorticks_off()
    panel.grid(axis="x", color="0.9")
    panel.invert_yaxis()
    panel.tick_params(labelsize=7)
    panel.legend(fontsize=8)
    panel.set_title("Speed-up of flaxmodels over its peers (log scale)", fontsize=9)
    panel.set_xlabel("examples per second of flaxmodels / of the peer", fontsize=8)
    figure.savefig(path, dpi=110)


def read_results(path):
    """Reads recorded results, with the present names of the competitors."""
    rows = measure.read_rows(path)
    for row in rows:
        row["competitor"] = RENAMED.get(row["competitor"], row["competitor"])
        row["id"] = f"{row['case']}, {row['task']}, {row['competitor']}"
    return rows


def print_tables(rows):
    """Prints the results as in the README, a table for each task."""
    for task in dict.fromkeys(row["task"] for row in rows):
        print(f"\n{task}: examples per second (speed-up of {OURS} in brackets)\n")
        same_task = [row for row in rows if row["task"] == task]
        table = measure.comparison(same_task, "case", "competitor", "examples_per_second")
        print(measure.markdown([{LABELS.get(name, name): value for name, value in row.items()} for row in table]))


def main():
    """Runs the chosen cases; writes a CSV file, tables and a chart."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=["cnn", "middle"], choices=list(CASES))
    parser.add_argument("--tasks", nargs="+", default=["train"], choices=["train", "evaluate", "predict"])
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=DEFAULT_PEERS, help="compared with flaxmodels")
    parser.add_argument("--all-peers", action="store_true", help="compare with all peers except Keras on TensorFlow")
    parser.add_argument("--tensorflow", metavar="PYTHON", help="add Keras on TensorFlow, run by this Python")
    parser.add_argument("--rounds", type=int, default=5, help="timed runs of each competitor")
    parser.add_argument("--together", action="store_true", help="use one process per competitor for all cases")
    parser.add_argument("--short", action="store_true", help="run two cases and three rounds; write no files")
    parser.add_argument("--table", action="store_true", help="only print the recorded results as tables")
    arguments = parser.parse_args()
    results = measure.results_file("throughput")
    if arguments.table:
        print_tables(read_results(results))
        return
    print(measure.environment("jax", "flax", "optax", "keras", "torch"))
    peak_before = measure.matrix_peak()
    rows, workers = [], {} if arguments.together else None
    groups, rounds = (["short"], 3) if arguments.short else (arguments.cases, arguments.rounds)
    competitors = [OURS, *(PEERS if arguments.all_peers else arguments.peers)]
    if arguments.tensorflow:
        Worker.pythons["keras-tensorflow"] = arguments.tensorflow
        competitors.append("keras-tensorflow")
    for task in arguments.tasks:
        for model, options in (case for group in groups for case in CASES[group]):
            new = compare(model, task, task_options(task, options), competitors, rounds, workers)
            print(summary(new), flush=True)
            rows += new
    close_all(workers or {})
    peak = max(peak_before, measure.matrix_peak())
    print(f"matrix peak: {peak_before:.1f} GFLOP/s before, {peak:.1f} GFLOP/s at best")
    rows = [row | {"share_of_peak": round(row["gflops"] / peak, 3), "peak_gflops": round(peak, 1)} for row in rows]
    if not arguments.short:
        measure.merge_rows(results, rows, by="id", read=read_results)
        picture = measure.results_file(f"throughput-{'-'.join(arguments.tasks)}-{'-'.join(groups)}", "png")
        chart(rows, picture)
        print(f"chart: {picture}\n")
    print_tables(rows)


if __name__ == "__main__":
    main()
