"""From stored trials to tables, diagnosis, figures, HTML pages and code to paste."""
