"""Print the derivation of backpropagation through time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from rnn_cli.explanations.layout import formulas, heading, matrices, paragraph, vector
from rnn_cli.explanations.network import listed, network

if TYPE_CHECKING:
    from rnn_plugins.inspect.bptt import Derivation


def show(derivation: Derivation) -> None:
    """Print all of it."""
    _network(derivation)
    _forwards(derivation)
    _for_v(derivation)
    _through_time(derivation)
    _for_w_and_u(derivation)
    _comparison(derivation)
    _what_it_shows(derivation)


def _network(d: Derivation) -> None:
    equations = (
        "s_t    = tanh(U x_t + W s_{t-1})     the state, s_0 = 0",
        "yhat_t = softmax(V s_t)              the prediction",
        "E_t    = -log yhat_t[target]         the loss, in nats",
    )
    end = "(The toolkit's code keeps states as rows, x @ U + s @ W: its matrices are these, transposed.)"
    network(d, "Backpropagation through time by hand. A small network reads", equations, end)


def _forwards(d: Derivation) -> None:
    heading("1. Forwards")
    paragraph(f"yhat_t gives a probability to each of {listed(d.symbols)}.")
    for step in d.steps:
        click.echo(f"  t = {step.t}   reads {step.symbol!r}, should predict {step.target!r}")
        click.echo(f"    s_{step.t}    = {vector(step.s)}")
        click.echo(f"    yhat_{step.t} = {vector(step.predicted)}")
        click.echo(f"    E_{step.t}    = {step.loss:.4f}")
    click.echo()


def _for_v(d: Derivation) -> None:
    heading("2. The gradient for V: each loss depends only on its own step")
    formulas("dE_t/dV = (yhat_t - y_t) outer s_t            y_t: the target, one-hot")
    matrices(*((f"dE_{step.t}/dV", step.dV) for step in d.steps))


def _through_time(d: Derivation) -> None:
    last = len(d.steps)
    heading(f"3. Back through time: how s_{last} depends on the states before it")
    paragraph(
        f"Every step uses W and U, so E_{last} depends on them through s_{last}, and through each earlier state: "
        "a sum over k, in which ds_k/dW takes s_{k-1} as constant."
    )
    formulas(
        f"dE_{last}/dW = sum over k = 1..{last} of  dE_{last}/ds_{last}  ds_{last}/ds_k  ds_k/dW",
        f"ds_{last}/ds_k = product over j = {last}..k+1 of  ds_j/ds_{{j-1}}",
        "ds_j/ds_{j-1} = diag(1 - s_j^2) W",
    )
    jacobians = [c for c in d.contributions if c.jacobian is not None]
    if jacobians:
        click.echo("  The Jacobians:\n")
        matrices(*((f"ds_{c.k + 1}/ds_{c.k}", c.jacobian) for c in jacobians))
    click.echo("  Their products, and the norm (largest singular value) of each:\n")
    for c in d.contributions:
        equals = {last: " = the identity", last - 1: ""}.get(c.k, f" = ds_{last}/ds_{c.k + 1} ds_{c.k + 1}/ds_{c.k}")
        matrices((f"ds_{last}/ds_{c.k}{equals}, norm {c.norm:.4f}", c.product))
    click.echo("  With them, the gradient of the loss for each state:\n")
    step = d.steps[-1]
    click.echo(f"    dE_{last}/ds_{last} = V^T (yhat_{last} - y_{last})")
    if last > 1:
        click.echo(f"    dE_{last}/ds_k = (ds_{last}/ds_k)^T dE_{last}/ds_{last}")
    click.echo()
    for name, values in [
        (f"yhat_{last} - y_{last}", step.error),
        *((f"dE_{last}/ds_{c.k}", c.ds) for c in d.contributions),
    ]:
        click.echo(f"    {name:<12} = {vector(values)}")
    click.echo()


def _for_w_and_u(d: Derivation) -> None:
    last = len(d.steps)
    heading(f"4. The gradient for W: the contribution of each step k to dE_{last}/dW")
    formulas(f"((1 - s_k^2) * dE_{last}/ds_k) outer s_{{k-1}}")
    matrices(*((f"k = {c.k}" + (", where s_0 = 0" if c.k == 1 else ""), c.dW) for c in d.contributions))
    heading(f"5. The gradient for U: the contribution of each step k to dE_{last}/dU")
    formulas(f"((1 - s_k^2) * dE_{last}/ds_k) outer x_k")
    matrices(*((f"k = {c.k}, x_{c.k} = {d.steps[c.k - 1].symbol!r}", c.dU) for c in d.contributions))


def _comparison(d: Derivation) -> None:
    last = len(d.steps)
    heading("6. The sums, and the engine's gradient beside them")
    for name in ("W", "U", "V"):
        what = "from 2." if name == "V" else "the sum over k"
        matrices((f"dE_{last}/d{name}, {what}", d.sums[name]), (f"dE_{last}/d{name}, the engine", d.engine[name]))
    paragraph(
        f"The largest difference of all is {d.difference:.1e}: rounding only. The engine used the cell "
        "'rnn', the time loop and reverse-mode automatic differentiation, and none of the formulas above. The gradient "
        "of a whole text is the sum of such gradients over all its losses."
    )


def _what_it_shows(d: Derivation) -> None:
    heading("7. What it shows")
    last = len(d.steps)
    if d.factor is None:
        paragraph("One step has no Jacobian to go through. With --steps 3 the gradient goes back in time.")
        return
    norms = ", then ".join(f"{c.norm:.3f}" for c in d.contributions)
    way = "shrink" if d.factor < 1 else "grow"
    paragraph(
        f"The norms of ds_{last}/ds_k {way}, from k = {last} back to k = 1: {norms}. That is a factor of "
        f"{d.factor:.2f} per step. {_so(d)}"
    )


def _so(d: Derivation) -> str:
    """The conclusion from the norms, extrapolated over more steps."""
    far = ", ".join(f"{value:.1e} over {steps} steps" for steps, value in d.outlook.items())
    if d.factor is not None and d.factor < 1:
        return (
            f"At this rate it would be {far}: inputs that far back would have no effect on the gradient, and the "
            "network could not learn from them. This is the vanishing gradient, which gated cells were designed to "
            "prevent."
        )
    return (
        f"At this rate it would be {far}: the gradient explodes, which clipping (--grad-clip) prevents. tanh' = "
        "1 - s^2 is below 1, and counteracts when the states are large."
    )
