"""The command line: `python -m training fit simple_cnn digits`.

Nothing heavy is imported before a command runs, so that `--help` answers at once.
"""

import json
import pathlib
import sys
from typing import Annotated, Any

import typer

app = typer.Typer(
    help="Trains, evaluates and runs models.",
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
    learning_rate: Annotated[float | None, typer.Option(help="Its learning rate; by default Keras'.")] = None,
    loss: Annotated[str | None, typer.Option(help="Name of a loss; by default what suits the dataset.")] = None,
    option: Annotated[list[str] | None, typer.Option(help="An argument of the model, cell=gru; repeatable.")] = None,
    seed: Annotated[int, typer.Option(help="Decides initialization, shuffling and dropout.")] = 0,
    raw_dir: Annotated[pathlib.Path | None, typer.Option(help="Folder with the dataset's original files.")] = None,
    out: Annotated[pathlib.Path | None, typer.Option(help="Folder of the run; by default runs/MODEL-DATASET.")] = None,
    resume: Annotated[bool, typer.Option(help="Go on where the run in the folder stopped, or begin anew.")] = True,
    device: Annotated[str | None, typer.Option(help="cpu or gpu; by default the GPU if there is one.")] = None,
) -> None:
    """Train a model on a dataset; leave model, history and curves in a folder, or go on with what is there."""
    import jax

    from flaxmodels import kernels_info
    from training import datasets, report
    from training.callbacks import ModelCheckpoint
    from training.trainer import Trainer

    _use(device)

    _at_least_one(epochs=epochs, batch_size=batch_size)
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
    saved = ModelCheckpoint(folder / MODEL_FILE)
    ended: BaseException | None = None
    try:
        trainer.fit(
            data.train,
            batch_size=batch_size,
            epochs=epochs,
            validation_data=data.test,
            callbacks=[saved],
            resume=checkpoints,
        )
    except (KeyboardInterrupt, SystemExit) as end:
        ended = end
    history = trainer.history
    if history.epoch:
        report.write(folder, history, f"{model} on {dataset}")
    if ended is not None:
        done = (
            f"the model of epoch {history.epoch[-1] + 1} is in {folder}" if history.epoch else "no epoch was complete"
        )
        print(f"interrupted; {done}", file=sys.stderr)
        raise typer.Exit(130) if isinstance(ended, KeyboardInterrupt) else ended
    _tell(data, trainer, history)
    print(f"saved in {folder}/: {MODEL_FILE}, history.csv, history.json, curves.png")


def _checkpoints(folder: pathlib.Path, run: dict[str, Any], resume: bool) -> Any:
    """Where a run is saved, after a look whether what is there is the same run."""
    import shutil

    from training.checkpoints import Checkpoints

    notes = folder / RUN_FILE
    goes_on = resume and notes.is_file() and (folder / CHECKPOINTS).is_dir()
    checkpoints = Checkpoints(folder / CHECKPOINTS, minutes=5)
    with checkpoints:  # nothing is touched while another process runs here
        before = _run_in(notes) if goes_on else {}
        for name, value in run.items() if goes_on else ():
            if before.get(name) != value:
                raise ValueError(
                    f"{folder} holds a run with {name} {before.get(name)!r}, got {value!r}; "
                    "choose another --out, or begin anew with --no-resume."
                )
        for path in [] if resume else (folder / CHECKPOINTS).iterdir():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name != "lock":
                path.unlink()
        # Whole or not at all, as a process may be killed at any moment.
        written = notes.with_name(f".{RUN_FILE}")
        written.write_text(json.dumps(run, indent=1) + "\n")
        written.replace(notes)
    return checkpoints


def _run_in(notes: pathlib.Path) -> dict[str, Any]:
    """What a folder says of its run."""
    try:
        before = json.loads(notes.read_text())
    except ValueError:
        before = None
    if not isinstance(before, dict):
        raise ValueError(f"{notes} is damaged; begin anew with --no-resume, or choose another --out.")
    return before


def _tell(data: Any, trainer: Any, history: Any) -> None:
    last = {name: values[-1] for name, values in history.history.items() if name.startswith("val_")}
    if data.info.num_classes:
        print(f"test accuracy {last['val_accuracy']:.4f}  test loss {last['val_loss']:.4f}")
        return
    import numpy as np

    x, y = data.test
    truth = data.info.restore(y)
    error = np.abs(data.info.restore(trainer.predict(x)) - truth).mean()
    naive = np.abs(data.info.restore(x[:, -1]) - truth).mean()
    print(f"test error {error:.4g} {data.info.unit}; forecasting the last value: {naive:.4g}")


