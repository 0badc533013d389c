"""Finetuning: rows or packs to checkpoints one can trust, and to the question whether the selection was worth it.

TRL's `SFTTrainer` does the optimising. What is ours stands around it: which tokens are trained (the template-and-mask
code of scoring), which examples make a step, when a checkpoint counts, and what a finished run can prove.
"""
