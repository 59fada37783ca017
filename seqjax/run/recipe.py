"""Settings common to all experiments (optimiser, schedule, length of the run), and what is built from them."""

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import optax

from seqjax.errors import UserError
from seqjax.run.settings import Check, ConfigDict, Field, above, at_least, one_of, within
from seqjax.training import loop, optimizers, processes, train_step
from seqjax.training.optimizers import OPTIMIZERS, SCHEDULES


def _shares(text: str) -> bool:
    try:
        values = optimizers.parse_milestones(text)
    except ValueError:
        return False
    return all(0 < v < 1 for v in values) and list(values) == sorted(values)


def _patterns_hold(text: str) -> bool:
    try:
        return all(map(re.compile, patterns(text))) and all(patterns(text))
    except re.error:
        return False


def patterns(text: str) -> tuple[str, ...]:
    """Splits comma-separated regular expressions; a comma inside [] or {} belongs to the expression.

    Example:
      >>> patterns("embedding, layers_[0,1]/.*")
      ('embedding', 'layers_[0,1]/.*')
    """
    return tuple(part.strip() for part in re.split(r",(?![^\[{]*[\]}])", text)) if text.strip() else ()


def _nothing_waits_for_evaluations(config: Mapping[str, Any]) -> bool:
    """Whether the number of evaluations decides neither the learning rate nor the end of the run."""
    return config["schedule.name"] != "plateau" and config["train.stop_after"] == 0


_ADAM = ("optimizer.name", ("adam", "adamw", "muon"))

_STEPS = 2**31  # the number of a step is an int32

OPTIMIZER_FIELDS = {
    "optimizer.name": Field("adam", "Optimiser.", one_of(*OPTIMIZERS)),
    "optimizer.learning_rate": Field(4e-3, "Peak learning rate.", above(0)),
    "optimizer.muon_rate": Field(
        0.02,
        "Muon's peak learning rate, for the kernels of recurrent cells; everything else uses Adam.",
        above(0),
        when=("optimizer.name", ("muon",)),
    ),
    "optimizer.b1": Field(0.9, "Adam's decay of the average gradient.", within(0.0, 1.0), when=_ADAM),
    "optimizer.b2": Field(0.999, "Adam's decay of the average squared gradient.", within(0.0, 1.0), when=_ADAM),
    "optimizer.momentum": Field(0.0, "Momentum for sgd.", within(0.0, 1.0), when=("optimizer.name", ("sgd",))),
    "optimizer.nesterov": Field(False, "Nesterov momentum for sgd.", when=("optimizer.name", ("sgd",))),
    "optimizer.weight_decay": Field(
        0.0,
        "Weight decay on matrices and kernels, not on norms and biases: decoupled for adamw and muon, in the gradient for sgd.",
        at_least(0),
        when=("optimizer.name", ("adamw", "sgd", "muon")),
    ),
    "optimizer.clip_norm": Field(1.0, "Clip the global gradient norm to this; 0: no clipping.", at_least(0)),
    "optimizer.ema": Field(
        0.0,
        "Decay of a moving average of the parameters, which is then used for evaluation; 0: no average.",
        within(0.0, 1.0),
    ),
    "optimizer.frozen": Field(
        "",
        "Parameters to freeze: comma-separated regular expressions, searched for in parameter names.",
        Check("comma-separated regular expressions", _patterns_hold),
    ),
}

