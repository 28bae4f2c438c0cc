"""The laboratory: settings, runs, training, comparisons, and what is done with trained networks."""
