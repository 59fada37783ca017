"""Weights of CNNs from and to torch state dicts with torchvision's key names.

The submodules of `seqjax.cnn` have torchvision's names, so that a key is a path and only layouts change:

  ============================  ==============================================  ===========================================
  torch                         seqjax                                          note
  ============================  ==============================================  ===========================================
  layer1.0.conv1.weight         params, layer1 / 0 / conv1 / kernel             (O, I, H, W) becomes (H, W, I, O)
  fc.weight                     params, fc / kernel                             (O, I) becomes (I, O)
  classifier.0.weight           params, classifier / 0 / kernel                 after a flattened map: (O, C H W), (H W C, O)
  bn1.weight                    params, bn1 / scale
  bn1.running_mean              batch_stats, bn1 / mean
  bn1.running_var               batch_stats, bn1 / var
  bn1.num_batches_tracked       nothing                                         ignored; 0 on the way back
  anything.bias                 params, anything / bias
  ============================  ==============================================  ===========================================

A network's attribute `flatten` lists which dense layers read a flattened map, and how many channels the map has.
"""

import math
import os
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from seqjax.cnn.base import ImageClassifier
from seqjax.errors import UserError, missing

NAMES = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var"}
COUNTER = "num_batches_tracked"
AUX = ("AuxLogits.", "aux1.", "aux2.")  # torchvision's auxiliary heads
SHOWN = 4  # number of keys named in a message


IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of images in [0, 1], as expected by published weights


class Entry(NamedTuple):
    """One array of a network, and its form in torch."""

    path: tuple[str, ...]  # from the collection down: ("params", "features", "0", "kernel")
    shape: tuple[int, ...]  # ours
    dtype: Any  # ours
    flattened: tuple[int, int, int] | None  # (H, W, C) of the map that a dense layer reads; None for other arrays
    torch_shape: tuple[int, ...]


def from_torch_cnn(
    model: ImageClassifier,
    state_dict: Mapping[str, Any],
    *,
    input_size: int | tuple[int, int] | None = None,
    drop_aux: bool = False,
) -> dict[str, Any]:
    """Converts a torch state dict to the variables of a network, with the same outputs in evaluation.

    Args:
      model: a network of `seqjax.cnn`, such as from `seqjax.cnn.create`.
      state_dict: key -> tensor or NumPy array, with torchvision's key names, as from `module.state_dict()` or
        `torch.load`.
      input_size: height and width of the images; only needed if the parameters depend on it (LeNet) and it is not the
        network's default.
      drop_aux: drop the auxiliary heads of the state dict if the model has none.

    Returns:
      `{"params": ..., "batch_stats": ...}` as from `model.init`, without `batch_stats` if there is no batch norm. The
      arrays are copies in the model's dtype, float32, regardless of the float type in the state dict.

    Raises:
      UserError: keys are missing, not the model's, or of another shape (the message names them and both shapes); or
        only one side has auxiliary heads.
      TypeError: it is not a state dict, or holds values that are not floats.

    Example:
      >>> import seqjax.cnn.lenet, seqjax.interop.torchvision
      >>> model = seqjax.cnn.lenet.LeNet5()
      >>> rng = np.random.default_rng(0)
      >>> shapes = {"conv1": (6, 1, 5, 5), "conv2": (16, 6, 5, 5), "fc1": (120, 400), "fc2": (84, 120), "fc3": (10, 84)}
      >>> state_dict = {f"{name}.weight": rng.normal(size=shape) for name, shape in shapes.items()}
      >>> state_dict |= {f"{name}.bias": rng.normal(size=shape[:1]) for name, shape in shapes.items()}
      >>> variables = seqjax.interop.torchvision.from_torch_cnn(model, state_dict)
      >>> variables["params"]["conv1"]["kernel"].shape
      (5, 5, 1, 6)
      >>> model.apply(variables, jnp.ones((2, 32, 32, 1))).shape
      (2, 10)
    """
    given = _state_dict(state_dict)
    entries = _entries(model, input_size)
    if drop_aux:
        given = {key: value for key, value in given.items() if key in entries or not key.startswith(AUX)}
    _check_aux(model, entries, given)
    _check_keys(model, entries, given)
    _check_shapes(model, entries, {key: np.shape(given[key]) for key in entries})
    values = {entry.path: _from_torch(key, given[key], entry) for key, entry in entries.items()}
    return traverse_util.unflatten_dict(values)


