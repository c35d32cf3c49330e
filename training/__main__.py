"""The command line: `flaxmodels fit simple_cnn digits`, or `python -m training fit simple_cnn digits`.

Each command imports what it needs, so that `--help` answers at once.
"""

import json
import pathlib
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from flaxmodels.extras import DISTRIBUTION, require_extra

require_extra("typer", "The command line needs")
import typer  # noqa: E402 - after the check

if TYPE_CHECKING:
    import optax

    from flaxmodels.building import Model, Sequential
    from training.checkpoints import Checkpoints
    from training.datasets import Dataset
    from training.trainer import Trainer

app = typer.Typer(
    help="Train, evaluate and run models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

DEVICES = ("cpu", "gpu")
MODEL_FILE, RUN_FILE, CHECKPOINTS = "model.safetensors", "run.json", "checkpoints"


@app.command()
def fit(
    model: Annotated[str, typer.Argument(help="Name of a model; `models` lists them.")],
    dataset: Annotated[str, typer.Argument(help="Name of a dataset; `datasets` lists them.")],
    epochs: Annotated[int, typer.Option(help="Number of epochs.")] = 12,
    batch_size: Annotated[int, typer.Option(help="Examples in a step.")] = 128,
    optimizer: Annotated[str, typer.Option(help="Name of an optimizer.")] = "adam",
    learning_rate: Annotated[
        float | None, typer.Option(help="Learning rate of the optimizer; by default Keras' default.")
    ] = None,
    loss: Annotated[str | None, typer.Option(help="Name of a loss; by default one that suits the dataset.")] = None,
    option: Annotated[
        list[str] | None, typer.Option(help="An argument of the model, such as cell=gru; repeatable.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of initialization, shuffling and dropout.")] = 0,
    raw_dir: Annotated[pathlib.Path | None, typer.Option(help="Folder with the dataset's original files.")] = None,
    out: Annotated[pathlib.Path | None, typer.Option(help="Folder of the run; by default runs/MODEL-DATASET.")] = None,
    resume: Annotated[
        bool, typer.Option(help="Resume the interrupted run in the folder; with --no-resume, start over.")
    ] = True,
    device: Annotated[str | None, typer.Option(help="cpu or gpu; by default the GPU if there is one.")] = None,
) -> None:
    """Train a model on a dataset, and save model, history and curves in a folder; resume an interrupted run."""
    import jax

    from flaxmodels import kernels_info
    from training import datasets, report
    from training.callbacks import ModelCheckpoint
    from training.trainer import Trainer

    _set_up_device(device)
    _check_positive(epochs=epochs, batch_size=batch_size)
    data = datasets.load(dataset, raw_dir=raw_dir)
    classes = data.info.num_classes
    folder = out or pathlib.Path("runs") / f"{model}-{dataset}"
    trainer = Trainer(
        _build(model, data, option or []),
        optimizer=_optimizer(optimizer, learning_rate),
        loss=loss or ("categorical_crossentropy" if classes else "mse"),
        metrics=["accuracy"] if classes else ["mae"],
        seed=seed,
    )
    folder.mkdir(parents=True, exist_ok=True)
    trainer.model.summary()
    print(f"{dataset}: {len(data.train)} examples to train, {len(data.test)} to test")
    if jax.default_backend() == "cpu":
        print(kernels_info())
    run = {"model": model, "options": option or [], "dataset": dataset, "scale": data.train.scale, "seed": seed}
    run |= {"optimizer": optimizer, "learning_rate": learning_rate, "loss": trainer.loss}
    checkpoints = _checkpoints(folder, run, resume)
    # The model of the last complete epoch is on disk whenever the run is interrupted.
    save_model = ModelCheckpoint(folder / MODEL_FILE)
    interruption: BaseException | None = None
    try:
        trainer.fit(
            data.train,
            batch_size=batch_size,
            epochs=epochs,
            validation_data=data.test,
            callbacks=[save_model],
            resume=checkpoints,
        )
    except (KeyboardInterrupt, SystemExit) as error:
        interruption = error
    history = trainer.history
    if history.epoch:
        report.write(folder, history, f"{model} on {dataset}")
    if interruption is not None:
        outcome = (
            f"the model of epoch {history.epoch[-1] + 1} is in {folder}" if history.epoch else "no epoch was complete"
        )
        print(f"interrupted; {outcome}", file=sys.stderr)
        raise typer.Exit(130) if isinstance(interruption, KeyboardInterrupt) else interruption
    _print_result(data, trainer)
    print(f"saved in {folder}/: {MODEL_FILE}, history.csv, history.json, curves.png")


def _checkpoints(folder: pathlib.Path, run: Mapping[str, object], resume: bool) -> "Checkpoints":
    """Returns the checkpoints of a run, and checks that those in the folder belong to the same run."""
    import shutil

    from training.checkpoints import Checkpoints

    notes = folder / RUN_FILE
    resumes = resume and notes.is_file() and (folder / CHECKPOINTS).is_dir()
    checkpoints = Checkpoints(folder / CHECKPOINTS, minutes=5)
    with checkpoints:  # raises if another process uses the folder
        before = _read_run(notes) if resumes else {}
        for name, value in run.items() if resumes else ():
            if before.get(name) != value:
                raise ValueError(
                    f"{folder} contains a run with {name} {before.get(name)!r}, got {value!r}; choose another --out, "
                    "or start over with --no-resume."
                )
        for path in [] if resume else (folder / CHECKPOINTS).iterdir():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name != "lock":
                path.unlink()
        # The process may be killed while it writes.
        written = notes.with_name(f".{RUN_FILE}")
        written.write_text(json.dumps(run, indent=1) + "\n")
        written.replace(notes)
    return checkpoints


def _read_run(notes: pathlib.Path) -> dict[str, Any]:
    """Returns the description of the run in a folder."""
    try:
        before = json.loads(notes.read_text())
    except ValueError:
        before = None
    if not isinstance(before, dict):
        raise ValueError(f"{notes} is damaged; start over with --no-resume, or choose another --out.")
    return before


def _print_result(data: "Dataset", trainer: "Trainer") -> None:
    last = {name: values[-1] for name, values in trainer.history.history.items() if name.startswith("val_")}
    if data.info.num_classes:
        print(f"test accuracy {last['val_accuracy']:.4f}  test loss {last['val_loss']:.4f}")
        return
    import numpy as np

    x, y = data.test
    targets = data.info.restore(y)
    error = np.abs(data.info.restore(trainer.predict(x)) - targets).mean()
    naive = np.abs(data.info.restore(x[:, -1]) - targets).mean()
    print(f"test error {error:.4g} {data.info.unit}; forecasting the last value: {naive:.4g}")


@app.command()
def evaluate(
    run: Annotated[pathlib.Path, typer.Argument(help="Folder of a run, or a model file.")],
    dataset: Annotated[str, typer.Argument(help="Name of a dataset.")],
    loss: Annotated[str | None, typer.Option(help="Name of a loss; by default one that suits the dataset.")] = None,
    batch_size: Annotated[int, typer.Option(help="Examples in a step.")] = 128,
    raw_dir: Annotated[pathlib.Path | None, typer.Option(help="Folder with the dataset's original files.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or gpu; by default the GPU if there is one.")] = None,
) -> None:
    """Evaluate a trained model on the test part of a dataset."""
    from flaxmodels import files
    from training import datasets
    from training.trainer import Trainer

    _set_up_device(device)
    _check_positive(batch_size=batch_size)
    model, variables = files.load(_model_file(run))
    data = datasets.load(dataset, raw_dir=raw_dir)
    classes = data.info.num_classes
    trainer = Trainer(
        model,
        loss=loss or ("categorical_crossentropy" if classes else "mse"),
        metrics=["accuracy"] if classes else ["mae"],
        variables=variables,
    )
    for name, value in trainer.evaluate(data.test, batch_size=batch_size).items():
        print(f"{name} {value:.6g}")


@app.command()
def predict(
    run: Annotated[pathlib.Path, typer.Argument(help="Folder of a run, or a model file.")],
    file: Annotated[pathlib.Path, typer.Argument(help="A .npy file of inputs [N, ...].")],
    out: Annotated[pathlib.Path | None, typer.Option(help="File to write; by default FILE.predictions.npy.")] = None,
    batch_size: Annotated[int, typer.Option(help="Examples in a step.")] = 128,
    device: Annotated[str | None, typer.Option(help="cpu or gpu; by default the GPU if there is one.")] = None,
) -> None:
    """Compute a trained model's outputs for the inputs in a .npy file."""
    import numpy as np

    from flaxmodels import files
    from training.data.examples import Examples, as_examples
    from training.trainer import Trainer

    _set_up_device(device)
    _check_positive(batch_size=batch_size)
    model, variables = files.load(_model_file(run))
    try:
        inputs = np.load(file, allow_pickle=False)
    except (ValueError, EOFError) as error:
        # NumPy's error recommends an option that lets a file run code.
        raise ValueError(
            f"{file} is not a .npy file of numbers; write one with numpy.save(file, array), where the array has the "
            "shape [N, ...] and a numeric dtype."
        ) from error
    if not isinstance(inputs, np.ndarray):
        raise ValueError(f"{file} is an archive of several arrays, got {inputs.files}; write one with numpy.save.")
    data = as_examples(inputs)
    notes = run / RUN_FILE
    if inputs.dtype == np.uint8 and notes.is_file():
        # Images are stored as bytes; the run notes the factor by which they were scaled for training.
        data = Examples(data.x, scale=float(_read_run(notes).get("scale", 1.0)))
    outputs = Trainer(model, variables=variables).predict(data, batch_size=batch_size)
    target = out or file.with_suffix(".predictions.npy")
    np.save(target, outputs)
    print(f"{len(outputs)} predictions of shape {outputs.shape} saved in {target}")


@app.command()
def models() -> None:
    """List the models."""
    from flaxmodels.models import MODELS

    _print_table({name: _first_line(builder) for name, builder in sorted(MODELS.items())})


@app.command()
def datasets() -> None:
    """List the datasets."""
    from training import datasets as all_datasets

    _print_table({name: _first_line(all_datasets.DATASETS[name]) for name in all_datasets.names()})


def _print_table(rows: dict[str, str]) -> None:
    width = max(map(len, rows))
    for name, text in rows.items():
        print(f"{name:{width}}  {text}")


def _first_line(documented: object) -> str:
    """Returns the first line of a docstring as the description of a result: "Returns a model" becomes "A model"."""
    line = (documented.__doc__ or "").splitlines()[0].removeprefix("Returns ")
    return line[:1].upper() + line[1:]


def _optimizer(name: str, learning_rate: float | None) -> "optax.GradientTransformation":
    from flaxmodels.names import lookup
    from training import optimizers

    if learning_rate is None:
        return optimizers.get(name)
    return lookup("optimizer", name.lower(), optimizers.OPTIMIZERS)(learning_rate=learning_rate)


def _build(name: str, data: "Dataset", options: list[str]) -> "Sequential | Model":
    from flaxmodels import models as all_models

    arguments = {}
    for option in options:
        key, separator, value = option.partition("=")
        if not separator or not key:
            raise ValueError(f"`--option` must be key=value, got {option!r}; write, for example, cell=gru.")
        arguments[key] = _value(value)
    builder = all_models.get(name)
    outputs = data.info.num_classes or data.train.y.shape[-1]
    try:
        return builder(data.info.input_shape, outputs, **arguments)
    except TypeError as error:
        raise ValueError(f"{name} can't be built for {data.info.name} with {arguments}: {error}.") from error


def _value(text: str) -> object:
    """Returns the value of a text that is valid JSON, such as 3, true or [1, 2], and any other text unchanged."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return tuple(value) if isinstance(value, list) else value


def _model_file(run: pathlib.Path) -> pathlib.Path:
    path = run / MODEL_FILE if run.is_dir() else run
    if not path.is_file():
        raise ValueError(f"There is no model at {path}; give the output folder of `fit`, or a model file.")
    return path


def _set_up_device(device: str | None) -> None:
    """Selects the kind of device, by default a GPU if there is one, and keeps compiled programs and heap memory."""
    import jax

    from flaxmodels.names import lookup
    from training.cache import compilation_cache
    from training.memory import retain_heap

    if device is not None:
        lookup("device", device, dict.fromkeys(DEVICES))
    if device == "cpu":
        jax.config.update("jax_platforms", "cpu")
    try:
        backend = jax.default_backend()
    except (RuntimeError, AssertionError) as error:  # AssertionError if this jaxlib lacks the device
        reason = (str(error).splitlines() or ["this jaxlib does not support them"])[0]
        platforms = jax.config.values["jax_platforms"]
        raise ValueError(
            f"JAX_PLATFORMS must name devices that JAX can use, got {platforms!r} ({reason}); name other devices, or "
            "unset it."
        ) from error
    if device == "gpu" and backend != "gpu":
        raise ValueError(
            f"--device gpu needs a GPU that JAX can use, got only {backend!r}; run pip install "
            f"'{DISTRIBUTION}[cuda]' on a machine with an NVIDIA GPU, or use --device cpu."
        )
    compilation_cache()
    retain_heap()


def _check_positive(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be a positive integer, got {value}; give 1 or more.")


def _print_warning(message: object, *where: object, **more: object) -> None:
    print(f"warning: {' '.join(str(message).split())}", file=sys.stderr)


def main() -> None:
    """Runs the command line. User errors and warnings are printed on one line each; user errors exit with code 2."""
    import warnings

    warnings.showwarning = _print_warning
    try:
        code = app(standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except (ValueError, TypeError, OSError) as error:
        sentence = str(error)
        if isinstance(error, OSError) and error.errno and error.filename:
            sentence = f"{error.filename} can't be read or written ({error.strerror}); choose another path."
        print(f"error: {' '.join(sentence.split())}", file=sys.stderr)
        sys.exit(2)
    except Exception as error:
        # Usage errors of typer have an exit code and a message.
        if not hasattr(error, "exit_code") or not hasattr(error, "format_message"):
            raise
        print(f"error: {error.format_message()}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
