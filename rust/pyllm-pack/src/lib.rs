//! Render, tokenize and bin-pack examples into rows of fixed length.
//!
//! [`pack_best_fit`] and [`pack_online`] say which sequence goes into which bin and know nothing else. [`Packer`] does
//! the whole way: it reads tables of examples ([`Table`]), renders each row as text ([`Rendered`]), tokenizes it
//! ([`RowTokenizer`]), packs a window of rows at a time, and writes Parquet files whose bytes do not depend on the
//! number of threads. It works on the threads of the rayon pool that it is called in.

mod encoder;
mod error;
mod online;
mod packer;
mod plan;
mod render;
mod rows;
mod source;
mod stacks;
mod tokens;
mod writer;

pub use error::PackError;
pub use online::pack_online;
pub use packer::{Packer, Settings, Summary, Tokenized};
pub use plan::{Packing, pack_best_fit};
pub use render::{Fields, Rendered, Template, Turn};
pub use rows::{Named, Tally, TokenRows};
pub use source::Table;
pub use tokens::{RowTokenizer, TooLong};
pub use writer::{Layout, MASKED, Part, compression};

/// The longest packed row, in tokens.
pub const MOST_TOKENS: u32 = 65_536;
