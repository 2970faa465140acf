"""What the package promises at its surface: names, annotations, docstrings, and few dependencies."""

import importlib
import inspect
import pkgutil

import pytest

import diffopt_lib

PUBLIC_MODULES = [
    "diffopt_lib",
    "diffopt_lib.controllers",
    "diffopt_lib.layers",
    "diffopt_lib.linear",
    "diffopt_lib.memory",
    "diffopt_lib.widgets",
]


def public_objects():
    for name in PUBLIC_MODULES:
        module = importlib.import_module(name)
        names = getattr(module, "__all__", None) or [
            n for n, o in vars(module).items() if not n.startswith("_") and getattr(o, "__module__", "") == name
        ]
        for attribute in names:
            value = getattr(module, attribute)
            if inspect.isfunction(value) or inspect.isclass(value):
                yield pytest.param(value, id=f"{name}.{attribute}")


@pytest.mark.parametrize("value", list(public_objects()))
def test_every_public_object_is_documented_and_annotated(value):
    assert inspect.getdoc(value)
    function = value.__init__ if inspect.isclass(value) else value
    if not inspect.isfunction(function):
        return
    signature = inspect.signature(function)
    for parameter in signature.parameters.values():
        assert parameter.name == "self" or parameter.annotation is not parameter.empty, parameter.name
    assert inspect.isclass(value) or signature.return_annotation is not signature.empty


def test_every_module_says_what_it_is_for():
    for info in pkgutil.walk_packages(diffopt_lib.__path__, "diffopt_lib."):
        assert importlib.import_module(info.name).__doc__, info.name


def test_public_names_of_the_core():
    assert {"implicit", "argmin", "unroll", "Solution", "SolverError"} <= set(diffopt_lib.__all__)
