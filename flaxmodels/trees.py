"""The types of nested structures of arrays, masks or symbols, which JAX calls pytrees."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias, TypeVar

import jax

Leaf = TypeVar("Leaf")
# One value, or a list, tuple or dictionary of trees.
Tree: TypeAlias = Leaf | Sequence["Tree[Leaf]"] | Mapping[str, "Tree[Leaf]"]

ArrayTree: TypeAlias = Tree[jax.Array]
# None in place of an array without a mask; a single None where no array has one.
MaskTree: TypeAlias = Tree[jax.Array | None]
