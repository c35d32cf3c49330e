"""Records the answers of Keras, which needs TensorFlow for them, for the cases of `tests/support/string_cases.py`.

Synopsis:
    python -m pip install keras==3.15.1 tensorflow-cpu
    python tests/recorded/record_strings.py        # from the root of the repository; writes strings.json
"""

import json
import os
import pathlib
import sys

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import keras
import numpy as np

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

from tests.support.string_cases import CASES  # noqa: E402


def plain(value: object) -> object:
    """Returns arrays and NumPy numbers as lists and numbers of Python; floats keep nine digits."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, bytes):
        return value.decode()
    value = value.item() if isinstance(value, np.generic) else value
    return float(f"{value:.9g}") if isinstance(value, float) else value


def answer(kind: str, config: dict, data: object, inputs: object) -> dict[str, object]:
    """Returns the outputs, the vocabulary and the configuration of one case."""
    given = {name: tuple(v) if name == "ngrams" and isinstance(v, list) else v for name, v in config.items()}
    layer = getattr(keras.layers, kind)(**given)
    if data is not None:
        layer.adapt(np.array(data))
    arrays = [np.array(x) for x in inputs] if kind == "HashedCrossing" else np.array(inputs)
    outputs = np.asarray(layer(arrays))
    found = {"outputs": outputs, "shape": list(outputs.shape)}
    if hasattr(layer, "get_vocabulary"):
        found["vocabulary"] = layer.get_vocabulary()
    described = layer.get_config()
    described.pop("name")
    return plain(found | {"config": described})


def main() -> None:
    """Writes the answers of all cases, one per line."""
    lines = []
    for case in CASES:
        try:
            lines.append(json.dumps(answer(*case), ensure_ascii=False))
        except Exception as error:  # Keras raises errors of TensorFlow
            print(case[0], case[1], "raises", type(error).__name__, str(error)[:100])
            lines.append(json.dumps({"error": type(error).__name__}))
    (HERE / "strings.json").write_text("[\n" + ",\n".join(lines) + "\n]\n")
    print(f"recorded {len(lines)} cases of Keras {keras.__version__}")


if __name__ == "__main__":
    main()
