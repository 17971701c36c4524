"""From an exported program to a .pte: what is taken, into which delegates, and why the rest stays."""