SCHEDULE_FIELDS = {
    "schedule.name": Field(
        "cosine", "Learning rate schedule; plateau multiplies the rate by decay when validation stalls.", one_of(*SCHEDULES)
    ),
    "schedule.warmup_steps": Field(0, "Steps of linear warm-up.", within(0, _STEPS)),
    "schedule.final_fraction": Field(
        0.01, "cosine: final learning rate as a fraction of the peak.", within(0.0, 1.0), when=("schedule.name", ("cosine",))
    ),
    "schedule.hold_epochs": Field(
        4, "hold_then_decay: epochs at the peak rate.", at_least(1), when=("schedule.name", ("hold_then_decay",))
    ),
    "schedule.milestones": Field(
        "0.5,0.75",
        "step: fractions of the run after which the rate is multiplied by decay.",
        Check("comma-separated increasing numbers between 0 and 1", _shares),
        when=("schedule.name", ("step",)),
    ),
    "schedule.decay": Field(
        0.5,
        "Factor on the rate: per epoch (hold_then_decay), per milestone (step), per stall (plateau).",
        within(0.001, 1.0),
        when=("schedule.name", ("hold_then_decay", "step", "plateau")),
    ),
    "schedule.patience": Field(
        3,
        "plateau: evaluations without a new best before the rate is lowered.",
        at_least(1),
        when=("schedule.name", ("plateau",)),
    ),
}

TRAIN_FIELDS = {
    "train.steps": Field(0, "Length of the run in steps; 0 if train.epochs sets it.", within(0, _STEPS)),
    "train.epochs": Field(0.0, "Length of the run in passes over the data; 0 if train.steps sets it.", at_least(0)),
    "train.accumulate": Field(1, "Gradient accumulation: split each batch into this many parts to save memory.", at_least(1)),
    "train.log_every": Field(100, "Steps between log lines.", at_least(1), free=True),
    "train.eval_every": Field(
        500,
        "Steps between evaluations on the whole validation set.",
        at_least(1),
        free=_nothing_waits_for_evaluations,
    ),
    "train.checkpoint_every": Field(250, "Steps between checkpoints.", at_least(1), free=True),
    "train.keep": Field(3, "How many of the newest checkpoints to keep, besides the best.", at_least(1), free=True),
    "train.stop_after": Field(
        0,
        "Early stopping after this many evaluations in a row without a new best; 0: never.",
        at_least(0),
        free=True,  # a run that stopped can be resumed
    ),
    "train.max_skipped": Field(20, "Stop after this many non-finite steps in a row.", at_least(1), free=True),
}

# Free: a run may be resumed on other devices with another mesh; its numbers are the same to rounding.
MESH_FIELDS = {
    "mesh.data": Field(
        -1,
        "Devices for data parallelism; -1: as many as mesh.model leaves and divide the batches evenly.",
        Check("-1 or at least 1", lambda v: v == -1 or v >= 1),
        free=True,
    ),
    "mesh.model": Field(1, "Devices for tensor parallelism, over the units of each kernel, embedding and softmax.", at_least(1), free=True),
    "mesh.shard": Field(
        "none",
        "Parameters and optimiser state: replicated over mesh.data (none) or sharded over it (fsdp).",
        one_of("none", "fsdp"),
        free=True,
    ),
}

FIELDS = OPTIMIZER_FIELDS | SCHEDULE_FIELDS | TRAIN_FIELDS | MESH_FIELDS

# For experiments with recurrent networks: also diagnostics during training.
RECURRENT_FIELDS = FIELDS | {
    "diagnostics.every": Field(
        0, "Steps between diagnostics: gradients through time, gates, update ratios; 0: never.", at_least(0), free=True
    )
}


class Recipe(NamedTuple):
    """The training recipe of a config."""

    steps: int  # of the whole run; 0 where nothing is trained
    schedule: optax.Schedule
    optimizer: optax.GradientTransformation
    clip_norm: float  # infinite if nothing is clipped
    accumulate: int = 1  # parts that each batch is cut into
    frozen: tuple[str, ...] = ()  # regular expressions of parameters that are not trained


