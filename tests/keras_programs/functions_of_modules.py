"""Losses, metrics, activations, regularizers, constraints and rates called without a model."""

import numpy as np


def program(keras):
    ops, rng = keras.ops, np.random.default_rng(40)
    y, p = rng.random((4, 3), dtype="float32"), rng.random((4, 3), dtype="float32")
    labels = np.array([0, 2, 1, 2])
    results = {}
    for name in ("mean_squared_error", "huber", "kl_divergence", "hinge", "log_cosh", "poisson", "binary_crossentropy"):
        results[f"loss {name}"] = getattr(keras.losses, name)(y, p)
        results[f"got {name}"] = keras.losses.get(name)(y, p)
    results["Huber"] = float(keras.losses.Huber(delta=0.2)(y, p))
    results["weighted"] = float(keras.losses.MeanSquaredError()(y, p, sample_weight=np.array([1.0, 0, 2, 0.5])))
    results["none"] = keras.losses.MeanAbsoluteError(reduction="none")(y, p)
    results["sparse"] = float(keras.losses.SparseCategoricalCrossentropy(from_logits=True)(labels, p))
    results["smooth"] = float(keras.losses.CategoricalCrossentropy(label_smoothing=0.1)(np.eye(3)[labels], p))
    results["focal"] = float(keras.losses.BinaryFocalCrossentropy(gamma=1.5)((y > 0.5).astype("float32"), p))
    for name in ("relu", "gelu", "selu", "softplus", "swish", "hard_sigmoid", "mish", "softmax", "leaky_relu"):
        results[f"activation {name}"] = keras.activations.get(name)(ops.convert_to_tensor(p - 0.5))
    metric = keras.metrics.SparseCategoricalAccuracy()
    metric.update_state(labels, p)
    metric.update_state(labels, np.eye(3)[labels])
    results["accuracy"] = float(metric.result())
    metric.reset_state()
    metric.update_state(labels, p, sample_weight=[1, 0, 0, 1])
    results["weighted accuracy"] = float(metric.result())
    auc = keras.metrics.AUC(num_thresholds=20)
    auc.update_state((y > 0.5).astype("float32"), p)
    results["auc"] = float(auc.result())
    iou = keras.metrics.MeanIoU(num_classes=3)
    iou.update_state(labels, [0, 1, 1, 2])
    results["iou"] = float(iou.result())
    results["mean"] = float(keras.metrics.Mean()(p))
    results["l1"] = float(keras.regularizers.L1(0.1)(ops.convert_to_tensor(y)))
    results["norm"] = keras.constraints.UnitNorm(axis=0)(ops.convert_to_tensor(y))
    schedules = keras.optimizers.schedules
    for schedule in (
        schedules.CosineDecay(0.1, 10, warmup_target=0.3, warmup_steps=3),
        schedules.PiecewiseConstantDecay([2, 5], [1.0, 0.5, 0.1]),
        schedules.PolynomialDecay(0.1, 10, 0.01, power=2.0),
        schedules.InverseTimeDecay(0.1, 5, 0.5),
    ):
        results[type(schedule).__name__] = [float(schedule(step)) for step in range(9)]
    results["adam"] = keras.optimizers.Adam(0.3, beta_1=0.8).get_config()["beta_1"]
    return results
