"""Optimisers, each an explicit optax.chain with clipping first, and learning rate schedules for recurrent models."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from seqjax.errors import UserError
from seqjax.training.guard import clip_by_global_norm
from seqjax.training.muon import muon_by_gate

OPTIMIZERS = ("adam", "adamw", "sgd", "muon")
SCHEDULES = ("constant", "cosine", "hold_then_decay", "step", "plateau")


def make_schedule(
    name: str,
    learning_rate: float,
    *,
    steps: int,
    warmup_steps: int = 0,
    final_fraction: float = 0.0,
    steps_per_epoch: int = 1,
    hold_epochs: int = 1,
    decay: float = 0.5,
    milestones: Sequence[float] = (),
) -> optax.Schedule:
    r"""Learning rate as a function of the update number.

    All start with a linear warm-up over `warmup_steps` updates, fewer if the run is too short: see warmup_length. After it:

    - `constant`, `plateau`: the given learning rate (the loop lowers `plateau` when validation stalls);
    - `cosine`: half a cosine down to `final_fraction` of it at the end of the run, update number `steps`;
    - `hold_then_decay`: constant for `hold_epochs` epochs, then times `decay` at the start of each further epoch
      (Zaremba et al. 2014, arXiv:1409.2329: 4 epochs and 1/2 for the small model, 6 and 1/1.2 for the medium one);
    - `step`: times `decay` at each of the `milestones`, given as shares of the run (He et al. 2015,
      arXiv:1512.03385: a tenth after 1/2 and after 3/4 of 64,000 steps on CIFAR-10).

    A schedule depends on `steps`: when a finished run is extended, `cosine` and `step` follow the new length from the first new step on, so
    a cosine rises again to the longer run's rate.

    Args:
      name: one of SCHEDULES.
      learning_rate: the highest value.
      steps: number of updates in the whole run.
      warmup_steps: length of the linear warm-up, if the run is long enough.
      final_fraction: final share of the learning rate with `cosine`.
      steps_per_epoch, hold_epochs: for `hold_then_decay`.
      decay: for `hold_then_decay` and `step`.
      milestones: for `step`, shares of `steps`.

    Returns:
      step -> learning rate.

    Raises:
      UserError: the name is unknown.

    Example:
      >>> schedule = make_schedule("hold_then_decay", 1.0, steps=90, steps_per_epoch=10, hold_epochs=4, decay=0.5)
      >>> float(schedule(39)), float(schedule(40)), float(schedule(50))
      (1.0, 0.5, 0.25)
    """
    warmup_steps = warmup_length(warmup_steps, steps)
    main: Callable[[Any], Any]
    if name in ("constant", "plateau"):
        main = optax.constant_schedule(learning_rate)
    elif name == "cosine":
        main = optax.cosine_decay_schedule(learning_rate, steps - warmup_steps, alpha=final_fraction)
    elif name == "hold_then_decay":

        def held(step):  # whole numbers, so that the rate changes exactly at the step that starts an epoch
            return learning_rate * decay ** jnp.maximum(step // steps_per_epoch - hold_epochs + 1, 0)

        main = held

    elif name == "step":
        borders = [round(share * steps) for share in milestones]

        def stepped(step):
            return learning_rate * decay ** sum(jnp.asarray(step >= border, jnp.float32) for border in borders)

        main = stepped

    else:
        raise UserError(f"schedule.name={name!r} is unknown; choose one of {', '.join(SCHEDULES)}")
    if not warmup_steps:
        return main
    shift = warmup_steps if name == "cosine" else 0  # epochs count from the start of the run, the cosine from the end of the warm-up

    def schedule(step):
        return main(jnp.maximum(step - shift, 0)) * jnp.minimum(1.0, (step + 1) / warmup_steps)

    return schedule


def warmup_length(warmup_steps: int, steps: int) -> int:
    """The number of warm-up updates: as requested, or a tenth of the run if it is not longer than the warm-up.

    Args:
      warmup_steps: the requested number.
      steps: number of updates in the whole run.

    Example:
      >>> warmup_length(400, 64000), warmup_length(400, 400), warmup_length(400, 12), warmup_length(400, 5)
      (400, 40, 1, 0)
    """
    return warmup_steps if warmup_steps < steps else steps // 10


def parse_milestones(text: str) -> tuple[float, ...]:
    """Comma-separated numbers.

    Raises:
      ValueError: something between the commas is not a number.

    Example:
      >>> parse_milestones("0.5,0.75")
      (0.5, 0.75)
    """
    return tuple(float(part) for part in text.split(",")) if text else ()


def make_optimizer(
    name: str,
    schedule: optax.Schedule,
    *,
    clip_norm: float,
    b1: float = 0.9,
    b2: float = 0.999,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    muon_ratio: float = 1.0,
) -> optax.GradientTransformation:
    r"""The whole optimiser as one chain: clip by global norm, decay weights, precondition, scale.

    Weight decay applies only to matrices and convolution kernels, never to biases or the scales of norms.

    Args:
      name: `adam`, `adamw` (decoupled weight decay), `sgd` (weight decay as L2 regularisation) or `muon` (`muon_by_gate` for the kernels of
        recurrent cells and Adam for all else, with decay as in adamw).
      schedule: learning rate by update.
      clip_norm: maximum Euclidean norm of the whole gradient, which is scaled down if it is larger; infinite for no clipping.
      b1, b2: Adam's decay rates for the averages of the gradient and its square.
      momentum, nesterov: for `sgd`; 0 is plain gradient descent.
      weight_decay: for `adamw`, `sgd` and `muon`.
      muon_ratio: ratio of Muon's learning rate to the schedule's.

    Returns:
      An optax transformation.

    Raises:
      UserError: an unknown name, or a setting that this optimiser would ignore.

    Example:
      >>> optimizer = make_optimizer("sgd", optax.constant_schedule(1.0), clip_norm=1.0)
      >>> updates, _ = optimizer.update({"w": jnp.array([3.0, 4.0])}, optimizer.init({"w": jnp.zeros(2)}))
      >>> [round(float(u), 2) for u in updates["w"]]
      [-0.6, -0.8]
    """
    if name not in OPTIMIZERS:
        raise UserError(f"optimizer.name={name!r} is unknown; choose one of {', '.join(OPTIMIZERS)}")
    if muon_ratio != 1 and name != "muon":
        raise UserError(f"optimizer.muon_rate has no effect with {name}; choose muon, or leave it out")
    if weight_decay and name == "adam":
        raise UserError(f"optimizer.weight_decay={weight_decay} has no effect with adam; choose adamw or set it to 0")
    if nesterov and not momentum:
        raise UserError("optimizer.nesterov has no effect without optimizer.momentum; set momentum, or leave nesterov off")
    if momentum and name != "sgd":
        raise UserError(f"optimizer.momentum={momentum} has no effect with {name}; choose sgd or set it to 0")
    if name == "sgd" and (b1, b2) != (0.9, 0.999):
        raise UserError("optimizer.b1 and b2 have no effect with sgd; choose adam, or leave them at 0.9 and 0.999")
    clipped = clip_by_global_norm(clip_norm) if math.isfinite(clip_norm) else optax.identity()
    decayed = optax.add_decayed_weights(weight_decay, mask=_matrices) if weight_decay else optax.identity()
    if name == "sgd":
        direction = (decayed, optax.trace(momentum, nesterov) if momentum else optax.identity())
    else:
        adam = optax.scale_by_adam(b1, b2)
        direction = (muon_by_gate(adam, muon_ratio) if name == "muon" else adam, decayed)
    return optax.chain(clipped, *direction, optax.scale_by_learning_rate(schedule))


def _matrices(params):
    return jax.tree.map(lambda p: p.ndim > 1, params)
