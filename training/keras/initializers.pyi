from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import jax
from jax.typing import ArrayLike, DTypeLike

from flaxmodels import initializers as pure
from flaxmodels.random import SeedGenerator

_Seed = int | SeedGenerator | None
_Shape = Sequence[int] | int

class Initializer(pure.Initializer):
    def __call__(self, shape: _Shape, dtype: DTypeLike | None = None) -> jax.Array: ...
    def clone(self) -> Self: ...

class KerasInitializer(Initializer):
    def seed_of_layers(self) -> int | None: ...

class _Random(KerasInitializer):
    seed: int

class Zeros(KerasInitializer): ...
class Ones(KerasInitializer): ...

class Constant(KerasInitializer):
    value: ArrayLike
    def __init__(self, value: ArrayLike | Sequence[Any] = 0.0) -> None: ...

class Identity(KerasInitializer):
    gain: float
    def __init__(self, gain: float = 1.0) -> None: ...

class STFT(KerasInitializer):
    def __init__(
        self,
        side: str = "real",
        window: str | Sequence[float] | None = "hann",
        scaling: str | None = "density",
        periodic: bool = False,
    ) -> None: ...

class RandomNormal(_Random):
    mean: float
    stddev: float
    def __init__(self, mean: float = 0.0, stddev: float = 0.05, seed: _Seed = None) -> None: ...

class TruncatedNormal(RandomNormal): ...

class RandomUniform(_Random):
    minval: float
    maxval: float
    def __init__(self, minval: float = -0.05, maxval: float = 0.05, seed: _Seed = None) -> None: ...

class Orthogonal(_Random):
    gain: float
    def __init__(self, gain: float = 1.0, seed: _Seed = None) -> None: ...

class VarianceScaling(_Random):
    scale: float
    mode: str
    distribution: str
    def __init__(
        self,
        scale: float = 1.0,
        mode: str = "fan_in",
        distribution: str = "truncated_normal",
        seed: _Seed = None,
        input_axes: Sequence[int] | None = None,
        output_axes: Sequence[int] | None = None,
    ) -> None: ...

class _Scaled(VarianceScaling):
    def __init__(
        self, seed: _Seed = None, input_axes: Sequence[int] | None = None, output_axes: Sequence[int] | None = None
    ) -> None: ...

class GlorotNormal(_Scaled): ...
class GlorotUniform(_Scaled): ...
class HeNormal(_Scaled): ...
class HeUniform(_Scaled): ...
class LecunNormal(_Scaled): ...
class LecunUniform(_Scaled): ...

IdentityInitializer = identity = Identity
OrthogonalInitializer = orthogonal = Orthogonal
STFTInitializer = stft = STFT
constant = Constant
glorot_normal = GlorotNormal
glorot_uniform = GlorotUniform
he_normal = HeNormal
he_uniform = HeUniform
lecun_normal = LecunNormal
lecun_uniform = LecunUniform
ones = Ones
random_normal = RandomNormal
random_uniform = RandomUniform
truncated_normal = TruncatedNormal
variance_scaling = VarianceScaling
zeros = Zeros

def with_drawn_seed(name: str, seed: int | None) -> KerasInitializer: ...
def to_pure(value: object) -> object: ...
def copy_of(value: object) -> object: ...
def get(identifier: object) -> Callable[..., jax.Array] | None: ...
def serialize(initializer: object) -> Any: ...
def deserialize(config: object, custom_objects: Mapping[str, Any] | None = None) -> Any: ...
