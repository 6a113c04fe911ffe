"""What the default policies say of examples: one table for each policy, and how a row becomes a signed example."""
