"""Paint images, stroke by stroke."""
