"""Gradient laboratory: how far gradients reach back in time, what truncation cuts off, how long units remember.

    python -m experiments.gradient_flow
        compares fresh networks (tanh at spectral radius 0.9, 1 and 1.1, LSTM with forget bias 0, 1 and 3, GRU) and
        writes a page with pictures to gradient_flow/gradients.html: under a minute on two cores
    python -m experiments.gradient_flow --cells="lstm(64, 1.0)" --cells="slstm(64, heads=4)" --steps=400
        compares cells of your choice, given as calls of seqjax functions
    python -m experiments.gradient_flow --workdir=/tmp/lm
        examines a trained language model, or any other run with a recurrent network, on a batch of its data;
        the page is /tmp/lm/gradients/gradients.html
    python -m experiments.gradient_flow --workdir=/tmp/lm --window=512 --checkpoint=newest
        the same on windows of 512 steps, to see how far the model's gradients would reach
    python -m experiments.gradient_flow --workdir=/tmp/lm --failed
        says where the step that stopped a run first was not finite: layer, time and sequences

Nothing is trained. Source: Pascanu, Mikolov and Bengio 2013, "On the difficulty of training recurrent neural networks"
(arXiv:1211.5063).
"""

import ast
import contextlib
import importlib
import pathlib
import sys
import time
import types
from typing import Any

import jax
import numpy as np
from absl import flags

import seqjax
from seqjax.diagnostics.failed_step import explain
from seqjax.diagnostics.laboratory import Findings, examine, write_report
from seqjax.diagnostics.ratios import update_ratios
from seqjax.errors import UserError
from seqjax.run import cli, driver, failed, process, trained
from seqjax.run.experiment import Experiment
from seqjax.training.checkpoints import Checkpoints
from seqjax.training.freezing import divide, unite

FRESH = (  # name in the pictures, cell, change to its fresh parameters
    ("tanh, radius 0.9", "rnn", {"radius": 0.9}),
    ("tanh, radius 1.0", "rnn", {"radius": 1.0}),
    ("tanh, radius 1.1", "rnn", {"radius": 1.1}),
    ("LSTM, forget bias 0", "lstm", {"forget_bias": 0.0}),
    ("LSTM, forget bias 1", "lstm", {"forget_bias": 1.0}),
    ("LSTM, forget bias 3", "lstm", {"forget_bias": 3.0}),
    ("GRU", "gru", {}),
)


def define(values: flags.FlagValues) -> None:
    """The flags with their help texts."""
    flags.DEFINE_string(
        "output", None, "Output folder; default gradient_flow, or gradients in the workdir.", flag_values=values
    )
    flags.DEFINE_string("workdir", None, "Work directory of a trained run to examine.", flag_values=values)
    flags.DEFINE_bool("failed", False, "For a run that stopped: show where its last step failed.", flag_values=values)
    flags.DEFINE_string("experiment", "", "File of the run's experiment, if it is your own.", flag_values=values)
    flags.DEFINE_enum("checkpoint", "best", trained.WHICH, "Which checkpoint of the run.", flag_values=values)
    flags.DEFINE_enum("split", "train", cli.SPLITS, "The part of its data to take the batch from.", flag_values=values)
    flags.DEFINE_integer(
        "window", 0, "Steps of the batch, for a run with data.window; 0: the run's own window.", flag_values=values
    )
    flags.DEFINE_integer(
        "batch", 8, "Maximum sequences in the batch, for a run with data.batch_size.", 1, flag_values=values
    )
    flags.DEFINE_integer("network", 0, "Which recurrent network, if the model has several.", 0, flag_values=values)
    flags.DEFINE_multi_string("cells", [], 'Fresh networks: a cell to compare, such as "gru(64)".', flag_values=values)
    flags.DEFINE_integer("hidden_size", 32, "Fresh networks: H of the default cells.", 1, flag_values=values)
    flags.DEFINE_integer("steps", 100, "Fresh: T.", 2, flag_values=values)
    flags.DEFINE_float("input_scale", 0.1, "Fresh networks: standard deviation of the noise.", 0.0, flag_values=values)
    flags.DEFINE_integer("seed", 0, "Fresh networks: seed of the parameters and inputs.", flag_values=values)
    flags.DEFINE_bool("help", False, "Shows this help.", short_name="h", flag_values=values)


