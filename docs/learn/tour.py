# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The tour: from four letters to a language model
#
# This notebook builds up recurrent networks from nothing. Each section has one idea: a short text, the equation, the line of seqjax
# that computes it, code that runs, and one picture. You need Python and some linear algebra. On two CPU cores all of it runs in about
# five minutes, and it needs no network once seqjax is installed.
#
# | | |
# |---|---|
# | The recurrent network | 1 four letters · 2 state · 3 weight sharing · 4 unrolling · 5 backpropagation through time |
# | Making it learn | 6 vanishing and exploding gradients · 7 clipping · 8 the LSTM · 9 the GRU |
# | A language model | 10 training · 11 truncation · 12 sampling · 13 what the gates do |
# | Networks of sequences | 14 ways of using a sequence · 15 bidirectional · 16 deep · 17 attention |
# | Convolution | 18 convolution · 19 pooling · 20 LeNet · 21 from LeNet to MobileNet · 22 convolution over time |
#
# Facts are stated as `assert`: if the notebook runs to its end, they hold.

# %%
import importlib.util
import subprocess
import sys

SEQJAX = "seqjax @ git+https://github.com/seqjax/seqjax"
if importlib.util.find_spec("seqjax") is None:  # in Colab, or wherever seqjax is not installed yet
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", SEQJAX, "matplotlib", "pillow", "scikit-learn"], check=True)

# %%
import functools
import inspect
import math
import operator
import textwrap

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import seqjax
from seqjax.training.losses import token_cross_entropy
from seqjax.training.optimizers import make_optimizer

jax.config.update("jax_default_matmul_precision", "float32")  # GPUs may round more coarsely, and numbers are compared below

BLUE, ORANGE, GREEN, GREY = "#3366cc", "#e07020", "#2a8a4a", "#777777"
plt.rcParams |= {"figure.dpi": 100, "figure.figsize": (7.2, 3.2), "figure.constrained_layout.use": True, "font.size": 10,
                 "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False, "figure.titlesize": 11}  # fmt: skip


def finish(title):
    """Ends a picture: gives it its title, which says what there is to see, and shows it."""
    plt.gcf().suptitle("\n".join(textwrap.wrap(title, int(11 * plt.gcf().get_figwidth()))))
    plt.show()
    plt.close()


def line(function, fragment):
    """Prints the line of seqjax that computes an equation; fails if the function has no such line, or several."""
    (found,) = {row.strip() for row in inspect.getsource(function).split("\n") if fragment in row}
    path = inspect.getsourcefile(inspect.unwrap(function)).replace("\\", "/").rpartition("/seqjax/")[2]
    print(f"seqjax/{path} · {function.__name__}:  {found}")


def train(loss, params, steps, rate=1e-2, clip=1.0, seed=0):
    """Adam with clipping. loss(params, key) draws its batch with the key. Gives the trained params and the loss of each step."""
    optimizer = make_optimizer("adam", optax.constant_schedule(rate), clip_norm=clip)

    def step(state, key):
        params, opt_state = state
        value, grads = jax.value_and_grad(loss)(params, key)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), value

    keys = jax.random.split(jax.random.key(seed), steps)
    (params, _), losses = jax.jit(lambda state: jax.lax.scan(step, state, keys))((params, optimizer.init(params)))
    return params, np.asarray(losses)


def dense(key, inputs, outputs):
    """A matrix of weights."""
    return jax.nn.initializers.glorot_uniform()(key, (inputs, outputs))


def mean_loss(logits, targets):
    """The mean cross-entropy over all steps, in nats."""
    sums = token_cross_entropy(logits, targets, jnp.ones(targets.shape, bool))
    return sums.loss / sums.tokens


# %% [markdown]
# ## 1. Four letters
#
# The task is the smallest there is: read `h e l l`, and at each step predict the letter that follows, `e l l o`. A letter goes in as a
# one-hot vector $x_t$, with a 1 in its own place. Out come four scores, the logits $z_t$. The **softmax** turns them into
# probabilities, and the loss is the **cross-entropy**, the negative logarithm of the probability given to the right letter $y_t$:
#
# $$ p_t = \mathrm{softmax}(z_t), \qquad p_{t,k} = \frac{e^{z_{t,k}}}{\sum_j e^{z_{t,j}}}, \qquad L = -\frac1T \sum_t \log p_{t,\,y_t} $$
#
# Code: [`seqjax/training/losses.py` · `token_cross_entropy`](../../seqjax/training/losses.py).
#
# First a model without memory: the prediction is a function of the current letter only, $z_t = W x_t$. After `l` comes `l` once and `o`
# once. The best such a model can do is to say one half each, so its loss cannot fall below $\frac{1}{4}(0 + 0 + \log 2 + \log 2)$.

# %%
line(token_cross_entropy, "losses = optax.softmax")

letters = "helo"
ids = jnp.array([letters.index(letter) for letter in "hello"])
inputs, targets = ids[None, :-1], ids[None, 1:]  # (B, T) = (1, 4): "hell" and "ello"
xs = jax.nn.one_hot(inputs, 4)  # (1, 4, 4)

table, losses = train(lambda table, key: mean_loss(xs @ table, targets), jnp.zeros((4, 4)), steps=600, rate=0.1)
best = 2 * math.log(2) / 4
print(f"loss {losses[-1]:.4f} nats, the best without memory {best:.4f}")
assert abs(losses[0] - math.log(4)) < 1e-5  # all four letters equally likely
assert best - 1e-5 < losses[-1] < best + 0.01

figure, axes = plt.subplots(figsize=(3.8, 3.2))
image = axes.imshow(jax.nn.softmax(table[:3]), cmap="Blues", vmin=0, vmax=1)
axes.set(xticks=range(4), xticklabels=letters, yticks=range(3), yticklabels=letters[:3], xlabel="next letter", ylabel="letter read")
for row in range(3):
    for column in range(4):
        p = float(jax.nn.softmax(table[row])[column])
        axes.text(column, row, f"{p:.2f}", ha="center", va="center", color="white" if p > 0.6 else "black")
finish("Without memory, l can only answer: l or o, one half each")

# %% [markdown]
# ## 2. State
#
# A recurrent network keeps a **state** $h_t$, a vector that it hands from each step to the next. The new state is computed from the old
# one and the input, and the prediction from the state:
#
# $$ h_t = \tanh(W_{hh}\, h_{t-1} + W_{xh}\, x_t + b), \qquad z_t = W_{hy}\, h_t $$
#
# Lectures write column vectors, as above. In arrays each example is a row, so the code has `x @ kernel`, with the matrices transposed.
# `seqjax.rnn(8)` is this cell with eight units. A cell is a set of pure functions: `init` makes its parameters, `step` makes one step.
#
# Code: [`seqjax/cells/vanilla.py` · `rnn`](../../seqjax/cells/vanilla.py), where `s` is the sum inside the tanh. The two products of
# that sum are those of all cells of this form, [`seqjax/_split.py` · `parts`](../../seqjax/_split.py).

# %%
line(seqjax.rnn, "return RNNCarry(h=act(s))")
line(seqjax.typing.Dense.parts, "return xs.astype(kernel.dtype) @ kernel + bias")
line(seqjax.typing.Dense.parts, "return carry.h.astype(kernel.dtype) @ kernel")

cell = seqjax.rnn(8)
keys = jax.random.split(jax.random.key(0), 2)
start = {"rnn": cell.init(keys[0], 4), "out": dense(keys[1], 8, 4)}


def hello_loss(params, key=None):
    carry, hs = seqjax.unroll(cell, params["rnn"], xs)
    return mean_loss(hs @ params["out"], targets)


hello, losses = train(hello_loss, start, steps=300)
carry, hs = seqjax.unroll(cell, hello["rnn"], xs)
print(f"loss {losses[-1]:.4f} nats, now below the best without memory, {best:.4f}")
assert losses[-1] < 0.05
assert (jnp.argmax(hs @ hello["out"], axis=-1) == targets).all()

# The equation, typed out, gives the states that seqjax gives.
W_xh, W_hh, b = hello["rnn"].kernel, hello["rnn"].recurrent_kernel, hello["rnn"].bias
h, by_hand = jnp.zeros(8), []
for x in xs[0]:
    h = jnp.tanh(x @ W_xh + h @ W_hh + b)
    by_hand.append(h)
assert jnp.allclose(jnp.stack(by_hand), hs[0], atol=1e-5)

figure, axes = plt.subplots(figsize=(5.2, 3.0))
image = axes.imshow(hs[0].T, cmap="RdBu", vmin=-1, vmax=1, aspect="auto")
axes.set(xticks=range(4), xticklabels=[f"{a} → {b}" for a, b in zip("hell", "ello")], xlabel="letter read → letter predicted",
         ylabel="unit of the state", yticks=range(8))  # fmt: skip
figure.colorbar(image, label="value")
assert jnp.linalg.norm(hs[0, 2] - hs[0, 3]) > 0.5
finish("The same letter l, two states: so the two answers can differ")

# %% [markdown]
# ## 3. Weight sharing
#
# The same $W_{hh}$, $W_{xh}$ and $b$ serve at every step. So the number of parameters does not grow with the length, a network trained
# on short sequences runs on long ones, and what is learned in one place is known in all places. A fully connected network over the
# whole sequence has none of these: it needs other weights for each length.
#
# When a weight is used several times, its gradient is the **sum of the gradients of its uses**:
#
# $$ \frac{\partial L}{\partial W} = \sum_{t=1}^{T} \frac{\partial L}{\partial W^{(t)}}, \qquad W^{(1)} = \dots = W^{(T)} = W $$
#
# The code gives each step a copy of its own, differentiates with respect to all copies, and compares.
#
# Code: the loop of the plain engine, [`seqjax/engines/scan.py` · `run`](../../seqjax/engines/scan.py), has the same `params` at every
# step.

# %%
line(seqjax.engines.scan.run, "after, y = cell.step(params, start, x)")


def loss_of_copies(copies, out):
    carry, hs = cell.initial_carry(start["rnn"], 1), []
    for t in range(4):
        carry, h = cell.step(jax.tree.map(operator.itemgetter(t), copies), carry, xs[:, t])
        hs.append(h)
    return mean_loss(jnp.stack(hs, axis=1) @ out, targets)


