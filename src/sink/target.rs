//! Defines the target's columns and checks that an existing table fits them.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};

use super::error::{RETENTION, TargetError};
use super::history;
use crate::config::{Job, OnMissingColumns, OnNewColumns, StepSpec, TargetSpec, nearest};
use crate::rows::OutputColumns;
use crate::store::Location;
use crate::table::{Table, delta_schema, is_delta_table, is_vacant};

/// Fields of the metadata column before those of the steps.
pub(super) const APP_ID: &str = "app_id";
pub(super) const BATCH_ID: &str = "batch_id";
pub(super) const RUN_ID: &str = "run_id";
pub(super) const SOURCE_FILE: &str = "source_file";
pub(super) const SOURCE_ROW: &str = "source_row";
pub(super) const ERROR_COUNT: &str = "error_count";
const RESERVED: [&str; 6] = [APP_ID, BATCH_ID, RUN_ID, SOURCE_FILE, SOURCE_ROW, ERROR_COUNT];

const STATS_COLUMNS: &str = "delta.dataSkippingStatsColumns";
/// Prefix of columns that exist in queries only.
const INTERNAL: &str = "__enrich";
const CHECKPOINT_INTERVAL: &str = "delta.checkpointInterval";
/// Table property by which checkpoints of the log hold statistics as columns, so that those of one column can be read
/// without decoding the others.
const STATS_AS_STRUCT: &str = "delta.checkpoint.writeStatsAsStruct";
/// Number of commits between two checkpoints of the log, as in Spark's default. The commits after a checkpoint are
/// held in memory.
const LOG_CHECKPOINT_AFTER: u32 = 10;
/// Number of source columns with statistics, as in Delta's own default.
const STATS_LIMIT: usize = 32;

/// Returns the columns of the target: the source's, each step's output, and the metadata column, if there is one.
///
/// # Errors
/// When names clash or a type cannot be stored.
pub fn check_columns(job: &Job, source: &Schema) -> Result<SchemaRef, TargetError> {
    let wrong = |message: String| TargetError::Columns { message };
    let clash = |name: &str| {
        source.fields().iter().find(|field| field.name().eq_ignore_ascii_case(name)).map(|field| field.name())
    };
    let mut fields: Vec<Field> = source.fields().iter().map(|field| field.as_ref().clone()).collect();
    for step in &job.steps {
        let output = OutputColumns::of(step);
        for column in output.columns() {
            if let Some(clashing) = clash(column.name()) {
                return Err(wrong(format!(
                    "the output {:?} has the name of the source's column {clashing:?}; rename the step's output",
                    column.name()
                )));
            }
            if let Some(other) = fields.iter().find(|other| other.name().eq_ignore_ascii_case(column.name()))
            {
                return Err(wrong(format!(
                    "the step {:?} would have a column {:?}, and there is one of that name already; rename an output or a field",
                    step.output,
                    other.name()
                )));
            }
            fields.push(column.clone());
        }
        if let Some(other) = job.steps.iter().find(|other| history::field_name(&other.output) == step.output)
            && let Some(metadata) = &job.target.metadata_column
        {
            return Err(wrong(format!(
                "the output {:?} has the name that {metadata} has for the step {:?}; rename one of them",
                step.output, other.output
            )));
        }
        let reserved = RESERVED.iter().find(|name| name.eq_ignore_ascii_case(&step.output));
        if let (Some(reserved), Some(metadata)) = (reserved, &job.target.metadata_column) {
            return Err(wrong(format!(
                "the output {:?} has the name of the field {metadata}.{reserved}; rename the step's output",
                step.output
            )));
        }
    }
    if let Some(column) = source.fields().iter().find(|field| field.name().starts_with(INTERNAL)) {
        let (name, what) = (column.name(), "names that begin so are this program's own");
        return Err(wrong(format!("the source has a column {name:?}; {what}. Rename the column")));
    }
    if let Some(metadata) = &job.target.metadata_column {
        if let Some(column) = clash(metadata) {
            return Err(wrong(format!(
                "the source has a column {column:?}, as the metadata column of the target is called (is the source the \
                 target of an earlier job?); set target.metadata_column to another name"
            )));
        }
        fields.push(Field::new(metadata, DataType::Struct(metadata_fields(job)), true));
    }
    let columns = delta_schema(&Schema::new(fields)).map_err(wrong)?;
    check_partitions(job, &columns, job.target.partition_by.as_deref().unwrap_or_default())?;
    Ok(columns)
}

