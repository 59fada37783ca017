"""Where a new run starts: from random weights, from word vectors, or from the weights of another run."""

import functools
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from seqjax.errors import UserError
from seqjax.run import cli
from seqjax.run.experiment import Dataset, Experiment, spec_to_json
from seqjax.run.settings import ConfigDict
from seqjax.training import processes, train_step
from seqjax.training.checkpoints import read_weights

WHICH = ("best", "newest")


class Match(NamedTuple):
    """Which weights of one tree fit into another."""

    weights: Any  # the target's structure; the other's arrays where they fit
    taken: list[str]
    fresh: dict[str, str]  # path in the target -> why nothing was taken
    unused: list[str]  # paths of the other that are not in the target


def match(target: Any, source: Any) -> Match:
    """Takes from `source` each array whose path and shape are those of an array of `target`.

    Args:
      target: nested dicts of arrays.
      source: nested dicts of arrays, of another run.

    Example:
      >>> found = match({"a": jnp.zeros(2), "b": jnp.zeros(3)}, {"a": jnp.array([1.0, 2.0]), "b": jnp.zeros(4)})
      >>> found.weights["a"].tolist(), found.fresh
      ([1.0, 2.0], {'b': 'shape (4,) there, (3,) here'})
    """
    ours, theirs = _by_name(target), _by_name(source)
    weights, taken, fresh = [], [], {}
    for path, array in ours.items():
        other = theirs.get(path)
        if other is None:
            fresh[path] = "not there"
        elif other.shape != array.shape:
            fresh[path] = f"shape {tuple(other.shape)} there, {tuple(array.shape)} here"
        else:
            taken.append(path)
        weights.append(array if path in fresh else jnp.asarray(other, array.dtype))
    return Match(jax.tree.structure(target).unflatten(weights), taken, fresh, [path for path in theirs if path not in ours])


def _by_name(tree: Any) -> dict[str, Any]:
    """The arrays of a tree by their paths, such as embed/embedding."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _texts(value: Any) -> list[str]:
    """The texts in a JSON value, in order: tokens, classes, tags. Means and lengths, which no row of weights stands for, are left out."""
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return [text for one in inner for text in _texts(one)]


class Start:
    """The first state of a run, as the command line and the experiment say."""

    def __init__(self, experiment: Experiment, command: cli.Command, config: ConfigDict, spec: Any, dataset: Dataset, setup: Any):
        self._experiment, self._command, self._config = experiment, command, config
        self._spec, self._dataset, self._setup = spec, dataset, setup
        self.origin: Any = self._origin()

    def _origin(self) -> Any:
        """The run that the weights come from, for the record; None for a start of its own."""
        wanted, own = self._command.options.init_from, self._command.workdir
        if not wanted:
            if self._command.options.init_partial:
                raise UserError("--init_partial has no effect without --init_from")
            return None
        path, _, which = wanted.rpartition(":")
        if not (path and (which in WHICH or which.isdigit())) or pathlib.Path(wanted).expanduser().is_dir():
            path, which = wanted, "best"
        folder = pathlib.Path(path).expanduser().absolute()
        if folder.resolve() == own.resolve():
            raise UserError(f"--init_from={wanted} is the run's own --workdir; choose another --workdir for the new run")
        return {"workdir": str(folder), "which": which}

    def resumed(self, began_from: dict[str, Any] | None) -> train_step.TrainState:
        """A state for the checkpoint to fill; the run's origin is what the checkpoint says.

        Raises:
          UserError: --init_from names another origin.
        """
        if self.origin is not None and not self.origin.items() <= (began_from or {}).items():
            began = f"from {began_from['which']} of {began_from['workdir']}" if began_from else "without --init_from"
            raise UserError(
                f"the run in {self._command.workdir} began {began}, and is resumed from its own checkpoints; "
                "leave --init_from out, or use another --workdir"
            )
        self.origin = began_from
        return self._setup.state

    def state(self) -> train_step.TrainState:
        """The state before the first step.

        Raises:
          UserError: --init_from names no run, or one whose weights do not fit, and --init_partial was not given.
        """
        state, setup = self._setup.state, self._setup
        before = params, model_state = processes.whole((state.params, state.model_state))
        if self._experiment.initialize is not None:
            given = self._config, self._spec, self._dataset
            params, model_state = self._experiment.initialize(*given, params, model_state)
        if self.origin is not None:
            params, model_state = self._weights(params, model_state)
        pairs = zip(jax.tree.leaves((params, model_state)), jax.tree.leaves(before), strict=True)
        if all(new is old for new, old in pairs):
            return state
        key = jax.random.wrap_key_data(processes.local(state.key))
        average = self._config.optimizer.ema > 0
        recipe = setup.recipe
        carry = processes.gathered(state.carry)
        return train_step.init_state(
            params, model_state, recipe.optimizer, carry, key, setup.mesh, average=average, frozen=recipe.frozen, fsdp=setup.fsdp
        )

    def check(self) -> None:
        """Refuses what `state` refuses, without making arrays of the model; the setup's state may be shapes.

        Raises:
          UserError: see `state`.
        """
        params, model_state = self._setup.state.params, self._setup.state.model_state
        if self._experiment.initialize is not None:
            given = functools.partial(self._experiment.initialize, self._config, self._spec, self._dataset)
            params, model_state = jax.eval_shape(given, params, model_state)
        if self.origin is not None:
            self._match(params, model_state)

    def _weights(self, params: Any, model_state: Any) -> tuple[Any, Any]:
        found, lines = self._match(params, model_state)
        print(*lines, sep="\n  ")
        return found.weights["params"], found.weights["model_state"] or model_state

    def _match(self, params: Any, model_state: Any) -> tuple[Match, list[str]]:
        """Which of the origin's weights fit, and lines about them for the user."""
        folder, which = pathlib.Path(self.origin["workdir"]), self.origin["which"]
        if not folder.is_dir():
            raise UserError(f"--init_from: there is no run in {folder}; it must be DIR, DIR:newest or DIR:STEP")
        step, weights, meta = read_weights(folder, int(which) if which.isdigit() else which)
        found = match({"params": params, "model_state": model_state or {}}, weights)
        self.origin |= {"step": step, "run": meta["run"]}
        where = f"step {step} of the run in {folder}"
        if not found.taken:
            raise UserError(f"--init_from: none of the weights of {where} fit this model")
        lines = [f"{path} ({why})" for path, why in found.fresh.items()] + [f"{path} (not in this model)" for path in found.unused]
        if lines and not self._command.options.init_partial:
            raise UserError(
                f"--init_from: the weights of {where} do not all fit: {'; '.join(lines)}; --init_partial initialises these at random"
            )
        told = [f"initialised from the weights of {where}: {len(found.taken)} arrays", *(f"not taken: {line}" for line in lines)]
        spec, theirs = spec_to_json(self._spec), meta.get("spec", {})
        if differ := [name for name, value in spec.items() if _texts(theirs.get(name, value)) != _texts(value)]:
            told.append(f"the two runs' data differ in {' and '.join(differ)}: what a row of weights stands for may differ too")
        return found, told
