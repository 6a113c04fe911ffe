"""Who may teach what, how deep, and what may be said."""