fn metadata_fields(job: &Job) -> Fields {
    let field = |name: &str, data_type| Field::new(name, data_type, true);
    let mut fields = vec![
        field(APP_ID, DataType::Utf8),
        field(BATCH_ID, DataType::Int64),
        field(RUN_ID, DataType::Utf8),
        field(SOURCE_FILE, DataType::Utf8),
        field(SOURCE_ROW, DataType::Int64),
        field(ERROR_COUNT, DataType::Int32),
    ];
    let of_step = |name: &str| field(name, DataType::Struct(history::fields()));
    fields.extend(job.steps.iter().map(|step| of_step(&history::field_name(&step.output))));
    fields.into()
}

/// Returns the type of the job's metadata column, with the names that an existing table uses for the steps' structs.
fn metadata_like(job: &Job, table: &DataType) -> DataType {
    let needed = metadata_fields(job);
    let DataType::Struct(existing) = table else { return DataType::Struct(needed) };
    let own =
        |step: &Arc<StepSpec>| (history::field_name(&step.output), history::find(existing, &step.output));
    let names: Vec<(String, Option<&str>)> = job.steps.iter().map(own).collect();
    let renamed = needed.iter().map(|field| match names.iter().find(|(name, _)| name == field.name()) {
        Some((_, Some(found))) => Arc::new(field.as_ref().clone().with_name(*found)),
        _ => Arc::clone(field),
    });
    DataType::Struct(renamed.collect())
}

/// The columns that a job needs in its target.
pub(super) struct NeededColumns<'a> {
    /// All columns of the rows.
    pub(super) columns: &'a Schema,
    /// Names of the columns that do not come from the source.
    pub(super) own: &'a [&'a str],
    /// Columns of the source that the job does not carry to the target.
    pub(super) left_out: &'a [String],
}

/// An existing target that fits the job.
pub(super) struct OpenedTarget {
    pub(super) table: Table,
    /// The schema change to make before rows are written.
    pub(super) change: SchemaChange,
}

/// Schema change that a target needs before a job can write to it.
#[derive(Clone, Debug)]
pub(super) enum SchemaChange {
    /// No change.
    None,
    /// Adds these columns, null in existing rows. A struct that exists already is listed with its old and new fields.
    Add(Vec<Arc<Field>>),
    /// Replaces all columns: the table was created for another job and holds no row.
    Replace(SchemaRef),
}

/// Opens the target and checks it against the columns that the job needs. Returns `None` if there is no table yet.
/// Missing columns of the job's steps (`own`) are added; `on_new_columns` decides about missing columns of the
/// source.
pub(super) async fn open(job: &Job, needed: &NeededColumns<'_>) -> Result<Option<OpenedTarget>, TargetError> {
    let at = &job.target.location;
    if !is_delta_table(at).await? {
        return is_free(at).await.map(|()| None);
    }
    let refused = |feature: &str| TargetError::Feature { at: at.to_owned(), feature: feature.to_owned() };
    let table = Table::open(at).await;
    let table = table.map_err(|error| error.feature().map_or_else(|| error.into(), refused))?;
    if table.properties()?.contains_key(RETENTION) {
        return Err(TargetError::Retention { at: at.to_owned() });
    }
    if let Some(feature) = table.unwritable_feature()? {
        return Err(refused(&feature));
    }
    let partitions = table.partition_columns()?;
    let change = match columns_to_add(job, needed, table.schema()?.as_ref(), &partitions) {
        Ok(add) if add.is_empty() => SchemaChange::None,
        Ok(add) => SchemaChange::Add(add),
        // The table was created by a run that wrote nothing, and the job was changed since.
        Err(_) if is_ours_and_empty(job, &table).await? => {
            SchemaChange::Replace(Arc::new(needed.columns.clone()))
        }
        Err(error) => return Err(error),
    };
    Ok(Some(OpenedTarget { table, change }))
}

