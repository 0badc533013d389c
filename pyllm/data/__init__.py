"""The data floor: instruction data of many shapes and formats in, one schema out, tables written whole or not at all.

`examples` has the schema, `reading` turns a file into it, `shapes` says how a row becomes an example, `files` and
`records` get rows out of bytes, `columns` types the columns that are kept, `tables` writes and reads any table.
"""
