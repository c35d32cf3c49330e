"""Does a run that is killed at any moment, again and again, end in the same bits?

    python benchmarks/kills.py [--kills 50] [--kind arrays stream ...]

A run of tests/support/interrupted.py is started as a process, killed with SIGKILL after a random time, and started
again, until it has been killed a few times; then it may end. Parameters, statistics, optimizer, history, random key
and the files that callbacks wrote are compared with those of a run that was not killed. Together, the kinds have
dropout, also in a recurrence, batch normalization, averaged weights, accumulated gradients, several outputs, all
callbacks with a state, passes that are cut into epochs, iterators, sequences, and validation that takes long. A run
that ends before it is killed starts anew in a fresh folder."""

import argparse
import pathlib
import random
import subprocess
import sys
import tempfile
import time
import warnings

import numpy as np

ROOT = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from tests.support import interrupted  # noqa: E402 - found by the line above


def start(kind, folder):
    command = [
        sys.executable,
        "-W",
        "ignore",
        str(ROOT / "tests" / "support" / "interrupted.py"),
        kind,
        str(folder),
        "slow",
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def killed_once(kind, folder, chance):
    """Starts the run and kills it; whether it was killed, and at what it was."""
    process = start(kind, folder)
    lines, limit, last = 0, chance.randrange(0, 11), "starting\n"
    while lines < limit and (line := process.stdout.readline()):
        lines, last = lines + 1, line
    time.sleep(chance.uniform(0, 0.12))  # also between two chunks, and while a checkpoint is written
    process.kill()
    process.stdout.close()
    return process.wait() == -9, last.strip()


def result(kind, folder, resume):
    files = interrupted.files_beside(folder, kind)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return interrupted.numbers(*interrupted.fit(kind, folder if resume else None, files=files), files)


def differences(got, want):
    names = sorted(got.keys() ^ want.keys())
    return names + [
        n for n in want if n in got and not np.array_equal(got[n], want[n], equal_nan=got[n].dtype.kind == "f")
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--kind", nargs="+", default=list(interrupted.KINDS), choices=list(interrupted.KINDS))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    for kind in arguments.kind:
        with tempfile.TemporaryDirectory() as folder:
            want = result(kind, pathlib.Path(folder) / "run", resume=False)
        survived = runs = kills = validating = 0
        while kills < arguments.kills:
            with tempfile.TemporaryDirectory() as parent:
                folder, before = pathlib.Path(parent) / "run", kills
                for _ in range(min(chance.randrange(3, 9), arguments.kills - kills)):
                    killed, during = killed_once(kind, folder, chance)
                    kills += killed
                    validating += killed and during == "validating"
                    if not killed:
                        break
                runs += 1
                if differing := differences(result(kind, folder, resume=True), want):
                    print(f"{kind}: a run ended in other bits: {', '.join(differing[:5])}", flush=True)
                else:
                    survived += kills - before
        print(
            f"{kind}: {kills} kills in {runs} runs, {validating} of them in a validation; {survived} survived to the "
            "same bits",
            flush=True,
        )


if __name__ == "__main__":
    main()
