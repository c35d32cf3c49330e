"""Writes `keras-names.md`: every public name of Keras 3, and whether it is in `training.keras`.

Synopsis:
    python docs/keras_names.py            # writes the page
    python docs/keras_names.py --check    # exits with 1 unless the page is up to date
"""

import os
import pathlib
import sys
import types

os.environ.setdefault("KERAS_BACKEND", "jax")

PAGE = pathlib.Path(__file__).parent / "keras-names.md"
INTRODUCTION = """# Names of Keras

This page lists every public name of Keras {version}. A name that is not here raises an error with the alternative in
the right column. `docs/keras_names.py` writes this page.

"""


def names_of_keras() -> dict[str, list[str]]:
    """Returns the public names of each module of Keras; modules are not among the names."""
    import keras

    found: dict[str, list[str]] = {}

    def visit(module: types.ModuleType, path: str) -> None:
        for name in sorted(vars(module)):
            value = getattr(module, name)
            if name.startswith("_") or name == "src":
                continue
            if not isinstance(value, types.ModuleType):
                found.setdefault(path, []).append(name)
            elif value.__name__.startswith("keras"):
                visit(value, f"{path}.{name}")

    visit(keras, "keras")
    return found


def is_here(name: str) -> bool:
    """Returns whether `training.keras` has a name of Keras."""
    from training import keras

    value: object = keras
    for part in name.split(".")[1:]:
        try:
            value = getattr(value, part)
        except AttributeError:
            return False
    return True


def page() -> str:
    """Returns the text of the page."""
    import keras

    from training.keras import refused

    sections = [INTRODUCTION.format(version=".".join(keras.__version__.split(".")[:2]))]
    for module, names in names_of_keras().items():
        here = [name for name in names if is_here(f"{module}.{name}")]
        lines = [f"## {module}\n"]
        if here:
            lines.append(f"Here: {', '.join(f'`{name}`' for name in here)}.\n")
        groups: dict[str, list[str]] = {}
        for name in names:
            if name not in here:
                instead = refused.alternative(f"{module}.{name}") or "not yet here"
                groups.setdefault(instead, []).append(name)
        if groups:
            lines.append("| not here | instead |\n|---|---|")
            lines.extend(f"| {', '.join(f'`{n}`' for n in group)} | {instead} |" for instead, group in groups.items())
            lines.append("")
        sections.append("\n".join(lines))
    return "\n".join(sections)


if __name__ == "__main__":
    sys.path.insert(0, str(PAGE.parent.parent))
    text = page()
    if "--check" in sys.argv[1:]:
        sys.exit(PAGE.read_text(encoding="utf-8") != text)
    PAGE.write_text(text, encoding="utf-8")
