"""Is a training step of the classic CNNs as fast as in torch and in flax's own ResNet?

    python -m benchmarks.cnn_training [--nets=lenet5,vgg11,...] [--rounds=10] [--seconds=40]

One step is forward, cross-entropy, backward, and SGD with momentum, float32, 10 classes, on random images. `ours` is seqjax.cnn as is;
`plain lax` the same module with XLA's own convolutions and pools; torch runs as is (NCHW) and with channels_last memory, with one thread
per core; `flax example` is ResNet-18 from flax.linen's layers. All run in one process, in turn, in a new random order each round, two steps
per turn, the second of which is timed, since training steps follow each other; the first call, which compiles, is reported separately.
"""

import argparse
import functools
import importlib
import types
from collections.abc import Callable
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import common, timing
from seqjax import cnn


class Net(NamedTuple):
    """One network to time."""

    batch: int
    size: int
    channels: int
    twin: tuple[str, str, dict]  # module of benchmarks.torch_cnns, class, arguments
    options: dict = {}


NETS = {
    "lenet5": Net(128, 32, 1, ("lenet", "LeNet5", {})),
    "vgg11": Net(32, 32, 3, ("vgg", "VGG", {})),
    "resnet18": Net(32, 64, 3, ("resnet", "resnet18", {})),
    "googlenet": Net(32, 64, 3, ("googlenet", "GoogLeNet", {"aux_logits": False}), {"aux_logits": False}),
    "mobilenet_v1": Net(32, 64, 3, ("mobilenet", "MobileNetV1", {})),
}
RATE, MOMENTUM, CLASSES = 0.01, 0.9, 10


def jax_step(model, images, labels) -> Callable[[], Any]:
    """A training step of a linen module, with its state kept between calls."""
    optimizer = optax.sgd(RATE, MOMENTUM)
    variables = dict(jax.jit(lambda key, x: model.init(key, x))(jax.random.key(0), images[:1]))
    params = variables.pop("params")

    def loss(params, statistics, key, images, labels):
        out, new = model.apply({"params": params, **statistics}, images, train=True, mutable=["batch_stats"], rngs={"dropout": key})
        return optax.softmax_cross_entropy_with_integer_labels(out, labels).mean(), {k: new[k] for k in statistics}

    def step(state, images, labels):
        params, statistics, slots, key = state
        (value, statistics), grads = jax.value_and_grad(loss, has_aux=True)(params, statistics, key, images, labels)
        updates, slots = optimizer.update(grads, slots, params)
        return (optax.apply_updates(params, updates), statistics, slots, jax.random.fold_in(key, 1)), value

    step = jax.jit(step, donate_argnums=0)
    kept = [(params, variables, jax.jit(optimizer.init)(params), jax.random.key(1))]
    images, labels = jax.device_put((images, labels))

    def run():
        kept[0], value = step(kept[0], images, labels)
        jax.block_until_ready((kept[0], value))

    return run


def torch_step(net: Net, images, labels, channels_last: bool, device: str = "cpu", bfloat16: bool = False) -> Callable[[], Any]:
    """The same in torch, on the CPU or another device; `bfloat16` is its automatic mixed precision."""
    import torch

    module, name, arguments = net.twin
    twins = importlib.import_module(f"benchmarks.torch_cnns.{module}")
    made = twins.MODELS[name] if name in getattr(twins, "MODELS", {}) else getattr(twins, name)
    torch.manual_seed(0)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model = made(num_classes=CLASSES, in_channels=net.channels, **arguments)
    model = model.to(device, memory_format=layout).train()
    images = torch.tensor(np.asarray(images)).permute(0, 3, 1, 2).to(device).contiguous(memory_format=layout)
    labels = torch.tensor(np.asarray(labels), dtype=torch.int64, device=device)
    optimizer = torch.optim.SGD(model.parameters(), RATE, MOMENTUM)
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None

    def run():
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=bfloat16):
            loss = torch.nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        wait()

    return run


def plain(model):
    """The same module on XLA's own convolutions and pools, as on backends other than CPU."""

    def apply(*args, **kwargs):
        with mock.patch("jax.default_backend", lambda: "none"):  # read while the step is traced
            return model.apply(*args, **kwargs)

    return types.SimpleNamespace(init=model.init, apply=apply)


def sides(name: str, net: Net) -> dict[str, Callable[[], Any]]:
    """The functions to time for one network."""
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.standard_normal((net.batch, net.size, net.size, net.channels), np.float32))
    labels = jnp.asarray(rng.integers(0, CLASSES, net.batch, np.int32))
    model = cnn.create(name, num_classes=CLASSES, in_channels=net.channels, **net.options)
    found = {"ours": jax_step(model, images, labels), "plain lax": jax_step(plain(model), images, labels)}
    if name == "resnet18":
        from benchmarks.flax_resnet import ResNet18

        found["flax example"] = jax_step(ResNet18(CLASSES), images, labels)
    found["torch"] = torch_step(net, images, labels, channels_last=False)
    found["torch channels_last"] = torch_step(net, images, labels, channels_last=True)
    return found


def gpu_sides(name: str, net: Net, device: str) -> dict[str, Callable[[], Callable[[], Any]]]:
    """Makers of the functions that benchmarks.gpu times: ours and torch's, in float32 and bfloat16."""
    rng = np.random.default_rng(0)
    images = rng.standard_normal((net.batch, net.size, net.size, net.channels), np.float32)
    labels = rng.integers(0, CLASSES, net.batch, np.int32)
    create = functools.partial(cnn.create, name, num_classes=CLASSES, in_channels=net.channels, **net.options)
    torchs = {"torch": (False, False), "torch channels_last": (True, False), "torch channels_last bfloat16": (True, True)}
    return {
        "ours": lambda: jax_step(create(), images, labels),
        "ours bfloat16": lambda: jax_step(create(dtype=jnp.bfloat16), images, labels),
    } | {
        side: lambda last=last, bfloat16=bfloat16: torch_step(net, images, labels, last, device, bfloat16)
        for side, (last, bfloat16) in torchs.items()
    }


def main() -> None:
    """Measures and saves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", type=timing.parse_names(NETS), default=list(NETS))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=40.0)
    parser.add_argument("--tag", default="")
    options = parser.parse_args()
    settings, cases = timing.prepare(), {}
    for name in options.nets:
        net = NETS[name]
        times = timing.interleave(sides(name, net), options.rounds, options.seconds, again=True)
        ratios = {side: times["ours"]["min"] / row["min"] for side, row in times.items() if side != "ours"}
        shape = [net.batch, net.size, net.size, net.channels]
        cases[name] = {"images": shape, "milliseconds": times, "ours_over": ratios}
        listed = "  ".join(f"{side} {row['min']:.1f}" for side, row in times.items())
        print(f"{name}: {listed} | {' '.join(f'{k} {v:.2f}' for k, v in ratios.items())}", flush=True)
    common_sides = [side for side in ("torch", "torch channels_last", "plain lax") if all(side in c["ours_over"] for c in cases.values())]
    means = {side: timing.geometric_mean(c["ours_over"][side] for c in cases.values()) for side in common_sides}
    common.save(f"cnn_training{options.tag}", {
        "question": "time of a training step of the classic CNNs against torch and plain XLA; below 1 ours is faster",
        "settings": settings, "geometric_mean_of_ours_over": means, "cases": cases,
    })  # fmt: skip


if __name__ == "__main__":
    main()
