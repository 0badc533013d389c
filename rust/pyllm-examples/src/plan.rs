//! How rows with one set of keys are read: worked out once, used for every such row.
//!
//! A row is recognised by its own keys (whatever their case; a null counts as absent), so one file may hold several
//! shapes.

use hashbrown::HashMap;

use crate::content::{BadField, Medium};
use crate::layout::{CANONICAL, SCORES};
use crate::shape::Shape;
use crate::values::{Store, Value};

const ANSWERS: [&str; 4] = ["output", "response", "completion", "answer"];
/// In this order: a conversation says more than the prompt that often stands beside it, and `text` names anything.
const RECOGNISED: [Shape; 9] = [
    Shape::Messages,
    Shape::Sharegpt,
    Shape::Nested,
    Shape::Alpaca,
    Shape::Prompt,
    Shape::Qa,
    Shape::Turns,
    Shape::Choices,
    Shape::Text,
];
const PREFERENCES: [(&str, &str); 2] = [("chosen", "rejected"), ("chosen_messages", "rejected_messages")];
const MEDIA: [(&str, &str); 3] = [("image", "images"), ("video", "videos"), ("audio", "audios")];
const MOST_PLANS: usize = 4096;
const NOT_YET: usize = usize::MAX;
/// As many columns as a message names.
const MOST_NAMED: usize = 12;

/// What rows are read as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Instruction rows of a shape.
    Examples(Shape),
    /// Rows of a table of ours.
    Own,
    /// Rows of any table.
    Table,
}

/// Whether a key decides how a row is read; all others are only passed on.
pub(crate) fn is_known(name: &str) -> bool {
    let name = name.to_lowercase();
    let name = name.as_str();
    ["input", "tools"].contains(&name)
        || ANSWERS.contains(&name)
        || RECOGNISED.into_iter().any(|shape| lead_of(shape) == name)
        || PREFERENCES.iter().any(|&(chosen, rejected)| name == chosen || name == rejected)
        || MEDIA.iter().any(|&(one, many)| name == one || name == many)
}

/// The key that a shape cannot do without.
fn lead_of(shape: Shape) -> &'static str {
    match shape {
        Shape::Alpaca => "instruction",
        Shape::Nested => "instances",
        Shape::Qa => "question",
        Shape::Prompt => "prompt",
        Shape::Auto | Shape::Text => "text",
        Shape::Messages => "messages",
        Shape::Sharegpt => "conversations",
        Shape::Turns => "turns",
        Shape::Choices => "choices",
    }
}

/// Where a row's fields stand among its members.
#[derive(Debug)]
pub(crate) struct Fields {
    pub(crate) shape: Shape,
    pub(crate) lead: usize,
    pub(crate) instruction: Option<usize>,
    pub(crate) input: Option<usize>,
    pub(crate) output: Option<usize>,
    pub(crate) tools: Option<usize>,
    pub(crate) media: Vec<Medium>,
    /// Per member, whether the content uses it up.
    pub(crate) used: Vec<bool>,
    /// How to read the row where its conversation is a single text.
    pub(crate) prompt: Option<Box<Self>>,
}

/// Where the canonical columns stand among the members of a row of ours.
#[derive(Debug)]
pub(crate) struct OwnFields {
    pub(crate) places: [Option<usize>; CANONICAL.len()],
    pub(crate) used: Vec<bool>,
    /// The score columns among them, one bit each.
    pub(crate) scores: u8,
}

#[derive(Debug)]
pub(crate) enum How {
    Fields(Fields),
    Own(OwnFields),
    Table,
    Bad(BadField),
}

/// How rows with one set of keys are read.
#[derive(Debug)]
pub(crate) struct Plan {
    keys: Vec<(String, bool)>,
    pub(crate) how: How,
    /// Per member, its column, once one good row was seen.
    columns: Vec<usize>,
}

impl Plan {
    fn fits(&self, store: &Store<'_>, start: usize) -> bool {
        let members = &store.members[start..];
        members.len() == self.keys.len()
            && members.iter().zip(&self.keys).all(|(member, (key, null))| {
                matches!(member.value, Value::Null) == *null && store.text(member.key) == key.as_str()
            })
    }

    /// Members of its rows.
    pub(crate) fn members(&self) -> usize {
        self.keys.len()
    }

    pub(crate) fn name(&self, place: usize) -> &str {
        &self.keys[place].0
    }

    pub(crate) fn column(&self, place: usize) -> Option<usize> {
        self.columns.get(place).copied().filter(|&column| column != NOT_YET)
    }

    pub(crate) fn set_column(&mut self, place: usize, column: usize) {
        self.columns[place] = column;
    }
}

/// All plans of a block.
pub(crate) struct Plans {
    mode: Mode,
    beside: Vec<String>,
    all: Vec<Plan>,
    known: HashMap<Vec<(String, bool)>, usize>,
    last: usize,
}

impl Plans {
    /// `beside`: columns that the rows have and do not show, for messages.
    pub(crate) fn new(mode: Mode, beside: Vec<String>) -> Self {
        Self { mode, beside, all: Vec::new(), known: HashMap::new(), last: 0 }
    }

    /// The plan of the row whose members begin at `start`. Its equal keys are merged.
    pub(crate) fn of(&mut self, store: &mut Store<'_>, start: usize) -> &mut Plan {
        const RECENT: usize = 6;
        if !self.all.get(self.last).is_some_and(|plan| plan.fits(store, start)) {
            let near = self.all.iter().take(RECENT).position(|plan| plan.fits(store, start));
            self.last = near.unwrap_or_else(|| self.found(store, start));
        }
        &mut self.all[self.last]
    }