/// Whether a table has a metadata column like the job's and the same partitions, and holds no row.
async fn is_ours_and_empty(job: &Job, table: &Table) -> Result<bool, TargetError> {
    let configured = job.target.partition_by.as_ref();
    let partitions = table.partition_columns()?;
    let is_ours = table.schema()?.fields().iter().any(|field| is_metadata(field));
    Ok(is_ours
        && job.target.metadata_column.is_some()
        && configured.map_or(partitions.is_empty(), |configured| *configured == partitions)
        && table.files().await?.is_empty())
}

/// Checks the columns of a table against those that a job needs, and returns those to add.
fn columns_to_add(
    job: &Job,
    needed: &NeededColumns<'_>,
    schema: &Schema,
    partitions: &[String],
) -> Result<Vec<Arc<Field>>, TargetError> {
    let (at, on_new) = (&job.target.location, job.target.on_new_columns);
    let NeededColumns { columns, own, left_out } = *needed;
    let misfit = |what| TargetError::Schema { at: at.to_owned(), what };
    let is_own = |field: &&Arc<Field>| own.contains(&field.name().as_str());
    let is_new = |field: &&Arc<Field>| schema.field_with_name(field.name()).is_err();
    let of_source = || columns.fields().iter().filter(|field| !is_own(field));
    let kept = of_source().filter(|field| on_new == OnNewColumns::Stop || !is_new(field));
    let kept = Schema::new(kept.cloned().collect::<Vec<_>>());
    let metadata = job.target.metadata_column.as_deref();
    if let Some(metadata) = metadata.filter(|metadata| schema.field_with_name(metadata).is_err()) {
        // A table that lacks other columns too is no target of this job: the error names those columns instead.
        fits(schema, &kept, own).map_err(misfit)?;
        if let Some(pending_columns) =
            columns.fields().iter().find(|field| is_own(field) && is_new(field) && field.name() != metadata)
        {
            return Err(misfit(format!(
                "it has no column {:?}, which a step of the job is to fill",
                pending_columns.name()
            )));
        }
        return Err(TargetError::NoMetadata { at: at.to_owned(), metadata: metadata.to_owned() });
    }
    let is_foreign = |field: &&Arc<Field>| columns.field_with_name(field.name()).is_err();
    let like_metadata = schema.fields().iter().filter(is_foreign).find(|field| is_metadata(field));
    if let Some(column) = like_metadata.filter(|_| metadata.is_none()) {
        let metadata = column.name().clone();
        return Err(TargetError::HasMetadata { at: at.to_owned(), metadata });
    }
    fits(schema, &kept, own).map_err(misfit)?;
    if job.target.on_missing_columns == OnMissingColumns::Stop
        && let Some(column) = left_out
            .iter()
            .find(|column| !own.contains(&column.as_str()) && schema.field_with_name(column).is_ok())
    {
        return Err(misfit(format!(
            "its column {column:?} is one of the source's that source.columns leaves out: new rows would have null there. Name \
             it in source.columns, or set target.on_missing_columns = \"null\""
        )));
    }
    let mut to_add: Vec<Arc<Field>> = Vec::new();
    if on_new == OnNewColumns::Add {
        to_add.extend(of_source().filter(is_new).cloned());
    }
    for field in columns.fields().iter().filter(is_own) {
        let Ok(found) = schema.field_with_name(field.name()) else {
            to_add.push(Arc::clone(field));
            continue;
        };
        let needed_type = match metadata == Some(field.name()) {
            true => metadata_like(job, found.data_type()),
            false => field.data_type().clone(),
        };
        match grown(found.data_type(), &needed_type) {
            None => return Err(misfit(other_type(field.name(), found.data_type(), &needed_type))),
            Some(grown) if grown == *found.data_type() => {}
            Some(grown) => to_add.push(Arc::new(found.clone().with_data_type(grown))),
        }
    }
    if let Some(configured) = job.target.partition_by.as_ref().filter(|configured| **configured != partitions)
    {
        return Err(misfit(format!(
            "it is partitioned by {partitions:?}, and target.partition_by is {configured:?}; take the key out to leave it as it is"
        )));
    }
    Ok(to_add)
}

