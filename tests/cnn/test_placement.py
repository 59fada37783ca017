"""Networks on two devices of one host: batches sharded by jit, by explicit axes, by shard_map, against one device."""

import os
import subprocess
import sys

import pytest

SETUP = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from seqjax import cnn
from seqjax.cnn.normalization import normalize
from seqjax.cnn.resnet import ResNet

rng = np.random.default_rng(0)

def draw(*shape):
    return jnp.asarray(rng.normal(size=shape), jnp.float32)

def mesh(kind):
    return jax.make_mesh((2,), ("data",), axis_types=(kind,))

def close(found, wanted, tolerance=1e-4):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=0, atol=tolerance * float(np.abs(b).max()))
"""

BY_JIT = """
model, x = ResNet(num_classes=3, layers=(1, 1), stem="small", width=8), draw(4, 8, 8, 3)
variables = jax.jit(model.init)(jax.random.key(0), x)

@jax.jit
def run(variables, x):
    def loss(params):
        logits, new = model.apply(variables | {"params": params}, x, train=True, mutable=["batch_stats"])
        return jnp.sum(jnp.sin(logits)), (logits, new)
    return jax.grad(loss, has_aux=True)(variables["params"])

close(run(variables, jax.device_put(x, NamedSharding(mesh(AxisType.Auto), P("data")))), run(variables, x))
"""

# name -> a function of an image and parameters, differentiated by both
FUNCTIONS = """
functions = {
    "max_pool": (lambda x, k: cnn.max_pool(x * k[None, None, None], (2, 2)), draw(4)),
    "avg_pool": (lambda x, k: cnn.avg_pool(x * k[None, None, None], (2, 2)), draw(4)),
    "normalize": (lambda x, k: normalize(x, k[0], k[1])[0] * x, draw(2, 4)),
}
"""

CONVOLUTIONS = """
functions |= {
    "banded": (lambda x, k: cnn.convolve(x, k, padding=1), draw(3, 3, 4, 8)),
    "im2col": (lambda x, k: cnn.convolve(x, k, strides=2), draw(1, 1, 4, 8)),
    "shifted": (lambda x, k: cnn.convolve(x, k, groups=4), draw(3, 3, 1, 4)),
}
"""

EXPLICIT = """
with jax.set_mesh(mesh(AxisType.Explicit)):
    for name, (function, k) in functions.items():
        x = draw(4, 6, 6, 4)
        run = jax.jit(jax.grad(lambda x, k: jnp.sum(jnp.sin(function(x, k))), argnums=(0, 1)))
        print(name)
        close(run(jax.device_put(x, P("data")), k), run(x, k))
"""

# Statistics are per device, so the expected result is that of the two halves separately.
SHARD_MAP = """
def loss(x, k):
    return jnp.sum(jnp.sin(function(x, k)))

for name, (function, k) in functions.items():
    x = draw(4, 6, 6, 4)
    whole = jax.shard_map(
        lambda x, k: jax.lax.psum(loss(x, k), "data"), mesh=mesh(AxisType.Auto), in_specs=(P("data"), P()), out_specs=P()
    )
    print(name)
    found = jax.jit(jax.grad(whole, argnums=(0, 1)))(x, k)
    close(found, jax.grad(lambda x, k: loss(x[:2], k) + loss(x[2:], k), argnums=(0, 1))(x, k))
"""


def _on_two_devices(*code):
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", "\n".join((SETUP, *code))]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_batch_sharded_by_jit_gives_the_loss_statistics_and_gradients_of_one_device():
    _on_two_devices(BY_JIT)


@pytest.mark.slow
def test_explicit_axes_and_shard_map_give_the_gradients_of_one_device():
    _on_two_devices(FUNCTIONS, EXPLICIT, CONVOLUTIONS, SHARD_MAP)  # XLA's own convolutions have no gradient over explicit axes