copies = jax.tree.map(lambda weight: jnp.stack([weight] * 4), start["rnn"])
apart = jax.grad(loss_of_copies)(copies, start["out"])  # one gradient for each step
shared = jax.grad(hello_loss)(start)["rnn"]
for each, together in zip(apart, shared):
    assert jnp.allclose(each.sum(axis=0), together, atol=1e-6)

lengths = np.array([4, 16, 64, 256, 1024])
recurrent = sum(weight.size for weight in jax.tree.leaves(start))
connected = (lengths * 4) * (lengths * 8) + (lengths * 8) * (lengths * 4)  # 8 hidden units a step, every step joined with every step
plt.loglog(lengths, connected, "o-", color=ORANGE, label="fully connected")
plt.loglog(lengths, np.full(5, recurrent), "o-", color=BLUE, label="recurrent: shared weights")
plt.gca().set(xlabel="length of the sequence, steps", ylabel="parameters", xticks=lengths, xticklabels=lengths)
plt.minorticks_off()
plt.legend()
finish(f"Shared weights: {recurrent} parameters at any length")

# %% [markdown]
# ## 4. Unrolling
#
# The network has a loop: its state feeds back into it. **Unrolling** writes the loop out, one copy of the cell for each step. What
# comes out is an ordinary feedforward network, as deep as the sequence is long, with the same weights in each layer. All that is known
# about feedforward networks applies: forward left to right, backpropagation right to left.
#
# $$ (h_t, y_t) = \mathrm{step}(\theta, h_{t-1}, x_t), \qquad t = 1 \dots T $$
#
# `seqjax.unroll` runs a cell over sequences $(B, T, D)$. `seqjax.step` makes one step, for streams. Both give the same numbers.
#
# Code: [`seqjax/_unroll.py` · `step`](../../seqjax/_unroll.py).

# %%
line(seqjax._unroll._step, "return cell.step(params, carry, x)")

carry, streamed = cell.initial_carry(hello["rnn"], 1), []
for t in range(4):
    carry, h = seqjax.step(cell, hello["rnn"], carry, xs[:, t])
    streamed.append(h)
assert jnp.allclose(jnp.stack(streamed, axis=1), hs, atol=1e-6)


def box(axes, x, y, text, colour, size=0.62):
    axes.add_patch(plt.Rectangle((x - size / 2, y - size / 2), size, size, facecolor=colour, edgecolor="black", zorder=2))
    axes.text(x, y, text, ha="center", va="center", zorder=3)


def arrow(axes, start, end, label="", colour="black", curve=0.0):
    style = {"arrowstyle": "-|>", "color": colour, "shrinkA": 0, "shrinkB": 0, "connectionstyle": f"arc3,rad={curve}"}
    axes.annotate("", end, start, arrowprops=style, zorder=1)
    axes.text((start[0] + end[0]) / 2 + 0.05, (start[1] + end[1]) / 2 + 0.09, label, color=colour, fontsize=9)


probabilities = jax.nn.softmax(hs[0] @ hello["out"])
figure, axes = plt.subplots(figsize=(7.2, 3.4))
columns = [0, *(2.2 + 1.35 * np.arange(4))]
for n, x in enumerate(columns):
    box(axes, x, 1.3, "$h$" if n == 0 else f"$h_{n}$", "#cfe0ff")
    box(axes, x, 0, "$x$" if n == 0 else "hell"[n - 1], "#eeeeee")
    box(axes, x, 2.6, "$y$" if n == 0 else "ello"[n - 1], "#ffe3c8")
    arrow(axes, (x, 0.31), (x, 0.99), "$W_{xh}$")
    arrow(axes, (x, 1.61), (x, 2.29), "$W_{hy}$")
    if n:
        axes.text(x, 3.05, f"p = {probabilities[n - 1, targets[0, n - 1]]:.2f}", ha="center", fontsize=9)
    if n > 1:
        arrow(axes, (columns[n - 1] + 0.31, 1.3), (x - 0.31, 1.3), "$W_{hh}$", BLUE)
axes.add_patch(plt.Circle((0.5, 1.3), 0.3, fill=False, edgecolor=BLUE, linewidth=1.5))
axes.text(0.85, 1.2, "$W_{hh}$", color=BLUE, fontsize=9)
axes.text(1.42, 1.28, "=", fontsize=18, ha="center")
axes.text(1.42, 3.05, "probability:", ha="right", fontsize=9)
axes.set(xlim=(-0.6, 6.8), ylim=(-0.5, 3.35), aspect="equal")
axes.set_axis_off()
finish("The loop on the left, unrolled over hell → ello on the right")

# %% [markdown]
# ## 5. Backpropagation through time
#
# Backpropagation through the unrolled network is called backpropagation through time (**BPTT**). The loss of step $t$ depends on the
# state of step $s \le t$ through all the steps between, so its gradient is a **product of Jacobians**:
#
# $$ \frac{\partial L_t}{\partial h_s} = \frac{\partial L_t}{\partial h_t} \prod_{k=s+1}^{t} \frac{\partial h_k}{\partial h_{k-1}},
# \qquad \frac{\partial h_k}{\partial h_{k-1}} = \mathrm{diag}(1 - h_k^2)\, W_{hh} $$
#
# with the factor of the latest step first. Sum over all later losses, $\delta_s = \sum_{t \ge s} \partial L_t / \partial h_s$, and the
# gradient of the shared weight is
#
# $$ \frac{\partial L}{\partial W_{hh}} = \sum_{s} \big(\delta_s \odot (1 - h_s^2)\big)\, h_{s-1}^{\top} $$
#
# Below, both are written out for a fresh network that reads `hello` three times, and compared with what JAX gives.
#
# Code: one step back, as the engine `fused` takes it, is in
# [`seqjax/engines/fused.py` · `_unrolled_bwd`](../../seqjax/engines/fused.py); the engine `scan` leaves it to `jax.grad`. The Jacobian
# of a step is that of [`seqjax/diagnostics/jacobians.py` · `step_jacobians`](../../seqjax/diagnostics/jacobians.py).

# %%
from seqjax.diagnostics.jacobians import step_jacobians

line(seqjax.engines.fused._unrolled_bwd, "d_carry, d_vectors, d_initial = state")
line(seqjax.engines.fused._unrolled_bwd, "= back((d_after, d_y))")

thrice = jnp.array([letters.index(letter) for letter in "hellohellohello"])
many, after = jax.nn.one_hot(thrice[None, :-1], 4), thrice[None, 1:]
steps = many.shape[1]
kernel, recurrent_kernel, bias = start["rnn"]
hs = np.asarray(seqjax.unroll(cell, start["rnn"], many)[1][0])
errors = (jax.nn.softmax(hs @ start["out"]) - jax.nn.one_hot(after[0], 4)) / steps  # dL / dz, for softmax and cross-entropy together
flow = np.zeros((steps, steps))  # norm of dL_t / dh_s
delta = np.zeros((steps, 8))
for t in range(steps):
    gradient = np.asarray(errors[t] @ start["out"].T)  # dL_t / dh_t
    for s in range(t, -1, -1):
        flow[t, s] = np.linalg.norm(gradient)
        delta[s] += gradient
        gradient = np.asarray(recurrent_kernel) @ ((1 - hs[s] ** 2) * gradient)  # one Jacobian back, in rows

before = np.concatenate([np.zeros((1, 8)), hs[:-1]])
by_hand = before.T @ (delta * (1 - hs**2))
by_jax = jax.grad(lambda params: mean_loss(seqjax.unroll(cell, params, many)[1] @ start["out"], after))(start["rnn"])
assert np.allclose(by_hand, by_jax.recurrent_kernel, atol=1e-6)
jacobian = step_jacobians(cell, start["rnn"], seqjax.cells.RNNCarry(h=hs[None, 3]), many[:, 4])[0]
assert np.allclose(jacobian, np.diag(1 - hs[4] ** 2) @ recurrent_kernel.T, atol=1e-5)

figure, axes = plt.subplots(figsize=(5.4, 4.0))
image = axes.imshow(np.where(flow > 0, flow, np.nan), cmap="viridis", norm="log")
read = list("hellohellohello")
axes.set(xticks=range(steps), xticklabels=read[:-1], yticks=range(steps), yticklabels=read[1:], xlabel="state after reading, $h_s$",
         ylabel="loss at predicting, $L_t$")  # fmt: skip
figure.colorbar(image, label=r"$\|\partial L_t / \partial h_s\|$")
finish("Every loss sends its gradient back to all earlier states, weaker with distance")

# %% [markdown]
# ## 6. Vanishing and exploding gradients
#
# A product of many Jacobians shrinks or grows like a power. With $\sigma_{\max}$ the largest singular value of $W_{hh}$, and because
# the slope of tanh is at most 1,
#
# $$ \Big\| \frac{\partial h_t}{\partial h_s} \Big\| \le \prod_{k=s+1}^{t} \| \mathrm{diag}(1 - h_k^2) \| \, \| W_{hh} \| \le
# \sigma_{\max}^{\,t-s} $$
#
# With $\sigma_{\max} < 1$ gradients **vanish**: the network cannot learn what depends on the distant past. With larger weights they can
# **explode**. To see the rate alone, let $W_{hh} = \rho\, Q$ with $Q$ orthogonal, so that all singular values are $\rho$, and make the
# inputs so weak that the slope of tanh stays at 1. Then a gradient is multiplied by $\rho$ at each step back. With strong inputs tanh
# saturates, its slope falls below 1, and even $\rho = 1.1$ vanishes.
#
# Code: [`seqjax/diagnostics/carry_gradients.py` · `carry_gradients`](../../seqjax/diagnostics/carry_gradients.py) measures
# $\|\partial L / \partial h_t\|$ at every step of any network.

# %%
from seqjax.diagnostics.carry_gradients import carry_gradients

line(carry_gradients, "grads, reals = jax.jit(jax.grad(loss")

weights = jax.random.normal(jax.random.key(3), (32,))  # the loss is a weighted sum of the last state


def reach(cell, strength, steps=60):
    """The norm of dL / dh, 1, 2, ... steps before the loss."""
    params = cell.init(jax.random.key(1), 8)
    noise = strength * jax.random.normal(jax.random.key(2), (4, steps, 8))
    (found,) = carry_gradients(lambda params: (seqjax.unroll(cell, params, noise)[1] @ weights).sum(), params, through="last")
    return np.asarray(found.total.mean(axis=0))[-2::-1]