/// Merges two types: structs at any depth get the fields of both. Returns `None` if the types are incompatible.
fn grown(existing: &DataType, needed: &DataType) -> Option<DataType> {
    match (existing, needed) {
        (DataType::Struct(existing), DataType::Struct(needed)) => {
            let both = existing.iter().map(|field| match needed.find(field.name()) {
                Some((_, other)) => {
                    let grown = grown(field.data_type(), other.data_type())?;
                    Some(Arc::new(field.as_ref().clone().with_data_type(grown)))
                }
                // The field is null in new rows.
                None => field.is_nullable().then(|| Arc::clone(field)),
            });
            let new = needed.iter().filter(|field| existing.find(field.name()).is_none());
            both.chain(new.map(|field| Some(Arc::clone(field))))
                .collect::<Option<Fields>>()
                .map(DataType::Struct)
        }
        (DataType::List(existing), DataType::List(needed)) => {
            let grown = grown(existing.data_type(), needed.data_type())?;
            Some(DataType::List(Arc::new(existing.as_ref().clone().with_data_type(grown))))
        }
        _ => same_type(existing, needed).then(|| existing.clone()),
    }
}

/// Whether a column is a metadata column, of this or another job.
fn is_metadata(field: &Field) -> bool {
    let DataType::Struct(fields) = field.data_type() else { return false };
    RESERVED.iter().all(|name| fields.find(name).is_some())
}

/// Checks that the target's location is empty except for folders of this program.
pub(super) async fn is_free(at: &Location) -> Result<(), TargetError> {
    // Another run may have created the table in the meantime.
    match is_vacant(at).await? || is_delta_table(at).await? {
        true => Ok(()),
        false => Err(TargetError::NoTable { at: at.clone() }),
    }
}

pub(super) async fn create(job: &Job, columns: &Schema) -> Result<Table, TargetError> {
    let TargetSpec { location, metadata_column, partition_by, .. } = &job.target;
    let partitions = partition_by.as_deref().unwrap_or_default();
    let properties = properties(columns, metadata_column.as_deref(), partitions);
    Ok(Table::create(location, columns, partitions, &properties).await?)
}

/// Checks that a target may be partitioned by these columns.
fn check_partitions(job: &Job, columns: &Schema, partitions: &[String]) -> Result<(), TargetError> {
    let wrong = |column: &str, what: &str| {
        let message = format!("target.partition_by names {column:?}, {what}");
        Err(TargetError::Columns { message })
    };
    for column in partitions {
        let Ok(field) = columns.field_with_name(column) else {
            let near = nearest(column, columns.fields().iter().map(|field| field.name().as_str()));
            let near = near.map_or_else(String::new, |near| format!("; did you mean {near:?}?"));
            return wrong(column, &format!("and the target has no such column{near}"));
        };
        if job.steps.iter().any(|step| OutputColumns::of(step).has(column)) {
            return wrong(
                column,
                "an output: a row that is sent again would have to move. Take a column of the source",
            );
        }
        if field.data_type().is_nested() || *field.data_type() == DataType::Binary {
            return wrong(
                column,
                &format!("which is of type {}: partitions are named by plain values", field.data_type()),
            );
        }
    }
    if partitions.len() == columns.fields().len() {
        return wrong(&partitions[0], "and every other column: one must be left that is no partition");
    }
    Ok(())
}

