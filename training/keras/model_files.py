"""Files and descriptions of Keras' models."""

import json
import os
import warnings
from collections.abc import Callable
from typing import Any

import flaxmodels as fm
from flaxmodels import building, files, saving
from flaxmodels.interop import keras_config
from training.keras import convert, stateful
from training.keras.layers import stateful_class
from training.keras.stateful import Stateful, ensure_initialized, gather, scatter


class SavedModel(Stateful):
    """Mixin of models: writes them to files and describes them."""

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments, which are the layers and their calls for a Sequential or functional model.

        References:
            Keras, `keras.Model.get_config`.
        """
        if isinstance(self, building.Sequential) or getattr(self, "graph", None) is not None:
            described: Any = keras_config.to_keras(convert.to_pure(self))
            return described["config"]  # type: ignore[no-any-return]
        return super().get_config()  # type: ignore[misc, no-any-return]

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        """Returns a model with new weights from the result of `get_config`.

        References:
            Keras, `keras.Model.from_config`.
        """
        if "layers" not in config or "adds_state_to" not in vars(cls):
            return super().from_config(config)  # type: ignore[misc]
        kind = "Sequential" if issubclass(cls, building.Sequential) else "Functional"
        described = keras_config.from_keras({"module": "keras", "class_name": kind, "config": config})
        return convert.rebuild(saving.from_config(described), stateful_class)

    def to_json(self, **options: Any) -> str:
        """Returns the architecture as JSON text that Keras can read.

        References:
            Keras, `keras.Model.to_json`.
        """
        return json.dumps(keras_config.to_keras(convert.to_pure(self)), **options)

    def save(self, filepath: str | os.PathLike[str], overwrite: bool = True, zipped: bool | None = None) -> None:
        """Writes the model and its weights to one file, `.keras` or `.safetensors`.

        Raises:
            ValueError: If `zipped` is False, because a model is one file.

        References:
            Keras, `keras.Model.save`.
        """
        if zipped is False:
            raise ValueError("`zipped` must be True, because a model is one file, got False; leave it out.")
        _check_overwrite(filepath, overwrite)
        ensure_initialized(self)
        files.save(filepath, convert.to_pure(self), gather(self))

    def save_weights(self, filepath: str | os.PathLike[str], overwrite: bool = True) -> None:
        """Writes the weights to a file, `.weights.h5` or `.safetensors`.

        References:
            Keras, `keras.Model.save_weights`.
        """
        _check_overwrite(filepath, overwrite)
        ensure_initialized(self)
        files.save(filepath, convert.to_pure(self), gather(self), architecture=False)

    def load_weights(self, filepath: str | os.PathLike[str]) -> None:
        """Reads the weights from a file that `save_weights` or Keras wrote.

        References:
            Keras, `keras.Model.load_weights`.
        """
        ensure_initialized(self)
        path = os.fspath(filepath)
        if path.endswith(".safetensors"):
            values = fm.load_weights(path, gather(self))
        else:
            values = fm.interop.load_keras_weights(path, convert.to_pure(self), gather(self))
        scatter(self, values)
        stateful.push()


def _check_overwrite(path: str | os.PathLike[str], overwrite: bool) -> None:
    if not overwrite and os.path.exists(path):
        raise ValueError(f"The file {os.fspath(path)!r} exists already; give another name, or overwrite=True.")


def load_model(
    filepath: str | os.PathLike[str], custom_objects: Any = None, compile: bool = True, safe_mode: bool = True
) -> Any:  # noqa: A002
    """Returns the model of a file that `save` or Keras wrote; call `compile` before training it.

    Args:
        filepath: The file.
        custom_objects: Has no effect, with a warning: files never name code.
        compile: Has no effect: files of this library hold no arguments of `compile`.
        safe_mode: Has no effect, with a warning if it is False: loading never runs code.

    References:
        Keras, `keras.saving.load_model`.
    """
    if custom_objects or not safe_mode:
        warnings.warn(
            "`custom_objects` and `safe_mode` of load_model have no effect, because files never run code; build "
            "models with custom classes in the program and call load_weights.",
            stacklevel=2,
        )
    model, variables = fm.load(filepath)
    made = convert.rebuild(model, stateful_class)
    scatter(made, variables)
    return made


def save_model(
    model: Any, filepath: str | os.PathLike[str], overwrite: bool = True, zipped: bool | None = None
) -> None:
    """Writes a model and its weights to one file; see `Model.save`.

    References:
        Keras, `keras.saving.save_model`.
    """
    model.save(filepath, overwrite, zipped)


def clone_model(model: Any, input_tensors: Any = None, clone_function: Callable[[Any], Any] | None = None) -> Any:
    """Returns a model of the same architecture with new weights.

    Args:
        model: A Sequential or functional model.
        input_tensors: Only None: the copy has inputs like those of the model.
        clone_function: Returns the copy of a layer; by default one with the same arguments and name.

    References:
        Keras, `keras.models.clone_model`.
    """
    if input_tensors is not None:
        raise ValueError("`input_tensors` of clone_model must be None, got symbols; call the copy on them instead.")
    return convert.clone(model, stateful_class, clone_function)


def model_from_json(json_string: str, custom_objects: Any = None) -> Any:
    """Returns the model that `to_json` described, with new weights.

    Args:
        json_string: The text.
        custom_objects: Has no effect, with a warning: descriptions never name code.

    References:
        Keras, `keras.models.model_from_json`.
    """
    if custom_objects:
        warnings.warn("`custom_objects` of model_from_json has no effect; use only built-in layers.", stacklevel=2)
    config = keras_config.from_keras(json.loads(json_string))
    return convert.rebuild(saving.from_config(config), stateful_class)
