"""The paper's experiments: what is read, what is measured, and how arms are compared.

An arm is a policy with its cache size, recent tokens, span, decay and score (`arms`). The unit of work is one dialogue
under one arm; its result is a line of a file that a run goes on from (`units`). Everything that is reported is computed
from those lines alone (`report`), and shown as a table and as one page (`page`).
"""
