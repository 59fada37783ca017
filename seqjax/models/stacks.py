"""Stacks of cells by name, as configs describe them."""

from typing import Any

import seqjax
from seqjax.cells import CELLS
from seqjax.errors import UserError
from seqjax.typing import Cell


def make_cell(name: str, hidden_size: int, *, recurrent_dropout: float = 0.0, dtype: Any = None) -> Cell:
    """Builds one cell by name.

    Args:
      name: a name of `seqjax.cells.CELLS`, such as `lstm`, `rnn` (tanh) or `irnn` (relu, identity).
      hidden_size: H.
      recurrent_dropout: the fraction of h that is dropped before the recurrent product in training, one mask for all steps.
      dtype: computation dtype; parameters stay float32.

    Returns:
      A Cell.

    Raises:
      UserError: the name is unknown, or the cell has no h for recurrent dropout.

    Example:
      >>> make_cell("gru", 8).hidden_size
      8
    """
    if name not in CELLS:
        raise UserError(f"model.cell={name!r} is unknown; choose one of {', '.join(CELLS)}")
    cell = CELLS[name](hidden_size, dtype=dtype)
    return seqjax.recurrent_dropout(cell, recurrent_dropout) if recurrent_dropout else cell


def make_stack(
    cell: str,
    hidden_size: int,
    num_layers: int,
    *,
    dropout: float = 0.0,
    input_dropout: float | None = None,
    recurrent_dropout: float = 0.0,
    bidirectional: bool = False,
    residual: bool = False,
    dtype: Any = None,
) -> Cell:
    """Stacks equal cells with dropout on the inputs of each, by default only on the non-recurrent connections.

    Args:
      cell: as for make_cell.
      hidden_size: H of every layer, of each direction.
      num_layers: L.
      dropout: the fraction of each layer's inputs that is dropped in training.
      input_dropout: the same for the first layer; None is `dropout`.
      recurrent_dropout: as for make_cell.
      bidirectional: whether every layer runs in both directions and gives 2 H features, forward then backward.
      residual: whether every layer above the first adds its inputs to its outputs.
      dtype: computation dtype of the cells; parameters stay float32.

    Returns:
      One Cell.

    Raises:
      UserError: as make_cell.

    Example:
      >>> make_stack("gru", 8, 2).hidden_size, make_stack("gru", 8, 2, bidirectional=True).hidden_size
      (8, 16)

    Reference:
      Zaremba, Sutskever and Vinyals 2014, arXiv:1409.2329.
    """
    layers = []
    for depth in range(num_layers):
        layer = make_cell(cell, hidden_size, recurrent_dropout=recurrent_dropout, dtype=dtype)
        if bidirectional:
            other = make_cell(cell, hidden_size, recurrent_dropout=recurrent_dropout, dtype=dtype)
            layer = seqjax.bidirectional(layer, other)
        rate = dropout if depth or input_dropout is None else input_dropout
        layer = seqjax.dropout(layer, rate) if rate else layer
        layers.append(seqjax.residual(layer) if residual and depth else layer)
    return seqjax.stack(*layers)
