"""Weight initializers with Keras' names and arguments: frozen dataclasses called as (key, shape, dtype).

Any function of that signature can be used as an initializer, such as those of `jax.nn.initializers`. A random
initializer whose `seed` is not None ignores the key and draws the same numbers as Keras' JAX backend with that seed.
Values of dtypes narrower than float32 are drawn in float32 and rounded.
"""

from collections.abc import Callable

import jax

from flaxmodels.initializers.base import Initializer as Initializer
from flaxmodels.initializers.base import InitializerLike as InitializerLike
from flaxmodels.initializers.base import key_first as key_first
from flaxmodels.initializers.constants import STFT as STFT
from flaxmodels.initializers.constants import Constant as Constant
from flaxmodels.initializers.constants import Identity as Identity
from flaxmodels.initializers.constants import Ones as Ones
from flaxmodels.initializers.constants import Zeros as Zeros
from flaxmodels.initializers.random import GlorotNormal as GlorotNormal
from flaxmodels.initializers.random import GlorotUniform as GlorotUniform
from flaxmodels.initializers.random import HeNormal as HeNormal
from flaxmodels.initializers.random import HeUniform as HeUniform
from flaxmodels.initializers.random import LecunNormal as LecunNormal
from flaxmodels.initializers.random import LecunUniform as LecunUniform
from flaxmodels.initializers.random import Orthogonal as Orthogonal
from flaxmodels.initializers.random import RandomNormal as RandomNormal
from flaxmodels.initializers.random import RandomUniform as RandomUniform
from flaxmodels.initializers.random import TruncatedNormal as TruncatedNormal
from flaxmodels.initializers.random import VarianceScaling as VarianceScaling
from flaxmodels.initializers.random import compute_fans as compute_fans
from flaxmodels.names import lookup

constant = Constant
glorot_normal = GlorotNormal
glorot_uniform = GlorotUniform
he_normal = HeNormal
he_uniform = HeUniform
identity = IdentityInitializer = Identity
lecun_normal = LecunNormal
lecun_uniform = LecunUniform
ones = Ones
orthogonal = OrthogonalInitializer = Orthogonal
random_normal = RandomNormal
random_uniform = RandomUniform
stft = STFTInitializer = STFT
truncated_normal = TruncatedNormal
variance_scaling = VarianceScaling
zeros = Zeros

SHORT_NAMES: dict[str, type[Initializer]] = {
    "constant": Constant,
    "glorot_normal": GlorotNormal,
    "glorot_uniform": GlorotUniform,
    "he_normal": HeNormal,
    "he_uniform": HeUniform,
    "identity": Identity,
    "lecun_normal": LecunNormal,
    "lecun_uniform": LecunUniform,
    "normal": RandomNormal,
    "one": Ones,
    "ones": Ones,
    "orthogonal": Orthogonal,
    "random_normal": RandomNormal,
    "random_uniform": RandomUniform,
    "stft": STFT,
    "truncated_normal": TruncatedNormal,
    "uniform": RandomUniform,
    "variance_scaling": VarianceScaling,
    "zero": Zeros,
    "zeros": Zeros,
}

INITIALIZERS: dict[str, type[Initializer]] = {
    "IdentityInitializer": Identity,
    "OrthogonalInitializer": Orthogonal,
    "STFTInitializer": STFT,
    **{cls.__name__: cls for cls in SHORT_NAMES.values()},
    **SHORT_NAMES,
}


def get(initializer: InitializerLike) -> Callable[..., jax.Array] | None:
    """Returns the initializer for a layer's `..._initializer` argument.

    Args:
        initializer: A name in `INITIALIZERS` or a class, which is called without arguments; an instance or
            any function (key, shape, dtype) -> array, which is returned as is; or None. A function of Keras'
            signature (shape, dtype) is returned as is too; layers call it through `key_first`.

    Raises:
        ValueError: If the name is unknown.
        TypeError: If the argument is neither a name, a callable nor None.

    Example:
        >>> get("zeros"), get(RandomUniform), get(None)
        (Zeros(), RandomUniform(minval=-0.05, maxval=0.05, seed=None), None)
    """
    if initializer is None:
        return None
    if isinstance(initializer, str):
        return lookup("initializer", initializer, INITIALIZERS, "Or pass a function (key, shape, dtype) -> array.")()
    resolved = initializer() if isinstance(initializer, type) else initializer
    if callable(resolved):
        return resolved
    raise TypeError(
        f"An initializer must be a name, a function or None, got {initializer!r}; "
        'pass a name such as "glorot_uniform", or Constant(values) for an array.'
    )
