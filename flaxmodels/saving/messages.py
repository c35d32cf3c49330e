"""Shortens text from untrusted files for error messages."""

MAX_SENTENCE = 4_000  # An error that lists all layers has 3000 characters.


def reason(error: Exception) -> str:
    """Returns the shortened first line of an error without its full stop, for use inside another sentence.

    Example:
        >>> reason(ValueError("It failed.\\nMore text."))
        'It failed'
    """
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return shorten(lines[0].rstrip("."), MAX_SENTENCE)


def shorten(text: str, length: int) -> str:
    """Returns the text, cut after `length` characters.

    Example:
        >>> shorten("abcdef", 3)
        'abc ...'
    """
    return text if len(text) <= length else f"{text[:length]} ..."
