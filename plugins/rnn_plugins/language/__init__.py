"""What a language model does beside its loss: write texts; and counting, which it is measured against."""
