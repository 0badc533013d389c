//! Batches to encoded and compressed row groups, on any thread.

use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::{DataType, Field, SchemaRef};
use parquet::arrow::arrow_writer::{ArrowColumnChunk, ArrowRowGroupWriterFactory, compute_leaves};
use parquet::arrow::{ArrowSchemaConverter, encode_arrow_schema};
use parquet::basic::Encoding;
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesPtr};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::{ColumnDescriptor, ColumnPath, TypePtr};

use crate::settings::Compression;

const PAGE_BYTES: usize = 1 << 20;
/// A dictionary that grows beyond this does not pay; the column goes on without.
const DICTIONARY_BYTES: usize = 256 << 10;
/// How many values are written between two looks at the size of the page.
const VALUES_A_LOOK: usize = 256;
/// Columns of the canonical schema whose values hardly ever repeat.
const LONG_TEXT: [&str; 5] = ["id", "instruction", "input", "output", "tools"];

/// One encoded row group: a chunk a leaf column.
pub(crate) type RowGroup = Vec<ArrowColumnChunk>;

/// Encodes row groups of one schema, and knows what a file of them begins and ends with.
pub(crate) struct Encoder {
    schema: SchemaRef,
    root: TypePtr,
    properties: WriterPropertiesPtr,
    factory: ArrowRowGroupWriterFactory,
}

impl Encoder {
    /// `steps` is the value of the metadata key `pyllm`.
    pub(crate) fn new(schema: SchemaRef, compression: Compression, steps: String) -> Result<Self, ParquetError> {
        let descriptor = ArrowSchemaConverter::new().convert(&schema)?;
        let mut builder = WriterProperties::builder()
            .set_compression(compression.codec())
            .set_data_page_size_limit(PAGE_BYTES)
            .set_dictionary_page_size_limit(DICTIONARY_BYTES)
            .set_write_batch_size(VALUES_A_LOOK)
            .set_statistics_enabled(EnabledStatistics::None)
            .set_column_statistics_enabled(ColumnPath::from("source_row"), EnabledStatistics::Chunk)
            .set_key_value_metadata(Some(vec![
                KeyValue::new("ARROW:schema".to_owned(), encode_arrow_schema(&schema)),
                KeyValue::new("pyllm".to_owned(), steps),
            ]));
        for column in descriptor.columns() {
            if !may_repeat(column) {
                builder = builder.set_column_dictionary_enabled(column.path().clone(), false);
                if column.physical_type() == parquet::basic::Type::INT64 {
                    builder = builder.set_column_encoding(column.path().clone(), Encoding::DELTA_BINARY_PACKED);
                }
            }
        }
        let properties = Arc::new(builder.build());
        let root = descriptor.root_schema_ptr();
        let template = SerializedFileWriter::new(std::io::sink(), Arc::clone(&root), Arc::clone(&properties))?;
        let factory = ArrowRowGroupWriterFactory::new(&template, Arc::clone(&schema));
        Ok(Self { schema, root, properties, factory })
    }

    pub(crate) fn root(&self) -> TypePtr {
        Arc::clone(&self.root)
    }

    pub(crate) fn properties(&self) -> WriterPropertiesPtr {
        Arc::clone(&self.properties)
    }

    /// One row group of all rows of the batches. A column is finished before the next one begins.
    pub(crate) fn encode(&self, batches: &[RecordBatch]) -> Result<RowGroup, ParquetError> {
        let mut writers = self.factory.create_column_writers(0)?.into_iter();
        let mut group = RowGroup::new();
        for (place, field) in self.schema.fields().iter().enumerate() {
            let mut open: Vec<_> = writers.by_ref().take(leaves(field)).collect();
            for batch in batches {
                for (writer, leaf) in open.iter_mut().zip(compute_leaves(field, batch.column(place))?) {
                    writer.write(&leaf)?;
                }
            }
            for writer in open {
                group.push(writer.close()?);
            }
        }
        Ok(group)
    }
}

fn may_repeat(column: &ColumnDescriptor) -> bool {
    let path = column.path().parts();
    let top = path.first().map_or("", String::as_str);
    let leaf = path.last().map_or("", String::as_str);
    !(LONG_TEXT.contains(&top) || top == "source_row" || (top == "messages" && leaf == "content"))
}

/// How many columns Parquet makes of a field.
fn leaves(field: &Field) -> usize {
    fn of(data_type: &DataType) -> usize {
        match data_type {
            DataType::Struct(fields) => fields.iter().map(|field| of(field.data_type())).sum(),
            DataType::List(item)
            | DataType::LargeList(item)
            | DataType::FixedSizeList(item, _)
            | DataType::ListView(item)
            | DataType::LargeListView(item)
            | DataType::Map(item, _) => of(item.data_type()),
            _ => 1,
        }
    }
    of(field.data_type())
}
