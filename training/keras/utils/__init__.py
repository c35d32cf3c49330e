"""Keras' `keras.utils`."""

from training.keras import refused
from training.keras.backend import clear_session as clear_session
from training.keras.backend import is_keras_tensor as is_keras_tensor
from training.keras.backend import standardize_dtype as standardize_dtype
from training.keras.config import is_interactive_logging_enabled as is_interactive_logging_enabled
from training.keras.progbar import Progbar as Progbar
from training.keras.registry import CustomObjectScope as CustomObjectScope
from training.keras.registry import custom_object_scope as custom_object_scope
from training.keras.registry import get_custom_objects as get_custom_objects
from training.keras.registry import get_registered_name as get_registered_name
from training.keras.registry import get_registered_object as get_registered_object
from training.keras.registry import register_keras_serializable as register_keras_serializable
from training.keras.saving import deserialize_keras_object as deserialize_keras_object
from training.keras.saving import serialize_keras_object as serialize_keras_object
from training.keras.seeds import set_random_seed as set_random_seed
from training.keras.utils.files import get_file as get_file
from training.keras.utils.folders import audio_dataset_from_directory as audio_dataset_from_directory
from training.keras.utils.folders import image_dataset_from_directory as image_dataset_from_directory
from training.keras.utils.folders import text_dataset_from_directory as text_dataset_from_directory
from training.keras.utils.images import array_to_img as array_to_img
from training.keras.utils.images import img_to_array as img_to_array
from training.keras.utils.images import load_img as load_img
from training.keras.utils.images import save_img as save_img
from training.keras.utils.model_graph import model_to_dot as model_to_dot
from training.keras.utils.model_graph import plot_model as plot_model
from training.keras.utils.numerical import normalize as normalize
from training.keras.utils.numerical import pack_x_y_sample_weight as pack_x_y_sample_weight
from training.keras.utils.numerical import pad_sequences as pad_sequences
from training.keras.utils.numerical import to_categorical as to_categorical
from training.keras.utils.numerical import unpack_x_y_sample_weight as unpack_x_y_sample_weight
from training.keras.utils.sequences import PyDataset as PyDataset
from training.keras.utils.sequences import Sequence as Sequence
from training.keras.utils.splitting import split_dataset as split_dataset
from training.keras.utils.timeseries import timeseries_dataset_from_array as timeseries_dataset_from_array

__all__ = [
    "CustomObjectScope", "Progbar", "PyDataset", "Sequence", "array_to_img", "audio_dataset_from_directory",
    "clear_session", "custom_object_scope", "deserialize_keras_object", "get_custom_objects", "get_file",
    "get_registered_name", "get_registered_object", "image_dataset_from_directory", "img_to_array",
    "is_interactive_logging_enabled", "is_keras_tensor", "load_img", "model_to_dot", "normalize",
    "pack_x_y_sample_weight", "pad_sequences", "plot_model", "register_keras_serializable", "save_img",
    "serialize_keras_object", "set_random_seed", "split_dataset", "standardize_dtype", "text_dataset_from_directory",
    "timeseries_dataset_from_array", "to_categorical", "unpack_x_y_sample_weight",
]  # fmt: skip
__getattr__, __dir__ = refused.attach(__name__, __all__)
