"""The docstrings of classes that add state to a pure class."""


def without_example(documented: object) -> str | None:
    """Returns the docstring of a pure class or function without its example, which shows the pure API.

    Example:
        >>> from flaxmodels.layers import Dense
        >>> "Example:" in without_example(Dense)
        False
    """
    text = documented.__doc__
    if text is None:
        return None
    before, _, after = text.partition("    Example:\n")
    rest = after.splitlines()
    # The example ends at the first line that is not indented more than its title.
    end = next((i for i, line in enumerate(rest) if line.strip() and not line.startswith(" " * 8)), len(rest))
    return before.rstrip() + "\n\n" + "\n".join(rest[end:]) if end < len(rest) else before.rstrip() + "\n"
