//! Record batches as rows, and rows as record batches.

use std::sync::Arc;

use arrow_array::builder::{BooleanBuilder, StringBuilder};
use arrow_array::cast::AsArray;
use arrow_array::types::{
    ArrowPrimitiveType, Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type,
    UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{
    Array, ArrayRef, BooleanArray, ListArray, MapArray, RecordBatch, RecordBatchOptions, StringArray, StructArray,
    UInt64Array,
};
use arrow_buffer::{NullBuffer, OffsetBuffer};
use arrow_cast::display::{ArrayFormatter, FormatOptions};
use arrow_schema::{DataType, Field, Schema};
use arrow_select::take::take;

use crate::arrays::{Misfit, json_texts, texts, typed};
use crate::canonical::json_text;
use crate::error::RowsError;
use crate::kinds::Kind;
use crate::layout::{CANONICAL, Layout, SCORES, message_fields};
use crate::own::hex;
use crate::plan::{Mode, Plans, is_known};
use crate::rows::{BadRow, Rows};
use crate::values::{Member, Store, Text, Value};

/// A column that came as an array.
pub(crate) struct Kept {
    array: ArrayRef,
    /// Per good row, whether its value is kept; all are where there is nothing.
    unused: Option<Vec<bool>>,
}

/// The same batch with text as `Utf8`, lists as `List` and dictionaries unfolded: what [`crate::Reader::batch`] reads.
///
/// # Errors
///
/// A column of the batch holds more than 32-bit offsets reach, or two columns have one name.
pub fn plain(batch: &RecordBatch) -> Result<RecordBatch, RowsError> {
    let mut fields = Vec::with_capacity(batch.num_columns());
    let mut columns = Vec::with_capacity(batch.num_columns());
    for (place, (field, column)) in batch.schema_ref().fields().iter().zip(batch.columns()).enumerate() {
        if batch.schema_ref().fields()[..place].iter().any(|other| other.name() == field.name()) {
            return Err(RowsError::Twice { column: field.name().clone() });
        }
        let column = plain_array(column)?;
        fields.push(Field::new(field.name(), column.data_type().clone(), true));
        columns.push(column);
    }
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(Schema::new(fields).into(), columns, &options)?)
}

fn plain_array(array: &ArrayRef) -> Result<ArrayRef, RowsError> {
    if let DataType::Map(entries, _) = array.data_type() {
        let map: &MapArray = array.as_map();
        let list = ListArray::try_new(
            Arc::clone(entries),
            map.offsets().clone(),
            Arc::new(map.entries().clone()),
            map.nulls().cloned(),
        )?;
        return plain_array(&(Arc::new(list) as ArrayRef));
    }
    let wanted = plain_type(array.data_type());
    if wanted == *array.data_type() {
        return Ok(Arc::clone(array));
    }
    Ok(arrow_cast::cast(array, &wanted)?)
}

fn plain_type(found: &DataType) -> DataType {
    let item = |item: &Arc<Field>| Field::new_list_field(plain_type(item.data_type()), true).into();
    match found {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => DataType::Binary,
        DataType::Dictionary(_, values) => plain_type(values),
        DataType::RunEndEncoded(_, values) => plain_type(values.data_type()),
        DataType::List(field)
        | DataType::LargeList(field)
        | DataType::ListView(field)
        | DataType::LargeListView(field) => DataType::List(item(field)),
        DataType::FixedSizeList(field, size) => DataType::FixedSizeList(item(field), *size),
        DataType::Struct(fields) => DataType::Struct(
            fields.iter().map(|field| Field::new(field.name(), plain_type(field.data_type()), true)).collect(),
        ),
        other => other.clone(),
    }
}

