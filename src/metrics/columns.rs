//! Conversion of metrics rows to the columns of the metrics table, and back.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Decimal128Array, Float64Array, Int64Array, MapArray, StringArray, StructArray,
    TimestampMicrosecondArray,
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

use super::row::{AskedKind, LatencyQuantiles, Load, MetricsRow, WAITS};
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
pub(super) fn to_rows(figures: &[MetricsRow], table: &SchemaRef) -> Result<RecordBatch, ArrowError> {
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
        Arc::new(Int64Array::from_iter_values(all.iter().map(|row| signed(get(row)))))
    };
    let latency = |get: fn(LatencyQuantiles) -> u64| -> ArrayRef {
        Arc::new(all.iter().map(|row| row.latency.map(get).map(signed)).collect::<Int64Array>())
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
        "requests" => count(&|row| row.load.requests),
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
    let values: Int64Array = pairs().map(|(_, count)| Some(signed(*count))).collect();
    let columns: Vec<ArrayRef> = vec![Arc::new(keys), Arc::new(values)];
    let pairs = StructArray::new(fields.clone(), columns, None);
    Arc::new(MapArray::new(Arc::clone(entries), OffsetBuffer::from_lengths(lengths), pairs, None, false))
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Converts rows of the table back. Returns `None` if a column other than a count is missing or cannot be converted, or
/// if an id, a name or a time is null or cannot be parsed. A missing count is 0.
pub(super) fn from_rows(rows: &RecordBatch) -> Option<Vec<MetricsRow>> {
    let as_type = |name: &str, to: &DataType| cast(rows.column_by_name(name)?, to).ok();
    let texts = |name: &str| as_type(name, &DataType::Utf8);
    let counts = |name: &str| as_type(name, &DataType::Int64);
    let shares = |name: &str| as_type(name, &DataType::Float64);
    let moments = |name: &str| as_type(name, &DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())));
    let text_columns = ["app_id", "lineage", "kind", "run_id", "step", "provider"].map(texts);
    let [Some(app_id), Some(lineage), Some(kind), Some(run_id), Some(step), Some(provider)] = &text_columns
    else {
        return None;
    };
    let count_columns = [
        "batch_id",
        "rows",
        "answers",
        "shared",
        "skipped",
        "prompt_tokens",
        "cached_tokens",
        "completion_tokens",
        "reasoning_tokens",
        "attempts",
        "requests",
        "throttled",
        "latency_ms_p50",
        "latency_ms_p90",
        "latency_ms_p99",
        "latency_ms_max",
    ]
    .map(counts);
    let waits = WAITS.map(|(_, name)| counts(&waited(name)));
    let (started_at, committed_at) = (moments("started_at")?, moments("committed_at")?);
    let costs = as_type("cost_usd", &DataType::Decimal128(COST.0, COST.1))?;
    let (requests_share, tokens_share) = (shares("requests_share")?, shares("tokens_share")?);
    let classes = rows.column_by_name("errors_by_class")?.as_map_opt()?;
    let mut figures = Vec::with_capacity(rows.num_rows());
    for at in 0..rows.num_rows() {
        let text = |column: &ArrayRef| {
            let column = column.as_string::<i32>();
            column.is_valid(at).then(|| column.value(at).to_owned())
        };
        let number = |column: &Option<ArrayRef>| {
            let column = column.as_ref()?.as_primitive::<Int64Type>();
            column.is_valid(at).then(|| u64::try_from(column.value(at)).unwrap_or_default())
        };
        let count = |place: usize| number(&count_columns[place]).unwrap_or_default();
        let moment = |column: &ArrayRef| {
            DateTime::from_timestamp_micros(column.as_primitive::<TimestampMicrosecondType>().value(at))
        };
        let share = |column: &ArrayRef| {
            let column = column.as_primitive::<Float64Type>();
            column.is_valid(at).then(|| column.value(at))
        };
        let cost = costs.as_primitive::<Decimal128Type>();
        let latency = || {
            let [p50, p90, p99, max] = [12, 13, 14, 15].map(|place| number(&count_columns[place]));
            Some(LatencyQuantiles { p50: p50?, p90: p90?, p99: p99?, max: max? })
        };
        let mut waited_ms = [0; WAITS.len()];
        for (place, column) in waited_ms.iter_mut().zip(&waits) {
            *place = number(column).unwrap_or_default();
        }
        figures.push(MetricsRow {
            app_id: text(app_id)?.into(),
            lineage: text(lineage)?.parse::<Lineage>().ok()?,
            kind: if text(kind)? == AskedKind::Retry.name() { AskedKind::Retry } else { AskedKind::Run },
            run_id: text(run_id)?.parse::<RunId>().ok()?,
            batch_id: BatchId::new(count(0)),
            step: text(step)?,
            provider: text(provider),
            started_at: moment(&started_at)?,
            committed_at: moment(&committed_at)?,
            rows: count(1),
            answers: count(2),
            shared: count(3),
            skipped: count(4),
            errors: errors(&classes.value(at))?,
            tokens: Tokens { prompt: count(5), cached: count(6), completion: count(7), reasoning: count(8) },
            cost: cost.is_valid(at).then(|| u64::try_from(cost.value(at)).unwrap_or_default()),
            latency: latency(),
            attempts: count(9),
            load: Load {
                requests: count(10),
                throttled: count(11),
                waited_ms,
                requests_share: share(&requests_share),
                tokens_share: share(&tokens_share),
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
