//! SQL conditions on rows: checked against the columns, evaluated for rows, and used with statistics to rule out
//! files.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, StringArray, UInt64Array};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType};
use arrow::record_batch::RecordBatch;
use deltalake::datafusion::common::pruning::PruningStatistics;
use deltalake::datafusion::common::tree_node::TreeNode;
use deltalake::datafusion::common::{Column, DFSchema, ScalarValue};
use deltalake::datafusion::error::DataFusionError;
use deltalake::datafusion::logical_expr::{Expr, Volatility};
use deltalake::datafusion::physical_expr::utils::{collect_columns, reassign_expr_columns};
use deltalake::datafusion::physical_expr::{self, PhysicalExpr};
use deltalake::datafusion::physical_optimizer::pruning::{PruningPredicate, PruningPredicateBuilder};
use deltalake::datafusion::prelude::{SessionConfig, SessionContext};
use deltalake::datafusion::sql::sqlparser::dialect::GenericDialect;
use deltalake::datafusion::sql::sqlparser::parser::{Parser, ParserError};
use deltalake::datafusion::sql::sqlparser::tokenizer::Token;
use parquet::arrow::arrow_reader::ArrowReaderMetadata;
use parquet::arrow::arrow_reader::statistics::StatisticsConverter;
use parquet::file::metadata::RowGroupMetaData;
use serde_json::Value;

/// Key under which Delta stores the name of a column in the files ("Column Mapping" in the Delta protocol).
const PHYSICAL_NAME: &str = "delta.columnMapping.physicalName";

/// Returns the name of a column in the files and in the log.
#[must_use]
pub fn physical_name(field: &Field) -> &str {
    field.metadata().get(PHYSICAL_NAME).map_or_else(|| field.name().as_str(), String::as_str)
}

/// A condition on the rows of a table: one SQL expression in DataFusion's dialect. Names are taken as written, even
/// without quotes.
#[derive(Clone, Debug)]
pub struct Condition {
    written: String,
    /// The table's columns, with their metadata.
    schema: SchemaRef,
    /// The indexes of the columns that the condition reads, in the order of the table.
    columns: Vec<usize>,
    /// The condition, to be evaluated for rows with the schema `projected`.
    of_columns: Arc<dyn PhysicalExpr>,
    /// The schema of those columns.
    projected: SchemaRef,
    /// Rules out files by their statistics; `None` if the condition is not suited to that.
    pruning: Option<Arc<PruningPredicate>>,
}

impl Condition {
    /// Parses a condition and checks it against the columns of the rows.
    ///
    /// # Errors
    /// A description of what is wrong with the condition.
    pub fn new(written: &str, schema: &SchemaRef) -> Result<Self, String> {
        let understood = expression(written)?;
        let config = SessionConfig::new().set_bool("datafusion.sql_parser.enable_ident_normalization", false);
        let context = SessionContext::new_with_config(config);
        let columns = DFSchema::try_from(schema.as_ref().clone()).map_err(|error| words(&error))?;
        let expr = context.parse_sql_expr(&understood, &columns).map_err(|error| words(&error))?;
        if let Some(reason) = beyond_a_row(&expr).map_err(|error| words(&error))? {
            return Err(reason);
        }
        let expr = context.create_physical_expr(expr, &columns).map_err(|error| words(&error))?;
        let found = expr.data_type(schema).map_err(|error| words(&error))?;
        if found != DataType::Boolean {
            return Err(format!("it is of type {found}, not true or false"));
        }
        let columns: BTreeSet<usize> =
            collect_columns(&expr).iter().map(physical_expr::expressions::Column::index).collect();
        let columns: Vec<usize> = columns.into_iter().collect();
        let projected = schema.project(&columns).map_err(|error| error.to_string())?;
        let of_columns =
            reassign_expr_columns(Arc::clone(&expr), &projected).map_err(|error| words(&error))?;
        Ok(Condition {
            written: written.to_owned(),
            schema: Arc::clone(schema),
            columns,
            of_columns,
            projected: Arc::new(projected),
            // If the condition cannot be used for pruning, it is evaluated for every row.
            pruning: PruningPredicateBuilder::new().with_file_schema(Arc::clone(schema)).build(expr),
        })
    }

    /// Returns the condition as it was written.
    #[must_use]
    pub fn written(&self) -> &str {
        &self.written
    }

    /// Returns the indexes in the table of the columns that the condition reads, in rising order.
    #[must_use]
    pub fn columns(&self) -> &[usize] {
        &self.columns
    }

    /// Returns the schema of those columns, which [`Condition::of_rows`] takes.
    #[must_use]
    pub fn row_schema(&self) -> &SchemaRef {
        &self.projected
    }

