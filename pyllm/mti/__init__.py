"""Multi-task inference: several instructions in one call, in several, or many at once, on the same instances."""
