"""Metrics do not depend on the split of the data into batches or on the order in which states are merged."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support.metric_table import ROWS
from training import metrics

EXAMPLES = 13


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("row", ROWS, ids=lambda r: r.id)
def test_results_do_not_depend_on_the_split_and_the_merge_order(row, seed):
    """Splits shuffled examples into padded batches, some of them empty, and merges random neighbors until one is left."""
    rng = np.random.default_rng(seed)
    m, arrays = getattr(metrics, row.name)(**row.kwargs), row.arrays(batch=EXAMPLES, seed=seed)
    weight = rng.choice([0.0, 0.5, 1.0, 2.0], EXAMPLES).astype(np.float32)
    update, empty = jax.jit(m.update), m.empty_for(*arrays)

    def state_of(rows):
        """Returns the state after these examples, padded to 16 with masked examples."""
        held = np.append(rows, rng.integers(0, EXAMPLES, 16 - len(rows))).astype(int)
        mask = jnp.arange(16) < len(rows)
        return update(empty, *(jnp.asarray(a[held]) for a in arrays), sample_weight=weight[held], mask=mask)

    whole = m.compute(m.update(empty, *map(jnp.asarray, arrays), sample_weight=weight))
    edges = np.sort(rng.integers(1, EXAMPLES, rng.integers(1, 6)))
    states = [state_of(rows) for rows in np.split(rng.permutation(EXAMPLES), edges)]
    while len(states) > 1:
        i = rng.integers(len(states) - 1)
        states[i : i + 2] = [m.merge(states[i + 1], states[i])]
    np.testing.assert_allclose(m.compute(states[0]), whole, rtol=3e-6, atol=1e-6)