    /// Returns for each row whether it meets the condition, or an error in words. The schema of `rows` is
    /// [`Condition::row_schema`]. A row for which the condition is null does not meet it.
    #[must_use]
    pub fn of_rows(&self, rows: &RecordBatch) -> Vec<Result<bool, String>> {
        match self.holds(rows) {
            Ok(holds) => holds.values().iter().map(Ok).collect(),
            // Among others a row may fail in a part of the condition that is not evaluated for the row alone.
            Err(error) if rows.num_rows() <= 1 => vec![Err(error); rows.num_rows()],
            Err(_) => (0..rows.num_rows()).flat_map(|at| self.of_rows(&rows.slice(at, 1))).collect(),
        }
    }

    fn holds(&self, rows: &RecordBatch) -> Result<BooleanArray, String> {
        let value = self.of_columns.evaluate(rows).map_err(|error| words(&error))?;
        let value = value.into_array(rows.num_rows()).map_err(|error| words(&error))?;
        let value = value.as_boolean();
        Ok((0..value.len()).map(|row| Some(value.is_valid(row) && value.value(row))).collect())
    }

    /// Whether a file may have a row that meets the condition, by its statistics, in the form of the Delta
    /// protocol, and its values of the partition columns.
    #[must_use]
    pub fn may_hold_in_file(
        &self,
        statistics: Option<&str>,
        partition: &BTreeMap<String, Option<String>>,
    ) -> bool {
        let statistics = statistics.and_then(|text| serde_json::from_str(text).ok()).unwrap_or(Value::Null);
        let file = FileStatistics { schema: &self.schema, statistics, partition };
        self.may_hold(&file).is_none_or(|may| may.first() != Some(&false))
    }

    /// Returns for each row group of a file whether it may have a row that meets the condition. A file's own values
    /// of partition columns are ignored, since the log has them.
    #[must_use]
    pub fn may_hold_in_groups(
        &self,
        file: &ArrowReaderMetadata,
        partition: &BTreeMap<String, Option<String>>,
    ) -> Vec<bool> {
        let groups = file.metadata().row_groups();
        let statistics = RowGroupStatistics { schema: &self.schema, file, groups, partition };
        self.may_hold(&statistics).unwrap_or_else(|| vec![true; groups.len()])
    }

    fn may_hold(&self, statistics: &dyn PruningStatistics) -> Option<Vec<bool>> {
        self.pruning.as_ref()?.prune(statistics).ok()
    }
}

/// Returns why an expression has no fixed value for a single row; `None` if it has one.
fn beyond_a_row(expr: &Expr) -> Result<Option<String>, DataFusionError> {
    let mut found = None;
    expr.exists(|node| {
        found = match node {
            Expr::ScalarFunction(function)
                if function.func.signature().volatility != Volatility::Immutable =>
            {
                let name = function.func.name();
                Some(format!(
                    "{name}() gives another value each time, and a batch must stay as it was planned"
                ))
            }
            Expr::AggregateFunction(function) => {
                Some(format!("{}() is not of one row", function.func.name()))
            }
            Expr::WindowFunction(function) => Some(format!("{}() is not of one row", function.fun.name())),
            Expr::ScalarSubquery(_) | Expr::InSubquery(_) | Expr::Exists(_) | Expr::SetComparison(_) => {
                Some("a subquery cannot be evaluated for one row".to_owned())
            }
            _ => None,
        };
        Ok(found.is_some())
    })?;
    Ok(found)
}

/// The statistics of one file.
struct FileStatistics<'a> {
    schema: &'a Schema,
    statistics: Value,
    partition: &'a BTreeMap<String, Option<String>>,
}

impl FileStatistics<'_> {
    fn bound(&self, kind: &str, column: &Column) -> Option<ArrayRef> {
        let field = self.schema.field_with_name(&column.name).ok()?;
        // Their statistics are no bounds: they leave out NaN, and a decimal in JSON is read as a double.
        let is_exact = !matches!(
            field.data_type(),
            DataType::Float16 | DataType::Float32 | DataType::Float64 | DataType::Decimal128(..)
        );
        let name = physical_name(field);
        let value = match self.partition.get(name) {
            Some(value) => value.clone().filter(|value| !value.is_empty())?,
            None => match self.statistics.get(kind)?.get(name)? {
                Value::String(text) if is_exact => text.clone(),
                number @ Value::Number(_) if is_exact => number.to_string(),
                _ => return None,
            },
        };
        let text: ArrayRef = Arc::new(StringArray::from(vec![value]));
        let value = cast_with_options(&text, field.data_type(), &CastOptions::default()).ok()?;
        let value = match field.data_type() {
            DataType::Timestamp(TimeUnit::Microsecond, zone) if kind == "maxValues" => {
                // Statistics are rounded down to the millisecond.
                let most = value.as_primitive_opt::<TimestampMicrosecondType>()?;
                let most = most.unary::<_, TimestampMicrosecondType>(|micros| micros.saturating_add(999));
                Arc::new(most.with_timezone_opt(zone.clone())) as ArrayRef
            }
            _ => value,
        };
        value.is_valid(0).then_some(value)
    }

    fn rows(&self) -> Option<u64> {
        self.statistics.get("numRecords")?.as_u64()
    }
}

