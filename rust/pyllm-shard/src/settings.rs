//! What the caller asks for.

use std::path::PathBuf;
use std::str::FromStr;

use parquet::basic::{Compression as Codec, ZstdLevel};
use pyllm_examples::Shape;

use crate::error::ShardError;

/// How the rows are divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Division {
    /// This many rows in every shard but the last.
    RowsPerShard(u64),
    /// This many shards, whose sizes differ by one row at most; fewer where there are fewer rows.
    Shards(u64),
}

/// How pages are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Zstandard at level 1.
    Zstd1,
    /// Zstandard at level 3.
    Zstd3,
    /// LZ4, raw blocks.
    Lz4,
    /// Snappy.
    Snappy,
    /// Not at all.
    None,
}

impl Compression {
    /// Its name in settings and manifests.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Zstd1 => "zstd:1",
            Self::Zstd3 => "zstd:3",
            Self::Lz4 => "lz4",
            Self::Snappy => "snappy",
            Self::None => "none",
        }
    }

    pub(crate) fn codec(self) -> Codec {
        let zstd = |level| ZstdLevel::try_new(level).map_or(Codec::UNCOMPRESSED, Codec::ZSTD);
        match self {
            Self::Zstd1 => zstd(1),
            Self::Zstd3 => zstd(3),
            Self::Lz4 => Codec::LZ4_RAW,
            Self::Snappy => Codec::SNAPPY,
            Self::None => Codec::UNCOMPRESSED,
        }
    }
}

impl FromStr for Compression {
    type Err = ShardError;

    fn from_str(text: &str) -> Result<Self, ShardError> {
        [Self::Zstd1, Self::Zstd3, Self::Lz4, Self::Snappy, Self::None]
            .into_iter()
            .find(|known| known.as_str() == text)
            .ok_or_else(|| {
                ShardError::Setting(format!("compression `{text}` is none of zstd:1, zstd:3, lz4, snappy, none"))
            })
    }
}

/// One source of rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputFile {
    /// Its name in messages.
    pub shown: String,
    /// Its name in tables: without folder, `-` for standard input.
    pub file_name: String,
    /// Where its bytes are. They are read more than once.
    pub path: PathBuf,
    /// Whether they came through a pipe and were kept for this run: then their digest says what they are.
    pub piped: bool,
}

/// One sharding job.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Files in the order of their rows.
    pub inputs: Vec<InputFile>,
    /// The folder that gets the shards. It is made if it is not there.
    pub out: PathBuf,
    /// How the rows are divided.
    pub division: Division,
    /// How pages are compressed.
    pub compression: Compression,
    /// Threads that parse and encode; 0 for all cores.
    pub threads: usize,
    /// Whether rows whose content stood in an earlier row are dropped.
    pub dedup: bool,
    /// The shape of all rows, or `Auto`.
    pub shape: Shape,
    /// Whether one bad row refuses everything.
    pub strict: bool,
    /// Where bad rows are collected.
    pub bad_rows: Option<PathBuf>,
    /// The provenance step of this work, as a JSON object.
    pub step: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_compression_is_known_by_its_name() {
        for name in ["zstd:1", "zstd:3", "lz4", "snappy", "none"] {
            assert_eq!(name.parse::<Compression>().map(Compression::as_str).ok(), Some(name));
        }
        let message = "zstd:2".parse::<Compression>().map_err(|error| error.to_string());
        assert_eq!(message.err().as_deref(), Some("compression `zstd:2` is none of zstd:1, zstd:3, lz4, snappy, none"));
    }

    #[test]
    fn the_codec_is_the_one_that_was_asked_for() {
        assert_eq!(Compression::Zstd3.codec(), Codec::ZSTD(ZstdLevel::try_new(3).unwrap()));
        assert_eq!(Compression::Lz4.codec(), Codec::LZ4_RAW);
        assert_eq!(Compression::None.codec(), Codec::UNCOMPRESSED);
    }
}
