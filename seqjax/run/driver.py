"""The driver: everything that all experiments have in common. An experiment defines the rest."""

import contextlib
import json
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from seqjax.data.report import report
from seqjax.diagnostics.during import Diagnose, make_diagnose
from seqjax.diagnostics.during_pictures import plot_diagnostics
from seqjax.errors import UserError
from seqjax.run import (
    cli,
    curves,
    distributed,
    environment,
    evaluation,
    failed,
    initial,
    records,
    reporting,
    resuming,
    session,
    settings,
    workdir,
)
from seqjax.run.experiment import Dataset, Experiment, Model, Trained, spec_from_json
from seqjax.run.recipe import Recipe, anywhere, data_mesh, devices_line, make_plan, make_recipe, shown
from seqjax.run.settings import ConfigDict
from seqjax.run.trained import read_model
from seqjax.training import loop, optimizers, processes, train_step
from seqjax.training.checkpoints import Checkpoints
from seqjax.training.checkpoints.shared import Shared
from seqjax.training.disk import write_atomically
from seqjax.training.freezing import frozen_mask
from seqjax.training.profiling import check_steps
from seqjax.training.sharding import bytes_per_device


class Setup(NamedTuple):
    """Model, optimiser and first state."""

    model: Model
    recipe: Recipe
    mesh: Any
    state: train_step.TrainState
    fsdp: bool = False  # whether parameters and optimiser state are cut over the mesh's axis `data`
    shardings: train_step.TrainState | None = None  # where the state lies; None where only the carry is cut


def set_up(experiment: Experiment, config: ConfigDict, spec: Any, batches_per_epoch: int | None, model: Model | None = None) -> Setup:
    """Builds everything that training changes, from the seed.

    Args:
      experiment: builds the model.
      config: of the run.
      spec: what the model must know of the data.
      batches_per_epoch: of the training part; None for reading a model only.
      model: where it was built already, for another seed.
    """
    recipe, mesh = make_recipe(config, batches_per_epoch), data_mesh(config)
    model = model or experiment.build(config, spec)
    init_key, run_key = jax.random.split(jax.random.key(config.seed))
    variables = dict(jax.jit(model.init)(init_key))
    params = variables.pop("params")
    carry = jax.jit(model.initial_carry, static_argnums=1)(params, config.data.batch_size)
    average, fsdp = config.optimizer.ema > 0, config.mesh.shard == "fsdp"
    state = train_step.init_state(
        params, variables or (), recipe.optimizer, carry, run_key, mesh, average=average, frozen=recipe.frozen, fsdp=fsdp
    )
    cut = fsdp or config.mesh.model > 1
    return Setup(model, recipe, mesh, state, fsdp, train_step.state_shardings(mesh, state, fsdp=fsdp) if cut else None)


# Training.


def train(experiment: Experiment, command: cli.Command) -> int:
    """Starts the run of a work directory, or resumes it. What can be refused is, before the directory is touched."""
    reporting.require_extras()
    profile, stored = cli.profiled(command.options.profile), resuming.stored(command.workdir, experiment)
    config = resuming.settings_of(experiment, command, stored)
    dataset = experiment.load(config)
    spec = resuming.accepted_spec(experiment, command, stored, dataset, experiment.prepare(config, dataset))
    with closing(processes.own_share(experiment.batches(config, spec, dataset.parts["train"], training=True))) as pipeline:
        setup = set_up(experiment, config, spec, pipeline.batches_per_epoch)
        plan = make_plan(config, setup.recipe.steps, profile if processes.first() else None)
        if profile:
            check_steps(profile, first=stored.step if stored else 0, last=plan.steps)
        extension = resuming.extension(command, stored, setup.recipe, plan, pipeline.batches_per_epoch)
        begin = initial.Start(experiment, command, config, spec, dataset, setup)
        state = begin.resumed(stored.meta["began_from"]) if stored else begin.state()
        task = make_task(experiment, config, spec, dataset, setup)
        if plan.diagnose_every:
            check_diagnosed(plan, task.diagnose, setup.state, task.place_batch(peek(pipeline)))
        lines = list(experiment.describe(config, spec, dataset, setup.model)) if experiment.describe else []
        check_same(config, dataset, state)
        with workdir.locked(command.workdir) if processes.first() else contextlib.nullcontext(workdir.Unlocked()) as held:
            distributed.check_visible(command.workdir)
            resuming.check_unchanged(command.workdir, experiment, stored)
            defaults = {name: field.default for name, field in experiment.fields.items()}
            if processes.first():
                workdir.claim(command.workdir, settings.to_json(config), experiment=experiment.name, defaults=defaults)
                environment.record(command.workdir, stored.step if stored else 0, environment.facts())
                baselines = baselines_of(experiment, command.workdir, config, dataset)
                describe(experiment, config, dataset, setup, pipeline, baselines, lines)
            outcome = session.run(
                command.workdir,
                task,
                plan,
                state,
                resuming.accepting(pipeline, command.options.accept_changed_data),
                Shared(Checkpoints(command.workdir, keep=config.train.keep, check=held.check, defaults=defaults)),
                meta=resuming.meta(experiment, config, spec, dataset, begin.origin, stored),
                config=settings.to_json(config),
                check_meta=lambda meta: resuming.check_data(
                    experiment, command.workdir, dataset, spec, meta, accepted=command.options.accept_changed_data
                ),
                extension=extension,
            )
            if not processes.first():
                return session.status(outcome)
            held.check()
            picture = curves.plot_curves(
                command.workdir, reporting.read_records(command.workdir), **curve_options(experiment, config, spec, baselines)
            )
            if plan.diagnose_every:
                plot_diagnostics(command.workdir / "diagnostics.png", reporting.read_records(command.workdir))
    return session.conclude(outcome, setup.recipe.steps, best_line(experiment, config, command.workdir), picture)


