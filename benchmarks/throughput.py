"""How many examples a second do we train, evaluate and predict, beside Keras, PyTorch and loops written by hand?

    python benchmarks/throughput.py [--cases cnn middle] [--tasks train predict] [--peers ours torch] [--rounds 5]
    python benchmarks/throughput.py --cases grid simple_rnn --together --peers ours keras-jax torch --rounds 3
    python benchmarks/throughput.py --short
    python benchmarks/throughput.py --table            # of the results that are there, for the README

Each competitor is a process of its own (competitors.py); they take turns run by run, so that all see the same machine.
A run is one pass over some batches that the competitor holds in memory. Written are: the median of the runs, their
spread (highest by lowest), processor seconds, what was spent before (to set up, and compilation: how much longer the
first run took), the peak of memory, GFLOP/s by a count of the products that the model needs, and which share of the
machine's own best product of two matrices that is, measured before and after. With --together a competitor's process
does one case after the other, which saves the seconds of its start, but then has no peak of memory per case.
Keras on TensorFlow takes part where --tensorflow names the Python of an environment of its own, with keras and
tensorflow: nothing of this project imports TensorFlow, nor installs it.
"""

import argparse
import contextlib
import json
import pathlib
import subprocess
import sys

import measure
from competitors import REPEATS

HERE = pathlib.Path(__file__).parent
MOST_PANELS = 12  # of a chart
ALL = [
    "ours", "scan by hand", "steps by hand", "flax, scan", "flax, steps", "keras-jax", "keras-jax, best",
    "keras-torch", "torch", "torch, channels last", "torch, compiled",
]  # fmt: skip
FEW = ["ours", "scan by hand", "keras-jax", "keras-torch", "torch"]
IMAGES = {"n": 640, "batch": 128}
SMALLER = IMAGES | {"n": 2560}  # of a model that is done sooner
SEQUENCES = {"n": 256, "batch": 64, "t": 128, "units": 128}


