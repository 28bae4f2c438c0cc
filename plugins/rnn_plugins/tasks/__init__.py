"""Tasks, one file per task: what networks are trained to do."""
