"""Keras' `keras.config`: settings of the whole program, which layers and tools read."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from flaxmodels.container import Container
from training.keras import refused
from training.keras.refused_methods import Refusing

EPSILON = 1e-7  # The losses, metrics and constraints contain this number.
FLOATS = ("bfloat16", "float16", "float32", "float64")
DATA_FORMATS = ("channels_last", "channels_first")
# The names of dtypes that Keras knows.
DTYPES = (
    *FLOATS, "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "bool", "string",
    "float8_e4m3fn", "float8_e5m2", "complex64", "complex128",
)  # fmt: skip
_PYTHON_TYPES: dict[object, str] = {
    bool: "bool", int: "int32", float: "float32", str: "string", complex: "complex64", "int": "int32",
}  # fmt: skip


class _Settings:
    """The present settings."""

    floatx = "float32"
    image_data_format = "channels_last"
    policy: "DTypePolicy | None" = None


def backend() -> str:
    """Returns "jax", the only backend."""
    return "jax"


def epsilon() -> float:
    """Returns the number that keeps divisions and logarithms finite."""
    return EPSILON


def set_epsilon(value: float) -> None:
    """Checks that the fuzz factor is 1e-7, which losses, metrics and constraints always use.

    Args:
        value: The factor.

    Raises:
        ValueError: If it is another number.
    """
    if value != EPSILON:
        raise ValueError(
            f"`value` must be {EPSILON}, the fuzz factor of all losses and metrics, got {value!r}; pass `epsilon` to "
            "the layers and optimizers that take it."
        )


def floatx() -> str:
    """Returns the dtype of layers and of arrays from images, unless another one is given."""
    return _Settings.floatx


def set_floatx(value: str) -> None:
    """Sets the dtype of layers that are made from now on, and of arrays from images.

    A dtype policy that `set_dtype_policy` has set takes precedence for layers.

    Args:
        value: "float16", "bfloat16", "float32" or "float64".

    Raises:
        ValueError: If it is another dtype, or "float64" while JAX computes with at most 32 bits.

    References:
        Keras, `keras.config.set_floatx`.
    """
    if value not in FLOATS:
        raise ValueError(f"`value` must be one of {', '.join(map(repr, FLOATS))}, got {value!r}; choose one.")
    _check_64_bits("value", value)
    _Settings.floatx = value


def _check_64_bits(argument: str, dtype: str) -> None:
    if dtype == "float64" and not jax.config.jax_enable_x64:  # type: ignore[attr-defined]
        raise ValueError(
            f"`{argument}` must have at most 32 bits while JAX does not compute with more, got {dtype!r}; call "
            "jax.config.update('jax_enable_x64', True) at the start of the program."
        )


def image_data_format() -> str:
    """Returns the position of the channels in images, unless another one is given."""
    return _Settings.image_data_format


def set_image_data_format(data_format: str) -> None:
    """Sets the position of the channels for layers that are made from now on, and for images.

    Args:
        data_format: "channels_last" or "channels_first".

    Raises:
        ValueError: If it is something else.

    References:
        Keras, `keras.config.set_image_data_format`.
    """
    _Settings.image_data_format = resolve_data_format(str(data_format))


def resolve_data_format(data_format: str | None) -> str:
    """Returns a data format; for None, the one of the program.

    Raises:
        ValueError: If it is unknown.
    """
    if data_format is None:
        return image_data_format()
    if str(data_format).lower() not in DATA_FORMATS:
        raise ValueError(f"`data_format` must be 'channels_last' or 'channels_first', got {data_format!r}; choose one.")
    return str(data_format).lower()


def standardize_dtype(dtype: DTypeLike | None) -> str:
    """Returns the name of a dtype; for None, that of `floatx()`.

    Args:
        dtype: A name, a Python type, or a dtype of NumPy or JAX.

    Raises:
        ValueError: If Keras has no such dtype.

    References:
        Keras, `keras.backend.standardize_dtype`.

    Example:
        >>> standardize_dtype(int), standardize_dtype(jnp.uint8), standardize_dtype(None)
        ('int32', 'uint8', 'float32')
    """
    if dtype is None:
        return floatx()
    known: object = _PYTHON_TYPES.get(dtype, dtype)
    name = getattr(known, "name", None) or getattr(known, "__name__", None) or known
    if name not in DTYPES:
        raise ValueError(f"`dtype` must be one of {', '.join(DTYPES)}, got {dtype!r}; choose one.")
    return name


class DTypePolicy(Refusing):
    """Names the dtype in which layers compute, and the dtype of their variables.

    Args:
        name: A dtype, for both; "mixed_float16" or "mixed_bfloat16" computes in 16 bits with float32 variables. By
            default, the name of the program's policy.

    Raises:
        TypeError: If the name is not a string.
        ValueError: If there is no such policy.

    References:
        Keras, `keras.DTypePolicy`.

    Example:
        >>> policy = DTypePolicy("mixed_bfloat16")
        >>> policy, policy.compute_dtype, policy.variable_dtype
        (<DTypePolicy "mixed_bfloat16">, 'bfloat16', 'float32')
    """

    name: str
    compute_dtype: str
    variable_dtype: str
    quantization_mode = None

    def __init__(self, name: str | None = None):
        name = dtype_policy().name if name is None else name
        if not isinstance(name, str):
            raise TypeError(f"`name` must be a string such as 'mixed_float16', got {name!r}; pass the name of a dtype.")
        if "_from_" in name or name in ("int4", "float8", "gptq", "awq"):
            raise ValueError(f"`name` must be a policy without quantization, got {name!r}; use 'mixed_bfloat16'.")
        self.name = name
        if name in ("mixed_float16", "mixed_bfloat16"):
            self.compute_dtype, self.variable_dtype = name.removeprefix("mixed_"), "float32"
            return
        if name not in DTYPES:
            raise ValueError(
                f"`name` must be 'mixed_float16', 'mixed_bfloat16' or a dtype such as 'float32', got {name!r}; "
                "choose one."
            )
        self.compute_dtype = self.variable_dtype = name

    def get_config(self) -> dict[str, str]:
        """Returns the arguments."""
        return {"name": self.name}

    @classmethod
    def from_config(cls, config: dict[str, str]) -> "DTypePolicy":
        """Returns the policy with the arguments of `get_config`."""
        return cls(**config)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DTypePolicy) and self.name == other.name

    def __hash__(self) -> int:
        return hash(self.name)

    def __repr__(self) -> str:
        return f'<DTypePolicy "{self.name}">'


def dtype_policy() -> DTypePolicy:
    """Returns the policy of layers that are made from now on."""
    return _Settings.policy or DTypePolicy(floatx())


def set_dtype_policy(policy: str | DTypePolicy) -> None:
    """Sets the policy of layers that are made from now on and have no `dtype` of their own.

    Args:
        policy: A policy or its name, such as "mixed_bfloat16".

    Raises:
        TypeError: If it is neither.
        ValueError: If there is no such policy, or it needs 64 bits while JAX computes with at most 32.

    References:
        Keras, `keras.config.set_dtype_policy`.
    """
    policy = policy if isinstance(policy, DTypePolicy) else DTypePolicy(policy)
    _check_64_bits("policy", policy.variable_dtype)
    _Settings.policy = policy


def apply_settings(layer: Any) -> None:
    """Gives a new layer the policy and the data format of the program, where it has no arguments of its own.

    A container computes in the dtypes of the layers inside it, so it keeps its own.

    Args:
        layer: A layer whose fields are as its constructor received them. Its `dtype` may also be a `DTypePolicy`.
    """
    if getattr(layer, "data_format", "") is None:
        object.__setattr__(layer, "data_format", image_data_format())
    policy = layer.own_dtype
    if policy is None and not isinstance(layer, Container):
        policy = dtype_policy() if jnp.dtype(layer.param_dtype) == jnp.float32 else jnp.dtype(layer.param_dtype).name
    if isinstance(policy, DTypePolicy):
        object.__setattr__(layer, "dtype", policy.name)
        if jnp.dtype(layer.param_dtype) == jnp.float32:
            object.__setattr__(layer, "param_dtype", policy.variable_dtype)


def is_interactive_logging_enabled() -> bool:
    """Returns True: the progress of runs is always printed, unless `verbose` says otherwise."""
    return True


def is_flash_attention_enabled() -> bool:
    """Returns False: attention layers leave the choice of the algorithm to XLA."""
    return False


def is_nnx_enabled() -> bool:
    """Returns False: layers are modules of flax.linen."""
    return False


def is_traceback_filtering_enabled() -> bool:
    """Returns False: tracebacks contain all frames that JAX shows."""
    return False


__all__ = [
    "backend", "dtype_policy", "epsilon", "floatx", "image_data_format", "is_flash_attention_enabled",
    "is_interactive_logging_enabled", "is_nnx_enabled", "is_traceback_filtering_enabled", "set_dtype_policy",
    "set_epsilon", "set_floatx", "set_image_data_format",
]  # fmt: skip
__getattr__, __dir__ = refused.attach(__name__, __all__)
