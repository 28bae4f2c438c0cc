"""What the losses of a run say: whether it has learnt, and whether it over- or underfits."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

LARGE = 4.0
"""Losses above it, in nats, are compared by their ratio, as those of whole images; lower ones by their difference."""

Change = Literal["", "longer", "slower", "larger", "regularised"]
"""What the next run should be: trained longer, at a lower rate, of more units, or regularised; empty for no advice."""


class Verdict(NamedTuple):
    """A conclusion from the losses.

    Attributes:
        words: in sentences; empty for none.
        change: what to do next.
    """

    words: str = ""
    change: Change = ""


def verdict(
    records: list[dict[str, Any]],
    done: float,
    guessing: float | None,
    rate: float,
    longer: str = "more --epochs",
    by_loss: bool = True,
    ended: bool = False,
) -> Verdict:
    """Whether the model has learnt anything, and whether it over- or underfits.

    Args:
        records: as in ``metrics.jsonl``; those with ``valid_loss`` count.
        done: the finished share of the run; in the first half, underfitting is not reported.
        guessing: the loss of uniform guessing; None if undefined.
        rate: the highest learning rate of the schedule.
        longer: the option that makes such a run longer.
        by_loss: whether the loss chooses the weights that are kept.
        ended: whether the schedule has come to its end, where losses fall because the rate does.
    """
    known = [r for r in records if r.get("valid_loss") is not None]
    if not known:
        return Verdict()
    best = min(range(len(known)), key=lambda i: known[i]["valid_loss"])
    last = known[-1]
    held_out, training = last["valid_loss"], last["train_loss"]
    scale = max(1.0, held_out / LARGE)
    since = len(known) - 1 - best
    risen, regained = held_out - known[best]["valid_loss"], training - known[best]["train_loss"]
    lower = f"a lower --learning-rate (it was {rate:.2g})"
    kept = ", whose weights are kept," if by_loss else ""
    if since >= 2 and risen > 0.01 * scale and regained < 0:
        return Verdict(
            f"It overfits: the held-out loss has risen by {risen:.3f} nats since step {known[best]['step']}{kept} "
            "while the training loss kept falling. More data, --dropout or a smaller model help.",
            "regularised",
        )
    if since and min(risen, regained) > 0.05 * scale:
        return Verdict(
            f"It has got worse: both losses have risen since step {known[best]['step']}{kept or ','} the held-out one "
            f"by {risen:.3f} nats. Try {lower}.",
            "slower",
        )
    if guessing is not None and held_out > 0.98 * guessing and done >= 0.5:
        beside = f"the held-out loss is {held_out:.4g} nats, and guessing costs {guessing:.4g}"
        if training < 0.98 * guessing:
            words = f"It overfits: {beside}, while the training loss is {training:.4g}. More data or --dropout help."
            return Verdict(words, "regularised")
        if held_out > 1.02 * guessing:
            words = f"It has learnt nothing: {beside}. Try {lower}; rnn report shows whether the gradient explodes."
            return Verdict(words, "slower")
        return Verdict(
            f"It has learnt nothing yet: {beside}. Train longer, or with a higher --learning-rate.", "longer"
        )
    if len(known) < 3:
        return Verdict()
    if held_out < 0.05:
        return Verdict("It has learnt this kind of data: the held-out loss is near zero.")
    if done < 0.5:
        return Verdict()
    gap = (held_out - training) / scale
    falling = (known[max(0, len(known) - 4)]["valid_loss"] - held_out) / scale
    if falling > 0.02 and gap < 0.1:
        if done < 1:
            return Verdict("Both losses are still falling.")
        state = "fell until the schedule ended" if ended else "are still falling"
        further = f"Train further, with {longer}, or with a larger --hidden-size."
        return Verdict(f"It underfits: both losses {state}. {further}", "longer")
    if gap < 0.03:
        return Verdict(
            "It underfits: both losses are flat and close together. A larger --hidden-size or more layers may help.",
            "larger",
        )
    if gap > 0.3:
        return Verdict(
            f"It begins to overfit: the held-out loss is {held_out - training:.2f} nats above the training loss. "
            "--dropout helps.",
            "regularised",
        )
    return Verdict("It fits: the held-out loss follows the training loss.")
