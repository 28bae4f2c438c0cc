"""What a network is trained to do, one file a task. A task knows its data and its loss, and no terminal."""
