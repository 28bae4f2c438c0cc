"""``rnn explain bptt``: every number that it prints, against finite differences and the engine."""

import json
import re

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from rnn_cli.main import rnn
from rnn_plugins.inspect.bptt import bptt

DERIVATIONS = st.builds(
    lambda text, steps, hidden_size, seed: bptt(text, min(steps, len(text) - 1), hidden_size, seed),
    st.text("helo w", min_size=2, max_size=9).filter(lambda text: len(set(text)) > 1),
    st.integers(1, 8),
    st.integers(1, 7),
    st.integers(0, 99),
)


def call(*args):
    result = CliRunner().invoke(rnn, ["explain", "bptt", *args])
    return result.exit_code, result.stdout, result.stderr


def rerun(d, W=None, U=None, V=None, after=0, s=None):
    """The last loss and state from the equations; ``s`` takes the place of the state after the step ``after``."""
    W, U, V = (d.W if W is None else W), (d.U if U is None else U), (d.V if V is None else V)
    s = np.zeros(len(W)) if s is None else s
    for step in d.steps[after:]:
        s = np.tanh(U[:, d.symbols.index(step.symbol)] + W @ s)
    scores = V @ s
    return np.log(np.exp(scores).sum()) - scores[d.symbols.index(d.steps[-1].target)], s


def derivative(f, x, step=1e-6):
    """Central differences of f by every element of x; the axes of x come last."""
    columns = []
    for i in range(x.size):
        e = np.zeros(x.size)
        e[i] = step
        columns.append((np.asarray(f(x + e.reshape(x.shape))) - np.asarray(f(x - e.reshape(x.shape)))) / (2 * step))
    return np.stack(columns, axis=-1).reshape(*np.shape(columns[0]), *x.shape)


# --- the derivation --------------------------------------------------------------------------------------------------


@given(DERIVATIONS)
def test_the_sums_are_the_engine_s_gradient_and_that_of_finite_differences(d):
    assert d.difference < 1e-12
    assert np.allclose(d.engine["W"], derivative(lambda W: rerun(d, W=W)[0], d.W), atol=1e-7)
    assert np.allclose(d.engine["U"], derivative(lambda U: rerun(d, U=U)[0], d.U), atol=1e-7)
    assert np.allclose(d.engine["V"], derivative(lambda V: rerun(d, V=V)[0], d.V), atol=1e-7)
    assert np.allclose(sum(c.dW for c in d.contributions), d.sums["W"])
    assert np.allclose(sum(c.dU for c in d.contributions), d.sums["U"])


@given(DERIVATIONS)
def test_every_product_and_every_state_s_gradient(d):
    assert [c.k for c in d.contributions] == list(range(len(d.steps), 0, -1))
    assert [c.jacobian is None for c in d.contributions] == [True] + [False] * (len(d.steps) - 1)
    product = np.eye(len(d.W))
    for c in d.contributions:
        s = d.steps[c.k - 1].s
        if c.jacobian is not None:
            product = product @ c.jacobian
        assert np.allclose(c.product, product)
        assert np.allclose(c.product, derivative(lambda s, k=c.k: rerun(d, after=k, s=s)[1], s), atol=1e-7)
        assert np.allclose(c.ds, derivative(lambda s, k=c.k: rerun(d, after=k, s=s)[0], s), atol=1e-7)
        assert c.norm == pytest.approx(np.sqrt(np.linalg.eigvalsh(product.T @ product)[-1].clip(0)), abs=1e-7)
    assert not d.contributions[-1].dW.any()  # s_0 = 0


@given(DERIVATIONS)
def test_the_forward_values_and_the_gradient_by_v(d):
    s = np.zeros(len(d.W))
    for step in d.steps:
        s = np.tanh(d.U[:, d.symbols.index(step.symbol)] + d.W @ s)
        assert np.allclose(step.s, s)
        assert step.predicted.sum() == pytest.approx(1)
        assert step.loss == pytest.approx(-np.log(step.predicted[d.symbols.index(step.target)]))
        assert np.allclose(step.dV, np.outer(step.error, s))
    assert (d.factor is None) == (len(d.steps) == 1) == (not d.outlook)


# --- what is printed -------------------------------------------------------------------------------------------------


def blocks(output):
    """The matrices of the output by their names; those beside each other are told apart by their columns."""
    found, lines = {}, output.splitlines()
    for number, line in enumerate(lines):
        if line.startswith("    [") and not lines[number - 1].startswith("    ["):
            starts = [m.start() for m in re.finditer(r"\[", line)]
            for start, end in zip(starts, [*starts[1:], None], strict=True):
                rows = []
                for row in lines[number:]:
                    numbers = re.findall(r"-?\d+\.\d{4}", row[start:end])
                    if not numbers:
                        break
                    rows.append([float(x) for x in numbers])
                found[lines[number - 1][start:end].strip()] = np.array(rows)
    return found


