"""``python -m rnn_lab`` is the command ``rnn``, which is run by name, because this package imports no command."""

import runpy

if __name__ == "__main__":
    runpy.run_module("rnn_cli", run_name="__main__")
