"""Checks that a run that is killed at random moments and resumed ends bit-identical to an uninterrupted run.

    python benchmarks/kills.py [--kills 50] [--kind arrays stream ...]

A run of tests/support/interrupted.py starts in its own process and is killed by SIGKILL after a random time. It is
restarted and killed a few times, and then runs to its end. Parameters, batch statistics, optimizer state, history,
random key and the files of callbacks are compared with those of an uninterrupted run. Together, the kinds of runs cover
dropout (also in recurrent layers), batch normalization, averaged weights, gradient accumulation, several outputs, all
callbacks with a state, passes that are cut into epochs, iterators, sequences and slow validation. If a run ends before
it is killed, the next one starts in an empty folder.
"""

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

from tests.support import interrupted  # noqa: E402 - needs the path from the line above


def start(kind, folder):
    """Starts or resumes a run in a new process."""
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


def start_and_kill(kind, folder, rng):
    """Starts a run and kills it; returns whether it was killed before its end, and its last output line."""
    process = start(kind, folder)
    lines, limit, last = 0, rng.randrange(0, 11), "starting\n"
    while lines < limit and (line := process.stdout.readline()):
        lines, last = lines + 1, line
    time.sleep(rng.uniform(0, 0.12))  # kills between chunks and during the writing of checkpoints, too
    process.kill()
    process.stdout.close()
    return process.wait() == -9, last.strip()


def result(kind, folder, resume):
    """Runs to the end in this process and returns all arrays to compare."""
    files = interrupted.files_beside(folder, kind)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return interrupted.resumable_results(*interrupted.fit(kind, folder if resume else None, files=files), files)


def differences(got, want):
    """Returns the names of arrays that differ or exist on one side only."""
    names = sorted(got.keys() ^ want.keys())
    return names + [
        n for n in want if n in got and not np.array_equal(got[n], want[n], equal_nan=got[n].dtype.kind == "f")
    ]


def main():
    """Kills runs of each kind, prints a line for each kind, and exits with 1 if a result differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="kills of each kind")
    parser.add_argument("--kind", nargs="+", default=list(interrupted.KINDS), choices=list(interrupted.KINDS))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng, different = random.Random(arguments.seed), 0
    for kind in arguments.kind:
        with tempfile.TemporaryDirectory() as folder:
            want = result(kind, pathlib.Path(folder) / "run", resume=False)
        identical = runs = kills = validating = 0
        while kills < arguments.kills:
            with tempfile.TemporaryDirectory() as parent:
                folder, before = pathlib.Path(parent) / "run", kills
                for _ in range(min(rng.randrange(3, 9), arguments.kills - kills)):
                    killed, during = start_and_kill(kind, folder, rng)
                    kills += killed
                    validating += killed and during == "validating"
                    if not killed:
                        break
                runs += 1
                if differing := differences(result(kind, folder, resume=True), want):
                    print(f"{kind}: a run ended with different bits in {', '.join(differing[:5])}", flush=True)
                else:
                    identical += kills - before
        print(
            f"{kind}: {kills} kills in {runs} runs, {validating} of them in a validation; "
            f"{identical} kills in runs that ended bit-identical",
            flush=True,
        )
        different += kills - identical
    sys.exit(1 if different else 0)


if __name__ == "__main__":
    main()