def check_same(config: ConfigDict, dataset: Dataset, state: train_step.TrainState) -> None:
    """Makes sure that all processes train the same model with the same settings on the same data."""
    if processes.several():
        weights = b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(processes.whole((state.params, state.model_state))))
        facts = json.dumps(
            {name: value for name, value in environment.facts().items() if name in ("seqjax", "jax", "jaxlib", "python", "backend")}
        )
        what = {"settings": json.dumps(settings.to_json(config), sort_keys=True), "data": dataset.fingerprint, "versions": facts}
        same = {name: text.encode() for name, text in what.items()} | {"first weights": weights}
        processes.check_same(same, "start all of them with the same command, data and packages")


def curve_options(experiment: Experiment, config: ConfigDict, spec: Any, baselines: dict[str, Any]) -> dict[str, Any]:
    """Options for plot_curves besides the records of a run."""
    return {
        "baselines": {name: found["loss"] for name, found in baselines.items() if "loss" in found},
        "labels": experiment.curve_labels(config, spec),
        "label_smoothing": config.loss.label_smoothing if "loss" in config else 0.0,
    }


def closing(pipeline: Any) -> Any:
    """A pipeline as a context manager, whether or not it needs closing."""
    return pipeline if hasattr(pipeline, "__exit__") else contextlib.nullcontext(pipeline)


def make_task(experiment: Experiment, config: ConfigDict, spec: Any, dataset: Dataset, setup: Setup, evaluator: Any = None) -> loop.Task:
    """Builds the task for the training loop.

    Args:
      experiment, config, spec, dataset, setup: of the run.
      evaluator: `(trained, progress) -> metrics` of the validation part; by default it goes over the part's batches.
    """
    recipe, where = setup.recipe, train_step.batch_sharding(setup.mesh)
    step = train_step.make_train_step(
        setup.model.loss, recipe.optimizer, recipe.schedule, setup.mesh, clip_norm=recipe.clip_norm,
        ema_decay=config.optimizer.ema, accumulate=recipe.accumulate, frozen=recipe.frozen, shardings=setup.shardings,
    )  # fmt: skip
    if processes.several():
        states = setup.shardings or train_step.state_shardings(setup.mesh)
        step = processes.Listening(step, states, where, setup.mesh)
    validation = dataset.parts["validation"]
    evaluator = evaluator or evaluation.Evaluator.make(experiment, config, spec, setup.model, validation)

    def now(state: train_step.TrainState) -> Trained:
        params, model_state = processes.whole(shown(config, state))
        return Trained(config, spec, setup.model, params, model_state, int(state.step))

    def evaluate(state, progress=None):
        trained = now(state)
        found = evaluator(trained, progress)
        return experiment.validate(trained, validation, found) if experiment.validate else found

    shows = experiment.sample is not None and not ("sample" in config and config.sample.length == 0)
    return loop.Task(
        step=step,
        place_batch=lambda batch: processes.place_rows(batch, where),
        evaluate=evaluate,
        metric=setup.model.metric,
        sample=(lambda state: experiment.sample(now(state), dataset)) if shows else None,  # pyright: ignore[reportOptionalCall]
        criterion=experiment.criterion(config),
        unit=experiment.unit,
        tell=step.tell if processes.several() else None,
        diagnose=diagnosis_of(setup),
    )