def times_orthogonal(radius):
    return lambda key, shape, dtype: radius * jax.nn.initializers.orthogonal()(key, shape, dtype)


lags = np.arange(1, 60)
for radius, colour in ((1.1, ORANGE), (1.0, GREY), (0.9, BLUE)):
    vanilla = seqjax.rnn(32, recurrent_init=times_orthogonal(radius))
    weak, strong, predicted = reach(vanilla, 1e-5), reach(vanilla, 1.0), float(jnp.linalg.norm(weights)) * radius**lags
    assert np.allclose(weak, predicted, rtol=0.01)  # they shrink or grow by the factor predicted
    assert (strong <= predicted * 1.001).all()  # and never exceed the bound
    plt.semilogy(lags, predicted, color=colour, linewidth=1)
    plt.semilogy(lags, weak, "o", color=colour, markersize=3.5, label=rf"$\rho$ = {radius}, weak inputs")
    if radius == 1.1:
        plt.semilogy(lags, strong, "x", color=colour, markersize=4, label=r"$\rho$ = 1.1, strong inputs")
        assert strong[-1] < 1e-2 * strong[0]
plt.gca().set(xlabel="steps back from the loss", ylabel=r"$\|\partial L / \partial h\|$")
plt.legend(loc="center left", bbox_to_anchor=(1, 0.5))
finish("Gradients change by the factor ρ a step (lines predicted, dots measured)")

# %% [markdown]
# ## 7. Clipping
#
# Where gradients explode, the loss has a cliff: a tiny change of a weight changes the end of the sequence completely. One plain step
# from the cliff throws the weight far away. **Clipping by the global norm** keeps the direction of the gradient $g$ and limits its
# length:
#
# $$ g \leftarrow g \cdot \min\!\Big(1, \frac{\theta}{\|g\|}\Big) $$
#
# The picture is of a network with one unit, $h_t = \tanh(w\,h_{t-1} - 0.3)$ from $h_0 = 0.25$, which should end at $-0.9$ after 12
# steps. To the right of the cliff the state escapes to $+1$, to the left to $-1$. Clipping does nothing against vanishing gradients:
# for these see the next section.
#
# Code: [`seqjax/training/guard.py` · `clip_by_global_norm`](../../seqjax/training/guard.py).

# %%
from seqjax.training.guard import clip_by_global_norm

line(clip_by_global_norm, "return jnp.where(norm * scale < max_norm")

one = seqjax.rnn(1)


def end_loss(w):
    params = seqjax.cells.RNNParams(kernel=jnp.zeros((1, 1)), recurrent_kernel=w.reshape(1, 1), bias=jnp.array([-0.3]))
    carry, _ = seqjax.unroll(one, params, jnp.zeros((1, 12, 1)), seqjax.cells.RNNCarry(h=jnp.array([[0.25]])))
    return (carry.h[0, 0] + 0.9) ** 2


grid = jnp.linspace(1.4, 3.0, 801)
values, slopes = jax.jit(jax.vmap(jax.value_and_grad(end_loss)))(grid)
edge = grid[jnp.argmax(slopes)]  # the steepest place
value, g = jax.value_and_grad(end_loss)(edge)
clip = clip_by_global_norm(1.0)
clipped, _ = clip.update(g, clip.init(None))
plain_step, clipped_step = edge - 0.1 * g, edge - 0.1 * clipped  # a learning rate of 0.1
print(f"gradient {float(g):,.0f}, clipped {float(clipped):.2f}")
print(f"from w = {float(edge):.2f} a plain step goes to {float(plain_step):.0f}, a clipped one to {float(clipped_step):.2f}")
assert g > 100 and abs(float(clipped) - 1.0) < 1e-6
assert end_loss(clipped_step) < 0.5 * value and end_loss(plain_step) > value
assert abs(float(jax.grad(end_loss)(plain_step))) < 1e-6  # out there it is flat: no gradient leads back

plt.plot(grid, values, color=GREY)
plt.plot(edge, value, "o", color="black")
plt.annotate("", (1.45, value), (edge, value), arrowprops={"arrowstyle": "-|>", "color": ORANGE, "linewidth": 2})
there = f"plain step: to w = {float(plain_step):.0f},\nwhere the loss is {float(end_loss(plain_step)):.1f} and flat"
plt.text(1.42, value + 0.15, there, color=ORANGE)
plt.annotate("", (clipped_step, end_loss(clipped_step)), (edge, value), arrowprops={"arrowstyle": "-|>", "color": BLUE, "linewidth": 2})
plt.text(clipped_step - 0.02, 0.75, "clipped step", color=BLUE, ha="right")
plt.gca().set(xlabel="recurrent weight w", ylabel="loss after 12 steps", xlim=(1.4, 3.0))
finish("At a cliff, a plain step is lost and a clipped step goes down")

# %% [markdown]
# ## 8. Gates: the LSTM
#
# The long short-term memory has a second state, the **memory** $c_t$, which is added to and not squashed. Three gates, numbers between
# 0 and 1 for each unit, say what is written, what is kept and what is shown. Its six equations, with $\sigma$ the logistic sigmoid and
# $\odot$ the product unit by unit:
#
# $$ i_t = \sigma(W_i x_t + U_i h_{t-1} + b_i) \qquad \text{input gate: how much is written} $$
#
# $$ f_t = \sigma(W_f x_t + U_f h_{t-1} + b_f) \qquad \text{forget gate: how much is kept} $$
#
# $$ o_t = \sigma(W_o x_t + U_o h_{t-1} + b_o) \qquad \text{output gate: how much is shown} $$
#
# $$ g_t = \tanh(W_g x_t + U_g h_{t-1} + b_g) \qquad \text{candidate: what is written} $$
#
# $$ c_t = f_t \odot c_{t-1} + i_t \odot g_t $$
#
# $$ h_t = o_t \odot \tanh(c_t) $$
#
# With the gates held fixed, the Jacobian along the memory is $\partial c_t / \partial c_{t-1} = \mathrm{diag}(f_t)$. A gate near 1
# hands the gradient back undiminished. That is why the forget bias $b_f$ starts at 1 or higher: the network remembers unless it learns
# not to.
#
# Code: [`seqjax/cells/_lstm.py` · `memory`](../../seqjax/cells/_lstm.py) and
# [`seqjax/cells/_lstm.py` · `lstm`](../../seqjax/cells/_lstm.py).
#
# The task: among 50 letters, the first one and now and then one of the next 19 is from `h e l o`; all others are noise. Say at the end
# which of `h e l o` came **last**. So the network must remember over 30 to 49 steps, and forget each time a new letter comes.
#
# The biases start spread out (chrono initialisation): some units forget within 2 steps, some hold on for 50.

# %%
line(seqjax.cells._lstm.memory, "new = f * c +")
line(seqjax.cells._lstm.memory, "return gate_act(a[name]")
line(seqjax.lstm, "h = o * act(seen)")


STEPS = 50


def recall_batch(key, batch=64):
    """Letters 0 to 3 are to be remembered, 4 to 7 are noise: (B, T) tokens, and which of 0 to 3 came last, (B,)."""
    keys = jax.random.split(key, 2)
    marked = jax.random.bernoulli(keys[0], 0.1, (batch, STEPS)) & (jnp.arange(STEPS) < 20)[None]
    marked = marked.at[:, 0].set(True)
    names, noise = jax.random.randint(keys[1], (2, batch, STEPS), 0, 4)
    tokens = jnp.where(marked, names, 4 + noise)
    last = jnp.where(marked, jnp.arange(STEPS)[None], 0).max(axis=1)
    return tokens, jnp.take_along_axis(tokens, last[:, None], axis=1)[:, 0]


def recall(cell, steps=400):
    """Trains a cell of 24 units on the task; gives params and losses."""

    def loss(params, key):
        tokens, answer = recall_batch(key)
        _, hs = seqjax.unroll(cell, params["rnn"], jax.nn.one_hot(tokens, 8))
        return mean_loss(hs[:, -1:] @ params["out"], answer[:, None])

    keys = jax.random.split(jax.random.key(0), 2)
    return train(loss, {"rnn": cell.init(keys[0], 8), "out": dense(keys[1], 24, 4)}, steps)


lstm = seqjax.lstm(24, bias_init=seqjax.initializers.chrono(STEPS))
lstm_params, lstm_losses = recall(lstm)
print(f"loss {lstm_losses[-20:].mean():.4f} nats, guessing {math.log(4):.4f}")
assert lstm_losses[-20:].mean() < 0.2

# The six equations, typed out, on the trained network.
tokens, answer = recall_batch(jax.random.key(9))
read = jax.nn.one_hot(tokens, 8)
W, U, b = lstm_params["rnn"].kernel, lstm_params["rnn"].recurrent_kernel, lstm_params["rnn"].bias
c = h = jnp.zeros((64, 24))
forget = []
for t in range(STEPS):
    i, f, g, o = jnp.split(read[:, t] @ W + h @ U + b[None], 4, axis=-1)
    i, f, o, g = jax.nn.sigmoid(i), jax.nn.sigmoid(f), jax.nn.sigmoid(o), jnp.tanh(g)
    c = f * c + i * g
    h = o * jnp.tanh(c)
    forget.append(f.mean(axis=1))
forget = np.stack(forget, axis=1)  # (B, T), mean over the units
carry, hs = seqjax.unroll(lstm, lstm_params["rnn"], read)
assert jnp.allclose(h, hs[:, -1], atol=1e-4) and jnp.allclose(c, carry.c, atol=1e-3)
assert (jnp.argmax(h @ lstm_params["out"], axis=-1) == answer).mean() > 0.95

marked = np.asarray(tokens < 4)
print(f"mean of the forget gates: {forget[marked].mean():.2f} at a letter to remember, {forget[~marked].mean():.2f} at noise")
assert forget[marked].mean() < forget[~marked].mean() - 0.1
row = int(np.argsort(marked.sum(axis=1))[-8])  # a sequence with several letters
plt.plot(range(1, STEPS + 1), forget[row], color=BLUE)
for t in np.flatnonzero(marked[row]):
    plt.plot(t + 1, forget[row, t], "o", color=ORANGE)
    plt.text(t + 1, forget[row, t] - 0.035, letters[tokens[row, t]], color=ORANGE, ha="center", va="top", fontsize=12)