def main(argv: list[str]) -> int:
    """Runs the command line."""
    values = flags.FlagValues()
    define(values)
    try:
        rest = values(argv)
    except flags.Error as error:
        raise cli.UsageError(f"{str(error).strip().splitlines()[0]}; --help lists all flags") from None
    if values.help:
        print(f"{__doc__}\n{values.get_help()}")
        return 0
    if len(rest) > 1:
        raise cli.UsageError(f"{rest[1]!r} is not a flag; flags begin with --, and --help lists them")
    return run(values)


def run(options: Any) -> int:
    """Examines fresh cells or a trained run, and writes the page."""
    process.use_compilation_cache()
    if options.failed:
        print("\n".join(explain_failed(options)))
        return 0
    begin = time.perf_counter()
    if options.workdir:
        folder = pathlib.Path(options.workdir).expanduser()
        findings, title, intro = look_at(folder, options)
        folder = pathlib.Path(options.output or folder / "gradients").expanduser()
    else:
        findings, title, intro = compare(options)
        folder = pathlib.Path(options.output or "gradient_flow").expanduser()
    page = write_report(folder, findings, title=title, intro=intro)
    for found in findings:
        print(line(found))
    print(f"{page} after {time.perf_counter() - begin:.0f} s")
    return 0


def line(found: Findings) -> str:
    """The line printed about a network."""
    kept = [f"cosine {c:.3f} at window {w}" for w, c in zip(found.truncation.windows, found.truncation.cosine)]
    memory = ", ".join(f"{np.median(m.half_life):.3g}" for m in found.memory)
    largest = (
        "" if found.lyapunov is None else f"largest exponent {float(found.lyapunov.exponents[:, 0].mean()):+.4f}, "
    )
    return f"{found.label}: {largest}median half-life {memory} steps, {kept[len(kept) // 2]}"


# Fresh cells.


def compare(options: Any) -> tuple[list[Findings], str, str]:
    """Examines each fresh cell on the same noise, with a loss on all of its outputs."""
    xs = options.input_scale * jax.random.normal(
        jax.random.key(options.seed), (min(options.batch, 4), options.steps, 32)
    )
    chosen = [(text, cell_of(text), {}) for text in options.cells]
    chosen = chosen or [(label, getattr(seqjax, name)(options.hidden_size), how) for label, name, how in FRESH]
    findings = []
    for label, cell, how in chosen:
        print(f"examining {label}", flush=True)
        params = changed(cell.init(jax.random.key(options.seed + 1), xs.shape[-1]), **how)
        targets = jax.random.normal(jax.random.key(options.seed + 2), (*xs.shape[:2], cell.hidden_size))

        def loss(params, cell=cell, targets=targets):
            return ((seqjax.unroll(cell, params, xs)[1] - targets) ** 2).mean()

        findings.append(examine(loss, params, label=label))
    text = f"{len(chosen)} fresh networks on the same {xs.shape[0]} sequences of {options.steps} steps of noise "
    text += f"(standard deviation {options.input_scale:g}). The loss is the mean squared distance of each output to a "
    text += "random target."
    return findings, "Gradient flow in fresh recurrent networks", text


def changed(params: Any, radius: float | None = None, forget_bias: float | None = None) -> Any:
    """Fresh parameters with a random recurrent kernel of this spectral radius, or with this forget bias."""
    if radius is not None:
        kernel = np.random.default_rng(0).normal(size=params.recurrent_kernel.shape)
        kernel *= radius / np.abs(np.linalg.eigvals(kernel)).max()
        params = params._replace(recurrent_kernel=jax.numpy.asarray(kernel, params.recurrent_kernel.dtype))
    if forget_bias is not None:
        size = params.bias.shape[0] // 4
        params = params._replace(bias=params.bias.at[size : 2 * size].set(forget_bias))
    return params


def cell_of(text: str) -> Any:
    """The cell that a call such as "lstm(64, peepholes=True)" makes; only plain values may be its arguments."""
    try:
        call = ast.parse(text, mode="eval").body
        name, make = call.func.id, getattr(seqjax, call.func.id)
        arguments = [ast.literal_eval(value) for value in call.args]
        cell = make(*arguments, **{keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords})
    except (SyntaxError, AttributeError, ValueError, TypeError) as error:
        raise UserError(f'--cells={text!r} must be a call of a cell of seqjax, such as "gru(64)": {error}') from None
    if not isinstance(cell, seqjax.Cell):
        raise UserError(f"--cells={text!r} must make a cell, and {name} does not")
    return cell