def make_recipe(config: ConfigDict, steps_per_epoch: int | None) -> Recipe:
    """Builds schedule, optimiser and length of a run; without an epoch's length, only for reading a model.

    Raises:
      UserError: the length is given twice or not at all, or settings do not fit each other.

    Example:
      >>> from seqjax.run.settings import build
      >>> make_recipe(build(FIELDS, {"train.epochs": 2.5}), 10).steps
      25
    """
    steps = 0 if steps_per_epoch is None else run_length(config, steps_per_epoch)
    s, o = config.schedule, config.optimizer
    if steps and steps_per_epoch is not None:
        schedule = optimizers.make_schedule(
            s.name, o.learning_rate, steps=steps, warmup_steps=s.warmup_steps, final_fraction=s.final_fraction,
            steps_per_epoch=steps_per_epoch, hold_epochs=s.hold_epochs, decay=s.decay,
            milestones=optimizers.parse_milestones(s.milestones),
        )  # fmt: skip
    else:
        schedule = optimizers.make_schedule("constant", o.learning_rate, steps=1)
    clip_norm = o.clip_norm or math.inf
    optimizer = optimizers.make_optimizer(
        o.name, schedule, clip_norm=clip_norm, b1=o.b1, b2=o.b2, momentum=o.momentum, nesterov=o.nesterov,
        weight_decay=o.weight_decay, muon_ratio=o.muon_rate / o.learning_rate if o.name == "muon" else 1.0,
    )  # fmt: skip
    return Recipe(steps, schedule, optimizer, clip_norm, config.train.accumulate, patterns(o.frozen))


def run_length(config: ConfigDict, steps_per_epoch: int) -> int:
    """The number of steps of the run.

    Example:
      >>> run_length(ConfigDict({"train": {"steps": 0, "epochs": 0.5}}), 10)
      5
    """
    if bool(config.train.steps) == bool(config.train.epochs):
        raise UserError("give the run's length as config.train.steps or as config.train.epochs, and set the other to 0")
    steps = config.train.steps or max(1, round(config.train.epochs * steps_per_epoch))
    if steps >= _STEPS:
        raise UserError(f"config.train.epochs={config.train.epochs} is {steps} steps; there must be fewer than {_STEPS}")
    return steps


def make_plan(config: ConfigDict, steps: int, profile: tuple[int, int] | None = None) -> loop.Plan:
    """The plan of the loop: how often it logs, evaluates and saves.

    Args:
      config: of the run.
      steps: of the run.
      profile: the first and the last step of which a trace is made.

    Example:
      >>> from seqjax.run.settings import build
      >>> make_plan(build(FIELDS), 100).log_every
      100
    """
    t, s = config.train, config.schedule
    patience = s.patience if s.name == "plateau" else 0
    often = (t.log_every, t.eval_every, t.checkpoint_every)
    diagnose = config.diagnostics.every if "diagnostics" in config else 0
    return loop.Plan(steps, *often, t.max_skipped, patience, s.decay, stop_patience=t.stop_after, profile=profile, diagnose_every=diagnose)


