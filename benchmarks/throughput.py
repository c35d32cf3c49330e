"""How many examples a second do we train, evaluate and predict, beside Keras and PyTorch?

    python benchmarks/throughput.py [--cases cnn lstm gru] [--task train] [--rounds 5] [--short]

Each competitor is a process of its own (competitors.py); they take turns run by run, so that all see the same machine.
A run is one `fit` over 640 images or 256 sequences that the competitor holds in memory, compilation left out. Written
are the median, the spread (highest by lowest), processor seconds and the peak of memory.
"""

import argparse
import json
import pathlib
import subprocess
import sys

import measure

HERE = pathlib.Path(__file__).parent
PEERS = ["ours", "ours, own scan", "keras-jax", "keras-torch", "torch"]
IMAGES = {"n": 640, "batch": 128}
SEQUENCES = {"n": 256, "batch": 64, "t": 128, "units": 128}

CASES = {
    "cnn": [("simple_cnn", IMAGES), ("functional_cnn", IMAGES)],
    **{
        kind: [
            *((kind, SEQUENCES | {"t": t, "units": units}) for t in (32, 128, 512) for units in (64, 128, 512)),
            *((kind, SEQUENCES | {"t": t, "mask": True}) for t in (32, 128)),
        ]
        for kind in ("lstm", "gru", "simple_rnn")
    },
    "forms": [(f"{kind}-{form}", SEQUENCES) for kind in ("lstm", "gru") for form in ("bidirectional", "stacked")],
    "short": [("functional_cnn", IMAGES), ("lstm", SEQUENCES | {"t": 32})],
    "middle": [(kind, SEQUENCES | more) for kind in ("lstm", "gru") for more in ({}, {"mask": True})],
}


class Worker:
    """A competitor's process, which works when it is told to."""

    def __init__(self, name, model, task, options):
        command = [sys.executable, str(HERE / "competitors.py"), name, model, task, json.dumps(options)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.setup = self.answer()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(self.process.stderr.read()[-2000:])
        return json.loads(line)

    def run(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.answer()

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def compare(model, task, options, peers, rounds):
    """A row for each competitor; they are set up one after the other and then take turns."""
    workers = {}
    for name in peers:
        try:
            workers[name] = Worker(name, model, task, options)
        except RuntimeError as error:
            print(f"{name} can't take part: {error}", file=sys.stderr)
    answers = {name: [] for name in workers}
    for _ in range(rounds):
        for name, worker in workers.items():
            answers[name].append(worker.run())
    for worker in workers.values():
        worker.close()
    rows = []
    for name, found in answers.items():
        seconds = [answer["seconds"] for answer in found]
        rows.append(
            {
                "case": described(model, options),
                "task": task,
                "competitor": name,
                "examples_per_second": round(options["n"] / measure.median(seconds), 1),
                "seconds": round(measure.median(seconds), 4),
                "spread": round(max(seconds) / min(seconds), 2),
                "cpu_seconds": round(measure.median([answer["cpu"] for answer in found]), 4),
                "peak_mib": round(found[-1]["peak_mib"]),
                "build_and_first_seconds": round(sum(workers[name].setup.values()), 2),
            }
        )
    return rows


def described(model, options):
    if "t" not in options:
        return model
    return f"{model} T {options['t']} units {options['units']}{' masked' if options.get('mask') else ''}"


def shown(rows):
    ours = next(row["seconds"] for row in rows if row["competitor"] == "ours")
    lines = [f"{rows[0]['case']}, {rows[0]['task']}"]
    for row in rows:
        lines.append(
            f"  {row['competitor']:28} {row['examples_per_second']:>10,.0f}/s  we are {row['seconds'] / ours:5.2f} "
            f"times as fast  (spread {row['spread']:.2f}, {row['peak_mib']} MiB)"
        )
    return "\n".join(lines)


def chart(rows, path):
    """A bar for each competitor in each case, as a share of ours."""
    import matplotlib.pyplot as plt

    cases = list(dict.fromkeys(f"{row['case']}, {row['task']}" for row in rows))
    names = list(dict.fromkeys(row["competitor"] for row in rows))
    figure, axes = plt.subplots(figsize=(9, 1 + 0.9 * len(cases)))
    for i, case in enumerate(cases):
        found = {r["competitor"]: float(r["examples_per_second"]) for r in rows if f"{r['case']}, {r['task']}" == case}
        for j, name in enumerate(names):
            if name in found:
                share = found[name] / found["ours"]
                axes.barh(
                    i + 0.8 * j / len(names), share, 0.8 / len(names), color=f"C{j}", label=name if not i else None
                )
    axes.set_yticks([i + 0.35 for i in range(len(cases))], cases)
    axes.invert_yaxis()
    axes.set_xlabel("examples per second, ours = 1")
    axes.legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", default=["cnn", "middle"], choices=list(CASES))
    parser.add_argument("--task", default="train", choices=["train", "evaluate", "predict"])
    parser.add_argument("--peers", nargs="+", default=PEERS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--short", action="store_true", help="two cases, three rounds")
    arguments = parser.parse_args()
    print(f"{measure.device()}; {measure.versions('jax', 'flax', 'optax', 'keras', 'torch')}")
    rows = []
    groups, rounds = (["short"], 3) if arguments.short else (arguments.cases, arguments.rounds)
    for group in groups:
        for model, options in CASES[group]:
            found = compare(model, arguments.task, options, arguments.peers, rounds)
            print(shown(found), flush=True)
            rows += [{"id": f"{r['case']}, {r['task']}, {r['competitor']}", **r} for r in found]
            measure.merge_rows(measure.results_file("throughput"), rows, by="id")
    chart(rows, measure.results_file(f"throughput-{arguments.task}-{'-'.join(groups)}", "png"))


if __name__ == "__main__":
    main()
