"""Pages, figures, tables and terminal reports made from records."""