def read_state_dict(path: str) -> dict[str, Any]:
    """Reads a state dict from a file written by `torch.save`.

    Args:
      path: the file; it is read without running any code in it.

    Returns:
      key -> tensor.

    Raises:
      UserError: torch is not installed, the file does not exist, or it does not hold a state dict.

    Example:
      >>> read_state_dict("nothing.pth")
      Traceback (most recent call last):
      ...
      seqjax.errors.UserError: nothing.pth does not exist; check the path
    """
    file = os.path.expanduser(path)
    if not os.path.isfile(file):
        raise UserError(f"{path} does not exist; check the path")
    try:
        import torch
    except ImportError:
        raise missing("weights of torch need torch", "torch") from None
    try:
        found = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever unpickling raises
        said = str(error).split("\n")[0]
        raise UserError(f"{path} cannot be read as torch weights ({said}); give a file written by torch.save(state_dict, ...)") from None
    if not isinstance(found, Mapping):
        raise UserError(f"{path} holds a {type(found).__name__}; give a file written by torch.save(state_dict, ...)")
    return dict(found)


def to_torch_cnn(
    model: ImageClassifier,
    variables: Mapping[str, Any],
    *,
    input_size: int | tuple[int, int] | None = None,
    tensors: bool = True,
) -> dict[str, Any]:
    """Converts the variables of a network to a torch state dict with torchvision's key names.

    Args:
      model: a network of `seqjax.cnn`.
      variables: its variables, `{"params": ..., "batch_stats": ...}`; other collections are ignored.
      input_size: as in from_torch_cnn.
      tensors: whether to return torch tensors, as for `module.load_state_dict`; False returns NumPy arrays and does not
        need torch.

    Returns:
      key -> copy of the array, in the dtype of the variables (bfloat16 becomes float32). `num_batches_tracked` is 0 in every norm.

    Raises:
      UserError: the variables are not the model's: arrays are missing, too many, or of another shape (all by torch's keys).

    Example:
      >>> import seqjax.cnn.lenet, seqjax.interop.torchvision
      >>> model = seqjax.cnn.lenet.LeNet5()
      >>> variables = model.init(jax.random.key(0), jnp.ones((1, 32, 32, 1)))
      >>> state_dict = seqjax.interop.torchvision.to_torch_cnn(model, variables, tensors=False)
      >>> state_dict["fc1.weight"].shape
      (120, 400)
    """
    entries = _entries(model, input_size)
    collections = {name: variables[name] for name in ("params", "batch_stats") if name in variables}
    flat: dict[tuple[str, ...], Any] = traverse_util.flatten_dict(collections)
    given = {_key(path): value for path, value in flat.items()}
    _check_keys(model, entries, given)
    _check_shapes(model, entries, {key: _torch_shape(np.shape(value)) for key, value in given.items()})
    arrays = {key: _to_torch(given[key], entry) for key, entry in entries.items()}
    arrays |= {counter: np.zeros((), np.int64) for counter in _counters(entries)}
    if not tensors:
        return arrays
    import torch

    return {key: torch.from_numpy(value) for key, value in arrays.items()}


def _entries(model, input_size):
    """Returns torch key -> Entry for every array of the model."""
    if not isinstance(model, ImageClassifier):
        raise TypeError(f"model must be an image classifier of seqjax.cnn, got a {type(model).__name__}")
    size = input_size if input_size is not None else model.image_size
    height, width = (size, size) if isinstance(size, int) else size
    images = jax.ShapeDtypeStruct((1, height, width, model.in_channels), jnp.float32)
    template = jax.eval_shape(model.init, jax.random.key(0), images)
    entries, flat = {}, cast(dict[tuple[str, ...], Any], traverse_util.flatten_dict(template))
    for path, array in flat.items():
        key = _key(path)
        flattened = _flattened(model, path, array.shape)
        entries[key] = Entry(path, array.shape, array.dtype, flattened, _torch_shape(array.shape))
    return entries


def _key(path):
    """("batch_stats", "bn1", "mean") -> "bn1.running_mean"."""
    return ".".join((*path[1:-1], NAMES.get(path[-1], path[-1])))  # pyright: ignore[reportCallIssue, reportArgumentType]


def _torch_shape(shape):
    """(H, W, I, O) -> (O, I, H, W); (I, O) -> (O, I); (C,) as it is."""
    return (*shape[::-1][:2], *shape[:-2])


