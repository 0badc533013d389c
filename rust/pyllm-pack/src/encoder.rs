//! The tokenizer of a `tokenizer.json`: text to ids, with nothing added.

use tokenizers::pipeline::{
    EncodeOptions, Model, Override, PipelineModelScratch, PipelinePreTokenizer, PipelineToken, PipelineTokenizer,
    PreTokenizer, PreTokenizerScratch, Segment, Span, SpecialSegmentIterator, normalize_all,
};
use tokenizers::pre_tokenizers::sequence::PipelineSequence;
use tokenizers::pre_tokenizers::split::{Search, Split};
use tokenizers::{Result, SplitDelimiterBehavior};

/// A tokenizer. Shared by threads, each of which has a [`Scratch`].
#[derive(Clone)]
pub(crate) struct Encoder {
    pipeline: PipelineTokenizer,
    options: EncodeOptions,
    /// The pre-tokenizer with its patterns compiled, where the library left one without an engine.
    ///
    /// Its reader of JSON takes every pattern for one that it has its own code for, and fails on any other when a text
    /// comes (tokenizers 1.0.0-rc.3). Then its steps are gone through here.
    patterns: Option<PipelinePreTokenizer>,
}

/// What one thread keeps between texts.
#[derive(Default)]
pub(crate) struct Scratch {
    model: Option<PipelineModelScratch>,
    split: PreTokenizerScratch,
    spans: Vec<Span>,
}

impl Encoder {
    pub(crate) fn from_json(json: &str) -> Result<Self> {
        let pipeline = tokenizers::from_json(&tokenizers::canonicalize_str(json)?)?;
        let patterns = compiled(pipeline.get_pre_tokenizer())?;
        let options = EncodeOptions {
            add_special_tokens: false,
            encode_special_tokens: false,
            padding: Override::Off,
            truncation: Override::Off,
        };
        Ok(Self { pipeline, options, patterns })
    }

    /// Appends the ids of a text.
    pub(crate) fn encode(&self, text: &str, scratch: &mut Scratch, ids: &mut Vec<PipelineToken>) -> Result<()> {
        match &self.patterns {
            None => self.pipeline.encode_into(text, &self.options, ids),
            Some(patterns) => self.encode_with(patterns, text, scratch, ids),
        }
    }

    /// The library's own steps, with another pre-tokenizer.
    fn encode_with(
        &self,
        patterns: &PipelinePreTokenizer,
        text: &str,
        scratch: &mut Scratch,
        ids: &mut Vec<PipelineToken>,
    ) -> Result<()> {
        let added = self.pipeline.get_added_vocabulary();
        let model = self.pipeline.get_model();
        let Scratch { model: model_scratch, split, spans } = scratch;
        let model_scratch = model_scratch.get_or_insert_with(|| model.init_scratch());
        for segment in SpecialSegmentIterator::new(text, added, false, false) {
            let (chunk, offset) = match segment {
                Segment::SpecialToken(id) => {
                    ids.push(id.into());
                    continue;
                }
                Segment::Text { text, input_offset } => (text, input_offset),
            };
            let normalized = normalize_all(self.pipeline.get_normalizers(), chunk, offset)?;
            for segment in SpecialSegmentIterator::new(&normalized, added, true, false) {
                match segment {
                    Segment::SpecialToken(id) => ids.push(id.into()),
                    Segment::Text { text, .. } => {
                        // Spans count with 32 bits.
                        u32::try_from(text.len())?;
                        spans.clear();
                        patterns.pre_tokenize(text, split, spans)?;
                        model.tokenize_spans(text, spans, model_scratch, ids)?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// A pre-tokenizer with engines for its patterns; None where none is missing.
fn compiled(found: &PipelinePreTokenizer) -> Result<Option<PipelinePreTokenizer>> {
    Ok(match found {
        PipelinePreTokenizer::Split(split) if lacks_engine(split) => {
            let split = Split::new(split.pattern.clone(), split.behavior, split.invert)?;
            Some(PipelinePreTokenizer::Split(split))
        }
        PipelinePreTokenizer::Sequence(sequence) if !sequence.is_deepseek() => {
            let members = sequence.pre_tokenizers();
            let made = members.iter().map(compiled).collect::<Result<Vec<_>>>()?;
            made.iter().any(Option::is_some).then(|| {
                let both = made.into_iter().zip(members);
                let members = both.map(|(made, found)| made.unwrap_or_else(|| found.clone())).collect();
                PipelinePreTokenizer::Sequence(PipelineSequence::new(members))
            })
        }
        _ => None,
    })
}

fn lacks_engine(split: &Split) -> bool {
    let has_own_code = split.grammar().is_some() && split.behavior == SplitDelimiterBehavior::Isolated && !split.invert;
    matches!(split.search, Search::Unavailable) && !has_own_code
}
