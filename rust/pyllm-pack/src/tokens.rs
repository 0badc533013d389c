//! From text to token ids, and the tokens that are trained.

use std::ops::Range;

use tokenizers::pipeline::PipelineToken;

use crate::encoder::{Encoder, Scratch};
use crate::error::{PackError, reason};
use crate::render::{Fields, Rendered, Template};
use crate::rows::{Tally, TokenRows};

/// What happens to a row of more tokens than the length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TooLong {
    /// It is cut at its end.
    Truncate,
    /// It is left out.
    Drop,
    /// It is an error.
    Error,
}

/// A tokenizer with the tokens that stand around a row.
#[derive(Clone)]
pub struct RowTokenizer {
    encoder: Encoder,
    start: Option<u32>,
    end: Option<u32>,
}

impl std::fmt::Debug for RowTokenizer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("RowTokenizer")
            .field("start", &self.start)
            .field("end", &self.end)
            .finish_non_exhaustive()
    }
}

impl RowTokenizer {
    /// A tokenizer from the text of a `tokenizer.json`, of any version.
    ///
    /// `start` is put before each row and `end` behind it, where there are any; nothing else is added, whatever the
    /// file's own post-processor does.
    ///
    /// # Errors
    /// It is no tokenizer, or one that this engine does not know.
    pub fn from_json(json: &str, start: Option<u32>, end: Option<u32>) -> Result<Self, PackError> {
        let encoder =
            Encoder::from_json(json).map_err(|error| PackError::Tokenizer { reason: reason(error.as_ref()) })?;
        Ok(Self { encoder, start, end })
    }

    /// The ids of each text, and where those of each end.
    ///
    /// # Errors
    /// What the tokenizer says, if it refuses a text; its place is counted from 0.
    pub fn encode_all(&self, texts: &[String]) -> Result<(Vec<u32>, Vec<u64>), PackError> {
        let mut ids = Vec::new();
        let mut ends = Vec::with_capacity(texts.len());
        let mut scratch = Scratch::default();
        for (row, text) in (0..).zip(texts) {
            self.encoder.encode(text, &mut scratch, &mut ids).map_err(|error| {
                let reason = reason(error.as_ref());
                PackError::Text { file: "texts".to_owned(), row, reason }
            })?;
            ends.push(ids.len() as u64);
        }
        Ok((PipelineToken::cast_slice(&ids).to_vec(), ends))
    }
}

/// Takes rows one by one, makes them fit, and counts what becomes of them.
#[derive(Debug)]
pub(crate) struct Fitting<'a> {
    /// Name of the table they are of.
    pub(crate) file: &'a str,
    /// Tokens of a packed row.
    pub(crate) length: u32,
    /// What happens to longer ones.
    pub(crate) too_long: TooLong,
    /// The rows that are kept.
    pub(crate) rows: TokenRows,
    /// What became of all.
    pub(crate) tally: Tally,
}

impl<'a> Fitting<'a> {
    pub(crate) fn new(file: &'a str, length: u32, too_long: TooLong) -> Self {
        Self { file, length, too_long, rows: TokenRows::default(), tally: Tally::default() }
    }

    /// A row without an answer.
    pub(crate) fn without_answer(&mut self, row: u64) {
        self.tally.rows_in += 1;
        self.tally.without_answer.add(self.file, row);
    }

