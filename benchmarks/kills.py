"""Does a run that is killed at any moment, again and again, end in the same bits?

    python benchmarks/kills.py [--kills 50] [--kind arrays stream]

A run with dropout, batch normalization, averaged weights, a falling learning rate, early stopping and validation is
started as a process of its own (tests/interrupted.py), killed with SIGKILL after a random time, and started again,
until it has been killed so often; then it is let end. Parameters, statistics, optimizer, history and random key are
compared with those of a run that nobody killed. A run that ends before its kill begins anew in a fresh folder.
"""

import argparse
import pathlib
import random
import subprocess
import sys
import tempfile
import time

import numpy as np

TESTS = pathlib.Path(__file__).parent.parent / "tests"
sys.path.insert(0, str(TESTS))

import interrupted  # noqa: E402 - found by the line above


def start(kind, folder):
    command = [sys.executable, str(TESTS / "interrupted.py"), kind, str(folder), "slow"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def killed_once(kind, folder, chance):
    """Starts the run and kills it; whether it was killed, and after how many chunks."""
    process = start(kind, folder)
    chunks, limit = 0, chance.randrange(0, 9)
    while chunks < limit and process.stdout.readline():
        chunks += 1
    time.sleep(chance.uniform(0, 0.12))  # also between two chunks, and while a checkpoint is written
    process.kill()
    process.stdout.close()
    return process.wait() == -9, chunks


def same(got, want):
    return got.keys() == want.keys() and all(np.array_equal(got[name], want[name], equal_nan=True) for name in want)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--kind", nargs="+", default=["arrays", "stream"], choices=["arrays", "stream"])
    arguments = parser.parse_args()
    chance = random.Random(0)
    for kind in arguments.kind:
        want = interrupted.numbers(*interrupted.fit(kind))
        survived = runs = kills = 0
        while kills < arguments.kills:
            with tempfile.TemporaryDirectory() as folder:
                before = kills
                for _ in range(min(chance.randrange(3, 9), arguments.kills - kills)):
                    killed, _ = killed_once(kind, folder, chance)
                    kills += killed
                    if not killed:
                        break
                runs += 1
                if same(interrupted.numbers(*interrupted.fit(kind, folder)), want):
                    survived += kills - before
        print(f"{kind}: {kills} kills in {runs} runs, {survived} survived to the same bits", flush=True)


if __name__ == "__main__":
    main()