plt.gca().set(xlabel="step (letters to remember in orange, all others noise)", ylabel="forget gate, mean of 24 units",
              ylim=(forget[row].min() - 0.12, 1))  # fmt: skip
finish("The forget gate stays open through noise and falls when a new letter comes")

# %% [markdown]
# ## 9. Gates: the GRU
#
# The gated recurrent unit gets by with one state and two gates. The update gate $z_t$ mixes the old state with a candidate, and the
# reset gate $r_t$ says how much of the old state the candidate sees:
#
# $$ r_t = \sigma(W_r x_t + U_r h_{t-1} + b_r) $$
#
# $$ z_t = \sigma(W_z x_t + U_z h_{t-1} + b_z) $$
#
# $$ n_t = \tanh\!\big(W_n x_t + b_n + r_t \odot (U_n h_{t-1} + b_{hn})\big) $$
#
# $$ h_t = (1 - z_t) \odot n_t + z_t \odot h_{t-1} $$
#
# It has three products where the LSTM has four. Keeping and writing are tied: what is not kept is overwritten. (The paper of 2014 has
# $U_n (r_t \odot h_{t-1})$, which is `reset_after=False`; some texts swap $z$ and $1 - z$.)
#
# Gates alone are not enough. On the task of section 8, the LSTM without a forget bias starts with $f = 1/2$. It about halves its memory
# at each step, to a billionth after 30, and in 400 training steps it learns no more than the tanh RNN does.
#
# Code: [`seqjax/cells/_gru.py` · `gru`](../../seqjax/cells/_gru.py).

# %%
line(seqjax.gru, "n = act(x_n + r * parts.add_bias")
line(seqjax.gru, "return GRUCarry(h=(1 - z) * n + z * carry.h)")

gru = seqjax.gru(24, bias_init=seqjax.initializers.chrono(STEPS, keep=1, write=None, gates=3))
gru_params, gru_losses = recall(gru)
_, rnn_losses = recall(seqjax.rnn(24))
_, forgetful_losses = recall(seqjax.lstm(24, forget_bias=0.0))

W, U, b, b_hn = gru_params["rnn"]
h = jnp.zeros((64, 24))
for t in range(STEPS):
    (x_r, x_z, x_n), (h_r, h_z, h_n) = jnp.split(read[:, t] @ W + b[None], 3, axis=-1), jnp.split(h @ U, 3, axis=-1)
    r, z = jax.nn.sigmoid(x_r + h_r), jax.nn.sigmoid(x_z + h_z)
    n = jnp.tanh(x_n + r * (h_n + b_hn[None]))
    h = (1 - z) * n + z * h
assert jnp.allclose(h, seqjax.unroll(gru, gru_params["rnn"], read)[1][:, -1], atol=1e-4)
assert gru_params["rnn"].kernel.size * 4 == lstm_params["rnn"].kernel.size * 3

for label, found, colour in (("LSTM, chrono bias", lstm_losses, BLUE), ("GRU, chrono bias", gru_losses, GREEN),
                             ("LSTM, forget bias 0", forgetful_losses, ORANGE), ("tanh RNN", rnn_losses, GREY)):  # fmt: skip
    plt.plot(np.convolve(found, np.ones(10) / 10, "valid"), color=colour, label=label)
plt.axhline(math.log(4), color="black", linewidth=0.8, linestyle=":")
plt.text(395, math.log(4) + 0.06, "guessing", fontsize=9, ha="right")
plt.gca().set(xlabel="training step", ylabel="loss, nats (mean of 10)", ylim=(0, 1.7))
plt.legend(loc="center left", bbox_to_anchor=(1, 0.5))
assert gru_losses[-20:].mean() < 0.2 and rnn_losses[-20:].mean() > 1.0 and forgetful_losses[-20:].mean() > 1.0
finish("Remembering for 30 steps and more: gates that start open learn it")

# %% [markdown]
# ## 10. A language model
#
# Now real text: the documentation inside Python itself, so nothing is downloaded. A language model gives each character a probability
# after all those before it. By the chain rule this is a probability for the whole text:
#
# $$ p(y_1 \dots y_T) = \prod_{t=1}^{T} p(y_t \mid y_1 \dots y_{t-1}), \qquad
# L = -\frac1T \sum_{t} \log p(y_t \mid y_{<t}), \qquad \text{perplexity} = e^L $$
#
# The model is an embedding (a learned vector for each character, $x_t = E_{y_{t-1}}$), an LSTM, and a softmax. It is trained by
# **Adam**, which divides a running mean of the gradient $g$ by the root of a running mean of its square, so that each weight moves by
# about the learning rate $\eta$. That rate falls along half a cosine.
#
# $$ m \leftarrow \beta_1 m + (1 - \beta_1)\, g, \qquad v \leftarrow \beta_2 v + (1 - \beta_2)\, g^2, \qquad
# \theta \leftarrow \theta - \eta\, \frac{m / (1 - \beta_1^n)}{\sqrt{v / (1 - \beta_2^n)} + \epsilon} $$
#
# where $n$ counts the updates. Beside the model stand n-gram models, which count what follows the last $n - 1$ characters: a strong
# baseline, and one that any language model should be compared with.
#
# The text is cut into 32 rows that are read side by side in windows of 64 characters. Training and validation text are apart.
#
# Code: [`seqjax/models/language_model.py` · `LanguageModel`](../../seqjax/models/language_model.py),
# [`seqjax/training/optimizers.py` · `make_optimizer`](../../seqjax/training/optimizers.py).

# %%
from seqjax.data import Windows, encode_corpus, load_corpus
from seqjax.models import LanguageModel
from seqjax.text import BOS, EOS, PAD, CharTokenizer, NGramModel
from seqjax.training.losses import perplexity
from seqjax.training.optimizers import make_schedule
from seqjax.training.train_step import batch_sharding, init_state, make_evaluate, make_mesh, make_train_step

line(LanguageModel.__call__, 'logits = nn.Dense(self.vocab_size')
line(perplexity, "return math.exp(nats)")
line(make_optimizer, "adam = optax.scale_by_adam")

corpus = load_corpus("embedded", name="python_docs")
tokenizer = CharTokenizer.fit(corpus.parts["train"]["text"])
streams, _ = encode_corpus(corpus, tokenizer, eos_id=EOS, reset=True)
windows = Windows(streams["train"], 32, 64, bos_id=BOS, pad_id=PAD)
validation = Windows(streams["validation"], 32, 128, bos_id=BOS, pad_id=PAD)
print(f"{len(streams['train']):,} characters to train on, {len(streams['validation']):,} to validate, vocabulary {tokenizer.vocab_size}")

model = LanguageModel(tokenizer.vocab_size, seqjax.lstm(192), embed_size=64)
params = model.init(jax.random.key(0), np.zeros((1, 1), np.int32))["params"]


def lm_loss(params, model_state, carry, batch, rng):
    carry, logits = model.apply({"params": params}, batch.inputs, carry, resets=batch.resets)
    return carry, model_state, token_cross_entropy(logits, batch.targets, batch.mask)


updates = 1500
schedule = make_schedule("cosine", 6e-3, steps=updates, warmup_steps=50, final_fraction=0.02)
optimizer = make_optimizer("adam", schedule, clip_norm=1.0)
mesh = make_mesh(32, jax.devices()[:1])
state = init_state(params, (), optimizer, model.initial_carry(params, 32), jax.random.key(1), mesh)
train_step = make_train_step(lm_loss, optimizer, schedule, mesh, clip_norm=1.0)
evaluate = make_evaluate(lm_loss, mesh)

curve = []
for update in range(updates):
    state, metrics = train_step(state, jax.device_put(next(windows), batch_sharding(mesh)))
    if update + 1 in (10, 30) or (update + 1) % 100 == 0:
        sums = evaluate(state.params, (), model.initial_carry(params, 32), validation.one_pass())
        curve.append((update + 1, sums.loss / sums.tokens))
params = jax.device_get(state.params)

ngrams = {}
for order in (1, 2, 3, 4, 6):
    counted = NGramModel.fit(streams["train"].tokens, streams["train"].mask(), order=order, vocab_size=tokenizer.vocab_size)
    ngrams[order] = counted.nats(streams["validation"].tokens, streams["validation"].mask())
at, nats = zip(*curve)
print(f"LSTM: {nats[-1]:.3f} nats, perplexity {perplexity(nats[-1]):.2f}; n-grams:", {n: round(v, 3) for n, v in ngrams.items()})
assert nats[-1] < ngrams[4] < ngrams[3] < ngrams[2] < ngrams[1] < math.log(tokenizer.vocab_size)

plt.plot(at, nats, "o-", color=BLUE, markersize=4, label="LSTM, 192 units")
for order, value in ngrams.items():
    plt.plot([0, updates], [value, value], color=GREY, linewidth=0.8, linestyle=":")
    plt.text(1.02 * updates, value, f"{order}-gram", va="center", fontsize=9, color=GREY)
plt.gca().set(xlabel="training step", ylabel="validation loss, nats a character")
plt.legend(loc="upper center")
finish("The LSTM passes one n-gram model after another")

# %% [markdown]
# ## 11. Truncation
#
# A text of a million characters cannot be unrolled as a whole. **Truncated BPTT** reads it in windows of $K$ steps. The state passes
# from each window to the next **by value**; the gradient stops at the border:
#
# $$ h_0^{(w+1)} = \mathrm{stop\_gradient}\big(h_K^{(w)}\big) $$
#
# The network still sees the past, but its gradient is only part of the true one, $g$. How much is lost depends on how far gradients
# reach (section 6), and can be measured: $|g - g_K| / |g|$ for the gradient $g_K$ of windows of $K$ steps.
#
# Code: [`seqjax/training/train_step.py` · `truncate`](../../seqjax/training/train_step.py), and
# [`seqjax/diagnostics/truncation.py` · `truncation`](../../seqjax/diagnostics/truncation.py) for the measurement.

# %%
from seqjax.diagnostics.truncation import truncation
from seqjax.training.train_step import truncate

line(truncate, "return jax.tree.map(jax.lax.stop_gradient, carry)")

# Across a border the value continues, and the gradient is exactly zero.
some = jax.random.normal(jax.random.key(4), (1, 24, 4))


def last_output(inputs, every):
    return seqjax.truncated_unroll(cell, start["rnn"], inputs, every=every)[1][0, -1].sum()


