//! Values of rows: small copies that point into the block or into the block's store.

use std::ops::Range;

/// Text of a row.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Text<'a> {
    /// As it stands in the input, and its own JSON spelling too.
    Sound(&'a str),
    /// As it stands in the input.
    Plain(&'a str),
    /// An entry of the store: text that was escaped, or that was put together.
    Stored(usize),
}

/// A value of a row.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Value<'a> {
    /// Nothing.
    Null,
    /// True or false.
    Bool(bool),
    /// An integer of 64 bits.
    Int(i64),
    /// The digits of a larger integer.
    Big(Text<'a>),
    /// Any other number; only Arrow has NaN.
    Float(f64),
    /// Text.
    Text(Text<'a>),
    /// A range of the store's items.
    List(usize, usize),
    /// A range of the store's members.
    Object(usize, usize),
    /// What JSON does not have, as text, with the name of its kind.
    Foreign(&'static &'static str, usize),
}

/// A key and what stands there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Member<'a> {
    pub(crate) key: Text<'a>,
    pub(crate) value: Value<'a>,
}

#[derive(Clone, Copy, Debug)]
struct Stored<'a> {
    /// Its canonical JSON without the marks, where the input has just that.
    canonical: Option<&'a str>,
    start: usize,
    end: usize,
}

/// What the values of a block point to.
#[derive(Debug, Default)]
pub(crate) struct Store<'a> {
    pub(crate) items: Vec<Value<'a>>,
    pub(crate) members: Vec<Member<'a>>,
    /// Containers that are still open keep their items here.
    pub(crate) open_items: Vec<Value<'a>>,
    /// And their members here.
    pub(crate) open_members: Vec<Member<'a>>,
    buffer: String,
    stored: Vec<Stored<'a>>,
}

/// How far a store was filled.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    items: usize,
    members: usize,
    buffer: usize,
    stored: usize,
}

impl<'a> Store<'a> {
    /// A store with room for that much text of its own.
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        Self { buffer: String::with_capacity(bytes), ..Self::default() }
    }

    pub(crate) fn mark(&self) -> Mark {
        Mark {
            items: self.items.len(),
            members: self.members.len(),
            buffer: self.buffer.len(),
            stored: self.stored.len(),
        }
    }

    /// Forgets what came after the mark.
    pub(crate) fn rewind(&mut self, mark: Mark) {
        self.items.truncate(mark.items);
        self.members.truncate(mark.members);
        self.buffer.truncate(mark.buffer);
        self.stored.truncate(mark.stored);
        self.open_items.clear();
        self.open_members.clear();
    }

    pub(crate) fn text(&self, text: Text<'a>) -> &str {
        match text {
            Text::Sound(text) | Text::Plain(text) => text,
            Text::Stored(entry) => &self.buffer[self.stored[entry].start..self.stored[entry].end],
        }
    }

    /// The canonical JSON of text without its marks, where it is at hand.
    pub(crate) fn canonical(&self, text: Text<'a>) -> Option<&'a str> {
        match text {
            Text::Sound(text) => Some(text),
            Text::Plain(_) => None,
            Text::Stored(entry) => self.stored[entry].canonical,
        }
    }

    pub(crate) fn items(&self, start: usize, len: usize) -> &[Value<'a>] {
        &self.items[start..start + len]
    }

    pub(crate) fn object(&self, start: usize, len: usize) -> &[Member<'a>] {
        &self.members[start..start + len]
    }

    /// What stands under a key; null where nothing does.
    pub(crate) fn get(&self, members: Range<usize>, key: &str) -> Value<'a> {
        self.members[members]
            .iter()
            .find(|member| self.text(member.key) == key)
            .map_or(Value::Null, |member| member.value)
    }

    /// Keeps text that is not in the input.
    pub(crate) fn keep(&mut self, text: &str) -> Text<'a> {
        let start = self.buffer.len();
        self.buffer.push_str(text);
        Text::Stored(self.entry(start, None))
    }

    /// Text that is being put together begins at the end of the buffer.
    pub(crate) fn buffer(&mut self) -> &mut String {
        &mut self.buffer
    }

    /// The entry of what was put into the buffer from `start` on.
    pub(crate) fn entry(&mut self, start: usize, canonical: Option<&'a str>) -> usize {
        self.stored.push(Stored { canonical, start, end: self.buffer.len() });
        self.stored.len() - 1
    }

    /// Closes a row: its members are all open ones, with equal keys not merged. Returns where they begin.
    pub(crate) fn close_row(&mut self) -> usize {
        let start = self.members.len();
        self.members.append(&mut self.open_members);
        start
    }

    /// Closes a list: its items are the open ones from `base` on.
    pub(crate) fn close_list(&mut self, base: usize) -> Value<'a> {
        let start = self.items.len();
        self.items.extend(self.open_items.drain(base..));
        Value::List(start, self.items.len() - start)
    }

    /// Closes an object: its members are the open ones from `base` on. Of equal keys the last value counts.
    pub(crate) fn close_object(&mut self, base: usize) -> Value<'a> {
        let start = self.members.len();
        self.members.extend(self.open_members.drain(base..));
        self.merge_equal_keys(start);
        Value::Object(start, self.members.len() - start)
    }

    /// Of the members from `start` on, those with equal keys become one: the first's place, the last's value.
    pub(crate) fn merge_equal_keys(&mut self, start: usize) {
        const FEW: usize = 12;
        let members = &self.members[start..];
        if members.len() > FEW {
            let mut seen = hashbrown::HashMap::with_capacity(members.len());
            let mut kept: Vec<Member<'a>> = Vec::with_capacity(members.len());
            for &member in members {
                let place = *seen.entry(self.text(member.key)).or_insert(kept.len());
                match kept.get_mut(place) {
                    Some(earlier) => earlier.value = member.value,
                    None => kept.push(member),
                }
            }
            drop(seen);
            self.members.truncate(start);
            self.members.extend(kept);
            return;
        }
        let mut place = 1;
        while start + place < self.members.len() {
            let later = self.members[start + place];
            let key = self.text(later.key);
            match self.members[start..start + place].iter().position(|member| self.text(member.key) == key) {
                Some(earlier) => {
                    self.members[start + earlier].value = later.value;
                    self.members.remove(start + place);
                }
                None => place += 1,
            }
        }
    }
}

/// What kind of JSON value this is, with its article, for messages.
pub(crate) fn described(value: Value<'_>) -> String {
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Int(_) | Value::Big(_) | Value::Float(_) => "a number",
        Value::Text(_) => "text",
        Value::List(..) => "a list",
        Value::Object(..) => "an object",
        Value::Foreign(kind, _) => return format!("a value of type {kind}"),
    };
    kind.to_owned()
}
