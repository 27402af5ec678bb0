"""The formulas of ops in other libraries. All take an edge list: senders j, receivers i."""