whole, cut = jax.grad(last_output)(some, 24)[0], jax.grad(last_output)(some, 8)[0]
assert jnp.allclose(last_output(some, 24), last_output(some, 8), atol=1e-5)
assert (whole[:16] != 0).any() and (cut[:16] == 0).all() and jnp.allclose(whole[16:], cut[16:], atol=1e-5)

stretch = next(Windows(streams["validation"], 8, 256, bos_id=BOS, pad_id=PAD))


def stretch_loss(params):
    _, logits = model.apply({"params": params}, stretch.inputs, None, resets=stretch.resets)
    sums = token_cross_entropy(logits, stretch.targets, stretch.mask)
    return sums.loss / sums.tokens


lost = truncation(stretch_loss, params, windows=(1, 2, 4, 8, 16, 32, 64, 128, 256))
print("cut off:", {int(k): f"{float(share):.1%}" for k, share in zip(lost.windows, lost.cut_off)})
assert lost.cut_off[0] > 0.3 and lost.cut_off[-1] < 1e-4 and lost.cut_off[6] < 0.5 * lost.cut_off[2]

plt.plot(lost.windows, 100 * np.asarray(lost.cut_off), "o-", color=BLUE)
plt.xscale("log", base=2)
plt.gca().set(xlabel="window K, steps", ylabel="gradient cut off, %", xticks=lost.windows, xticklabels=lost.windows, ylim=(0, None))
plt.axvline(64, color=GREY, linewidth=0.8, linestyle=":")
plt.text(66, 0.9 * plt.ylim()[1], "trained with 64", color=GREY, fontsize=9)
finish("What truncation cuts off of the trained model's gradient")

# %% [markdown]
# ## 12. Sampling with temperature
#
# To write, draw a character from the model's distribution, feed it back as the next input, and repeat. The **temperature** $\tau$
# sharpens or flattens the distribution:
#
# $$ p_k = \frac{e^{z_k / \tau}}{\sum_j e^{z_j / \tau}} $$
#
# As $\tau \to 0$ only the likeliest remains (greedy), and a small model soon repeats itself; $\tau = 1$ is the model itself;
# $\tau \to \infty$ is uniform. Top-k keeps the $k$ likeliest, top-p the likeliest that together reach probability $p$.
#
# Code: [`seqjax/decoding/sampling.py` · `filter_logits`](../../seqjax/decoding/sampling.py), and
# [`seqjax/decoding/sampling.py` · `sample`](../../seqjax/decoding/sampling.py) for the loop.

# %%
from seqjax.decoding import filter_logits, sample

line(filter_logits, "logits = logits / jnp.maximum(temperature, TINY)")


def write_step(carry, tokens):
    """One character further: (carry, tokens (B,)) -> (carry, logits (B, V)). The params travel in the carry."""
    params, state = carry
    state, logits = model.apply({"params": params}, tokens[:, None], state)
    return (params, state), logits[:, 0]


prompt = tokenizer.encode("The list ")
memory, logits = model.apply({"params": params}, np.array([[BOS, *prompt[:-1]]], np.int32), None)
for temperature in (0.0, 0.5, 1.0, 1.5):
    how = {"length": 150, "eos_id": EOS, "banned": (PAD, BOS), "temperature": temperature}
    drawn = sample(write_step, (params, memory), prompt[-1:], jax.random.key(5), **how)
    print(f"--- temperature {temperature}\nThe list {tokenizer.decode(drawn.tokens[0])}")

_, logits = write_step((params, memory), jnp.asarray(prompt[-1:]))
curves, entropies = {}, []
for temperature in (0.5, 1.0, 2.0):
    p = jax.nn.softmax(filter_logits(logits[0], temperature=temperature, banned=(PAD, BOS)))
    curves[temperature] = np.asarray(p)
    entropies.append(float(-(p * jnp.log(jnp.maximum(p, 1e-30))).sum()))
assert entropies[0] < entropies[1] < entropies[2]  # hotter is less certain
assert filter_logits(logits[0], temperature=0.0).argmax() == logits[0].argmax()
by_definition = jax.nn.softmax(logits[0].at[jnp.array([PAD, BOS])].set(-jnp.inf) / 0.5)
assert np.allclose(curves[0.5], by_definition, atol=1e-5)

likeliest = np.argsort(-curves[1.0])[:12]
names, shown = {" ": "␣", "\n": "⏎"}, [tokenizer.decode([k], skip_special=False) for k in likeliest]
for n, (temperature, colour) in enumerate(zip(curves, (BLUE, GREY, ORANGE))):
    plt.bar(np.arange(12) + 0.27 * (n - 1), curves[temperature][likeliest], 0.27, color=colour, label=f"temperature {temperature}")
plt.gca().set(xticks=range(12), xticklabels=[names.get(name, name) for name in shown], ylabel="probability",
              xlabel="next character after “The list ”, the 12 likeliest")  # fmt: skip
plt.legend()
finish("Temperature sharpens or flattens what the model says")

# %% [markdown]
# ## 13. What the gates do on real text
#
# Nobody told the language model what a line is. Yet the text has lines of about seventy characters, and it pays to know how far along
# one is. So some unit may have learned to count. Below, all 192 units read validation text, and the unit whose memory correlates best
# with the column is shown. (Picking the best of many units always finds something; a strong correlation on text that was not trained on
# is what makes it believable.)
#
# Why can an LSTM count? Write its memory out: each step adds $i_s \odot g_s$, and the forget gates since then say how much of it is
# left.
#
# $$ c_t = \sum_{s \le t} \Big( \prod_{k=s+1}^{t} f_k \Big) \odot i_s \odot g_s $$
#
# With $f = 1$ and a constant $i \odot g$ it is a counter; one forget gate of 0 sets it back to zero.
#
# Code: the gates over a whole batch are summed up by
# [`seqjax/diagnostics/gates.py` · `gate_statistics`](../../seqjax/diagnostics/gates.py).

# %%
from seqjax.diagnostics.gates import gate_statistics

embedded = jnp.asarray(params["embed"]["embedding"])[stretch.inputs]  # (8, 256, 64)
lm_cell, lm_rnn = model.cell, jax.tree.map(jnp.asarray, params["rnn"])
_, hs, carries = seqjax.unroll(lm_cell, lm_rnn, embedded, resets=stretch.resets, return_carries=True)
previous = jnp.concatenate([jnp.zeros((8, 1, 192)), hs[:, :-1]], axis=1) * ~stretch.resets[..., None]
i, f, g, o = jnp.split(jax.nn.sigmoid(embedded @ lm_rnn.kernel + previous @ lm_rnn.recurrent_kernel + lm_rnn.bias), 4, axis=-1)
told = {gate.gate: gate for gate in gate_statistics(lm_cell, lm_rnn, embedded, resets=stretch.resets)}
assert np.allclose(told["f"].mean, f.mean(axis=(0, 1)), atol=1e-4)  # the gates by hand are the gates that seqjax reports

newline = tokenizer.encode("\n")[0]
column = np.zeros(stretch.inputs.shape)
for t in range(1, 256):
    column[:, t] = np.where((stretch.inputs[:, t] == newline) | stretch.resets[:, t], 0, column[:, t - 1] + 1)
memories = np.asarray(carries.c)
settled = np.cumsum(stretch.inputs == newline, axis=1) > 0  # from the first line's end on, where the column is known
correlations = np.array([np.corrcoef(memories[..., unit][settled], column[settled])[0, 1] for unit in range(192)])
unit = int(np.abs(correlations).argmax())
row = int(settled.sum(axis=1).argmax())
print(f"unit {unit}: correlation with the column {correlations[unit]:.2f}; its forget gate is {float(f[..., unit].mean()):.2f} on average, "
      f"{float(f[..., unit][stretch.inputs == newline].mean()):.2f} at a line's end")  # fmt: skip
assert abs(correlations[unit]) > 0.4 and f[..., unit][stretch.inputs == newline].mean() < f[..., unit].mean()

figure, (upper, lower) = plt.subplots(2, 1, sharex=True, figsize=(7.2, 4.2))
upper.plot(np.sign(correlations[unit]) * memories[row, :, unit], color=BLUE)
upper.set(ylabel="memory c" + (" (sign turned)" if correlations[unit] < 0 else ""))
lower.plot(f[row, :, unit], color=ORANGE)
lower.set(ylabel="forget gate", ylim=(0, 1.03), xlabel="character of the text (lines end at the dotted lines)")
for t in np.flatnonzero(stretch.inputs[row] == newline):
    for axes in (upper, lower):
        axes.axvline(t, color=GREY, linewidth=0.8, linestyle=":")
finish("One of 192 units counts along each line, and forgets at its end")

# %% [markdown]
# ## 14. Ways of using a sequence
#
# The same cell serves every shape of task. What changes is where inputs go in and where outputs are read:
#
# | shape | example | with seqjax |
# |---|---|---|
# | one-to-many | a label to a picture, an image to a caption | one real input, then zeros or its own output |
# | many-to-one | a text to its class | read the last output: `carry.h`, or `seqjax.nn.pool` |
# | many-to-many, in step | a word to its tag, a character to the next | read all outputs of `unroll` |
# | encoder–decoder | a sentence to its translation | two cells: the first one's last state starts the second (section 17) |
#
# Batches hold sequences of different lengths, padded to the longest. `lengths` says how many steps are real. With the mask $m_t$, 1 at
# real steps and 0 at padding, a padded step leaves the state as it was and has no gradient, so the last state is that of the last real
# step:
#
# $$ h_t = m_t\, \mathrm{cell}(h_{t-1}, x_t) + (1 - m_t)\, h_{t-1} $$
#
# Two of the shapes, on 8 × 8 images of handwritten digits. **Many-to-one** reads an image row by row and says which digit it is.
# **One-to-many** gets only the digit, at the first step, and writes an image row by row; with the squared error as loss it learns the
# mean image of each digit.
#
# Code: [`seqjax/nn/pooling.py` · `pool`](../../seqjax/nn/pooling.py),
# [`seqjax/engines/steps.py` · `select`](../../seqjax/engines/steps.py) for padded steps.

# %%
from seqjax.data import load_images

line(seqjax.engines.scan.run, "return steps.select(real, after, carry)")

