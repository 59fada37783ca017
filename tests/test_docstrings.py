"""Every module's examples run, every public name has a docstring, and what seqjax exports is shown in an example."""

import doctest
import importlib
import inspect
import pathlib
import types

import jax
import pytest

import seqjax

ROOT = pathlib.Path(seqjax.__file__).parent
MODULES = sorted(
    ".".join(("seqjax", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__") for path in ROOT.rglob("*.py")
)

# Examples of these need the package they are about.
NEEDS = {f"seqjax.interop.{name}": name for name in ("torch", "keras", "haiku", "equinox")} | {"seqjax.interop.keras_models": "keras"}


def _examples(module):
    finder = doctest.DocTestFinder(exclude_empty=True)
    return [test for test in finder.find(module, module.__name__) if test.examples]


def _public(module):
    """(dotted name, object) of the functions and classes that a module itself defines."""
    for name, thing in vars(module).items():
        if not name.startswith("_") and (inspect.isfunction(thing) or inspect.isclass(thing)) and thing.__module__ == module.__name__:
            yield f"{module.__name__}.{name}", thing


def _package(name):
    """What a module's examples run with: those of its package, or they alone where they need a package from outside."""
    return name if name in NEEDS else ".".join(name.split(".")[:2])


PACKAGES = sorted({_package(name) for name in MODULES})
# Their examples build networks or read whole sets: of each, by default, every second module's, and of the CNNs none.
DEAR = ("seqjax.data", "seqjax.decoding", "seqjax.diagnostics", "seqjax.models", "seqjax.training")
SHARES = [
    *(pytest.param(name, 0, marks=[pytest.mark.slow] if name == "seqjax.cnn" else [], id=name) for name in PACKAGES),
    *(pytest.param(name, 1, marks=pytest.mark.slow, id=f"{name}-the others") for name in DEAR),
]


@pytest.mark.parametrize("package, share", SHARES)
def test_examples_run(package, share):
    if package in NEEDS:
        pytest.importorskip(NEEDS[package])
    runner, said = doctest.DocTestRunner(), []
    # Keras promotes ranks inside, which the tests forbid.
    with jax.numpy_rank_promotion("allow" if NEEDS.get(package) == "keras" else "raise"):
        modules = [name for name in MODULES if _package(name) == package]
        for name in modules[share::2] if package in DEAR else modules:
            for test in _examples(importlib.import_module(name)):
                runner.run(test, out=said.append)
    assert runner.failures == 0, "".join(said)


def test_there_are_examples_and_a_wrong_one_is_found():
    assert sum(len(_examples(importlib.import_module(name))) for name in MODULES) > 40
    wrong = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "wrong", None, 0)
    assert doctest.DocTestRunner().run(wrong, out=lambda text: None).failed == 1


def _undocumented(name, module):
    """The module, its public names and their methods that have no docstring."""
    found = [] if (module.__doc__ or "").strip() else [name]
    for path, thing in _public(module):
        # NamedTuple and dataclass write a signature where there is no docstring.
        if not thing.__doc__ or thing.__doc__.startswith(f"{thing.__name__}("):
            found.append(path)
        for method, function in vars(thing).items() if inspect.isclass(thing) else ():
            field = method in getattr(thing, "__dataclass_fields__", {})  # a function that is a field's default
            if inspect.isfunction(function) and not method.startswith("_") and not field:
                if not inspect.getdoc(getattr(thing, method)):
                    found.append(f"{path}.{method}")
    return found


def test_public_names_say_what_they_are():
    found = [path for name in MODULES for path in _undocumented(name, importlib.import_module(name))]
    assert not found, f"without a docstring: {', '.join(found)}"


def test_what_has_no_docstring_is_found():
    source = "class Bare:\n    def method(self): pass\ndef bare(): pass\ndef _private(): pass\ndef told():\n    'Is told.'\n"
    module = types.ModuleType("made")
    exec(source, vars(module) | {"__name__": "made"}, names := {})
    vars(module).update(names)
    for thing in names.values():
        thing.__module__ = "made"
    assert _undocumented("made", module) == ["made", "made.Bare", "made.Bare.method", "made.bare"]


def test_what_seqjax_exports_has_an_example_of_its_own():
    docs = {name: inspect.getdoc(getattr(seqjax, name)) for name in seqjax.__all__ if inspect.isfunction(getattr(seqjax, name))}
    parts = [f"\n{part}:\n" for part in ("Args", "Returns", "Raises", "Example")]
    faults = [f"seqjax.{name} lacks {part.strip()}" for name, doc in docs.items() for part in parts if part not in doc]
    faults += [f"seqjax.{name} is not in its own example" for name, doc in docs.items() if f"seqjax.{name}(" not in doc]
    assert docs and not faults, "\n".join(faults)
