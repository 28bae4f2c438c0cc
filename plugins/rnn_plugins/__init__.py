"""What can be plugged in: cells, tasks, and the texts they work on. It knows the cells and the engine, and no terminal."""
