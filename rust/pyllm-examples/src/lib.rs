//! Instruction rows of every known shape to one typed schema: bytes or record batches in, record batches out.
//!
//! The crate does no input or output and starts no threads. Whoever drives it reads bytes, cuts them into blocks of
//! whole records, reads the blocks (on as many threads as it likes), joins their layouts, and builds batches:
//!
//! ```
//! use pyllm_examples::{Cutter, Layout, Reader, Shape, TextFormat};
//!
//! let data = b"{\"instruction\": \"Name a fruit.\", \"output\": \"Apple\", \"n\": 1}\n{\"instruction\": 3}\n";
//! let reader = Reader::new(Shape::Auto, false);
//! let mut cutter = Cutter::new(TextFormat::JsonLines);
//! let (mut buffer, mut layout, mut first_row) = (&data[..], Layout::default(), 0);
//! // `true`: no more bytes will come. `None` then means that all is cut.
//! while let Some(cut) = cutter.cut(buffer, true)? {
//!     let rows = reader.text(TextFormat::JsonLines, cutter.header(), &buffer[cut.block.clone()]);
//!     layout.join(rows.layout());
//!     let batch = rows.to_batch(&layout, "fruit.jsonl", first_row, None)?;
//!     assert_eq!((batch.num_rows(), rows.bad().len()), (1, 1));
//!     first_row += rows.records();
//!     buffer = &buffer[cut.taken..];
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! - [`Cutter`]: where blocks end. Array brackets, the commas between elements and the CSV header are taken off here.
//!   A frame that is damaged ends the file: [`FrameError`], whose text goes behind the file's name. Damage that
//!   only parsing finds stands in [`Rows::damage`], relative to the block: [`FrameError::at`] makes it absolute.
//! - [`Reader::text`], [`Reader::batch`]: one block of rows. Record batches go through [`plain`] first.
//! - [`Reader::looks_own`], [`Rows::own_holds`]: a table that we wrote ourselves is read with `own` as long as every
//!   id is the digest of its row; once one is not, the file is read again without.
//! - [`Layout`]: the other columns and the narrowest type that holds every value exactly. Joining is associative, so
//!   blocks may be joined in groups, but not commutative: the earlier one decides the order.
//! - [`Rows::to_batch`]: one record batch in any layout that covers the block's own.

mod arrays;
mod batches;
mod canonical;
mod content;
mod conversations;
mod csv;
mod cutter;
mod error;
mod json;
mod json_array;
mod kinds;
mod layout;
mod own;
mod plan;
mod reader;
mod rows;
mod shape;
mod strings;
mod values;

pub use batches::plain;
pub use cutter::{Cut, Cutter, Place};
pub use error::{FrameError, RowsError};
pub use layout::Layout;
pub use reader::{Reader, TextFormat};
pub use rows::{BadRow, Id, Rows};
pub use shape::{Shape, UnknownShape};
