"""Drawing of what reports have measured: on a terminal, as pictures and as a page. It measures nothing."""
