"""Text: vocabularies, corpora, built-in texts and the models that counting gives. It trains nothing."""
