"""The seeds of a sweep trained together: one vmapped step and one vmapped evaluation for all of them.

Each run keeps its own work directory, iterator, records and checkpoints, the same as if it had been trained alone, so any of
them can be resumed alone, and runs that were stopped at different steps can be resumed together. What they share is read and
compiled once: the data, the model's functions (which must not depend on the seed) and the evaluation's batches.
"""

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import jax

from seqjax.errors import UserError
from seqjax.run import (
    cli,
    curves,
    driver,
    environment,
    failed,
    initial,
    process,
    records,
    reporting,
    resuming,
    session,
    settings,
    workdir,
)
from seqjax.run.experiment import Dataset, Experiment, Model, spec_to_json
from seqjax.run.recipe import data_mesh, make_plan, shown
from seqjax.run.settings import ConfigDict
from seqjax.training import loop, train_step
from seqjax.training.checkpoints import Checkpoints
from seqjax.training.lockstep import Joint, fit_together
from seqjax.training.progress import Progress


class Member(NamedTuple):
    """One of the runs, before its work directory is opened."""

    name: str
    command: cli.Command
    stored: resuming.Stored | None
    config: ConfigDict
    spec: Any
    pipeline: Any
    setup: driver.Setup
    plan: loop.Plan
    extension: resuming.Extension | None
    begin: initial.Start
    state: train_step.TrainState  # the first one, or one for the checkpoint to fill


class Same(NamedTuple):
    """What all runs share."""

    experiment: Experiment
    dataset: Dataset
    baselines: dict[str, Any]
    found: dict[int, dict[str, float]]  # which run -> metrics of the evaluation under way


def train(experiment: Experiment, runs: Sequence[tuple[str, cli.Command]]) -> list[int | UserError] | str:
    """Starts or resumes runs that differ in their seeds alone.

    Args:
      experiment: of the runs.
      runs: name and command line of each.

    Returns:
      For each, its exit status or the error that ended it; or, before anything is trained, why they cannot be trained together.

    Raises:
      UserError: the settings or the data are not those of a run that is resumed, or a work directory cannot be used.
    """
    reporting.require_extras()
    with contextlib.ExitStack() as stack:
        found = _members(experiment, runs, stack)
        if isinstance(found, str):
            return found
        members, dataset = found
        first, defaults = members[0], {name: field.default for name, field in experiment.fields.items()}
        opened = []
        for member in members:
            folder = member.command.workdir
            held = stack.enter_context(workdir.locked(folder))
            resuming.check_unchanged(folder, experiment, member.stored)
            workdir.claim(folder, settings.to_json(member.config), experiment=experiment.name, defaults=defaults)
            environment.record(folder, member.stored.step if member.stored else 0, environment.facts())
            opened.append(Checkpoints(folder, keep=member.config.train.keep, check=held.check, defaults=defaults))
            stack.callback(opened[-1].close)
        same = Same(experiment, dataset, driver.baselines_of(experiment, first.command.workdir, first.config, dataset), {})
        lines = list(experiment.describe(first.config, first.spec, dataset, first.setup.model)) if experiment.describe else []
        driver.describe(experiment, first.config, dataset, first.setup, first.pipeline, same.baselines, lines)
        print(f"training {len(members)} seeds together, one vmapped step for all: {', '.join(member.name for member in members)}")
        loops = [_loop(same, *one, place, stack) for place, one in enumerate(zip(members, opened))]
        print(f"ready after {process.seconds_since_start():.1f} s; Ctrl-C stops with checkpoints, the same command resumes")
        step = loops[0].task.step
        outcomes = fit_together(loops, Joint(step, first.setup.mesh, _evaluation(same, first.config, first.spec, first.setup.model)))
        stack.close()
        return [_conclude(same, member, outcome) for member, outcome in zip(members, outcomes)]