    fn found(&mut self, store: &mut Store<'_>, start: usize) -> usize {
        store.merge_equal_keys(start);
        let keys: Vec<_> = store.members[start..]
            .iter()
            .map(|member| (store.text(member.key).to_owned(), matches!(member.value, Value::Null)))
            .collect();
        if let Some(&known) = self.known.get(&keys) {
            return known;
        }
        if self.all.len() >= MOST_PLANS {
            self.all.clear();
            self.known.clear();
        }
        let how = match self.mode {
            Mode::Table => How::Table,
            Mode::Own => How::Own(own_fields(&keys)),
            Mode::Examples(shape) => match fields(&keys, shape, &self.beside) {
                Ok(fields) => How::Fields(fields),
                Err(problem) => How::Bad(problem),
            },
        };
        self.known.insert(keys.clone(), self.all.len());
        self.all.push(Plan { columns: vec![NOT_YET; keys.len()], keys, how });
        self.all.len() - 1
    }
}

fn own_fields(keys: &[(String, bool)]) -> OwnFields {
    let place = |wanted: &str| keys.iter().position(|(key, null)| key == wanted && !null);
    let is_ours = |key: &str| CANONICAL.contains(&key) || SCORES.contains(&key);
    let scores = SCORES.iter().enumerate().filter(|(_, score)| keys.iter().any(|(key, _)| key == *score));
    OwnFields {
        places: CANONICAL.map(place),
        used: keys.iter().map(|(key, _)| is_ours(key)).collect(),
        scores: scores.fold(0, |scores, (bit, _)| scores | 1 << bit),
    }
}

/// Keys in lower case with their places; of several that differ in case, the lower-case one counts, else the first.
struct Present<'k> {
    keys: Vec<(String, usize)>,
    all: &'k [(String, bool)],
}

impl<'k> Present<'k> {
    fn new(all: &'k [(String, bool)]) -> Self {
        let mut keys: Vec<(String, usize)> = Vec::new();
        for (place, (key, null)) in all.iter().enumerate() {
            if *null {
                continue;
            }
            let lower = key.to_lowercase();
            match keys.iter_mut().find(|(other, _)| *other == lower) {
                Some(other) if lower == *key => other.1 = place,
                Some(_) => {}
                None => keys.push((lower, place)),
            }
        }
        Self { keys, all }
    }

    fn get(&self, name: &str) -> Option<usize> {
        self.keys.iter().find(|(key, _)| key == name).map(|&(_, place)| place)
    }

    fn name(&self, place: usize) -> &'k str {
        &self.all[place].0
    }
}

fn fields(keys: &[(String, bool)], shape: Shape, beside: &[String]) -> Result<Fields, BadField> {
    let present = Present::new(keys);
    for (chosen, rejected) in PREFERENCES {
        if let (Some(chosen), Some(rejected)) = (present.get(chosen), present.get(rejected)) {
            let reason = format!(
                "is one side of a preference pair (with `{}`), which is not instruction data",
                present.name(rejected)
            );
            return Err(BadField::new(Some(present.name(chosen).to_owned()), reason).of_wrong_kind());
        }
    }
    let found = match shape {
        Shape::Auto => RECOGNISED.into_iter().find_map(|shape| fields_of(&present, shape)),
        shape => fields_of(&present, shape),
    };
    found.ok_or_else(|| {
        let names = keys.iter().filter(|(_, null)| !null).map(|(key, _)| key).chain(beside);
        let found = format!("(found {})", quoted(&names.collect::<Vec<_>>()));
        match shape {
            Shape::Auto => BadField::new(None, format!("fits no known shape {found}")),
            shape => BadField::new(
                Some(lead_of(shape).to_owned()),
                format!("is missing, which the shape `{shape}` needs {found}"),
            ),
        }
    })
}

/// The fields of a shape, where the keys fit it.
fn fields_of(present: &Present<'_>, shape: Shape) -> Option<Fields> {
    let mut lead = present.get(lead_of(shape));
    if shape == Shape::Prompt {
        lead = lead.or_else(|| present.get("conversations"));
    }
    let lead = lead?;
    let tools = present.get("tools");
    let (mut instruction, mut input, mut output, mut prompt) = (None, None, None, None);
    match shape {
        Shape::Nested => instruction = Some(present.get("instruction")?),
        Shape::Sharegpt => prompt = fields_of(present, Shape::Prompt).map(Box::new),
        Shape::Alpaca | Shape::Prompt | Shape::Qa | Shape::Text => {
            input = present.get("input");
            let first = (shape == Shape::Qa).then_some("answer");
            output = first.into_iter().chain(ANSWERS).find_map(|answer| present.get(answer));
        }
        Shape::Auto | Shape::Messages | Shape::Turns | Shape::Choices => {}
    }
    let media = MEDIA
        .into_iter()
        .map(|(name, plural)| Medium { name, plural: present.get(plural), single: present.get(name) })
        .filter(|medium| medium.plural.is_some() || medium.single.is_some())
        .collect();
    let mut used = vec![false; present.all.len()];
    for place in [Some(lead), instruction, input, output, tools].into_iter().flatten() {
        used[place] = true;
    }
    Some(Fields { shape, lead, instruction, input, output, tools, media, used, prompt })
}

/// Column names as a message shows them: in backticks, the first few.
fn quoted(names: &[&String]) -> String {
    if names.is_empty() {
        return "nothing".to_owned();
    }
    let shown: Vec<_> = names.iter().take(MOST_NAMED).map(|name| format!("`{name}`")).collect();
    let more = names.len().saturating_sub(MOST_NAMED);
    if more > 0 { format!("{} and {more} more", shown.join(", ")) } else { shown.join(", ") }
}
