"""Checks that the run in a work directory matches the command: settings, data, length."""

import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from seqjax.data.origins import explain_difference
from seqjax.errors import UserError
from seqjax.run import cli, settings
from seqjax.run.experiment import Dataset, Experiment, spec_from_json, spec_to_json
from seqjax.run.recipe import Recipe, anywhere, make_recipe
from seqjax.run.settings import ConfigDict
from seqjax.training.checkpoints import Checkpoints
from seqjax.training.progress import Plan, Progress, extended, stops_early
from seqjax.training.train_step import TrainState

LENGTH = ("train.steps", "train.epochs")
EARLIER = re.compile("[0-9a-f]{64}")  # a fingerprint of the first form, one for each kind of data
SCALED = ("cosine", "step")  # the schedules that are laid over the whole run

Extension = Callable[[TrainState, Progress], Progress]


class Stored(NamedTuple):
    """The meta of the newest good checkpoint of a run."""

    step: int
    meta: dict[str, Any]


def stored(folder: pathlib.Path, experiment: Experiment) -> Stored | None:
    """The newest checkpoint's meta; None if there is none yet. Nothing in the work directory is changed.

    Raises:
      UserError: the run is of another experiment.
    """
    defaults = {name: field.default for name, field in experiment.fields.items()}
    checkpoints = Checkpoints(folder, keep=1, defaults=defaults)
    try:
        found = checkpoints.newest_meta()
    finally:
        checkpoints.close()
    if found is None:
        return None
    step, meta = found
    if meta["experiment"] != experiment.name:
        raise UserError(f"the run in {folder} belongs to the experiment {meta['experiment']}, not {experiment.name}; use another --workdir")
    return Stored(step, meta)


def settings_of(experiment: Experiment, command: cli.Command, stored: Stored | None) -> ConfigDict:
    """The settings of the run that a command line starts, resumes, extends or reads.

    They are compared with those inside the newest checkpoint. Fields that are free may differ; with --extend, the run's
    length too. A mode that reads a model takes all settings from the checkpoint.

    Raises:
      UserError: settings that cannot be, or other ones than the run's.
    """
    extends = command.mode == "train" and command.options.extend
    if stored is None and extends:
        raise UserError(f"--extend: there is no run with a checkpoint in {command.workdir}; without --extend one is started there")
    if stored is None:
        config = _checked(experiment, cli.config_of(experiment, command))
        for line in cli.left_out(experiment, command):
            print(line)
        return config
    kept = settings.flatten(stored.meta["config"])
    kept = kept if command.mode == "train" else anywhere(kept)
    if command.mode == "train" and not extends:
        asked = settings.flatten(_checked(experiment, cli.config_of(experiment, command)))
    else:
        changes = cli.changes_of(experiment, command)
        asked = settings.flatten(_checked(experiment, _with(kept, changes, set(command.given))))
    allowed = LENGTH if extends else ()
    differ = settings.differences(kept, asked, experiment.fields)
    differ = [line for line in differ if line.split(":")[0] not in allowed]
    if differ:
        _refuse(command, stored, differ, "" if command.mode != "train" or extends else _preset_of(experiment, command, kept))
    return settings.nest(kept | asked).lock()


def _preset_of(experiment: Experiment, command: cli.Command, kept: Mapping[str, Any]) -> str:
    """The preset with which the rest of a command line asks for the settings that a run has; "" if there is none."""
    for name in experiment.presets:
        try:
            other = cli.Command(**vars(command) | {"preset": name})
            asked = settings.flatten(_checked(experiment, cli.config_of(experiment, other)))
        except UserError:  # a preset that does not go with the flags is not the run's
            continue
        if not settings.differences(kept, asked, experiment.fields):
            return name
    return ""


def _with(kept: Mapping[str, Any], changes: Mapping[str, Any], given: set[str]) -> ConfigDict:
    config = settings.nest(dict(kept) | dict(changes))
    settings.resolve_length(config, given)
    return config


def _refuse(command: cli.Command, stored: Stored, differ: list[str], preset: str) -> None:
    if preset:
        raise UserError(
            f"the run in {command.workdir} has the settings of --config={preset}; add that to resume it, or use another --workdir"
        )
    where = f"the run in {command.workdir} has other settings ({'; '.join(differ)})"
    if command.mode != "train":
        raise UserError(f"{where}; leave the --config flags out")
    lengths = all(line.split(":")[0] in LENGTH for line in differ)
    advice = "; --extend continues it to the new length" if lengths else ""
    raise UserError(f"{where}; use its settings to resume it, or another --workdir{advice}")


