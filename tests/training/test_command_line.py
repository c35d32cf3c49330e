"""The command line: its files, its output, its errors and interruptions."""

import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

import flaxmodels as fm
from training import __main__ as command_line
from training import datasets

COMMAND = ["fit", "rnn_classifier", "digits_sequence", "--option", "units=8"]


def run(capsys, monkeypatch, *args):
    """Runs a command in this process; returns its exit code, output and errors."""
    monkeypatch.setattr(sys, "argv", ["flaxmodels", *map(str, args)])
    code = 0
    try:
        command_line.main()
    except SystemExit as stop:
        code = stop.code or 0
    out = capsys.readouterr()
    return code, out.out, out.err


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Returns the folder and the output of a run of two epochs."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    command = ["fit", "rnn_classifier", "digits_sequence", "--epochs", "2", "--option", "units=8", "--out", str(folder)]
    done = subprocess.run([sys.executable, "-m", "training", *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_fit_writes_model_history_and_picture(finished):
    folder, printed = finished
    assert sorted(p.name for p in folder.iterdir()) == [
        "checkpoints",
        "curves.png",
        "history.csv",
        "history.json",
        "model.safetensors",
        "run.json",
    ]
    history = json.loads((folder / "history.json").read_text())
    assert list(history["history"]) == ["loss", "accuracy", "val_loss", "val_accuracy"]
    assert [line for line in printed.splitlines() if line.startswith("test accuracy ")]
    assert f"saved in {folder}/" in printed
    assert "training compiled in" in printed
    assert (folder / "curves.png").read_bytes()[:4] == b"\x89PNG"


def test_evaluate_and_predict_agree_with_the_history(finished, capsys, monkeypatch, tmp_path):
    folder, _ = finished
    last = json.loads((folder / "history.json").read_text())["history"]
    code, out, _ = run(capsys, monkeypatch, "evaluate", folder, "digits_sequence")
    results = dict(line.split() for line in out.splitlines())
    assert code == 0
    assert float(results["accuracy"]) == pytest.approx(last["val_accuracy"][-1], abs=1e-5)
    assert float(results["loss"]) == pytest.approx(last["val_loss"][-1], rel=1e-4)
    test = datasets.load("digits_sequence").test
    # Stored bytes and scaled numbers give the same predictions.
    for name, x in (("bytes", test.x), ("numbers", list(test)[0])):
        np.save(tmp_path / f"{name}.npy", x)
        code, out, _ = run(capsys, monkeypatch, "predict", folder, tmp_path / f"{name}.npy")
        assert code == 0
        outputs = np.load(tmp_path / f"{name}.predictions.npy")
        assert (outputs.argmax(-1) == test.y).mean() == pytest.approx(last["val_accuracy"][-1], abs=1e-6)


def test_forecaster_is_compared_with_the_last_value(capsys, monkeypatch, tmp_path):
    command = ["fit", "rnn_forecaster", "airline", "--epochs", "1", "--option", "units=4", "--option", "cell=gru"]
    code, out, err = run(capsys, monkeypatch, *command, "--out", tmp_path / "run")
    assert (code, err) == (0, "")
    assert "thousand passengers; forecasting the last value: 44.21" in out


def test_lists(capsys, monkeypatch):
    code, out, _ = run(capsys, monkeypatch, "models")
    assert (code, [line.split()[0] for line in out.splitlines()]) == (0, sorted(fm.models.MODELS))
    code, out, _ = run(capsys, monkeypatch, "datasets")
    assert (code, [line.split()[0] for line in out.splitlines()]) == (0, datasets.names())


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("fit simple_cnn", "Missing argument 'dataset'."),
        ("frobnicate", "No such command 'frobnicate'."),
        ("fit simple_cnn digits --epochs 0", "--epochs must be a positive integer, got 0; give 1 or more."),
        ("fit simple_cnn digits --batch-size 0", "--batch-size must be a positive integer, got 0; give 1 or more."),
        (
            "fit simple_cnx digits",
            "Unknown model 'simple_cnx'. Did you mean 'simple_cnn'? Known: 'functional_cnn', 'rnn_classifier', "
            "'rnn_forecaster', 'simple_cnn'.",
        ),
        (
            "fit simple_cnn digitz",
            "Unknown dataset 'digitz'. Did you mean 'digits'? Known: 'airline', 'digits', 'digits_sequence', "
            "'fashion_mnist', 'mnist'. Or pass arrays: fit(x, y).",
        ),
        (
            "fit simple_cnn digits --option cell",
            "`--option` must be key=value, got 'cell'; write, for example, cell=gru.",
        ),
        (
            "evaluate nowhere digits",
            "There is no model at nowhere; give the output folder of `fit`, or a model file.",
        ),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(command, sentence, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, monkeypatch, *command.split())
    assert (code, err) == (2, f"error: {sentence}\n")


def test_a_file_without_an_array_is_refused(finished, capsys, monkeypatch, tmp_path):
    (tmp_path / "x.npy").write_text("no array")
    code, _, err = run(capsys, monkeypatch, "predict", finished[0], tmp_path / "x.npy")
    assert code == 2
    assert err == (
        f"error: {tmp_path}/x.npy is not a .npy file of numbers; write one with numpy.save(file, array), where the "
        "array has the shape [N, ...] and a numeric dtype.\n"
    )


def test_an_archive_of_arrays_is_refused(finished, capsys, monkeypatch, tmp_path):
    np.savez(tmp_path / "x.npz", a=np.zeros(3), b=np.zeros(3))
    code, _, err = run(capsys, monkeypatch, "predict", finished[0], tmp_path / "x.npz")
    assert (code, err) == (
        2,
        f"error: {tmp_path}/x.npz is an archive of several arrays, got ['a', 'b']; write one with numpy.save.\n",
    )


def test_requested_and_absent_devices(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    command = ["evaluate", "nowhere", "digits"]
    missing = "error: There is no model at nowhere; give the output folder of `fit`, or a model file.\n"
    assert run(capsys, monkeypatch, *command, "--device", "cpu") == (2, "", missing)
    sentence = "error: Unknown device 'tpu'. Did you mean 'gpu'? Known: 'cpu', 'gpu'.\n"
    assert run(capsys, monkeypatch, *command, "--device", "tpu") == (2, "", sentence)
    absent = {"capture_output": True, "text": True, "env": os.environ | {"JAX_PLATFORMS": "abacus"}, "check": False}
    for more, error in (
        (["--device", "cpu"], re.escape(missing)),  # the option overrides the environment
        (
            [],
            r"error: JAX_PLATFORMS must name devices that JAX can use, got 'abacus' \(Unable to initialize backend 'abacus': "
            r".*\); name other devices, or unset it.\n",
        ),
    ):
        done = subprocess.run([sys.executable, "-m", "training", *command, *more], **absent)
        assert done.returncode == 2 and re.fullmatch(error, done.stderr)


@pytest.mark.filterwarnings("default::RuntimeWarning")
def test_a_damaged_checkpoint_is_reported_in_one_line(finished, capsys, monkeypatch, tmp_path):
    folder = shutil.copytree(finished[0], tmp_path / "run")
    for file in (folder / "checkpoints" / "2" / "arrays" / "d").iterdir():
        file.write_bytes(b"")
    code, out, err = run(capsys, monkeypatch, *COMMAND, "--epochs", "2", "--out", folder)
    assert code == 0 and out.count("Epoch ") == 1
    assert re.fullmatch(
        rf"warning: The checkpoint {folder}/checkpoints/2 is damaged \(.+\); the run continues from {folder}/checkpoints/1\.\n",
        err,
    )


def test_a_terminated_run_writes_its_history(tmp_path):
    folder = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "training", *COMMAND, "--epochs", "100000", "--out", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        for line in process.stdout:
            if line.startswith("Epoch 2/"):
                break
        process.terminate()
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 143
    history = json.loads((folder / "history.json").read_text())
    assert err.splitlines()[-1] == f"interrupted; the model of epoch {history['epoch'][-1] + 1} is in {folder}"


def test_help_imports_nothing_heavy():
    code = (
        "import sys; sys.argv = ['flaxmodels', '--help']\n"
        "from training.__main__ import main\n"
        "try: main()\n"
        "except SystemExit as stop: assert not stop.code\n"
        "heavy = {'jax', 'flax', 'optax', 'numpy', 'matplotlib', 'sklearn', 'tensorflow_datasets'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Train, evaluate and run models." in done.stdout


def test_interrupted_run_keeps_the_last_complete_epoch(tmp_path):
    folder = tmp_path / "run"
    command = [
        "fit",
        "rnn_classifier",
        "digits_sequence",
        "--epochs",
        "100000",
        "--option",
        "units=8",
        "--out",
        str(folder),
    ]
    # A background process of a shell ignores Ctrl-C, and so do its children.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); import training.__main__ as m; m.main()"
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", code, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        for line in process.stdout:
            if line.startswith("Epoch 3/"):
                break
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    history = json.loads((folder / "history.json").read_text())
    saved, last = err.splitlines()
    assert re.fullmatch(rf"saved at epoch \d+, step \d+, in {re.escape(str(folder))}/checkpoints", saved)
    assert last == f"interrupted; the model of epoch {history['epoch'][-1] + 1} is in {folder}"
    model, variables = fm.load(folder / "model.safetensors")
    x, _ = datasets.load("digits_sequence").test
    assert np.isfinite(model.apply(variables, x)).all()
    assert not [p for p in pathlib.Path(folder).iterdir() if p.name.startswith(".")]
    # Repeated with fewer epochs, the command resumes: completed epochs are not run again.
    command[command.index("100000")] = str(history["epoch"][-1] + 2)
    done = subprocess.run([sys.executable, "-m", "training", *command], capture_output=True, text=True, check=True)
    again = json.loads((folder / "history.json").read_text())
    assert again["epoch"] == list(range(history["epoch"][-1] + 2))
    assert again["history"]["loss"][: len(history["epoch"])] == history["history"]["loss"]
    assert done.stdout.count("Epoch ") <= 2
    command[command.index("units=8")] = "units=9"
    other = subprocess.run([sys.executable, "-m", "training", *command], capture_output=True, text=True, check=False)
    assert other.returncode == 2 and other.stderr == (
        f"error: {folder} contains a run with options ['units=8'], got ['units=9']; choose another --out, or start "
        "over with --no-resume.\n"
    )
    restarted = subprocess.run(
        [sys.executable, "-m", "training", *command, "--no-resume", "--epochs", "1"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Epoch 1/1" in restarted.stdout


@pytest.fixture(autouse=True)
def _cache_of_the_tests(monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(pathlib.Path(__file__).parents[2] / ".cache" / "jax"))
