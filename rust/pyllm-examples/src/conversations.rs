//! Conversations as they are found: messages, typed parts and `ShareGPT` turns, all to (role, content, trained).

use crate::canonical::json_text;
use crate::content::{BadField, Turn, text_of};
use crate::json::Parser;
use crate::values::{Store, Text, Value, described};

const ROLES: [(&str, &str); 12] = [
    ("system", "system"),
    ("developer", "system"),
    ("user", "user"),
    ("human", "user"),
    ("assistant", "assistant"),
    ("gpt", "assistant"),
    ("model", "assistant"),
    ("function_call", "assistant"),
    ("tool", "tool"),
    ("function", "tool"),
    ("observation", "tool"),
    ("ipython", "tool"),
];
const MEDIA_PARTS: [&str; 6] = ["image", "audio", "video", "input_image", "input_audio", "input_video"];

/// A field, for messages: a key and what is behind it.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) key: Text<'a>,
    pub(crate) behind: &'static str,
}

impl Place<'_> {
    fn named(&self, store: &Store<'_>, rest: &str) -> String {
        format!("{}{}{rest}", store.text(self.key), self.behind)
    }
}

/// Appends the turns of a list of messages.
///
/// Roles of the common dialects become `system`, `user`, `assistant` and `tool`. A turn is trained where its
/// `loss_weight` is above zero, else where the assistant speaks. Textual parts are joined by newlines.
pub(crate) fn conversation<'a>(
    store: &mut Store<'a>,
    value: Value<'a>,
    field: Place<'a>,
    turns: &mut Vec<Turn<'a>>,
) -> Result<(), BadField> {
    let (start, len) = listed(store, value, field)?;
    for place in 0..len {
        let item = store.items[start + place];
        let Value::Object(start, len) = item else {
            return Err(BadField::new(Some(field.named(store, &format!("[{place}]"))), kind_of(item, "an object")));
        };
        let message = Message { start, len, field, place };
        let role = message.role(store)?;
        let content = message.content(store)?;
        let trained = message.trained(store, role)?;
        turns.push(Turn { role: Text::Sound(role), content, trained });
    }
    Ok(())
}

/// Appends a list of texts as what one side says, turn by turn.
pub(crate) fn said_by<'a>(
    role: &'static str,
    store: &mut Store<'a>,
    value: Value<'a>,
    field: Place<'a>,
    turns: &mut Vec<Turn<'a>>,
) -> Result<(), BadField> {
    let (start, len) = listed(store, value, field)?;
    for (place, &item) in store.items(start, len).iter().enumerate() {
        let Value::Text(content) = item else {
            return Err(BadField::new(Some(field.named(store, &format!("[{place}]"))), kind_of(item, "text")));
        };
        turns.push(Turn { role: Text::Sound(role), content, trained: role == "assistant" });
    }
    Ok(())
}

fn kind_of(value: Value<'_>, wanted: &str) -> String {
    format!("is {}, not {wanted}", described(value))
}

fn listed<'a>(store: &mut Store<'a>, value: Value<'a>, field: Place<'a>) -> Result<(usize, usize), BadField> {
    let mut value = value;
    if let Value::Text(text) = value {
        // CSV has no lists, so they stand there as JSON.
        let text = store.text(text).to_owned();
        let mut parser = Parser::inner(&text);
        value = parser
            .whole(store)
            .map_err(|_| BadField::new(Some(field.named(store, "")), "is text, not a list".to_owned()))?;
        if parser.half_pair() {
            return Err(BadField::new(None, "the text holds half of a surrogate pair".to_owned()));
        }
    }
    match value {
        Value::List(_, 0) => Err(BadField::new(Some(field.named(store, "")), "is an empty list".to_owned())),
        Value::List(start, len) => Ok((start, len)),
        other => Err(BadField::new(Some(field.named(store, "")), kind_of(other, "a list"))),
    }
}

/// One message: an object, and where it stands.
#[derive(Clone, Copy)]
struct Message<'a> {
    start: usize,
    len: usize,
    field: Place<'a>,
    place: usize,
}

