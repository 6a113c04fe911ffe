"""What is looked at while a run goes on: memorization, and how settled the model is."""
