"""The public names of Keras 3 that this package does not provide, each with its alternative, and names of Keras 2.

Modules of this package use the tables, so that a missing name raises an error with the alternative.
"""

import difflib
import dis
import importlib.abc
import sys
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any, NoReturn

PACKAGE = __name__.rpartition(".")[0]

_AUGMENT = "apply it to the images before training, for example with Pillow or tf.data"
_COLUMNS = "encode the columns with NumPy or pandas before training"
_DTYPES = "quantized layers do not exist here; use the policy 'mixed_bfloat16'"
_LOGGING = "pass verbose=0, 1 or 2 to fit, evaluate and predict"
_MODULES = "wrap a flax.linen module in flaxmodels.Linen"
_LIMITS = "pass epochs and steps_per_epoch to fit"
_FRAMES = "use jax.config.update('jax_traceback_filtering', 'off')"
_FLASH = "XLA chooses the algorithm of attention"
_WRAP = "call fit and predict of the model in a class of your own"

# For each module of Keras: what to use instead, and the names for which it is the alternative.
_TABLE: dict[str, dict[str, str]] = {
    "keras": {
        "call functions of keras.ops on symbols": "Function Operation",
        "keras.Input makes symbols, and keras.utils.is_keras_tensor recognizes them": "KerasTensor",
        _DTYPES: "Quantizer",
        "use jax.checkpoint around a function": "RematScope remat",
        "use the pure layers of flaxmodels, whose variables are arguments": "StatelessScope SymbolicScope",
        "make variables with add_weight in a layer": "Variable",
        "use jax.default_device": "device",
        "use jax.named_scope": "name_scope",
        "use flaxmodels.__version__": "version",
        "build the network from layers and load its weights with load_weights": "applications",
        "pass a training step to training.Trainer(train_step=...)": "distillation",
        "training runs on one device": "distribution",
        "use jax.export on model.apply": "export",
        "use keras.saving": "legacy",
        "quantize the weights with a library for JAX": "quantizers",
        "use matplotlib": "visualization",
        _WRAP: "wrappers",
    },
    "keras.callbacks": {
        "use keras.callbacks.BackupAndRestore or ModelCheckpoint": "OrbaxCheckpoint",
        "send the logs in on_epoch_end of a custom callback": "RemoteMonitor",
    },
    "keras.config": {
        _FLASH: "disable_flash_attention enable_flash_attention",
        _LOGGING: "disable_interactive_logging enable_interactive_logging",
        _FRAMES: "disable_traceback_filtering enable_traceback_filtering",
        "files never run code; define the function in the program and register it": "enable_unsafe_deserialization",
        _LIMITS: "max_epochs max_steps_per_epoch set_max_epochs set_max_steps_per_epoch",
        "the backend is always JAX": "set_backend",
    },
    "keras.dtype_policies": {
        _DTYPES: "AWQDTypePolicy GPTQDTypePolicy Int4DTypePolicy QuantizedDTypePolicy QuantizedFloat8DTypePolicy",
        "give each layer its dtype": "DTypePolicyMap",
    },
    "keras.layers": {
        _AUGMENT: "AugMix AutoContrast ContrastLimitedAdaptiveHistogramEqualization CutMix Equalization MixUp "
        "RandAugment RandomColorDegeneration RandomColorJitter RandomElasticTransform RandomErasing "
        "RandomGaussianBlur RandomGrayscale RandomHue RandomInvert RandomPerspective RandomPosterization "
        "RandomSaturation RandomSharpness RandomShear Solarization MaxNumBoundingBoxes",
        "call the functions on the data one after another": "Pipeline",
        _MODULES: "FlaxLayer JaxLayer",
        "load the model in TensorFlow": "TFSMLayer",
        "write the module with the layers of this package": "TorchModuleWrapper",
        "write a Layer that has another one as an attribute": "Wrapper",
    },
    "keras.optimizers": {
        "use optax.multi_transform": "MultiOptimizer OptimizerMap",
        "use the class of the same name in keras.optimizers": "legacy",
    },
    "keras.saving": {"read the file with h5py, or the weights with get_weights": "KerasFileEditor"},
    "keras.utils": {
        "use a dataclass": "Config",
        _COLUMNS: "FeatureSpace",
        _LOGGING: "disable_interactive_logging enable_interactive_logging",
        "use model.inputs": "get_source_inputs",
        "compute the boxes before training": "bounding_boxes",
        "use keras.saving": "legacy",
    },
}
REFUSED = {
    f"{module}.{name}": alternative
    for module, group in _TABLE.items()
    for alternative, names in group.items()
    for name in names.split()
}