/// Reads a batch that is [`plain`].
pub(crate) fn read(mode: Mode, batch: &RecordBatch) -> Rows<'_> {
    let mut rows = Rows::new(mode, 0);
    let names: Vec<&str> = batch.schema_ref().fields().iter().map(|field| field.name().as_str()).collect();
    let is_read = |name: &str| match mode {
        Mode::Examples(_) => is_known(name),
        Mode::Own => CANONICAL.contains(&name),
        Mode::Table => false,
    };
    let (read, passed): (Vec<usize>, Vec<usize>) = (0..names.len()).partition(|&place| is_read(names[place]));
    let mut plans = Plans::new(mode, passed.iter().map(|&place| names[place].to_owned()).collect());
    // Per column that is read, the good rows in which it is not used up.
    let mut unused: Vec<Vec<bool>> = vec![Vec::new(); read.len()];
    for row in 0..batch.num_rows() {
        let mark = rows.store.mark();
        for &place in &read {
            let value = value_at(&mut rows.store, batch.column(place), row);
            rows.store.open_members.push(Member { key: Text::Plain(names[place]), value });
        }
        let start = rows.store.close_row();
        match rows.take_content(&mut plans, start) {
            Ok(taken) => {
                for (column, unused) in unused.iter_mut().zip(taken.into_iter().flat_map(|taken| taken.unused)) {
                    column.push(unused);
                }
            }
            Err(problem) => {
                rows.store.rewind(mark);
                let raw = json_row(batch, &names, row);
                let (field, reason, wrong_kind) = (problem.field, problem.reason, problem.wrong_kind);
                rows.bad.push(BadRow { row: row as u64, line: None, field, reason, raw, wrong_kind });
            }
        }
        rows.records += 1;
    }
    for (place, name) in names.iter().enumerate() {
        if mode == Mode::Own && (CANONICAL.contains(name) || SCORES.contains(name)) {
            let bit = SCORES.iter().position(|score| score == name);
            rows.layout.own_scores |= bit.map_or(0, |bit| 1 << bit);
            continue;
        }
        let column = rows.column(name);
        let unused = read.iter().position(|&other| other == place).map(|place| std::mem::take(&mut unused[place]));
        let array = batch.column(place);
        // An array of nulls alone has no list of them.
        let has_values = *array.data_type() != DataType::Null
            && rows.places.iter().enumerate().any(|(row, &place)| {
                array.is_valid(place as usize) && unused.as_ref().is_none_or(|unused| unused[row])
            });
        let entry = &mut rows.layout.columns[column];
        entry.kept |= has_values;
        entry.kind = match array.data_type() {
            DataType::Utf8 => Kind::Text,
            DataType::Boolean => Kind::Bool,
            DataType::Null => Kind::Empty,
            // Of a known column without values its type says nothing.
            _ if !entry.kept => Kind::Empty,
            found => Kind::Arrow(found.clone()),
        };
        rows.arrays.push(Kept { array: Arc::clone(array), unused });
    }
    rows
}

/// A row of a batch as canonical JSON.
fn json_row(batch: &RecordBatch, names: &[&str], row: usize) -> String {
    let mut store = Store::default();
    for (name, column) in names.iter().zip(batch.columns()) {
        let value = value_at(&mut store, column, row);
        store.open_members.push(Member { key: Text::Plain(name), value });
    }
    let whole = store.close_object(0);
    json_text(&store, whole)
}

/// A value of an array.
fn value_at<'a>(store: &mut Store<'a>, array: &'a ArrayRef, row: usize) -> Value<'a> {
    fn number<T: ArrowPrimitiveType>(array: &ArrayRef, row: usize) -> T::Native {
        array.as_primitive::<T>().value(row)
    }
    if array.is_null(row) {
        return Value::Null;
    }
    match array.data_type() {
        DataType::Null => Value::Null,
        DataType::Boolean => Value::Bool(array.as_boolean().value(row)),
        DataType::Utf8 => Value::Text(Text::Plain(array.as_string::<i32>().value(row))),
        DataType::Int8 => Value::Int(number::<Int8Type>(array, row).into()),
        DataType::Int16 => Value::Int(number::<Int16Type>(array, row).into()),
        DataType::Int32 => Value::Int(number::<Int32Type>(array, row).into()),
        DataType::Int64 => Value::Int(number::<Int64Type>(array, row)),
        DataType::UInt8 => Value::Int(number::<UInt8Type>(array, row).into()),
        DataType::UInt16 => Value::Int(number::<UInt16Type>(array, row).into()),
        DataType::UInt32 => Value::Int(number::<UInt32Type>(array, row).into()),
        DataType::UInt64 => {
            let number = number::<UInt64Type>(array, row);
            i64::try_from(number).map_or_else(|_| Value::Big(store.keep(&number.to_string())), Value::Int)
        }
        DataType::Float16 => Value::Float(number::<Float16Type>(array, row).to_f64()),
        DataType::Float32 => Value::Float(number::<Float32Type>(array, row).into()),
        DataType::Float64 => Value::Float(number::<Float64Type>(array, row)),
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            let place = |row: usize| usize::try_from(list.value_offsets()[row]).unwrap_or_default();
            items_at(store, list.values(), place(row), place(row + 1))
        }
        DataType::FixedSizeList(_, size) => {
            let list = array.as_fixed_size_list();
            let size = usize::try_from(*size).unwrap_or_default();
            items_at(store, list.values(), row * size, (row + 1) * size)
        }
        DataType::Struct(_) => {
            let object = array.as_struct();
            let base = store.open_members.len();
            for (field, column) in object.fields().iter().zip(object.columns()) {
                let value = value_at(store, column, row);
                store.open_members.push(Member { key: Text::Plain(field.name()), value });
            }
            store.close_object(base)
        }
        found => foreign(store, array, row, found),
    }
}

