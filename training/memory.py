"""Memory of the process: how the C library treats freed heap memory."""

import ctypes

# Parameters of mallopt in glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8


def retain_heap() -> bool:
    """Lets the process retain freed heap memory instead of returning it to the system after each compiled program.

    On a CPU, a program allocates memory for its intermediate results each time it runs. The C library returns large
    blocks to the system when they are freed, and the system fills them with zeros when they are allocated again. In
    measurements this took a third of a short step and a twentieth of a chunk of ten steps.

    The setting affects the whole process: its threads share one heap, and its memory use stays at its peak. That is why
    only the command line makes it by default.

    Returns:
        Whether the C library supports the setting; glibc does.

    References:
        GNU C library, `mallopt`.

    Example:
        >>> retain_heap() in (True, False)
        True
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    # The heap of a further arena is limited to 64 MiB, and larger blocks would still be mapped: use one arena.
    settings = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1, M_ARENA_MAX: 1}
    return all([mallopt(parameter, value) for parameter, value in settings.items()])
