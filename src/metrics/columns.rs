//! Conversion of metrics rows to the columns of the metrics table, and back.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Decimal128Array, Float64Array, Int64Array, MapArray, StringArray, StructArray,
    TimestampMicrosecondArray, new_null_array,
};
use arrow::buffer::OffsetBuffer;
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Decimal128Type, Field, Fields, Float64Type, Int64Type, Schema, SchemaRef, TimeUnit,
    TimestampMicrosecondType,
};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use chrono::{DateTime, Utc};

use super::row::{LatencyQuantiles, Load, MetricsRow, RunKind, WAITS};
use crate::ident::{BatchId, Lineage, RunId, Tokens};

/// Number of digits of a cost in US dollars, in total and after the decimal point.
const COST: (u8, i8) = (20, 12);

/// Returns the table's columns, in order.
pub(super) fn schema() -> Schema {
    let text = |name: &str| Field::new(name, DataType::Utf8, true);
    let count = |name: &str| Field::new(name, DataType::Int64, true);
    let share = |name: &str| Field::new(name, DataType::Float64, true);
    let moment =
        |name: &str| Field::new(name, DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), true);
    let entries = Fields::from(vec![
        Field::new("key", DataType::Utf8, false),
        Field::new("value", DataType::Int64, true),
    ]);
    let entries = Field::new("key_value", DataType::Struct(entries), false);
    let by_class = Field::new("errors_by_class", DataType::Map(Arc::new(entries), false), true);
    let mut fields = vec![
        text("app_id"),
        text("lineage"),
        text("kind"),
        text("run_id"),
        count("batch_id"),
        text("step"),
        text("provider"),
        moment("started_at"),
        moment("committed_at"),
        count("rows"),
        count("answers"),
        count("shared"),
        count("skipped"),
        count("errors"),
        by_class,
        count("prompt_tokens"),
        count("cached_tokens"),
        count("completion_tokens"),
        count("reasoning_tokens"),
        Field::new("cost_usd", DataType::Decimal128(COST.0, COST.1), true),
        count("latency_ms_p50"),
        count("latency_ms_p90"),
        count("latency_ms_p99"),
        count("latency_ms_max"),
        count("attempts"),
        count("requests"),
        count("throttled"),
    ];
    fields.extend(WAITS.map(|(_, name)| count(&waited(name))));
    fields.extend([share("requests_share"), share("tokens_share")]);
    Schema::new(fields)
}

fn waited(name: &str) -> String {
    format!("waited_{name}_ms")
}

/// Converts rows to the columns of a table that has at least those of [`schema`]. Its other columns become null.
pub(super) fn to_record_batch(figures: &[MetricsRow], table: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let columns = table.fields().iter().map(|field| {
        let column = column(figures, field);
        match column.data_type() == field.data_type() {
            true => Ok(column),
            false => cast(&column, field.data_type()),
        }
    });
    RecordBatch::try_new(Arc::clone(table), columns.collect::<Result<_, _>>()?)
}

