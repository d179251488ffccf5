"""When things run: rules and their slots, each slot fired at most once across all nodes and accounted for as a row."""
