"""What tests do to a process of the experiment before it runs: slow it down, stop it in a place, make it forget."""

import functools
import hashlib
import importlib.metadata
import os
import resource
import shutil
import signal
import time

import jax
import numpy as np

from seqjax.data.pipeline.buckets import BucketBatches
from seqjax.data.pipeline.shuffled import ImageBatches
from seqjax.data.pipeline.windows import Windows
from seqjax.run import curves, distributed
from seqjax.training import losses, sharding, train_step
from seqjax.training.checkpoints import reader, shares, writing

DATA = (Windows, ImageBatches, BucketBatches)


def slow_steps(seconds: float) -> None:
    """Each batch takes so long to come."""
    for kind in DATA:
        _delay(kind, "__next__", seconds)


def kill_at_batch(number: int) -> None:
    """The process is killed when it asks for this batch, counted from 1: after number - 1 steps."""
    asked = 0

    def counted(self, take):
        nonlocal asked
        asked += 1
        if asked == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return take(self)

    for kind in DATA:
        kind.__next__ = functools.partialmethod(counted, kind.__next__)


def note_batches(folder: str) -> None:
    """Each batch that the process takes is a line of the file folder/PID: a hash of its rows, written at once."""
    file = os.open(os.path.join(folder, str(os.getpid())), os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def noted(self, take):
        batch = take(self)
        rows = b"".join(np.ascontiguousarray(leaf).tobytes() for leaf in jax.tree.leaves(batch))
        os.write(file, f"{hashlib.sha256(rows).hexdigest()[:16]}\n".encode())
        return batch

    for kind in DATA:
        kind.__next__ = functools.partialmethod(noted, kind.__next__)


def other_version(package: str) -> None:
    """The package is of version 0.0.1, as far as anyone asks."""
    found = importlib.metadata.version
    importlib.metadata.version = lambda name: "0.0.1" if name == package else found(name)


def impatient(seconds: float) -> None:
    """A file that another process has written must be seen so soon."""
    distributed._SOON = seconds


def no_curves(_: bool) -> None:
    """The picture of the curves is an empty file."""

    def empty(workdir, *_, **__):
        (workdir / "curves.png").touch()
        return workdir / "curves.png"

    curves.plot_curves = empty


def cut_all(_: bool) -> None:
    """mesh.shard=fsdp and mesh.model cut small parameters too."""
    sharding.SMALLEST = 1


def lie_about_bytes(index: int) -> None:
    """This process says of the first file it wrote of a checkpoint that it holds something else; index: of the process, for the record."""
    digests = shares.file_digests

    def other(*arguments):
        found = digests(*arguments)
        name = min(name for name in found if shares.writer_of(name) == index)
        return found | {name: [found[name][0], "0" * 64]}

    shares.file_digests = other


def slow_manifest(seconds: float) -> None:
    """Between the end of a save and its manifest."""
    _delay(writing, "write_manifest", seconds)


def slow_delete(seconds: float) -> None:
    """Between a checkpoint's renaming and its removal."""
    _delay(shutil, "rmtree", seconds)


def _delay(owner, name, seconds):
    function = getattr(owner, name)

    def delayed(*args, **kwargs):
        time.sleep(seconds)
        return function(*args, **kwargs)

    setattr(owner, name, delayed)


def forget(what: str) -> None:
    """A part of the checkpoint is not restored: a part of the state is zero, or the data restart."""
    if what == "data":
        for kind in DATA:
            kind.set_state = lambda self, state: None
        return
    read = reader.Reader.restored

    def partial(self, step, make_target):
        restored = read(self, step, make_target)
        zeros = jax.tree.map(lambda x: jax.device_put(np.zeros_like(x), x.sharding), getattr(restored.state, what))
        return restored._replace(state=restored.state._replace(**{what: zeros}))

    reader.Reader.restored = partial


def nan_logits(_: bool) -> None:
    """No loss of training or evaluation is finite."""
    for name in ("token_cross_entropy", "label_cross_entropy"):
        entropy = getattr(losses, name)
        setattr(losses, name, _of_nan(entropy))


def _of_nan(entropy):
    return lambda logits, *rest, **options: entropy(logits * np.float32("nan"), *rest, **options)


def huge_loss(factor: float) -> None:
    """The loss, and with it its gradient, is so many times as large in training and in evaluation."""
    entropy = losses.token_cross_entropy

    def enlarged(*args, **options):
        sums = entropy(*args, **options)
        return sums._replace(loss=sums.loss * np.float32(factor))

    losses.token_cross_entropy = enlarged


def carry_overflows_at(number: int) -> None:
    """From this step on, counted from 1, the new carry is infinite though the loss is finite."""
    make = train_step.make_train_step

    def made(loss_fn, *rest, **options):
        inner = make(loss_fn, *rest, **options)
        beyond = make(_infinite_carry(loss_fn), *rest, **options)
        return lambda state, batch: (inner if int(state.step) < number - 1 else beyond)(state, batch)

    train_step.make_train_step = made


def _infinite_carry(loss_fn):
    def loss(*args):
        carry, *rest = loss_fn(*args)
        return jax.tree.map(lambda x: x * np.float32("inf"), carry), *rest

    return loss


def compilation_cache(folder: str) -> None:
    """Where compiled programs are kept; the environment was read when the server started."""
    jax.config.update("jax_compilation_cache_dir", folder)


def file_limit(size: int) -> None:
    """No file may grow above this many bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
