"""Prints every layer for data beside Keras: the number of cases, and the largest difference of an output.

Layers for numbers are compared with Keras itself, layers for strings with its recorded answers.

Synopsis:
    python tests/preprocessing_table.py        # exits with 1 if a layer differs
"""

import collections
import json
import os
import pathlib
import sys

os.environ.setdefault("KERAS_BACKEND", "jax")
HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import keras as real  # noqa: E402
import numpy as np  # noqa: E402

from tests.support import number_cases, string_cases  # noqa: E402
from training import keras  # noqa: E402

TOLERANCE = 1e-5


def outputs(module, kind, config, data, inputs):
    """Returns the outputs of a layer as an array."""
    layer = getattr(module.layers, kind)(**config)
    if data is not None and module is real:
        number_cases.adapt_keras(layer, data)
    elif data is not None:
        layer.adapt(data)
    return np.asarray(layer(inputs))


def difference(found, expected):
    """Returns the largest difference, relative to the largest value; infinity for other shapes or strings."""
    if found.shape != expected.shape:
        return np.inf
    if found.dtype.kind in "US":
        return 0.0 if (found == expected).all() else np.inf
    scale = max(1.0, float(np.abs(expected).max(initial=0)))
    return float(np.abs(found - expected).max(initial=0)) / scale


def main():
    """Prints the table and returns the exit code."""
    found = collections.defaultdict(list)
    for case in number_cases.CASES:
        found[case[0]].append(difference(outputs(keras, *case), outputs(real, *case)))
    answers = json.loads((HERE / "recorded" / "strings.json").read_text())
    for (kind, config, data, inputs), answer in zip(string_cases.CASES, answers, strict=True):
        given = outputs(keras, kind, config, None if data is None else np.array(data), inputs)
        found[kind].append(difference(given, np.array(answer["outputs"]).reshape(answer["shape"])))
    for kind, differences in sorted(found.items()):
        print(f"{kind:20s} {len(differences):4d} cases, largest difference {max(differences):.1e}")
    return int(max(max(differences) for differences in found.values()) > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
