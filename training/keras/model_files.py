"""Files and descriptions of Keras' models."""

import importlib.util
import json
import os
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import traverse_util
from jax import export

from flaxmodels import building, files, formats, saving
from flaxmodels.interop import hdf5, keras_config, keras_files
from flaxmodels.layers import keras_state
from flaxmodels.layers.base import Layer
from flaxmodels.layers.keras_calls import symbols_of
from flaxmodels.layers.symbolic import Symbol
from flaxmodels.saving import custom, sharing
from flaxmodels.saving.format import Json
from flaxmodels.trees import Tree
from training.keras import compile_arguments, convert, held_values, initialization
from training.keras.compiled import CompiledModel
from training.keras.custom_objects import ProgramObjects
from training.keras.held_values import gather, has_values, scatter
from training.keras.initialization import ensure_initialized
from training.keras.layer_configs import describe, from_description
from training.keras.layers import stateful_class
from training.keras.own_variables import has_own_store, store_of
from training.keras.registry import CustomObjects
from training.keras.serialization import serialize_keras_object
from training.state import ArrayOrShapeTree

Path = str | os.PathLike[str]
# Arguments of any kind by name, as constructors take them.
Config = dict[str, Any]
EXPORTS_OF_KERAS = ("tf_saved_model", "onnx", "openvino", "litert", "torch")


