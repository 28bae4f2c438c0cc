"""Draw the pages of reports on a terminal."""