digits = load_images("embedded", name="digits")
images, labels = {}, {}
for part, found in digits.parts.items():
    pixels, numbers = found.take(np.arange(len(found)))
    images[part], labels[part] = jnp.asarray(pixels[..., 0] / 255.0, jnp.float32), jnp.asarray(numbers)  # (N, 8, 8) and (N,)
print({part: values.shape for part, values in images.items()})

reader = seqjax.lstm(48)


def read_loss(params, key):
    chosen = jax.random.randint(key, (64,), 0, len(labels["train"]))
    carry, _ = seqjax.unroll(reader, params["rnn"], images["train"][chosen])  # T = 8 rows of D = 8 pixels
    return mean_loss((carry.h @ params["out"])[:, None], labels["train"][chosen][:, None])


keys = jax.random.split(jax.random.key(0), 4)
read_params, _ = train(read_loss, {"rnn": reader.init(keys[0], 8), "out": dense(keys[1], 48, 10)}, steps=500)
carry, _ = seqjax.unroll(reader, read_params["rnn"], images["test"])
accuracy = float((jnp.argmax(carry.h @ read_params["out"], axis=-1) == labels["test"]).mean())
print(f"many-to-one: {accuracy:.1%} of the test digits recognised, row by row")
assert accuracy > 0.93

# Padding has no influence: 8 real rows and 3 of nonsense give the same state.
padded = jnp.concatenate([images["test"][:5], jnp.full((5, 3, 8), jnp.nan)], axis=1)
carry_padded, _ = seqjax.unroll(reader, read_params["rnn"], padded, lengths=jnp.full(5, 8))
assert jnp.allclose(carry_padded.h, carry.h[:5], atol=1e-5)

writer = seqjax.gru(64)


def written_images(params, numbers):
    inputs = jnp.zeros((len(numbers), 8, 10)).at[:, 0].set(jax.nn.one_hot(numbers, 10))  # the label, then nothing
    _, hs = seqjax.unroll(writer, params["rnn"], inputs)
    return hs @ params["out"]


def write_loss(params, key):
    chosen = jax.random.randint(key, (64,), 0, len(labels["train"]))
    return ((written_images(params, labels["train"][chosen]) - images["train"][chosen]) ** 2).mean()


write_params, _ = train(write_loss, {"rnn": writer.init(keys[2], 10), "out": dense(keys[3], 64, 8)}, steps=500)
drawn = written_images(write_params, jnp.arange(10))
means = jnp.stack([images["train"][labels["train"] == number].mean(axis=0) for number in range(10)])
print(f"one-to-many: pixels are {float(jnp.abs(drawn - means).mean()):.3f} off the mean image, of a range of 1")
assert jnp.abs(drawn - means).mean() < 0.04

figure, axes = plt.subplots(2, 10, figsize=(7.2, 2.1))
for number in range(10):
    for row, values in enumerate((drawn, means)):
        axes[row, number].imshow(values[number], cmap="gray_r", vmin=0, vmax=1)
        axes[row, number].set(xticks=[], yticks=[])
        axes[row, number].spines[:].set_visible(False)
    axes[0, number].set_title(str(number), fontsize=10)
axes[0, 0].set_ylabel("written", fontsize=9)
axes[1, 0].set_ylabel("mean", fontsize=9)
finish("One-to-many: ten images, each written row by row from its label alone")

# %% [markdown]
# ## 15. Bidirectional
#
# Where the whole sequence is there before the answer is due, a second cell may read it **from the end**. Each step then knows its past
# and its future:
#
# $$ \overrightarrow{h}_t = \mathrm{cell}_1(\overrightarrow{h}_{t-1}, x_t), \qquad \overleftarrow{h}_t =
# \mathrm{cell}_2(\overleftarrow{h}_{t+1}, x_t),
# \qquad y_t = [\overrightarrow{h}_t;\, \overleftarrow{h}_t] $$
#
# Task: for each letter of a random sequence of eight different ones, say whether it will **come again** later. From the past alone this
# cannot be known, only guessed: with $n$ letters still to come the probability is $q_n = 1 - (7/8)^n$, so no forward network can be
# right more often than $\max(q_n, 1 - q_n)$. A bidirectional one can be right always.
#
# Code: [`seqjax/wrappers/_bidirectional.py` · `bidirectional`](../../seqjax/wrappers/_bidirectional.py). It cannot run as a stream or
# generate text: the future is not there yet.

# %%
line(seqjax.bidirectional, "run.both")

LENGTH = 16


def again_batch(key, batch=128):
    tokens = jax.random.randint(key, (batch, LENGTH), 0, 8)
    same = tokens[:, :, None] == tokens[:, None, :]  # [b, t, s]: the same letter at t and s
    later = jnp.triu(jnp.ones((LENGTH, LENGTH), bool), 1)
    return jax.nn.one_hot(tokens, 8), (same & later[None]).any(axis=2).astype(int)


def again(cell, width):
    def logits(params, read):
        return seqjax.unroll(cell, params["rnn"], read)[1] @ params["out"]

    def loss(params, key):
        read, answer = again_batch(key)
        return mean_loss(logits(params, read), answer)

    keys = jax.random.split(jax.random.key(0), 2)
    params, _ = train(loss, {"rnn": cell.init(keys[0], 8), "out": dense(keys[1], width, 2)}, steps=500)
    read, answer = again_batch(jax.random.key(99), 4000)
    return np.asarray((jnp.argmax(logits(params, read), axis=-1) == answer).mean(axis=0))


forward, both = again(seqjax.gru(32), 32), again(seqjax.bidirectional(seqjax.gru(32), seqjax.gru(32)), 64)
q = 1 - (7 / 8) ** np.arange(LENGTH - 1, -1, -1)
ceiling = np.maximum(q, 1 - q)
assert (forward < ceiling + 0.03).all() and forward.mean() > ceiling.mean() - 0.03 and both.mean() > 0.97
place = np.arange(1, LENGTH + 1)
plt.plot(place, 100 * both, "o-", color=BLUE, label="bidirectional")
plt.plot(place, 100 * forward, "o-", color=ORANGE, label="forward only")
plt.plot(place, 100 * ceiling, ":", color="black", label="best without the future, $\\max(q, 1 - q)$")
plt.gca().set(xlabel="position in the sequence", ylabel="right answers, %", ylim=(45, 102), xticks=place[::3])
plt.legend(loc="center left", bbox_to_anchor=(1, 0.5))
finish("“Will this letter come again?” needs the future")

# %% [markdown]
# ## 16. Deep
#
# Layers stack: the outputs of one are the inputs of the next, $h^{(0)}_t = x_t$ and
#
# $$ h_t^{(l)} = \mathrm{cell}_l\big(h_{t-1}^{(l)},\; h_t^{(l-1)}\big), \qquad l = 1 \dots L $$
#
# Gradients can now vanish in a second direction, down the layers. A **residual connection** adds a layer's input to its output, so that
# there is a path on which nothing is multiplied:
#
# $$ y_t^{(l)} = h_t^{(l)} + y_t^{(l-1)} $$
#
# Code: [`seqjax/wrappers/_stack.py` · `stack`](../../seqjax/wrappers/_stack.py),
# [`seqjax/wrappers/_residual.py` · `residual`](../../seqjax/wrappers/_residual.py). With `seqjax.dropout` around a layer, noise acts on
# the connections between layers and never on those through time.

# %%
line(seqjax.residual, "return carry, y + x.astype(y.dtype)")


def layer_gradients(deep):
    """How much of the loss's gradient reaches the states of each of 12 fresh layers: mean norm over steps and sequences."""
    params = deep.init(jax.random.key(0), 32)
    noise, weights = jax.random.normal(jax.random.key(1), (2, 8, 20, 32))
    (found,) = carry_gradients(lambda params: (seqjax.unroll(deep, params, noise)[1] * weights).sum(), params)
    return np.array([float(layer.h.mean()) for layer in found.norms])


plain = layer_gradients(seqjax.stack(*[seqjax.lstm(32)] * 12))
shortcut = layer_gradients(seqjax.stack(*[seqjax.residual(seqjax.lstm(32))] * 12))
print(f"bottom layer beside the top: {plain[0] / plain[-1]:.1e} plain, {shortcut[0] / shortcut[-1]:.1e} with residual connections")
assert plain[0] < 0.05 * plain[-1] and shortcut[0] > 0.5 * shortcut[-1]
plt.semilogy(range(1, 13), shortcut, "o-", color=BLUE, label="with residual connections")
plt.semilogy(range(1, 13), plain, "o-", color=ORANGE, label="plain stack")
plt.gca().set(xlabel="layer, from the bottom up", ylabel=r"$\|\partial L / \partial h^{(l)}\|$", xticks=range(1, 13))
plt.legend()
finish("Twelve layers: the gradient reaches the bottom where there is a shortcut")

# %% [markdown]
# ## 17. Encoder, decoder and attention
#
# An encoder reads the whole source $x$; a decoder, started by the encoder's last state, writes the target one token after the other:
#
# $$ p(y_1 \dots y_T \mid x) = \prod_{t} p(y_t \mid y_1 \dots y_{t-1}, x) $$
#
# So everything must pass through one vector. **Attention** lets the decoder look at all encoder states $m_1 \dots m_S$ at each step. A
# score says how well each fits the decoder's state $s_{t-1}$; a softmax makes weights of the scores; the weighted mean is the context:
#
# $$ e_{t,j} = v^{\top} \tanh(W s_{t-1} + U m_j + b), \qquad \alpha_{t,j} = \frac{e^{e_{t,j}}}{\sum_k e^{e_{t,k}}}, \qquad
# c_t = \sum_j \alpha_{t,j}\, m_j $$
#
# This is the additive score of Bahdanau; Luong's is a product, $s^\top W m_j$, and that of transformers is $s^\top m_j / \sqrt{M}$. The
# weights can be looked at: they say where the decoder looked.
#
# Code: [`seqjax/nn/attention.py` · `attend`](../../seqjax/nn/attention.py),
# [`seqjax/nn/masks.py` · `masked_softmax`](../../seqjax/nn/masks.py); the three scores are
# [`seqjax/nn/attention.py` · `bahdanau`](../../seqjax/nn/attention.py), `luong` and `scaled_dot`.
#
# Task: dates as people write them to dates as computers do, `7 march 1998` → `1998-03-07`. In training the decoder is given the right
# token before each one to predict (teacher forcing); in the test it is given its own.

