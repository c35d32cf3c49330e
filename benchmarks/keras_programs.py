"""Measures whole Keras programs, run by Keras on each backend and by `from training import keras`.

    python benchmarks/keras_programs.py [--programs simple_cnn lstm] [--epochs 5] [--rounds 3] [--tensorflow PYTHON]
    python benchmarks/keras_programs.py --table        # prints the recorded results

The programs are in `programs/`. They differ for flaxmodels only in their import lines. Each run is a fresh process with
an empty folder for compiled programs, and the competitors take turns. A row holds medians of the runs: the seconds from
the start of the process to its end, the seconds of the first epoch, which compiles, and of one of the other epochs, and
the value of the loss at the end.

Keras on TensorFlow takes part if --tensorflow names the Python of an environment with both packages. This project
neither imports nor installs TensorFlow.
"""

import argparse
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

import measure

HERE = pathlib.Path(__file__).parent
OURS = "flaxmodels"
LABELS = {
    OURS: "flaxmodels",
    "keras-jax": "Keras on JAX",
    "keras-torch": "Keras on PyTorch",
    "keras-tensorflow": "Keras on TensorFlow",
}
PROGRAMS = ["simple_cnn", "functional_cnn", "lstm", "text_bilstm", "text_transformer", "tabular"]


def ported(text):
    """Returns the text of a Keras program with the import lines of flaxmodels."""
    text = re.sub(r"^import keras$", "from training import keras", text, flags=re.MULTILINE)
    return re.sub(r"^from keras\b", "from training.keras", text, flags=re.MULTILINE)


def run_program(program, competitor, epochs):
    """Runs a program in this process and prints the seconds of its epochs and its last loss as JSON."""
    sys.path.insert(0, str(HERE.parent))
    text = (HERE / "programs" / f"{program}.py").read_text()
    names = {"__name__": program}
    if competitor == OURS:
        text = ported(text)
    else:
        os.environ["KERAS_BACKEND"] = competitor.removeprefix("keras-")
    exec(compile(text, f"{program}.py", "exec"), names)  # noqa: S102
    keras = names["keras"]

    class EpochTimes(keras.callbacks.Callback):
        """Notes when the epochs end."""

        def on_train_begin(self, logs=None):
            """Starts the clock."""
            times.append(time.perf_counter())

        def on_epoch_end(self, epoch, logs=None):
            """Notes the time."""
            times.append(time.perf_counter())

    times = []
    keras.utils.set_random_seed(0)
    result = names["main"](epochs, [EpochTimes()])
    seconds = [after - before for before, after in zip(times, times[1:], strict=False)]
    print(json.dumps({"epochs": seconds, "loss": float(result[0])}))


def timed(python, program, competitor, epochs):
    """Runs a program in a fresh process and returns its times."""
    with tempfile.TemporaryDirectory() as folder:
        settings = {"JAX_COMPILATION_CACHE_DIR": folder, "XDG_CACHE_HOME": os.path.join(folder, "cache")}
        if competitor == OURS:  # the kernels are compiled once per machine, at installation or by the first program
            del settings["XDG_CACHE_HOME"]
        start = time.perf_counter()
        done = subprocess.run(
            [python, __file__, "--run", program, competitor, "--epochs", str(epochs)],
            env=os.environ | settings, capture_output=True, text=True, check=False,
        )  # fmt: skip
        seconds = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(f"{program} failed in {competitor}: {done.stderr[-2000:]}")
    answer = json.loads(done.stdout.splitlines()[-1])
    first, *others = answer["epochs"]
    return {"whole": seconds, "first": first, "epoch": measure.median(others), "loss": answer["loss"]}


def compare(program, pythons, epochs, rounds):
    """Runs a program with all competitors in turn and returns a row for each."""
    runs = {name: [] for name in pythons}
    for _ in range(rounds):
        for name, python in pythons.items():
            runs[name].append(timed(python, program, name, epochs))
    rows = []
    for name, answers in runs.items():
        whole = [answer["whole"] for answer in answers]
        median = {key: measure.median([answer[key] for answer in answers]) for key in answers[0]}
        rows.append(
            {
                "id": f"{program}, {name}",
                "program": program,
                "competitor": name,
                "epochs": epochs,
                "whole_seconds": round(median["whole"], 2),
                "spread": round(max(whole) / min(whole), 2),
                "first_epoch_seconds": round(median["first"], 3),
                "epoch_seconds": round(median["epoch"], 4),
                "loss": round(median["loss"], 4),
            }
        )
    return rows


