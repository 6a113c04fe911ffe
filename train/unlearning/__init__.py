"""Steps back on what a revoked attestation taught, under a signed order."""