fn column(all: &[MetricsRow], field: &Field) -> ArrayRef {
    let text = |get: &dyn Fn(&MetricsRow) -> Option<String>| -> ArrayRef {
        Arc::new(all.iter().map(get).collect::<StringArray>())
    };
    let count = |get: &dyn Fn(&MetricsRow) -> u64| -> ArrayRef {
        Arc::new(Int64Array::from_iter_values(all.iter().map(|row| to_i64(get(row)))))
    };
    let latency = |get: fn(LatencyQuantiles) -> u64| -> ArrayRef {
        Arc::new(all.iter().map(|row| row.latency.map(get).map(to_i64)).collect::<Int64Array>())
    };
    let moment = |get: fn(&MetricsRow) -> DateTime<Utc>| -> ArrayRef {
        let micros = all.iter().map(|row| get(row).timestamp_micros());
        Arc::new(TimestampMicrosecondArray::from_iter_values(micros).with_timezone("UTC"))
    };
    let share = |get: fn(&Load) -> Option<f64>| -> ArrayRef {
        Arc::new(all.iter().map(|row| get(&row.load)).collect::<Float64Array>())
    };
    match field.name().as_str() {
        "app_id" => text(&|row| Some(row.app_id.to_string())),
        "lineage" => text(&|row| Some(row.lineage.to_string())),
        "kind" => text(&|row| Some(row.kind.name().to_owned())),
        "run_id" => text(&|row| Some(row.run_id.to_string())),
        "batch_id" => count(&|row| row.batch_id.get()),
        "step" => text(&|row| Some(row.step.clone())),
        "provider" => text(&|row| row.provider.clone()),
        "started_at" => moment(|row| row.started_at),
        "committed_at" => moment(|row| row.committed_at),
        "rows" => count(&|row| row.rows),
        "answers" => count(&|row| row.answers),
        "shared" => count(&|row| row.shared),
        "skipped" => count(&|row| row.skipped),
        "errors" => count(&MetricsRow::error_count),
        "errors_by_class" => by_class(all, field),
        "prompt_tokens" => count(&|row| row.tokens.prompt),
        "cached_tokens" => count(&|row| row.tokens.cached),
        "completion_tokens" => count(&|row| row.tokens.completion),
        "reasoning_tokens" => count(&|row| row.tokens.reasoning),
        "cost_usd" => {
            let costs: Decimal128Array = all.iter().map(|row| row.cost.map(i128::from)).collect();
            let (precision, scale) = COST;
            Arc::new(costs.with_precision_and_scale(precision, scale).expect("twenty digits hold a u64"))
        }
        "latency_ms_p50" => latency(|latency| latency.p50),
        "latency_ms_p90" => latency(|latency| latency.p90),
        "latency_ms_p99" => latency(|latency| latency.p99),
        "latency_ms_max" => latency(|latency| latency.max),
        "attempts" => count(&|row| row.attempts),
        "requests" => count(&MetricsRow::requests),
        "throttled" => count(&|row| row.load.throttled),
        "requests_share" => share(|load| load.requests_share),
        "tokens_share" => share(|load| load.tokens_share),
        name => match WAITS.iter().position(|(_, wait)| waited(wait) == name) {
            Some(at) => count(&|row| row.load.waited_ms[at]),
            // A column that somebody else added to the table.
            None => arrow::array::new_null_array(field.data_type(), all.len()),
        },
    }
}

fn by_class(all: &[MetricsRow], field: &Field) -> ArrayRef {
    let DataType::Map(entries, _) = field.data_type() else {
        return arrow::array::new_null_array(field.data_type(), all.len());
    };
    let DataType::Struct(fields) = entries.data_type() else {
        return arrow::array::new_null_array(field.data_type(), all.len());
    };
    let lengths = all.iter().map(|row| row.errors.len());
    let pairs = || all.iter().flat_map(|row| &row.errors);
    let keys: StringArray = pairs().map(|(class, _)| Some(class)).collect();
    let values: Int64Array = pairs().map(|(_, count)| Some(to_i64(*count))).collect();
    let columns: Vec<ArrayRef> = vec![Arc::new(keys), Arc::new(values)];
    let pairs = StructArray::new(fields.clone(), columns, None);
    Arc::new(MapArray::new(Arc::clone(entries), OffsetBuffer::from_lengths(lengths), pairs, None, false))
}

