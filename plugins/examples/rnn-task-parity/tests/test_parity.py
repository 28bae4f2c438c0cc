"""The test that a task's distribution needs: the kit tries it on files and on what it generates."""

from rnn_task_parity import Parity

from rnn_plugins.testing import check_task


def test_it_keeps_the_promises_of_a_task(tmp_path):
    """Batches, halves of batches, gradients, float32, metrics, facts, predictions and more."""
    check_task(Parity(longest=6, examples=60)).raise_if_failed()
    file = tmp_path / "bits.txt"
    file.write_text("".join(f"{number:b}\n" for number in range(60)))
    check_task(Parity(), [str(file)]).raise_if_failed()
