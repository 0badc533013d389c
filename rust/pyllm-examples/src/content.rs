//! What a row says, and the digest of it.

use sha2::{Digest, Sha256};

use crate::canonical::{json_text, write_text};
use crate::conversations::{Place, conversation, said_by};
use crate::plan::Fields;
use crate::rows::Id;
use crate::shape::Shape;
use crate::values::{Store, Text, Value, described};

/// Why a row cannot become an example.
#[derive(Debug)]
pub(crate) struct BadField {
    pub(crate) field: Option<String>,
    pub(crate) reason: String,
    pub(crate) wrong_kind: bool,
}

impl BadField {
    pub(crate) fn new(field: Option<String>, reason: String) -> Self {
        Self { field, reason, wrong_kind: false }
    }

    pub(crate) fn of_wrong_kind(self) -> Self {
        Self { wrong_kind: true, ..self }
    }
}

/// One turn of a conversation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turn<'a> {
    pub(crate) role: Text<'a>,
    pub(crate) content: Text<'a>,
    pub(crate) trained: bool,
}

/// What a row says: an instruction with its fields, or a range of turns.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Content<'a> {
    pub(crate) instruction: Option<Text<'a>>,
    pub(crate) input: Option<Text<'a>>,
    pub(crate) output: Option<Text<'a>>,
    pub(crate) turns: Option<(usize, usize)>,
    pub(crate) tools: Option<Text<'a>>,
}

/// How a row was read.
pub(crate) struct Reading<'a, 'p> {
    pub(crate) content: Content<'a>,
    pub(crate) shape: Shape,
    /// Per member, whether it is used up by the content.
    pub(crate) used: &'p [bool],
    /// The lead is kept as a column all the same: it is a list with more in it.
    pub(crate) keeps_lead: bool,
    pub(crate) lead: usize,
}

/// Text of a value, or what is wrong with it; lists and objects count as their JSON on request.
pub(crate) fn text_of<'a>(store: &mut Store<'a>, value: Value<'a>, encode: bool) -> Result<Text<'a>, String> {
    match value {
        Value::Text(text) => Ok(text),
        Value::List(..) | Value::Object(..) if encode => {
            let text = json_text(store, value);
            Ok(store.keep(&text))
        }
        other => Err(format!("is {}, not text", described(other))),
    }
}

/// One row: its members in the store, from `start` on.
struct Row<'r, 'a> {
    store: &'r mut Store<'a>,
    start: usize,
}

/// Reads the row whose members begin at `start`; turns go behind those that are there.
pub(crate) fn read<'a, 'p>(
    store: &mut Store<'a>,
    start: usize,
    fields: &'p Fields,
    turns: &mut Vec<Turn<'a>>,
) -> Result<Reading<'a, 'p>, BadField> {
    let mut row = Row { store, start };
    let before = turns.len();
    let reading = row.reading(fields, turns)?;
    for medium in &fields.media {
        row.refuse_medium(medium, &reading.content, &turns[before..])?;
    }
    Ok(reading)
}

