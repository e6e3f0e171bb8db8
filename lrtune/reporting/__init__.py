"""What a study says, for people: tables, verdicts in words, figures, pages and code to paste."""