impl PruningStatistics for FileStatistics<'_> {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        self.bound("minValues", column)
    }

    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        self.bound("maxValues", column)
    }

    fn num_containers(&self) -> usize {
        1
    }

    fn null_counts(&self, column: &Column) -> Option<ArrayRef> {
        let field = self.schema.field_with_name(&column.name).ok()?;
        let name = physical_name(field);
        let count = match self.partition.get(name) {
            Some(Some(value)) if !value.is_empty() => 0,
            Some(_) => self.rows()?,
            None => self.statistics.get("nullCount")?.get(name)?.as_u64()?,
        };
        Some(Arc::new(UInt64Array::from(vec![count])))
    }

    fn row_counts(&self) -> Option<ArrayRef> {
        Some(Arc::new(UInt64Array::from(vec![self.rows()?])))
    }

    fn contained(&self, _: &Column, _: &HashSet<ScalarValue>) -> Option<BooleanArray> {
        None
    }
}

/// The statistics of a file's row groups.
struct RowGroupStatistics<'a> {
    schema: &'a Schema,
    file: &'a ArrowReaderMetadata,
    groups: &'a [RowGroupMetaData],
    partition: &'a BTreeMap<String, Option<String>>,
}

impl<'a> RowGroupStatistics<'a> {
    /// Returns the statistics of a column that has the same type in the file and in the table. `None` for others,
    /// for floats and for partition columns.
    fn converter<'b>(&'b self, column: &Column) -> Option<StatisticsConverter<'b>> {
        let field = self.schema.field_with_name(&column.name).ok()?;
        let own = self.file.schema().fields().iter().find(|own| own.name() == physical_name(field))?;
        let is_comparable = own.data_type() == field.data_type()
            && !self.partition.contains_key(physical_name(field))
            && !matches!(field.data_type(), DataType::Float32 | DataType::Float64);
        let name = is_comparable.then(|| own.name())?;
        StatisticsConverter::try_new(name, self.file.schema(), self.file.parquet_schema()).ok()
    }
}

impl PruningStatistics for RowGroupStatistics<'_> {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        self.converter(column)?.row_group_mins(self.groups).ok()
    }

    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        self.converter(column)?.row_group_maxes(self.groups).ok()
    }

    fn num_containers(&self) -> usize {
        self.groups.len()
    }

    fn null_counts(&self, column: &Column) -> Option<ArrayRef> {
        Some(Arc::new(self.converter(column)?.row_group_null_counts(self.groups).ok()?))
    }

    fn row_counts(&self) -> Option<ArrayRef> {
        let rows = self.groups.iter().map(|group| u64::try_from(group.num_rows()).ok());
        Some(Arc::new(rows.collect::<UInt64Array>()))
    }

    fn contained(&self, _: &Column, _: &HashSet<ScalarValue>) -> Option<BooleanArray> {
        None
    }
}

/// Parses a text as one SQL expression and returns it as it was understood.
pub(super) fn expression(written: &str) -> Result<String, String> {
    let dialect = GenericDialect {};
    let mut parser = Parser::new(&dialect).try_with_sql(written).map_err(|error| message(&error))?;
    let expression = parser.parse_expr().map_err(|error| message(&error))?;
    match parser.peek_token().token {
        Token::EOF => Ok(expression.to_string()),
        rest => Err(format!("nothing may follow the condition, and {rest} does")),
    }
}

fn message(error: &ParserError) -> String {
    match error {
        ParserError::TokenizerError(text) | ParserError::ParserError(text) => text.clone(),
        ParserError::RecursionLimitExceeded => "it is nested too deeply".to_owned(),
    }
}

fn words(error: &DataFusionError) -> String {
    without_kinds(&error.to_string())
}

/// Returns DataFusion's message without the kinds of error before it and a backtrace after it.
pub(super) fn without_kinds(text: &str) -> String {
    let text = text.rsplit_once("error: ").map_or(text, |(_, last)| last);
    let text = text.strip_prefix("Error during planning: ").unwrap_or(text);
    text.split("\n\nbacktrace:").next().unwrap_or(text).to_owned()
}