# A trained run.


def look_at(folder: pathlib.Path, options: Any) -> tuple[list[Findings], str, str]:
    """Examines the model of a run on the first batch of a part of its data."""
    experiment = experiment_of(folder, options.experiment)
    how = types.SimpleNamespace(checkpoint=options.checkpoint, accept_changed_data=False)
    command = cli.Command(mode="gradients", workdir=folder, preset=None, given={}, options=how)
    opened = driver.opened(experiment, command)
    model = opened.trained
    dataset = driver.load_same(experiment, command, model, opened.meta)
    config = model.config.copy_and_resolve_references()
    config.unlock()
    config.data.batch_size = min(config.data.batch_size, options.batch)
    if options.window and "window" not in config.data:
        raise UserError(
            f"--window has no effect on a run of {experiment.name}, whose data have no window; leave it out"
        )
    if options.window:
        config.data.window = options.window
    with driver.closing(experiment.batches(config, model.spec, dataset.parts[options.split], training=True)) as batches:
        batch = jax.tree.map(jax.numpy.asarray, next(batches))
    size = jax.tree.leaves(batch)[0].shape[0]
    carry = model.model.initial_carry(model.params, size)

    def loss(params):
        _, _, sums = model.model.loss(params, model.model_state, carry, batch, None)
        return sums.loss / sums.tokens

    ratios = update_ratios(*one_step(opened, loss))
    found = examine(
        loss, model.params, label=f"{experiment.name}, step {model.step:,}", ratios=ratios, place=options.network
    )
    text = f"The {options.checkpoint} checkpoint of the run in {folder.name}, of step {model.step:,}, on {size} "
    text += f"sequences of its {options.split} data, without training noise, from the initial carry. The loss is "
    text += f"the mean over all {experiment.unit}."
    return [found], f"Gradient flow in a trained run of {experiment.name}", text


def one_step(opened: driver.Opened, loss: Any) -> tuple[Any, Any]:
    """The trained parameters before and after one more step of the run's optimizer, at its base learning rate."""
    trained, fixed = divide(opened.state.params, opened.recipe.frozen)
    grads = jax.jit(jax.grad(lambda trained: loss(unite(trained, fixed))))(trained)
    updates, _ = opened.recipe.optimizer.update(grads, opened.state.opt_state, trained)
    return trained, jax.tree.map(lambda p, u: p + (opened.state.lr_scale * u).astype(p.dtype), trained, updates)


def experiment_of(folder: pathlib.Path, file: str) -> Experiment:
    """The experiment of a work directory."""
    with contextlib.closing(Checkpoints(folder, keep=1)) as checkpoints:
        found = checkpoints.newest_meta()
    if found is None:
        raise UserError(f"there is no run with a checkpoint in {folder}; train one first, or leave --workdir out")
    return named(found[1]["experiment"], file)


def named(name: str, file: str) -> Experiment:
    """The experiment of this name, which lies beside this file, or in a file of the user's own."""
    folder = pathlib.Path(file or __file__).expanduser().absolute().parent
    if not (folder / f"{name}.py").is_file():
        raise UserError(f"the run is of the experiment {name}: name its file by --experiment=./{name}.py")
    package = "" if file or not __spec__ else __spec__.parent
    sys.path[:0] = [str(folder)] if file else []
    return importlib.import_module(f"{package}.{name}".lstrip(".")).EXPERIMENT


# The step that stopped a run.


def explain_failed(options: Any) -> list[str]:
    """Says where the failed step that a work directory keeps was not finite first."""
    if not options.workdir:
        raise UserError("--failed needs the --workdir of the run that stopped")
    folder = pathlib.Path(options.workdir).expanduser()
    experiment = named(failed.newest_meta(folder)["experiment"], options.experiment)
    step = driver.failed_step(experiment, folder)
    how = step.setup.model.loss, driver.proposal_of(step.setup), step.setup.mesh, step.state, step.batch
    return [step.line(experiment.name), *explain(*how, accumulate=step.setup.recipe.accumulate)]


if __name__ == "__main__":
    cli.call(main)
