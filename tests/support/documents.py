"""Runs the documentation's programs in the test process, which saves import and compile time."""

import contextlib
from unittest import mock

import jax

import training


@contextlib.contextmanager
def as_for_users(folder):
    """Enters a folder and restores JAX's default settings instead of the strict ones of the tests."""
    cache = jax.config.jax_compilation_cache_dir
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.chdir(folder))
        stack.enter_context(jax.numpy_rank_promotion("allow"))
        stack.enter_context(jax.numpy_dtype_promotion("standard"))
        # Examples may change the process: `retain_heap` is replaced, and the compilation cache is restored afterwards.
        stack.enter_context(mock.patch.object(training, "retain_heap", lambda: True, create=True))
        stack.callback(jax.config.update, "jax_compilation_cache_dir", cache)
        yield


def run(blocks, file):
    """Runs blocks of code as one program; errors show the line in the file.

    Args:
        blocks: Dictionary from the number of lines above a block to its text.
        file: The file that contains the blocks.
    """
    names = {"__name__": "__main__"}
    for above, text in blocks.items():
        exec(compile("\n" * above + text, file, "exec"), names)