# %%
from seqjax.decoding import decoder
from seqjax.models import Seq2Seq, make_attention

line(seqjax.nn.attention._additive_scores, "return jnp.tanh(query")
line(seqjax.nn.attend, "weights = masked_softmax(scores, mask)")
line(seqjax.nn.attend, "return jnp.einsum(equation")

MONTHS = "january february march april may june july august september october november december".split()


def make_dates(rng, number):
    """Pairs such as ("mar 7, 1998", "1998-03-07")."""
    pairs = []
    for _ in range(number):
        year, month, day = rng.integers(1900, 2050), rng.integers(1, 13), rng.integers(1, 29)
        name = MONTHS[month - 1]
        forms = (f"{day} {name} {year}", f"{name} {day}, {year}", f"{name[:3]} {day}, {year}", f"{day:02}/{month:02}/{year}")
        pairs.append((forms[rng.integers(4)], f"{year}-{month:02}-{day:02}"))
    return pairs


def padded_ids(texts, width):
    ids = np.full((len(texts), width), PAD, np.int32)
    for row, text in zip(ids, texts):
        row[: len(text)] = date_letters.encode(text)
    return ids


rng = np.random.default_rng(0)
pairs = make_dates(rng, 6000)
known = {source for source, _ in pairs}
fresh = [pair for pair in make_dates(rng, 1500) if pair[0] not in known][:500]
date_letters = CharTokenizer.fit([source + target for source, target in pairs])


def arrays(pairs):
    sources, goals = zip(*pairs)
    return jnp.asarray(padded_ids(sources, 20)), jnp.array([len(source) for source in sources]), jnp.asarray(padded_ids(goals, 10))


train_dates, test_dates = arrays(pairs), arrays(fresh)


def begun(goals):
    """What the decoder is given: <bos> and all but the last token."""
    return jnp.concatenate([jnp.full((len(goals), 1), BOS), goals[:, :-1]], axis=1)


def translate(attention, steps=500):
    """Trains an encoder–decoder; gives the model, its params and the share of unseen dates that it gets right in all ten characters."""
    encoder = seqjax.bidirectional(seqjax.gru(48), seqjax.gru(48))
    model = Seq2Seq(date_letters.vocab_size, date_letters.vocab_size, encoder, (seqjax.gru(64),), embed_size=24, attention=attention)

    def loss(params, key):
        chosen = jax.random.randint(key, (64,), 0, len(pairs))
        source, lengths, goals = (values[chosen] for values in train_dates)
        return mean_loss(model.apply({"params": params}, source, lengths, begun(goals)).logits, goals)

    source, lengths, goals = test_dates
    params = model.init(jax.random.key(0), source[:2], lengths[:2], begun(goals[:2]))["params"]
    params, _ = train(loss, params, steps, rate=5e-3)

    def step(params, encoded, carry, tokens):
        return model.apply({"params": params}, encoded, carry, tokens, method="step")

    encoded = model.apply({"params": params}, source, lengths, method="encode")
    carry = model.apply({"params": params}, encoded, method="initial_carry")
    written = decoder.greedy(step, params, encoded, carry, jnp.full(len(fresh), BOS), length=10, eos_id=None).tokens
    return model, params, float((written == goals).all(axis=1).mean())


_, _, accuracy_without = translate(None)
attending, attending_params, accuracy_with = translate(make_attention("bahdanau", 48))
print(f"unseen dates all right after equally many steps: {accuracy_with:.0%} with attention, {accuracy_without:.0%} without")
assert accuracy_with > 0.9 and accuracy_with > accuracy_without

source, target = "september 7, 1998", "1998-09-07"
one_source, one_length, one_goal = arrays([(source, target)])
out = attending.apply({"params": attending_params}, one_source, one_length, begun(one_goal))
looked = np.asarray(out.weights[0, :, : len(source)])  # (10, S)
assert np.allclose(looked.sum(axis=1), 1, atol=1e-5) and (np.asarray(out.weights[0, :, len(source):]) == 0).all()  # no weight on padding
assert jnp.argmax(out.logits[0], axis=-1).tolist() == one_goal[0].tolist()

figure, axes = plt.subplots(figsize=(6.0, 3.9))
image = axes.imshow(looked, cmap="Blues", vmin=0, vmax=1)
axes.set(xticks=range(len(source)), xticklabels=source, xlabel="characters read")
axes.set(yticks=range(10), yticklabels=target, ylabel="characters written")
figure.colorbar(image, label="attention weight")
finish("To write each character, the decoder looks at what it needs")

# %% [markdown]
# ## 18. Convolution
#
# A recurrent network shares its weights over time. A convolutional network shares them over **space**: one small kernel $w$ slides over
# the image, and each output is a weighted sum of what the kernel covers there. With kernel size $k$, stride $s$ and padding $p$,
#
# $$ y_{i,j,f} = b_f + \sum_{u,v,c} w_{u,v,c,f}\; x_{s i + u - p,\; s j + v - p,\; c}, \qquad
# \text{output size} = \Big\lfloor \frac{n + 2p - k}{s} \Big\rfloor + 1 $$
#
# The number of weights, $k^2 C F$, does not depend on the size of the image. Shift the image, and the output shifts with it
# (equivariance). (Strictly this is a correlation: the kernel is not flipped. The networks are called convolutional all the same.)
#
# Code: [`seqjax/cnn/convolution.py` · `convolve`](../../seqjax/cnn/convolution.py), and
# [`seqjax/cnn/convolution_parts.py` · `size`](../../seqjax/cnn/convolution_parts.py) for the output size.

# %%
from seqjax import cnn
from seqjax.cnn.convolution_parts import Window

line(Window.size, "return tuple(max(0, (span - 1) // s + 1)")

