"""Ways of choosing codevectors, one per file."""
