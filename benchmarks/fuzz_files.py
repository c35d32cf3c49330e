"""Do the readers of files hold: does a damaged file crash them, hang them, fill the memory or raise what it should not?

    python benchmarks/fuzz_files.py            # 20000 files
    python benchmarks/fuzz_files.py 300 --seed 1 --workers 1

Valid files of each format are damaged (bytes flipped, cut off, moved about; values changed in their JSON) and read in a
process apart. A file may be read, or refused by a sentence of ValueError, TypeError or OSError, within 2 seconds of the
processor and within 3 times its size plus 64 MiB. What takes longer is tried once more in a fresh process, because
other work on the machine may have been in its way. All else is a failure: it is counted, kept in `runs/fuzz`, and the
run ends with 1.
"""

import argparse
import collections
import io
import json
import multiprocessing
import os
import pathlib
import random
import re
import resource
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import zipfile

SECONDS = 2.0
PATIENCE = 60.0  # of the clock: a file that waits for something uses no processor
START_SECONDS = 120.0
ALLOWED = 64 * 2**20
GOOD = ("read", "refused")
# What stands in for a value of JSON.
VALUES = (
    *[None, True, False, 0, 1, -1, 2, 3, 0.5, -0.0, 1e308, float("inf"), 2**31, 2**53, 10**30, 4096, 100_000, 10**9],
    *[
        "",
        "x",
        "relu",
        "same",
        "../x",
        "os.system",
        "\u0000",
        "x" * 5000,
        [],
        {},
        [1],
        [None],
        [-1, -1],
        [[1, 2], [3, 4]],
    ],
    {"class_name": "__lambda__", "config": {"value": ["4wEA", None, None]}},
    {"class_name": "Lambda", "module": "keras.layers", "config": {}},
)

# ---------------------------------------------------------------- valid files


def valid_files(folder, keras=True):
    """Files of every format, of a stack, a graph and a recurrent model; with `keras` also as Keras writes them."""
    import jax

    import flaxmodels as fm
    from flaxmodels import Input, Model, Sequential, interop, layers

    stack = Sequential(
        [
            Input((6, 6, 1)),
            layers.Conv2D(2, 3, activation="relu"),
            layers.BatchNormalization(),
            layers.AveragePooling2D(2, padding="same"),
            layers.Flatten(),
            layers.Dense(3),
        ],
        name="stack",
    )
    words = Sequential(
        [
            Input((5,), dtype="int32"),
            layers.Embedding(4, 3, mask_zero=True),
            layers.Bidirectional(layers.LSTM(2, return_sequences=True)),
            layers.GRU(2),
        ],
        name="words",
    )
    a, b = Input((4, 2), name="a"), Input((4, 2), name="b")
    shared = layers.Dense(2, name="shared")
    inner_input = Input((4, 2))
    inner = Model(inner_input, layers.LayerNormalization()(inner_input), name="inner")
    joined = layers.Add()([shared(a), inner(shared(b))])
    graph = Model([a, b], [layers.MultiHeadAttention(1, 2)(joined, joined), layers.GlobalAveragePooling1D()(joined)])
    files = []
    for name, model in (("stack", stack), ("words", words), ("graph", graph)):
        examples = jax.tree.map(lambda symbol: jax.numpy.ones((1, *symbol.shape[1:]), symbol.dtype), model.input_spec)
        variables = model.init(jax.random.key(0), examples)
        for ending, save in ((".safetensors", fm.save), (".keras", interop.save_keras), (".weights.h5", None)):
            path = folder / f"{name}{ending}"
            (save or interop.save_keras_weights)(path, model, variables)
            files.append(path)
    return [*files, *(rewritten_by_keras(folder) if keras else ())]