def _flattened(model, path, shape):
    """(H, W, C) of the map that a dense layer reads, or None."""
    channels = model.flatten.get(".".join(path[1:-1]))
    if channels is None or path[-1] != "kernel":
        return None
    side = math.isqrt(shape[0] // channels)
    if side * side * channels != shape[0]:
        raise UserError(
            f"{'.'.join(path[1:-1])} of {type(model).__name__} reads {shape[0]} values of {channels} channels, which is not a square map; "
            "give input_size as one integer"
        )
    return side, side, channels


def _from_torch(key, value, entry):
    """Copies torch's array to our layout and dtype."""
    array = _to_numpy(value)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(f"{key} must hold floats, got {array.dtype}; quantised weights must be dequantised first")
    if entry.flattened is not None:
        height, width, channels = entry.flattened
        array = array.reshape(-1, channels, height, width).transpose(2, 3, 1, 0)
    elif array.ndim > 1:
        array = np.moveaxis(array, (1, 0), (-2, -1))
    return jnp.array(array.reshape(entry.shape), entry.dtype)


def _to_torch(value, entry):
    """Copies our array to torch's layout."""
    array = _to_numpy(value)
    if entry.flattened is not None:
        array = array.reshape(*entry.flattened, -1).transpose(3, 2, 0, 1)
    elif array.ndim > 1:
        array = np.moveaxis(array, (-2, -1), (1, 0))
    return np.array(array.reshape(entry.torch_shape), order="C")


def _to_numpy(value):
    """Converts to NumPy; bfloat16, which NumPy and torch do not exchange, becomes float32."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        return (value.float() if str(value.dtype) == "torch.bfloat16" else value).numpy()
    array = np.asarray(value)
    return array.astype(np.float32) if array.dtype == jnp.bfloat16 else array


def _counters(entries):
    """Returns torch's counters of batches, one per norm."""
    return {f"{key.rpartition('.')[0]}.{COUNTER}" for key in entries if key.endswith(".running_mean")}


def _state_dict(given):
    """Returns the keys and values of a state dict; the error for common mistakes says what to pass instead."""
    if hasattr(given, "state_dict"):
        raise TypeError(f"state_dict is a {type(given).__name__}, not its weights; give its .state_dict()")
    if not isinstance(given, Mapping):
        raise TypeError(f"state_dict must map keys to arrays, got a {type(given).__name__}")
    nested = [key for key, value in given.items() if isinstance(value, Mapping)]
    if nested:
        raise UserError(f"this is a checkpoint, not a state dict: its entry {nested[0]!r} is nested; give state_dict[{nested[0]!r}]")
    if given and all(key.startswith("module.") for key in given):
        raise UserError("every key begins with 'module.', as DataParallel writes them; remove that prefix first")
    return dict(given)


def _check_aux(model, entries, given):
    """Refuses auxiliary heads on only one side."""
    wanted, held = (sorted({key.partition(".")[0] for key in keys if key.startswith(AUX)}) for keys in (entries, given))
    name = type(model).__name__
    if wanted and not held:
        raise UserError(
            f"the state dict has no auxiliary heads, but {name} has {', '.join(wanted)}; create the model with aux_logits=False"
        )
    if held and not wanted:
        raise UserError(
            f"the state dict has the auxiliary heads {', '.join(held)} but {name} has none; create the model with aux_logits=True, "
            "or pass drop_aux=True to leave them out"
        )


def _check_keys(model, entries, given):
    """Checks for all keys of the model and no others, except torch's counters."""
    missing = [key for key in entries if key not in given]
    unexpected = [key for key in given if key not in entries and key not in _counters(entries)]
    found = [f"{what}: {_some(keys)}" for what, keys in (("missing", missing), ("not the model's", unexpected)) if keys]
    if found:
        raise UserError(f"these are not the weights of {type(model).__name__}; {'; '.join(found)}")


def _check_shapes(model, entries, shapes):
    """Checks that every array has the model's shape, both in torch's layout."""
    wrong = [key for key, entry in entries.items() if shapes[key] != entry.torch_shape]
    if not wrong:
        return
    each = [f"{key} is {shapes[key]}, the model's is {entries[key].torch_shape}" for key in wrong[:SHOWN]]
    more = f"; and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
    sized = [key for key in wrong if entries[key].flattened is not None]
    advice = f"; {sized[0]} depends on the size of the images: see input_size" if sized == wrong else ""
    raise UserError(f"these weights do not fit {type(model).__name__}: {'; '.join(each)}{more}{advice}")


def _some(keys):
    rest = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
    return ", ".join(keys[:SHOWN]) + rest
