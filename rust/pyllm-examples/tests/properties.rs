//! Any bytes are read to an end, blocks may end anywhere, and joining layouts has no favourites.

#![expect(clippy::expect_used, reason = "a helper of tests says what must hold")]

use arrow_array::RecordBatch;
use proptest::prelude::*;
use pyllm_examples::{BadRow, Cutter, FrameError, Layout, Reader, Shape, TextFormat};

const FORMATS: [TextFormat; 3] = [TextFormat::JsonLines, TextFormat::JsonArray, TextFormat::Csv];

/// Everything that reading gives, from the beginning of the file.
#[derive(Debug, PartialEq)]
struct Found {
    batches: Vec<RecordBatch>,
    bad: Vec<BadRow>,
    ids: Vec<[u8; 16]>,
    records: u64,
    layout: Layout,
    damage: Option<FrameError>,
}

/// Reads data that arrives in pieces of these sizes.
fn read(format: TextFormat, data: &[u8], piece: usize) -> Found {
    let reader = Reader::new(Shape::Auto, false);
    let mut cutter = Cutter::new(format);
    let mut found = Found {
        batches: Vec::new(),
        bad: Vec::new(),
        ids: Vec::new(),
        records: 0,
        layout: Layout::default(),
        damage: None,
    };
    let mut blocks = Vec::new();
    let (mut start, mut end) = (0, piece.min(data.len()));
    loop {
        match cutter.cut(&data[start..end], end == data.len()) {
            Ok(Some(cut)) => {
                blocks.push((cut.place, &data[start + cut.block.start..start + cut.block.end]));
                start += cut.taken;
                assert!(start <= end);
            }
            Ok(None) if end == data.len() => break,
            Ok(None) => end = (end + piece).min(data.len()),
            Err(damage) => {
                found.damage = Some(damage);
                break;
            }
        }
    }
    let mut rows = Vec::new();
    for &(place, block) in &blocks {
        let block_rows = reader.text(format, cutter.header(), block);
        found.layout.join(block_rows.layout());
        for bad in block_rows.bad() {
            let line = bad.line.map(|line| line + place.line);
            found.bad.push(BadRow { row: bad.row + found.records, line, ..bad.clone() });
        }
        found.ids.extend(block_rows.ids());
        let damage = block_rows.damage().map(|damage| damage.clone().at(found.records, place));
        let first_row = found.records;
        found.records += block_rows.records();
        rows.push((first_row, block_rows));
        if let Some(damage) = damage {
            found.damage = Some(damage);
            break;
        }
    }
    for (first_row, rows) in rows {
        assert!(found.layout.covers(rows.layout()));
        let batch = rows.to_batch(&found.layout, "f", first_row, None).expect("the layout covers the rows");
        assert_eq!(batch.num_rows(), rows.ids().len());
        if batch.num_rows() > 0 {
            found.batches.push(batch);
        }
    }
    found
}

/// The same with all batches in one, so that runs of other cuts can be compared.
fn read_as_one(format: TextFormat, data: &[u8], piece: usize) -> Found {
    let mut found = read(format, data, piece);
    if !found.batches.is_empty() {
        let schema = found.layout.schema();
        let whole = arrow_select::concat::concat_batches(&schema, &found.batches).expect("one schema");
        found.batches = vec![whole];
    }
    found
}

/// Pieces that make rows, sound ones and others.
fn fragments() -> impl Strategy<Value = Vec<u8>> {
    let fragment = prop::sample::select(vec![
        &b"{\"instruction\": \"a\", \"output\": \"b\\n\", \"n\": 1}"[..],
        b"{\"instruction\": \"\xc3\xa9\\u00e9\", \"n\": 2.5, \"o\": {\"k\": [1, null]}}",
        b"{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}], \"n\": \"t\"}",
        b"{\"instruction\": \"a\", \"instruction\": \"b\", \"o\": {\"k\": []}}",
        b"{\"instruction\": NaN}",
        b"{\"instruction\": \"\\ud800\"}",
        b"instruction,output\n",
        b"\"a \"\"b\"\"\nc\",d\r\n",
        b"e,\n",
        b"x,y,z\r",
        b"\"stray\"x,\n",
        b"\"",
        b"\\",
        b",",
        b"\n",
        b"\r\n",
        b" ",
        b"[",
        b"]",
        b"{",
        b"}",
        b"1",
        b"\xff",
        b"\xef\xbb\xbf",
        b"null",
    ]);
    prop::collection::vec(fragment, 0..14).prop_map(|parts| parts.concat())
}

fn sound(format: TextFormat, rows: &[String]) -> Vec<u8> {
    match format {
        TextFormat::JsonLines => rows.join("\n"),
        TextFormat::JsonArray => format!(" [{}] \n", rows.join(",\n ")),
        TextFormat::Csv => format!(
            "instruction,note\r\n{}",
            rows.iter().map(|row| format!("\"{}\",\r\n", row.replace('"', "\"\""))).collect::<Vec<_>>().concat()
        ),
    }
    .into_bytes()
}