def _checked(experiment: Experiment, config: ConfigDict) -> ConfigDict:
    settings.validate(config, experiment.fields)
    settings.make_absolute(config, *(name for name in experiment.fields if name.endswith(("path", ".vectors"))))
    if experiment.check is not None:
        experiment.check(config)
    return config


def extension(command: cli.Command, stored: Stored | None, recipe: Recipe, plan: Plan, batches_per_epoch: int) -> Extension | None:
    """What --extend makes of a run: it says how the schedule is treated, and a run that stopped early may train further.

    Args:
      command: with --extend or without.
      stored: the run as it was.
      recipe, plan: of the new length.
      batches_per_epoch: of the training part.

    Returns:
      The function that takes the restored state and progress, prints what changes, and returns the progress to train on
      with; None without --extend.

    Raises:
      UserError: the run has gone further already.
    """
    if not command.options.extend or stored is None:
        return None
    before = make_recipe(settings.nest(settings.flatten(stored.meta["config"])), batches_per_epoch)
    if recipe.steps < stored.step:
        raise UserError(f"the run in {command.workdir} is already at step {stored.step}; --extend cannot end it at {recipe.steps}")

    def extend(state: TrainState, progress: Progress) -> Progress:
        early = stops_early(progress, plan)
        if recipe.steps != before.steps:
            name = stored.meta["config"]["schedule"]["name"]
            print(f"extended from {before.steps} to {recipe.steps} steps: {_rates(name, state, before, recipe)}")
        elif not early:
            print(f"the run has {recipe.steps} steps already; --extend with a larger config.train.steps makes it longer")
        if early:
            count = progress.without_best
            print(f"it stopped early, after {count} evaluation{'s' if count > 1 else ''} without a better one; the count restarts at 0")
        return extended(progress) if early else progress

    return extend


def _rates(name: str, state: TrainState, before: Recipe, after: Recipe) -> str:
    """How the learning rate changes, which is a function of the updates done."""
    done, scale = int(state.step) - int(state.skipped), float(state.lr_scale)
    old, new = (float(recipe.schedule(done)) * scale for recipe in (before, after))  # pyright: ignore[reportArgumentType]
    changes = f"is now {new:.3g} instead of {old:.3g}" if new != old else f"stays {new:.3g}"
    how = f"is recomputed over {after.steps}" if name in SCALED else "does not depend on the length"
    return f"the {name} schedule {how}; the learning rate at step {int(state.step)} {changes}"


def check_unchanged(folder: pathlib.Path, experiment: Experiment, before: Stored | None) -> None:
    """Refuses a work directory in which another process trained between the first look at it and its lock."""
    if stored(folder, experiment) != before:
        raise UserError(f"another process has just trained the run in {folder}; the same command resumes it")


def meta(
    experiment: Experiment, config: ConfigDict, spec: Any, dataset: Dataset, began_from: Any = None, stored: Stored | None = None
) -> dict[str, Any]:
    """The meta of every checkpoint of a run, besides its state, iterator state and progress.

    That the data changed is kept with every change: the step, and the fingerprints before and after.
    """
    changes = list(stored.meta.get("data_changes", ())) if stored else []
    if stored and has_changed(stored.meta, dataset):
        changes.append({"step": stored.step, "from": stored.meta["fingerprint"], "to": dataset.fingerprint})
    return {
        "experiment": experiment.name,
        "config": settings.to_json(config),
        "spec": spec_to_json(spec),
        "fingerprint": dataset.fingerprint,
        "made_from": dict(dataset.made_from),
        "notes": list(dataset.notes),
        "data_changes": changes,
        "began_from": began_from,
    }


def has_changed(saved: Mapping[str, Any], dataset: Dataset) -> bool:
    """Whether the data are others than a checkpoint, whose meta is given, was trained on, as far as can be said."""
    return saved["fingerprint"] != dataset.fingerprint and not _hashed_before(saved, dataset)


def _hashed_before(saved: Mapping[str, Any], dataset: Dataset) -> bool:
    """Whether the checkpoint's fingerprint has an earlier form, so that the two say nothing of each other."""
    return bool(EARLIER.fullmatch(saved["fingerprint"])) and dataset.fingerprint.startswith("v2-")


