//! Scans of bytes, eight at a time.

use std::fmt::Write;

const EACH: u64 = u64::MAX / 0xff;
const HIGH: u64 = EACH * 0x80;

/// The high bit of every byte below `limit` (at most 0x80); bits above the lowest that is set may be wrong.
fn below(word: u64, limit: u64) -> u64 {
    word.wrapping_sub(EACH * limit) & !word & HIGH
}

/// A bit for every byte of the word that is a quotation mark, a backslash or a control character, as above.
fn specials(word: u64) -> u64 {
    let quotes = below(word ^ (EACH * u64::from(b'"')), 1);
    let slashes = below(word ^ (EACH * u64::from(b'\\')), 1);
    below(word, 0x20) | quotes | slashes
}

/// Where the first quotation mark, backslash or control character stands from `at` on, or the end.
#[inline]
pub(crate) fn special(bytes: &[u8], mut at: usize) -> usize {
    while let Some(chunk) = bytes.get(at..).and_then(|rest| rest.first_chunk::<32>()) {
        // Numbers in place of truths, without branches, so that the compiler looks at all bytes at once.
        let found = chunk
            .iter()
            .fold(0, |found, &byte| found | u8::from(byte < 0x20) | u8::from(byte == b'"') | u8::from(byte == b'\\'));
        if found != 0 {
            break;
        }
        at += 32;
    }
    while let Some(chunk) = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        let hits = specials(u64::from_le_bytes(*chunk));
        if hits != 0 {
            return at + (hits.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    while let Some(&byte) = bytes.get(at) {
        if byte < 0x20 || byte == b'"' || byte == b'\\' {
            return at;
        }
        at += 1;
    }
    bytes.len()
}

/// The number of characters in text, or in what is left of it where it is none.
pub(crate) fn characters(bytes: &[u8]) -> usize {
    bytes.iter().filter(|&&byte| byte & 0xc0 != 0x80).count()
}

/// Bytes that are no text as Python shows them: `\xff`.
pub(crate) fn escaped_bytes(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            // Writing to a string cannot fail.
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

/// Where text ends and the first byte that does not fit.
pub(crate) fn first_misfit(bytes: &[u8]) -> Option<(usize, u8)> {
    let at = std::str::from_utf8(bytes).err()?.valid_up_to();
    bytes.get(at).map(|&byte| (at, byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_special_byte_is_found_at_every_distance() {
        for special_byte in [b'"', b'\\', 0, 0x1f, b'\n'] {
            for before in 0..80 {
                for filler in [b' ', b'a', 0x7f, 0x80, 0xff, b'!', b'#', b'[', b']'] {
                    let mut bytes = vec![filler; before];
                    bytes.push(special_byte);
                    bytes.extend([b'"', filler, 1]);
                    assert_eq!(special(&bytes, 0), before);
                    assert_eq!(special(&bytes[..before], 0), before);
                    assert_eq!(special(&bytes, before), before);
                }
            }
        }
        assert_eq!(special(b"", 0), 0);
    }

    #[test]
    fn bytes_that_are_no_text_are_spelled_out() {
        assert_eq!(escaped_bytes(b"a\xff\xc3\xa9\xf0\x9f"), "a\\xffé\\xf0\\x9f");
        assert_eq!(first_misfit("é".as_bytes()), None);
        assert_eq!(first_misfit(b"\xc3\xa9\xc3"), Some((2, 0xc3)));
    }
}
