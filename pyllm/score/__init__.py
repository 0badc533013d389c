"""NUGGETS: golden scores of candidates against anchor tasks.

An example's golden score is the share of anchors whose answer grows likelier when the example stands before it as a
one-shot demonstration. Start reading at `pyllm.score.run`.
"""