fn items_at<'a>(store: &mut Store<'a>, values: &'a ArrayRef, start: usize, end: usize) -> Value<'a> {
    let base = store.open_items.len();
    for place in start..end {
        let value = value_at(store, values, place);
        store.open_items.push(value);
    }
    store.close_list(base)
}

/// A value that JSON does not have, as text.
fn foreign<'a>(store: &mut Store<'a>, array: &ArrayRef, row: usize, found: &DataType) -> Value<'a> {
    let kind: &'static &'static str = match found {
        DataType::Date32 | DataType::Date64 => &"date",
        DataType::Timestamp(..) => &"datetime",
        DataType::Time32(_) | DataType::Time64(_) => &"time",
        DataType::Duration(_) => &"timedelta",
        DataType::Decimal32(..) | DataType::Decimal64(..) | DataType::Decimal128(..) | DataType::Decimal256(..) => {
            &"Decimal"
        }
        DataType::Binary | DataType::FixedSizeBinary(_) => &"bytes",
        _ => &"object",
    };
    let start = store.buffer().len();
    match found {
        DataType::Binary => base64(store.buffer(), array.as_binary::<i32>().value(row)),
        DataType::FixedSizeBinary(_) => base64(store.buffer(), array.as_fixed_size_binary().value(row)),
        _ => {
            let options = FormatOptions::new()
                .with_timestamp_format(Some("%Y-%m-%d %H:%M:%S%.f"))
                .with_timestamp_tz_format(Some("%Y-%m-%d %H:%M:%S%.f%:z"));
            if let Ok(formatter) = ArrayFormatter::try_new(array, &options) {
                store.buffer().push_str(&formatter.value(row).to_string());
            }
        }
    }
    Value::Foreign(kind, store.entry(start, None))
}

fn base64(out: &mut String, bytes: &[u8]) {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for chunk in bytes.chunks(3) {
        let joined =
            chunk.iter().enumerate().fold(0, |joined, (place, &byte)| joined | u32::from(byte) << (16 - 8 * place));
        for place in 0..4 {
            let letter = LETTERS[(joined >> (18 - 6 * place) & 63) as usize];
            out.push(if place > chunk.len() { '=' } else { char::from(letter) });
        }
    }
}