def usable_devices(*batches: int, data: int = -1, model: int = 1) -> list[jax.Device]:  # pyright: ignore[reportInvalidTypeForm]  # jax makes the class at run time
    """The devices of a mesh: of several processes the same number each, in the processes' order.

    Args:
      *batches: sizes, all of which `data` must divide.
      data: length of the mesh's axis `data`; -1 for the longest that there are devices for and that cuts the batches evenly.
      model: length of the axis `model`, which lies within a process.

    Raises:
      UserError: a batch cannot be cut over the processes or over `data`, or there are not so many devices.

    Example:
      >>> len(usable_devices(1, 32))
      1
    """
    devices, number = jax.devices(), jax.process_count()
    sizes = " and ".join(map(str, dict.fromkeys(batches)))
    multiples = "make config.data.batch_size (over config.train.accumulate) and config.data.eval_batch_size multiples of it"
    if any(batch % number for batch in batches):
        raise UserError(f"batches of {sizes} do not split evenly over {number} processes; {multiples}")
    own = [devices]
    if number > 1:
        own = [sorted((d for d in devices if d.process_index == index), key=lambda d: d.id) for index in range(number)]
    there = min(map(len, own))
    if data > 0 and data % number:
        raise UserError(f"config.mesh.data={data} does not split evenly over {number} processes; make it a multiple, or leave it at -1")
    if data > 0 and any(batch % data for batch in batches):
        raise UserError(f"batches of {sizes} do not split evenly over config.mesh.data={data}; {multiples}, or leave it at -1")
    rows = max(1, data // number)  # of the mesh in each process, each `model` devices long
    if rows * model > there:
        asked = f"config.mesh.data={data} and config.mesh.model={model} need" if data > 0 else f"config.mesh.model={model} needs"
        where = f" in each of {number} processes" if number > 1 else ""
        raise UserError(f"{asked} {rows * model} devices{where}, and there are {there}; -1 and 1 take as many as there are")
    if data < 0:
        rows = max(n for n in range(1, there // model + 1) if not any(batch % (n * number) for batch in batches))
    return [device for some in own for device in some[: rows * model]]


def devices_line(mesh: Any, config: ConfigDict) -> str:
    """Says how many devices a run uses, how they are laid out, and why not all.

    Example:
      >>> from seqjax.run.settings import build
      >>> from seqjax.training.train_step import make_mesh
      >>> devices_line(make_mesh(1, jax.devices()[:1]), build(FIELDS)).split()[:2] == ["1", jax.default_backend()]
      True
    """
    there, used = jax.device_count(), mesh.size
    of = "" if there == used else f" of {there}"
    why = f"{of}, as many as divide batch_size and eval_batch_size evenly" if of and config.mesh.data < 0 else of
    where = f" in {jax.process_count()} processes" if processes.several() else ""
    axes = " x ".join(f"{name}={size}" for name, size in mesh.shape.items())
    layout = f", {axes}" if config.mesh.model > 1 else ""
    cut = ", parameters and optimiser state sharded over data" if config.mesh.shard == "fsdp" else ""
    return f"{used} {jax.default_backend()} device(s){where}{why}{layout}{cut}"


def data_mesh(config: ConfigDict) -> Any:
    """The mesh of a run, whose axis `data` cuts its batches, and each part of an accumulated batch, evenly.

    Raises:
      UserError: train.accumulate does not cut data.batch_size evenly, or the mesh cannot be made: see usable_devices.

    Example:
      >>> batches = {"data.batch_size": Field(3, "B."), "data.eval_batch_size": Field(1, "B.")}
      >>> from seqjax.run.settings import build
      >>> data_mesh(build(FIELDS | batches, {"train.accumulate": 3})).size
      1
    """
    size, parts, asked = config.data.batch_size, config.train.accumulate, config.mesh
    if size % parts:
        raise UserError(f"config.train.accumulate={parts} must divide config.data.batch_size={size} evenly")
    devices = usable_devices(size // parts, config.data.eval_batch_size, data=asked.data, model=asked.model)
    return train_step.make_mesh(size // parts, devices, asked.model)


def anywhere(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings, as dotted names, with the default mesh: a model is read on whatever devices there are.

    Example:
      >>> anywhere({"seed": 3, "mesh.data": 16})
      {'seed': 3, 'mesh.data': -1}
    """
    return dict(values) | {name: field.default for name, field in MESH_FIELDS.items() if name in values}


def shown(config: ConfigDict, state: Any) -> tuple[Any, Any]:
    """The parameters and the model state to evaluate and to predict with: averaged ones, where the config asks for them.

    Args:
      config: with `optimizer.ema`.
      state: with `params`, `model_state`, and `average`: () or a pair like them.

    Returns:
      (params, model_state).

    Example:
      >>> from types import SimpleNamespace
      >>> state = SimpleNamespace(params="now", model_state=(), average=("averaged", ()))
      >>> [shown(ConfigDict({"optimizer": {"ema": ema}}), state)[0] for ema in (0.0, 0.9)]
      ['now', 'averaged']
    """
    return state.average if config.optimizer.ema else (state.params, state.model_state)
