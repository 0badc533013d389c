//! JSON, JSONL, CSV, Parquet and Arrow files to canonical, balanced Parquet shards.
//!
//! [`shard`] reads any number of inputs in bounded memory and writes `part-00000.parquet`, ... and `manifest.json` into
//! a folder. What a row is, is decided by `pyllm-examples`; this crate knows about files:
//!
//! - `stored`, `sources`, `columnar`: bytes unpacked, recognised by what they hold, and cut into blocks of whole records.
//! - `guess`, `run`: columns and row counts are guessed from the beginnings of the inputs. If something else is found,
//!   everything is read again with that known, so the result depends on data and settings only.
//! - `pass`, `order`: threads carry blocks from bytes to encoded row groups and take turns where order matters.
//! - `numbering`: rows counted, duplicates dropped, part borders found, in the order of the rows.
//! - `encode`, `parts`, `folder`, `manifest`, `bad`: row groups, files, the journal of finished parts, the manifest.

mod bad;
mod columnar;
mod encode;
mod error;
mod folder;
mod guess;
mod manifest;
mod numbering;
mod order;
mod parts;
mod pass;
mod run;
mod settings;
mod sources;
mod stored;

pub use error::ShardError;
pub use manifest::MANIFEST;
pub use run::{BadInput, Summary, shard};
pub use settings::{Compression, Division, InputFile, Settings};
