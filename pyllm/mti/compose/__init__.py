"""Tasks of several instructions made from flat data sets by a declarative spec."""
