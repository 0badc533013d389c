//! A million wounded files through every scanner: no panic, no hang. `make soak` runs it, the default tests a part.
#![allow(clippy::unwrap_used)]

mod wounds;

use std::time::{Duration, Instant};

use pyllm_examples::{Cutter, Layout, Reader, Shape, TextFormat};
use wounds::Numbers;

const LINES: &[u8] = b"{\"instruction\": \"Name a fruit.\", \"input\": \"\", \"output\": \"An \\\"apple\\\" \\u00e9\", \"n\": 1}\n\
    {\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": \"text\", \"text\": \"Hi\"}], \"loss_weight\": 0}, {\"from\": \"gpt\", \"value\": \"Ho\"}], \"tools\": [1.5e-7]}\n\
    {\"instruction\": \"x\", \"instances\": [{\"input\": null, \"output\": \"y\"}], \"tags\": [\"a\", null], \"extra\": {\"k\": [1, -2.0]}}\r\n\
    {\"question\": \"q\", \"answer\": \"a\", \"n\": 2.5}\n{\"turns\": [\"one\", \"two\"]}\n{\"choices\": [{\"turns\": [\"three\"]}]}\n";
const ARRAY: &[u8] = b"[{\"prompt\": \"p\", \"completion\": \"c\", \"deep\": [[[1]]]}, {\"text\": \"t \\ud83d\\ude00\", \"n\": null},\n {\"Instruction\": \"I\", \"conversations\": \"plain\"}]\n";
const CSV: &[u8] = b"instruction,output,note\n\"a, \"\"b\"\"\",c,\n\"line\nbreak\",\"\",x\r\nd,e,\"f\"\n";

/// Reads everything there is in blocks of about `piece` bytes; gives rows good and bad.
fn read(format: TextFormat, data: &[u8], piece: usize) -> u64 {
    let reader = Reader::new(Shape::Auto, false);
    let (mut cutter, mut layout, mut records) = (Cutter::new(format), Layout::default(), 0);
    let (mut start, mut end) = (0, piece.min(data.len()));
    loop {
        match cutter.cut(&data[start..end], end == data.len()) {
            Ok(Some(cut)) => {
                let rows = reader.text(format, cutter.header(), &data[start + cut.block.start..start + cut.block.end]);
                assert_eq!(rows.records(), (rows.ids().len() + rows.bad().len()) as u64);
                layout.join(rows.layout());
                let batch = rows.to_batch(&layout, "f", records, None).unwrap();
                assert_eq!(batch.num_rows(), rows.ids().len());
                records += rows.records();
                start += cut.taken;
                if rows.damage().is_some() {
                    return records;
                }
            }
            Ok(None) if end == data.len() => return records,
            Ok(None) => end = (end + piece).min(data.len()),
            Err(_) => return records,
        }
    }
}

fn wounded_files(inputs: usize, seed: u64) {
    let mut numbers = Numbers(seed);
    let sound = [(TextFormat::JsonLines, LINES), (TextFormat::JsonArray, ARRAY), (TextFormat::Csv, CSV)];
    let mut records = 0;
    for input in 0..inputs {
        let (format, file) = sound[input % sound.len()];
        let data = numbers.wound(file);
        let piece = 1 + numbers.below(data.len() + 1);
        let started = Instant::now();
        records += read(format, &data, piece);
        assert!(started.elapsed() < Duration::from_secs(5), "{format:?} {:?}", String::from_utf8_lossy(&data));
    }
    assert!(records > inputs as u64 / 2, "the wounds leave too little: {records} rows");
}

#[test]
fn some_wounded_files_are_read_to_an_end() {
    wounded_files(3_000, 1);
}

#[test]
#[ignore = "a million inputs: `make soak`"]
fn a_million_wounded_files_are_read_to_an_end() {
    wounded_files(1_000_000, 2);
}