class SavedModel(CompiledModel):
    """Mixin of models: writes them to files and describes them."""

    # ------------------------------------------------------------ configurations

    def get_config(self) -> Config:
        """Returns the arguments, which are the layers and their calls for a Sequential or functional model.

        References:
            Keras, `keras.Model.get_config`.
        """
        if not _has_layers(self) or getattr(type(self).__init__, "is_users", False):
            config = super().get_config()
            return {name: value for name, value in config.items() if name not in ("inputs", "outputs", "layers")}
        with custom.using(ProgramObjects()):
            described: Config = keras_config.to_keras(convert.to_library(self), shares=False)
        return described["config"]

    @classmethod
    def from_config(cls, config: Config, custom_objects: CustomObjects = None) -> Any:
        """Returns a model with new weights from the result of `get_config`.

        Args:
            config: The result of `get_config`.
            custom_objects: Classes and functions by name, in addition to the registered ones.

        References:
            Keras, `keras.Model.from_config`.
        """
        if "layers" not in config or getattr(cls.__init__, "is_users", False):
            return super().from_config(config)
        is_stack = issubclass(cls, building.Sequential)
        described = {"module": "keras", "class_name": "Sequential" if is_stack else "Functional", "config": config}
        made = _from_keras(described, custom_objects)
        if "adds_state_to" in vars(cls):
            return made
        made_of: Any = cls  # a class of the user that adds methods
        if not is_stack:
            return made_of(made.graph.inputs, made.graph.outputs, name=made.name)
        source = made.layers.source
        return made_of([*([] if source is None else [source]), *made.layers], name=made.name)

    def to_json(self, **options: Any) -> str:
        """Returns the architecture and the arguments of `compile` as JSON text that Keras can read.

        References:
            Keras, `keras.Model.to_json`.
        """
        described = describe(self)
        compiled = compile_arguments.describe_or_warn(self, "to_json") if self.compiled else None
        return json.dumps(described | ({"compile_config": compiled} if compiled else {}), **options)

    def get_compile_config(self) -> Config:
        """Returns the arguments of `compile` as plain values; an empty dictionary if it was not called.

        Raises:
            ValueError: If only code can describe an argument.

        References:
            Keras, `keras.Model.get_compile_config`.
        """
        return compile_arguments.describe(self) if self.compiled else {}

    def compile_from_config(self, config: Config) -> None:
        """Calls `compile` with the arguments that `get_compile_config` returned.

        References:
            Keras, `keras.Model.compile_from_config`.
        """
        self._compile_from(config, None)

    def _compile_from(self, config: Config, custom_objects: CustomObjects) -> None:
        compile_method: Any = type(self).compile
        if not convert.is_library(compile_method.__module__):
            warnings.warn(
                f"{type(self).__name__} defines `compile`, so loading does not call it; call it afterwards, or define "
                "get_compile_config and compile_from_config too.",
                stacklevel=2,
            )
            return
        self.compile(**compile_arguments.arguments(config, custom_objects))

    def get_build_config(self) -> Config | None:
        """Returns the shapes for which a Sequential model or one of a custom class was built, or None.

        References:
            Keras, `keras.Model.get_build_config`.
        """
        if _has_layers(self):
            source = self.layers.source if isinstance(self, building.Sequential) else None
            return None if source is None else {"input_shape": source.shape}
        shapes = keras_state.state_of(self).shapes
        if not shapes:
            return None
        return {"input_shape": next(iter(shapes.values()))} if len(shapes) == 1 else {"shapes_dict": dict(shapes)}

    def build_from_config(self, config: Config) -> None:
        """Builds the model for the shapes that `get_build_config` returned.

        References:
            Keras, `keras.Model.build_from_config`.
        """
        positional: tuple[object, ...] = (config["input_shape"],) if config.get("input_shape") else ()
        named: dict[str, object] = {} if positional else dict(config.get("shapes_dict") or {})
        if positional or named:
            args, kwargs = symbols_of(positional, named)
            initialization.build_structure(self, args, kwargs)

    # ------------------------------------------------------------ files

    def save(
        self,
        filepath: Path,
        overwrite: bool = True,
        zipped: bool | None = None,
        include_optimizer: bool = True,
    ) -> None:
        """Writes the model, its weights, the arguments of `compile` and the state of the optimizer to one file.

        Args:
            filepath: The file; its name ends in ".keras", or in ".safetensors" for the format of this library.
            overwrite: Whether an existing file is replaced.
            zipped: Only True: a model is one file.
            include_optimizer: Whether the file holds the arguments of `compile` and the state of the optimizer.

        Raises:
            ValueError: If a part of the model has no description, or the model is not built.

        References:
            Keras, `keras.Model.save`.
        """
        if zipped is False:
            raise ValueError("`zipped` must be True, because a model is one file, got False; leave it out.")
        path = os.fspath(filepath)
        files.check_architecture(path, True, "a whole model")
        _check_overwrite(path, overwrite)
        _check_built(self)
        has_compiled = include_optimizer and self.compiled
        compiled = compile_arguments.describe_or_warn(self, path) if has_compiled else {}
        optimizer = compile_arguments.optimizer_arrays(self) if compiled else {}
        with custom.using(ProgramObjects()):
            pure = convert.to_pure(self)
            if formats.suffix_of(path) == ".keras":
                config = describe(self, shares=True) | ({"compile_config": compiled} if compiled else {})
                built = self.get_build_config()
                config |= {"build_config": serialize_keras_object(built)} if built else {}
                keras_files.save_keras(path, pure, gather(self), config, optimizer, store_of)
            else:
                _check_no_own_store(self, path)
                saving.save(path, pure, gather(self), True, compiled or None, optimizer)

    def check_can_save(self, filepath: Path, architecture: bool) -> None:
        """Raises if the format of a file does not support the model, or its weights without the architecture."""
        path = os.fspath(filepath)
        files.check_architecture(path, architecture)
        with custom.using(ProgramObjects()):
            if architecture and _has_layers(self):
                files.check_can_save(path, convert.to_pure(self), architecture)
            elif architecture:
                describe(self)

    def save_weights(self, filepath: Path, overwrite: bool = True, max_shard_size: float | None = None) -> None:
        """Writes the weights, and the state of the optimizer, to a file.

        Args:
            filepath: The file; its name ends in ".weights.h5", or in ".safetensors" for the format of this library.
            overwrite: Whether an existing file is replaced.
            max_shard_size: Only None: weights are one file.

        References:
            Keras, `keras.Model.save_weights`.
        """
        if max_shard_size is not None:
            raise ValueError(
                f"`max_shard_size` must be None, because weights are one file, got {max_shard_size}; leave it out."
            )
        path = os.fspath(filepath)
        files.check_architecture(path, False, "weights alone")
        _check_overwrite(path, overwrite)
        _check_built(self)
        pure, optimizer = convert.to_pure(self), compile_arguments.optimizer_arrays(self)
        if formats.suffix_of(path) == ".weights.h5":
            keras_files.save_keras_weights(path, pure, gather(self), optimizer, store_of)
        else:
            _check_no_own_store(self, path)
            saving.save(path, pure, gather(self), False, None, optimizer)

    def load_weights(self, filepath: Path, skip_mismatch: bool = False, by_name: bool | None = None) -> None:
        """Reads weights, and the state of the optimizer if the model is compiled, that `save_weights` or Keras wrote.

        Args:
            filepath: The file: ".weights.h5", ".keras" or ".safetensors".
            skip_mismatch: Whether layers whose weights do not fit those in the file keep theirs, with a warning.
            by_name: Only None: Keras matches by name only in its legacy format, which is not supported.

        Raises:
            ValueError: If the file is damaged, or weights do not fit.

        References:
            Keras, `keras.Model.load_weights`.
        """
        path = os.fspath(filepath)
        if by_name is not None:
            raise ValueError(
                f"`by_name` must be None, because only Keras' legacy format '.h5' has it, got {by_name} for {path!r}; "
                "leave it out."
            )
        _check_built(self)
        stores: list[tuple[Any, keras_files.Arrays]] = []
        if formats.suffix_of(path) == ".safetensors":
            _check_no_own_store(self, path)
            if skip_mismatch:
                raise ValueError(
                    f"`skip_mismatch` is only for Keras' files, got True for {path!r}; use a '.weights.h5' file."
                )
            values, optimizer = saving.load_weights_and_optimizer(path, gather(self))
        else:
            contents = keras_files.read_weights(path, with_optimizer=self.compiled)
            pure, optimizer = convert.to_pure(self), contents.optimizer
            expected = traverse_util.flatten_dict(gather(self))
            if skip_mismatch:
                values, skipped = keras_files.matching_variables(path, pure, expected, contents)
                if skipped:
                    warnings.warn(
                        f"{path} has no weights that fit {', '.join(skipped)}, which keep theirs.", stacklevel=2
                    )
            else:
                values = keras_files.to_variables(path, pure, expected, contents, has_own_store=has_own_store)
            stores += keras_files.own_stores(path, pure, expected, contents, has_own_store)
        scatter(self, values)
        _load_own(stores)
        held_values.push()
        if self.compiled:
            compile_arguments.restore_optimizer(self, optimizer, path)

    def export(  # the name in Keras
        self,
        filepath: Path,
        format: str = "stablehlo",  # noqa: A002
        verbose: bool | None = None,
        input_signature: ArrayOrShapeTree = None,
    ) -> None:
        """Writes the computation of the outputs to a file, which JAX runs without this library.

        Args:
            filepath: The file.
            format: Only "stablehlo": `jax.export.deserialize(content).call(x)` runs the program.
            verbose: Whether to print the name of the file.
            input_signature: A `jax.ShapeDtypeStruct` or a tree of them, by default the inputs of the model with any
                number of examples.

        Raises:
            ValueError: If the format is another one, or the inputs of the model are not known.

        References:
            Keras, `keras.Model.export`.
        """
        if format != "stablehlo":
            keras_only = "Keras' exporters write it: load a '.keras' file there" if format in EXPORTS_OF_KERAS else ""
            raise ValueError(f"`format` of export must be 'stablehlo', got {format!r}; {keras_only or 'leave it out'}.")
        _check_built(self)
        shapes = _signature(self) if input_signature is None else input_signature
        model, values = convert.to_pure(self), gather(self)
        if importlib.util.find_spec("flatbuffers") is None:
            raise ModuleNotFoundError(
                "Exports need flatbuffers, which is not installed; run pip install flatbuffers.", name="flatbuffers"
            )
        program = export.export(jax.jit(lambda x: model.apply(values, x)), platforms=("cpu", "cuda", "tpu"))
        saving.format.write(os.fspath(filepath), bytes(program(shapes).serialize()))
        if verbose:
            print(f"Saved the program to {os.fspath(filepath)}")