def accepted_spec(experiment: Experiment, command: cli.Command, stored: Stored | None, dataset: Dataset, spec: Any) -> Any:
    """The spec of a run whose data are used though they have changed: its own, for its model was trained with that.

    Args:
      experiment: of the run.
      command: with --accept_changed_data or without.
      stored: the run as it was; None for a new one.
      dataset, spec: as loaded and prepared now.

    Returns:
      The checkpoint's spec where the data changed, now or before, and that is accepted; else the one given.

    Raises:
      UserError: another spec is needed: other than measured means and shares, which stay those of the run, something differs.
    """
    changed = stored is not None and has_changed(stored.meta, dataset)
    if stored is not None and command.options.accept_changed_data and not changed:
        print(f"--accept_changed_data: the {experiment.records} are those that the run was trained on")
    if changed and not command.options.accept_changed_data or not changed and not (stored and stored.meta.get("data_changes")):
        return spec
    saved, now = stored.meta["spec"], spec_to_json(spec)  # pyright: ignore[reportOptionalMemberAccess]
    names = [name for name, value in now.items() if _without_floats(saved.get(name)) != _without_floats(value)]
    if names:
        raise UserError(
            f"the {experiment.records} of {dataset.name} give another {' and '.join(names)} than those that the run in "
            f"{command.workdir} was trained on, so its model cannot use them; use another --workdir"
        )
    if changed:
        print(
            f"the {experiment.records} of {dataset.name} have changed, which is accepted and kept in the checkpoints: at step "
            f"{stored.step} from {stored.meta['fingerprint']} to {dataset.fingerprint}"  # pyright: ignore[reportOptionalMemberAccess]
        )
    return spec_from_json(experiment, saved)


def accepting(data: Any, accepted: bool) -> Any:
    """A pipeline whose data may have changed: an iterator state that it does not have is the beginning of the next epoch."""
    return _Changed(data) if accepted else data


class _Changed:
    def __init__(self, data: Any):
        self._data, self.get_state = data, data.get_state

    def __next__(self) -> Any:
        return next(self._data)

    def set_state(self, state: dict[str, Any]) -> None:
        try:
            self._data.set_state(state)
        except UserError:
            if "epoch" not in state:
                raise
            self._data.set_state({name: 0 for name in state} | {"epoch": state["epoch"] + 1})


def _without_floats(value: Any) -> Any:
    """A JSON value with 0 for each measured number."""
    if isinstance(value, dict):
        return {name: _without_floats(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_without_floats(inner) for inner in value]
    return 0.0 if isinstance(value, float) else value


def check_data(
    experiment: Experiment, folder: pathlib.Path, dataset: Dataset, spec: Any, saved: Mapping[str, Any], *, accepted: bool = False
) -> None:
    """Refuses data that are not those a checkpoint was trained on, and what they would make of the model.

    A run whose data were hashed in an earlier form is resumed on the word of its spec alone, with a note that says so; its
    next checkpoint has the form of today.

    Args:
      experiment: names the data.
      folder: the work directory.
      dataset: as loaded now.
      spec: as prepared now; None if it is not needed.
      saved: the checkpoint's meta.
      accepted: whether other data are accepted, as far as the spec is the same.

    Raises:
      UserError: they differ.
    """
    if has_changed(saved, dataset) and not accepted:
        why = explain_difference(saved.get("made_from") or {}, dict(dataset.made_from))
        raise UserError(
            f"the {experiment.records} of {dataset.name} are not those that the run in {folder} began with"
            + (f": {why}" if why else "; restore them")
            + ", use another --workdir, or accept them as they are with --accept_changed_data"
        )
    if _hashed_before(saved, dataset):
        cli.note(
            f"the {experiment.records} of {dataset.name} could not be compared with those of the run in {folder}: an earlier version "
            "of seqjax hashed them in another way" + ("; what they make of the model was compared" if spec is not None else "")
        )
    if spec is not None and spec_to_json(spec) != saved["spec"]:
        names = [name for name, value in spec_to_json(spec).items() if saved["spec"].get(name) != value]
        raise UserError(
            f"the same {experiment.records} now give another {' and '.join(names)} than in the run in {folder}, "
            "which another version of seqjax began; use that version, or another --workdir"
        )
