//! `manifest.json`: what the shards of a folder hold, and where it came from.
//!
//! It holds no time, thread count or folder: equal work gives equal bytes.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Name of the manifest in its folder.
pub const MANIFEST: &str = "manifest.json";

/// Version of the manifest's own layout.
pub(crate) const VERSION: u32 = 1;

/// Settings that decide the shards.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ManifestSettings {
    pub(crate) rows_per_shard: Option<u64>,
    pub(crate) shards: Option<u64>,
    pub(crate) compression: String,
    pub(crate) dedup: Option<String>,
    pub(crate) shape: String,
}

/// All rows together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Totals {
    /// Records of all inputs, bad ones and duplicates counted.
    pub(crate) rows_read: u64,
    /// Rows in the shards.
    pub(crate) rows: u64,
    pub(crate) bad_rows: u64,
    /// Rows that were dropped because their content stood in an earlier row; null where nobody looked.
    pub(crate) duplicate_rows: Option<u64>,
    /// Bytes of all inputs, as stored.
    pub(crate) bytes_read: u64,
    /// Bytes of all shards.
    pub(crate) bytes: u64,
}

/// Good rows of one shape.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ShapeRows {
    pub(crate) shape: String,
    pub(crate) rows: u64,
}

/// One input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct InputFacts {
    /// Its name without folder; `-` for standard input.
    pub(crate) name: String,
    pub(crate) format: String,
    /// Whether it is a table of ours, whose ids and sources were kept.
    pub(crate) own: bool,
    pub(crate) rows: u64,
    pub(crate) bad_rows: u64,
    pub(crate) bytes: u64,
    pub(crate) sha256: String,
}

/// Where a row came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    /// Which input, from 0.
    pub(crate) input: usize,
    pub(crate) file: String,
    /// 0-based, bad rows counted.
    pub(crate) row: u64,
}

/// One shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Part {
    pub(crate) name: String,
    pub(crate) rows: u64,
    pub(crate) first: Place,
    pub(crate) last: Place,
    pub(crate) bytes: u64,
    /// Of the file.
    pub(crate) sha256: String,
    /// SHA-256 over the ids of the rows in their order, 16 bytes each.
    pub(crate) content_sha256: String,
}

/// One column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) r#type: String,
}

/// The whole manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) version: u32,
    pub(crate) settings: ManifestSettings,
    pub(crate) totals: Totals,
    pub(crate) shapes: Vec<ShapeRows>,
    pub(crate) inputs: Vec<InputFacts>,
    pub(crate) parts: Vec<Part>,
    pub(crate) columns: Vec<Column>,
    pub(crate) provenance: Vec<Value>,
}
