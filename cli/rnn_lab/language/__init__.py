"""Use a trained language model: score a text, sample one, save its state."""
