"""What is done with a trained language model: evaluate it, score a text with it, keep its state."""
