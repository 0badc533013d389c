"""Answers graded and compared by a judge, and the judge itself measured."""