def grid(kind):
    """Sequences of all lengths and sizes, in numbers that keep a run near a second."""
    for t, n in ((32, 1024), (128, 256), (512, 64)):
        for units, part in ((64, 1), (128, 1), (512, 4)):
            for mask in (False, True):
                yield kind, SEQUENCES | {"t": t, "units": units, "mask": mask, "n": max(64, n // part)}


CASES = {
    "cnn": [("simple_cnn", IMAGES), ("functional_cnn", SMALLER)],
    "middle": [(kind, SEQUENCES | more) for kind in ("lstm", "gru") for more in ({}, {"mask": True})],
    "forms": [(f"{kind}-{form}", SEQUENCES) for kind in ("lstm", "gru") for form in ("bidirectional", "stacked")],
    "short": [("functional_cnn", IMAGES), ("lstm", SEQUENCES | {"t": 32})],
    **{kind: list(grid(kind)) for kind in ("lstm", "gru", "simple_rnn")},
    "grid": [*grid("lstm"), *grid("gru")],
}


class Worker:
    """A competitor's process, which works when it is told to."""

    pythons = {}  # by the name of a competitor that is not of this environment

    def __init__(self, name):
        command = [self.pythons.get(name, sys.executable), str(HERE / "competitors.py"), name]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def tell(self, **asked):
        """Sends a request."""
        with contextlib.suppress(BrokenPipeError):  # of a process that has ended, which the answer tells
            self.process.stdin.write(json.dumps(asked) + "\n")
            self.process.stdin.flush()

    def answer(self):
        """Waits for the answer to a request."""
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(self.process.stderr.read()[-2000:])
        return json.loads(line)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def more_for(task, options):
    """Options with more examples where they only go forward, so that a run is no shorter."""
    return options if task == "train" else options | {"n": max(5120, options["n"])}


def compare(model, task, options, peers, rounds, kept=None, at_once=False):
    """A row for each competitor; they are set up one after the other and then take turns.

    Args:
        model: A model of competitors.py.
        task: "train", "evaluate" or "predict".
        options: Sizes.
        peers: Names of competitors.
        rounds: Counted runs of each.
        kept: Processes by name that go on with the next case; None for new ones.
        at_once: Whether they are set up at the same time, on a machine with many cores; the seconds of compilation are
            then not comparable.
    """
    workers, setups = {} if kept is None else kept, {}
    # Sequences have no channels to put last.
    peers = [name for name in peers if not (name == "torch, channels last" and "t" in options)]
    for group in [peers] if at_once else [[name] for name in peers]:
        for name in group:
            workers[name] = workers.get(name) or Worker(name)
            workers[name].tell(model=model, task=task, options=options)
        for name in group:
            try:
                setups[name] = workers[name].answer()
            except RuntimeError as error:
                workers[name] = None
                print(f"{name} can't take part: {error}", file=sys.stderr)
    answers = {name: [] for name in setups}
    for _ in range(rounds):
        for name in setups:
            workers[name].tell()
            answers[name].append(workers[name].answer())
    if kept is None:
        for name in setups:
            workers[name].close()
    return [row_of(model, task, options, name, setups[name], answers[name], kept is not None) for name in setups]


def row_of(model, task, options, name, setup, found, together):
    seconds = measure.median([answer["seconds"] for answer in found])
    count = options["n"] * options.get("epochs", 1) * (REPEATS if task in ("forward", "gradient") else 1)
    return {
        "id": f"{described(model, options)}, {task}, {name}",
        "case": described(model, options),
        "task": task,
        "competitor": name,
        "examples_per_second": round(count / seconds, 1),
        "seconds": round(seconds, 4),
        "spread": round(max(answer["seconds"] for answer in found) / min(answer["seconds"] for answer in found), 2),
        "cpu_seconds": round(measure.median([answer["cpu"] for answer in found]), 4),
        "build_seconds": round(setup["build"], 2),
        "compile_seconds": round(max(0.0, setup["first"] - setup["second"]), 2),
        "peak_mib": "" if together else round(found[-1]["peak_mib"]),
        "gflops": round(count * flops(model, options, task) / seconds / 1e9, 1),
    }


def flops(model, options, task):
    """Operations in the products that an example needs, an addition and a multiplication counted as two.

    To train takes three times the forward pass: a product for the gradient of the kernel and one for that of the
    inputs, which the first layer has no use for.
    """
    if model == "simple_cnn":
        layers = [26 * 26 * 9 * 32, 24 * 24 * 9 * 32 * 64, 9216 * 128, 128 * 10]
    elif model == "functional_cnn":
        layers = [26 * 26 * 9 * 32, 11 * 11 * 9 * 32 * 64, 1600 * 128, 128 * 10]
    else:
        kind, *form = model.split("-")
        t, units, gates = options["t"], options["units"], {"lstm": 4, "gru": 3, "simple_rnn": 1}[kind]
        ways = 2 if "bidirectional" in form else 1
        first, recurrent = ways * t * 9 * gates * units, ways * t * units * gates * units
        layers = [first, recurrent, *([2 * recurrent] if "stacked" in form else []), ways * units * 10]
    forward = 2 * sum(layers)
    return 3 * forward - 2 * layers[0] if task in ("train", "gradient") else forward


def described(model, options):
    if "t" not in options:
        return model
    dtype = f" {options['dtype']}" if "dtype" in options else ""
    return f"{model} T {options['t']} units {options['units']}{dtype}{' masked' if options.get('mask') else ''}"


def shown(rows):
    first = next((row for row in rows if row["competitor"] == "ours"), rows[0])
    lines = [f"{rows[0]['case']}, {rows[0]['task']}"]
    for row in rows:
        lines.append(
            f"  {row['competitor']:22} {row['examples_per_second']:>10,.0f}/s  {first['competitor']} is "
            f"{row['seconds'] / first['seconds']:5.2f} times as fast  {row['gflops']:6.1f} GFLOP/s  (spread "
            f"{row['spread']:.2f}, compiled in {row['compile_seconds']:.1f} s, {row['peak_mib'] or '?'} MiB)"
        )
    return "\n".join(lines)


def chart(rows, path):
    """A panel for each case, a bar for each competitor; of many cases how many times as fast we are."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    cases = list(dict.fromkeys((row["case"], row["task"]) for row in rows))
    if len(cases) > MOST_PANELS:
        ratios(rows, path)
        return
    across = min(3, len(cases))
    down = -(-len(cases) // across)
    most = max(sum((row["case"], row["task"]) == case for row in rows) for case in cases)
    size = (4.4 * across, (0.9 + 0.24 * most) * down)
    figure, panels = plt.subplots(down, across, figsize=size, squeeze=False, layout="constrained")
    for panel in panels.flat[len(cases) :]:
        panel.axis("off")
    for panel, case in zip(panels.flat, cases, strict=False):
        found = sorted(
            (float(row["examples_per_second"]), row["competitor"]) for row in rows if (row["case"], row["task"]) == case
        )
        values, names = zip(*found, strict=True)
        panel.barh(names, values, color=["C1" if name == "ours" else "0.7" for name in names])
        for i, value in enumerate(values):
            panel.text(value, i, f" {value:,.0f}", va="center", fontsize=7)
        panel.set_title(", ".join(case), fontsize=9)
        panel.set_xlim(0, 1.25 * max(values))
        panel.tick_params(labelsize=7)
        panel.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("examples per second", fontsize=8)
    figure.savefig(path, dpi=120)


def ratios(rows, path):
    """A line for each case, a point for each competitor: how many times as fast the first one is."""
    import matplotlib.pyplot as plt

    first, *others = dict.fromkeys(row["competitor"] for row in rows)
    cases = list(dict.fromkeys(f"{row['case']}, {row['task']}" for row in rows))
    speed = {(f"{row['case']}, {row['task']}", row["competitor"]): float(row["examples_per_second"]) for row in rows}
    figure, panel = plt.subplots(figsize=(8, 0.16 * len(cases) + 1), layout="constrained")
    for i, name in enumerate(others):
        found = [(speed[case, first] / speed[case, name], case) for case in cases if (case, name) in speed]
        panel.plot(*zip(*found, strict=True), "o", markersize=4, color=f"C{i}", label=f"beside {name}")
    panel.axvline(1, color="0.5", linewidth=1)
    panel.set_xscale("log")
    ticks = [1, 2, 5, 10, 20, 50]
    panel.set_xticks(ticks, [f"{tick} times" for tick in ticks])
    panel.minorticks_off()
    panel.grid(axis="x", color="0.9")
    panel.invert_yaxis()
    panel.tick_params(labelsize=7)
    panel.legend(fontsize=8)
    panel.set_title(f"how many times as fast: {first}", fontsize=9)
    figure.savefig(path, dpi=110)


def tables(rows):
    """The results as they stand in the README: a table for each task."""
    for task in dict.fromkeys(row["task"] for row in rows):
        print(f"\n{task}: examples per second; in brackets how many times as fast we are\n")
        these = [row for row in rows if row["task"] == task]
        print(measure.markdown(measure.beside(these, "case", "competitor", "examples_per_second")))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", default=["cnn", "middle"], choices=list(CASES))
    parser.add_argument("--tasks", nargs="+", default=["train"], choices=["train", "evaluate", "predict"])
    parser.add_argument("--peers", nargs="+", choices=ALL, help="by default a few, or all of them with --all-peers")
    parser.add_argument("--all-peers", action="store_true")
    parser.add_argument("--tensorflow", metavar="PYTHON", help="Keras on TensorFlow takes part, by this Python")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--together", action="store_true", help="one process per competitor for all cases")
    parser.add_argument("--short", action="store_true", help="two cases, three rounds")
    parser.add_argument("--table", action="store_true", help="only print the results that are there as tables")
    arguments = parser.parse_args()
    results = measure.results_file("throughput")
    if arguments.table:
        tables(measure.read_rows(results))
        return
    print(measure.surroundings("jax", "flax", "optax", "keras", "torch"))
    before = measure.matrix_peak()
    rows, kept = [], {} if arguments.together else None
    groups, rounds = (["short"], 3) if arguments.short else (arguments.cases, arguments.rounds)
    peers = ALL if arguments.all_peers else arguments.peers or FEW
    if arguments.tensorflow:
        Worker.pythons["keras-tensorflow"] = arguments.tensorflow
        peers = [*peers, "keras-tensorflow"]
    for task in arguments.tasks:
        for model, options in (case for group in groups for case in CASES[group]):
            found = compare(model, task, more_for(task, options), peers, rounds, kept)
            print(shown(found), flush=True)
            rows += found
    for worker in filter(None, (kept or {}).values()):
        worker.close()
    peak = max(before, measure.matrix_peak())
    print(f"the machine's own product of two matrices: {before:.1f} GFLOP/s before, {peak:.1f} at best")
    rows = [row | {"share_of_peak": round(row["gflops"] / peak, 3), "peak_gflops": round(peak, 1)} for row in rows]
    if not arguments.short:
        measure.merge_rows(results, rows, by="id")
    name = f"throughput-{'-'.join(arguments.tasks)}-{'-'.join(groups)}"
    chart(rows, measure.results_file(name, "png"))
    tables(rows)
    print(f"\n{measure.results_file(name, 'png')}")


if __name__ == "__main__":
    main()