    /// A tokenized row; `trained` ascends.
    pub(crate) fn add(
        &mut self,
        row: u64,
        ids: &[u32],
        trained: impl IntoIterator<Item = Range<u32>>,
        name: &str,
    ) -> Result<(), PackError> {
        self.tally.rows_in += 1;
        let mut ids = ids;
        if ids.len() > self.length as usize {
            match self.too_long {
                TooLong::Error => {
                    let (file, tokens) = (self.file.to_owned(), ids.len());
                    return Err(PackError::TooLong { file, row, tokens, length: self.length });
                }
                TooLong::Drop => {
                    self.tally.too_long.add(self.file, row);
                    return Ok(());
                }
                TooLong::Truncate => {
                    self.tally.truncated.add(self.file, row);
                    ids = &ids[..self.length as usize];
                }
            }
        }
        let kept = ids.len() as u32;
        // Nothing stands before a row's first token that it could be predicted from.
        let spans = trained.into_iter().map(|span| span.start.max(1)..span.end.min(kept));
        let spans: Vec<_> = spans.filter(|span| span.start < span.end).collect();
        if spans.is_empty() {
            self.tally.fully_masked.add(self.file, row);
            return Ok(());
        }
        self.tally.rows_packed += 1;
        self.tally.tokens += u64::from(kept);
        self.tally.trained_tokens += spans.iter().map(|span| u64::from(span.end - span.start)).sum::<u64>();
        self.rows.push(ids, spans, name);
        Ok(())
    }
}

/// Renders and tokenizes rows. Made once for many: it keeps its buffers.
pub(crate) struct Tokenizing<'a> {
    tokenizer: &'a RowTokenizer,
    template: Template,
    rendered: Rendered,
    ids: Vec<PipelineToken>,
    part: Vec<PipelineToken>,
    spans: Vec<Range<u32>>,
    scratch: Scratch,
}

impl<'a> Tokenizing<'a> {
    pub(crate) fn new(tokenizer: &'a RowTokenizer, template: Template) -> Self {
        let (rendered, ids, part, spans, scratch) = <_>::default();
        Self { tokenizer, template, rendered, ids, part, spans, scratch }
    }

    /// One row of a table into what fits.
    pub(crate) fn add(
        &mut self,
        row: u64,
        fields: &Fields<'_>,
        name: &str,
        into: &mut Fitting<'_>,
    ) -> Result<(), PackError> {
        if !self.rendered.render(self.template, fields) {
            into.without_answer(row);
            return Ok(());
        }
        self.tokenize().map_err(|error| {
            let reason = reason(error.as_ref());
            PackError::Text { file: into.file.to_owned(), row, reason }
        })?;
        into.add(row, PipelineToken::cast_slice(&self.ids), self.spans.iter().cloned(), name)
    }

    /// Ids of the whole text, and the trained spans in them.
    ///
    /// An answer begins where the tokens of the text before it, tokenized alone, and those of the whole part ways, as
    /// in scoring; it ends where those of the text up to its end do, or behind the token that joins the end to what
    /// follows. The last one ends with the row.
    fn tokenize(&mut self) -> tokenizers::Result<()> {
        self.ids.clear();
        self.spans.clear();
        self.ids.extend(self.tokenizer.start.map(PipelineToken::from));
        let first = self.ids.len();
        self.tokenizer.encoder.encode(&self.rendered.text, &mut self.scratch, &mut self.ids)?;
        for place in 0..self.rendered.answers.len() {
            let answer = self.rendered.answers[place].clone();
            let start = self.shared_with_whole(answer.start, first)?;
            let end = if answer.end == self.rendered.text.len() {
                self.ids.len() + usize::from(self.tokenizer.end.is_some())
            } else {
                let shared = self.shared_with_whole(answer.end, first)?;
                let is_joined = shared - first < self.part.len() && shared < self.ids.len();
                shared + usize::from(is_joined)
            };
            if start < end {
                self.spans.push(start as u32..end as u32);
            }
        }
        self.ids.extend(self.tokenizer.end.map(PipelineToken::from));
        Ok(())
    }

    /// Where the tokens of the text's first bytes, tokenized alone, and those of the whole part ways.
    fn shared_with_whole(&mut self, bytes: usize, first: usize) -> tokenizers::Result<usize> {
        self.part.clear();
        self.tokenizer.encoder.encode(&self.rendered.text[..bytes], &mut self.scratch, &mut self.part)?;
        Ok(first + self.part.iter().zip(&self.ids[first..]).take_while(|(alone, whole)| alone == whole).count())
    }
}