def print_tables(rows):
    """Prints a table of whole times and one of epochs; how many times as long as flaxmodels is in brackets."""
    for value, title in (("whole_seconds", "whole program, seconds"), ("epoch_seconds", "one epoch, seconds")):
        table = []
        for program in dict.fromkeys(row["program"] for row in rows):
            seconds = {row["competitor"]: float(row[value]) for row in rows if row["program"] == program}
            line = {title: program}
            for name in [name for name in LABELS if name in seconds]:
                ratio = f" ({seconds[name] / seconds[OURS]:.1f}x)" if name != OURS else ""
                line[LABELS[name]] = f"{seconds[name]:.3g}{ratio}"
            table.append(line)
        print(f"\n{measure.markdown(table)}")


def chart(rows, path):
    """Draws how many times as long each peer takes for the whole program and for an epoch."""
    import matplotlib.pyplot as plt

    programs = list(dict.fromkeys(row["program"] for row in rows))
    peers = [name for name in LABELS if name != OURS and any(row["competitor"] == name for row in rows)]
    figure, panels = plt.subplots(1, 2, figsize=(8, 3.2), sharey=True, layout="constrained")
    for panel, value, title in zip(
        panels, ("whole_seconds", "epoch_seconds"), ("whole program", "one epoch"), strict=True
    ):
        seconds = {(row["program"], row["competitor"]): float(row[value]) for row in rows}
        for i, name in enumerate(peers):
            where = [y + (i - (len(peers) - 1) / 2) * 0.26 for y in range(len(programs))]
            ratios = [seconds[program, name] / seconds[program, OURS] for program in programs]
            panel.barh(where, ratios, 0.24, color=f"C{i}", label=LABELS[name])
            for y, ratio in zip(where, ratios, strict=True):
                panel.text(ratio, y, f" {ratio:.1f}", va="center", fontsize=6)
        panel.axvline(1, color="0.3", linewidth=1)
        panel.set_yticks(range(len(programs)), [name.replace("_", " ") for name in programs], fontsize=8)
        panel.set_title(title, fontsize=9)
        panel.set_xlabel("time of Keras / time of flaxmodels", fontsize=8)
        panel.tick_params(axis="x", labelsize=7)
        panel.spines[["top", "right"]].set_visible(False)
        panel.margins(x=0.1)
    panels[0].invert_yaxis()
    panels[1].legend(fontsize=7)
    figure.savefig(path, dpi=120)


def main():
    """Runs the chosen programs; writes a CSV file, tables and a chart."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", nargs="+", default=PROGRAMS, choices=PROGRAMS)
    parser.add_argument("--peers", nargs="+", default=["keras-jax", "keras-torch"], choices=list(LABELS)[1:3])
    parser.add_argument("--tensorflow", metavar="PYTHON", help="add Keras on TensorFlow, run by this Python")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3, help="runs of each competitor")
    parser.add_argument("--table", action="store_true", help="only print the recorded results and draw the chart")
    parser.add_argument("--run", nargs=2, metavar=("PROGRAM", "COMPETITOR"), help="run one program in this process")
    arguments = parser.parse_args()
    if arguments.run:
        run_program(*arguments.run, arguments.epochs)
        return
    results = measure.results_file("keras-programs")
    if not arguments.table:
        print(measure.environment("jax", "flax", "optax", "keras", "torch"))
        pythons = dict.fromkeys([OURS, *arguments.peers], sys.executable)
        if arguments.tensorflow:
            pythons["keras-tensorflow"] = arguments.tensorflow
        for program in arguments.programs:
            rows = compare(program, pythons, arguments.epochs, arguments.rounds)
            print(measure.markdown(rows), flush=True)
            measure.merge_rows(results, rows, by="id")
    rows = measure.read_rows(results)
    print_tables(rows)
    chart(rows, measure.results_file("keras-programs", "png"))


if __name__ == "__main__":
    main()
