"""The `toolkit` command: one module for each subcommand, and what they share (`_console`, `_pipes`, `_tables`).

Modules here import only typer and the standard library at the top. Everything heavy is imported inside the command
function, so that `--help` stays fast.
"""
