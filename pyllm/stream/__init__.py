"""Dialogue without end over a bounded cache of keys and values that keeps what mattered.

Start reading at `dialogue.py` (a turn, from room to surprisal), then `memory.py` (who stays), `cache.py` (what staying
means for keys) and `rotation.py` (how a model's positions are learnt). `docs/methods/sirllm.md` has the quantities.
"""
