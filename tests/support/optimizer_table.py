"""A table with one row per optimizer and option, and functions that run them here and in Keras."""

import jax
import jax.numpy as jnp
import keras
import numpy as np
import optax

SHAPES = {"dense": {"kernel": (4, 3), "bias": (3,)}, "conv": (2, 3, 4), "embedding": (5, 2), "scale": ()}

# Each row: an optimizer and arguments that change its formula. A test checks that every optimizer has a row.
ROWS = [
    ("SGD", dict(learning_rate=0.1)),
    ("SGD", dict(learning_rate=0.1, momentum=0.8)),
    ("SGD", dict(learning_rate=0.1, momentum=0.8, nesterov=True)),
    ("RMSprop", dict(learning_rate=0.02)),
    ("RMSprop", dict(learning_rate=0.02, rho=0.7, momentum=0.6, epsilon=1e-3)),
    ("RMSprop", dict(learning_rate=0.02, momentum=0.6, centered=True, epsilon=1e-3)),
    ("Adam", dict(learning_rate=0.02)),
    ("Adam", dict(learning_rate=0.02, beta_1=0.7, beta_2=0.8, epsilon=1e-2)),
    ("Adam", dict(learning_rate=0.02, beta_2=0.6, amsgrad=True)),
    ("AdamW", dict(learning_rate=0.02)),
    ("AdamW", dict(learning_rate=0.02, weight_decay=0.3, amsgrad=True)),
    ("Adamax", dict(learning_rate=0.02)),
    ("Adamax", dict(learning_rate=0.02, beta_1=0.7, beta_2=0.8, epsilon=1e-2)),
    ("Nadam", dict(learning_rate=0.02)),
    ("Nadam", dict(learning_rate=0.02, beta_1=0.7, beta_2=0.8, epsilon=1e-2)),
    ("Adagrad", dict(learning_rate=0.1)),
    ("Adagrad", dict(learning_rate=0.1, initial_accumulator_value=0.0, epsilon=1e-2)),
    ("Adadelta", dict(learning_rate=0.5)),
    ("Adadelta", dict(learning_rate=0.5, rho=0.6, epsilon=1e-2)),
    ("Adafactor", dict(learning_rate=0.5)),
    ("Adafactor", dict(learning_rate=0.05, epsilon_1=1e-3, epsilon_2=0.3, clip_threshold=0.5)),
    ("Adafactor", dict(learning_rate=0.5, relative_step=False, beta_2_decay=-0.5)),
    ("Ftrl", dict(learning_rate=0.1)),
    ("Ftrl", dict(learning_rate=0.1, l1_regularization_strength=0.5, l2_regularization_strength=0.1)),
    (
        "Ftrl",
        dict(
            learning_rate=0.1,
            learning_rate_power=-0.3,
            initial_accumulator_value=0.2,
            l2_shrinkage_regularization_strength=0.05,
            beta=0.4,
        ),
    ),
    ("Lion", dict(learning_rate=0.02)),
    ("Lion", dict(learning_rate=0.02, beta_1=0.6, beta_2=0.8)),
    ("Lamb", dict(learning_rate=0.02)),
    ("Lamb", dict(learning_rate=0.02, beta_1=0.7, beta_2=0.8, epsilon=1e-2)),
    ("Muon", dict(learning_rate=0.02)),
    ("Muon", dict(learning_rate=0.02, nesterov=False, ns_steps=2, rms_rate=None, exclude_embeddings=False)),
    ("Muon", dict(learning_rate=0.02, momentum=0.5, adam_lr_ratio=0.3, exclude_layers=["kern"], weight_decay=0.2)),
    ("Muon", dict(learning_rate=0.02, adam_weight_decay=None, weight_decay=None, exclude_embeddings=False)),
    ("ScheduleFreeAdamW", dict(learning_rate=0.05)),
    ("ScheduleFreeAdamW", dict(learning_rate=0.05, beta_1=0.7, beta_2=0.8, epsilon=1e-2, warmup_steps=4)),
]
FIRST_ROWS = list({name: (name, config) for name, config in reversed(ROWS)}.values())[::-1]


def some(*names):
    return [row for row in FIRST_ROWS if row[0] in names]


OPTIONS = {
    "clipnorm": dict(clipnorm=0.7),
    "clipvalue and decay": dict(clipvalue=0.3, weight_decay=0.1),
    "global_clipnorm, scale and average": dict(
        global_clipnorm=0.8, loss_scale_factor=8.0, use_ema=True, ema_momentum=0.8, ema_overwrite_frequency=3
    ),
    "accumulation and all": dict(
        gradient_accumulation_steps=2,
        weight_decay=0.1,
        clipnorm=0.7,
        use_ema=True,
        ema_momentum=0.8,
        ema_overwrite_frequency=2,
    ),
}


def tree(make):
    return jax.tree.map(make, SHAPES, is_leaf=lambda s: isinstance(s, tuple))


def example(steps, seed=0):
    """Returns parameters and the gradients of some steps; one gradient is 0."""
    random = np.random.default_rng(seed)
    draw = lambda shape: jnp.asarray(random.normal(size=shape), jnp.float32)  # noqa: E731
    params, grads = tree(draw), [tree(draw) for _ in range(steps)]
    return params, [jax.tree.map(jnp.zeros_like, g) if i == 4 else g for i, g in enumerate(grads)]


def run(optimizer, params, grads, wrap=lambda f: f, before=lambda i, state: state):
    """Returns the parameters after each step, and the last state."""
    state, update, trace = optimizer.init(params), wrap(optimizer.update), []
    for i, g in enumerate(grads):
        updates, state = update(g, before(i, state), params)
        params = optax.apply_updates(params, updates)
        trace.append(params)
    return trace, state


def named(params):
    """Returns the leaves in a dictionary keyed by path, joined by "_" like the names of the Keras variables here."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="_"): leaf
        for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]
    }


def run_keras(optimizer, params, grads, before=lambda i, optimizer: None):
    """Returns the same as `run`, computed by Keras: a list of dicts of arrays."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        variables = [keras.Variable(w, name=name) for name, w in named(params).items()]
        trace = []
        for i, g in enumerate(grads):
            before(i, optimizer)
            optimizer.apply(list(named(g).values()), variables)
            trace.append({v.name: np.asarray(v.value) for v in variables})
    return trace


def assert_same(got, want, rtol=3e-6, atol=1e-6):
    for step, (ours, theirs) in enumerate(zip(got, want, strict=True)):
        ours = named(ours)
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            np.testing.assert_allclose(ours[name], value, rtol, atol, err_msg=f"{name} after step {step + 1}")


def config_id(value):
    return value if isinstance(value, str) else ",".join(k for k in value if k != "learning_rate") or "plain"
