"""A dialogue on one page: every token, what it was worth, and when and why it left."""
