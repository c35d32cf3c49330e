"""The library's own model file: one safetensors file with the architecture as JSON in its header. No code, no pickle.

`format` reads and writes bytes, `schema` translates between an architecture and JSON values, `rebuilding` builds the
model of an untrusted file within the limits of `bounds`, and `model_file` combines them.
"""

from flaxmodels.saving.model_file import load as load
from flaxmodels.saving.model_file import load_weights as load_weights
from flaxmodels.saving.model_file import load_weights_and_optimizer as load_weights_and_optimizer
from flaxmodels.saving.model_file import load_with_training as load_with_training
from flaxmodels.saving.model_file import save as save
from flaxmodels.saving.rebuilding import build as build
from flaxmodels.saving.rebuilding import check_can_be_read as check_can_be_read
from flaxmodels.saving.schema import from_config as from_config
from flaxmodels.saving.schema import to_config as to_config