#[cfg(test)]
mod tests {
    use arrow::array::Int64Array;

    use super::*;

    fn schema() -> SchemaRef {
        let mapped = [(PHYSICAL_NAME.to_owned(), "col-1".to_owned())].into();
        Arc::new(Schema::new(vec![
            Field::new("id", DataType::Int64, true),
            Field::new("Language", DataType::Utf8, true),
            Field::new("stars", DataType::Int64, true).with_metadata(mapped),
            Field::new("at", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), true),
            Field::new("score", DataType::Float64, true),
            Field::new("day", DataType::Date32, true),
        ]))
    }

    fn may(condition: &str, statistics: &str, partition: &[(&str, Option<&str>)]) -> bool {
        let partition =
            partition.iter().map(|(name, value)| ((*name).into(), value.map(Into::into))).collect();
        Condition::new(condition, &schema()).unwrap().may_hold_in_file(Some(statistics), &partition)
    }

    #[test]
    fn conditions_read_only_the_columns_that_are_needed() {
        let condition = Condition::new("stars > 2 AND Language = 'en'", &schema()).unwrap();
        assert_eq!(condition.columns(), [1, 2]);
        let rows = RecordBatch::try_new(
            Arc::new(schema().project(&[1, 2]).unwrap()),
            vec![
                Arc::new(StringArray::from(vec![Some("en"), Some("en"), None, Some("de")])),
                Arc::new(Int64Array::from(vec![Some(3), None, Some(5), Some(5)])),
            ],
        );
        assert_eq!(condition.of_rows(&rows.unwrap()), [Ok(true), Ok(false), Ok(false), Ok(false)]);
    }

    #[test]
    fn statistics_rule_out_what_they_can_and_nothing_else() {
        let stats = r#"{"numRecords":10,"minValues":{"id":5,"col-1":1,"at":"2026-01-01T00:00:00.000Z","score":1.5},
            "maxValues":{"id":9,"col-1":3,"at":"2026-01-02T00:00:00.123Z","score":2.5},
            "nullCount":{"id":0,"col-1":10,"Language":0}}"#;
        for (condition, expected) in [
            ("id > 9", false),
            ("id >= 9", true),
            ("id = 4 OR id = 10", false),
            ("id + 1 > 100", true),
            ("stars > 3", false),
            ("stars IS NOT NULL", false),
            ("Language IS NULL", false),
            ("Language = 'en'", true),
            ("at > '2026-01-02T00:00:00.1235Z'", true),
            ("at > '2026-01-02T00:00:00.124Z'", false),
            // A score that is NaN is not covered by statistics.
            ("score > 2.5", true),
        ] {
            assert_eq!(may(condition, stats, &[]), expected, "{condition}");
        }
        assert!(may("id > 9", "", &[]), "no statistics rule out nothing");
    }

    #[test]
    fn partition_values_count_as_bounds() {
        for (condition, day, expected) in [
            ("day = '2026-01-01'", Some("2026-01-01"), true),
            ("day = '2026-01-01'", Some("2026-01-02"), false),
            ("day > '2026-01-01' AND id > 0", Some("2026-01-01"), false),
            ("day IS NULL", Some("2026-01-01"), false),
            ("day IS NULL", None, true),
            ("day IS NOT NULL", None, false),
        ] {
            let found = may(condition, r#"{"numRecords":3,"nullCount":{"id":0}}"#, &[("day", day)]);
            assert_eq!(found, expected, "{condition} where day is {day:?}");
        }
    }

    #[test]
    fn a_wrong_condition_is_an_error_in_words() {
        let wrong = |condition: &str| Condition::new(condition, &schema()).unwrap_err();
        assert_eq!(wrong("stars >"), "Expected: an expression, found: EOF");
        assert!(wrong("starz > 2").starts_with("No field named starz. Did you mean 'stars'?"));
        assert_eq!(wrong("stars + 1"), "it is of type Int64, not true or false");
        assert_eq!(wrong("stars > 2; DROP TABLE x"), "nothing may follow the condition, and ; does");
        assert_eq!(
            wrong("at > now()"),
            "now() gives another value each time, and a batch must stay as it was planned"
        );
        assert_eq!(wrong("stars > (SELECT 1)"), "a subquery cannot be evaluated for one row");
        assert_eq!(wrong("count(*) > 1"), "count() is not of one row");
        assert_eq!(
            wrong("Language > 2 AND Language LIKE 3"),
            "There isn't a common type to coerce Utf8 and Int64 in LIKE expression"
        );
    }
}
