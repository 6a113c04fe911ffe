"""A run in a training loop of one's own, or in Hugging Face's Trainer."""
