"""Measures the time from the start of a process to the end of its first epoch, and import times.

    python benchmarks/startup.py [--rounds 3]

Each measurement runs in a fresh process, and competitors take turns. A round trains the same small CNN on the embedded
digits for one epoch, three times. "First" has empty caches and also compiles the C kernels. "Cold" has the kernels, but
an empty folder for compiled programs. "Warm" reuses the programs that the cold start compiled. For flaxmodels, the
process is the command line; for Keras and PyTorch, it is a script that does the same. Python's bytecode files always
exist. An import time is the time of a process with the import minus that of an empty process.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import measure

DATA = """
import numpy as np, gzip, importlib.util, pathlib
folder = importlib.util.find_spec("sklearn").submodule_search_locations[0]
with gzip.open(pathlib.Path(folder, "datasets", "data", "digits.csv.gz"), "rt") as lines:
    table = np.loadtxt(lines, np.uint8, delimiter=",")
x, y = (table[:1437, :-1] / 16).astype("float32").reshape(-1, 8, 8, 1), table[:1437, -1].astype("int32")
"""
KERAS = """
import os
os.environ["KERAS_BACKEND"] = BACKEND
if BACKEND == "jax":  # makes JAX cache all programs, as a user of Keras could do
    import jax
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
import keras
L = keras.layers
model = keras.Sequential([
    keras.Input((8, 8, 1)), L.Conv2D(32, 3, activation="relu"), L.Conv2D(64, 3, activation="relu"), L.MaxPooling2D(2),
    L.Dropout(0.25), L.Flatten(), L.Dense(128, activation="relu"), L.Dropout(0.5), L.Dense(10, activation="softmax"),
])
model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
model.fit(x, y, batch_size=128, verbose=0)
print("Epoch 1/1", flush=True)
"""
TORCH = """
import torch
from torch import nn
model = nn.Sequential(
    nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.25), nn.Flatten(),
    nn.Linear(256, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, 10))
x, y = torch.from_numpy(x.transpose(0, 3, 1, 2).copy()), torch.from_numpy(y).long()
adam, loss_of = torch.optim.Adam(model.parameters(), lr=1e-3), nn.CrossEntropyLoss()
order = torch.randperm(len(x))
for start in range(0, len(x), 128):
    rows = order[start : start + 128]
    loss = loss_of(model(x[rows]), y[rows])
    adam.zero_grad()
    loss.backward()
    adam.step()
print("Epoch 1/1", flush=True)
"""
IMPORTS = [
    "pass",
    "import jax",
    "import flax.linen",
    "import flaxmodels",
    "from flaxmodels import Sequential, layers",
    "from training import Trainer",
    "import keras  # on jax",
    "import torch",
]


def commands(folder):
    """Returns the command line of each competitor."""
    fit = ["-m", "training", "fit", "simple_cnn", "digits", "--epochs", "1", "--out", str(folder / "run")]
    return {
        "flaxmodels": [*fit, "--no-resume"],
        "keras-jax": ["-c", "BACKEND = 'jax'" + DATA + KERAS],
        "keras-torch": ["-c", "BACKEND = 'torch'" + DATA + KERAS],
        "torch": ["-c", DATA + TORCH],
    }


def process_environment(programs, kernels="kernels"):
    """Returns environment variables with folders for compiled programs and the C kernels."""
    folder = programs.parent
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(programs), "KERAS_BACKEND": "jax"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    return environment | {"PYTHONPYCACHEPREFIX": str(folder / "python"), "XDG_CACHE_HOME": str(folder / kernels)}


def first_epoch(command, environment):
    """Returns the seconds from the start of a process to the line that reports its first epoch."""
    start, seconds, output = time.perf_counter(), None, []
    with subprocess.Popen(
        [sys.executable, *command], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        for line in process.stdout:
            output.append(line)
            if seconds is None and line.startswith("Epoch 1/"):
                seconds = time.perf_counter() - start
    if seconds is None:
        raise RuntimeError("".join(output)[-2000:])
    return seconds


def starts(rounds):
    """Returns a row for each competitor with the medians of its first, cold and warm starts."""
    with tempfile.TemporaryDirectory() as parent:
        folder = pathlib.Path(parent)
        seconds = {name: {"first": [], "cold": [], "warm": []} for name in commands(folder)}
        for turn in range(-1, rounds):
            for name, command in commands(folder).items():
                programs = folder / f"programs {name} {turn}"
                environments = {
                    "first": process_environment(folder / f"first {name} {turn}", f"kernels {name} {turn}"),
                    "cold": process_environment(programs),
                    "warm": process_environment(programs),
                }
                for start, times in seconds[name].items():
                    elapsed = first_epoch(command, environments[start])
                    if turn >= 0:  # turn -1 writes Python's bytecode files and compiles the kernels for cold starts
                        times.append(elapsed)
    return [start_row(name, times) for name, times in seconds.items()]


def start_row(name, seconds):
    """Returns the row of a competitor."""
    first, cold, warm = (measure.median(times) for times in seconds.values())
    return {
        "what": f"first epoch, {name}",
        "first_seconds": round(first, 2),
        "cold_seconds": round(cold, 2),
        "warm_seconds": round(warm, 2),
        "first_by_warm": round(first / warm, 2),
        "cold_by_warm": round(cold / warm, 2),
        "spread": round(max(max(times) / min(times) for times in seconds.values()), 2),
    }


def imports(rounds):
    """Returns a row for each import: its seconds beyond those of a process that imports nothing."""
    with tempfile.TemporaryDirectory() as folder:
        environment = process_environment(pathlib.Path(folder) / "programs")

        def run(code):
            return lambda: subprocess.run([sys.executable, "-c", code], env=environment, check=True)

        seconds = measure.interleaved({code: run(code) for code in IMPORTS}, rounds)
    empty = measure.median(seconds.pop("pass"))
    return [
        {
            "what": code,
            "warm_seconds": round(measure.median(times) - empty, 3),
            "spread": round(max(times) / min(times), 2),
        }
        for code, times in seconds.items()
    ]


def main():
    """Measures all starts and imports; prints a table and writes a CSV file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="timed starts of each kind; two more of each import")
    arguments = parser.parse_args()
    print(measure.environment("jax", "flax", "optax", "keras", "torch"))
    rows = [*starts(arguments.rounds), *imports(arguments.rounds + 2)]
    measure.write_rows(measure.results_file("startup"), rows)
    print(measure.markdown(rows))


if __name__ == "__main__":
    main()