impl<'a> Message<'a> {
    fn get(self, store: &Store<'a>, key: &str) -> Value<'a> {
        store.get(self.start..self.start + self.len, key)
    }

    /// The first of two keys, or the second where nothing stands under the first.
    fn either(self, store: &Store<'a>, first: &'static str, second: &'static str) -> (&'static str, Value<'a>) {
        match self.get(store, first) {
            Value::Null => (second, self.get(store, second)),
            found => (first, found),
        }
    }

    fn wrong(self, store: &Store<'a>, rest: &str, reason: String) -> BadField {
        BadField::new(Some(self.field.named(store, &format!("[{}]{rest}", self.place))), reason)
    }

    fn role(self, store: &Store<'a>) -> Result<&'static str, BadField> {
        let (key, said) = self.either(store, "role", "from");
        let said = match said {
            Value::Null => return Err(self.wrong(store, "", "has no `role` (or `from`)".to_owned())),
            Value::Text(text) => store.text(text),
            other => return Err(self.wrong(store, &format!(".{key}"), kind_of(other, "text"))),
        };
        let known = |name: &str| ROLES.iter().find(|(dialect, _)| *dialect == name).map(|(_, role)| *role);
        known(said)
            .or_else(|| known(&said.to_lowercase()))
            .ok_or_else(|| self.wrong(store, &format!(".{key}"), format!("is `{said}`, which is no known role")))
    }

    fn trained(self, store: &Store<'a>, role: &str) -> Result<bool, BadField> {
        if let Value::Bool(trained) = self.get(store, "trained") {
            return Ok(trained);
        }
        match self.get(store, "loss_weight") {
            Value::Null => Ok(role == "assistant"),
            Value::Bool(weight) => Ok(weight),
            Value::Int(weight) => Ok(weight > 0),
            Value::Float(weight) => Ok(weight > 0.0),
            Value::Big(digits) => Ok(!store.text(digits).starts_with('-')),
            other => Err(self.wrong(store, ".loss_weight", kind_of(other, "a number"))),
        }
    }

    fn content(self, store: &mut Store<'a>) -> Result<Text<'a>, BadField> {
        let (key, said) = self.either(store, "content", "value");
        let calls = self.get(store, "tool_calls");
        let mut texts = match said {
            Value::Text(text) if !matches!(calls, Value::List(..)) => return Ok(text),
            Value::Text(text) => vec![text],
            Value::Null => Vec::new(),
            Value::List(start, len) => {
                let mut texts = Vec::with_capacity(len);
                for place in 0..len {
                    texts.push(self.part(store, store.items[start + place], key, place)?);
                }
                texts
            }
            other => return Err(self.wrong(store, &format!(".{key}"), kind_of(other, "text"))),
        };
        if let Value::List(start, len) = calls {
            texts.retain(|&text| !store.text(text).is_empty());
            for place in 0..len {
                let call = json_text(store, store.items[start + place]);
                texts.push(store.keep(&call));
            }
        } else if matches!(said, Value::Null) {
            return Err(self.wrong(store, "", "has no `content` (or `value`)".to_owned()));
        }
        if let [text] = texts[..] {
            return Ok(text);
        }
        let joined = texts.iter().map(|&text| store.text(text)).collect::<Vec<_>>().join("\n");
        Ok(store.keep(&joined))
    }

    fn part(self, store: &mut Store<'a>, part: Value<'a>, key: &str, place: usize) -> Result<Text<'a>, BadField> {
        let (start, len) = match part {
            Value::Text(text) => return Ok(text),
            Value::Object(start, len) => (start, len),
            other => {
                return Err(self.wrong(store, &format!(".{key}[{place}]"), kind_of(other, "text or an object")));
            }
        };
        let get = |store: &Store<'a>, key: &str| store.get(start..start + len, key);
        let kind = match get(store, "type") {
            Value::Text(text) => store.text(text).to_owned(),
            other => return Err(self.wrong(store, &format!(".{key}[{place}].type"), kind_of(other, "text"))),
        };
        if MEDIA_PARTS.iter().any(|medium| kind.starts_with(medium)) {
            let reason = format!("is of type `{kind}`: a multimodal row, which is not text");
            return Err(self.wrong(store, &format!(".{key}[{place}]"), reason).of_wrong_kind());
        }
        let inner = ["value", "text", &kind, "content"].into_iter().find(|key| !matches!(get(store, key), Value::Null));
        let Some(inner) = inner else {
            let reason = format!("is of type `{kind}` and has no text");
            return Err(self.wrong(store, &format!(".{key}[{place}]"), reason));
        };
        let found = get(store, inner);
        text_of(store, found, kind != "text")
            .map_err(|reason| self.wrong(store, &format!(".{key}[{place}].{inner}"), reason))
    }
}
