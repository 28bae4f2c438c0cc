"""The one test that a plugin needs: the kit holds the cell against all that the toolkit relies on."""

from rnn_cell_mgu import MGU

from rnn_plugins.testing import check_cell


def test_it_keeps_the_promises_of_a_cell():
    """Gradients against finite differences, the carry, the batch, float32, checkpoints and more."""
    check_cell(MGU(3, 4)).raise_if_failed()