def test_all_of_it_stands_there_with_its_numbers():
    code, output, said = call()
    assert (code, said) == (0, "")
    d = bptt()
    assert [(step.symbol, step.target) for step in d.steps] == [("h", "e"), ("e", "l"), ("l", "l")]
    shown = blocks(output)
    last, middle, first = d.contributions
    expected = {
        "U": d.U, "W": d.W, "V": d.V,
        "dE_1/dV": d.steps[0].dV, "dE_2/dV": d.steps[1].dV, "dE_3/dV": d.steps[2].dV,
        "ds_3/ds_2": middle.jacobian, "ds_2/ds_1": first.jacobian,
        "ds_3/ds_3 = the identity, norm 1.0000": last.product,
        f"ds_3/ds_2, norm {middle.norm:.4f}": middle.product,
        f"ds_3/ds_1 = ds_3/ds_2 ds_2/ds_1, norm {first.norm:.4f}": first.product,
        "k = 3": last.dW, "k = 2": middle.dW, "k = 1, where s_0 = 0": first.dW,
        "k = 3, x_3 = 'l'": last.dU, "k = 2, x_2 = 'e'": middle.dU, "k = 1, x_1 = 'h'": first.dU,
        "dE_3/dW, the sum over k": d.sums["W"], "dE_3/dW, the engine": d.engine["W"],
        "dE_3/dU, the sum over k": d.sums["U"], "dE_3/dU, the engine": d.engine["U"],
        "dE_3/dV, from 2.": d.sums["V"], "dE_3/dV, the engine": d.engine["V"],
    }  # fmt: skip
    assert set(shown) == set(expected)
    for name, matrix in expected.items():
        assert np.allclose(shown[name], matrix, atol=5.1e-5), name
    for line in [
        *(f"E_{step.t}    = {step.loss:.4f}" for step in d.steps),
        f"The largest difference of all is {d.difference:.1e}: rounding only.",
        "s_t    = tanh(U x_t + W s_{t-1})",
        "dE_3/dW = sum over k = 1..3 of  dE_3/ds_3  ds_3/ds_k  ds_k/dW",
        "as rows, x @ U + s @",
    ]:
        assert line in output
    vectors = dict(re.findall(r"^ +(\S+(?: - \S+)?) += \(([^)]*)\)", output, re.MULTILINE))
    for name, vector in {
        "s_2": d.steps[1].s, "yhat_3": d.steps[2].predicted, "yhat_3 - y_3": d.steps[2].error,
        "dE_3/ds_3": last.ds, "dE_3/ds_1": first.ds,
    }.items():  # fmt: skip
        assert np.allclose([float(x) for x in vectors[name].split()], vector, atol=5.1e-5)
    assert "-0.0000" not in output


def test_the_shrinking_is_pointed_out_and_so_is_growing():
    shrinking = " ".join(call()[1].split())
    assert "The norms of ds_3/ds_k shrink, from k = 3 back to k = 1: 1.000, then 0.560, then 0.188." in shrinking
    assert "That is a factor of 0.43 per step." in shrinking
    assert "vanishing gradient" in shrinking
    growing = " ".join(call("--seed", "4")[1].split())
    assert "The norms of ds_3/ds_k grow" in growing
    assert "explodes" in growing


@pytest.mark.parametrize(
    "args",
    [[], ["--hidden-size", "7", "--text", "abcdefg", "--steps", "6"], ["--hidden-size", "1"], ["--steps", "1"],
     ["--text", "a\nb\n", "--steps", "3"]],
)  # fmt: skip
def test_eighty_columns_are_enough(args):
    code, output, _ = call(*args)
    assert code == 0
    assert max(map(len, output.splitlines())) <= 80


def test_one_step_has_nothing_to_go_back_through():
    output = " ".join(call("--steps", "1")[1].split())
    assert "One step has no Jacobian to go through. With --steps 3 the gradient goes back in time." in output
    assert "The Jacobians" not in output


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--hidden-size", "8"], "--hidden-size is 8; it must be from 1 to 7, to be read as numbers"),
        (["--hidden-size", "0"], "--hidden-size is 0; it must be from 1 to 7, to be read as numbers"),
        (["--steps", "0"], "--steps is 0; it must be at least 1"),
        (["--steps", "5"], "--text is 'hello', 5 characters; 5 steps need 6, since each predicts the next"),
        (["--text", "aaaa"], "--text is 'aaaa', with 1 different characters; it must have from 2 to 7"),
        (["--text", "abcdefgh"], "--text is 'abcdefgh', with 8 different characters; it must have from 2 to 7"),
        (["--seed", "-1"], "--seed is -1; it must be at least 0"),
    ],
)
def test_mistakes_are_sentences(args, message):
    assert call(*args) == (2, "", f"Error: {message}\n")


def test_all_numbers_are_in_the_records_in_full():
    code, out, said = call("--json", "--text", "hell", "--steps", "2")
    record, d = json.loads(out), bptt("hell", 2)
    assert (code, said, record["symbols"], record["difference"]) == (0, "", ["h", "e", "l"], d.difference)
    assert record["U"] == d.U.tolist()
    assert [part["dW"] for part in record["contributions"]] == [part.dW.tolist() for part in d.contributions]
