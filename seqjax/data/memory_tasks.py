r"""Tasks that need long memory, generated endlessly with JAX: the answer depends on inputs seen long before.

Each example is a pure function of a key, so a batch can be drawn on the device, redrawn after a restart, and split between processes.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from seqjax.errors import UserError

Array = jax.Array
Draw = Callable[[Array, Array, int], tuple[Array, Array, Array]]

SYMBOLS, RECALLED, CYCLE, DEPTH = 8, 10, 5, 8


class MemoryBatch(NamedTuple):
    """Sequences with their answers; the shapes never change."""

    inputs: Array  # float32 (B, T, D)
    targets: Array  # int32 (B, T), the class; or float32 (B, T), the number
    asked: Array  # bool (B, T), true where an answer counts
    lengths: Array  # int32 (B,), real steps; 0 for a padding row


class Task(NamedTuple):
    """A task.

    Attributes:
      draw: draw(key, length, steps) -> (inputs (steps, D), targets (steps,), asked (steps,)) of one example; `length`, an int32 of at most
        `steps`, is the number of real steps; later values have no meaning.
      features: D.
      classes: K; 0 where the answer is a number.
      guess: guess(length) -> the loss of the best answer without memory, in nats or squared error per answer.
      regular: whether lengths vary and a network trained on short sequences is tested on longer ones.
      text: the task in one line.
    """

    draw: Draw
    features: int
    classes: int
    guess: Callable[[int], float]
    regular: bool
    text: str


def _at_end(length, steps, answer):
    """The answer at the last real step."""
    place = jnp.arange(steps) == length - 1
    return jnp.where(place, answer, jnp.zeros_like(answer)), place


def _one_hot(symbols, count):
    return jax.nn.one_hot(symbols, count)


def adding(key: Array, length: Array, steps: int) -> tuple[Array, Array, Array]:
    """Adding: numbers in [0, 1), one marked in each half; the answer at the end is the sum of the two.

    Example:
      >>> inputs, targets, asked = adding(jax.random.key(0), jnp.int32(6), 6)
      >>> inputs.shape, bool(jnp.isclose((inputs[:, 0] * inputs[:, 1]).sum(), targets[-1])), asked.tolist()
      ((6, 2), True, [False, False, False, False, False, True])
    """
    of_values, of_first, of_second = jax.random.split(key, 3)
    half = length // 2
    values, places = jax.random.uniform(of_values, (steps,)), jnp.arange(steps)
    first = jax.random.randint(of_first, (), 0, jnp.maximum(half, 1))
    second = jax.random.randint(of_second, (), half, jnp.maximum(length, half + 1))
    marked = ((places == first) | (places == second)).astype(values.dtype)
    return jnp.stack([values, marked], axis=-1), *_at_end(length, steps, jnp.sum(values * marked))


def copy(key: Array, length: Array, steps: int) -> tuple[Array, Array, Array]:
    """Copy: ten symbols from an alphabet of eight, then blanks, then a signal; the targets are blanks, then the ten symbols, asked at every
    step.

    Inputs are one-hot: eight symbols, the blank, the signal. The first ten of `length` steps are the symbols, and the last ten their
    recall; length - 20 is the T of the literature.

    Example:
      >>> inputs, targets, asked = copy(jax.random.key(0), jnp.int32(25), 25)
      >>> targets[-10:].tolist() == inputs[:10].argmax(-1).tolist(), int(inputs[14].argmax()), bool(asked.all())
      (True, 9, True)
    """
    symbols = jax.random.randint(key, (RECALLED,), 0, SYMBOLS)
    places = jnp.arange(steps)
    shown = jnp.where(places < RECALLED, symbols[jnp.minimum(places, RECALLED - 1)], SYMBOLS)
    shown = jnp.where(places == length - RECALLED - 1, SYMBOLS + 1, shown)
    back = places - (length - RECALLED)
    answers = jnp.where(back >= 0, symbols[jnp.clip(back, 0, RECALLED - 1)], SYMBOLS)
    return _one_hot(shown, SYMBOLS + 2), answers, places < length


def recall(key: Array, length: Array, steps: int) -> tuple[Array, Array, Array]:
    """Recall: a symbol from an alphabet of eight, then other symbols marked as noise; the answer at the end is the first one.

    Example:
      >>> inputs, targets, asked = recall(jax.random.key(0), jnp.int32(6), 6)
      >>> int(inputs[0, :8].argmax()) == int(targets[-1]), inputs[:, 8].tolist()
      (True, [1.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    """
    symbols = jax.random.randint(key, (steps,), 0, SYMBOLS)
    first = (jnp.arange(steps) == 0).astype(jnp.float32)
    return jnp.concatenate([_one_hot(symbols, SYMBOLS), first[:, None]], axis=-1), *_at_end(length, steps, symbols[0])


def parity(key: Array, length: Array, steps: int) -> tuple[Array, Array, Array]:
    """Parity: the answer is whether the number of ones among the bits is odd.

    Example:
      >>> inputs, targets, _ = parity(jax.random.key(0), jnp.int32(5), 5)
      >>> int(inputs.argmax(-1).sum()) % 2 == int(targets[-1])
      True
    """
    bits = jax.random.bernoulli(key, shape=(steps,)).astype(jnp.int32)
    answer = jnp.sum(jnp.where(jnp.arange(steps) < length, bits, 0)) % 2
    return _one_hot(bits, 2), *_at_end(length, steps, answer)


def even_pairs(key: Array, length: Array, steps: int) -> tuple[Array, Array, Array]:
    """Even pairs: whether the letters a and b change an even number of times, that is, whether the first and last are equal.

    Example:
      >>> inputs, targets, _ = even_pairs(jax.random.key(0), jnp.int32(5), 5)
      >>> letters = inputs.argmax(-1)
      >>> int((letters[1:] != letters[:-1]).sum() % 2 == 0) == int(targets[-1])
      True
    """
    letters = jax.random.bernoulli(key, shape=(steps,)).astype(jnp.int32)
    answer = (letters[0] == letters[jnp.maximum(length - 1, 0)]).astype(jnp.int32)
    return _one_hot(letters, 2), *_at_end(length, steps, answer)


def cycle_navigation(key: Array, length: Array, steps: int) -> tuple[Array, Array, Array]:
    """Cycle navigation: moves left, right or not at all on a circle of five places; the answer is the final place.

    Example:
      >>> inputs, targets, _ = cycle_navigation(jax.random.key(0), jnp.int32(5), 5)
      >>> int((inputs.argmax(-1) - 1).sum()) % 5 == int(targets[-1])
      True
    """
    moves = jax.random.randint(key, (steps,), 0, 3)
    answer = jnp.sum(jnp.where(jnp.arange(steps) < length, moves - 1, 0)) % CYCLE
    return _one_hot(moves, 3), *_at_end(length, steps, answer)


def modular_arithmetic(key: Array, length: Array, steps: int) -> tuple[Array, Array, Array]:
    """Modular arithmetic: numbers from 0 to 4 joined by +, - and *, with the usual precedence; the answer is the value modulo 5.

    An expression has an odd number of symbols; for an even `length` the first symbol is empty.

    Example:
      >>> inputs, targets, _ = modular_arithmetic(jax.random.key(0), jnp.int32(5), 5)
      >>> expression = "".join("01234+-*"[int(i)] for i in inputs.argmax(-1))
      >>> eval(expression) % 5 == int(targets[-1])
      True
    """
    of_numbers, of_operators = jax.random.split(key)
    numbers, operators = jax.random.randint(of_numbers, (steps,), 0, 5), jax.random.randint(of_operators, (steps,), 0, 3)
    places, skipped = jnp.arange(steps), (length % 2 == 0).astype(jnp.int32)
    is_number = (places - skipped) % 2 == 0
    symbols = jnp.where(is_number, numbers, 5 + operators)
    symbols = jnp.where(places < skipped, 8, symbols)

    def read(state, seen):
        done, product, operator = state  # the sum of earlier terms, the current product with its sign, the last operator
        symbol, real = seen
        after = jnp.where(operator == 2, product * symbol, jnp.where(operator == 1, -symbol, symbol)) % 5
        of_number = jnp.where(operator == 2, done, (done + product) % 5), after, operator
        of_operator = done, product, symbol - 5
        new = jax.tree.map(lambda a, b: jnp.where(symbol < 5, a, b), of_number, of_operator)
        return jax.tree.map(lambda a, b: jnp.where(real, a, b), new, state), None

    zero = jnp.int32(0)
    (done, product, _), _ = jax.lax.scan(read, (zero, zero, zero), (symbols, (places < length) & (places >= skipped)))
    return _one_hot(symbols, 9), *_at_end(length, steps, (done + product) % 5)


def dyck(key: Array, length: Array, steps: int) -> tuple[Array, Array, Array]:
    """Dyck: two kinds of brackets, well nested, at most eight deep; after each, the kind to close next, or none.

    Example:
      >>> inputs, targets, _ = dyck(jax.random.key(1), jnp.int32(6), 6)
      >>> "".join("([)]"[int(i)] for i in inputs.argmax(-1)), targets.tolist()
      ('[()()[', [2, 1, 2, 1, 2, 2])
    """

    def read(state, key):
        stack, depth = state  # kinds of the open brackets
        of_kind, of_way = jax.random.split(key)
        opens = (depth == 0) | ((depth < DEPTH) & jax.random.bernoulli(of_way))
        top = stack[jnp.maximum(depth - 1, 0)]
        kind = jnp.where(opens, jax.random.randint(of_kind, (), 1, 3), top)
        stack = jnp.where(opens & (jnp.arange(DEPTH) == depth), kind, stack)
        depth = jnp.where(opens, depth + 1, depth - 1)
        answer = jnp.where(depth > 0, stack[jnp.maximum(depth - 1, 0)], 0)
        return (stack, depth), (kind - 1 + 2 * (1 - opens.astype(jnp.int32)), answer)

    start = jnp.zeros(DEPTH, jnp.int32), jnp.int32(0)
    _, (symbols, answers) = jax.lax.scan(read, start, jax.random.split(key, steps))
    return _one_hot(symbols, 4), answers, jnp.arange(steps) < length


def _nats(classes):
    return lambda length: float(jnp.log(classes))


TASKS = {
    "adding": Task(adding, 2, 0, lambda length: 1 / 6, False, "the sum of two marked numbers"),
    "copy": Task(copy, SYMBOLS + 2, SYMBOLS + 1, lambda length: float(RECALLED * jnp.log(SYMBOLS) / length), False,
                 "ten symbols again, after many blanks"),
    "recall": Task(recall, SYMBOLS + 1, SYMBOLS, _nats(SYMBOLS), False, "the first symbol, after others"),
    "parity": Task(parity, 2, 2, _nats(2), True, "whether the number of ones is odd"),
    "even_pairs": Task(even_pairs, 2, 2, _nats(2), True, "whether letters change an even number of times"),
    "cycle_navigation": Task(cycle_navigation, 3, CYCLE, _nats(CYCLE), True, "the place on a circle of five after steps"),
    "modular_arithmetic": Task(modular_arithmetic, 9, 5, _nats(5), True, "the value of an expression modulo 5"),
    "dyck": Task(dyck, 4, 3, _nats(3), True, "the bracket to close next"),
}  # fmt: skip
SHORTEST = {"copy": 2 * RECALLED + 1, "adding": 2}


def draw_batch(task: str, keys: Array, shortest: int, longest: int, steps: int) -> MemoryBatch:
    """Examples of a task, one for each key, with lengths drawn evenly.

    Args:
      task: a name of TASKS.
      keys: keys of jax.random, (B,).
      shortest, longest: bounds of the lengths, both included.
      steps: T, at least `longest`.

    Returns:
      A MemoryBatch. Inputs are zero after the end of a sequence, and targets are zero where nothing is asked.

    Raises:
      UserError: an unknown task, or lengths that it does not allow.

    Example:
      >>> batch = draw_batch("parity", jax.random.split(jax.random.key(0), 4), 1, 9, 10)
      >>> batch.inputs.shape, bool((batch.asked.sum(1) == 1).all()), bool((batch.lengths <= 9).all())
      ((4, 10, 2), True, True)

    Reference:
      Hochreiter, Schmidhuber 1997 for adding and recall; Arjovsky, Shah, Bengio 2016 (arXiv:1511.06464) for the forms of adding
      and copy; Deletang et al. 2023, "Neural Networks and the Chomsky Hierarchy" (arXiv:2207.02098) for the regular ones.
    """
    if task not in TASKS:
        raise UserError(f"task={task!r} is unknown; choose one of {', '.join(TASKS)}")
    least = SHORTEST.get(task, 1)
    if not least <= shortest <= longest <= steps:
        raise UserError(f"lengths of {task} go from {shortest} to {longest}; they must rise from at least {least} to at most {steps}")

    def one(key):
        of_length, of_rest = jax.random.split(key)
        length = jax.random.randint(of_length, (), shortest, longest + 1)
        inputs, targets, asked = TASKS[task].draw(of_rest, length, steps)
        return MemoryBatch(inputs * (jnp.arange(steps) < length)[:, None], jnp.where(asked, targets, 0), asked, length)

    return jax.vmap(one)(keys)
