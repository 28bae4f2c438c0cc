"""Cells side by side: the plan of their runs, what comes out of them, and the statistics behind a verdict."""
