//! Bytes of a source as they are stored, digested on their way, and unpacked.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Chain, Cursor, ErrorKind, Read};
use std::path::Path;

use flate2::bufread::GzDecoder;
use sha2::{Digest, Sha256};
use zstd::stream::read::Decoder;

use crate::error::{ShardError, lowered, reason_of};

const GZIP: &[u8] = b"\x1f\x8b";
const ZSTD: &[u8] = b"\x28\xb5\x2f\xfd";
/// Archives made with `zstd --long` need more than the default window.
const ZSTD_WINDOW_LOG: u32 = 31;
const BUFFER_BYTES: usize = 256 << 10;

/// What was read of a file, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seal {
    pub(crate) bytes: u64,
    pub(crate) sha256: String,
}

/// A file whose bytes are counted and digested as they are read.
struct Stored {
    file: File,
    digest: Sha256,
    bytes: u64,
}

impl Stored {
    fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { file: File::open(path)?, digest: Sha256::new(), bytes: 0 })
    }

    fn seal(&self) -> Seal {
        Seal { bytes: self.bytes, sha256: hex(&self.digest.clone().finalize()) }
    }
}

impl Read for Stored {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.file.read(buffer) {
                Ok(count) => {
                    self.digest.update(&buffer[..count]);
                    self.bytes += count as u64;
                    return Ok(count);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Counts and digests a whole file.
pub(crate) fn seal_of(path: &Path) -> io::Result<Seal> {
    let mut stored = Stored::open(path)?;
    let mut buffer = vec![0; BUFFER_BYTES];
    while stored.read(&mut buffer)? > 0 {}
    Ok(stored.seal())
}

/// A digest as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.map(|digit| char::from(DIGITS[usize::from(digit)])).collect()
}

/// The first bytes, which were looked at, and the rest.
type Whole = Chain<Cursor<Vec<u8>>, Stored>;

enum Packing {
    Plain(Whole),
    /// Between two members it is a bare reader; `None` only while one becomes the other.
    Gzip(Option<Member>),
    Zstd(Decoder<'static, BufReader<Whole>>),
}

enum Member {
    Inside(Box<GzDecoder<BufReader<Whole>>>),
    Between(BufReader<Whole>),
    Ended(BufReader<Whole>),
}

/// The bytes of a source, unpacked.
pub(crate) struct Unpacked {
    packing: Packing,
}

impl Unpacked {
    /// Opens a source; gzip and zstd are known by their first bytes.
    pub(crate) fn open(path: &Path, shown: &str) -> Result<Self, ShardError> {
        let failed = |error: io::Error| ShardError::read(shown, &error);
        let mut stored = Stored::open(path).map_err(failed)?;
        let mut head = Vec::with_capacity(4);
        stored.by_ref().take(4).read_to_end(&mut head).map_err(failed)?;
        let (gzip, zstd) = (head.starts_with(GZIP), head.starts_with(ZSTD));
        let whole = Cursor::new(head).chain(stored);
        let packing = if gzip {
            Packing::Gzip(Some(Member::Inside(Box::new(GzDecoder::new(buffered(whole))))))
        } else if zstd {
            let mut decoder = Decoder::with_buffer(buffered(whole)).map_err(failed)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG).map_err(failed)?;
            Packing::Zstd(decoder)
        } else {
            Packing::Plain(whole)
        };
        Ok(Self { packing })
    }

    pub(crate) fn is_plain(&self) -> bool {
        matches!(self.packing, Packing::Plain(_))
    }

    /// Adds bytes until the buffer holds `enough` of them; true at the end of the source.
    pub(crate) fn fill(&mut self, buffer: &mut Vec<u8>, enough: usize) -> io::Result<bool> {
        if buffer.len() < enough {
            let missing = enough - buffer.len();
            buffer.reserve(missing);
            self.take(missing as u64).read_to_end(buffer)?;
        }
        Ok(buffer.len() < enough)
    }

    /// What was read so far; the whole file once its end was reached.
    pub(crate) fn seal(&self) -> Seal {
        let whole = match &self.packing {
            Packing::Plain(whole) => Some(whole),
            Packing::Zstd(decoder) => Some(decoder.get_ref().get_ref()),
            Packing::Gzip(member) => member.as_ref().map(|member| match member {
                Member::Inside(decoder) => decoder.get_ref().get_ref(),
                Member::Between(reader) | Member::Ended(reader) => reader.get_ref(),
            }),
        };
        whole.map_or(Seal { bytes: 0, sha256: String::new() }, |whole| whole.get_ref().1.seal())
    }

    /// The error of a read, as what it means for the source.
    pub(crate) fn explain(&self, shown: &str, error: &io::Error) -> ShardError {
        let system = error.raw_os_error().is_some();
        let torn = error.kind() == ErrorKind::UnexpectedEof;
        match &self.packing {
            _ if system => ShardError::read(shown, error),
            Packing::Plain(_) => ShardError::read(shown, error),
            Packing::Gzip(_) => {
                let end = "compressed file ended before the end-of-stream marker was reached".to_owned();
                let reason = if torn { end } else { reason_of(error) };
                ShardError::damaged(shown, format!("is a torn or damaged gzip file: {reason}"))
            }
            Packing::Zstd(_) if torn => ShardError::damaged(shown, "is a torn zstd file: its last frame has no end"),
            Packing::Zstd(_) => {
                ShardError::damaged(shown, format!("is a damaged zstd file: {}", lowered(&error.to_string())))
            }
        }
    }
}

impl Read for Unpacked {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.packing {
            Packing::Plain(whole) => whole.read(buffer),
            Packing::Zstd(decoder) => decoder.read(buffer),
            Packing::Gzip(member) => read_members(member, buffer),
        }
    }
}

fn buffered(whole: Whole) -> BufReader<Whole> {
    BufReader::with_capacity(BUFFER_BYTES, whole)
}

/// Reads from one member after the other; zeros may fill up the file behind the last one, as tapes have it.
fn read_members(member: &mut Option<Member>, buffer: &mut [u8]) -> io::Result<usize> {
    if buffer.is_empty() {
        return Ok(0);
    }
    loop {
        match member.take() {
            Some(Member::Inside(mut decoder)) => {
                let read = decoder.read(buffer);
                let finished = matches!(read, Ok(0));
                *member = Some(if finished { Member::Between(decoder.into_inner()) } else { Member::Inside(decoder) });
                if !finished {
                    return read;
                }
            }
            Some(Member::Between(mut reader)) => {
                let more = next_member(&mut reader);
                let another = matches!(more, Ok(true));
                *member = Some(if another {
                    Member::Inside(Box::new(GzDecoder::new(reader)))
                } else {
                    Member::Ended(reader)
                });
                more?;
            }
            ended => {
                *member = ended;
                return Ok(0);
            }
        }
    }
}

/// Passes over zeros; false at the end of the file.
fn next_member(reader: &mut BufReader<Whole>) -> io::Result<bool> {
    loop {
        let ahead = reader.fill_buf()?;
        if ahead.is_empty() {
            return Ok(false);
        }
        let zeros = ahead.iter().take_while(|byte| **byte == 0).count();
        if zeros < ahead.len() {
            let magic = ahead[zeros];
            reader.consume(zeros);
            if magic == GZIP[0] {
                return Ok(true);
            }
            return Err(io::Error::new(ErrorKind::InvalidData, "other bytes follow its last member"));
        }
        reader.consume(zeros);
    }
}
