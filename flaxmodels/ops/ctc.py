"""Numerics of connectionist temporal classification: the loss, greedy decoding and beam search.

The loss and the decoders work in log-probabilities. A path assigns a class to each frame; its labels are what remains
when repeated classes are merged and then blanks are removed.
"""

import jax
import jax.numpy as jnp

LOG_ZERO = -1e5  # replaces log(0) in the loss, as in Keras


def negative_log_likelihood(
    log_p: jax.Array,
    labels: jax.Array,
    label_lengths: jax.Array,
    frame_lengths: jax.Array | None = None,
    blank: int = 0,
) -> jax.Array:
    """Returns -log of the total probability of all paths with given labels.

    Args:
        log_p: Log-probabilities of the classes per frame.
        labels: Class indices, with any padding at the end.
        label_lengths: The number of labels of each example.
        frame_lengths: The number of frames of each example; None if all frames are used.
        blank: The class of the blank.

    Shapes: log_p [B, T, C], labels [B, L], lengths [B] -> [B].

    References:
        Graves et al., Connectionist Temporal Classification, 2006.

    Example:
        >>> log_p = jnp.log(jnp.full((1, 1, 2), 0.5))
        >>> print(negative_log_likelihood(log_p, jnp.array([[1]]), jnp.array([1])).round(4))
        [0.6931]
    """
    log_blank = jnp.moveaxis(log_p[:, :, blank], 1, 0)  # [T, B]
    log_emit = jnp.moveaxis(jnp.take_along_axis(log_p, labels[:, None, :], axis=2), 1, 0)  # [T, B, L]
    # Two equal labels in succession need a blank between them.
    repeated = jnp.pad(labels[:, :-1] == labels[:, 1:], ((0, 0), (0, 1)))

    def advance(phi: jax.Array, arrived: jax.Array) -> jax.Array:
        return jnp.concatenate([phi[:, :1], jnp.logaddexp(phi[:, 1:], arrived)], axis=1)

    def step(
        carry: tuple[jax.Array, jax.Array], x: tuple[jax.Array, jax.Array, jax.Array | None]
    ) -> tuple[tuple[jax.Array, jax.Array], None]:
        # Log-probabilities of ending on a blank after n labels [B, L + 1], and on label n [B, L].
        phi, label = carry
        log_blank, log_emit, is_frame = x
        ready = advance(phi, label + jnp.where(repeated, LOG_ZERO, 0.0).astype(label.dtype))
        next_label = jnp.logaddexp(ready[:, :-1], label) + log_emit
        # `ready` already includes paths from labels that may be followed directly by the next label. Only paths
        # that need a blank because the label is repeated are added here, so that no path counts twice.
        needs_blank = label + log_blank[:, None] + jnp.where(repeated, 0.0, LOG_ZERO).astype(label.dtype)
        next_phi = advance(ready + log_blank[:, None], needs_blank)
        if is_frame is not None:
            next_phi = jnp.where(is_frame[:, None], next_phi, phi)
            next_label = jnp.where(is_frame[:, None], next_label, label)
        return (next_phi, next_label), None

    start = jnp.full((labels.shape[0], labels.shape[1] + 1), LOG_ZERO, log_p.dtype).at[:, 0].set(0.0)
    is_frame = None if frame_lengths is None else jnp.arange(log_p.shape[1])[:, None] < frame_lengths[None, :]
    (phi, label), _ = jax.lax.scan(step, (start, start[:, 1:]), (log_blank, log_emit, is_frame))
    return -jnp.take_along_axis(advance(phi, label), label_lengths[:, None], axis=1)[:, 0]


