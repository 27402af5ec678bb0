"""One folder per op: reference.py says what it means, op.py is its public face."""
