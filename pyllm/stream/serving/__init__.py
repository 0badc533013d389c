"""A server of endless dialogues that OpenAI's clients can talk to.

`schema` says what a request may be, `conversations` which dialogues are in memory and which on disk, `worker` is the
one thread that has the model, `app` speaks HTTP, and `server` starts and ends it all.
"""