fn rows() -> impl Strategy<Value = Vec<String>> {
    let text = "[a-c\u{e9}\u{1f600} ]{0,6}";
    let row = (text, text, 0..6).prop_map(|(first, second, shape)| match shape {
        0 => format!(r#"{{"instruction": "{first}", "output": "{second}", "n": {}}}"#, second.len()),
        1 => format!(r#"{{"prompt": "{first}\n\u0041", "n": {}.5}}"#, second.len()),
        2 => format!(r#"{{"conversations": [{{"from": "human", "value": "{first}"}}], "s": "{second}"}}"#),
        3 => format!(r#"{{"text": "{first}", "l": [{{"a": "{second}"}}], "n": null}}"#),
        4 => format!(r#"{{"chosen": "{first}", "rejected": "{second}"}}"#),
        _ => format!(r#"{{"instruction": {{"a": "{first}"}}}}"#),
    });
    prop::collection::vec(row, 1..8)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_read_to_an_end(data in prop::collection::vec(any::<u8>(), 0..200), piece in 1_usize..64) {
        for format in FORMATS {
            read(format, &data, piece);
        }
    }

    #[test]
    fn what_resembles_rows_is_read_the_same_whatever_the_blocks(data in fragments(), piece in 1_usize..40) {
        for format in FORMATS {
            let whole = read_as_one(format, &data, usize::MAX / 2);
            let pieces = read_as_one(format, &data, piece);
            if whole.damage.is_some() {
                // Which of several damages is met first may depend on the blocks.
                prop_assert!(pieces.damage.is_some(), "{:?}", format);
            } else {
                prop_assert_eq!(whole, pieces);
            }
        }
    }

    #[test]
    fn sound_files_are_read_the_same_whatever_the_blocks(rows in rows(), piece in 1_usize..80) {
        for format in FORMATS {
            let data = sound(format, &rows);
            let whole = read_as_one(format, &data, usize::MAX / 2);
            prop_assert_eq!(whole.damage.as_ref(), None);
            prop_assert_eq!(whole.records, rows.len() as u64);
            prop_assert_eq!(&whole, &read_as_one(format, &data, piece));
        }
    }

    #[test]
    fn an_array_that_is_cut_short_is_refused(rows in rows(), short in 1_usize..30, piece in 1_usize..80) {
        let data = sound(TextFormat::JsonArray, &rows);
        let data = data.trim_ascii();
        let torn = &data[..data.len().saturating_sub(short)];
        if torn.first() == Some(&b'[') && std::str::from_utf8(torn).is_ok() {
            let whole = read(TextFormat::JsonArray, torn, usize::MAX / 2);
            prop_assert!(whole.damage.is_some());
            prop_assert_eq!(whole.damage, read(TextFormat::JsonArray, torn, piece).damage);
        }
    }

    #[test]
    fn joining_layouts_is_associative(rows in prop::collection::vec(rows(), 3)) {
        let reader = Reader::new(Shape::Auto, false);
        let data: Vec<_> = rows.iter().map(|rows| sound(TextFormat::JsonLines, rows)).collect();
        let read: Vec<_> = data.iter().map(|data| reader.text(TextFormat::JsonLines, &[], data)).collect();
        let joined = |first: &Layout, second: &Layout| {
            let mut joined = first.clone();
            joined.join(second);
            joined
        };
        let [a, b, c] = [read[0].layout(), read[1].layout(), read[2].layout()];
        let left = joined(&joined(a, b), c);
        prop_assert_eq!(&left, &joined(a, &joined(b, c)));
        prop_assert!(left.covers(a) && left.covers(b) && left.covers(c));
        for rows in &read {
            let batch = rows.to_batch(&left, "f", 7, None);
            prop_assert!(batch.is_ok(), "{:?}", batch);
        }
    }

    #[test]
    fn rows_that_are_not_kept_are_not_there(rows in rows(), keep in prop::collection::vec(any::<bool>(), 8)) {
        let data = sound(TextFormat::JsonLines, &rows);
        let read = Reader::new(Shape::Auto, false).text(TextFormat::JsonLines, &[], &data);
        let whole = read.to_batch(read.layout(), "f", 0, None).expect("covered");
        let part = read.to_batch(read.layout(), "f", 0, Some(&keep[..read.ids().len()])).expect("covered");
        let mask = arrow_array::BooleanArray::from(keep[..read.ids().len()].to_vec());
        prop_assert_eq!(part, arrow_select::filter::filter_record_batch(&whole, &mask).expect("filters"));
        // The same rows as a record batch: the canonical columns have names that no shape reads, the texts do.
        let again = Reader::new(Shape::Auto, true).batch(&whole);
        prop_assert!(again.own_holds());
        prop_assert_eq!(again.ids(), read.ids());
    }
}