def _signature(model: SavedModel) -> ArrayOrShapeTree:
    """Returns shapes and dtypes of the inputs of a model, with any number of examples."""
    symbols = initialization.known_inputs(model)
    if symbols is None:
        raise ValueError(
            f"{model.name} has no known inputs to export it with, got none; pass `input_signature`, such as "
            "jax.ShapeDtypeStruct((8, 3), 'float32')."
        )
    sizes = iter(export.symbolic_shape(", ".join(f"n{i}" for i in range(1 + _count_unknown(symbols)))))
    batch = next(sizes)

    def struct(symbol: Symbol) -> jax.ShapeDtypeStruct:
        shape = (batch, *(next(sizes) if size is None else size for size in symbol.shape[1:]))
        return jax.ShapeDtypeStruct(shape, symbol.dtype)

    return jax.tree.map(struct, symbols)


def _count_unknown(symbols: Tree[Symbol]) -> int:
    return sum(size is None for symbol in jax.tree.leaves(symbols) for size in symbol.shape[1:])


def _has_layers(model: object) -> bool:
    return isinstance(model, building.Sequential) or getattr(model, "graph", None) is not None


def _check_built(model: SavedModel) -> None:
    ensure_initialized(model)
    if not has_values(model):
        raise ValueError(f"{model.name} has no weights yet; build it, or call it on data first.")


