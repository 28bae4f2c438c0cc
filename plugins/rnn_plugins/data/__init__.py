"""From files to examples: text sources, vocabularies, and built-in generators."""

RUN = "run.json"
"""The file that marks the folder of a run; such folders are not read as data."""
