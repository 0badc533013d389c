"""The model floor: loading causal language models, answer log-probabilities over a shared prefix, embeddings.

Nothing here knows a method; the methods floor (`pyllm.score` and its siblings) builds on these pieces.
"""
