"""What can be shown of a trained or a fresh cell: each report measures, and gives data that whoever draws can draw."""