impl<'a> Row<'_, 'a> {
    fn value(&self, place: usize) -> Value<'a> {
        self.store.members[self.start + place].value
    }

    fn key(&self, place: usize) -> Place<'a> {
        Place { key: self.store.members[self.start + place].key, behind: "" }
    }

    fn name(&self, place: usize) -> String {
        self.store.text(self.store.members[self.start + place].key).to_owned()
    }

    fn text(&mut self, place: usize, encode: bool) -> Result<Text<'a>, BadField> {
        text_of(self.store, self.value(place), encode).map_err(|reason| BadField::new(Some(self.name(place)), reason))
    }

    fn optional(&mut self, place: Option<usize>) -> Result<Option<Text<'a>>, BadField> {
        place.map(|place| self.text(place, false)).transpose()
    }

    fn tools(&mut self, fields: &Fields) -> Result<Option<Text<'a>>, BadField> {
        fields.tools.map(|place| self.text(place, true)).transpose()
    }

    fn reading<'p>(&mut self, fields: &'p Fields, turns: &mut Vec<Turn<'a>>) -> Result<Reading<'a, 'p>, BadField> {
        let lead = fields.lead;
        let before = turns.len();
        let mut content = Content::default();
        let mut keeps_lead = false;
        match fields.shape {
            Shape::Auto | Shape::Alpaca | Shape::Qa | Shape::Prompt | Shape::Text => {
                content.output = self.optional(fields.output)?;
                content.input = self.optional(fields.input)?;
                content.instruction = Some(self.text(lead, false)?);
            }
            Shape::Nested => {
                let first = self.first_of(lead)?;
                content.input = self.inner_text(first, lead, "input")?;
                content.output = self.inner_text(first, lead, "output")?;
                keeps_lead = first.more;
                content.instruction = self.optional(fields.instruction)?;
            }
            Shape::Sharegpt if matches!(self.value(lead), Value::Text(_)) => {
                // Evaluation sets keep a single prompt under this name.
                if let Some(prompt) = &fields.prompt {
                    return self.reading(prompt, turns);
                }
            }
            Shape::Messages | Shape::Sharegpt => {
                conversation(self.store, self.value(lead), self.key(lead), turns)?;
            }
            Shape::Turns => said_by("user", self.store, self.value(lead), self.key(lead), turns)?,
            Shape::Choices => {
                let first = self.first_of(lead)?;
                let said = self.store.get(first.start..first.start + first.len, "turns");
                let place = Place { behind: "[0].turns", ..self.key(lead) };
                said_by("assistant", self.store, said, place, turns)?;
                keeps_lead = first.more;
            }
        }
        if content.instruction.is_none() && fields.shape != Shape::Nested {
            content.turns = Some((before, turns.len() - before));
        }
        content.tools = self.tools(fields)?;
        Ok(Reading { content, shape: fields.shape, used: &fields.used, keeps_lead, lead })
    }

    /// The object that a list begins with.
    fn first_of(&self, place: usize) -> Result<First, BadField> {
        let wrong = |reason| BadField::new(Some(self.name(place)), reason);
        let (start, len) = match self.value(place) {
            Value::List(_, 0) => return Err(wrong("is an empty list".to_owned())),
            Value::List(start, len) => (start, len),
            other => return Err(wrong(format!("is {}, not a list", described(other)))),
        };
        match self.store.items[start] {
            Value::Object(start, members) => Ok(First { start, len: members, more: len > 1 }),
            other => Err(BadField::new(
                Some(format!("{}[0]", self.name(place))),
                format!("is {}, not an object", described(other)),
            )),
        }
    }

    fn inner_text(&self, first: First, place: usize, key: &str) -> Result<Option<Text<'a>>, BadField> {
        match self.store.get(first.start..first.start + first.len, key) {
            Value::Null => Ok(None),
            Value::Text(text) => Ok(Some(text)),
            other => Err(BadField::new(
                Some(format!("{}[0].{key}", self.name(place))),
                format!("is {}, not text", described(other)),
            )),
        }
    }

    fn refuse_medium(&self, medium: &Medium, content: &Content<'a>, turns: &[Turn<'a>]) -> Result<(), BadField> {
        if let Some(plural) = medium.plural
            && self.is_something(self.value(plural))
        {
            let reason = "makes this a multimodal row, which is not text".to_owned();
            return Err(BadField::new(Some(self.name(plural)), reason).of_wrong_kind());
        }
        let Some(beside) = medium.plural.or(medium.single) else { return Ok(()) };
        let tag = format!("<{}>", medium.name);
        let texts = [content.instruction, content.input].into_iter().flatten();
        let mut texts = texts.chain(turns.iter().map(|turn| turn.content));
        if texts.any(|text| self.store.text(text).contains(&tag)) {
            let reason = format!("stands beside a literal {tag}: a multimodal row");
            return Err(BadField::new(Some(self.name(beside)), reason).of_wrong_kind());
        }
        Ok(())
    }

    /// What Python takes for true.
    fn is_something(&self, value: Value<'a>) -> bool {
        match value {
            Value::Null | Value::Bool(false) | Value::List(_, 0) | Value::Object(_, 0) => false,
            Value::Int(number) => number != 0,
            Value::Float(number) => number != 0.0,
            Value::Text(text) => !self.store.text(text).is_empty(),
            Value::Bool(true) | Value::Big(_) | Value::List(..) | Value::Object(..) | Value::Foreign(..) => true,
        }
    }
}

#[derive(Clone, Copy)]
struct First {
    start: usize,
    len: usize,
    more: bool,
}

/// A kind of data that is no text, and the members that may hold it.
#[derive(Debug)]
pub(crate) struct Medium {
    pub(crate) name: &'static str,
    pub(crate) plural: Option<usize>,
    pub(crate) single: Option<usize>,
}

/// The digest of unmodified content: SHA-256 over its canonical JSON. `scratch` is only there to be used again.
pub(crate) fn content_id<'a>(scratch: &mut String, store: &Store<'a>, content: &Content<'a>, turns: &[Turn<'a>]) -> Id {
    let optional = |out: &mut String, text: Option<Text<'a>>| match text {
        Some(text) => write_text(out, store, text),
        None => out.push_str("null"),
    };
    scratch.clear();
    scratch.push_str("{\"input\":");
    optional(scratch, content.input);
    scratch.push_str(",\"instruction\":");
    optional(scratch, content.instruction);
    scratch.push_str(",\"messages\":");
    match content.turns {
        None => scratch.push_str("null"),
        Some((start, len)) => {
            scratch.push('[');
            for (place, turn) in turns[start..start + len].iter().enumerate() {
                scratch.push_str(if place > 0 { ",[" } else { "[" });
                write_text(scratch, store, turn.role);
                scratch.push(',');
                write_text(scratch, store, turn.content);
                scratch.push_str(if turn.trained { ",true]" } else { ",false]" });
            }
            scratch.push(']');
        }
    }
    scratch.push_str(",\"output\":");
    optional(scratch, content.output);
    scratch.push_str(",\"tools\":");
    optional(scratch, content.tools);
    scratch.push('}');
    let digest = Sha256::digest(scratch.as_bytes());
    let mut id = Id::default();
    id.copy_from_slice(&digest[..16]);
    id
}