for n, k, s, p in ((32, 5, 1, 0), (28, 3, 2, 1), (224, 7, 2, 3), (9, 2, 3, 0)):
    slide = functools.partial(cnn.convolve, strides=s, padding=p)
    y = jax.eval_shape(slide, jnp.ones((1, n, n, 3)), jnp.ones((k, k, 3, 6)))
    assert y.shape == (1, (n + 2 * p - k) // s + 1, (n + 2 * p - k) // s + 1, 6)

large = load_images("embedded", name="digits", image_size=32)
big, big_labels = {}, {}
for part, found in large.parts.items():
    pixels, numbers = found.take(np.arange(len(found)))
    big[part], big_labels[part] = jnp.asarray(pixels / 255.0, jnp.float32), jnp.asarray(numbers)  # (N, 32, 32, 1)

picture = big["test"][big_labels["test"] == 0][:1]
sobel = jnp.array([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]) / 4  # right minus left: vertical edges
kernels = jnp.stack([sobel, sobel.T], axis=-1)[:, :, None]  # (3, 3, 1, 2)
edges = cnn.convolve(picture, kernels, padding=1)

# The sum, typed out, at one place; and a shifted image gives the shifted output.
i, j = 12, 17
assert jnp.allclose(edges[0, i, j], jnp.einsum("uvc,uvcf->f", picture[0, i - 1 : i + 2, j - 1 : j + 2], kernels), atol=1e-5)
moved = cnn.convolve(jnp.roll(picture, 2, axis=2), kernels, padding=1)
assert jnp.allclose(moved[:, 2:-2, 4:-4], jnp.roll(edges, 2, axis=2)[:, 2:-2, 4:-4], atol=1e-5)

figure, axes = plt.subplots(1, 3, figsize=(7.2, 2.7))
axes[0].imshow(picture[0, ..., 0], cmap="gray")
for panel, values in zip(axes[1:], jnp.moveaxis(edges[0], -1, 0)):
    panel.imshow(values, cmap="RdBu", vmin=-0.6, vmax=0.6)
for panel, title in zip(axes, ("image", "vertical edges", "horizontal edges")):
    panel.set_title(title, fontsize=10)
    panel.set_axis_off()
finish("One kernel of nine weights finds the same feature everywhere in the image")

# %% [markdown]
# ## 19. Pooling
#
# Pooling makes maps smaller: of each window only the largest value is kept (or the mean). Over a window $R_{i,j}$,
#
# $$ y_{i,j,c} = \max_{(u,v) \in R_{i,j}} x_{u,v,c} \qquad \text{or} \qquad y_{i,j,c} = \frac{1}{|R|} \sum_{(u,v) \in R_{i,j}}
# x_{u,v,c} $$
#
# It has no weights. Later layers see more of the image with each pooling, and small shifts matter less. At the end, global average
# pooling turns each map into one number.
#
# Code: [`seqjax/cnn/pooling.py` · `max_pool`](../../seqjax/cnn/pooling.py), `avg_pool`, `global_avg_pool`.

# %%
line(cnn.global_avg_pool, "return jnp.mean(x, axis=")

vertical = jnp.abs(edges[..., :1])
pooled = {size: cnn.max_pool(vertical, (size, size)) for size in (2, 4, 8)}
assert (pooled[2][0, 3, 5] == vertical[0, 6:8, 10:12].max(axis=(0, 1))).all()


def relative_change(map_of):
    """How much a map changes when the image moves by one pixel."""
    here, there = (map_of(jnp.abs(cnn.convolve(moved, kernels, padding=1))) for moved in (big["test"], jnp.roll(big["test"], 1, axis=2)))
    return float(jnp.linalg.norm(here - there) / jnp.linalg.norm(here))


changes = [relative_change(lambda x, size=size: cnn.max_pool(x, (size, size))) for size in (1, 2, 4, 8)]
changes.append(relative_change(cnn.global_avg_pool))
print("change of the maps when the image moves by one pixel:", [f"{change:.0%}" for change in changes])
assert all(larger > smaller for larger, smaller in zip(changes, changes[1:]))

figure, axes = plt.subplots(1, 4, figsize=(7.2, 2.3))
for panel, (size, values) in zip(axes, {1: vertical, **pooled}.items()):
    panel.imshow(values[0, ..., 0], cmap="Blues", vmin=0, vmax=0.6)
    panel.set_title(f"{'pooled' if size > 1 else 'edges'}, {32 // size} × {32 // size}", fontsize=10)
    panel.set_axis_off()
finish("Max-pooling keeps that a feature was there, and forgets exactly where")

# %% [markdown]
# ## 20. LeNet
#
# LeNet-5 (1998) has the pattern of all that came after: convolution, pooling, convolution, pooling, then fully connected layers. Maps
# get smaller and more numerous. Today it is built with relu, $\max(0, x)$, in place of the squashing function of the paper, and
# max-pooling.
#
# $$ 32^2 \times 1 \;\xrightarrow{5 \times 5}\; 28^2 \times 6 \;\xrightarrow{\text{pool}}\; 14^2 \times 6 \;\xrightarrow{5 \times 5}\;
# 10^2 \times 16 \;\xrightarrow{\text{pool}}\; 5^2 \times 16 \;\to\; 120 \;\to\; 84 \;\to\; 10 $$
#
# Code: [`seqjax/cnn/lenet.py` · `LeNet5`](../../seqjax/cnn/lenet.py).

# %%
from seqjax.cnn.lenet import LeNet5

line(LeNet5.__call__, 'x = nn.relu(max_pool(self._conv(x, "conv2"')

lenet = cnn.create("lenet5")
print(cnn.summary(lenet, (1, 32, 32, 1)))
assert cnn.summary(lenet, (1, 32, 32, 1)).parameters == 61_706


def lenet_loss(params, key):
    chosen = jax.random.randint(key, (64,), 0, len(big_labels["train"]))
    logits = lenet.apply({"params": params}, big["train"][chosen])
    return mean_loss(logits[:, None], big_labels["train"][chosen][:, None])


lenet_params, _ = train(lenet_loss, lenet.init(jax.random.key(0), big["train"][:1])["params"], steps=250, rate=3e-3)
accuracy = float((jnp.argmax(lenet.apply({"params": lenet_params}, big["test"]), axis=-1) == big_labels["test"]).mean())
print(f"LeNet-5: {accuracy:.1%} of the test digits")
assert accuracy > 0.95

maps = cnn.feature_maps(lenet, {"params": lenet_params}, picture, ["conv1", "conv2"])
figure, axes = plt.subplots(2, 6, figsize=(7.2, 2.9))
for row, (name, values) in enumerate(maps.items()):
    for column in range(6):
        axes[row, column].imshow(jax.nn.relu(values[0, ..., column]), cmap="Blues")
        axes[row, column].set(xticks=[], yticks=[])
        axes[row, column].spines[:].set_visible(False)
    axes[row, 0].set_ylabel(f"{name}\n{values.shape[1]} × {values.shape[2]}", fontsize=9)
finish("What LeNet sees in a 0: the six maps of its first layer, and six of its second")

# %% [markdown]
# ## 21. From LeNet to MobileNet
#
# | network | idea |
# |---|---|
# | AlexNet, 2012 | LeNet's pattern, larger, with relu and dropout, on GPUs |
# | VGG, 2014 | only 3 × 3 kernels: two of them see 5 × 5 with fewer weights, $2 \cdot 9 < 25$ |
# | GoogLeNet, 2014 | several kernel sizes side by side, after 1 × 1 convolutions that make the channels fewer |
# | ResNet, 2015 | $y = x + F(x)$: the shortcut of section 16, for over a hundred layers |
# | MobileNet, 2017 | depthwise separable convolutions: space and channels apart |
#
# A full convolution from $C$ to $N$ channels multiplies $k^2 C N$ times at each position. MobileNet first filters each channel alone
# (depthwise, $k^2 C$), then mixes the channels with a 1 × 1 convolution (pointwise, $C N$):
#
# $$ \frac{k^2 C + C N}{k^2 C N} = \frac1N + \frac1{k^2} $$
#
# With 3 × 3 kernels that is a little over a ninth.
#
# From 2015 on, nearly all of them have **batch normalisation** after each convolution. It brings each channel to mean 0 and variance 1
# over the batch and all positions, $n$ numbers in all, and then gives it a learned scale $\gamma$ and shift $\beta$:
#
# $$ \mu = \frac1n \sum_{i=1}^{n} x_i, \qquad \sigma^2 = \frac1n \sum_{i=1}^{n} (x_i - \mu)^2, \qquad
# y_i = \gamma\, \frac{x_i - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta $$
#
# In evaluation running means of $\mu$ and $\sigma^2$ take their place, so that the answer for an image depends on that image alone.
#
# Code: [`seqjax/cnn/normalization.py` · `BatchNorm`](../../seqjax/cnn/normalization.py),
# [`seqjax/cnn/depthwise.py` · `DepthwiseSeparable`](../../seqjax/cnn/depthwise.py),
# [`seqjax/cnn/resnet.py` · `ResidualBlock`](../../seqjax/cnn/resnet.py),
# [`seqjax/cnn/inspection.py` · `summary`](../../seqjax/cnn/inspection.py).

# %%
from fractions import Fraction

line(cnn.DepthwiseSeparable.__call__, "return pointwise(depthwise(x, train=train), train=train)")
line(cnn.inspection._multiply_adds, "return out.size * math.prod(kernel.shape[:-1])")

C, N, k = 64, 128, 3
separable = cnn.summary(cnn.DepthwiseSeparable(N), (1, 14, 14, C)).multiply_adds
full = cnn.summary(cnn.Conv(N, (k, k)), (1, 14, 14, C)).multiply_adds
assert Fraction(separable, full) == Fraction(1, N) + Fraction(1, k**2)

costs = {}
for name in ("lenet5", "alexnet", "vgg16", "googlenet", "resnet18", "resnet50", "mobilenet_v1", "mobilenet_v2"):
    found = cnn.summary(cnn.create(name), (1, 32, 32, 1) if name == "lenet5" else (1, 224, 224, 3))
    costs[name] = found.parameters / 1e6, found.multiply_adds / 1e6
    print(f"{name:13} {costs[name][0]:8.2f} million parameters  {costs[name][1]:10,.1f} million multiply-adds an image")
assert round(costs["vgg16"][0], 1) == 138.4 and round(costs["resnet50"][0], 1) == 25.6  # as published
assert round(costs["mobilenet_v1"][0], 1) == 4.2 and round(costs["mobilenet_v1"][1]) == 569

for name, (parameters, multiply_adds) in costs.items():
    plt.loglog(parameters, multiply_adds, "o", color=GREEN if "mobile" in name else GREY if name == "lenet5" else BLUE)
    side, lift = ("right", 5) if name in ("resnet18", "mobilenet_v1", "resnet50") else ("left", -10 if name == "googlenet" else -4)
    plt.annotate(name, (parameters, multiply_adds), (-6 if side == "right" else 6, lift), textcoords="offset points", ha=side, fontsize=9)
plt.gca().set(xlabel="parameters, millions", ylabel="multiply-adds an image, millions", xlim=(0.03, 700), ylim=(0.2, 60000))
assert 25 < costs["vgg16"][0] / costs["mobilenet_v1"][0] < 35 and 25 < costs["vgg16"][1] / costs["mobilenet_v1"][1] < 35
finish("MobileNet: about a thirtieth of VGG’s parameters and multiply-adds")

# %% [markdown]
# ## 22. Convolution over time
#
# A sequence can be convolved too. A **causal** convolution looks at the past only; **dilation** $d$ leaves gaps between the taps. With
# dilations 1, 2, 4, … the number of steps that an output can see doubles with each layer:
#
# $$ y_t = \sum_{u=0}^{k-1} w_u\, x_{t - d u}, \qquad R = 1 + 2 (k - 1) \sum_{l=0}^{L-1} 2^l = 1 + 2 (k - 1)(2^L - 1) $$
#
# for $L$ blocks of two convolutions. Such a temporal convolutional network (TCN) computes all steps at once in training, where a
# recurrent network goes step by step. In exchange its memory ends at $R$ steps, and generating keeps $R$ inputs, where a recurrent
# network keeps one state. The gradient shows both: it is zero for the future, and zero for what is $R$ steps back or more.
#
# Code: [`seqjax/cnn/tcn.py` · `TemporalBlock`](../../seqjax/cnn/tcn.py).

# %%
from seqjax.cnn.tcn import TemporalConvNet

tcn = TemporalConvNet((16, 16, 16), kernel_size=3)
series = jax.random.normal(jax.random.key(0), (1, 64, 4))
variables = tcn.init(jax.random.key(1), series)
R = 1 + 2 * (3 - 1) * (2**3 - 1)
gru16 = seqjax.gru(16)
gru16_params = gru16.init(jax.random.key(1), 4)


def reached(network):
    """How much each input step moves output step 47, (T,)."""
    gradient = jax.jit(jax.grad(lambda series: network(series)[0, 47].sum()))(series)
    return np.asarray(jnp.abs(gradient)[0].sum(axis=-1))


seen = reached(lambda series: tcn.apply(variables, series))
recurrent_seen = reached(lambda series: seqjax.unroll(gru16, gru16_params, series)[1])
assert (seen[48:] == 0).all() and (recurrent_seen[48:] == 0).all()  # neither sees the future
assert (seen[: 48 - R] == 0).all() and seen[48 - R] != 0 and (recurrent_seen[:48] != 0).all()

for label, values, colour in ((f"TCN: exactly {R} steps", seen, ORANGE), ("GRU: all the past, ever weaker", recurrent_seen, BLUE)):
    plt.semilogy(np.arange(64) - 47, np.where(values > 0, values, np.nan), "o", color=colour, markersize=4, label=label)
plt.axvline(0.5, color=GREY, linewidth=0.8, linestyle=":")
plt.gca().set(xlabel="input step, counted from the output", ylabel="gradient of the output\nto the input")
plt.legend(loc="upper left")
finish("A convolution sees a fixed stretch of the past, a recurrence all of it")

# %% [markdown]
# ## Where to read on
#
# - Train a real language model: `python -m experiments.language_model --workdir=/tmp/lm`. The sections above are that program, taken
#   apart; its default, trained for two to three minutes, passes the 6-gram too.
# - Look into any network of yours: [the gradient laboratory](../gradients.md).
# - Write [a cell of your own](../own_cell.md) in about 15 lines.
# - Sources: Elman 1990; Bengio, Simard, Frasconi 1994; Hochreiter, Schmidhuber 1997; Gers, Schmidhuber, Cummins 2000;
#   Schuster, Paliwal 1997; Pascanu, Mikolov, Bengio 2013; Cho et al. 2014; Bahdanau, Cho, Bengio 2015; LeCun et al. 1998;
#   He et al. 2016; Howard et al. 2017; Karpathy, Johnson, Fei-Fei 2015.
