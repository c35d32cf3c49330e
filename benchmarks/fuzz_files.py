"""Reads damaged model files and checks that no file crashes, hangs or exhausts the reader.

    python benchmarks/fuzz_files.py            # 20000 files
    python benchmarks/fuzz_files.py 300 --seed 1 --workers 1

Valid files of each format are damaged (bytes flipped, cut off or moved; JSON values changed) and read in a separate
process. A file must be read, or refused with a one-sentence ValueError, TypeError or OSError, within 2 CPU seconds and
within 64 MiB plus 3 times its size. A file that takes longer is tried once more in a fresh process, because other load
may have slowed it down. Everything else is a failure: the file is kept in `runs/fuzz`, and the exit status is 1.
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

MAX_CPU_SECONDS = 2.0
MAX_SECONDS = 60.0  # wall-clock time, for a file that blocks the reader without using CPU time
START_SECONDS = 120.0
EXTRA_MEMORY = 64 * 2**20
ACCEPTED = ("read", "refused")
# Replacements for JSON values.
JSON_VALUES = (
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
    """Writes a sequential, a recurrent and a graph model in each format; with `keras`, also as Keras writes them."""
    import jax

    import flaxmodels as fm
    from flaxmodels import Input, Model, Sequential, interop, layers

    sequential = Sequential(
        [
            Input((6, 6, 1)),
            layers.Conv2D(2, 3, activation="relu"),
            layers.BatchNormalization(),
            layers.AveragePooling2D(2, padding="same"),
            layers.Flatten(),
            layers.Dense(3),
        ],
        name="sequential",
    )
    recurrent = Sequential(
        [
            Input((5,), dtype="int32"),
            layers.Embedding(4, 3, mask_zero=True),
            layers.Bidirectional(layers.LSTM(2, return_sequences=True)),
            layers.GRU(2),
        ],
        name="recurrent",
    )
    a, b = Input((4, 2), name="a"), Input((4, 2), name="b")
    shared = layers.Dense(2, name="shared")
    inner_input = Input((4, 2))
    inner = Model(inner_input, layers.LayerNormalization()(inner_input), name="inner")
    added = layers.Add()([shared(a), inner(shared(b))])
    graph = Model([a, b], [layers.MultiHeadAttention(1, 2)(added, added), layers.GlobalAveragePooling1D()(added)])
    files = []
    for name, model in (("sequential", sequential), ("recurrent", recurrent), ("graph", graph)):
        examples = jax.tree.map(lambda symbol: jax.numpy.ones((1, *symbol.shape[1:]), symbol.dtype), model.input_spec)
        variables = model.init(jax.random.key(0), examples)
        for suffix, save in ((".safetensors", fm.save), (".keras", interop.save_keras), (".weights.h5", None)):
            path = folder / f"{name}{suffix}"
            (save or interop.save_keras_weights)(path, model, variables)
            files.append(path)
    return [*files, *(rewritten_by_keras(folder) if keras else ())]


def rewritten_by_keras(folder):
    """Yields the same models as saved by Keras, which writes every layer argument; nothing if Keras is missing."""
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
    """Changes some bytes."""
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        content[rng.randrange(len(content))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
    return content


def cut(rng, content, others):
    """Cuts the end off."""
    return content[: rng.randrange(len(content))]


def splice(rng, content, others):
    """Overwrites or inserts bytes with a piece of this or another file."""
    source = rng.choice([content, *others])
    start, target = rng.randrange(len(source)), rng.randrange(len(content))
    piece = source[start : start + rng.choice((1, 8, 64, 512))]
    content[target : target + rng.choice((0, len(piece)))] = piece
    return content


def edit(rng, value):
    """Returns a copy of a JSON value with one to three values changed, deleted or copied from elsewhere."""
    value = json.loads(json.dumps(value))
    places = [
        (tree, key) for tree in containers(value) for key in (tree if isinstance(tree, dict) else range(len(tree)))
    ]
    for _ in range(rng.choice((1, 1, 2, 3))):
        tree, key = rng.choice(places)
        choice = rng.random()
        if not (key in tree if isinstance(tree, dict) else key < len(tree)):
            continue
        if choice < 0.1:
            del tree[key]
        elif choice < 0.25:
            other, other_key = rng.choice(places)
            if other_key in other if isinstance(other, dict) else other_key < len(other):
                tree[key] = json.loads(json.dumps(other[other_key]))
        elif choice < 0.5 and type(tree[key]) in (int, float):
            tree[key] = rng.choice((-tree[key], tree[key] + 1, tree[key] * 1000, tree[key] * 10**6, tree[key] / 2))
        else:
            tree[key] = rng.choice(JSON_VALUES)
    return value


def containers(value):
    """Returns all dictionaries and lists with content inside a JSON value."""
    found, pending = [], [value]
    while pending:
        item = pending.pop()
        if isinstance(item, dict | list) and item:
            found.append(item)
            pending.extend(item.values() if isinstance(item, dict) else item)
    return found


def edit_json(rng, content, others):
    """Changes the architecture inside a file and leaves the rest valid."""
    if content[:2] == b"PK":
        members = unzip(content)
        members["config.json"] = json.dumps(edit(rng, json.loads(members["config.json"]))).encode()
        return zip_members(members)
    if content[:8] == b"\x89HDF\r\n\x1a\n":
        return flip(rng, content, others)
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    if rng.random() < 0.7:
        header["__metadata__"]["model"] = json.dumps(edit(rng, json.loads(header["__metadata__"]["model"])))
    else:
        header = edit(rng, header)
    text = json.dumps(header).encode()
    return bytearray(struct.pack("<Q", len(text)) + text + content[8 + length :])


def damage_member(rng, content, others):
    """Damages the arrays inside a zip file, with valid checksums."""
    if content[:2] != b"PK":
        return splice(rng, content, others)
    members = unzip(content)
    damage = rng.choice((flip, cut, splice))
    members["model.weights.h5"] = bytes(damage(rng, bytearray(members["model.weights.h5"]), others))
    return zip_members(members)


def unzip(content):
    """Returns the members of a zip file in a dictionary keyed by name."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zip_members(members):
    """Returns a zip file with these members."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return bytearray(file.getvalue())


DAMAGES = (flip, cut, splice, edit_json, damage_member)

# ---------------------------------------------------------------- reading


class ForkServer:
    """Replaces `subprocess` in the HDF5 reader, to avoid starting Python for each file.

    A server process that has imported the libraries forks for each call, and the fork runs the reader's program.
    """

    DEVNULL, TimeoutExpired = subprocess.DEVNULL, subprocess.TimeoutExpired

    def __init__(self, program):
        self.connection, remote = socket.socketpair()
        command = [sys.executable, __file__, "--serve", str(remote.fileno()), program]
        self.server = subprocess.Popen(command, pass_fds=[remote.fileno()])
        remote.close()
        self.cpu, self.base_memory, self.peak_memory = 0.0, 0, 0

    def run(self, command, stdin, stdout, stderr, timeout):
        """Runs the program in a fork; the arguments are those of `subprocess.run`."""
        socket.send_fds(self.connection, [b"x"], [stdin.fileno(), stdout.fileno()])
        self.connection.settimeout(timeout)
        code, cpu, memory = struct.unpack("<qdq", self.connection.recv(24))
        self.cpu, self.peak_memory = self.cpu + cpu, max(self.peak_memory, memory)
        return subprocess.CompletedProcess(command, code)


def serve(number, program):
    """Runs the server process; each message passes a file to read and a file for the answer."""
    import runpy

    import h5py  # noqa: F401 - imported once for all forks

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
    """Reads files on request and answers with the outcome, memory and CPU seconds of each."""
    import flaxmodels as fm
    from flaxmodels.interop import hdf5

    hdf5.subprocess = server = ForkServer(hdf5.__file__)
    models = {path.stem: fm.load(path) for path in folder.glob("*.safetensors")}

    # Warm-up, so that no file is charged for programs that are compiled once.
    for path in folder.iterdir():
        read(path, path.name.split(".")[0], models)
    server.base_memory = server.peak_memory
    connection.send("ready")
    while True:
        try:
            path, stem = connection.recv()
        except EOFError:  # no more files
            return
        before, start = reset_peak(), time.process_time()
        server.cpu, server.peak_memory = 0.0, 0
        outcome = outcome_of(lambda path=path, stem=stem: read(path, stem, models))
        memory = peak() - before + max(0, server.peak_memory - server.base_memory)
        if memory > 3 * path.stat().st_size + EXTRA_MEMORY:
            outcome = f"memory: {memory / 2**20:.0f} MiB"
        seconds = time.process_time() - start + server.cpu
        connection.send(("slow" if seconds > MAX_CPU_SECONDS else outcome, memory, seconds))


def read(path, stem, models):
    """Reads a file; a weights file is read into the model named by `stem`."""
    import flaxmodels as fm
    from flaxmodels import interop

    if path.name.endswith(".weights.h5"):
        interop.load_keras_weights(path, *models[stem])
    else:
        (interop.load_keras if path.suffix == ".keras" else fm.load)(path)


def outcome_of(function):
    """Returns "read" or "refused" for a valid outcome, otherwise a description of the failure."""
    try:
        function()
    except (ValueError, TypeError, OSError) as error:
        text = str(error)
        return "refused" if text.endswith(".") and "\n" not in text else f"unclear message: {text!r}"[:300]
    except BaseException as error:
        return f"{type(error).__name__}: {str(error)!r}"[:300]
    return "read"


def reset_peak():
    """Resets this process' peak memory to its present memory, where supported (Linux); returns the peak."""
    try:
        pathlib.Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass
    return peak()