def greedy_decode(
    scores: jax.Array, frame_lengths: jax.Array, merge_repeated: bool, blank: int
) -> tuple[jax.Array, jax.Array]:
    """Returns the labels of the path that takes the best class of each frame.

    Args:
        scores: Scores of the classes per frame.
        frame_lengths: The number of frames of each example.
        merge_repeated: Whether repeated classes are merged.
        blank: The class of the blank.

    Shapes: scores [B, T, C], frame_lengths [B] -> labels [B, T], filled with -1 at the end, and the negative sum of the
        best scores [B, 1].
    """
    frames = jnp.arange(scores.shape[1])[None, :]
    is_frame = frames < frame_lengths[:, None]
    classes = jnp.where(is_frame, jnp.argmax(scores, axis=-1), blank)
    total = -jnp.sum(jnp.where(is_frame, jnp.max(scores, axis=-1), 0), axis=1, keepdims=True)
    is_label = classes != blank
    if merge_repeated:
        is_label = is_label & jnp.pad(classes[:, 1:] != classes[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    order = jnp.argsort(~is_label, axis=1, stable=True)
    return jnp.take_along_axis(jnp.where(is_label, classes, -1), order, axis=1), total


def beam_search_decode(
    log_p: jax.Array, frame_lengths: jax.Array, beam_width: int, top_paths: int, blank: int
) -> tuple[jax.Array, jax.Array]:
    """Returns the most probable labels that a prefix beam search finds.

    Args:
        log_p: Log-probabilities of the classes per frame.
        frame_lengths: The number of frames of each example.
        beam_width: Number of prefixes kept after each frame.
        top_paths: Number of results per example.
        blank: The class of the blank.

    Shapes: log_p [B, T, C], frame_lengths [B] -> labels [top_paths, B, T], filled with -1 at the end, and their
        log-probabilities [B, top_paths].

    References:
        Hannun et al., First-Pass Large Vocabulary Continuous Speech Recognition using Bi-Directional Recurrent DNNs,
        2014, https://arxiv.org/abs/1408.2873
    """
    frames, classes = log_p.shape[1:]
    rows, positions = jnp.arange(beam_width), jnp.arange(frames)

    def step(
        beam: tuple[jax.Array, jax.Array, jax.Array, jax.Array], frame: tuple[jax.Array, jax.Array]
    ) -> tuple[tuple[jax.Array, jax.Array, jax.Array, jax.Array], None]:
        # The prefixes [W, T], their lengths, and the log-probabilities of their paths that end on the last label and
        # on a blank.
        prefixes, lengths, on_label, on_blank = beam
        log_classes, is_frame = frame
        total = jnp.logaddexp(on_label, on_blank)
        last = jnp.where(lengths > 0, prefixes[rows, lengths - 1], -1)
        stay_on_blank = total + log_classes[blank]
        stay_on_label = jnp.where(lengths > 0, on_label + log_classes[last], -jnp.inf)
        # A repeated class extends a prefix only after a blank.
        is_repeat = jnp.arange(classes)[None, :] == last[:, None]
        extended = jnp.where(is_repeat, on_blank[:, None], total[:, None]) + log_classes[None, :]
        extended = extended.at[:, blank].set(-jnp.inf)
        # An extension that is already in the beam is added to it: prefix q without its last label is prefix p.
        is_tail = positions[None, :] == (lengths - 1)[:, None]
        parents = jnp.where(is_tail, -1, prefixes)
        is_used = (lengths > 0) & (total > -jnp.inf)
        is_parent = jnp.all(parents[None, :, :] == prefixes[:, None, :], axis=-1) & is_used[None, :]
        of_parent = jnp.where(is_parent, extended[:, last], -jnp.inf)  # [p, q]
        stay_on_label = jnp.logaddexp(stay_on_label, jax.nn.logsumexp(of_parent, axis=0))
        merged = jnp.zeros(extended.shape, bool).at[rows[:, None], last[None, :]].max(is_parent)
        extended = jnp.where(merged, -jnp.inf, extended)
        candidates = jnp.concatenate([jnp.logaddexp(stay_on_label, stay_on_blank), extended.ravel()])
        best = jax.lax.top_k(candidates, beam_width)[1]
        stays = best < beam_width
        source = jnp.where(stays, best, (best - beam_width) // classes)
        added = jnp.where(stays, -1, (best - beam_width) % classes)
        at_end = (positions[None, :] == lengths[source][:, None]) & ~stays[:, None]
        new = (
            jnp.where(at_end, added[:, None], prefixes[source]),
            lengths[source] + (~stays).astype(lengths.dtype),
            jnp.where(stays, stay_on_label[source], candidates[best]),
            jnp.where(stays, stay_on_blank[source], -jnp.inf),
        )
        return jax.tree.map(lambda after, before: jnp.where(is_frame, after, before), new, beam), None

    def decode(log_p: jax.Array, length: jax.Array) -> tuple[jax.Array, jax.Array]:
        empty = jnp.full((beam_width, frames), -1, jnp.int32)
        # The beam starts with the empty prefix; the probability of unused places is 0.
        start = jnp.full(beam_width, -jnp.inf, log_p.dtype)
        beam = (empty, jnp.zeros(beam_width, jnp.int32), start, start.at[0].set(0.0))
        (prefixes, _, on_label, on_blank), _ = jax.lax.scan(step, beam, (log_p, positions < length))
        scores, best = jax.lax.top_k(jnp.logaddexp(on_label, on_blank), top_paths)
        return prefixes[best], scores

    labels, scores = jax.vmap(decode)(log_p, frame_lengths)
    return jnp.moveaxis(labels, 1, 0), scores