def rewritten_by_keras(folder):
    """The same models as Keras saves them, which writes every argument of every layer down; none where Keras is not."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    try:
        import keras
    except ImportError:
        return
    for path in list(folder.glob("*.keras")):
        full = path.with_name(f"keras_{path.name}")
        keras.models.load_model(path).save(full)
        yield full


# ---------------------------------------------------------------- damage


def flip(rng, content, others):
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        content[rng.randrange(len(content))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
    return content


def cut(rng, content, others):
    return content[: rng.randrange(len(content))]


def splice(rng, content, others):
    """A piece of this or another file over, or between, other bytes."""
    source = rng.choice([content, *others])
    start, at = rng.randrange(len(source)), rng.randrange(len(content))
    piece = source[start : start + rng.choice((1, 8, 64, 512))]
    content[at : at + rng.choice((0, len(piece)))] = piece
    return content


def edited(rng, value):
    """JSON with one to three values changed, left out, doubled or moved."""
    value = json.loads(json.dumps(value))
    places = [
        (tree, key) for tree in containers(value) for key in (tree if isinstance(tree, dict) else range(len(tree)))
    ]
    for _ in range(rng.choice((1, 1, 2, 3))):
        tree, key = rng.choice(places)
        kind = rng.random()
        if not (key in tree if isinstance(tree, dict) else key < len(tree)):
            continue
        if kind < 0.1:
            del tree[key]
        elif kind < 0.25:
            other, other_key = rng.choice(places)
            if other_key in other if isinstance(other, dict) else other_key < len(other):
                tree[key] = json.loads(json.dumps(other[other_key]))
        elif kind < 0.5 and type(tree[key]) in (int, float):
            tree[key] = rng.choice((-tree[key], tree[key] + 1, tree[key] * 1000, tree[key] * 10**6, tree[key] / 2))
        else:
            tree[key] = rng.choice(VALUES)
    return value


def containers(value):
    found, open_ones = [], [value]
    while open_ones:
        one = open_ones.pop()
        if isinstance(one, dict | list) and one:
            found.append(one)
            open_ones.extend(one.values() if isinstance(one, dict) else one)
    return found


def edit_json(rng, content, others):
    """The architecture inside a file changed, the rest left valid."""
    if content[:2] == b"PK":
        members = unzipped(content)
        members["config.json"] = json.dumps(edited(rng, json.loads(members["config.json"]))).encode()
        return zipped(members)
    if content[:8] == b"\x89HDF\r\n\x1a\n":
        return flip(rng, content, others)
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    if rng.random() < 0.7:
        header["__metadata__"]["model"] = json.dumps(edited(rng, json.loads(header["__metadata__"]["model"])))
    else:
        header = edited(rng, header)
    text = json.dumps(header).encode()
    return bytearray(struct.pack("<Q", len(text)) + text + content[8 + length :])


def damage_member(rng, content, others):
    """The arrays inside a zip file damaged, its checksums made anew."""
    if content[:2] != b"PK":
        return splice(rng, content, others)
    members = unzipped(content)
    how = rng.choice((flip, cut, splice))
    members["model.weights.h5"] = bytes(how(rng, bytearray(members["model.weights.h5"]), others))
    return zipped(members)


def unzipped(content):
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return bytearray(file.getvalue())


DAMAGES = (flip, cut, splice, edit_json, damage_member)

# ---------------------------------------------------------------- reading


class Forked:
    """Stands in for `subprocess` where arrays of HDF5 are read: the same program, without Python's start for each file.

    A process that has imported what the program imports forks at each call, and the fork runs it.
    """

    DEVNULL, TimeoutExpired = subprocess.DEVNULL, subprocess.TimeoutExpired

    def __init__(self, program):
        self.ours, theirs = socket.socketpair()
        command = [sys.executable, __file__, "--serve", str(theirs.fileno()), program]
        self.server = subprocess.Popen(command, pass_fds=[theirs.fileno()])
        theirs.close()
        self.cpu, self.usual, self.most = 0.0, 0, 0

    def run(self, command, stdin, stdout, stderr, timeout):
        socket.send_fds(self.ours, [b"x"], [stdin.fileno(), stdout.fileno()])
        self.ours.settimeout(timeout)
        code, cpu, memory = struct.unpack("<qdq", self.ours.recv(24))
        self.cpu, self.most = self.cpu + cpu, max(self.most, memory)
        return subprocess.CompletedProcess(command, code)


def serve(number, program):
    """The process that forks: each message brings the file to read and the file for the answer."""
    import runpy

    import h5py  # noqa: F401 - what the forks need is there before them

    connection, run = socket.socket(fileno=int(number)), runpy.run_path(program)["main"]
    while True:
        message, files, _, _ = socket.recv_fds(connection, 1, 2)
        if not message:
            return
        child = os.fork()
        if not child:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            for target, file in enumerate(files):
                os.dup2(file, target)
            os.closerange(3, 256)
            run()
        for file in files:
            os.close(file)
        _, status, used = os.wait4(child, 0)
        connection.send(
            struct.pack("<qdq", os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime, used.ru_maxrss * 1024)
        )


def work(connection, folder):
    """Reads the files whose paths come, and answers what became of each, with its memory and seconds."""
    import flaxmodels as fm
    from flaxmodels.interop import hdf5

    hdf5.subprocess = forked = Forked(hdf5.__file__)
    models = {path.stem: fm.load(path) for path in folder.glob("*.safetensors")}

    for path in folder.iterdir():
        read(
            path, path.name.split(".")[0], models
        )  # what is made once, such as compiled programs, is not a file's cost
    forked.usual = forked.most
    connection.send("ready")
    while True:
        try:
            path, stem = connection.recv()
        except EOFError:  # there are no more files
            return
        before, began = fresh_peak(), time.process_time()
        forked.cpu, forked.most = 0.0, 0
        outcome = outcome_of(lambda path=path, stem=stem: read(path, stem, models))
        grown = peak() - before + max(0, forked.most - forked.usual)
        if grown > 3 * path.stat().st_size + ALLOWED:
            outcome = f"memory: {grown / 2**20:.0f} MiB"
        seconds = time.process_time() - began + forked.cpu
        connection.send(("slow" if seconds > SECONDS else outcome, grown, seconds))


def read(path, stem, models):
    """Reads a file; weights alone into the model of that name."""
    import flaxmodels as fm
    from flaxmodels import interop

    if path.name.endswith(".weights.h5"):
        interop.load_keras_weights(path, *models[stem])
    else:
        (interop.load_keras if path.suffix == ".keras" else fm.load)(path)


def outcome_of(function):
    """Whether a file is read or refused, as a word; all else as a sentence."""
    try:
        function()
    except (ValueError, TypeError, OSError) as error:
        text = str(error)
        return "refused" if text.endswith(".") and "\n" not in text else f"no sentence: {text!r}"[:300]
    except BaseException as error:
        return f"{type(error).__name__}: {str(error)!r}"[:300]
    return "read"


def fresh_peak():
    """The memory of this process, from which its peak is counted anew where the system can do that (Linux)."""
    try:
        pathlib.Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass
    return peak()


def peak():
    """The most memory that this process has had, in bytes."""
    try:
        status = pathlib.Path("/proc/self/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) * 1024
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def processor_time(process):
    """The seconds that a process has computed, or of the clock where the system does not tell."""
    try:
        fields = pathlib.Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except OSError:
        return time.monotonic()


class Worker:
    """A process that reads, made anew where a file ended it."""

    def __init__(self, folder):
        self.folder, self.file = folder, None
        self.start()

    def start(self):
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(theirs, self.folder), daemon=True)
        self.process.start()
        if not self.connection.poll(START_SECONDS) or self.connection.recv() != "ready":
            raise SystemExit("A process that reads the valid files does not start.")

    def take(self, file):
        self.file, self.begin, self.used = file, time.monotonic(), processor_time(self.process)
        self.connection.send((file.path, file.stem))

    def answer(self):
        """The outcome, the memory and the seconds of the file under way, or None while it is read."""
        elapsed = time.monotonic() - self.begin
        try:
            if self.connection.poll(0.002):
                return self.connection.recv()
        except (EOFError, ConnectionError):
            self.process.join()
            return f"crash: code {self.process.exitcode}", 0, elapsed
        if elapsed > PATIENCE or (elapsed > SECONDS and processor_time(self.process) - self.used > SECONDS):
            self.process.kill()
            self.process.join()
            return "hang", 0, elapsed
        return None


File = collections.namedtuple("File", "path stem kind damage again", defaults=[False])


def made(count, seed, valid, folder):
    """Damaged files, one after the other."""
    contents = {path: path.read_bytes() for path in valid}
    for i in range(count):
        rng = random.Random(f"{seed}-{i}")
        source, damage = rng.choice(valid), rng.choice(DAMAGES)
        stem, kind = source.name.split(".", 1)
        path = folder / f"{i}.{kind}"
        others = [content for other, content in contents.items() if other != source]
        path.write_bytes(damage(rng, bytearray(contents[source]), others))
        yield File(path, stem, f".{kind}", damage.__name__)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", type=int, nargs="?", default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve is not None:
        return serve(*arguments.serve)
    kept = pathlib.Path("runs/fuzz")
    counts, failures, most, slowest = collections.Counter(), [], 0, 0.0
    with tempfile.TemporaryDirectory() as valid_folder, tempfile.TemporaryDirectory() as folder:
        valid = valid_files(pathlib.Path(valid_folder))
        files = made(arguments.files, arguments.seed, valid, pathlib.Path(folder))
        workers = [Worker(pathlib.Path(valid_folder)) for _ in range(min(arguments.workers, arguments.files))]
        for worker in workers:
            worker.take(next(files))
        while busy := [worker for worker in workers if worker.file]:
            for worker in busy:
                answer = worker.answer()
                if answer is None:
                    continue
                (outcome, grown, seconds), file = answer, worker.file
                if outcome == "hang" or outcome.startswith("crash"):
                    worker.start()
                if outcome in ("hang", "slow") and not file.again:
                    worker.take(file._replace(again=True))
                    continue
                most, slowest = max(most, grown), max(slowest, seconds)
                counts[file.kind, file.damage, re.split(r"[: ]", outcome)[0]] += 1
                if outcome not in GOOD:
                    kept.mkdir(parents=True, exist_ok=True)
                    name = f"{file.stem}-{arguments.seed}-{file.path.name}"
                    file.path.replace(kept / name)
                    failures.append(f"{kept / name} ({file.damage}): {outcome}")
                else:
                    file.path.unlink()
                worker.file = None
                following = next(files, None)
                if following:
                    worker.take(following)
    report(counts, failures)
    cost = f"most memory for one {most / 2**20:.1f} MiB, slowest {slowest:.2f} s of the processor"
    print(f"{sum(counts.values())} files; {cost}")
    sys.exit(bool(failures))


def report(counts, failures):
    """Prints a row for each format and damage, a column for each outcome."""
    outcomes = [*GOOD, *sorted({outcome for _, _, outcome in counts} - set(GOOD))]
    print(f"{'format':14}{'damage':16}" + "".join(f"{outcome:>12}" for outcome in outcomes))
    for kind, damage in sorted({key[:2] for key in counts}):
        print(f"{kind:14}{damage:16}" + "".join(f"{counts[kind, damage, outcome]:12}" for outcome in outcomes))
    for failure in failures:
        print(failure)


if __name__ == "__main__":
    main()
