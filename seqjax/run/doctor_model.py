"""What --doctor finds of the model: built as shapes alone, so that no parameter is allocated, and refused as training would refuse it."""

from typing import Any

import jax
import jax.numpy as jnp

from seqjax.run import cli, driver, evaluation, initial, resuming
from seqjax.run.experiment import Dataset, Experiment
from seqjax.run.recipe import data_mesh, make_plan, make_recipe
from seqjax.run.settings import ConfigDict
from seqjax.training import loop, processes, train_step
from seqjax.training.profiling import check_steps


def outline(experiment: Experiment, config: ConfigDict, spec: Any, batches_per_epoch: int) -> driver.Setup:
    """As driver.set_up, with a state of shapes (jax.ShapeDtypeStruct) on no device."""
    recipe, mesh, model = make_recipe(config, batches_per_epoch), data_mesh(config), experiment.build(config, spec)

    def first(key):
        variables = dict(model.init(key))
        params = variables.pop("params")
        carry = model.initial_carry(params, config.data.batch_size)
        how = {"average": config.optimizer.ema > 0, "frozen": recipe.frozen}
        return train_step.first_state(recipe.optimizer, params, variables or (), carry, key, **how)

    state, fsdp = jax.eval_shape(first, jax.random.key(config.seed)), config.mesh.shard == "fsdp"
    cut = fsdp or config.mesh.model > 1
    return driver.Setup(model, recipe, mesh, state, fsdp, train_step.state_shardings(mesh, state, fsdp=fsdp) if cut else None)


def see(
    experiment: Experiment,
    command: cli.Command,
    config: ConfigDict,
    stored: resuming.Stored | None,
    dataset: Dataset,
    spec: Any,
    pipeline: Any,
) -> dict[str, Any]:
    """The model's size as JSON values.

    Args:
      experiment, command, config, stored, dataset, spec: of the run.
      pipeline: of the training part; not advanced.

    Raises:
      UserError: what a run refuses before its first step: frozen patterns, --init_from, --extend, --profile, diagnostics.every,
        what the model itself refuses when its step is traced, a validation part, and what the experiment's `describe` refuses.
    """
    setup = outline(experiment, config, spec, pipeline.batches_per_epoch)
    profile = cli.profiled(command.options.profile)
    plan = make_plan(config, setup.recipe.steps, profile)
    if profile:
        check_steps(profile, first=stored.step if stored else 0, last=plan.steps)
    resuming.extension(command, stored, setup.recipe, plan, pipeline.batches_per_epoch)
    begin = initial.Start(experiment, command, config, spec, dataset, setup)
    begin.resumed(stored.meta["began_from"]) if stored else begin.check()
    trace(setup, plan, pipeline)
    evaluation.Evaluator.make(experiment, config, spec, setup.model, dataset.parts["validation"])
    if experiment.describe:
        list(experiment.describe(config, spec, dataset, setup.model))
    return {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(setup.state.params)),
        "state": sum(map(_bytes, jax.tree.leaves(setup.state))),
    }


def trace(setup: driver.Setup, plan: loop.Plan, pipeline: Any) -> None:
    """Traces the first step, and its diagnosis where one is asked for; nothing is computed but a batch."""
    count = jax.process_count() if processes.several() else 1

    def whole(leaf):
        return jax.ShapeDtypeStruct((count * leaf.shape[0], *leaf.shape[1:]), jnp.result_type(leaf))

    batch = jax.tree.map(whole, driver.peek(pipeline))
    jax.eval_shape(driver.proposal_of(setup), setup.state, batch)
    if plan.diagnose_every:
        driver.check_diagnosed(plan, driver.diagnosis_of(setup), setup.state, batch)


def _bytes(leaf: Any) -> int:
    return leaf.size * leaf.dtype.itemsize
