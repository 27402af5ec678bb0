"""The formulas that equikernels' ops replace, as people write them. All take the edge list: senders j, receivers i."""
