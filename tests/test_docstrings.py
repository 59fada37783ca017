"""Every module's examples run, every public name says what it is, and every public function is shown in an example."""

import doctest
import enum
import functools
import importlib
import inspect
import pathlib
import re

import pytest

import seqjax

ROOT = pathlib.Path(seqjax.__file__).parent
MODULES = sorted(
    ".".join(("seqjax", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
    for path in ROOT.rglob("*.py")
)
every_module = pytest.mark.parametrize("name", MODULES)

# Shown in no example, each for a reason.
NOT_SHOWN = {
    "seqjax.cells.parts": "what the cells share; users do not call it",
    "seqjax.engines": "called by unroll alone",
    "seqjax.engines.associative": "called by unroll alone",
    "seqjax.engines.cudnn": "called by unroll alone",
    "seqjax.engines.dense": "called by the fused engine",
    "seqjax.engines.fused": "called by unroll alone",
    "seqjax.engines.pallas": "called by unroll alone",
    "seqjax.engines.pallas_kernel": "called by the pallas engine",
    "seqjax.engines.pallas_plan": "called by the pallas engine",
    "seqjax.engines.pallas_tiles": "called by the pallas engine",
    "seqjax.engines.scan": "called by unroll alone",
    "seqjax.engines.steps": "what the engines share",
    "seqjax.cnn.resnet.ResidualBlock": "what the two blocks share",
    "seqjax.cnn.convolution_banded": "called by convolve alone",
    "seqjax.cnn.convolution_columns": "called by convolve alone",
    "seqjax.cnn.convolution_parts": "what the formulations share",
    "seqjax.cnn.convolution_shifted": "called by convolve alone",
    "seqjax.cnn.convolution_winograd": "called by convolve alone",
    "seqjax.wrappers.parts": "what the wrappers share; users do not call it",
    "seqjax.interop.parts": "what the converters share; users do not call it",
    "seqjax.data.readers.tfds": "needs a prepared TFDS set",
    "seqjax.data.readers.image_tfds": "needs a prepared TFDS set",
    "seqjax.training.checkpoints.manifest": "called by Checkpoints alone",
    "seqjax.training.checkpoints.migrate": "called by Checkpoints alone",
    "seqjax.training.checkpoints.reader": "works on the folders of a run",
    "seqjax.training.checkpoints.reading": "called by Checkpoints alone",
    "seqjax.training.checkpoints.record": "works on the folders of a run",
    "seqjax.training.checkpoints.store": "works on the folders of a run",
    "seqjax.training.checkpoints.writing": "called by Checkpoints alone",
    "seqjax.training.disk": "works on the folders of a run",
    "seqjax.run.command": "ends the process",
    "seqjax.run.cli": "ends the process, or needs an experiment: tests/run/test_cli.py",
    "seqjax.run.driver": "needs a whole experiment: experiments/language_model.py",
    "seqjax.run.evaluation.Evaluator": "needs a whole experiment: experiments/language_model.py",
    "seqjax.run.evaluation.run": "works on the directory of a run",
    "seqjax.run.evaluation.plain": "needs a whole experiment: experiments/language_model.py",
    "seqjax.run.evaluation.metrics": "needs a trained model: experiments/tagging.py",
    "seqjax.run.experiment": "what an experiment is made of: experiments/language_model.py",
    "seqjax.decoding.labelling": "needs a trained model: experiments/tagging.py",
    "seqjax.__main__.main": "ends the process",
    "seqjax.__main__.refuse": "ends the process",
    "seqjax.__main__.usage": "what --help prints",
    "seqjax.run.sweep.points": "takes a command line, as `run` does",
    "seqjax.run.sweep.run": "trains whole runs",
    "seqjax.run.sweep.read_results": "works on the folders of a run",
    "seqjax.run.sweep.table": "what a sweep prints",
    "seqjax.run.together": "trains whole runs",
    "seqjax.training.lockstep": "needs whole runs: seqjax.run.together calls it",
    "seqjax.training.loop": "needs a whole run: experiments/language_model.py shows it",
    "seqjax.training.profiling": "called by the loop alone",
    "seqjax.run.process": "changes the whole process",
    "seqjax.run.initial.Start": "works on the folders of a run",
    "seqjax.run.resuming": "works on the folders of a run",
    "seqjax.run.session": "works on the folders of a run",
    "seqjax.run.events": "works on the folders of a run",
    "seqjax.run.records": "works on the folders of a run",
    "seqjax.run.reporting": "works on the folders of a run",
    "seqjax.run.workdir": "works on the folders of a run",
    "seqjax.training.train_step.state_shardings": "what place and make_train_step are made of",
    "seqjax.training.train_step.place": "called by init_state",
}


# Examples of these need the package they are about.
NEEDS = {f"seqjax.interop.{name}": name for name in ("torch", "keras", "haiku", "equinox")}


def _examples(module):
    finder = doctest.DocTestFinder(exclude_empty=True)
    return [test for test in finder.find(module, module.__name__) if test.examples]


def _public(module):
    """(dotted name, object) of the functions and classes that a module itself defines."""
    for name, thing in vars(module).items():
        if (
            not name.startswith("_")
            and (inspect.isfunction(thing) or inspect.isclass(thing))
            and thing.__module__ == module.__name__
        ):
            yield f"{module.__name__}.{name}", thing


def _is_record(thing):
    """A class that only holds or names values: its fields are explained one by one, it does nothing to show."""
    is_tuple = inspect.isclass(thing) and issubclass(thing, tuple) and hasattr(thing, "_fields")
    return (
        is_tuple or getattr(thing, "_is_protocol", False) or (inspect.isclass(thing) and issubclass(thing, enum.Enum))
    )


@functools.cache
def _shown():
    """The words of all examples of the package."""
    sources = (
        example.source
        for name in MODULES
        for test in _examples(importlib.import_module(name))
        for example in test.examples
    )
    return set(re.findall(r"\w+", " ".join(sources)))


@every_module
def test_examples_run(name):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    runner, said = doctest.DocTestRunner(), []
    for test in _examples(importlib.import_module(name)):
        runner.run(test, out=said.append)
    assert runner.failures == 0, "".join(said)


def test_there_are_examples_and_a_wrong_one_is_found():
    assert sum(len(_examples(importlib.import_module(name))) for name in MODULES) > 40
    wrong = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "wrong", None, 0)
    assert doctest.DocTestRunner().run(wrong, out=lambda text: None).failed == 1


@every_module
def test_public_names_say_what_they_are(name):
    module = importlib.import_module(name)
    assert module.__doc__ and module.__doc__.strip(), f"{name} has no docstring"
    for path, thing in _public(module):
        # NamedTuple and dataclass write a signature where there is no docstring.
        assert thing.__doc__ and not thing.__doc__.startswith(f"{thing.__name__}("), f"{path} has no docstring"
        for method, function in vars(thing).items() if inspect.isclass(thing) else ():
            field = method in getattr(thing, "__dataclass_fields__", {})  # a function that is a field's default
            if inspect.isfunction(function) and not method.startswith("_") and not field:
                assert inspect.getdoc(getattr(thing, method)), f"{path}.{method} has no docstring"


@every_module
def test_public_functions_are_shown(name):
    for path, thing in _public(importlib.import_module(name)):
        if name in NOT_SHOWN or path in NOT_SHOWN or _is_record(thing):
            continue
        assert thing.__name__ in _shown(), f"{path} is in no example; give it one, or a reason in NOT_SHOWN"


def test_the_exceptions_name_what_exists():
    known = {path for name in MODULES for path in [name, *(path for path, _ in _public(importlib.import_module(name)))]}
    assert NOT_SHOWN.keys() <= known


@pytest.mark.parametrize("name", [name for name in seqjax.__all__ if inspect.isfunction(getattr(seqjax, name))])
def test_what_seqjax_exports_has_an_example_of_its_own(name):
    doc = inspect.getdoc(getattr(seqjax, name))
    for part in ("Args:", "Returns:", "Raises:", "Example:"):
        assert f"\n{part}\n" in doc, f"seqjax.{name} lacks {part}"
    assert f"seqjax.{name}(" in doc