def proposal_of(setup: Setup) -> Callable[[train_step.TrainState, Any], train_step.Proposal]:
    """What a step of a run would make of a state."""
    recipe = setup.recipe
    return train_step.make_proposal(
        setup.model.loss, recipe.optimizer, setup.mesh, accumulate=recipe.accumulate, frozen=recipe.frozen, shardings=setup.shardings
    )


def diagnosis_of(setup: Setup) -> Diagnose:
    """What diagnostics.every looks at, of a state and the batch that follows."""
    how = {"accumulate": setup.recipe.accumulate, "shardings": setup.shardings}
    return make_diagnose(setup.model.loss, proposal_of(setup), setup.mesh, **how)


def peek(pipeline: Any) -> Any:
    """The next batch of a pipeline, which is not advanced."""
    before = pipeline.get_state()
    batch = next(pipeline)
    pipeline.set_state(before)
    return batch


def check_diagnosed(plan: loop.Plan, diagnose: Any, state: train_step.TrainState, batch: Any) -> None:
    """Refuses diagnostics.every if the model cannot be examined; state and batch may be shapes.

    Raises:
      UserError: it runs no recurrent network, or one inside a jit or scan of its own.
    """
    try:
        jax.eval_shape(diagnose, state, batch)
    except UserError as error:
        raise UserError(f"config.diagnostics.every={plan.diagnose_every}: {error}; leave it at 0") from error


def describe(
    experiment: Experiment, config: ConfigDict, dataset: Dataset, setup: Setup, pipeline: Any, baselines: dict[str, Any], lines: list[str]
) -> None:
    """Prints the data, the model and the length of the run."""
    print(f"{experiment.records}: {dataset.name}")
    for line in report(dataset):
        print(f"  {line}")
    for line in lines:
        print(line)
    if hasattr(pipeline, "summary"):
        print(pipeline.summary("steps"))
    for name, found in baselines.items():
        print(f"baseline to beat: {name}, validation {evaluation.line(found)}")
    if setup.shardings is not None:
        held, size = bytes_per_device(setup.state), sum(leaf.nbytes for leaf in jax.tree.leaves(setup.state))
        print(f"state: {held / 1e6:.1f} MB on each device, of {size / 1e6:.1f} MB")
    count = sum(leaf.size for leaf in jax.tree.leaves(setup.state.params))
    mask = frozen_mask(setup.state.params, setup.recipe.frozen)
    frozen = sum(leaf.size for leaf, is_frozen in zip(jax.tree.leaves(setup.state.params), jax.tree.leaves(mask)) if is_frozen)
    print(f"model: {count:,} parameters" + (f", {frozen:,} of them frozen" if frozen else ""))
    asked = config.schedule.warmup_steps
    if (warmup := optimizers.warmup_length(asked, setup.recipe.steps)) != asked:
        print(f"warm-up: {warmup} step{'s' if warmup != 1 else ''} instead of {asked}, since it may take at most a tenth of the run")
    epochs = setup.recipe.steps / pipeline.batches_per_epoch
    print(f"run: {setup.recipe.steps:,} steps, {epochs:.1f} passes over the data, on {devices_line(setup.mesh, config)}")


def baselines_of(experiment: Experiment, folder: pathlib.Path, config: ConfigDict, dataset: Dataset) -> dict[str, dict[str, float]]:
    """The baselines on the validation part; computed once for a work directory, since some take minutes.

    A baseline knows nothing of the model: it is computed again where other settings than those of the model, the optimiser
    and the length of the run change.
    """
    if experiment.baselines is None:
        return {}
    path, apart = folder / "baselines.json", ("model.", "optimizer.", "schedule.", "train.", "sample.")
    flat = {name: value for name, value in settings.flatten(config.to_dict()).items() if not name.startswith(apart)}
    key = json.dumps([dataset.fingerprint, flat], sort_keys=True)
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["key"] == key:
            return kept["baselines"]
    except (FileNotFoundError, ValueError, TypeError, KeyError):  # not computed yet, or a file of another version
        pass
    found = experiment.baselines(config, dataset, "validation")
    write_atomically(path, json.dumps({"key": key, "baselines": found}) + "\n")
    return found


