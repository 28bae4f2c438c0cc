"""Checks for authors of cells and tasks, to use in their tests."""

from rnn_plugins.testing.cells import broken_promise, check_cell
from rnn_plugins.testing.checks import Check, CheckError, CheckReport
from rnn_plugins.testing.tasks import check_task

__all__ = ["Check", "CheckError", "CheckReport", "broken_promise", "check_cell", "check_task"]