fn to_i64(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Columns that every metrics table has. Others may be missing in a table that an earlier version created.
pub(super) const IDENTITY: [&str; 9] =
    ["app_id", "lineage", "kind", "run_id", "batch_id", "step", "provider", "started_at", "committed_at"];

/// Returns the columns of [`schema`] that a table lacks.
pub(super) fn missing_in(table: &Schema) -> Schema {
    let schema = schema();
    let missing = schema.fields().iter().filter(|field| table.field_with_name(field.name()).is_err());
    Schema::new(missing.cloned().collect::<Vec<_>>())
}

/// Returns the metrics in a batch of the table's rows. Columns that the table lacks count as null. `None` if a column
/// of [`IDENTITY`] is missing, or if a value that each row needs is null or cannot be read.
pub(super) fn from_rows(rows: &RecordBatch) -> Option<Vec<MetricsRow>> {
    let known = schema();
    let mut columns: BTreeMap<&str, ArrayRef> = BTreeMap::new();
    for field in known.fields() {
        let column = match rows.column_by_name(field.name()) {
            // Engines name the fields of a map differently, so it is not cast as a whole.
            Some(column) if matches!(field.data_type(), DataType::Map(..)) => Arc::clone(column),
            Some(column) => cast(column, field.data_type()).ok()?,
            None if IDENTITY.contains(&field.name().as_str()) => return None,
            None => new_null_array(field.data_type(), rows.num_rows()),
        };
        columns.insert(field.name(), column);
    }
    let mut figures = Vec::with_capacity(rows.num_rows());
    for at in 0..rows.num_rows() {
        let valid = |name: &str| columns.get(name).filter(|column| column.is_valid(at));
        let text = |name: &str| Some(valid(name)?.as_string::<i32>().value(at).to_owned());
        let number = |name: &str| {
            Some(u64::try_from(valid(name)?.as_primitive::<Int64Type>().value(at)).unwrap_or_default())
        };
        let count = |name: &str| number(name).unwrap_or_default();
        let moment = |name: &str| {
            let micros = valid(name)?.as_primitive::<TimestampMicrosecondType>().value(at);
            DateTime::from_timestamp_micros(micros)
        };
        let share = |name: &str| Some(valid(name)?.as_primitive::<Float64Type>().value(at));
        let cost = |name: &str| {
            Some(u64::try_from(valid(name)?.as_primitive::<Decimal128Type>().value(at)).unwrap_or_default())
        };
        let latency = || {
            Some(LatencyQuantiles {
                p50: number("latency_ms_p50")?,
                p90: number("latency_ms_p90")?,
                p99: number("latency_ms_p99")?,
                max: number("latency_ms_max")?,
            })
        };
        let errors = match valid("errors_by_class") {
            Some(map) => errors(&map.as_map_opt()?.value(at))?,
            None => BTreeMap::new(),
        };
        figures.push(MetricsRow {
            app_id: text("app_id")?.into(),
            lineage: text("lineage")?.parse::<Lineage>().ok()?,
            kind: if text("kind")? == RunKind::Retry.name() { RunKind::Retry } else { RunKind::Run },
            run_id: text("run_id")?.parse::<RunId>().ok()?,
            batch_id: BatchId::new(count("batch_id")),
            step: text("step")?,
            provider: text("provider"),
            started_at: moment("started_at")?,
            committed_at: moment("committed_at")?,
            rows: count("rows"),
            answers: count("answers"),
            shared: count("shared"),
            skipped: count("skipped"),
            errors,
            tokens: Tokens {
                prompt: count("prompt_tokens"),
                cached: count("cached_tokens"),
                completion: count("completion_tokens"),
                reasoning: count("reasoning_tokens"),
            },
            cost: cost("cost_usd"),
            latency: latency(),
            attempts: count("attempts"),
            lines: 0,
            load: Load {
                requests: count("requests"),
                throttled: count("throttled"),
                waited_ms: WAITS.map(|(_, name)| count(&waited(name))),
                requests_share: share("requests_share"),
                tokens_share: share("tokens_share"),
            },
            counters: 0,
        });
    }
    Some(figures)
}

fn errors(entries: &StructArray) -> Option<BTreeMap<String, u64>> {
    let keys = cast(entries.column(0), &DataType::Utf8).ok()?;
    let values = cast(entries.column(1), &DataType::Int64).ok()?;
    let keys = keys.as_string::<i32>().iter().flatten().map(ToOwned::to_owned);
    let values = values.as_primitive::<Int64Type>().values().iter().map(|count| count.cast_unsigned());
    Some(keys.zip(values).collect())
}
