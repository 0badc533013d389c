"""The data floor: instruction data of many shapes and formats in, one schema out, tables written whole or not at all.

`examples` has the schema, `reading` turns a file into it (the rows are read in Rust, by `rust/pyllm-examples`),
`files` gets bytes out of files and pipes, `columns` has types and JSON text, `tables` writes and reads any table.
"""