def peak():
    """Returns the peak memory of this process in bytes."""
    try:
        status = pathlib.Path("/proc/self/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) * 1024
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def cpu_time(process):
    """Returns the CPU seconds of a process, or the wall-clock time if the system does not report them."""
    try:
        fields = pathlib.Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except OSError:
        return time.monotonic()


class Worker:
    """A process that reads files, restarted after a crash or a hang."""

    def __init__(self, folder):
        self.folder, self.file = folder, None
        self.start()

    def start(self):
        """Starts the process and waits until it has read the valid files."""
        context = multiprocessing.get_context("spawn")
        self.connection, remote = context.Pipe()
        self.process = context.Process(target=work, args=(remote, self.folder), daemon=True)
        self.process.start()
        if not self.connection.poll(START_SECONDS) or self.connection.recv() != "ready":
            raise SystemExit("The process that reads the valid files did not start.")

    def send(self, file):
        """Sends a file to read."""
        self.file, self.start_time, self.start_cpu = file, time.monotonic(), cpu_time(self.process)
        self.connection.send((file.path, file.stem))

    def poll(self):
        """Returns outcome, memory and seconds of the current file, or None while it is being read."""
        elapsed = time.monotonic() - self.start_time
        try:
            if self.connection.poll(0.002):
                return self.connection.recv()
        except (EOFError, ConnectionError):
            self.process.join()
            return f"crash: code {self.process.exitcode}", 0, elapsed
        cpu_limit = elapsed > MAX_CPU_SECONDS and cpu_time(self.process) - self.start_cpu > MAX_CPU_SECONDS
        if elapsed > MAX_SECONDS or cpu_limit:
            self.process.kill()
            self.process.join()
            return "hang", 0, elapsed
        return None


File = collections.namedtuple("File", "path stem suffix damage is_retry", defaults=[False])


def damaged_files(count, seed, valid, folder):
    """Writes damaged copies of valid files and yields them."""
    contents = {path: path.read_bytes() for path in valid}
    for i in range(count):
        rng = random.Random(f"{seed}-{i}")
        source, damage = rng.choice(valid), rng.choice(DAMAGES)
        stem, suffix = source.name.split(".", 1)
        path = folder / f"{i}.{suffix}"
        others = [content for other, content in contents.items() if other != source]
        path.write_bytes(damage(rng, bytearray(contents[source]), others))
        yield File(path, stem, f".{suffix}", damage.__name__)


def main():
    """Reads all damaged files and prints a report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=int, nargs="?", default=20_000, help="number of damaged files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve is not None:
        return serve(*arguments.serve)
    kept = pathlib.Path("runs/fuzz")
    counts, failures, most_memory, slowest = collections.Counter(), [], 0, 0.0
    with tempfile.TemporaryDirectory() as valid_folder, tempfile.TemporaryDirectory() as folder:
        valid = valid_files(pathlib.Path(valid_folder))
        files = damaged_files(arguments.files, arguments.seed, valid, pathlib.Path(folder))
        workers = [Worker(pathlib.Path(valid_folder)) for _ in range(min(arguments.workers, arguments.files))]
        for worker in workers:
            worker.send(next(files))
        while busy := [worker for worker in workers if worker.file]:
            for worker in busy:
                answer = worker.poll()
                if answer is None:
                    continue
                (outcome, memory, seconds), file = answer, worker.file
                if outcome == "hang" or outcome.startswith("crash"):
                    worker.start()
                if outcome in ("hang", "slow") and not file.is_retry:
                    worker.send(file._replace(is_retry=True))
                    continue
                most_memory, slowest = max(most_memory, memory), max(slowest, seconds)
                counts[file.suffix, file.damage, re.split(r"[: ]", outcome)[0]] += 1
                if outcome not in ACCEPTED:
                    kept.mkdir(parents=True, exist_ok=True)
                    name = f"{file.stem}-{arguments.seed}-{file.path.name}"
                    file.path.replace(kept / name)
                    failures.append(f"{kept / name} ({file.damage}): {outcome}")
                else:
                    file.path.unlink()
                worker.file = None
                if file := next(files, None):
                    worker.send(file)
    report(counts, failures)
    cost = f"largest extra memory {most_memory / 2**20:.1f} MiB, slowest {slowest:.2f} CPU seconds"
    print(f"{sum(counts.values())} files; {cost}")
    sys.exit(bool(failures))


def report(counts, failures):
    """Prints a row for each format and damage, with a column for each outcome."""
    outcomes = [*ACCEPTED, *sorted({outcome for _, _, outcome in counts} - set(ACCEPTED))]
    print(f"{'format':14}{'damage':16}" + "".join(f"{outcome:>12}" for outcome in outcomes))
    for suffix, damage in sorted({key[:2] for key in counts}):
        print(f"{suffix:14}{damage:16}" + "".join(f"{counts[suffix, damage, outcome]:12}" for outcome in outcomes))
    for failure in failures:
        print(failure)


if __name__ == "__main__":
    main()
