"""Cases of layers for numbers, which Keras computes with JAX: arguments, data to adapt to, and inputs."""

import numpy as np

RNG = np.random.default_rng(3)
X = RNG.normal(1.0, 2.0, (12, 4, 3)).astype("float32")
TABLE = X[:, 0]
IDS = RNG.integers(0, 5, (6, 4))
WAVES = (np.sin(np.arange(400) / 7.0) * [[1.0], [0.3]] + RNG.normal(0, 0.01, (2, 400))).astype("float32")
SOUND = WAVES[:, :, None] * np.array([1.0, 0.5], "float32")

# (class, arguments, data to adapt to or None, inputs)
CASES: list[tuple[str, dict, object, object]] = [
    ("Rescaling", {"scale": 1 / 255, "offset": -0.5}, None, IDS.astype("uint8")),
    ("Rescaling", {"scale": [1.0, 2.0, 3.0], "offset": [0.5, 0.0, 1.0]}, None, X),
    ("Rescaling", {"scale": np.array([1.0, 2.0, 3.0]), "offset": 1}, None, X),
    *[
        ("Normalization", {"axis": axis, "invert": invert}, X, X[:5])
        for axis in (-1, None, 1, (1, 2), [2, -2])
        for invert in (False, True)
    ],
    ("Normalization", {}, TABLE.astype("float64"), X),
    ("Normalization", {}, [X[:3], X[3:]], X),
    ("Normalization", {"axis": None}, np.arange(5.0), np.arange(3.0)),
    ("Normalization", {}, None, X),
    ("Normalization", {"mean": 3.0, "variance": 2.0}, None, TABLE),
    ("Normalization", {"mean": [1.0, 2.0, 3.0], "variance": [1.0, 4.0, 0.0], "invert": True}, None, X),
    *[
        ("Discretization", {"bin_boundaries": [-1.0, 0.5, 2.0], "output_mode": mode}, None, inputs)
        for mode in ("int", "one_hot", "multi_hot", "count")
        for inputs in (TABLE, TABLE[:, :1], TABLE[0], X)
    ],
    *[
        ("Discretization", {"num_bins": bins, "epsilon": epsilon}, data, TABLE)
        for bins, epsilon in ((4, 0.01), (7, 0.1), (3, 0.5))
        for data in (X, [X[:5], X[5:]], np.arange(1000.0) ** 2)
    ],
    *[
        ("CategoryEncoding", {"num_tokens": 4, "output_mode": mode}, None, inputs)
        for mode in ("one_hot", "multi_hot", "count")
        for inputs in (IDS, IDS[:, :1], IDS[0], [[0, 3], [1, 1]])
    ],
    *[
        ("STFTSpectrogram", {"mode": mode, "frame_length": 16, "padding": padding, "expand_dims": expand}, None, SOUND)
        for mode in ("log", "magnitude", "psd", "real", "imag", "stft")
        for padding, expand in (("valid", False), ("same", True))
    ],
    ("STFTSpectrogram", {"frame_length": 12, "frame_step": 5, "fft_length": 32, "window": "hamming"}, None, SOUND),
    ("STFTSpectrogram", {"frame_length": 16, "periodic": True, "scaling": "spectrum", "window": "boxcar"}, None, SOUND),
    ("STFTSpectrogram", {"frame_length": 16, "scaling": None, "window": None}, None, SOUND),
    (
        "STFTSpectrogram",
        {"frame_length": 16, "data_format": "channels_first", "expand_dims": True},
        None,
        SOUND.swapaxes(1, 2).copy(),
    ),
    *[
        ("MelSpectrogram", {"fft_length": 64, "sequence_stride": 16, "num_mel_bins": 8, **more}, None, waves)
        for more in (
            {},
            {"sequence_length": 40, "window": "hamming", "sampling_rate": 8000, "max_freq": 3000.0},
            {"power_to_db": False, "mag_exp": 1.0},
            {"top_db": 20.0, "ref_power": 2.0, "min_power": 1e-4},
        )
        for waves in (WAVES, WAVES[0])
    ],
]


def adapt_keras(layer, data):
    """Adapts a layer of Keras, whose `adapt` needs TensorFlow for batches and for any data of Discretization."""
    parts = data if isinstance(data, list) else [data]
    if not hasattr(layer, "update_state"):
        layer.adapt(np.concatenate(parts))
        return
    for part in parts:
        layer.update_state(part)
    layer.finalize_state()