_LAYERS = "import the layer from keras.layers"
_OLDER_TABLE: dict[str, dict[str, str]] = {
    "keras": {"use keras.layers, keras.models and the other modules": "engine estimator experimental legacy_tf_layers"},
    "keras.backend": {
        "use the function of the same name in keras.ops": "abs all any arange argmax argmin binary_crossentropy cast "
        "categorical_crossentropy clip concatenate cos dot elu equal exp expand_dims eye greater greater_equal "
        "hard_sigmoid less less_equal log max maximum mean min minimum not_equal one_hot ones ones_like prod relu "
        "repeat reshape round shape sigmoid sign sin softmax softplus softsign sparse_categorical_crossentropy sqrt "
        "square squeeze stack std sum tanh tile transpose var zeros zeros_like",
        "use keras.ops.power": "pow",
        "use keras.ops.ravel": "flatten",
        "use keras.ops.transpose": "permute_dimensions",
        "use keras.ops.matmul": "batch_dot",
        "use keras.random": "random_bernoulli random_normal random_uniform truncated_normal",
        "use jax.grad": "function gradients",
        "use ndim, shape and dtype of the array": "dtype int_shape ndim",
        "use get_weights and set_weights": "batch_get_value batch_set_value eval get_value set_value",
        "pass training= to the call": "learning_phase set_learning_phase",
        "write NumPy arrays or symbols": "constant placeholder variable",
    },
    "keras.layers": {
        "use LSTM": "CuDNNLSTM",
        "use GRU": "CuDNNGRU",
        "use the layer of the same name in keras.layers": "experimental",
        "use ReLU(threshold=...)": "ThresholdedReLU",
        "use keras.ops.image.extract_patches and a Dense layer": "LocallyConnected1D LocallyConnected2D",
        "use RandomZoom": "RandomHeight RandomWidth",
        "use keras.utils.FeatureSpace": "DenseFeatures",
        _LAYERS: "advanced_activations convolutional core embeddings merge noise normalization pooling recurrent "
        "wrappers",
    },
    "keras.losses": {"pass the name, such as reduction='sum'": "Reduction"},
    "keras.preprocessing": {"use keras.layers.TextVectorization": "text"},
    "keras.preprocessing.image": {
        "use keras.utils.image_dataset_from_directory and layers such as keras.layers.RandomFlip": "DirectoryIterator "
        "ImageDataGenerator NumpyArrayIterator",
    },
    "keras.preprocessing.sequence": {
        "use keras.utils.timeseries_dataset_from_array": "TimeseriesGenerator",
        "sample the pairs with NumPy": "make_sampling_table skipgrams",
    },
    "keras.utils": {
        "use keras.utils.to_categorical": "np_utils",
        "use keras.saving": "generic_utils",
        "training runs on one device": "multi_gpu_model",
        "use keras.utils.get_file": "data_utils",
        "use keras.utils.plot_model": "vis_utils",
    },
}
OLDER = {
    f"{module}.{name}": alternative
    for module, group in _OLDER_TABLE.items()
    for alternative, names in group.items()
    for name in names.split()
}


def alternative(name: str) -> str | None:
    """Returns what to use in place of a name of Keras 3 or 2 that is not here; None if the name is not known.

    Args:
        name: The name in Keras, such as "keras.utils.FeatureSpace". All names in a refused module are refused.

    Example:
        >>> alternative("keras.wrappers.SKLearnClassifier")
        'call fit and predict of the model in a class of your own'
    """
    known = REFUSED | OLDER
    while name and name not in known:
        name = name.rpartition(".")[0]
    return known.get(name)


def sentence(module: str, name: str) -> str:
    """Returns the error for a name that a module of this package does not have.

    Args:
        module: The module, such as "training.keras.utils".
        name: The name.
    """
    in_keras = f"keras{module.removeprefix(PACKAGE)}.{name}"
    instead = alternative(in_keras)
    if instead is None:
        close = difflib.get_close_matches(name, dir(sys.modules.get(module)), n=1)
        fix = f"did you mean {close[0]!r}?" if close else f"dir({module}) lists the known ones."
        return f"module {module!r} has no attribute {name!r}; {fix}"
    return f"{in_keras} is not part of {PACKAGE}; {instead}."


def raise_missing(module: str, name: str, caller: FrameType) -> NoReturn:
    """Raises the error for a name that a module does not have.

    Args:
        module: The module.
        name: The name.
        caller: The frame that asks for the name.

    Raises:
        ImportError: In a statement `from module import name`, which would replace an AttributeError and its sentence.
        AttributeError: Otherwise.
    """
    if caller.f_code.co_code[caller.f_lasti] == dis.opmap["IMPORT_FROM"]:
        raise ImportError(sentence(module, name), name=module)
    raise AttributeError(sentence(module, name), name=name, obj=sys.modules.get(module))


class _Finder(importlib.abc.MetaPathFinder):
    """Gives the import of a module that is not here its sentence. Python asks this finder after all others."""

    def find_spec(self, fullname: str, path: object, target: object = None) -> None:
        module, _, name = fullname.rpartition(".")
        if module.startswith(PACKAGE) and alternative(f"keras{fullname.removeprefix(PACKAGE)}") is not None:
            raise ModuleNotFoundError(sentence(module, name), name=fullname)


sys.meta_path.append(_Finder())


def attach(module: str, names: Iterable[str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Returns `__getattr__` and `__dir__` of a module: a missing name raises its sentence, `dir` lists the others.

    Args:
        module: The module's `__name__`.
        names: The public names of the module.
    """
    public = sorted(names)

    def __getattr__(name: str) -> Any:
        raise_missing(module, name, sys._getframe(1))

    def __dir__() -> list[str]:
        return public

    return __getattr__, __dir__
