"""Inspects a network: a table of its layers, and its feature maps by name."""

import difflib
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import traverse_util
from flax.core import DenyList

from seqjax.typing import Array

Shape = tuple[int, ...]


class Row(NamedTuple):
    """One module of a network; the contents of a module inside it are counted in that module's row."""

    path: str  # "layer1.0.conv1", as torch writes it; "" for the network itself
    module: str  # the name of its class
    shape: Shape | tuple[Shape, ...] | None  # of the output, or of each if there are several; None if it did not run
    parameters: int  # trainable ones
    multiply_adds: int  # of a convolution or a dense layer; 0 for everything else


class Summary(NamedTuple):
    """The modules of a network in execution order, and their totals; `print` shows a table."""

    rows: tuple[Row, ...]  # the network itself first

    @property
    def parameters(self) -> int:
        """Trainable parameters of the whole network."""
        return sum(row.parameters for row in self.rows)

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of the whole network for the given batch."""
        return sum(row.multiply_adds for row in self.rows)

    def fold(self, depth: int) -> "Summary":
        """Merges rows more than `depth` names deep into the rows of the modules that contain them.

        Example:
          >>> fold = summary(nn.Sequential([nn.Dense(4), nn.Dense(2)]), (1, 3)).fold(0)
          >>> [(row.module, row.parameters) for row in fold.rows]
          [('Sequential', 26)]
        """
        folded: dict[str, Row] = {}
        for row in self.rows:
            path = ".".join(row.path.split(".")[:depth])
            known = folded.get(path)
            folded[path] = (
                row._replace(path=path)
                if known is None
                else known._replace(parameters=known.parameters + row.parameters, multiply_adds=known.multiply_adds + row.multiply_adds)
            )
        return Summary(tuple(folded.values()))

    def __str__(self) -> str:
        head = ("path", "module", "output", "parameters", "multiply-adds")
        lines = [(row.path, row.module, _written(row.shape), f"{row.parameters:,}", f"{row.multiply_adds:,}") for row in self.rows]
        total = ("total", "", "", f"{self.parameters:,}", f"{self.multiply_adds:,}")
        table = [head, *lines, total]
        widths = [max(len(line[i]) for line in table) for i in range(len(head))]
        texts = ["  ".join(cell.ljust(w) if i < 3 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths))) for line in table]
        rule = "-" * len(texts[0])
        return "\n".join([texts[0], rule, *texts[1:-1], rule, texts[-1]])


def summary(model: nn.Module, inputs: Any, *, train: bool = False) -> Summary:
    """Lists a network's modules with output shape, parameters and multiply-adds. Nothing is computed.

    As in torchvision, a multiply-add is counted for each weight and output of a convolution or dense layer, including
    those on padding, and none for biases, norms, pools and activations. Convolutions and dense layers are those of
    linen and subclasses; any other module may have a method `multiply_adds(output)`. The counts are for the given
    batch, so use a batch of 1 to compare with papers. Modules that run only in training (auxiliary heads) have
    parameters, but no multiply-adds unless `train`.

    Args:
      model: any linen module, not bound.
      inputs: the shape of float32 inputs, such as (1, 224, 224, 3); or an array, or a `jax.ShapeDtypeStruct`.
      train: counts what runs in training.

    Returns:
      A Summary.

    Example:
      >>> print(summary(nn.Sequential([nn.Conv(8, (3, 3)), nn.relu, nn.Dense(10)]), (1, 4, 4, 3)))
      path      module      output         parameters  multiply-adds
      --------------------------------------------------------------
                Sequential  (1, 4, 4, 10)           0              0
      layers_0  Conv        (1, 4, 4, 8)          224          3,456
      layers_2  Dense       (1, 4, 4, 10)          90          1,280
      --------------------------------------------------------------
      total                                       314          4,736
    """
    inputs, keys = _abstract(inputs), jax.eval_shape(_keys)
    in_init: dict[str, Row] = {}
    with nn.intercept_methods(_recorder(in_init)):
        variables = jax.eval_shape(lambda keys, x: model.init(keys, x, **_mode(model, train)), keys, inputs)
    rows: dict[str, Row] = {}
    with nn.intercept_methods(_recorder(rows)):
        jax.eval_shape(lambda keys, v, x: _apply(model, v, x, train, keys)[0], keys, variables, inputs)
    rows |= {path: row._replace(shape=None, multiply_adds=0) for path, row in in_init.items() if path not in rows}
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables.get("params", {})):
        owner = _owner([jax.tree_util.keystr((key,), simple=True) for key in path], rows)
        rows[owner] = rows[owner]._replace(parameters=rows[owner].parameters + leaf.size)
    return Summary(tuple(rows.values()))


def feature_names(model: nn.Module, inputs: Any, *, train: bool = False) -> list[str]:
    """Returns the names of a network's feature maps, in the order in which their modules start. Nothing is computed.

    Args:
      model, inputs, train: as for `summary`.

    Returns:
      Dotted paths of all modules that run, except the network itself.

    Example:
      >>> feature_names(nn.Sequential([nn.Dense(4), nn.relu, nn.Dense(2)]), (1, 3))
      ['layers_0', 'layers_2']
    """
    return [row.path for row in summary(model, inputs, train=train).rows if row.path and row.shape is not None]


def feature_maps(
    model: nn.Module,
    variables: Any,
    x: Array,
    names: Sequence[str] | None = None,
    *,
    train: bool = False,
    rngs: Any = None,
) -> dict[str, Array]:
    """Returns the outputs of modules inside a network.

    Inside jit only the requested outputs are computed; outside it the whole network runs.

    Args:
      model: any linen module, not bound.
      variables: its parameters and statistics.
      x: its input.
      names: dotted paths of modules, such as "layer1.0.conv1", as `feature_names` lists them; None gives all.
      train: runs the network as in training; statistics are not kept.
      rngs: for dropout in training, such as {"dropout": key}.

    Returns:
      name -> the module's output, in the order asked for; a tuple of outputs for a module that runs several times.

    Raises:
      ValueError: a name is unknown; the message suggests the nearest.

    Example:
      >>> model, x = nn.Sequential([nn.Dense(4), nn.relu, nn.Dense(2)]), jnp.ones((1, 3))
      >>> maps = feature_maps(model, model.init(jax.random.key(0), x), x, ["layers_0"])
      >>> {name: map.shape for name, map in maps.items()}
      {'layers_0': (1, 4)}
    """
    asked = None if names is None else set(names)

    def keep(module, method):
        path = ".".join(module.path)
        return method == "__call__" and (path in asked if asked is not None else path != "")

    variables = {name: values for name, values in variables.items() if name != "intermediates"}
    _, state = _apply(model, variables, x, train, rngs, capture_intermediates=keep)
    found: dict[tuple[str, ...], Any] = traverse_util.flatten_dict(state.get("intermediates", {}))
    outputs = {".".join(path[:-1]): maps[0] if len(maps) == 1 else maps for path, maps in found.items() if path[-1] == "__call__"}
    for name in outputs if names is None else names:
        if name not in outputs:
            known = feature_names(model, x, train=train)
            near = "".join(f" (nearest: {match})" for match in difflib.get_close_matches(name, known, n=1, cutoff=0.0))
            raise ValueError(f"{type(model).__name__} has no feature map {name!r}{near}; it has {len(known)}, see feature_names")
    return {name: outputs[name] for name in (outputs if names is None else names)}


def first_kernel(model: nn.Module, params: Any, inputs: Any) -> Array:
    """Returns the kernel of the first convolution: what a network looks for in the image itself.

    Args:
      model, inputs: as for `summary`.
      params: its parameters.

    Returns:
      The kernel, such as (H, W, C, filters).

    Raises:
      ValueError: the network has no convolution.

    Example:
      >>> model = nn.Sequential([nn.Conv(8, (3, 3)), nn.relu, nn.Conv(4, (1, 1))])
      >>> params = model.init(jax.random.key(0), jnp.ones((1, 4, 4, 3)))["params"]
      >>> first_kernel(model, params, (1, 4, 4, 3)).shape
      (3, 3, 3, 8)
    """
    for row in summary(model, inputs).rows:
        if row.module == "Conv" and row.shape is not None:
            for name in row.path.split("."):
                params = params[name]
            return params["kernel"]
    raise ValueError(f"{type(model).__name__} has no convolution")


def _recorder(rows: dict[str, Row]) -> Callable[..., Any]:
    """Returns a linen interceptor that records one row for each module that is called."""

    def record(call, args, kwargs, context):
        if context.method_name != "__call__":
            return call(*args, **kwargs)
        module, path = context.module, ".".join(context.module.path)
        before = rows.setdefault(path, Row(path, type(module).__name__, None, 0, 0))
        out = call(*args, **kwargs)
        shapes = tuple(tuple(leaf.shape) for leaf in jax.tree.leaves(out))
        more = _multiply_adds(module, out)
        rows[path] = before._replace(shape=shapes[0] if len(shapes) == 1 else shapes, multiply_adds=before.multiply_adds + more)
        return out

    return record


def _multiply_adds(module, out) -> int:
    """Counts one product for each weight of a channel's kernel and each value of that channel's output."""
    if hasattr(module, "multiply_adds"):
        return module.multiply_adds(out)
    if not isinstance(module, (nn.Conv, nn.Dense)):
        return 0
    kernel = module.get_variable("params", "kernel")
    return out.size * math.prod(kernel.shape[:-1])


def _owner(path, rows) -> str:
    """Returns the innermost module that contains a parameter."""
    for end in range(len(path) - 1, -1, -1):
        if ".".join(path[:end]) in rows:
            return ".".join(path[:end])
    return next(iter(rows))


def _mode(model, train) -> dict[str, Any]:
    """Returns `train` as an argument, for models that distinguish training from evaluation."""
    return {"train": train} if "train" in inspect.signature(model.__call__).parameters else {}


def _apply(model, variables, x, train, rngs, **options):
    mutable = DenyList("params")
    return model.apply(variables, x, **_mode(model, train), rngs=rngs, mutable=mutable, **options)


def _keys():
    return {name: jax.random.key(0) for name in ("params", "dropout")}


def _abstract(inputs):
    """Returns only shape and dtype."""
    if isinstance(inputs, Sequence):
        return jax.ShapeDtypeStruct(tuple(inputs), jnp.float32)
    return jax.ShapeDtypeStruct(inputs.shape, inputs.dtype)


def _written(shape) -> str:
    if shape is None:
        return "not run"
    return str(shape) if not shape or isinstance(shape[0], int) else ", ".join(map(str, shape))
