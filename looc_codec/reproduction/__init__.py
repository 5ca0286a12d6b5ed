"""The papers' tables, trained and measured again: LooC, CVQ and their baselines on the same networks and data."""
