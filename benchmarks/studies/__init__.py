"""The parts of studies that train small models: corpora, canaries, arms, training, measures, statistics."""