def _check_overwrite(path: str, overwrite: bool) -> None:
    if not overwrite and os.path.exists(path):
        raise ValueError(f"The file {path!r} exists already; give another name, or overwrite=True.")


# ---------------------------------------------------------------- reading


def load_model(
    filepath: Path,
    custom_objects: CustomObjects = None,
    compile: bool = True,
    safe_mode: bool = True,  # noqa: A002
) -> Any:
    """Returns the model of a file that `save` or Keras wrote.

    Args:
        filepath: The file.
        custom_objects: Classes and functions by name, in addition to the registered ones. A file never names code.
        compile: Whether to compile the model as it was saved, and to continue with the state of its optimizer.
        safe_mode: Has no effect, with a warning if it is False: loading never runs code of a file.

    Raises:
        ValueError: If the file is damaged, or names a class or function that is unknown.

    References:
        Keras, `keras.saving.load_model`.
    """
    if not safe_mode:
        warnings.warn(
            "`safe_mode=False` of load_model has no effect, because files never run code; leave it out.", stacklevel=2
        )
    path = os.fspath(filepath)
    optimizer: Mapping[str, Any] = {}
    stores: list[tuple[Any, keras_files.Arrays]] = []
    with custom.using(ProgramObjects(custom_objects)):
        if formats.suffix_of(path) == ".safetensors":
            described, variables, compiled, optimizer = saving.load_with_training(path)
            model = _with_state(described)
            scatter(model, variables)
        else:
            config, contents = keras_files.read_keras(path, with_optimizer=compile)
            compiled = config.get("compile_config") if isinstance(config, dict) else None
            if custom.is_known(config):
                model = _custom_model(path, config, contents)
            else:
                described, variables = keras_files.build(path, config, contents, has_own_store)
                inner = config.get("config") if isinstance(config, dict) else None
                name = inner.get("name") if isinstance(inner, dict) else None
                if isinstance(name, str):
                    object.__setattr__(described, "name", name)
                model = _with_state(described)
                scatter(model, variables)
                flat = traverse_util.flatten_dict(variables)
                stores = keras_files.own_stores(path, described, flat, contents, has_own_store)
            optimizer = contents.optimizer
    initialization.hold_variables(model)
    _load_own(stores)
    if compile and compiled:
        _compile(model, path, compiled, custom_objects)
        if model.compiled:
            compile_arguments.restore_optimizer(model, optimizer, path)
    return model


