"""Draw the pages of reports: on a terminal, as images, and as HTML."""
