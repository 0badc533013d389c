//! Knowing our own tables again: their ids are the digests of their content, so they keep ids and sources.

use crate::content::{Content, Turn, content_id};
use crate::json::Parser;
use crate::plan::OwnFields;
use crate::rows::Id;
use crate::values::{Store, Text, Value};

/// What a row of ours holds besides its other columns.
pub(crate) struct OwnRow<'a> {
    pub(crate) id: Id,
    pub(crate) file: Text<'a>,
    pub(crate) row: u64,
    pub(crate) content: Content<'a>,
}

/// The row whose members begin at `start`; `None` if it is not ours or was changed by hand.
pub(crate) fn read<'a>(
    scratch: &mut String,
    store: &mut Store<'a>,
    start: usize,
    fields: &OwnFields,
    turns: &mut Vec<Turn<'a>>,
) -> Option<OwnRow<'a>> {
    let value = |store: &Store<'a>, column: usize| {
        fields.places[column].map_or(Value::Null, |place| store.members[start + place].value)
    };
    let [id, file, row, instruction, input, output, messages, tools] =
        std::array::from_fn(|column| value(store, column));
    let text = |value: Value<'a>| match value {
        Value::Null => Some(None),
        Value::Text(text) => Some(Some(text)),
        _ => None,
    };
    let row = match row {
        Value::Int(row) => u64::try_from(row).ok()?,
        Value::Big(digits) | Value::Text(digits) => store.text(digits).parse().ok()?,
        _ => return None,
    };
    let content = Content {
        instruction: text(instruction)?,
        input: text(input)?,
        output: text(output)?,
        tools: text(tools)?,
        turns: match own_turns(store, messages, turns)? {
            Turns::None => None,
            Turns::Range(start, len) => Some((start, len)),
        },
    };
    if content.instruction.is_none() && content.turns.is_none() {
        return None;
    }
    let digest = content_id(scratch, store, &content, turns);
    let stated = text(id)??;
    (store.text(stated).as_bytes() == hex(&digest)).then_some(())?;
    Some(OwnRow { id: digest, file: text(file)??, row, content })
}

/// The turns of a row of ours.
enum Turns {
    /// It is an instruction.
    None,
    /// Where they stand, and how many there are.
    Range(usize, usize),
}

/// The turns as they are stored, put behind the others; `None` if they are not.
fn own_turns<'a>(store: &mut Store<'a>, messages: Value<'a>, turns: &mut Vec<Turn<'a>>) -> Option<Turns> {
    let messages = match messages {
        Value::Text(text) => {
            // CSV has no lists, so they stand there as JSON.
            let text = store.text(text).to_owned();
            let mut parser = Parser::inner(&text);
            let value = parser.whole(store).ok()?;
            (!parser.half_pair()).then_some(value)?
        }
        other => other,
    };
    let (start, len) = match messages {
        Value::Null => return Some(Turns::None),
        Value::List(start, len) => (start, len),
        _ => return None,
    };
    let before = turns.len();
    for &message in store.items(start, len) {
        let Value::Object(start, 3) = message else { return None };
        let get = |key| store.get(start..start + 3, key);
        let (Value::Text(role), Value::Text(content), Value::Bool(trained)) =
            (get("role"), get("content"), get("trained"))
        else {
            return None;
        };
        turns.push(Turn { role, content, trained });
    }
    Some(Turns::Range(before, len))
}

/// An id as text.
pub(crate) fn hex(id: &Id) -> [u8; 32] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [0; 32];
    for (pair, byte) in text.chunks_exact_mut(2).zip(id) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
    text
}
