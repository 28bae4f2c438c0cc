"""Draw the pages of reports as images and as HTML."""
