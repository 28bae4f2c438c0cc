"""Reports on trained or new cells: each measures, and returns data to draw."""
