"""The report: everything in one page, for cells of every kind; the data of its curves."""

import base64
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import through_time as tt

import seqjax
from seqjax.diagnostics import gradient_pictures as pictures
from seqjax.diagnostics.jacobians import ProductSingularValues
from seqjax.diagnostics.laboratory import examine, summary, write_report
from seqjax.errors import UserError


def loss_of(cell, **options):
    xs = jax.random.normal(jax.random.key(1), (3, 6, tt.D))
    return lambda params: (seqjax.unroll(cell, params, xs, **options)[1] ** 2).mean()


@pytest.fixture(scope="module")
def findings():
    stack = seqjax.stack(seqjax.lstm(3), seqjax.dropout(seqjax.rnn(3), 0.5))
    both = seqjax.bidirectional(seqjax.gru(3), seqjax.gru(3))
    options = {"lengths": jnp.array([6, 4, 1]), "resets": jnp.zeros((3, 6), bool).at[0, 2].set(True)}
    found = [
        examine(loss_of(cell, **options), cell.init(jax.random.key(0), tt.D), label=label, ratios=ratios)
        for cell, label, ratios in ((stack, "a <stack>", {"w": 1e-3, "zero": np.inf}), (both, "both ways", None))
    ]
    return found


def test_the_page_stands_alone(findings, tmp_path):
    page = write_report(tmp_path / "new" / "folder", findings, title="Two & more", intro="As <b>they</b> are.")
    text = page.read_text(encoding="utf-8")
    pngs = {path.name: path.read_bytes() for path in page.parent.glob("*.png")}
    inside = [base64.b64decode(data) for data in re.findall(r'src="data:image/png;base64,([^"]*)"', text)]
    assert sorted(inside) == sorted(pngs.values()) and len(pngs) == 7
    assert all(data.startswith(b"\x89PNG") for data in inside)
    assert not re.search(r"<script|https?:|<link|@import", text)  # nothing from outside
    assert "Two &amp; more" in text and "<b>they" not in text
    assert "needs the whole sequence" in text  # why the bidirectional network has no Jacobians
    told = json.loads((page.parent / "gradients.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    first, second = told["networks"]
    assert first["windows"] == [1, 2, 4, 6] and first["cosine"][-1] == pytest.approx(1, abs=1e-5)
    assert len(first["lyapunov"]) == 9 and "lyapunov" not in second
    assert first["update_ratios"] == {"w": 0.001, "zero": "inf"}
    assert [memory["source"] for memory in first["memory"]] == ["gate", "jacobian"]
    assert len(first["carry_gradient_end"]) == 6 and first == json.loads(json.dumps(summary(findings[0])))


def test_a_network_among_several(findings):
    cell = seqjax.gru(3)
    params = cell.init(jax.random.key(0), tt.D)
    with pytest.raises(UserError, match="runs 1 recurrent networks"):
        examine(loss_of(cell), params, label="", place=1)


def test_curves():
    norms, real = np.array([[8.0, 4, 2, 1], [4, 1, 0, 0]]), np.array([[1, 1, 1, 1], [1, 1, 0, 0]], bool)
    assert pictures.by_lag(norms, real).tolist() == [1, 3, 4, 8]
    assert pictures.typical(norms, real).tolist() == [6, 2.5, 2, 1]
    logs = jnp.array([[[-1.0], [-2.0], [-5.0], [-9.0]]])  # a reset before the third, and padding at the last
    found = ProductSingularValues(logs, jnp.array([[1, 2, 1, 1]]), jnp.array([[True, True, True, False]]))
    assert pictures.by_length(found).tolist() == [-3, -2]
