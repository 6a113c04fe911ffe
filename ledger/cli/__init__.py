"""The commands that this folder brings to `licet`: wiring only, what they do is in the modules beside."""
