//! What a block of rows holds.

use hashbrown::HashMap;

use crate::batches::Kept;
use crate::content::{self, BadField, Content, Turn, content_id};
use crate::error::FrameError;
use crate::layout::{Column, Layout};
use crate::own;
use crate::plan::{How, Mode, Plan, Plans, is_known};
use crate::values::{Store, Text, Value};

/// Rows of instruction data are seldom smaller; room that is not used costs nothing.
const BYTES_A_ROW: usize = 200;

/// The first 16 bytes of the SHA-256 of a row's content.
pub type Id = [u8; 16];

/// A row that is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadRow {
    /// Its 0-based place among the block's records.
    pub row: u64,
    /// Newlines of the block before it, in formats of lines.
    pub line: Option<u64>,
    /// The field that is wrong, or `None` where it is the row as a whole.
    pub field: Option<String>,
    /// What is wrong.
    pub reason: String,
    /// The row's text; bytes that are no text as `\xff`.
    pub raw: String,
    /// Whether it is sound, but no instruction data (a preference pair, a multimodal row).
    pub wrong_kind: bool,
}

/// The rows of one block.
pub struct Rows<'a> {
    pub(crate) store: Store<'a>,
    pub(crate) turns: Vec<Turn<'a>>,
    pub(crate) records: u64,
    pub(crate) lines: u64,
    pub(crate) bad: Vec<BadRow>,
    pub(crate) damage: Option<FrameError>,
    pub(crate) ids: Vec<Id>,
    pub(crate) places: Vec<u64>,
    pub(crate) contents: Vec<Content<'a>>,
    /// In a table of ours, the sources that it names.
    pub(crate) sources: Vec<(Text<'a>, u64)>,
    shapes: Vec<(&'static str, u64)>,
    own_holds: bool,
    pub(crate) layout: Layout,
    /// Per column of the layout, its values and the good rows they stand in; none where it came as an array.
    pub(crate) cells: Vec<Vec<(usize, Value<'a>)>>,
    /// Per column of the layout, what came as an array.
    pub(crate) arrays: Vec<Kept>,
    columns: HashMap<String, usize>,
    mode: Mode,
    scratch: String,
}

/// How one row was taken in.
pub(crate) struct Taken {
    /// Its members that became nothing else yet.
    pub(crate) unused: Vec<bool>,
}

impl Rows<'_> {
    /// Records in the block, bad ones counted.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Newlines in the block.
    #[must_use]
    pub fn lines(&self) -> u64 {
        self.lines
    }

    /// Rows that are left out, in order.
    #[must_use]
    pub fn bad(&self) -> &[BadRow] {
        &self.bad
    }

    /// Damage to an array or to text that ends the file; rows before it are read.
    #[must_use]
    pub fn damage(&self) -> Option<&FrameError> {
        self.damage.as_ref()
    }

    /// Ids of the good rows, in order (none under [`crate::Reader::table`]).
    #[must_use]
    pub fn ids(&self) -> &[Id] {
        &self.ids
    }

    /// Places of the good rows among the block's records.
    #[must_use]
    pub fn places(&self) -> &[u64] {
        &self.places
    }

    /// Good rows per shape, in order of first appearance; `pyllm` for rows of a table of ours.
    #[must_use]
    pub fn shapes(&self) -> &[(&'static str, u64)] {
        &self.shapes
    }

    /// Read with `own`: every sound row has the marks and an id that is the digest of its content.
    #[must_use]
    pub fn own_holds(&self) -> bool {
        self.own_holds
    }

    /// The block's own layout.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }
}

impl Rows<'_> {
    /// `bytes`: the size of the block, from which the number of rows is guessed.
    pub(crate) fn new(mode: Mode, bytes: usize) -> Self {
        let rows = bytes / BYTES_A_ROW;
        Self {
            store: Store::with_capacity(bytes / 4),
            turns: Vec::new(),
            records: 0,
            lines: 0,
            bad: Vec::new(),
            damage: None,
            ids: Vec::with_capacity(rows),
            places: Vec::with_capacity(rows),
            contents: Vec::with_capacity(rows),
            sources: Vec::new(),
            shapes: Vec::new(),
            own_holds: true,
            layout: Layout { table: mode == Mode::Table, ..Layout::default() },
            cells: Vec::new(),
            arrays: Vec::new(),
            columns: HashMap::new(),
            mode,
            scratch: String::new(),
        }
    }

    /// Takes in the row whose members begin at `start`, with its other values as cells.
    ///
    /// What a bad row left in the store is for the caller to take away.
    pub(crate) fn take(&mut self, plans: &mut Plans, start: usize) -> Result<(), BadField> {
        let plan = plans.of(&mut self.store, start);
        let row = self.places.len();
        let turns = self.turns.len();
        match self.content(plan, start) {
            Ok(Some(others)) => self.keep_others(plan, start, row, &others),
            Ok(None) => {}
            Err(problem) => {
                self.turns.truncate(turns);
                return Err(problem);
            }
        }
        // Cells have copies; what is nested stands before.
        self.store.members.truncate(start);
        Ok(())
    }

    /// Takes in the row whose members begin at `start`, and says which of them are not used up.
    pub(crate) fn take_content(&mut self, plans: &mut Plans, start: usize) -> Result<Option<Taken>, BadField> {
        let plan = plans.of(&mut self.store, start);
        let turns = self.turns.len();
        match self.content(plan, start) {
            Ok(None) => Ok(None),
            Ok(Some(others)) => {
                let unused = (0..plan.members()).map(|place| !others.is_used(plan, place)).collect();
                Ok(Some(Taken { unused }))
            }
            Err(problem) => {
                self.turns.truncate(turns);
                Err(problem)
            }
        }
    }

    /// Reads content by a plan and stores it; `None` where a row of ours is none.
    fn content(&mut self, plan: &Plan, start: usize) -> Result<Option<Others>, BadField> {
        let others = match &plan.how {
            How::Bad(problem) => {
                return Err(BadField {
                    field: problem.field.clone(),
                    reason: problem.reason.clone(),
                    wrong_kind: problem.wrong_kind,
                });
            }
            How::Table => Others { prompt: false, kept_lead: None },
            How::Own(fields) => {
                let found = own::read(&mut self.scratch, &mut self.store, start, fields, &mut self.turns);
                let Some(row) = found else {
                    self.own_holds = false;
                    return Ok(None);
                };
                self.layout.own_scores |= fields.scores;
                self.ids.push(row.id);
                self.contents.push(row.content);
                self.sources.push((row.file, row.row));
                self.count("pyllm");
                Others { prompt: false, kept_lead: None }
            }
            How::Fields(fields) => {
                let reading = content::read(&mut self.store, start, fields, &mut self.turns)?;
                let prompt = !std::ptr::eq(reading.used, fields.used.as_slice());
                let others = Others { prompt, kept_lead: reading.keeps_lead.then_some(reading.lead) };
                self.ids.push(content_id(&mut self.scratch, &self.store, &reading.content, &self.turns));
                self.contents.push(reading.content);
                self.count(reading.shape.as_str());
                others
            }
        };
        self.places.push(self.records);
        Ok(Some(others))
    }

    fn count(&mut self, shape: &'static str) {
        match self.shapes.iter_mut().find(|(name, _)| *name == shape) {
            Some((_, count)) => *count += 1,
            None => self.shapes.push((shape, 1)),
        }
    }

    fn keep_others(&mut self, plan: &mut Plan, start: usize, row: usize, others: &Others) {
        for place in 0..plan.members() {
            if others.is_used(plan, place) {
                continue;
            }
            let column = plan.column(place).unwrap_or_else(|| {
                let column = self.column(plan.name(place));
                plan.set_column(place, column);
                column
            });
            let value = self.store.members[start + place].value;
            if !matches!(value, Value::Null) {
                self.layout.columns[column].kept = true;
                self.layout.columns[column].kind.observe(&self.store, value);
                self.cells[column].push((row, value));
            }
        }
    }

    /// The column of a name, there from now on.
    pub(crate) fn column(&mut self, name: &str) -> usize {
        if let Some(&column) = self.columns.get(name) {
            return column;
        }
        let kept = !matches!(self.mode, Mode::Examples(_)) || !is_known(name);
        let column = self.layout.columns.len();
        self.layout.columns.push(Column { name: name.to_owned(), kind: crate::kinds::Kind::Empty, kept });
        self.cells.push(Vec::new());
        self.columns.insert(name.to_owned(), column);
        column
    }
}

/// What a row's content left over.
struct Others {
    /// It was read by the plan's second choice.
    prompt: bool,
    /// The list it was read from has more in it and is kept.
    kept_lead: Option<usize>,
}

impl Others {
    fn is_used(&self, plan: &Plan, place: usize) -> bool {
        match &plan.how {
            How::Fields(fields) => {
                let fields = match &fields.prompt {
                    Some(prompt) if self.prompt => prompt,
                    _ => fields,
                };
                fields.used[place] && self.kept_lead != Some(place)
            }
            How::Own(fields) => fields.used[place],
            How::Table | How::Bad(_) => false,
        }
    }
}