def _members(
    experiment: Experiment, runs: Sequence[tuple[str, cli.Command]], stack: contextlib.ExitStack
) -> tuple[list[Member], Dataset] | str:
    """All runs, and their data; or why they cannot be trained together."""
    dataset, members, model = None, [], None
    for name, command in runs:
        stored = resuming.stored(command.workdir, experiment)
        config = resuming.settings_of(experiment, command, stored)
        loaded = experiment.load(config)
        dataset = dataset or loaded
        if loaded.fingerprint != dataset.fingerprint:
            return "the data depend on the seed"
        spec = resuming.accepted_spec(experiment, command, stored, dataset, experiment.prepare(config, dataset))
        pipeline = stack.enter_context(driver.closing(experiment.batches(config, spec, dataset.parts["train"], training=True)))
        if len(getattr(pipeline, "boundaries", ())) > 1:
            return "batches are padded to several lengths, whose order depends on the seed"
        setup = driver.set_up(experiment, config, spec, pipeline.batches_per_epoch, model)
        model, plan = setup.model, make_plan(config, setup.recipe.steps)
        if setup.shardings is not None:
            return "mesh.model and mesh.shard cut the parameters of each run by itself"
        if plan.diagnose_every:
            return "diagnostics.every looks at each run alone"
        extension = resuming.extension(command, stored, setup.recipe, plan, pipeline.batches_per_epoch)
        begin = initial.Start(experiment, command, config, spec, dataset, setup)
        state = begin.resumed(stored.meta["began_from"]) if stored else begin.state()
        members.append(Member(name, command, stored, config, spec, pipeline, setup, plan, extension, begin, state))
        if spec_to_json(spec) != spec_to_json(members[0].spec) or setup.recipe.steps != members[0].setup.recipe.steps:
            return "what is made of the data depends on the seed"
    return members, cast(Dataset, dataset)


def _loop(same: Same, member: Member, checkpoints: Checkpoints, place: int, stack: contextlib.ExitStack) -> loop.Run:
    """The loop of one run at its newest checkpoint, or at its start."""
    name, command, stored, config, spec, pipeline, setup, plan, extension, begin, state = member
    experiment, dataset, folder = same.experiment, same.dataset, command.workdir
    accepted = command.options.accept_changed_data
    pipeline = resuming.accepting(pipeline, accepted)
    restored = loop.restore(
        checkpoints, state, pipeline, lambda meta: resuming.check_data(experiment, folder, dataset, spec, meta, accepted=accepted)
    )
    state, progress, first = restored or (state, Progress(), 0)
    if restored:
        print(f"{name}: resuming from the checkpoint of step {first}")
        progress = extension(state, progress) if extension else progress
    reporter = stack.enter_context(
        reporting.Reporter(
            folder, first_step=first, total_steps=plan.steps, config=settings.to_json(config), label=f"{name}  ", bar=place == 0
        )
    )
    task = driver.make_task(experiment, config, spec, dataset, setup, lambda trained, progress: same.found[place])
    meta = resuming.meta(experiment, config, spec, dataset, begin.origin, stored)
    return loop.Run(task, plan, state, pipeline, progress, reporter, checkpoints, meta, functools.partial(failed.keep, folder))


def _evaluation(same: Same, config: ConfigDict, spec: Any, model: Model) -> Callable[..., None]:
    """Evaluates stacked states on the validation part; puts each one's metrics where its task finds them."""
    size = config.data.eval_batch_size
    mesh = data_mesh(config)
    batches = same.experiment.batches(config, spec, same.dataset.parts["validation"], training=False)

    def loss(params, model_state, carry, batch, rng):
        def one(params, model_state, carry):
            return model.loss(params, model_state, carry, batch, rng)

        # Of the carry the second axis is that of the runs: its first is the batch's, along which devices share it.
        return jax.vmap(one, in_axes=(0, 0, 1), out_axes=(1, 0, 0))(params, model_state, carry)

    for_so_many = functools.cache(lambda runs: train_step.make_evaluate(loss, mesh))
    first_carry = jax.jit(jax.vmap(lambda params: model.initial_carry(params, size), out_axes=1))

    def evaluate(state: train_step.TrainState, places: Sequence[int], progress: train_step.Advance) -> None:
        params, model_state = shown(config, state)
        sums = for_so_many(len(places))(params, model_state, first_carry(params), batches, progress)
        for row, place in enumerate(places):
            mine = jax.tree.map(lambda column: column[row], sums, is_leaf=lambda x: isinstance(x, list))  # noqa: B023
            same.found[place] = model.metric.compute(mine)

    return evaluate


def _conclude(same: Same, member: Member, outcome: loop.Outcome | UserError) -> int | UserError:
    """Draws the curves of a run and says how it ended."""
    folder, config = member.command.workdir, member.config
    print(f"--- {member.name}")
    if isinstance(outcome, UserError):
        print(f"failed: {outcome}")
        return outcome
    picture = curves.plot_curves(
        folder, records.read_records(folder), **driver.curve_options(same.experiment, config, member.spec, same.baselines)
    )
    return session.conclude(outcome, member.setup.recipe.steps, driver.best_line(same.experiment, config, folder), picture)
