"""The public names of Keras 3 that this package does not provide, each with its alternative.

Modules of this package use the table, so that a missing name raises an error with the alternative.
"""

import sys
from collections.abc import Callable, Iterable
from typing import Any

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
        _AUGMENT: "AugMix AutoContrast CenterCrop ContrastLimitedAdaptiveHistogramEqualization CutMix Equalization "
        "MixUp RandAugment RandomBrightness RandomColorDegeneration RandomColorJitter RandomContrast RandomCrop "
        "RandomElasticTransform RandomErasing RandomFlip RandomGaussianBlur RandomGrayscale RandomHue RandomInvert "
        "RandomPerspective RandomPosterization RandomRotation RandomSaturation RandomSharpness RandomShear "
        "RandomTranslation RandomZoom Resizing Solarization MaxNumBoundingBoxes",
        _COLUMNS: "HashedCrossing Hashing",
        "compute the spectrogram before training, for example with scipy.signal": "MelSpectrogram STFTSpectrogram",
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


def alternative(name: str) -> str | None:
    """Returns what to use in place of a name of Keras that is not here; None if the name is not refused.

    Args:
        name: The name in Keras, such as "keras.utils.FeatureSpace". All names in a refused module are refused.

    Example:
        >>> alternative("keras.wrappers.SKLearnClassifier")
        'call fit and predict of the model in a class of your own'
    """
    while name and name not in REFUSED:
        name = name.rpartition(".")[0]
    return REFUSED.get(name)


def sentence(module: str, name: str) -> str:
    """Returns the error for a name that a module of this package does not have.

    Args:
        module: The module, such as "training.keras.utils".
        name: The name.
    """
    in_keras = f"keras{module.removeprefix(PACKAGE)}.{name}"
    instead = alternative(in_keras)
    if instead is None:
        return f"module {module!r} has no attribute {name!r}; dir({module}) lists the known ones."
    return f"{in_keras} is not part of {PACKAGE}; {instead}."


def attach(module: str, names: Iterable[str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Returns `__getattr__` and `__dir__` of a module: a missing name raises its sentence, `dir` lists the others.

    Args:
        module: The module's `__name__`.
        names: The public names of the module.
    """
    public = sorted(names)

    def __getattr__(name: str) -> Any:
        raise AttributeError(sentence(module, name), name=name, obj=sys.modules.get(module))

    def __dir__() -> list[str]:
        return public

    return __getattr__, __dir__
