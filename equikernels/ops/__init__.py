"""One folder per op: reference.py defines it, op.py is its public function."""
