"""Print explanations: what ``rnn explain`` shows, a module each."""
