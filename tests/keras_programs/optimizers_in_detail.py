"""Names, variables, configurations and updates of optimizers, losses and schedules outside of `fit`."""

import numpy as np

OPTIMIZERS = "SGD RMSprop Adam AdamW Adadelta Adagrad Adamax Nadam Ftrl Lion Lamb"
LOSSES = (
    "BinaryCrossentropy CategoricalCrossentropy CategoricalHinge CosineSimilarity Hinge Huber KLDivergence LogCosh "
    "MeanAbsoluteError MeanSquaredError MeanSquaredLogarithmicError Poisson SquaredHinge"
).split()


def program(keras):
    layers, rng, results = keras.layers, np.random.default_rng(8), {}
    x, y = rng.random((10, 3), dtype="float32"), rng.random((10, 2), dtype="float32")
    gradients = [rng.normal(size=shape).astype("float32") for shape in ((3, 2), (2,))]

    for name in OPTIMIZERS.split():
        cls = getattr(keras.optimizers, name)
        optimizer = cls(0.01, clipnorm=1.0)
        layer = layers.Dense(2, name="head")
        layer.build((None, 3))
        layer.set_weights([np.ones((3, 2)), np.ones(2)])
        for _ in range(3):
            optimizer.apply(gradients, layer.trainable_variables)
        count = optimizer.apply_gradients(zip([None, gradients[1]], layer.trainable_variables, strict=True))
        results[f"{name}_weights"] = np.concatenate([np.ravel(w) for w in layer.get_weights()])
        results[f"{name}_count"] = [int(count), int(optimizer.iterations)]
        results[f"{name}_names"] = [variable.path for variable in optimizer.variables if variable.name != "variable"]
        config = optimizer.get_config()
        again = cls.from_config(config)
        results[f"{name}_config"] = sorted(map(str, config.items()))
        results[f"{name}_again"] = [again.name, str(again.get_config() == config)]

    first, second = keras.optimizers.Adam(), keras.optimizers.get("adam")
    results["numbered"] = [first.name, second.name]
    first.learning_rate.assign(0.5)
    results["rate"] = [float(first.learning_rate), float(first.learning_rate.numpy()), float(first.learning_rate * 2)]
    scheduled = keras.optimizers.SGD(keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.5))
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2, name="only")])
    model.set_weights([np.ones((3, 2)), np.ones(2)])
    model.compile(scheduled, "mse")
    model.fit(x, y, batch_size=5, epochs=2, shuffle=False, verbose=0)
    results["scheduled"] = [float(scheduled.learning_rate), int(scheduled.iterations)]
    adam = keras.optimizers.Adam(0.1, amsgrad=True, use_ema=True)
    model.compile(adam, "mse")
    model.fit(x, y, batch_size=5, shuffle=False, verbose=0)
    results["trained_names"] = [variable.path for variable in adam.variables]
    results["trained"] = np.concatenate([np.ravel(np.asarray(variable.value)) for variable in adam.variables[:2]])
    adam.learning_rate = 0.2
    adam.iterations.assign(7)
    results["set"] = [float(adam.learning_rate), int(adam.iterations), float(adam.beta_1)]

    # A loop of the program's own, without state.
    optimizer = keras.optimizers.Adam(0.1)
    optimizer.build(model.trainable_variables)
    weights = [np.asarray(variable.value) for variable in model.trainable_variables]
    state = [np.asarray(variable.value) for variable in optimizer.variables]
    for _ in range(2):
        weights, state = optimizer.stateless_apply(state, gradients, weights)
    results["stateless"] = np.concatenate([np.ravel(w) for w in weights])
    results["stateless_state"] = np.concatenate([np.ravel(np.asarray(s)) for s in state])

    for name in LOSSES:
        loss = getattr(keras.losses, name)()
        results[f"{name}_value"] = [float(loss(y, x[:, :2])), float(loss(y, x[:, :2], sample_weight=x[:, 0]))]
        results[f"{name}_call"] = np.asarray(loss.call(y, x[:, :2]))
        results[f"{name}_name"] = [loss.name, loss.reduction]
        again = type(loss).from_config(loss.get_config())
        results[f"{name}_again"] = [again.name, str({"name", "reduction"} <= set(again.get_config()))]
    schedules = keras.optimizers.schedules
    for made in (
        schedules.CosineDecay(0.1, 10, warmup_target=0.2, warmup_steps=3),
        schedules.ExponentialDecay(0.1, 10, 0.5),
        schedules.PiecewiseConstantDecay([1, 2], [0.1, 0.2, 0.3]),
        schedules.PolynomialDecay(0.1, 10),
        schedules.InverseTimeDecay(0.1, 10, 0.5),
        schedules.CosineDecayRestarts(0.1, 10),
    ):
        label, again = type(made).__name__, type(made).from_config(made.get_config())
        results[f"{label}_config"] = sorted(map(str, made.get_config().items()))
        results[f"{label}_values"] = [float(made(4)), float(again(4))]

    inputs = keras.Input((3,), dtype="float16")
    half = keras.Model(inputs, layers.Dense(2, dtype="mixed_float16")(inputs), name="half")
    half.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1), dynamic_growth_steps=2), "mse")
    half.set_weights([np.ones((3, 2)), np.ones(2)])
    half.fit(x, y, batch_size=5, epochs=2, shuffle=False, verbose=0)
    scaled = half.optimizer
    results["scale"] = [float(scaled.dynamic_scale.value), int(scaled.step_counter.value), scaled.initial_scale]
    results["scaled"] = [scaled.name, scaled.inner_optimizer.name, str(scaled.dynamic_growth_steps)]
    return results