def _compile(model: SavedModel, path: str, config: Any, custom_objects: CustomObjects) -> None:
    """Compiles a model with the arguments in a file, which are untrusted."""
    try:
        if not convert.is_library(type(model).compile_from_config.__module__):
            model.compile_from_config(config)
        else:
            model._compile_from(config, custom_objects)
    except Exception as error:  # Objects raise any exception for arguments that nothing has checked.
        raise ValueError(
            f"{path} holds arguments of compile that cannot be used: {str(error).rstrip('.')}; or pass compile=False."
        ) from error


def _custom_model(path: str, config: Json, contents: hdf5.Contents) -> SavedModel:
    """Returns the model of a class of the user, with the weights of the file."""
    try:
        with sharing.building():
            model = custom.build(keras_config.with_shared_ids(config))
    except Exception as error:  # Constructors of the user raise anything.
        raise ValueError(f"{path} describes no model that can be built: {str(error).rstrip('.')}.") from error
    if not isinstance(model, SavedModel):
        raise ValueError(f"{path} must describe a model, got a {type(model).__name__}; use keras.saving.load_model.")
    _check_built(model)
    expected = traverse_util.flatten_dict(gather(model))
    scatter(model, keras_files.to_variables(path, model, expected, contents, has_own_store=has_own_store))
    initialization.hold_variables(model)
    _load_own(keras_files.own_stores(path, model, expected, contents, has_own_store))
    return model


def _load_own(stores: list[tuple[Any, keras_files.Arrays]]) -> None:
    """Lets layers load what their classes have put into a file."""
    for layer, arrays in stores:
        keras_state.origin_of(layer).load_own_variables(arrays)


def _check_no_own_store(model: SavedModel, path: str) -> None:
    for layer in held_values.with_held(model):
        if has_own_store(layer):
            raise ValueError(
                f"Only Keras' formats hold what `save_own_variables` of {type(layer).__name__} writes, got {path!r}; "
                "use a '.keras' or '.weights.h5' file."
            )


def _with_state(model: Layer) -> SavedModel:
    """Returns the model with state of a pure one, which may hold layers of the user."""
    made: SavedModel = convert.rebuild(model, stateful_class, keep_custom=True)
    if not _has_layers(made):
        _check_built(made)
    return made


def _from_keras(config: Config, custom_objects: CustomObjects) -> Any:
    """Returns a model with new weights from Keras' configuration."""
    with custom.using(ProgramObjects(custom_objects)):
        return custom.build(config) if custom.is_known(config) else from_description(config, custom_objects)


def save_model(
    model: SavedModel,
    filepath: Path,
    overwrite: bool = True,
    zipped: bool | None = None,
    include_optimizer: bool = True,
) -> None:
    """Writes a model to one file; see `Model.save`.

    Args:
        model: The model.
        filepath: The file.
        overwrite: Whether an existing file is replaced.
        zipped: Only True: a model is one file.
        include_optimizer: Whether the file holds the arguments of `compile` and the state of the optimizer.

    References:
        Keras, `keras.saving.save_model`.
    """
    model.save(filepath, overwrite, zipped, include_optimizer)


def clone_model(model: object, input_tensors: object = None, clone_function: Callable[[Any], Any] | None = None) -> Any:
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
    return convert.clone(model, stateful_class, clone_function, separates=True)


def model_from_json(json_string: str, custom_objects: CustomObjects = None) -> Any:
    """Returns the model that `to_json` described, with new weights.

    Args:
        json_string: The text.
        custom_objects: Classes and functions by name, in addition to the registered ones.

    References:
        Keras, `keras.models.model_from_json`.
    """
    config = json.loads(json_string)
    model = _from_keras(config, custom_objects)
    compiled = config.get("compile_config") if isinstance(config, dict) else None
    if compiled:
        _compile(model, "The text", compiled, custom_objects)
    return model