impl Rows<'_> {
    /// The good rows in a layout that covers the block's own.
    ///
    /// `first_row` is the number of records before the block, for `source_row`; `keep` has one flag a good row.
    ///
    /// # Errors
    ///
    /// The layout does not cover the rows, or a column outgrows Arrow's offsets.
    pub fn to_batch(
        &self,
        layout: &Layout,
        file_name: &str,
        first_row: u64,
        keep: Option<&[bool]>,
    ) -> Result<RecordBatch, RowsError> {
        let is_kept = |row: &usize| keep.is_none_or(|keep| keep.get(*row).copied().unwrap_or_default());
        let kept: Vec<usize> = (0..self.places.len()).filter(is_kept).collect();
        let schema = layout.schema();
        let mut columns = Vec::with_capacity(schema.fields().len());
        if !layout.table {
            self.canonical_columns(&mut columns, &kept, file_name, first_row)?;
        }
        // Where a good row ended up, for cells.
        let mut targets = vec![usize::MAX; self.places.len()];
        for (target, &row) in kept.iter().enumerate() {
            targets[row] = target;
        }
        for (column, _) in layout.named() {
            let own = self.layout.columns.iter().position(|own| own.name == column.name);
            columns.push(self.other_column(own, &column.kind, &column.name, &kept, &targets)?);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(kept.len()));
        Ok(RecordBatch::try_new_with_options(schema, columns, &options)?)
    }

    fn canonical_columns(
        &self,
        columns: &mut Vec<ArrayRef>,
        kept: &[usize],
        file_name: &str,
        first_row: u64,
    ) -> Result<(), RowsError> {
        let text = |name: &str, misfit: Misfit| misfit.of(name, &DataType::Utf8);
        let mut ids = StringBuilder::with_capacity(kept.len(), kept.len() * 32);
        for &row in kept {
            let digits = hex(&self.ids[row]);
            ids.append_value(std::str::from_utf8(&digits).unwrap_or_default());
        }
        columns.push(Arc::new(ids.finish()));
        if self.sources.is_empty() {
            columns.push(Arc::new(StringArray::from_iter_values(std::iter::repeat_n(file_name, kept.len()))));
            columns.push(Arc::new(UInt64Array::from_iter_values(kept.iter().map(|&row| first_row + self.places[row]))));
        } else {
            let files = kept.iter().map(|&row| Some(self.sources[row].0));
            columns.push(texts(&self.store, files).map_err(|misfit| text("source_file", misfit))?);
            columns.push(Arc::new(UInt64Array::from_iter_values(kept.iter().map(|&row| self.sources[row].1))));
        }
        let contents = || kept.iter().map(|&row| &self.contents[row]);
        let push = |columns: &mut Vec<ArrayRef>, name: &str, array: Result<ArrayRef, Misfit>| {
            columns.push(array.map_err(|misfit| text(name, misfit))?);
            Ok::<(), RowsError>(())
        };
        push(columns, "instruction", texts(&self.store, contents().map(|content| content.instruction)))?;
        push(columns, "input", texts(&self.store, contents().map(|content| content.input)))?;
        push(columns, "output", texts(&self.store, contents().map(|content| content.output)))?;
        push(columns, "messages", self.messages(kept))?;
        push(columns, "tools", texts(&self.store, contents().map(|content| content.tools)))
    }

    fn messages(&self, kept: &[usize]) -> Result<ArrayRef, Misfit> {
        let ranges: Vec<_> = kept.iter().map(|&row| self.contents[row].turns).collect();
        let turns: Vec<_> = ranges.iter().flatten().flat_map(|&(start, len)| &self.turns[start..start + len]).collect();
        i32::try_from(turns.len()).map_err(|_| Misfit::Length)?;
        let mut trained = BooleanBuilder::with_capacity(turns.len());
        trained.extend(turns.iter().map(|turn| Some(turn.trained)));
        let columns: Vec<ArrayRef> = vec![
            texts(&self.store, turns.iter().map(|turn| Some(turn.role)))?,
            texts(&self.store, turns.iter().map(|turn| Some(turn.content)))?,
            Arc::new(trained.finish()),
        ];
        let fields = message_fields();
        let item = Field::new_list_field(DataType::Struct(fields.clone()), true);
        let items = StructArray::try_new(fields, columns, None).map_err(|_| Misfit::Type)?;
        let offsets = OffsetBuffer::from_lengths(ranges.iter().map(|range| range.map_or(0, |(_, len)| len)));
        let nulls: NullBuffer = ranges.iter().map(Option::is_some).collect();
        let list = ListArray::try_new(item.into(), offsets, Arc::new(items), Some(nulls));
        Ok(Arc::new(list.map_err(|_| Misfit::Type)?))
    }

    fn other_column(
        &self,
        own: Option<usize>,
        kind: &Kind,
        name: &str,
        kept: &[usize],
        targets: &[usize],
    ) -> Result<ArrayRef, RowsError> {
        let wanted = kind.data_type();
        let found = wanted.as_ref().unwrap_or(&DataType::Utf8);
        let build = |store: &Store<'_>, values: &[Value<'_>]| {
            let array = if wanted.is_some() { typed(store, values, found) } else { json_texts(store, values) };
            array.map_err(|misfit| misfit.of(name, found))
        };
        let mut values = Vec::new();
        let Some(own) = own else {
            values.resize(kept.len(), Value::Null);
            return build(&self.store, &values);
        };
        let Some(column) = self.arrays.get(own) else {
            values.resize(kept.len(), Value::Null);
            for &(row, value) in &self.cells[own] {
                if let Some(place) = values.get_mut(targets[row]) {
                    *place = value;
                }
            }
            return build(&self.store, &values);
        };
        let array = self.kept_array(column, kept)?;
        if wanted.as_ref() == Some(array.data_type()) {
            return Ok(array);
        }
        let mut store = Store::default();
        let mut values = Vec::with_capacity(array.len());
        for row in 0..array.len() {
            values.push(value_at(&mut store, &array, row));
        }
        build(&store, &values)
    }

    fn kept_array(&self, column: &Kept, kept: &[usize]) -> Result<ArrayRef, RowsError> {
        let mut array = Arc::clone(&column.array);
        if kept.len() < array.len() {
            let rows = UInt64Array::from_iter_values(kept.iter().map(|&row| self.places[row]));
            array = take(&array, &rows, None)?;
        }
        let Some(unused) = &column.unused else { return Ok(array) };
        if kept.iter().all(|&row| unused[row]) {
            return Ok(array);
        }
        let used: BooleanArray = kept.iter().map(|&row| Some(!unused[row])).collect();
        Ok(arrow_select::nullif::nullif(&array, &used)?)
    }
}
