"""One page for finished runs of any kind: read what they left on disk, draw it, and write one HTML file.

Idea: `sources` finds out what each path is, one module a method turns it into blocks (words, tables, plots, passages),
and `page` sets the blocks in HTML. Nothing here runs a model, and nothing on the page asks a network for anything.
"""
