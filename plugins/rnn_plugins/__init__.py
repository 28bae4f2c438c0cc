"""What can be plugged in: cells, tasks, and the texts they work on. It knows the engine and the cells, no terminal."""
