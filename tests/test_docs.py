"""Runs the code of the documentation, and checks its links and its list of modules."""

import importlib
import inspect
import pathlib
import re

import pytest

import flaxmodels
import training
from flaxmodels import layers
from tests.support.documents import as_for_users, run

ROOT = pathlib.Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
BLOCK = re.compile(r"```python\n(.*?)```", re.S)
WITH_CODE = [page for page in PAGES if BLOCK.search(page.read_text())]

# Helpers that public modules import.
INTERNAL = {"flaxmodels.extras", "flaxmodels.names", "training.caller"}


def name_of(page):
    return str(page.relative_to(DOCS))


@pytest.mark.spread  # every page in each run
@pytest.mark.parametrize("page", WITH_CODE, ids=name_of)
def test_code_of_a_page_runs(page, tmp_path):
    """The blocks of a page are one program: a block may use the names of the blocks above it."""
    text = page.read_text()
    with as_for_users(tmp_path):
        run({text[: match.start(1)].count("\n"): match[1] for match in BLOCK.finditer(text)}, page)


@pytest.mark.spread
@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda page: page.name)
def test_links_lead_to_files(page):
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
        if not re.match(r"[a-z]+:", target):
            assert (page.parent / target).exists(), target


def documented():
    """The modules that the reference names."""
    return {name for page in PAGES for name in re.findall(r"^::: ([\w.]+)", page.read_text(), re.M)}


def public_modules():
    """The modules that define the public classes and functions of the two packages."""
    packages = flaxmodels, training
    modules = [getattr(package, name) for package in packages for name in package.__all__]
    found = set()
    for module in [*packages, *filter(inspect.ismodule, modules)]:
        names = getattr(module, "__all__", None) or [name for name in vars(module) if not name.startswith("_")]
        things = [getattr(module, name) for name in names]
        found |= {thing.__module__ for thing in things if inspect.isclass(thing) or inspect.isfunction(thing)}
    return {name for name in found if name.split(".")[0] in ("flaxmodels", "training")} - INTERNAL


def test_the_reference_covers_every_public_module():
    assert public_modules() - documented() == set()


def test_the_reference_names_modules_that_exist():
    for name in documented():
        importlib.import_module(name)


def test_the_reference_lists_every_layer():
    text = (DOCS / "api" / "layers.md").read_text()
    blocks = re.findall(r"^::: (flaxmodels\.layers\.[\w.]+)\n    options:\n      members: \[(.*)\]$", text, re.M)
    listed = {(module, name) for module, names in blocks for name in names.split(", ")}
    expected = {(getattr(layers, name).__module__, name) for name in layers.__all__}
    assert listed == expected - {("flaxmodels.layers.symbolic", "Input")}  # Input is on the page of models
