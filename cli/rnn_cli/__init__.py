"""The command line: Click commands, one module each, and one Rich console."""
