"""From files to examples: where texts come from, what their symbols are, and the built-in generators."""

RUN = "run.json"
"""The file that marks the folder of a run: what training wrote there is not read as data."""
