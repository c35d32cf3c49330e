"""How long is it from the start of a process to the end of its first epoch, and how long does an import take?

    python benchmarks/startup.py [--rounds 3]

Fresh processes in turns. A round trains the same small CNN on the embedded digits for an epoch, three times: with
nothing among the user's caches, as the very first process, which also builds the kernels in C; with an empty folder for
compiled programs; and with what the process before left there. Ours is the command line as a user types it; Keras and
PyTorch are scripts that do the same. Python's own compiled files are there in all. Imports are timed likewise, as whole
processes less the start of an empty one.
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
if BACKEND == "jax":  # what Keras' users can do for their second start
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
for at in range(0, len(x), 128):
    rows = order[at : at + 128]
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
    """Each competitor's command line."""
    ours = ["-m", "training", "fit", "simple_cnn", "digits", "--epochs", "1", "--out", str(folder / "run")]
    return {
        "ours": [*ours, "--no-resume"],
        "keras-jax": ["-c", "BACKEND = 'jax'" + DATA + KERAS],
        "keras-torch": ["-c", "BACKEND = 'torch'" + DATA + KERAS],
        "torch": ["-c", DATA + TORCH],
    }


def surroundings(programs, kernels="kernels"):
    """The environment of a process whose compiled programs are in a folder; of kernels in C beside it."""
    folder = programs.parent
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(programs), "KERAS_BACKEND": "jax"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    return environment | {"PYTHONPYCACHEPREFIX": str(folder / "python"), "XDG_CACHE_HOME": str(folder / kernels)}


def first_epoch(command, environment):
    """Seconds from the start of a process to the line that says that its first epoch is done."""
    start, found, said = time.perf_counter(), None, []
    with subprocess.Popen(
        [sys.executable, *command], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        for line in process.stdout:
            said.append(line)
            if found is None and line.startswith("Epoch 1/"):
                found = time.perf_counter() - start
    if found is None:
        raise RuntimeError("".join(said)[-2000:])
    return found


def starts(rounds):
    """A row per competitor: the very first start, a cold and a warm one, medians and spreads."""
    with tempfile.TemporaryDirectory() as kept:
        folder = pathlib.Path(kept)
        seconds = {name: {"first": [], "cold": [], "warm": []} for name in commands(folder)}
        for turn in range(-1, rounds):
            for name, command in commands(folder).items():
                programs = folder / f"programs {name} {turn}"
                places = {
                    "first": surroundings(folder / f"first {name} {turn}", f"kernels {name} {turn}"),
                    "cold": surroundings(programs),
                    "warm": surroundings(programs),
                }
                for start, times in seconds[name].items():
                    taken = first_epoch(command, places[start])
                    if turn >= 0:  # the turn before writes Python's compiled files, and builds kernels that stay
                        times.append(taken)
    return [row_of(name, times) for name, times in seconds.items()]


def row_of(name, seconds):
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
    """A row per import: seconds beyond those of a process that imports nothing."""
    with tempfile.TemporaryDirectory() as folder:
        environment = surroundings(pathlib.Path(folder) / "programs")

        def run(code):
            return lambda: subprocess.run([sys.executable, "-c", code], env=environment, check=True)

        seconds = measure.interleaved({code: run(code) for code in IMPORTS}, rounds)
    nothing = measure.median(seconds.pop("pass"))
    return [
        {
            "what": code,
            "warm_seconds": round(measure.median(times) - nothing, 3),
            "spread": round(max(times) / min(times), 2),
        }
        for code, times in seconds.items()
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    print(measure.surroundings("jax", "flax", "optax", "keras", "torch"))
    rows = [*starts(arguments.rounds), *imports(arguments.rounds + 2)]
    measure.write_rows(measure.results_file("startup"), rows)
    print(measure.markdown(rows))


if __name__ == "__main__":
    main()
