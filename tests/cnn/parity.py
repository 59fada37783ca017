"""Shared by the comparisons with torch: a twin with random weights, and our network with the same weights."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch.nn import functional

from seqjax.interop.torchvision import from_torch_cnn, to_torch_cnn

torch.set_num_threads(1)  # for networks this small; two threads stall for minutes if other programs occupy the cores

AUX_WEIGHT = 0.3  # of each auxiliary head in the loss
TOLERANCE = 1e-9  # in 64 bits: of the loss as a share of itself, of gradients and statistics as a share of their array's largest
NARROW = 0.05  # how far the whole gradient in 32 bits may be from that in 64, as a share of its norm; one crossing was seen to be 0.011


def randomise(twin, seed):
    """Fills every weight and every running statistic of a torch network with random values, far from initial ones.

    Kernels keep the scale of what passes through relu; norms scale by U(0.5, 1.5), with means N(0, 0.1) and variances U(0.5, 1.5).
    Gives the twin back, in evaluation mode.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in [*twin.named_parameters(), *twin.named_buffers()]:
            if name.endswith("num_batches_tracked"):
                continue
            is_scale = value.ndim == 1 and name.endswith(".weight")
            if name.endswith("running_var") or is_scale:
                value.uniform_(0.5, 1.5, generator=generator)
            elif value.ndim <= 1:
                value.normal_(0.0, 0.1, generator=generator)
            else:
                value.normal_(0.0, (2 / value[0].numel()) ** 0.5, generator=generator)
    return twin.eval()


