"""``python -m rnn_cli`` is the command ``rnn``."""

from rnn_cli.main import rnn

if __name__ == "__main__":
    rnn(prog_name="rnn")