def best_line(experiment: Experiment, config: ConfigDict, folder: pathlib.Path) -> str:
    """The best evaluation of a run so far, in words."""
    criterion = experiment.criterion(config)
    best = records.best_evaluation(reporting.read_records(folder), criterion)
    if best is None:
        return "not evaluated yet"
    step = best.pop("step")
    return f"best validation {evaluation.line(best)} at step {step}"


# Reading a trained model.


def stored_run(experiment: Experiment, command: cli.Command) -> resuming.Stored:
    """The meta of the newest checkpoint of a command's run; refused if there is none."""
    stored = resuming.stored(command.workdir, experiment)
    if stored is None:
        raise UserError(f"there is no run with a checkpoint in {command.workdir}; train one first with the same --workdir")
    return stored


class Opened(NamedTuple):
    """A run restored from a checkpoint."""

    trained: Trained
    meta: dict[str, Any]  # of the checkpoint
    state: train_step.TrainState
    recipe: Recipe  # at the base learning rate, since the length of an epoch is not known


def read(experiment: Experiment, command: cli.Command) -> tuple[Trained, dict[str, Any]]:
    """The model of a run that --checkpoint names, and the meta of its checkpoint."""
    found = opened(experiment, command)
    return found.trained, found.meta


def opened(experiment: Experiment, command: cli.Command) -> Opened:
    """The run that --checkpoint names, with its whole state."""
    stored = stored_run(experiment, command)
    config = resuming.settings_of(experiment, command, stored)
    report = print if command.mode == "evaluate" else cli.note  # standard output has only the predictions
    made: dict[str, Any] = {}

    def target(meta):
        spec = spec_from_json(experiment, meta["spec"])
        made.update(meta=meta, spec=spec, setup=set_up(experiment, config, spec, None))
        return made["setup"].state

    parts = ("params", "model_state")
    restored = read_model(command.workdir, target, keep=config.train.keep, which=command.options.checkpoint, parts=parts, report=report)
    params, model_state = processes.whole(shown(config, restored.state))
    trained = Trained(config, made["spec"], made["setup"].model, params, model_state, restored.step, report)
    return Opened(trained, made["meta"], restored.state, made["setup"].recipe)


def load_same(experiment: Experiment, command: cli.Command, trained: Trained, meta: dict[str, Any]) -> Dataset:
    """Loads the data of a run; refused if they differ from those that it was trained on, unless that is accepted."""
    dataset, accepted = experiment.load(trained.config), command.options.accept_changed_data
    resuming.check_data(experiment, command.workdir, dataset, None, meta, accepted=accepted)
    if accepted:
        spec = experiment.prepare(trained.config, dataset)
        resuming.accepted_spec(experiment, command, resuming.Stored(trained.step, meta), dataset, spec)
    return dataset


class FailedStep(NamedTuple):
    """The step that stopped a run, and everything needed to repeat it."""

    number: int
    faults: list[str]  # what was not finite
    setup: Setup
    state: train_step.TrainState  # that it began with, except for the counts of skipped steps, which are those after it
    batch: Any

    def line(self, name: str) -> str:
        """Which step it is, of an experiment of this name, and what was not finite in it."""
        several = int(self.state.skipped_in_row)
        row = f" (the last of {several} skipped in a row)" if several > 1 else ""
        return f"step {self.number:,} of {name}{row}, not finite in it: {', '.join(self.faults)}"


def failed_step(experiment: Experiment, folder: pathlib.Path) -> FailedStep:
    """The step that a stopped run keeps in its work directory; its data are read for the structure of a batch alone.

    Raises:
      UserError: there is none, it is damaged, or the data are not those of the run.
    """
    made: dict[str, Any] = {}

    def target(meta):
        config = settings.nest(anywhere(settings.flatten(meta["config"]))).lock()
        spec = spec_from_json(experiment, meta["spec"])
        made.update(config=config, spec=spec, setup=set_up(experiment, config, spec, None))
        return made["setup"].state

    defaults = {name: field.default for name, field in experiment.fields.items()}
    found, config = failed.read(folder, target, defaults), made["config"]
    dataset = experiment.load(config)
    resuming.check_data(experiment, folder, dataset, None, found.meta)
    with closing(experiment.batches(config, made["spec"], dataset.parts["train"], training=True)) as pipeline:
        batch = failed.built_as(found, next(pipeline))
    batch = jax.device_put(batch, train_step.batch_sharding(made["setup"].mesh))
    return FailedStep(found.step, found.meta["faults"], made["setup"], found.state, batch)
