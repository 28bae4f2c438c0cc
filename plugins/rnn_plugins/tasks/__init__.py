"""Tasks, what networks are trained to do: one file or folder per task, beside the parts that they share."""
