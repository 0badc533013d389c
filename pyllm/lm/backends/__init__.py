"""Text out of language models: one contract, a local model or an OpenAI-compatible endpoint behind it.

A caller hands over requests and a function that takes each answer and may give further requests; a backend decides the
order, what is computed at once and what is computed once. Nothing here knows what the answers are for.
"""