/// Returns the table properties that a target with these columns is created with.
#[must_use]
pub fn properties(
    columns: &Schema,
    metadata: Option<&str>,
    partitions: &[String],
) -> [(&'static str, String); 3] {
    let is_plain = |field: &&Arc<Field>| {
        !field.data_type().is_nested() && !matches!(field.data_type(), DataType::Binary | DataType::Boolean)
    };
    let quoted = |name: &str| format!("`{}`", name.replace('`', "``"));
    let mut stats: Vec<String> = columns
        .fields()
        .iter()
        .filter(is_plain)
        // Spark refuses to alter a table that lists partition columns here.
        .filter(|field| !partitions.contains(field.name()))
        // The writer parses the property as SQL names and splits it at commas.
        .filter(|field| field.name().chars().all(|c| c.is_ascii_alphanumeric() || c == '_'))
        .take(STATS_LIMIT)
        .map(|field| quoted(field.name()))
        .collect();
    stats.extend(metadata.map(|metadata| format!("{}.{}", quoted(metadata), quoted(ERROR_COUNT))));
    [
        (STATS_COLUMNS, stats.join(",")),
        (CHECKPOINT_INTERVAL, LOG_CHECKPOINT_AFTER.to_string()),
        (STATS_AS_STRUCT, "true".to_owned()),
    ]
}

/// Checks that a table accepts rows with these columns and those of the steps. Further columns of the table become
/// null.
fn fits(table: &Schema, columns: &Schema, own: &[&str]) -> Result<(), String> {
    for field in columns.fields() {
        let name = field.name();
        match table.field_with_name(name) {
            Err(_) => {
                return Err(format!(
                    "it has no column {name:?} (for a new column of the source, see target.on_new_columns)"
                ));
            }
            Ok(found) if !takes(found.data_type(), field.data_type()) => {
                return Err(other_type(name, found.data_type(), field.data_type()));
            }
            Ok(_) => {}
        }
    }
    let is_filled = |name: &str| columns.field_with_name(name).is_ok() || own.contains(&name);
    match table.fields().iter().find(|field| !field.is_nullable() && !is_filled(field.name())) {
        Some(field) => {
            Err(format!("its column {:?} must not be null, and the job has no values for it", field.name()))
        }
        None => Ok(()),
    }
}

fn other_type(name: &str, found: &DataType, needed: &DataType) -> String {
    let (name, found, needed) = difference(name, found, needed);
    format!("its column {name:?} has the type {found}, and {needed} is to be written")
}

/// Returns the innermost field at which two types differ, with both its types.
fn difference<'a>(
    name: &str,
    found: &'a DataType,
    needed: &'a DataType,
) -> (String, &'a DataType, &'a DataType) {
    let (DataType::Struct(existing), DataType::Struct(required)) = (found, needed) else {
        return (name.to_owned(), found, needed);
    };
    let both = existing.iter().filter_map(|existing| Some((existing, required.find(existing.name())?.1)));
    match both
        .into_iter()
        .find(|(existing, required)| grown(existing.data_type(), required.data_type()).is_none())
    {
        Some((existing, required)) => {
            difference(&format!("{name}.{}", existing.name()), existing.data_type(), required.data_type())
        }
        None => (name.to_owned(), found, needed),
    }
}

/// Whether two types hold the same values. Nullability and the names of list items do not matter.
fn same_type(a: &DataType, b: &DataType) -> bool {
    match (a, b) {
        (DataType::List(a), DataType::List(b)) => same_type(a.data_type(), b.data_type()),
        (DataType::Map(a, _), DataType::Map(b, _)) => match (a.data_type(), b.data_type()) {
            (DataType::Struct(a), DataType::Struct(b)) => {
                a.iter().zip(b).all(|(a, b)| same_type(a.data_type(), b.data_type()))
            }
            _ => false,
        },
        (DataType::Struct(a), DataType::Struct(b)) => {
            a.len() == b.len()
                && a.iter()
                    .zip(b)
                    .all(|(a, b)| a.name() == b.name() && same_type(a.data_type(), b.data_type()))
        }
        _ => a == b,
    }
}

/// Whether a column of the table accepts values of a type: a binary column also accepts text.
fn takes(table: &DataType, values: &DataType) -> bool {
    same_type(table, values) || (*table == DataType::Binary && *values == DataType::Utf8)
}
