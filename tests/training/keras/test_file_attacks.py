"""Files cannot make `keras.saving.load_model` import, run or look up anything that the program did not register."""

import json
import sys
import zipfile

import numpy as np
import pytest

from training import keras
from training.keras import registry


@pytest.fixture(autouse=True)
def _isolated(monkeypatch, tmp_path):
    monkeypatch.setattr(registry, "_objects", {})
    monkeypatch.setattr(registry, "_names", {})
    (tmp_path / "evil_module.py").write_text("raise SystemExit('imported')\nclass Evil: pass\ndef evil(*a): pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    assert "evil_module" not in sys.modules


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "m.keras"
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="d")], name="m")
    model.compile("adam", "mse", metrics=["mae"])
    model.save(path)
    return path


def changed(path, target, change):
    """Writes the file with a changed config and returns its name."""
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w") as archive:
        for member in source.infolist():
            content = source.read(member)
            if member.filename == "config.json":
                config = json.loads(content)
                change(config)
                content = json.dumps(config).encode()
            archive.writestr(member.filename, content)
    return str(target)


def refusal(call):
    with pytest.raises(ValueError) as caught:
        call()
    return str(caught.value)


EVIL_CLASSES = [
    {"module": "evil_module", "class_name": "Evil", "config": {}, "registered_name": "Evil"},
    {"module": "evil_module", "class_name": "Evil", "config": {}, "registered_name": "pack>Evil"},
    {"module": None, "class_name": "evil_module.Evil", "config": {}, "registered_name": "evil_module.Evil"},
    {"module": "os", "class_name": "system", "config": {"command": "true"}, "registered_name": None},
    {"module": "builtins", "class_name": "eval", "config": {}, "registered_name": None},
    {"module": "keras.src.utils.file_utils", "class_name": "get_file", "config": {}, "registered_name": None},
    {"module": "keras.layers", "class_name": "Lambda", "config": {"function": "print"}, "registered_name": None},
    {"class_name": "__lambda__", "config": {"value": "YQ=="}},
    {"class_name": "function", "module": "builtins", "config": "os.system", "registered_name": "function"},
    {"class_name": "function", "module": "evil_module", "config": "evil", "registered_name": "function"},
    {"class_name": "function", "module": "builtins", "config": "__import__", "registered_name": "function"},
]  # fmt: skip


@pytest.mark.parametrize("place", ["layer", "activation", "loss", "metric", "optimizer", "schedule", "model"])
def test_unknown_classes_and_functions_are_refused(saved, tmp_path, place):
    for evil in EVIL_CLASSES:

        def change(config, evil=evil):
            compiled = config["compile_config"]
            if place == "layer":
                config["config"]["layers"][1] |= {k: v for k, v in evil.items() if k != "config"}
                config["config"]["layers"][1]["config"] = (
                    {"name": "d", **evil["config"]} if isinstance(evil["config"], dict) else evil["config"]
                )
            elif place == "activation":
                config["config"]["layers"][1]["config"]["activation"] = evil
            elif place == "schedule":
                compiled["optimizer"]["config"]["learning_rate"] = evil
            elif place == "model":
                config |= evil
            else:
                compiled["metrics" if place == "metric" else place] = evil

        path = changed(saved, tmp_path / "evil.keras", change)
        sentence = refusal(lambda: keras.saving.load_model(path))  # noqa: B023
        assert sentence.startswith(path) and sentence.endswith("."), sentence
        if place in ("loss", "metric", "optimizer", "schedule"):
            assert "or pass compile=False" in sentence
            assert not keras.saving.load_model(path, compile=False).compiled


def test_large_arguments_and_patterns_are_refused(saved, tmp_path):
    def metric(name, **config):
        return {"module": "keras.metrics", "class_name": name, "config": config, "registered_name": None}

    muon = {"module": "keras.optimizers", "class_name": "Muon", "registered_name": None}
    cases = [
        ("metrics", [metric("AUC", num_thresholds=10**9)], "`num_thresholds` in a file must be at most 65536"),
        ("metrics", {"d": metric("MeanIoU", num_classes=10**9)}, "`num_classes` in a file must be at most 4096"),
        ("metrics", [metric("AUC", num_thresholds=float("inf"))], "`num_thresholds` in a file must be at most 65536"),
        ("optimizer", muon | {"config": {"ns_steps": 10**9}}, "`ns_steps` in a file must be at most 128"),
        ("optimizer", muon | {"config": {"exclude_layers": ["(a+)+$"]}}, "must be names of layers, got ['(a+)+$']"),
        ("optimizer", muon | {"config": {"exclude_layers": "(a+)+$"}}, "must be names of layers, got '(a+)+$'"),
    ]
    for key, value, expected in cases:
        path = changed(
            saved,
            tmp_path / "large.keras",
            lambda config: config["compile_config"].update({key: value}),  # noqa: B023
        )
        assert expected in refusal(lambda: keras.saving.load_model(path))  # noqa: B023


def test_custom_objects_are_known_only_during_the_call(saved, tmp_path):
    def doubled(x):
        return 2 * x

    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, activation=doubled, name="d")])
    path = str(tmp_path / "own.keras")
    model.save(path)
    sentence = refusal(lambda: keras.saving.load_model(path))
    assert "'doubled'" in sentence and "custom_objects" in sentence
    loaded = keras.saving.load_model(path, custom_objects={"doubled": doubled})
    assert loaded.layers[0].activation is doubled
    np.testing.assert_array_equal(loaded.get_weights()[0], model.get_weights()[0])
    refusal(lambda: keras.saving.load_model(path))
    assert "'doubled'" in refusal(lambda: keras.models.model_from_json(model.to_json()))
    assert keras.models.model_from_json(model.to_json(), {"doubled": doubled}).layers[0].activation is doubled


def test_safe_mode_changes_nothing(saved):
    with pytest.warns(
        UserWarning, match="^`safe_mode=False` of load_model has no effect, because files never run code"
    ):
        keras.saving.load_model(saved, safe_mode=False)