def random_images(shape, seed=0):
    """(B, H, W, C), standard normal, float32."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def check_parity(model, twin, images, *, atol=1e-4):
    """Asserts that the network with the twin's weights gives the twin's logits in evaluation, and the weights come back the same.

    Args:
      model: a network of `seqjax.cnn`.
      twin: a torch network with torchvision's key names, with random weights.
      images: (B, H, W, C) NumPy float32, at least two of them.
      atol: the largest difference, where the logits have standard deviation 1 (others are brought to that scale).

    Returns:
      The variables, for further tests.
    """
    variables = from_torch_cnn(model, twin.state_dict(), input_size=images.shape[1:3])
    with torch.no_grad():
        expected = twin.eval()(_to_torch(images)).numpy()
    logits = np.asarray(jax.jit(model.apply)(variables, jnp.asarray(images)))
    assert logits.shape == expected.shape
    assert np.isfinite(expected).all()
    scale = expected.std(axis=0).mean()  # over images: a network that ignores its input shows nothing
    assert scale > 1e-3 * abs(expected).max(), f"logits hardly depend on the image: {scale} of {abs(expected).max()}"
    worst = abs(logits - expected).max() / expected.std()
    assert worst < atol, f"logits differ by {worst:.2g} of their standard deviation"
    _check_return(model, twin, variables, images.shape[1:3])
    return variables


def check_training(model, twin, images, labels):
    """Asserts that a step in training agrees in 64 bits: loss, every gradient, and the statistics after it.

    In 32 bits the result would depend on the processor. The gradient jumps where an activation crosses a kink of relu or relu6: of the
    676,608 of MobileNetV2 on these images the nearest is 8e-8 from one, so that changing the images by one unit in the last
    place moves a weight's gradient by 3e-5 of the largest or by 7.5e-2, in 64 bits as in 32. Rounding errors of 1e-15 cross none.
    The step in 32 bits is held against that in 64 over all weights together, where a crossing weighs little.

    Both are without dropout. A twin with auxiliary heads gives a tuple: logits, then each head's, the one nearest to
    the input first; each counts with 0.3 in the loss.

    Args:
      model, twin, images: as in check_parity.
      labels: (B,) whole numbers.
    """
    size = images.shape[1:3]
    variables = from_torch_cnn(model, twin.state_dict(), input_size=size)
    narrow, *_ = _training_step(model, variables, images, labels)
    with jax.enable_x64(True):
        wide_variables = jax.tree.map(lambda value: jnp.asarray(np.asarray(value, np.float64)), variables)
        step = jax.tree.map(np.asarray, _training_step(model, wide_variables, images.astype(np.float64), labels))
    grads, _, new, _ = step
    assert {leaf.dtype for leaf in jax.tree.leaves((grads, new))} == {np.dtype(np.float64)}
    _check_step(model, copy.deepcopy(twin).double(), images.astype(np.float64), labels, step)
    apart = jax.tree.map(lambda a, b: np.asarray(a, np.float64) - b, narrow, grads)
    assert _norm(apart) < NARROW * _norm(grads), f"in 32 bits {_norm(apart) / _norm(grads):.2g} from 64 bits"


def _check_step(model, twin, images, labels, step):
    """Asserts that torch takes the step too; `step` is as `_training_step` gives it."""
    grads, value, new, count = step
    before = {name: value.clone() for name, value in twin.state_dict().items()}
    counts = _count_normalised(twin)
    size = images.shape[1:3]
    outputs = _as_list(twin.train()(_to_torch(images)))
    losses = [functional.cross_entropy(logits, torch.as_tensor(labels)) for logits in outputs]
    expected = losses[0] + AUX_WEIGHT * sum(losses[1:])
    expected.backward()
    assert count == len(losses)
    np.testing.assert_allclose(value, expected.item(), rtol=TOLERANCE)
    ours = to_torch_cnn(model, {"params": grads, **new}, input_size=size, tensors=False)
    theirs = {name: value.grad.numpy() for name, value in twin.named_parameters()}
    floor = 1e-3 * max(abs(grad).max() for grad in theirs.values())  # some are zero except for rounding
    for name, value in twin.named_buffers():
        theirs[name] = _biased(name, before.get(name), value, counts).numpy()
    for name, wanted in theirs.items():
        if not name.endswith("num_batches_tracked"):
            near = TOLERANCE * (abs(wanted).max() + floor)
            np.testing.assert_allclose(ours[name], wanted, rtol=0, atol=near, err_msg=name)


def _training_step(model, variables, images, labels):
    """(gradients, loss, statistics after it, number of outputs), in the precision of what is given."""

    def loss(params):
        given, new = model.apply(variables | {"params": params}, jnp.asarray(images), train=True, mutable=["batch_stats"])
        each = [_cross_entropy(logits, labels) for logits in _as_list(given)]
        return each[0] + AUX_WEIGHT * sum(each[1:]), (new, len(each))

    (value, (new, outputs)), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])
    return grads, value, new, int(outputs)


def _norm(tree):
    return np.sqrt(sum(np.square(leaf).sum() for leaf in jax.tree.leaves(tree)))


def _to_torch(images):
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def _as_list(outputs):
    """Logits, then those of the auxiliary heads."""
    if isinstance(outputs, tuple):
        return [inner for part in outputs for inner in _as_list(part)]
    return [outputs]


def _cross_entropy(logits, labels):
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), jnp.asarray(labels)[:, None], axis=1))


def _check_return(model, twin, variables, size):
    returned, original = to_torch_cnn(model, variables, input_size=size), twin.state_dict()
    assert returned.keys() == original.keys()
    for name, value in returned.items():
        same = value.shape == original[name].shape and value.dtype == original[name].dtype
        assert same and (name.endswith("num_batches_tracked") or torch.equal(value, original[name])), name


def _count_normalised(twin):
    """How many values each norm takes its statistics of, by name; filled when the twin runs."""
    counts = {}
    for name, module in twin.named_modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):

            def note(module, inputs, name=name):
                counts[name] = inputs[0].numel() // inputs[0].shape[1], module.momentum

            module.register_forward_pre_hook(note)
    return counts


def _biased(name, before, after, counts):
    """torch keeps n / (n - 1) of the variance, Flax the variance itself, as the Batch Normalization paper's training step has it."""
    norm, _, kind = name.rpartition(".")
    if kind != "running_var":
        return after
    n, momentum = counts[norm]
    kept = (1 - momentum) * before
    return kept + (after - kept) * (n - 1) / n