@app.command()
def evaluate(
    run: Annotated[pathlib.Path, typer.Argument(help="Folder of a run, or a model file.")],
    dataset: Annotated[str, typer.Argument(help="Name of a dataset.")],
    loss: Annotated[str | None, typer.Option(help="Name of a loss; by default what suits the dataset.")] = None,
    batch_size: Annotated[int, typer.Option(help="Examples in a step.")] = 128,
    raw_dir: Annotated[pathlib.Path | None, typer.Option(help="Folder with the dataset's original files.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or gpu; by default the GPU if there is one.")] = None,
) -> None:
    """Evaluate a trained model on the test part of a dataset."""
    from flaxmodels import files
    from training import datasets
    from training.trainer import Trainer

    _use(device)
    _at_least_one(batch_size=batch_size)
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
    out: Annotated[pathlib.Path | None, typer.Option(help="Where to; by default FILE.predictions.npy.")] = None,
    batch_size: Annotated[int, typer.Option(help="Examples in a step.")] = 128,
    device: Annotated[str | None, typer.Option(help="cpu or gpu; by default the GPU if there is one.")] = None,
) -> None:
    """Compute a trained model's outputs for the inputs in a .npy file."""
    import numpy as np

    from flaxmodels import files
    from training.data.examples import Examples, as_examples
    from training.trainer import Trainer

    _use(device)
    _at_least_one(batch_size=batch_size)
    model, variables = files.load(_model_file(run))
    try:
        inputs = np.load(file, allow_pickle=False)
    except (ValueError, EOFError) as error:
        # NumPy's own text recommends to load what runs code.
        raise ValueError(
            f"{file} is not a .npy file of numbers; write one with numpy.save(file, array), where the array has the "
            "shape [N, ...] and a numeric dtype."
        ) from error
    if not isinstance(inputs, np.ndarray):
        raise ValueError(f"{file} is an archive of several arrays, got {inputs.files}; write one with numpy.save.")
    data = as_examples(inputs)
    notes = run / RUN_FILE
    if inputs.dtype == np.uint8 and notes.is_file():
        # Stored images are bytes; the run knows by which factor it trained on them.
        data = Examples(data.x, scale=float(_run_in(notes).get("scale", 1.0)))
    outputs = Trainer(model, variables=variables).predict(data, batch_size=batch_size)
    target = out or file.with_suffix(".predictions.npy")
    np.save(target, outputs)
    print(f"{len(outputs)} predictions of shape {outputs.shape} in {target}")


@app.command()
def models() -> None:
    """List the models."""
    from flaxmodels.models import MODELS

    _list({name: _first_line(builder) for name, builder in sorted(MODELS.items())})


@app.command()
def datasets() -> None:
    """List the datasets."""
    from training import datasets as all_datasets

    _list({name: _first_line(all_datasets.DATASETS[name]) for name in all_datasets.names()})


def _list(rows: dict[str, str]) -> None:
    width = max(map(len, rows))
    for name, text in rows.items():
        print(f"{name:{width}}  {text}")


def _first_line(documented: Any) -> str:
    return (documented.__doc__ or "").splitlines()[0]


def _optimizer(name: str, learning_rate: float | None) -> Any:
    from flaxmodels.names import lookup
    from training import optimizers

    if learning_rate is None:
        return optimizers.get(name)
    return lookup("optimizer", name.lower(), optimizers.OPTIMIZERS)(learning_rate=learning_rate)


def _build(name: str, data: Any, options: list[str]) -> Any:
    from flaxmodels import models as all_models

    arguments = {}
    for option in options:
        key, separator, value = option.partition("=")
        if not separator or not key:
            raise ValueError(f"An option of a model is written key=value, got {option!r}; for example cell=gru.")
        arguments[key] = _value(value)
    builder = all_models.get(name)
    outputs = data.info.num_classes or data.train.y.shape[-1]
    try:
        return builder(data.info.input_shape, outputs, **arguments)
    except TypeError as error:
        raise ValueError(f"{name} can't be built for {data.info.name} with {arguments}: {error}.") from error


def _value(text: str) -> Any:
    """A number, true, false, null or a list as JSON writes them; else the text itself."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return tuple(value) if isinstance(value, list) else value


def _model_file(run: pathlib.Path) -> pathlib.Path:
    path = run / MODEL_FILE if run.is_dir() else run
    if not path.is_file():
        raise ValueError(f"There is no model at {path}; give the folder that `fit` wrote, or a model file.")
    return path


def _use(device: str | None) -> None:
    """Has everything run on this kind of device, by default a GPU if there is one; keeps programs and memory."""
    import jax

    from flaxmodels.names import lookup
    from training.cache import compilation_cache, keep_memory

    if device is not None:
        lookup("device", device, dict.fromkeys(DEVICES))
    if device == "cpu":
        jax.config.update("jax_platforms", "cpu")
    try:
        found = jax.default_backend()
    except (RuntimeError, AssertionError) as error:  # the latter where JAX has no code for the device
        reason = (str(error).splitlines() or ["it has no code for them"])[0]
        named = jax.config.values["jax_platforms"]
        raise ValueError(
            f"JAX_PLATFORMS names the devices to use, got {named!r}, and JAX can't use them ({reason}); "
            "name others, or unset it."
        ) from error
    if device == "gpu" and found != "gpu":
        raise ValueError(
            f"--device gpu needs a GPU that JAX finds, got only {found!r}; install jax[cuda13] where there is one, or "
            "use --device cpu."
        )
    compilation_cache()
    keep_memory()


def _at_least_one(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"--{name.replace('_', '-')} is a positive integer, got {value}; give 1 or more.")


def _warn(message: Any, *where: Any, **more: Any) -> None:
    print(f"warning: {' '.join(str(message).split())}", file=sys.stderr)


def main() -> None:
    """Runs the command line; a mistake of the user is one line and exit code 2, a warning one line."""
    import warnings

    warnings.showwarning = _warn
    try:
        code = app(standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except (ValueError, TypeError, OSError) as error:
        sentence = str(error)
        if isinstance(error, OSError) and error.errno and error.filename:
            sentence = f"{error.filename} can't be read or written ({error.strerror}); choose another place."
        print(f"error: {' '.join(sentence.split())}", file=sys.stderr)
        sys.exit(2)
    except Exception as error:
        # Typer's own errors of usage know their exit code and how to show themselves.
        if not hasattr(error, "exit_code") or not hasattr(error, "format_message"):
            raise
        print(f"error: {error.format_message()}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
